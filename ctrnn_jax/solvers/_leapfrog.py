"""Leapfrog: networks of two groups without coupling inside a group, in both forms.

One group, a, has a velocity that depends on the other, b, alone, and the other way round:

==========  =========  ===============  =========  =================
form        a          velocity of a    b          velocity of b
==========  =========  ===============  =========  =================
rate        first      σ(B b + b_a)     second     σ(-Bᵀ a + b_b)
current     second     -Bᵀ σ(b) + b_a   first      B σ(a) + b_b
==========  =========  ===============  =========  =================

so each group moves at once, along an exact flow. A substep moves a by αh, b by h, a by βh; the
velocity of a at its end begins the next one, which leaves two half-size products a substep. With
an input the velocity is another one in the next substep: three products.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from .._network.model import CTRNN
from .._network.products import AbstractTwoGroups
from .._util.types import Array
from .base import AbstractRetrace, Retraced


class _Parts(NamedTuple):
    """The groups, the velocity of a, and what rounding has cut off (None: not compensated)."""

    a: Array
    b: Array
    velocity: Array | None
    lost: tuple[Array, Array] | None


class _Back(NamedTuple):
    """On the way back: the groups and their cotangents.

    The velocity of a is wanted once where two substeps meet: `coefficient` times it is still to
    be taken from a, and `pending` is the cotangent that it has gathered so far.
    """

    a: Array
    b: Array
    a_bar: Array
    b_bar: Array
    coefficient: Array
    pending: Array
    rnn_bar: Any
    dt_bar: Array


class Leapfrog(AbstractRetrace):
    """Substeps of the fractions `first`, 1, `last` for a, b, a."""

    def __init__(self, rnn: CTRNN, fractions: Array, first: float, last: float):
        self.arrays, self.static = eqx.partition(rnn, eqx.is_inexact_array)
        self.fractions, self.first, self.last = fractions, first, last
        assert isinstance(rnn.weights, AbstractTwoGroups)
        self.weights, self.rate = rnn.weights, rnn.form == "rate"

    def velocity_at(self, x: Array) -> Array:
        """The velocity of a, with which a step begins."""
        return self._velocity_of_a(self.arrays, self._split(x)[1], None)

    def step(
        self, x: Array, velocity: Array | None, lost: Array | None, h: Array, biases: Array | None
    ):
        """State, velocity of a and lost digits after one step; no velocity with an input."""
        a, b = self._split(x)
        parts = _Parts(a, b, velocity, None if lost is None else self._split(lost))
        if len(self.fractions) == 1:
            parts = self._substep(parts, h, None if biases is None else biases[0])
        else:  # a loop: compile time does not grow with the order
            parts, _ = lax.scan(
                lambda parts, inputs: (self._substep(parts, *inputs), None),
                parts,
                (h * self.fractions, biases),
            )
        lost = None if parts.lost is None else self._join(*parts.lost)
        return self._join(parts.a, parts.b), parts.velocity, lost

    def _substep(self, parts: _Parts, h: Array, bias: Array | None) -> _Parts:
        a, b, velocity, lost = parts
        lost_a, lost_b = (None, None) if lost is None else lost
        if velocity is None:
            velocity = self._velocity_of_a(self.arrays, b, bias)
        a, lost_a = add(a, self.first * h * velocity, lost_a)
        b, lost_b = add(b, h * self._velocity_of_b(self.arrays, a, bias), lost_b)
        velocity = self._velocity_of_a(self.arrays, b, bias)
        if self.last:
            a, lost_a = add(a, self.last * h * velocity, lost_a)
        lost = None if lost_a is None or lost_b is None else (lost_a, lost_b)
        return _Parts(a, b, None if parts.velocity is None else velocity, lost)

    def start(self, x: Array, x_bar: Array) -> _Back:
        """See `AbstractRetrace`."""
        (a, b), (a_bar, b_bar) = self._split(x), self._split(x_bar)
        zero = jnp.zeros((), x.dtype)
        rnn_bar = jax.tree.map(jnp.zeros_like, self.arrays)
        return _Back(a, b, a_bar, b_bar, zero, jnp.zeros_like(a), rnn_bar, zero)

    def undo(
        self, back: _Back, dt: Array, biases: Array | None = None
    ) -> tuple[_Back, Array | None]:
        """See `AbstractRetrace`. Products for the velocity, its cotangent and the weights."""
        if len(self.fractions) == 1:
            bias = None if biases is None else biases[0]
            back, bar = self._subback(back, dt, dt, bias)
            return back, None if bar is None else bar[None]
        return lax.scan(
            lambda back, inputs: self._subback(back, inputs[0], dt, inputs[1]),
            back,
            (dt * self.fractions, biases),
            reverse=True,
        )

    def _subback(
        self, back: _Back, h: Array, dt: Array, bias: Array | None
    ) -> tuple[_Back, Array | None]:
        back, last_bar = self._undo_a(back, self.last * h, dt, bias)
        velocity, pull = jax.vjp(self._velocity_of_b, self.arrays, back.a, bias)
        velocity_bar = h * back.b_bar
        rnn_bar, a_bar, bias_bar = pull(velocity_bar)
        a_bar = back.a_bar + a_bar
        back = back._replace(
            b=back.b - h * velocity,
            a_bar=a_bar,
            coefficient=self.first * h,
            pending=self.first * h * a_bar,
            rnn_bar=jax.tree.map(jnp.add, back.rnn_bar, rnn_bar),
            dt_bar=back.dt_bar + jnp.sum(velocity_bar * velocity) / dt,
        )
        if bias is None:
            return back, None
        back, first_bar = self._undo_a(back, 0.0, dt, bias)  # not the velocity of the next substep
        return back, last_bar + bias_bar + first_bar

    def _undo_a(
        self, back: _Back, more: Array | float, dt: Array, bias: Array | None
    ) -> tuple[_Back, Any]:
        velocity, pull = jax.vjp(self._velocity_of_a, self.arrays, back.b, bias)
        velocity_bar = back.pending + more * back.a_bar
        rnn_bar, b_bar, bias_bar = pull(velocity_bar)
        return back._replace(
            a=back.a - (back.coefficient + more) * velocity,
            b_bar=back.b_bar + b_bar,
            coefficient=jnp.zeros_like(back.coefficient),
            pending=jnp.zeros_like(back.pending),
            rnn_bar=jax.tree.map(jnp.add, back.rnn_bar, rnn_bar),
            dt_bar=back.dt_bar + jnp.sum(velocity_bar * velocity) / dt,
        ), bias_bar

    def correct(self, back: _Back, x: Array) -> _Back:
        """See `AbstractRetrace`."""
        a, b = self._split(x)
        return back._replace(a=a, b=b, coefficient=jnp.zeros_like(back.coefficient))

    def add_cotangent(self, back: _Back, x_bar: Array) -> _Back:
        """See `AbstractRetrace`."""
        a_bar, b_bar = self._split(x_bar)
        return back._replace(a_bar=back.a_bar + a_bar, b_bar=back.b_bar + b_bar)

    def finish(self, back: _Back, dt: Array) -> Retraced:
        """See `AbstractRetrace`."""
        back, _ = self._undo_a(back, 0.0, dt, None)
        x, x_bar = self._join(back.a, back.b), self._join(back.a_bar, back.b_bar)
        return Retraced(x, x_bar, back.rnn_bar, back.dt_bar)

    def _velocity_of_a(self, arrays: Any, b: Array, bias: Array | None) -> Array:
        return self._velocity(arrays, b, bias, to_first=self.rate)

    def _velocity_of_b(self, arrays: Any, a: Array, bias: Array | None) -> Array:
        return self._velocity(arrays, a, bias, to_first=not self.rate)

    def _velocity(self, arrays: Any, other: Array, bias: Array | None, to_first: bool) -> Array:
        """The velocity of the first or second group, given the other; the own bias unless given."""
        rnn: CTRNN = eqx.combine(arrays, self.static)
        weights = rnn.weights
        assert isinstance(weights, AbstractTwoGroups)
        seen = other if self.rate else rnn.activation(other)
        z = weights.to_first(seen) if to_first else weights.to_second(seen)
        if bias is None and rnn.bias is not None:
            bias = rnn.bias[:, None]
        if bias is not None:
            z = z + weights.split(bias)[0 if to_first else 1]
        return rnn.activation(z) if self.rate else z

    def _split(self, x: Array) -> tuple[Array, Array]:
        first, second = self.weights.split(x)
        return (first, second) if self.rate else (second, first)

    def _join(self, a: Array, b: Array) -> Array:
        return self.weights.join(a, b) if self.rate else self.weights.join(b, a)


def add(x: Array, move: Array, lost: Array | None) -> tuple[Array, Array | None]:
    """x + move, and what rounding has cut off, to be made up for the next time (Kahan 1965)."""
    if lost is None:
        return x + move, None
    move = move - lost
    total = x + move
    return total, (total - x) - move
