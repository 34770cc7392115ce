"""Explicit Poisson integrators: the flows of single neurons, composed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from .. import _checks
from .._types import Array, Float, matmul_precision
from ..model import CTRNN
from ..weights import BipartiteSkew, BlockSkew
from ._common import AbstractNetworkSolver, conservative_network_of
from .compositions import COMPOSITIONS

ORDERS = (1, *COMPOSITIONS)

# Neurons swept one by one between two matrix products: few enough to stay in the first cache.
_BLOCK = 4

# sweep(s, h, reverse): one flow after another, each neuron seeing the newest values of the others.
Sweep = Callable[[Array, Array, bool], Array]


class PoissonSplitting(AbstractNetworkSolver):
    r"""Coordinate splitting: the energy error stays bounded for exponentially long times.

    The energy is a sum over neurons, and the flow of each summand is explicit. In the rate form
    it is x_i ← x_i + h σ((A x + b)_i), one neuron after another (Gauss-Seidel instead of Jacobi).
    One sweep is a Poisson map of order 1; a sweep of h/2 forward and one backward are symmetric,
    reversible and of order 2; compositions of these reach orders 4 and 6. In the current form the
    same sweep runs on s, with z = x + A s, and x ← x + A s.

    The structure of the weights is used: `BipartiteSkew` and `BlockSkew` run as leapfrog, all
    neurons of a group at once; other weights are swept in small blocks, so that nearly all work is
    matrix products: an order-2 step costs two of them.

    Args:
        order: 1, 2, 4 or 6: one, two, ten or eighteen sweeps a step.
        compensated: sums up the states with Kahan's compensation, so that rounding does not grow
            with the number of steps: in float32 for more than about 10⁵ steps.

    Raises:
        ValueError: for another order, and when used on a network that conserves nothing.
        TypeError: when the term is not an `ODETerm` of a CTRNN.

    Source:
        Hairer, Lubich, Wanner, Geometric Numerical Integration, sections II.5 and VII.4;
        McLachlan and Quispel, "Splitting methods", Acta Numerica 2002.

    Example:
        >>> ct.simulate(rnn, x0, dt=0.05, num_steps=10**6, save_every=10**4,
        ...             solver=ct.PoissonSplitting())
    """

    order_: int = eqx.field(static=True)
    compensated: bool = eqx.field(static=True)

    def __init__(self, order: int = 2, compensated: bool = False):
        if order not in ORDERS:
            _checks.fail("order", "1, 2, 4 or 6", repr(order))
        self.order_ = int(order)
        self.compensated = _checks.flag("compensated", compensated)

    def order(self, terms):
        """1, 2, 4 or 6."""
        return self.order_

    def init(self, terms, t0, t1, y0, args):
        """What rounding has cut off so far, if it is compensated."""
        conservative_network_of(terms, self)
        return jnp.zeros_like(y0) if self.compensated else None

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        """One step from t0 to t1."""
        rnn = conservative_network_of(terms, self)
        h = terms.contr(t0, t1)
        x = y0 if y0.ndim == 2 else y0[:, None]
        if rnn.form == "rate" and not self.compensated:
            bias = None if rnn.bias is None else rnn.bias[:, None]
            y1 = self._substeps(_sweep(rnn, bias), x, h).reshape(y0.shape)
        else:
            increment = self._increment(rnn, x, h).reshape(y0.shape)
            y1 = y0 + increment
            if self.compensated:
                increment = increment - solver_state
                y1 = y0 + increment
                solver_state = (y1 - y0) - increment
        dense_info = self._dense_info(terms, t0, t1, y0, y1, args, h)
        return y1, None, dense_info, solver_state, diffrax.RESULTS.successful

    def _increment(self, rnn: CTRNN, x: Float[Array, "n batch"], h: Array) -> Array:
        """x1 - x: both forms as sweeps of s from 0, with z = offset + A s."""
        if rnn.form == "rate":
            return self._substeps(_sweep(rnn, rnn.preactivation(x)), jnp.zeros_like(x), h)
        if rnn.bias is None:
            s = self._substeps(_sweep(rnn, x), jnp.zeros_like(x), h)
            return rnn.weights.matvec(s)
        # A bias adds a constant velocity, a flow of its own, half before and half after a sweep.
        total = jnp.zeros_like(x)
        for fraction in self._fractions():
            drift = fraction * h * rnn.bias[:, None]
            before = drift if self.order_ == 1 else drift / 2
            offset = x + total + before
            s = self._substep(_sweep(rnn, offset), jnp.zeros_like(x), fraction * h)
            total = total + drift + rnn.weights.matvec(s)
        return total

    def _fractions(self) -> tuple[float, ...]:
        return (1.0,) if self.order_ == 1 else COMPOSITIONS[self.order_]

    def _substeps(self, sweep: Sweep, s: Array, h: Array) -> Array:
        fractions = self._fractions()
        if len(fractions) == 1:
            return self._substep(sweep, s, h)
        # A loop, so that compile time does not grow with the order.
        steps = h * jnp.asarray(fractions, s.dtype)
        return lax.scan(lambda s, part: (self._substep(sweep, s, part), None), s, steps)[0]

    def _substep(self, sweep: Sweep, s: Array, h: Array) -> Array:
        if self.order_ == 1:
            return sweep(s, h, False)
        return sweep(sweep(s, h / 2, False), h / 2, True)


def _sweep(rnn: CTRNN, offset: Array | None) -> Sweep:
    """The sweep s_i ← s_i + h σ((offset + A s)_i) over all neurons, by the weights' structure."""
    if isinstance(rnn.weights, BipartiteSkew | BlockSkew):
        return _two_group_sweep(rnn, offset)
    return _dense_sweep(rnn, offset)


