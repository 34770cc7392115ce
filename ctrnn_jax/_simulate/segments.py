"""How a run is cut into segments, and the bookkeeping that both loops share.

A segment is the unit of checkpointing, of the check for diverged trajectories and of progress.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jax import lax

from .._util.types import Array, Bool, Int, PyTree, Scalar, State


class Carry(NamedTuple):
    """What a run hands on from step to step. Trajectories are columns of x."""

    x: State
    solver: PyTree
    fold: PyTree
    step: Int[Array, ""]
    stopped_at: Int[Array, " batch"]
    unconverged_at: Int[Array, " batch"]


class Segment(NamedTuple):
    """`blocks` times `steps` steps; the state after each block is saved where `keep` is set."""

    blocks: int
    steps: int
    keep: bool


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


# Runs one segment and returns the saved states, (blocks, n, batch), or None.
RunSegment = Callable[[Carry, Segment], tuple[Carry, Array | None]]


def run_segments(
    run: RunSegment,
    store: Callable[[PyTree, Any, Int[Array, " saves"], Array], PyTree],
    carry: Carry,
    out: PyTree,
    num_steps: int,
    save_every: int,
    segment_steps: int,
    progress: Progress,
) -> tuple[Carry, PyTree, PyTree]:
    """All steps in segments of about `segment_steps`.

    `store(out, index, steps, states)` writes states (saves, n, batch) into `out`, of which they are
    the saves from `index` on, made after `steps`. The output is handed on rather than joined
    at the end: to write it once takes half the time. It never enters a segment, which in reverse
    mode keeps all that it is given.

    Returns the carry, the output, and the state of the progress meter.
    """
    num_saves = num_steps // save_every

    def advance(state, segment: Segment):
        carry, meter_state = state
        carry, states = run(carry, segment)
        done = carry.step.astype(carry.x.dtype) / num_steps
        return (carry, progress.step(meter_state, done)), states

    def stored(out, index, carry: Carry, states):
        count = states.shape[0]
        ahead = save_every * jnp.arange(1 - count, 1, dtype=carry.step.dtype)
        return store(out, index, carry.step + ahead, states)

    def repeat(body, state, indices: range):
        if len(indices) == 1:  # no loop around a single segment
            return body(state, indices[0])
        every = jnp.arange(indices.start, indices.stop, indices.step, dtype=jnp.int32)
        return lax.scan(lambda state, index: (body(state, index), None), state, every)[0]

    def some_saves(saves: int):
        def body(state, index):
            state, out = state
            state, states = advance(state, Segment(saves, save_every, keep=True))
            return state, stored(out, index, state[0], states)

        return body

    def one_save(state, index):
        state, out = state
        for times, steps in ((whole, length), (1, rest)):
            if times and steps:
                segment = Segment(1, steps, keep=False)
                state = repeat(lambda s, _, g=segment: advance(s, g)[0], state, range(times))
        return state, stored(out, index, state[0], state[0].x[None])

    state = (carry, progress.state), out
    if save_every <= segment_steps:
        each = near_divisor(num_saves, segment_steps // save_every)
        last = num_saves % each
        if num_saves >= each:
            state = repeat(some_saves(each), state, range(0, num_saves - last, each))
        if last:
            state = some_saves(last)(state, num_saves - last)
    else:
        length = near_divisor(save_every, segment_steps)
        whole, rest = divmod(save_every, length)
        state = repeat(one_save, state, range(num_saves))
    (carry, meter_state), out = state
    return carry, out, meter_state


def write(whole: Array, part: Array, *at: Any) -> Array:
    """`whole` with `part` in it, from the index `at` of the first axes on, where nothing was yet.

    That nothing was there spares derivatives a copy of `whole`, to be cleared at that place.
    """
    differentiable = jnp.issubdtype(whole.dtype, jnp.inexact)
    first = jnp.stack([jnp.asarray(i, jnp.int32) for i in at])
    return (_written if differentiable else _overwritten)(whole, part, first)


def _overwritten(whole: Array, part: Array, first: Int[Array, " axes"]) -> Array:
    zero = jnp.zeros((), jnp.int32)
    return lax.dynamic_update_slice(whole, part, [*first, *[zero] * (whole.ndim - len(first))])


_written = jax.custom_jvp(_overwritten)


@_written.defjvp
def _written_jvp(primals, tangents):
    (_, _, first), (whole_dot, part_dot, _) = primals, tangents
    window = tuple(range(part_dot.ndim))
    numbers = lax.ScatterDimensionNumbers(window, (), tuple(range(len(first))))
    added = lax.scatter_add(
        whole_dot, first, part_dot, numbers, unique_indices=True, mode="promise_in_bounds"
    )
    return _overwritten(*primals), added


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
