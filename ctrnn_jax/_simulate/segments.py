"""How a run is cut into segments, and the bookkeeping that both loops share.

A segment is the unit of progress and of the check for diverged trajectories; where several states
of it are saved, of checkpointing, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jax import lax

from .._util.types import Array, Bool, Int, PyTree, Scalar


class Carry(NamedTuple):
    """What a run hands on from step to step. Trajectories are columns of x.

    Within the loop over steps x may be `Rows`.
    """

    x: Any
    solver: PyTree
    fold: PyTree
    step: Int[Array, ""]
    stopped_at: Int[Array, " batch"]
    unconverged_at: Int[Array, " batch"]


class Segment(NamedTuple):
    """`intervals` times `steps` steps; the state after each interval is saved where `save` says.

    `done` intervals more are made: the run goes on within the segment.
    """

    intervals: int
    steps: int
    save: bool
    done: int = 0


class Progress(NamedTuple):
    """A meter and its state; this part of the run begins where `start` of all is done."""

    meter: diffrax.AbstractProgressMeter
    state: PyTree
    start: Scalar
    share: float

    def step(self, state: PyTree, done: Scalar) -> PyTree:
        """The state of the meter once `done` of this part is."""
        if isinstance(self.meter, diffrax.NoProgressMeter):
            return state
        return self.meter.step(state, lax.stop_gradient(self.start + self.share * done))


# Makes the steps of one segment; the saved states are (intervals, n, batch), or None.
Advance = Callable[[Carry, Segment], tuple[Carry, Array | None]]


def run_segments(
    advance: Advance,
    carry: Carry,
    saves: PyTree,
    *,
    store: Callable[[PyTree, Any, Int[Array, " saves"], Array], PyTree],
    num_steps: int,
    save_every: int,
    segment_steps: int,
    progress: Progress,
    saves_each: tuple[int, int] | None = None,
) -> tuple[Carry, PyTree, PyTree]:
    """All steps in segments of about `segment_steps`.

    Or of just as many saves as `saves_each` says, and how many of the first segment are made.

    `store(saves, index, steps, states)` writes states (saves, n, batch) into `saves`, of which they
    are those from `index` on, made after `steps`. The saves are handed on rather than joined
    at the end: to write them once takes half the time. They never enter a segment, which in reverse
    mode keeps all that it is given.

    Returns the carry, the saves, and the state of the progress meter.
    """
    num_saves, start = num_steps // save_every, carry.step

    def make(state, segment: Segment):
        carry, meter_state = state
        carry, states = advance(carry, segment)
        done = (carry.step - start).astype(carry.x.dtype) / num_steps
        return (carry, progress.step(meter_state, done)), states

    def stored(saves, index, carry: Carry, states):
        count = states.shape[0]
        ahead = save_every * jnp.arange(1 - count, 1, dtype=carry.step.dtype)
        return store(saves, index, carry.step + ahead, states)

    def repeat(body, state, indices: range):
        if len(indices) == 1:  # no loop around a single segment
            return body(state, indices[0])
        every = jnp.arange(indices.start, indices.stop, indices.step, dtype=jnp.int32)
        return lax.scan(lambda state, index: (body(state, index), None), state, every)[0]

    def some_saves(count: int, done: int = 0):
        def body(state, index):
            state, saves = state
            state, states = make(state, Segment(count, save_every, save=True, done=done))
            return state, stored(saves, index, state[0], states)

        return body

    def one_save(state, index):
        state, saves = state
        for times, steps in ((whole, length), (1, rest)):
            if times and steps:
                segment = Segment(1, steps, save=False)
                state = repeat(lambda s, _, g=segment: make(s, g)[0], state, range(times))
        return state, stored(saves, index, state[0], state[0].x[None])

    state = (carry, progress.state), saves
    if saves_each is not None or save_every <= segment_steps:
        each, done = saves_each or (near_divisor(num_saves, segment_steps // save_every), 0)
        first = min(each - done, num_saves) if done else 0
        last = (num_saves - first) % each
        if first:
            state = some_saves(first, done)(state, 0)
        if num_saves - first >= each:
            state = repeat(some_saves(each), state, range(first, num_saves - last, each))
        if last:
            state = some_saves(last)(state, num_saves - last)
    else:
        length = near_divisor(save_every, segment_steps)
        whole, rest = divmod(save_every, length)
        state = repeat(one_save, state, range(num_saves))
    (carry, meter_state), saves = state
    return carry, saves, meter_state


def near_divisor(total: int, target: int) -> int:
    """A divisor of `total` within a factor 2 of `target`, else `target`: no odd last segment."""
    target = max(1, min(target, total))
    for distance in range(target):
        for candidate in (target + distance, target - distance):
            if target / 2 <= candidate <= 2 * target and total % candidate == 0:
                return candidate
    return target


def square_root_segment(num_steps: int) -> int:
    """Segment length that balances checkpoints against the steps between two of them."""
    return max(1, math.isqrt(num_steps))


def choose(lanes: Bool[Array, " batch"], new: Carry, old: Carry) -> Carry:
    """`new` for the chosen trajectories, `old` for the others; the solver state stays `new`'s."""

    def columns(a, b):
        return jnp.where(lanes, a, b)

    def rows(a, b):
        return jnp.where(lanes.reshape(lanes.shape + (1,) * (a.ndim - 1)), a, b)

    return Carry(
        x=columns(new.x, old.x),
        solver=new.solver,
        fold=jax.tree.map(rows, new.fold, old.fold),
        step=new.step,
        stopped_at=columns(new.stopped_at, old.stopped_at),
        unconverged_at=columns(new.unconverged_at, old.unconverged_at),
    )
