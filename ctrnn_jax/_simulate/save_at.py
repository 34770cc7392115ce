"""States at any times, and at recurring events: steps to the side, from saves on the grid.

The run saves every few steps; from the save before a time the steps up to it are made once more,
and a last one that fits. The run itself goes on along its grid.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .._util.types import Array, Bool, Float, Int, Scalar, State
from ..solvers._foreign import adapted
from ..solvers.base import time_at
from .between import fitting, input_during, network_from
from .drive import Batch, Drive
from .located import Happened, at_once, located, lone
from .output import Saves
from .problem import Plan, Problem

# Saves on the grid for each time: so many that steps made again are a quarter of the run.
_SAVES_EACH = 4


def save_every_for(num_steps: int, times: int, most: int) -> int:
    """Steps from save to save on the grid, at most so many: a divisor of all."""
    most = max(1, min(most, num_steps // (_SAVES_EACH * times)))
    return next(d for d in range(most, 0, -1) if num_steps % d == 0)


class _Place(NamedTuple):
    """A time on the grid of steps.

    Attributes:
        row: of the trajectory; None where it is the time of all.
        save: the save before it.
        steps: whole steps from there on.
        fraction: of one more step, where it lies between two.
    """

    row: Int[Array, ""] | None
    save: Int[Array, ""]
    steps: Int[Array, ""]
    fraction: Scalar | None = None


class _OnGrid(NamedTuple):
    """The last point of the grid before a place.

    Attributes:
        drive: the inputs from there on.
        k: its step.
        x: columns there.
        solved: which of these were; None where nothing was to be solved.
    """

    drive: Drive
    k: Int[Array, ""]
    x: State
    solved: Bool[Array, " columns"] | None


def at_times(
    problem: Problem, plan: Plan, rows: Batch, xs: Float[Array, "batch saves n"], end: Happened
) -> tuple[Saves, Int[Array, " batch"] | None]:
    """What is kept of each trajectory at its times, given its states at the saves on the grid.

    And the first step of each in which such a state was not solved, -1 where there is none; None
    where nothing is to be solved.
    """
    batch, _, n = xs.shape
    ts = rows.times(problem)
    assert ts is not None
    each = rows.save_at is not None or lone(problem, plan)
    if each:
        ts = jnp.broadcast_to(ts, (batch, ts.shape[-1]))
    start = jnp.zeros((), jnp.int32) if problem.start is None else problem.start
    begun, last = start.astype(xs.dtype), plan.num_steps
    position = ts / problem.dt - begun
    whole = jnp.clip(jnp.floor(lax.stop_gradient(position)), 0, last - 1)
    steps = whole.astype(jnp.int32)
    every = jnp.arange(batch, dtype=jnp.int32)[:, None]
    place = _Place(
        row=jnp.broadcast_to(every, ts.shape) if each else None,
        save=steps // plan.save_every,
        steps=steps % plan.save_every,
        fraction=position - whole,
    )

    def one(place):
        drive, k, x, solved = _on_grid(problem, plan, rows, xs, place)
        y, converged = fitting(problem, plan, drive, x, k, place.fraction)
        return y, _both(solved, converged)

    items = jax.tree.map(lambda a: a.reshape(-1), place)
    size = at_once(problem, plan, n if each else n * batch, items.save.size)
    found, solved = lax.map(jax.checkpoint(one), items, batch_size=size)
    # (times, n, batch), or (batch times, n, 1).
    found = found.reshape(batch, -1, n) if each else jnp.moveaxis(found, 2, 0)
    if solved is not None:
        solved = solved.reshape(batch, -1) if each else solved.T

    # A stopped trajectory keeps its state from there on, and where a step to the side is lost.
    where = jnp.broadcast_to(position, found.shape[:2])
    lost = jnp.isfinite(end.position)[:, None] & ~jnp.all(jnp.isfinite(found), axis=-1)
    over = end.position[:, None] <= where
    found = jnp.where((over | lost)[..., None], end.xs[:, None], found)
    slack = 8 * jnp.finfo(ts.dtype).eps * (begun + last)
    inside = (where >= -slack) & (where <= last + slack)
    found = jnp.where(inside[..., None], found, jnp.nan)
    failed = None
    if solved is not None:
        failed = _first_failed(start + 1 + steps, solved | over | ~inside)
    return _kept(plan, ts, found), failed


def _both(a: Array | None, b: Array | None) -> Array | None:
    return b if a is None else (a if b is None else a & b)


def _first_failed(
    steps: Int[Array, "..."], solved: Bool[Array, "batch saves"]
) -> Int[Array, " batch"]:
    """The least of the steps that were not solved, -1 where there is none."""
    never = jnp.iinfo(steps.dtype).max
    first = jnp.min(jnp.where(solved, never, steps), axis=-1)
    return jnp.where(first == never, -1, first)


def at_events(
    problem: Problem,
    plan: Plan,
    rows: Batch,
    xs: Float[Array, "batch saves n"],
    steps: Int[Array, "batch count"],
) -> tuple[Float[Array, "batch count"], Saves, Int[Array, " batch"] | None]:
    """Times of events after these steps (-1: none), and what is kept of the states then.

    And the first step that was not solved there, as of `at_times`.
    """
    batch, _, n = xs.shape
    start = jnp.zeros((), jnp.int32) if problem.start is None else problem.start

    def one(item):
        row, k = item
        there = k >= 0
        since = jnp.maximum(k - start, 0)
        place = _Place(row, since // plan.save_every, since % plan.save_every)
        _, k, x, solved = _on_grid(problem, plan, rows, xs, place)
        found = located(problem, plan, rows, row, jnp.where(there, x, 0), k)
        t, y = time_at(k, found.fraction, problem.dt), found.x
        solved = _both(None if solved is None else solved[0], found.solved)
        solved = None if solved is None else solved | ~there
        return jnp.where(there, t, jnp.nan), jnp.where(there, y[:, 0], jnp.nan), solved

    every = jnp.broadcast_to(jnp.arange(batch, dtype=jnp.int32)[:, None], steps.shape)
    items = every.reshape(-1), steps.reshape(-1)
    ts, found, solved = lax.map(
        jax.checkpoint(one), items, batch_size=at_once(problem, plan, n, steps.size)
    )
    ts, failed = ts.reshape(steps.shape), None
    if solved is not None:
        failed = _first_failed(steps + 1, solved.reshape(steps.shape))
    return ts, _kept(plan, ts, found.reshape(*steps.shape, n)), failed


def until_events(plan: Plan, ts: Array, steps: Array, xs: Array, end: Happened) -> Saves:
    """Saves on the grid, made after `steps` since the run began, with the end of each run in it."""
    over = end.position[:, None] <= steps.astype(xs.dtype)[None]
    return _kept(plan, ts, jnp.where(over[..., None], end.xs[:, None], xs))


def _kept(plan: Plan, ts: Array, xs: Float[Array, "batch saves n"]) -> Saves:
    observed = None
    if plan.observe is not None:
        of_each = jax.vmap(plan.observe, (0, 0))
        observed = jax.vmap(of_each, (0 if ts.ndim == 2 else None, 0))(ts, xs)
    return Saves(xs if plan.keep_states else None, observed)


def _on_grid(
    problem: Problem, plan: Plan, rows: Batch, saves: Float[Array, "batch saves n"], place: _Place
) -> _OnGrid:
    row, start = place.row, 0 if problem.start is None else problem.start
    chosen = saves if row is None else saves[row][None]
    x = lax.dynamic_index_in_dim(chosen, place.save, 1, keepdims=False).T
    drive = rows.drive(problem, 0 if row is None else row, len(chosen))
    k = start + plan.save_every * place.save
    most, solved = plan.save_every - 1, None
    if most and problem.tolerances is not None:
        x, solved = fitting(problem, plan, drive, x, k, place.steps.astype(x.dtype))
    elif most:
        x, solved = _by_steps(problem, drive, x, k, place.steps, most)
    return _OnGrid(drive, k + place.steps, x, solved)


def _by_steps(
    problem: Problem, drive: Drive, x: State, k: Int[Array, ""], steps: Array, most: int
) -> tuple[State, Bool[Array, " columns"] | None]:
    """So many whole steps from step k on, at most `most`."""
    # Steps are counted from here: two-step methods tell by that which is their first.
    solver, u = adapted(problem.solver), input_during(problem, drive, k)
    remembered, step = solver.begin(network_from(problem, k), problem.dt, x, u)

    def one(carry, i):
        x, remembered = carry
        new, then, converged = step(x, remembered, i, input_during(problem, drive, k + i))
        made = i < steps
        solved = None if converged is None else converged | ~made
        return jax.tree.map(lambda a, b: jnp.where(made, a, b), (new, then), carry), solved

    # Reverse mode keeps √most states.
    span = math.isqrt(most)
    several = jax.checkpoint(lambda carry, i: lax.scan(one, carry, i))
    parts = jnp.arange(-(-most // span) * span, dtype=jnp.int32).reshape(-1, span)
    (x, _), solved = lax.scan(several, (x, remembered), parts)
    return x, None if solved is None else jnp.all(solved, axis=(0, 1))
