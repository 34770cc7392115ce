"""When an event happened, to rounding, and the state then."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .._util.types import Array, Bool, Float, Int, PyTree, Scalar
from ..solvers._foreign import adapted
from ..solvers.base import time_at
from .between import fitting, input_during
from .devices import local_devices
from .drive import Batch
from .fixed import finite, within
from .output import Ends
from .problem import Plan, Problem

_NUMBERS_AT_ONCE = 2**21


class Happened(NamedTuple):
    """Of each trajectory; `xs` (batch, n) where it ended, `ts` (batch,) nan where there was none.

    `position` (batch,) is where it ended, in steps since the run began; infinite if it did not.
    `unconverged_at` (batch,) is the step of the event where that was not solved, else -1.
    """

    xs: Float[Array, "batch n"]
    ts: Float[Array, " batch"]
    position: Float[Array, " batch"]
    unconverged_at: Int[Array, " batch"] | None = None


def at_once(problem: Problem, plan: Plan, numbers: int, items: int) -> int:
    """How many items of so many numbers to work on together."""
    return 1 if lone(problem, plan) else min(items, max(1, _NUMBERS_AT_ONCE // numbers))


def lone(problem: Problem, plan: Plan) -> bool:
    """Whether states go one by one: jaxlib's LU of a batch, see `solvers/_implicit.py`."""
    several = plan.platform == "cpu" and local_devices(plan.mesh) > 1
    return several and not adapted(problem.solver).works_alone


def ended(problem: Problem, plan: Plan, rows: Batch, xs: Array, ends: Ends) -> Happened:
    """Where each trajectory ended: at its event, or as it was stopped or not; xs (batch, n)."""
    batch, n = xs.shape
    start = jnp.zeros((), jnp.int32) if problem.start is None else problem.start
    begun = (ends.stopped_at - start).astype(xs.dtype)
    position = jnp.where(ends.stopped_at >= 0, begun, jnp.inf)
    none = jnp.full(batch, jnp.nan, xs.dtype)
    if plan.event is None or plan.event.count is not None:
        return Happened(xs, none, position)
    # Stopped before what is lost or out of bounds, it has kept the state before the step.
    candidate = (ends.stopped_at > start) & within(xs.T, problem.max_norm)
    if problem.tolerances is not None:
        candidate &= ends.unconverged_at != ends.stopped_at

    def one(item):
        row, candidate, k = item
        x = xs[row][:, None]
        still, there, at = _frozen((problem, rows, x))
        full, solved = fitting(still, plan, there.drive(still, row, 1), at, k, _one(x))
        happened = candidate & finite(full)[0]
        begin = jnp.where(happened, x, 0)
        fraction, y, solved_there = located(problem, plan, rows, row, begin, k)
        failed = None
        if solved is not None and solved_there is not None:
            # The run has not kept that step: what it found of it is found here.
            failed = jnp.where(happened & ~(solved & solved_there)[0], k + 1, -1)
        t = time_at(k, fraction, problem.dt)
        return (
            jnp.where(happened, y[:, 0], x[:, 0]),
            jnp.where(happened, t, jnp.nan),
            jnp.where(happened, (k - start).astype(x.dtype) + fraction, position[row]),
            failed,
        )

    every = jnp.arange(batch, dtype=jnp.int32)
    items = every, candidate, jnp.maximum(ends.stopped_at - 1, start)
    return Happened(
        *lax.map(jax.checkpoint(one), items, batch_size=at_once(problem, plan, n, batch))
    )


def located(
    problem: Problem, plan: Plan, rows: Batch, row: Any, x: Float[Array, "n 1"], k: Any
) -> tuple[Scalar, Float[Array, "n 1"], Bool[Array, "1"] | None]:
    """After which fraction of step k, begun at x, the event happens, and the state then.

    By halving, to rounding. Its derivatives are those of the implicit function theorem. Last,
    whether that state was solved, as `fitting` says.
    """
    event = plan.event
    assert event is not None

    def value(state, fraction):
        problem, rows, x = state
        y, _ = fitting(problem, plan, rows.drive(problem, row, 1), x, k, fraction)
        return event.value(time_at(k, fraction, problem.dt), y)[0]

    frozen = _frozen((problem, rows, x))
    none, one = jnp.zeros((), x.dtype), _one(x)
    # By both ends: at one of them g may be 0 to rounding, and of the other sign than in the run.
    rising = value(frozen, none) < value(frozen, one)

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        g = value(frozen, middle)
        beyond = jnp.where(rising, g >= 0, g <= 0)
        return jnp.where(beyond, low, middle), jnp.where(beyond, middle, high)

    halvings = jnp.finfo(x.dtype).nmant + 2
    fraction = lax.fori_loop(0, halvings, halve, (none, one))[1]
    if problem.tolerances is None:
        # Backwards, as there are solvers that have no forward mode.
        slope = jax.grad(lambda f: value(frozen, f))(fraction)
    else:
        slope = _slope_along(frozen, plan, row, k, fraction)
    slope = lax.stop_gradient(slope)
    slope = jnp.where(jnp.isfinite(slope) & (slope != 0), slope, jnp.inf)
    g = value((problem, rows, x), fraction)
    fraction -= (g - lax.stop_gradient(g)) / slope
    return fraction, *fitting(problem, plan, rows.drive(problem, row, 1), x, k, fraction)


def _slope_along(state: Any, plan: Plan, row: Any, k: Any, fraction: Scalar) -> Scalar:
    """dg by the fraction of a step, by the equation: cheaper than through adaptive steps."""
    problem, rows, x = state
    drive, t = rows.drive(problem, row, 1), time_at(k, fraction, problem.dt)
    (y, _), u = fitting(problem, plan, drive, x, k, fraction), input_during(problem, drive, k)
    velocity = problem.rnn(t, y, None if u is None else lambda _: u(fraction))
    event = plan.event
    assert event is not None
    return jax.jvp(event.value, (t, y), (jnp.ones_like(t), velocity))[1][0] * problem.dt


def _one(x: Array) -> Scalar:
    return jnp.ones((), x.dtype)


def _frozen(tree: PyTree) -> Any:
    """Without derivatives."""

    def freeze(leaf):
        inexact = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.inexact)
        return lax.stop_gradient(leaf) if inexact else leaf

    return jax.tree.map(freeze, tree)
