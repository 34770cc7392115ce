"""States as rows, n arrays (batch,), and products with A written out: for devices that launch.

A kernel of a GPU costs microseconds to launch, whatever it does. Written out, the products of a
small network are sums of a few rows, which XLA puts into one kernel with all that is done with
them, several steps in one; a product of arrays is a kernel of its own.
"""

from __future__ import annotations

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from .._util.types import Array, Float, Scalar, State
from .model import CTRNN
from .products import product


@jax.tree_util.register_pytree_node_class
class Rows(tuple):
    """A state, row by row, with the arithmetic that an explicit method needs."""

    def tree_flatten(self) -> tuple[tuple[Any, ...], None]:
        return tuple(self), None

    @classmethod
    def tree_unflatten(cls, _: None, children: Any) -> Rows:
        return cls(children)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self[0].dtype

    def __add__(self, other: Any) -> Rows:  # pyright: ignore[reportIncompatibleMethodOverride]
        return Rows(map(operator.add, self, other))

    def __mul__(self, factor: Any) -> Rows:  # pyright: ignore[reportIncompatibleMethodOverride]
        return Rows(row * factor for row in self)

    def __rmul__(self, factor: Any) -> Rows:  # pyright: ignore[reportIncompatibleMethodOverride]
        return Rows(factor * row for row in self)

    def __truediv__(self, factor: Any) -> Rows:
        return Rows(row / factor for row in self)


def rows_of(x: State) -> Rows:
    """x (n, batch) as n rows."""
    return Rows(jnp.squeeze(row, 0) for row in jnp.split(x, len(x)))


def has_rows(rnn: CTRNN) -> bool:
    """Whether x' can be told row by row: by the equation of `CTRNN`, and the same σ for each."""
    if rnn.has_own_equation:
        return False
    row = jax.ShapeDtypeStruct((3,), rnn.dtype)
    try:
        return jax.eval_shape(rnn.activation, row).shape == row.shape
    except (TypeError, ValueError):  # a σ with parameters for each neuron takes all of them only
        return False


def field(rnn: CTRNN, x: Rows, u: Any = None) -> Rows:
    """x' by the equation of `CTRNN`; u: (m,), or (m, batch)."""
    activation, bias = rnn.activation, rnn.bias_with(u)
    seen = x if rnn.form == "rate" else Rows(map(activation, x))
    velocity = products(rnn.weights.as_matrix(), seen)
    if bias is not None:
        velocity = velocity + bias
    if rnn.form == "rate":
        velocity = Rows(map(activation, velocity))
    if rnn.leak is None:
        return velocity
    leak = jnp.broadcast_to(rnn.leak, (rnn.size,))
    return Rows(v - c * row for v, c, row in zip(velocity, leak, x, strict=True))


def products(A: Float[Array, "m n"], x: Rows) -> Rows:
    """A x, written out."""
    return Rows(_products(A, tuple(x)))


def entries(A: Float[Array, "m n"]) -> list[list[Scalar]]:
    """The numbers of A, row by row."""
    n = A.shape[1]
    numbers = [a.reshape(()) for a in jnp.split(A.reshape(-1), A.size)]
    return [numbers[i : i + n] for i in range(0, len(numbers), n)]


@jax.custom_jvp
def _products(A: Float[Array, "m n"], x: tuple[Array, ...]) -> tuple[Array, ...]:
    # Derivatives by A are a product of arrays: a sum over the batch for each of its numbers would
    # be as many kernels.
    def of_row(row):
        first, *rest = [a * b for a, b in zip(row, x, strict=True)]
        return sum(rest, start=first)

    return tuple(map(of_row, entries(A)))


def _products_jvp(primals, tangents):
    (A, x), (dA, dx) = primals, tangents
    none = [isinstance(d, SymbolicZero) for d in dx]
    dx = tuple(jnp.zeros_like(a) if no else d for a, d, no in zip(x, dx, none, strict=True))
    out = Rows(_products(A, dx))
    if not isinstance(dA, SymbolicZero):
        out = out + rows_of(product(dA, jnp.stack(x)))
    return _products(A, x), tuple(out)


_products.defjvp(_products_jvp, symbolic_zeros=True)
