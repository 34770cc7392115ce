"""Sweeps over the neurons of any network, one after another: s_i ← s_i + h σ((offset + A s)_i).

In the rate form s is the state and the offset the bias. In the current form s begins at 0, the
offset is the state x, and x ← x + A s. Blocks of neurons: one product brings their z up to date,
then they move one by one, so that nearly all work is matrix products.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from .._types import Array, Float, matmul_precision
from ..model import CTRNN
from ._common import AbstractRetrace, Retraced
from ._leapfrog import add

# Neurons moved one by one between two products: few enough to stay in the first cache.
_BLOCK = 4


class _Blocks(NamedTuple):
    """What a sweep reads of each block of neurons, padded to whole blocks."""

    start: Array  # (blocks,)
    rows: Array  # (blocks, _BLOCK, n): rows of A
    within: Array  # (blocks, _BLOCK, _BLOCK): their part inside the block


class _Gradient(NamedTuple):
    """Cotangents that gather on the way back."""

    A: Array
    bias: Any
    activation: Any
    dt: Array


class _Back(NamedTuple):
    x: Array
    x_bar: Array
    gradient: _Gradient


class Sweep(AbstractRetrace):
    """Substeps of one sweep there, or of half a sweep there and half a sweep back."""

    def __init__(self, rnn: CTRNN, fractions: Array, there_and_back: bool):
        self.rnn, self.fractions, self.there_and_back = rnn, fractions, there_and_back
        n = rnn.size
        self.n, count = n, -(-n // _BLOCK)
        self.padding = count * _BLOCK - n
        A = rnn.weights.as_matrix()
        padded = jnp.pad(A, ((0, self.padding), (0, self.padding)))
        rows = padded.reshape(count, _BLOCK, -1)
        blocks = jnp.arange(count)
        within = rows.reshape(count, _BLOCK, count, _BLOCK)[blocks, :, blocks]
        self.A, self.blocks = A, _Blocks(_BLOCK * blocks, rows, within)
        self.bias: Any = None if rnn.bias is None else rnn.bias[:, None]
        # A bias of the current form is a flow of its own, around the sweep or before it.
        self.drift = rnn.bias is not None and rnn.form == "current"
        self.before = 0.5 if there_and_back else 1.0

    def step(self, x: Array, lost: Array | None, h: Array) -> tuple[Array, Array | None]:
        """State and lost digits after one step."""
        if self.rnn.form == "rate" and lost is None:
            return self._substeps(x, self.bias, h), None
        return add(x, self._increment(x, h), lost)

    def _increment(self, x: Array, h: Array) -> Array:
        """x1 - x: both forms as sweeps of s from 0, with z = offset + A s."""
        zero = jnp.zeros_like(x)
        if self.rnn.form == "rate":
            return self._substeps(zero, self.rnn.preactivation(x), h)
        if not self.drift:
            return self._product(self.A, self._substeps(zero, x, h))

        def substep(total, h):
            s = self._substep(self._pad(zero), self._pad(x + total + self._drifted(h)), h)
            return total + h * self.bias + self._product(self.A, s[: self.n]), None

        return lax.scan(substep, zero, h * self.fractions)[0]

    def _drifted(self, h: Array) -> Array | float:
        return self.before * h * self.bias if self.drift else 0.0

    def _substeps(self, s: Array, offset: Array | None, h: Array) -> Array:
        s, offset = self._pad(s), self._pad(offset)
        if len(self.fractions) == 1:
            s = self._substep(s, offset, h)
        else:  # a loop: compile time does not grow with the order
            s, _ = lax.scan(lambda s, h: (self._substep(s, offset, h), None), s, h * self.fractions)
        return s[: self.n]

    def _substep(self, s: Array, offset: Array | None, h: Array) -> Array:
        if not self.there_and_back:
            return self._sweep(s, offset, h, reverse=False)
        return self._sweep(
            self._sweep(s, offset, h / 2, reverse=False), offset, h / 2, reverse=True
        )

    def _sweep(self, s: Array, offset: Array | None, h: Array, reverse: bool) -> Array:
        def block(s, block: _Blocks):
            def neuron(z, member):
                i, column = member
                move = h * self.rnn.activation(lax.dynamic_slice_in_dim(z, i, 1))
                return z + column[:, None] * move, move[0]

            z = self._preactivation(s, offset, block)
            _, moves = lax.scan(neuron, z, (jnp.arange(_BLOCK), block.within.T), reverse=reverse)
            moved = lax.dynamic_slice_in_dim(s, block.start, _BLOCK) + moves
            return lax.dynamic_update_slice_in_dim(s, moved, block.start, 0), None

        return lax.scan(block, s, self.blocks, reverse=reverse)[0]

    def _preactivation(self, s: Array, offset: Array | None, block: _Blocks) -> Array:
        z = self._product(block.rows, s)
        if offset is None:
            return z
        return z + lax.dynamic_slice_in_dim(offset, block.start, _BLOCK)

    def _pad(self, x: Any) -> Any:
        return x if x is None else jnp.pad(x, ((0, self.padding), (0, 0)))

    @staticmethod
    def _product(a: Array, b: Array) -> Array:
        return jnp.matmul(a, b, precision=matmul_precision())

    def turn(self, x: Array, x_bar: Array) -> _Back:
        """See `AbstractRetrace`."""
        parameters = eqx.filter(self.rnn.activation, eqx.is_inexact_array)
        gradient = _Gradient(
            A=jnp.zeros_like(self.A),
            bias=None if self.bias is None else jnp.zeros_like(self.bias),
            activation=jax.tree.map(jnp.zeros_like, parameters),
            dt=jnp.zeros((), x.dtype),
        )
        return _Back(x, x_bar, gradient)

    def back(self, back: _Back, dt: Array) -> _Back:
        """See `AbstractRetrace`. One product for z, one for its cotangent, one for the weights."""
        subback = self._subback_rate if self.rnn.form == "rate" else self._subback_current
        if len(self.fractions) == 1:
            return subback(back, dt, dt)
        return lax.scan(
            lambda back, h: (subback(back, h, dt), None), back, dt * self.fractions[::-1]
        )[0]

    def _subback_rate(self, back: _Back, h: Array, dt: Array) -> _Back:
        x, x_bar, gradient, z_bar = self._undo(back.x, back.x_bar, self.bias, h, dt, back.gradient)
        if gradient.bias is not None:
            gradient = gradient._replace(bias=gradient.bias + jnp.sum(z_bar, 1, keepdims=True))
        return _Back(x, x_bar, gradient)

    def _subback_current(self, back: _Back, h: Array, dt: Array) -> _Back:
        # With s counted from the end of the substep, z = x + A s there too.
        x, x_bar, gradient = self._undo_drift(*back, (1 - self.before) * h, dt)
        s_bar = -self._product(self.A, x_bar)  # Aᵀ = -A
        s, _, gradient, z_bar = self._undo(jnp.zeros_like(x), s_bar, x, h, dt, gradient)
        x = x + self._product(self.A, s)
        x_bar = x_bar + z_bar
        gradient = gradient._replace(A=gradient.A - self._product(x_bar, s.T))
        return _Back(*self._undo_drift(x, x_bar, gradient, self.before * h, dt))

    def _undo_drift(self, x: Array, x_bar: Array, gradient: _Gradient, h: Array, dt: Array):
        if not self.drift:
            return x, x_bar, gradient
        bias_bar = h * jnp.sum(x_bar, 1, keepdims=True)
        gradient = gradient._replace(
            bias=gradient.bias + bias_bar, dt=gradient.dt + jnp.sum(bias_bar * self.bias) / dt
        )
        return x - h * self.bias, x_bar, gradient

    def _undo(
        self, s: Array, s_bar: Array, offset: Array | None, h: Array, dt: Array, gradient: _Gradient
    ) -> tuple[Array, Array, _Gradient, Float[Array, "n batch"]]:
        """s and its cotangent before a substep, and the cotangent of z, summed over its sweeps."""
        state, offset = (self._pad(s), self._pad(s_bar), gradient), self._pad(offset)
        if self.there_and_back:
            state, second = self._unsweep(*state, offset, h / 2, dt, reverse=True)
            state, first = self._unsweep(*state, offset, h / 2, dt, reverse=False)
            z_bar = first + second
        else:
            state, z_bar = self._unsweep(*state, offset, h, dt, reverse=False)
        s, s_bar, gradient = state
        return s[: self.n], s_bar[: self.n], gradient, z_bar[: self.n]

    def _unsweep(self, s, s_bar, gradient: _Gradient, offset, h, dt, reverse: bool):
        """Undoes the sweep that `_sweep(..., reverse)` made."""
        parameters, static = eqx.partition(self.rnn.activation, eqx.is_inexact_array)
        order = jnp.arange(_BLOCK)
        # [i, j]: whether the sweep moves neuron j before neuron i.
        earlier = (
            (order[None, :] > order[:, None]) if reverse else (order[None, :] < order[:, None])
        )

        def block(state, block: _Blocks):
            s, s_bar, parameters_bar, dt_bar = state

            def neuron(state, member):
                z, s_bar, parameters_bar = state
                i, row = member
                velocity, pull = jax.vjp(
                    lambda parameters, z: eqx.combine(parameters, static)(z),
                    parameters,
                    lax.dynamic_slice_in_dim(z, i, 1),
                )
                own = h * lax.dynamic_slice_in_dim(s_bar, i, 1)
                more, z_bar = pull(own)
                row = row[:, None]
                z = z + row * (h * velocity)  # a column of A is minus a row
                state = z, s_bar + row * z_bar, jax.tree.map(jnp.add, parameters_bar, more)
                return state, (velocity[0], own[0], z_bar[0])

            z = self._preactivation(s, offset, block)
            inside = lax.dynamic_slice_in_dim(s_bar, block.start, _BLOCK)
            (_, inside, parameters_bar), (velocity, own, z_bar) = lax.scan(
                neuron, (z, inside, parameters_bar), (order, block.within), reverse=not reverse
            )
            moves = h * velocity
            dt_bar = dt_bar + jnp.sum(own * velocity) / dt
            moved = lax.dynamic_slice_in_dim(s, block.start, _BLOCK) - moves
            s = lax.dynamic_update_slice_in_dim(s, moved, block.start, 0)
            # A column block of A is minus a row block, transposed; inside, it was done above.
            s_bar = s_bar + self._product(block.rows.T, z_bar)
            s_bar = lax.dynamic_update_slice_in_dim(s_bar, inside, block.start, 0)
            rows_bar = self._product(z_bar, s.T)
            # s is the state before the moves; neurons moved earlier were seen after theirs.
            seen = self._product(z_bar, moves.T)
            within_bar = lax.dynamic_slice_in_dim(rows_bar, block.start, _BLOCK, axis=1)
            within_bar = within_bar + jnp.where(earlier, seen, 0)
            rows_bar = lax.dynamic_update_slice_in_dim(rows_bar, within_bar, block.start, 1)
            return (s, s_bar, parameters_bar, dt_bar), (rows_bar, z_bar)

        state = s, s_bar, gradient.activation, gradient.dt
        state, (rows_bar, z_bar) = lax.scan(block, state, self.blocks, reverse=not reverse)
        s, s_bar, parameters_bar, dt_bar = state
        A_bar = rows_bar.reshape(-1, self.n + self.padding)[: self.n, : self.n]
        gradient = gradient._replace(A=gradient.A + A_bar, activation=parameters_bar, dt=dt_bar)
        return (s, s_bar, gradient), z_bar.reshape(-1, s.shape[1])

    def anchor(self, back: _Back, x: Array) -> _Back:
        """See `AbstractRetrace`."""
        return back._replace(x=x)

    def meet(self, back: _Back, x_bar: Array) -> _Back:
        """See `AbstractRetrace`."""
        return back._replace(x_bar=back.x_bar + x_bar)

    def arrive(self, back: _Back, dt: Array) -> Retraced:
        """See `AbstractRetrace`."""
        parameters, static = eqx.partition(self.rnn, eqx.is_inexact_array)
        _, pull = jax.vjp(lambda p: eqx.combine(p, static).weights.as_matrix(), parameters)
        (rnn_bar,) = pull(back.gradient.A)
        bars = [back.gradient.activation]
        where = [lambda rnn: rnn.activation]
        if self.bias is not None:
            bars.append(back.gradient.bias[:, 0])
            where.append(lambda rnn: rnn.bias)
        rnn_bar = eqx.tree_at(lambda rnn: [w(rnn) for w in where], rnn_bar, bars)
        return Retraced(back.x, back.x_bar, rnn_bar, back.gradient.dt)
