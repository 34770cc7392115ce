"""Sweeps over the neurons of any network, one after another: s_i ← s_i + h σ((offset + A s)_i).

In the rate form s is the state and the offset the bias. In the current form s begins at 0, the
offset is the state x, and x ← x + A s. Blocks of neurons: one product brings their z up to date,
then they move one by one, so that nearly all work is matrix products.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from .._network.model import CTRNN
from .._network.products import product
from .._util.types import Array, Float
from ._leapfrog import add
from .base import AbstractRetrace, Retraced

# Neurons moved one by one between two products: few enough to stay in the first cache.
_BLOCK = 4


class _Visits(NamedTuple):
    """The blocks of neurons that a substep moves, one after another."""

    start: Array  # (visits,): the first neuron of the block
    order: Array  # (visits, _BLOCK): which of its neurons is the next


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
        self.n, count = rnn.size, -(-rnn.size // _BLOCK)
        self.padding = count * _BLOCK - self.n
        self.A = rnn.weights.as_matrix()
        self.padded_A = jnp.pad(self.A, ((0, self.padding), (0, self.padding)))
        start, order = jnp.arange(count) * _BLOCK, jnp.tile(jnp.arange(_BLOCK), (count, 1))
        if there_and_back:  # one loop over both sweeps, not two: half the code to compile
            start, order = jnp.append(start, start[::-1]), jnp.append(order, order[:, ::-1], 0)
        self.visits = _Visits(start, order)
        self.bias: Any = None if rnn.bias is None else rnn.bias[:, None]
        # A bias of the current form is a flow of its own, around the sweep or before it.
        self.before = 0.5 if there_and_back else 1.0

    def step(
        self, x: Array, lost: Array | None, h: Array, biases: Array | None
    ) -> tuple[Array, Array | None]:
        """State and lost digits after one step."""
        if self.rnn.form == "rate" and lost is None:
            return self._substeps(x, None, biases, h), None
        return add(x, self._increment(x, biases, h), lost)

    def _increment(self, x: Array, biases: Array | None, h: Array) -> Array:
        """x1 - x: both forms as sweeps of s from 0, with z = offset + A s."""
        zero = jnp.zeros_like(x)
        if self.rnn.form == "rate":
            return self._substeps(zero, self.rnn.weights.matvec(x), biases, h)
        if biases is None and self.bias is None:
            s, x = self._pad(zero), self._pad(x)
            s = self._over_substeps(lambda s, h, _: self._substep(s, x, h), s, h, None)
            return product(self.A, s[: self.n])

        def substep(total, h, bias):
            bias = self.bias if bias is None else bias
            s = self._pad(x + total + self.before * h * bias)
            s = self._substep(self._pad(zero), s, h)
            return total + h * bias + product(self.A, s[: self.n])

        return self._over_substeps(substep, zero, h, biases)

    def _substeps(self, s: Array, offset: Array | None, biases: Array | None, h: Array) -> Array:
        """s with z = offset + bias + A s."""

        def substep(s, h, bias):
            bias = self.bias if bias is None else bias
            parts = [part for part in (offset, bias) if part is not None]
            whole = sum(parts[1:], start=parts[0]) if parts else None
            return self._substep(s, self._pad(whole), h)

        return self._over_substeps(substep, self._pad(s), h, biases)[: self.n]

    def _over_substeps(self, substep: Callable, state: Array, h: Array, biases: Array | None):
        if len(self.fractions) == 1:
            return substep(state, h, None if biases is None else biases[0])
        # A loop: compile time does not grow with the order.
        every = h * self.fractions, biases
        return lax.scan(lambda state, inputs: (substep(state, *inputs), None), state, every)[0]

    def _substep(self, s: Array, offset: Array | None, h: Array) -> Array:
        h = self._share(h)

        def visit(s, visit: _Visits):
            def neuron(state, i):
                z, moved = state
                move = h * self.rnn.activation(_row(z, i))
                column = lax.dynamic_slice_in_dim(within, i, 1, axis=1)
                return (z + column * move, _set_row(moved, _row(moved, i) + move, i)), None

            rows, within = self._rows(visit)
            state = self._preactivation(s, offset, rows, visit), _block(s, visit)
            (_, moved), _ = lax.scan(neuron, state, visit.order)
            return _set_block(s, moved, visit), None

        return lax.scan(visit, s, self.visits)[0]

    def _share(self, h: Array) -> Array:
        """Of a step, what one sweep of a substep makes."""
        return h / 2 if self.there_and_back else h

    def _rows(self, visit: _Visits) -> tuple[Array, Array]:
        """The block's rows of A, and their part inside the block."""
        rows = _block(self.padded_A, visit)
        return rows, lax.dynamic_slice_in_dim(rows, visit.start, _BLOCK, axis=1)

    def _preactivation(self, s: Array, offset: Array | None, rows: Array, visit: _Visits) -> Array:
        z = product(rows, s)
        return z if offset is None else z + _block(offset, visit)

    def _pad(self, x: Any) -> Any:
        return x if x is None else jnp.pad(x, ((0, self.padding), (0, 0)))

    def start(self, x: Array, x_bar: Array) -> _Back:
        """See `AbstractRetrace`."""
        parameters = eqx.filter(self.rnn.activation, eqx.is_inexact_array)
        gradient = _Gradient(
            A=jnp.zeros_like(self.padded_A),
            bias=None if self.bias is None else jnp.zeros_like(self.bias),
            activation=jax.tree.map(jnp.zeros_like, parameters),
            dt=jnp.zeros((), x.dtype),
        )
        return _Back(x, x_bar, gradient)

    def undo(
        self, back: _Back, dt: Array, biases: Array | None = None
    ) -> tuple[_Back, Array | None]:
        """See `AbstractRetrace`. One product for z, one for its cotangent, one for the weights."""

        def substep(back, inputs):
            h, given = inputs
            bias = self.bias if given is None else given
            undo = self._subback_rate if self.rnn.form == "rate" else self._subback_current
            back, bias_bar = undo(back, bias, h, dt)
            if bias_bar is not None and bias_bar.shape != bias.shape:  # one for all states
                bias_bar = jnp.sum(bias_bar, 1, keepdims=True)
            if given is not None or bias_bar is None:
                return back, bias_bar
            gradient = back.gradient._replace(bias=back.gradient.bias + bias_bar)
            return back._replace(gradient=gradient), None

        if len(self.fractions) == 1:
            back, bar = substep(back, (dt, None if biases is None else biases[0]))
            return back, None if bar is None else bar[None]
        return lax.scan(substep, back, (dt * self.fractions, biases), reverse=True)

    def _subback_rate(
        self, back: _Back, bias: Array | None, h: Array, dt: Array
    ) -> tuple[_Back, Array | None]:
        x, x_bar, gradient, z_bar = self._undo(back.x, back.x_bar, bias, h, dt, back.gradient)
        return _Back(x, x_bar, gradient), None if bias is None else z_bar

    def _subback_current(
        self, back: _Back, bias: Array | None, h: Array, dt: Array
    ) -> tuple[_Back, Array | None]:
        # With s counted from the end of the substep, z = x + A s there too.
        (x, x_bar, gradient), late_bar = self._undo_drift(back, bias, (1 - self.before) * h, dt)
        s_bar = -product(self.A, x_bar)  # Aᵀ = -A
        s, _, gradient, z_bar = self._undo(jnp.zeros_like(x), s_bar, x, h, dt, gradient)
        x = x + product(self.A, s)
        x_bar = x_bar + z_bar
        A_bar = gradient.A.at[: self.n, : self.n].add(-product(x_bar, s.T))
        gradient = gradient._replace(A=A_bar)
        back, early_bar = self._undo_drift(_Back(x, x_bar, gradient), bias, self.before * h, dt)
        return back, None if bias is None else late_bar + early_bar

    def _undo_drift(
        self, back: _Back, bias: Array | None, h: Array, dt: Array
    ) -> tuple[_Back, Any]:
        if bias is None:
            return back, None
        bias_bar = h * back.x_bar
        dt_bar = back.gradient.dt + jnp.sum(bias_bar * bias) / dt
        gradient = back.gradient._replace(dt=dt_bar)
        return back._replace(x=back.x - h * bias, gradient=gradient), bias_bar

    def _undo(
        self, s: Array, s_bar: Array, offset: Array | None, h: Array, dt: Array, gradient: _Gradient
    ) -> tuple[Array, Array, _Gradient, Float[Array, "n batch"]]:
        """s and its cotangent before a substep, and the cotangent of z, summed over its sweeps."""
        parameters, static = eqx.partition(self.rnn.activation, eqx.is_inexact_array)
        s, s_bar, offset = self._pad(s), self._pad(s_bar), self._pad(offset)
        h = self._share(h)

        def visit(state, visit: _Visits):
            s, s_bar, power, parameters_bar = state

            def neuron(state, i):
                z, bar, moves, z_bars, power, parameters_bar = state
                velocity, pull = jax.vjp(
                    lambda parameters, z: eqx.combine(parameters, static)(z), parameters, _row(z, i)
                )
                more, z_bar = pull(h * _row(bar, i))
                move = h * velocity
                column = _row(within, i).T  # a column of A is minus a row
                power = power + _row(bar, i) * move
                return (
                    z + column * move,
                    bar + column * z_bar,
                    _set_row(moves, move, i),
                    _set_row(z_bars, z_bar, i),
                    power,
                    jax.tree.map(jnp.add, parameters_bar, more),
                ), None

            rows, within = self._rows(visit)
            z, bar = self._preactivation(s, offset, rows, visit), _block(s_bar, visit)
            none = jnp.zeros_like(z)
            state, _ = lax.scan(
                neuron, (z, bar, none, none, power, parameters_bar), visit.order, reverse=True
            )
            _, bar, moves, z_bars, power, parameters_bar = state
            s = _set_block(s, _block(s, visit) - moves, visit)
            columns = lax.dynamic_slice_in_dim(self.padded_A, visit.start, _BLOCK, axis=1)
            # Aᵀ = -A; inside the block it was done above.
            s_bar = _set_block(s_bar - product(columns, z_bars), bar, visit)
            return (s, s_bar, power, parameters_bar), (moves, z_bars)

        state = s, s_bar, jnp.zeros_like(s[:1]), gradient.activation
        (s, s_bar, power, parameters_bar), found = lax.scan(visit, state, self.visits, reverse=True)
        moves, z_bars = (self._sweeps(each) for each in found)
        z_bar = jnp.sum(z_bars, 0)
        # z saw the neurons of one side after their moves of this sweep, those of the other before:
        # below the diagonal both sweeps saw the state in their middle.
        middle = s + moves[0]
        A_bar = jnp.tril(product(z_bar, middle.T))
        for each, seen in zip(z_bars, (s, middle + moves[-1]), strict=False):
            A_bar = A_bar + jnp.triu(product(each, seen.T))
        gradient = gradient._replace(
            A=gradient.A + A_bar,
            activation=parameters_bar,
            dt=gradient.dt + jnp.sum(power) / dt,
        )
        return s[: self.n], s_bar[: self.n], gradient, z_bar[: self.n]

    def _sweeps(self, visited: Array) -> Array:
        """What visits found, (visits, _BLOCK, batch), by sweeps and neurons: (sweeps, n, batch)."""
        sweeps = jnp.split(visited, 2 if self.there_and_back else 1)
        if self.there_and_back:
            sweeps[1] = sweeps[1][::-1]
        return jnp.stack(sweeps).reshape(len(sweeps), -1, visited.shape[-1])

    def correct(self, back: _Back, x: Array) -> _Back:
        """See `AbstractRetrace`."""
        return back._replace(x=x)

    def add_cotangent(self, back: _Back, x_bar: Array) -> _Back:
        """See `AbstractRetrace`."""
        return back._replace(x_bar=back.x_bar + x_bar)

    def finish(self, back: _Back, dt: Array) -> Retraced:
        """See `AbstractRetrace`."""
        parameters, static = eqx.partition(self.rnn, eqx.is_inexact_array)
        _, pull = jax.vjp(lambda p: eqx.combine(p, static).weights.as_matrix(), parameters)
        (rnn_bar,) = pull(back.gradient.A[: self.n, : self.n])
        bars = [back.gradient.activation]
        where = [lambda rnn: rnn.activation]
        if self.bias is not None:
            bars.append(back.gradient.bias[:, 0])
            where.append(lambda rnn: rnn.bias)
        rnn_bar = eqx.tree_at(lambda rnn: [w(rnn) for w in where], rnn_bar, bars)
        return Retraced(back.x, back.x_bar, rnn_bar, back.gradient.dt)


def _row(x: Array, i: Array) -> Array:
    return lax.dynamic_slice_in_dim(x, i, 1)


def _set_row(x: Array, row: Array, i: Array) -> Array:
    return lax.dynamic_update_slice_in_dim(x, row, i, 0)


def _block(x: Array, visit: _Visits) -> Array:
    return lax.dynamic_slice_in_dim(x, visit.start, _BLOCK)


def _set_block(x: Array, block: Array, visit: _Visits) -> Array:
    return lax.dynamic_update_slice_in_dim(x, block, visit.start, 0)
