"""States at any times: a step to the side, from the last state on the grid before each.

A run with times of its own saves every few steps; from the save before a time the steps up to it
are made once more, and a last one that fits. The run itself goes on along its grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .._network.model import CTRNN
from .._util.types import Array, Float, Int, Scalar, State
from ..solvers._foreign import adapted
from .adaptive import solve_columns
from .devices import local_devices
from .drive import Batch, Drive
from .output import Ends, Saves
from .problem import Plan, Problem

# Saves on the grid for each time: so many that steps made again are a quarter of the run.
_SAVES_EACH = 4
_NUMBERS_AT_ONCE = 2**21


def save_every_for(num_steps: int, times: int, *, each_step: bool) -> int:
    """Steps from save to save on the grid, a divisor of all; 1 where each is to be saved."""
    most = 1 if each_step else max(1, num_steps // (_SAVES_EACH * times))
    return next(d for d in range(most, 0, -1) if num_steps % d == 0)


class _Place(NamedTuple):
    """A time on the grid of steps.

    Attributes:
        row: of the trajectory; None where it is the time of all.
        save: the save before it.
        steps: whole steps from there on.
        fraction: of one more step.
        inside: whether it lies within the run.
    """

    row: Int[Array, ""] | None
    save: Int[Array, ""]
    steps: Int[Array, ""]
    fraction: Scalar
    inside: Any


class _Later(CTRNN):
    """A network with an equation of its own, whose time counts from `began` on."""

    network: CTRNN
    began: Scalar

    def __init__(self, network: CTRNN, began: Scalar):
        self.network, self.began = network, began
        for name in ("weights", "activation", "form", "bias", "leak", "input_weights"):
            setattr(self, name, getattr(network, name))

    def __call__(self, t, x, args=None):
        return self.network(self.began + t, x, args)


def at_times(problem: Problem, plan: Plan, rows: Batch, saves: Saves, ends: Ends) -> Saves:
    """What is kept of each trajectory at its times, given its saves on the grid."""
    assert saves.xs is not None  # they are kept
    batch, _, n = saves.xs.shape
    ts = problem.save_at if rows.save_at is None else rows.save_at
    assert ts is not None
    devices = local_devices(plan.mesh)
    crowded = not adapted(problem.solver).works_alone and plan.platform == "cpu" and devices > 1
    each = rows.save_at is not None or crowded  # jaxlib's LU of a batch: see `run.py`
    if each:
        ts = jnp.broadcast_to(ts, (batch, ts.shape[-1]))
    start = 0 if problem.start is None else problem.start
    begun = jnp.asarray(start, jnp.int32).astype(saves.xs.dtype)
    position = ts / problem.dt - begun
    last = plan.num_steps
    slack = 8 * jnp.finfo(ts.dtype).eps * (begun + last)
    whole = jnp.clip(jnp.floor(lax.stop_gradient(position)), 0, last - 1)
    steps = whole.astype(jnp.int32)
    every = jnp.arange(batch, dtype=jnp.int32)[:, None]
    place = _Place(
        row=jnp.broadcast_to(every, ts.shape) if each else None,
        save=steps // plan.save_every,
        steps=steps % plan.save_every,
        fraction=position - whole,
        inside=(position >= -slack) & (position <= last + slack),
    )
    state_at = _state_at(problem, plan, rows, saves.xs, start)
    items = jax.tree.map(lambda a: a.reshape(-1), place)
    size = 1 if crowded else max(1, _NUMBERS_AT_ONCE // (n * (1 if each else batch)))
    found = lax.map(jax.checkpoint(state_at), items, batch_size=min(size, items.save.size))
    # (times, n, batch), or (batch times, n, 1).
    xs = found.reshape(batch, -1, n) if each else jnp.moveaxis(found, 2, 0)

    # A stopped trajectory keeps its state from there on, and where a step to the side is lost.
    position = jnp.broadcast_to(position, (batch, ts.shape[-1]))
    stopped = (ends.stopped_at >= 0)[:, None]
    over = (ends.stopped_at - start)[:, None].astype(ts.dtype) <= position
    lost = ~jnp.all(jnp.isfinite(xs), axis=-1)
    xs = jnp.where((stopped & (over | lost))[..., None], saves.xs[:, -1:], xs)
    inside = jnp.broadcast_to(place.inside, xs.shape[:2])
    xs = jnp.where(inside[..., None], xs, jnp.nan)
    observed = None
    if plan.observe is not None:
        of_each = jax.vmap(plan.observe, (0, 0))
        observed = jax.vmap(of_each, (0 if ts.ndim == 2 else None, 0))(ts, xs)
    return Saves(xs if plan.keep_states else None, observed)


def _state_at(
    problem: Problem, plan: Plan, rows: Batch, saves: Float[Array, "batch saves n"], start: Any
) -> Callable[[_Place], State]:
    """`state_at(place)`: columns."""

    def state_at(place: _Place) -> State:
        one = place.row is not None
        chosen = saves[place.row][None] if one else saves
        x = lax.dynamic_index_in_dim(chosen, place.save, 1, keepdims=False).T
        drive = rows.drive(problem, place.row if one else 0, 1 if one else len(saves))
        k = start + plan.save_every * place.save
        if problem.tolerances is None:
            return _by_steps(problem, plan, drive, x, k, place)
        held = drive.held(k, 1)
        seconds = (place.steps.astype(x.dtype) + place.fraction) * problem.dt
        # Nothing to solve is nothing that diffrax can.
        nothing = seconds <= 0
        span = jnp.where(nothing, problem.dt, seconds)
        u = None if held is None else held[0]
        xs, _, _ = solve_columns(problem, plan, drive)(x, k, span[None], u)
        return jnp.where(nothing, x, xs[0])

    return state_at


def _by_steps(
    problem: Problem, plan: Plan, drive: Drive, x: State, k: Int[Array, ""], place: _Place
) -> State:
    """Whole steps from step k on, and one that fits."""
    dt, solver = problem.dt, adapted(problem.solver)

    def network(k):
        later = problem.rnn.has_own_equation
        return _Later(problem.rnn, k.astype(x.dtype) * dt) if later else problem.rnn

    def inputs(k):
        held = drive.held(k, 1)
        return drive.during(k, None if held is None else held[0], dt)

    # Steps are counted from here: two-step methods tell by that which is their first.
    remembered, step = solver.begin(network(k), dt, x, inputs(k))

    def one(carry, i):
        x, remembered = carry
        new, then, _ = step(x, remembered, i, inputs(k + i))
        made = i < place.steps
        return jax.tree.map(lambda a, b: jnp.where(made, a, b), (new, then), carry), None

    most = plan.save_every - 1
    if most:
        # Reverse mode keeps √most states.
        span = math.isqrt(most)
        several = jax.checkpoint(lambda carry, i: lax.scan(one, carry, i))
        parts = jnp.arange(-(-most // span) * span, dtype=jnp.int32).reshape(-1, span)
        (x, _), _ = lax.scan(several, (x, remembered), parts)
    k = k + place.steps
    u = inputs(k)
    part = None if u is None else lambda fraction: u(place.fraction * fraction)
    remembered, step = solver.begin(network(k), place.fraction * dt, x, part)
    return step(x, remembered, jnp.zeros_like(k), part)[0]