def _product(a: Array, s: Array) -> Array:
    return jnp.matmul(a, s, precision=matmul_precision())


def _two_group_sweep(rnn: CTRNN, offset: Array | None) -> Sweep:
    """Neurons of one group do not see each other: each group moves at once."""
    weights, sigma = rnn.weights, rnn.activation
    if isinstance(weights, BipartiteSkew):
        first: Any = slice(0, weights.B.shape[0])
        second: Any = slice(weights.B.shape[0], weights.size)
        to_first = lambda s: _product(weights.B, s)  # noqa: E731
        to_second = lambda s: -_product(weights.B.T, s)  # noqa: E731
    else:
        assert isinstance(weights, BlockSkew)
        omega = weights.omega[:, None]
        first, second = slice(0, None, 2), slice(1, None, 2)
        to_first, to_second = lambda s: omega * s, lambda s: -omega * s

    def part(z, group):
        return z if offset is None else z + offset[group]

    def sweep(s, h, reverse):
        p, q = s[first], s[second]
        if reverse:
            q = q + h * sigma(part(to_second(p), second))
        p = p + h * sigma(part(to_first(q), first))
        if not reverse:
            q = q + h * sigma(part(to_second(p), second))
        if isinstance(weights, BlockSkew):
            return jnp.stack([p, q], axis=1).reshape(s.shape)
        return jnp.concatenate([p, q])

    return sweep


def _dense_sweep(rnn: CTRNN, offset: Array | None) -> Sweep:
    """Blocks of neurons: a product brings their z up to date, then they move one by one."""
    n, sigma = rnn.size, rnn.activation
    blocks = -(-n // _BLOCK)
    padding = blocks * _BLOCK - n
    A = jnp.pad(rnn.weights.as_matrix(), ((0, padding), (0, padding)))
    starts = _BLOCK * jnp.arange(blocks)
    members = jnp.arange(_BLOCK)
    if offset is not None:
        offset = jnp.pad(offset, ((0, padding), (0, 0)))

    def sweep(s, h, reverse):
        def block(s, start):
            rows = lax.dynamic_slice_in_dim(A, start, _BLOCK)
            within = lax.dynamic_slice_in_dim(rows, start, _BLOCK, axis=1)
            z = _product(rows, s)
            if offset is not None:
                z = z + lax.dynamic_slice_in_dim(offset, start, _BLOCK)

            def neuron(z, member):
                i, column = member
                move = h * sigma(lax.dynamic_slice_in_dim(z, i, 1))
                return z + column[:, None] * move, move[0]

            _, moves = lax.scan(neuron, z, (members, within.T), reverse=reverse)
            moved = lax.dynamic_slice_in_dim(s, start, _BLOCK) + moves
            return lax.dynamic_update_slice_in_dim(s, moved, start, 0), None

        padded = jnp.pad(s, ((0, padding), (0, 0)))
        swept = lax.scan(block, padded, starts, reverse=reverse)[0]
        return swept[:n]

    return sweep
