"""Reverse mode that undoes the steps instead of storing them.

Undoing a step in floating point is exact to rounding, and a chaotic network magnifies rounding
e-fold every 1/λ: left alone, the way back would get lost. So the forward run stores
its state at the start of every segment, some thousand steps apart, and the way back through a
segment begins at the stored end of it and is compared with the stored start. Where the two do not
agree, the segment is run again forwards from its start, storing a state every few steps, and undone
along those, so that the gradient holds whatever the network does. Of long runs only every so many
segments' start is stored, and the others are found by running forwards once more: m segments take
the memory of about 3√m states. A bit-exact reversal on a fixed-point grid would need none of them,
but its trajectories would be others than those of the plain steps, and it would rest on forward and
backward programs being compiled to the same rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from .._network.model import CTRNN
from .._util.types import Array, Bool, Int, PyTree, Scalar, State, any_at_all
from ..solvers.base import Declarations, Retraced
from .drive import Drive, in_parts
from .fixed import fixed_segments
from .output import write
from .segments import Advance, Carry, Progress, Segment, run_segments

# Steps between two stored states: many, for the memory of long runs; few, for chaotic networks to
# be retraced. At a Lyapunov exponent of 0.1/s and steps of 0.05 s rounding grows by e^6.
_SEGMENT_STEPS = 1250
# At most so many steps between the states along which a segment is undone once it got lost.
_SPAN_STEPS = 32
# From so many segments on not all starts are stored: to find them takes a fifth of the time.
_MANY_SEGMENTS = 64


def reversible_segment_steps(num_steps: int) -> int:
    """Steps between two states that are stored in the forward run."""
    segments = num_steps // _SEGMENT_STEPS
    together = 1 if segments < _MANY_SEGMENTS else math.isqrt(segments)
    return min(num_steps, together * _SEGMENT_STEPS)


def agrees(x: State, start: State) -> Bool[Array, " batch"]:
    """Which trajectories came back to where they had started, but for some hundred roundings."""
    # Gradients inherit the error of the states, enlarged: 1e-12 here was 1e-8 there.
    tolerance = 512 * float(jnp.finfo(x.dtype).eps)
    distance = jnp.max(jnp.abs(x - start), axis=0)
    # Not for non-finite states: there running again says what is to be said.
    return distance <= tolerance * jnp.max(jnp.abs(start), axis=0)


def reversible_segments(solver: Declarations, rnn: CTRNN, dt: Scalar, drive: Drive) -> Advance:
    """How a segment is run with steps of `dt`, and undone in reverse mode."""
    advance = _undone_segments(solver, rnn, dt, drive)

    def one_after_another(carry: Carry, segment: Segment):
        def store(saves, index, steps, states):
            return write(saves, states, index) if segment.save else None

        saves = (
            jnp.zeros((segment.intervals, *carry.x.shape), carry.x.dtype) if segment.save else None
        )
        total = segment.intervals * segment.steps
        progress = Progress(diffrax.NoProgressMeter(), None, jnp.zeros(()), 0.0)
        carry, saves, _ = run_segments(
            advance,
            carry,
            saves,
            store=store,
            num_steps=total,
            save_every=segment.steps,
            segment_steps=_SEGMENT_STEPS,
            progress=progress,
        )
        return carry, saves

    def either(carry: Carry, segment: Segment):
        if segment.intervals * segment.steps <= 2 * _SEGMENT_STEPS:  # see near_divisor
            return advance(carry, segment)
        return jax.checkpoint(one_after_another, static_argnums=1, prevent_cse=False)(
            carry, segment
        )

    return either


def _undone_segments(solver: Declarations, rnn: CTRNN, dt: Scalar, drive: Drive) -> Advance:
    arrays, static = eqx.partition(rnn, eqx.is_array)
    parameters, integers = eqx.partition(arrays, eqx.is_inexact_array)

    def forward(parameters, integers, dt, drive: Drive, carry: Carry, segment: Segment):
        rnn = eqx.combine(parameters, integers, static)
        _, step = solver.begin(rnn, dt, carry.x, drive.at_start(dt))
        return fixed_segments(step, dt, drive)(carry, segment)

    undone = partial(jax.custom_vjp, nondiff_argnums=(5,))(forward)

    def store(parameters, integers, dt, drive, carry, segment):
        end, saves = forward(parameters, integers, dt, drive, carry, segment)
        return (end, saves), (parameters, integers, dt, drive, carry.step, carry.x, end.x)

    def pull_back(segment: Segment, residuals, bars):
        parameters, integers, dt, drive, k, start, end = residuals
        end_bar, saves_bar = bars
        rnn = eqx.combine(parameters, integers, static)
        way = _WayBack(solver, rnn, dt, drive, k, segment)
        pulled = way(end, end_bar.x, saves_bar, known=None)
        pulled = lax.cond(
            any_at_all(~agrees(pulled.found.x, start)),
            lambda _: way(end, end_bar.x, saves_bar, known=way.states_from(start)),
            lambda pulled: pulled,
            pulled,
        )
        rnn_bar, dt_bar, drive_bar = way.cotangents(pulled)
        nothing = dict.fromkeys(Carry._fields)
        return rnn_bar, None, dt_bar, drive_bar, Carry(**{**nothing, "x": pulled.found.x_bar})

    undone.defvjp(store, pull_back)
    return lambda carry, segment: undone(parameters, integers, dt, drive, carry, segment)


class _Seen(NamedTuple):
    """What an input depends on that is the same in all steps; or the cotangents of that."""

    bias: Array | None
    input_weights: Array | None
    path: list[Array] | None
    dt: Scalar


class _Pulled(NamedTuple):
    """What a way back came to."""

    found: Retraced
    seen: _Seen | None
    held: Array | None  # cotangents of the inputs held through the steps


class _WayBack(NamedTuple):
    """The way back through a segment that begins after step k."""

    solver: Declarations
    rnn: CTRNN
    dt: Scalar
    drive: Drive
    k: Int[Array, ""]
    segment: Segment

    @property
    def span(self) -> int:
        """Steps between two states along which a lost segment is undone."""
        return max(d for d in range(1, _SPAN_STEPS + 1) if self.segment.steps % d == 0)

    def held(self, drive: Drive) -> Array | None:
        """The inputs held through the steps of the segment."""
        return drive.held(self.k, self.segment.intervals * self.segment.steps)

    def states_from(self, x: State) -> Array:
        """The states after every `span` steps of the segment: (intervals, spans, n, batch)."""
        # What the solver remembers follows from x, but for lost digits: less to store.
        solver_state, step = self.solver.begin(self.rnn, self.dt, x, self.drive.at_start(self.dt))

        def one_step(state, held):
            x, solver_state, k = state
            u = self.drive.during(k, held, self.dt)
            x, solver_state, _ = step(x, solver_state, k, u)
            return (x, solver_state, k + 1), None

        def one_span(state, held):
            state, _ = lax.scan(one_step, state, held, length=self.span)
            return state, state[0]

        intervals, steps = self.segment.intervals, self.segment.steps
        spans = intervals * steps // self.span
        each = in_parts(self.held(self.drive), spans)
        _, states = lax.scan(one_span, (x, solver_state, self.k), each, length=spans)
        return states.reshape(intervals, -1, *states.shape[1:])

    def __call__(
        self, end: State, end_bar: State, saves_bar: Array | None, known: Array | None
    ) -> _Pulled:
        """From the end of the segment to its start.

        `known` states, see `states_from`, replace those that are reached, where they stand.
        """
        way, segment = self.solver.retrace(self.rnn), self.segment
        seen = self.seen if self.drive.kind else None

        def one_step(state, held):
            back, seen_bar, k = state
            k = k - 1
            if seen is None:
                return (way.undo(back, self.dt)[0], None, k), None
            biases, pull = jax.vjp(partial(self.biases, k), seen, held)
            back, biases_bar = way.undo(back, self.dt, biases)
            more, held_bar = pull(biases_bar)
            return (back, jax.tree.map(jnp.add, seen_bar, more), k), held_bar

        def one_span(state, inputs):
            known, held = inputs
            if known is not None:
                state = way.correct(state[0], known), *state[1:]
            length = segment.steps if known is None else self.span
            return lax.scan(one_step, state, held, length=length, reverse=True)

        def interval(state, inputs):
            known, held, save_bar = inputs
            if save_bar is not None:
                state = way.add_cotangent(state[0], save_bar), *state[1:]
            if known is None:
                return one_span(state, (None, held))
            each = known, in_parts(held, len(known))
            return lax.scan(one_span, state, each, reverse=True)

        state = (
            way.start(end, end_bar),
            jax.tree.map(jnp.zeros_like, seen),
            self.k + segment.intervals * segment.steps,
        )
        held = self.held(self.drive)
        each = known, in_parts(held, segment.intervals), saves_bar
        (back, seen_bar, _), held_bar = lax.scan(
            interval, state, each, length=segment.intervals, reverse=True
        )
        if held_bar is not None and held is not None:
            held_bar = held_bar.reshape(held.shape)
        return _Pulled(way.finish(back, self.dt), seen_bar, held_bar)

    @property
    def seen(self) -> _Seen:
        """What the inputs of this segment depend on."""
        path = None if self.drive.path is None else self.drive.path.values
        return _Seen(self.rnn.bias, self.rnn.input_weights, path, self.dt)

    def biases(self, k: Array, seen: _Seen, held: Array | None) -> PyTree:
        """What step k sees of the input."""
        rnn = _with(lambda rnn: (rnn.bias, rnn.input_weights), self.rnn, seen[:2])
        drive = self.drive
        if seen.path is not None:
            drive = _with(lambda drive: drive.path.values, drive, seen.path)
        u = drive.during(k, held, seen.dt)
        assert u is not None
        return self.solver.biases(rnn, u)

    def cotangents(self, pulled: _Pulled) -> tuple[Any, Array, Any]:
        """Of the network's arrays, of dt, and of the drive."""
        found, seen, drive_bar = pulled.found, pulled.seen, None
        if seen is None:
            return found.rnn_bar, found.dt_bar, None
        rnn_bar = found.rnn_bar
        gathered = rnn_bar.bias, rnn_bar.input_weights
        gathered = tuple(jax.tree.map(jnp.add, gathered, seen[:2]))
        rnn_bar = _with(lambda rnn: (rnn.bias, rnn.input_weights), rnn_bar, gathered)
        if pulled.held is not None:
            _, pull = jax.vjp(self.held, self.drive)
            (drive_bar,) = pull(pulled.held)
        elif seen.path is not None:
            path = _with(lambda path: path.values, self.drive.path, seen.path)
            drive_bar = Drive(None, None, None, self.drive.columns, path)  # pyright: ignore
        return rnn_bar, found.dt_bar + seen.dt, drive_bar


def _with(where: Callable, tree: PyTree, values: PyTree) -> PyTree:
    """The tree with other values there, of which some may be None."""
    return eqx.tree_at(where, tree, values, is_leaf=lambda leaf: leaf is None)
