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
from functools import partial

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from .._network.model import CTRNN
from .._util.types import Array, Bool, Scalar, State, any_at_all
from ..solvers.base import Declarations, Retraced
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


def reversible_segments(solver: Declarations, rnn: CTRNN, dt: Scalar) -> Advance:
    """How a segment is run with steps of `dt`, and undone in reverse mode."""
    advance = _undone_segments(solver, rnn, dt)

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


def _undone_segments(solver: Declarations, rnn: CTRNN, dt: Scalar) -> Advance:
    parameters, static = eqx.partition(rnn, eqx.is_inexact_array)

    def stepper(parameters, dt, x):
        return solver.begin(eqx.combine(parameters, static), dt, x)

    def forward(parameters, dt, carry: Carry, segment: Segment):
        _, step = stepper(parameters, dt, carry.x)
        return fixed_segments(step, dt, checkpoint=False)(carry, segment)

    def states_within(parameters, dt, x: State, segment: Segment, span: int):
        """The states after every `span` steps of the segment: (intervals, spans, n, batch)."""
        # What the solver remembers follows from x, but for lost digits: less to store.
        solver_state, step = stepper(parameters, dt, x)

        def one_step(state, _):
            x, solver_state, k = state
            x, solver_state, _ = step(x, solver_state, k)
            return (x, solver_state, k + 1), None

        def one_span(state, _):
            state, _ = lax.scan(one_step, state, None, length=span)
            return state, state[0]

        spans = segment.intervals * (segment.steps // span)
        zero = jnp.zeros((), jnp.int32)  # the network does not know the time
        _, states = lax.scan(one_span, (x, solver_state, zero), None, length=spans)
        return states.reshape(segment.intervals, -1, *states.shape[1:])

    undone = partial(jax.custom_vjp, nondiff_argnums=(3,))(forward)

    def store(parameters, dt, carry, segment):
        end, saves = forward(parameters, dt, carry, segment)
        return (end, saves), (parameters, dt, carry.x, end.x)

    def pull_back(segment: Segment, residuals, bars):
        parameters, dt, start, end = residuals
        end_bar, saves_bar = bars
        way = solver.retrace(eqx.combine(parameters, static))
        span = max(d for d in range(1, _SPAN_STEPS + 1) if segment.steps % d == 0)

        def retrace(known: Array | None) -> Retraced:
            def one_span(back, known):
                if known is not None:
                    back = way.correct(back, known)
                length = segment.steps if known is None else span
                back, _ = lax.scan(lambda b, _: (way.undo(b, dt), None), back, None, length=length)
                return back, None

            def interval(back, inputs):
                known, save_bar = inputs
                if save_bar is not None:
                    back = way.add_cotangent(back, save_bar)
                if known is None:
                    return one_span(back, None)
                return lax.scan(one_span, back, known, reverse=True)

            back, _ = lax.scan(
                interval,
                way.start(end, end_bar.x),
                (known, saves_bar),
                length=segment.intervals,
                reverse=True,
            )
            return way.finish(back, dt)

        reached = retrace(None)
        reached = lax.cond(
            any_at_all(~agrees(reached.x, start)),
            lambda _: retrace(states_within(parameters, dt, start, segment, span)),
            lambda reached: reached,
            reached,
        )
        nothing = dict.fromkeys(Carry._fields)
        return reached.rnn_bar, reached.dt_bar, Carry(**{**nothing, "x": reached.x_bar})

    undone.defvjp(store, pull_back)
    return lambda carry, segment: undone(parameters, dt, carry, segment)
