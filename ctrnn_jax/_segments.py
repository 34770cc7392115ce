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

from ._types import Array, Bool, Int, PyTree, Scalar, State


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
    emit: Callable[[Int[Array, " blocks"], Any], PyTree],
    carry: Carry,
    num_steps: int,
    save_every: int,
    segment_steps: int,
    progress: Progress,
) -> tuple[Carry, PyTree, PyTree]:
    """All steps in segments of about `segment_steps`; `emit(steps, states)` makes the output.

    Returns the carry, the output, and the state of the progress meter.
    """
    num_saves = num_steps // save_every

    def with_progress(segment: Segment):
        def body(state, _):
            carry, meter_state = state
            first = carry.step
            carry, saves = run(carry, segment)
            meter_state = progress.step(meter_state, carry.step.astype(carry.x.dtype) / num_steps)
            out = None
            if segment.keep:
                steps = first + segment.steps * jnp.arange(1, segment.blocks + 1, dtype=first.dtype)
                out = emit(steps, saves)
            return (carry, meter_state), out

        return body

    def repeat(body, state, times: int):
        if times == 1:  # no loop around a single segment: it would cost a copy of the output
            state, out = body(state, None)
            return state, jax.tree.map(lambda leaf: leaf[None], out)
        return lax.scan(body, state, None, length=times)

    def joined(parts: list):
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)

    state = (carry, progress.state)
    outputs = []
    if save_every <= segment_steps:
        saves_each = near_divisor(num_saves, segment_steps // save_every)
        whole, rest = divmod(num_saves, saves_each)
        for times, saves in ((whole, saves_each), (1, rest)):
            if times and saves:
                body = with_progress(Segment(saves, save_every, keep=True))
                state, out = repeat(body, state, times)
                outputs.append(jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), out))
    else:
        length = near_divisor(save_every, segment_steps)
        whole, rest = divmod(save_every, length)

        def one_save(state, _):
            for times, steps in ((whole, length), (1, rest)):
                if times and steps:
                    body = with_progress(Segment(1, steps, keep=False))
                    state, _ = repeat(body, state, times)
            carry, _ = state
            return state, emit(carry.step[None], carry.x[None])

        state, out = repeat(one_save, state, num_saves)
        outputs.append(jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), out))
    carry, meter_state = state
    return carry, joined(outputs) if outputs else None, meter_state


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
