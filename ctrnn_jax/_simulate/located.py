"""When an event happened, to rounding, and the state then."""

from __future__ import annotations

from collections.abc import Callable
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
from .fixed import within
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


class Found(NamedTuple):
    """Where in a step an event happens: after which fraction of it, and the state then.

    `whole`: whether the whole step is not lost, else there is no such place. `solved`: whether the
    step and its part up to there were solved, as `fitting` says.
    """

    fraction: Scalar
    x: Float[Array, "n 1"]
    whole: Bool[Array, ""]
    solved: Bool[Array, ""] | None


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
        x = jnp.where(candidate, xs[row], 0)[:, None]
        fraction, y, whole, solved = located(problem, plan, rows, row, x, k)
        happened = candidate & whole
        failed = None
        if solved is not None:  # the run has not kept that step: what it found of it is found here
            failed = jnp.where(happened & ~solved, k + 1, -1)
        t = time_at(k, fraction, problem.dt)
        return (
            jnp.where(happened, y[:, 0], xs[row]),
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
) -> Found:
    """Where in step k, begun at x, the event happens.

    By halving, to rounding. Its derivatives are those of the implicit function theorem.
    """
    event = plan.event
    assert event is not None

    def after(state, fraction):
        problem, rows, x = state
        y, solved = fitting(problem, plan, rows.drive(problem, row, 1), x, k, fraction)
        return event.value(time_at(k, fraction, problem.dt), y)[0], y, solved

    frozen = _frozen((problem, rows, x))
    fraction, whole, solved_whole = _bracket(lambda fraction: after(frozen, fraction), x.dtype)
    x = jnp.where(whole, x, 0)  # else derivatives of the others, that it is masked from, are nan
    frozen = _frozen((problem, rows, x))
    if problem.tolerances is None:
        # Backwards, as there are solvers that have no forward mode.
        slope = jax.grad(lambda f: after(frozen, f)[0])(fraction)
    else:
        slope = _slope_along(frozen, plan, row, k, fraction)
    slope = lax.stop_gradient(slope)
    slope = jnp.where(jnp.isfinite(slope) & (slope != 0), slope, jnp.inf)
    g = after((problem, rows, x), fraction)[0]
    fraction -= (g - lax.stop_gradient(g)) / slope
    _, y, solved = after((problem, rows, x), fraction)
    return Found(fraction, y, whole, None if solved is None else solved[0] & solved_whole)


def _bracket(after: Callable, dtype: Any) -> tuple[Scalar, Bool[Array, ""], Bool[Array, ""]]:
    """The fraction of a step where g changes sign; whether the whole step is not lost, and solved.

    Both ends tell the direction: at one of them g may be 0 to rounding, and of the other sign than
    in the run. They are looked at by the same loop: a step may take seconds to compile. A step that
    overflowed in the run may be just finite when it is made once more.
    """
    none, one = jnp.zeros((), dtype), jnp.ones((), dtype)
    largest = 1e-6 * float(jnp.finfo(dtype).max)

    def look(i, found):
        low, high, first, rising, whole, solved = found
        at = jnp.where(i == 0, none, jnp.where(i == 1, one, (low + high) / 2))
        g, y, ok = after(at)
        first = jnp.where(i == 0, g, first)
        rising = jnp.where(i == 1, first < g, rising)
        whole = jnp.where(i == 1, jnp.max(jnp.abs(y)) < largest, whole)
        solved = jnp.where(i == 1, True if ok is None else ok[0], solved)
        beyond = jnp.where(rising, g >= 0, g <= 0)
        low = jnp.where((i > 1) & ~beyond, at, low)
        high = jnp.where((i > 1) & beyond, at, high)
        return low, high, first, rising, whole, solved

    looks = jnp.finfo(dtype).nmant + 4  # two ends, and halvings
    start = none, one, none, *[jnp.zeros((), bool)] * 3
    _, high, _, _, whole, solved = lax.fori_loop(0, looks, look, start)
    return high, whole, solved


def _slope_along(state: Any, plan: Plan, row: Any, k: Any, fraction: Scalar) -> Scalar:
    """dg by the fraction of a step, by the equation: cheaper than through adaptive steps."""
    problem, rows, x = state
    drive, t = rows.drive(problem, row, 1), time_at(k, fraction, problem.dt)
    (y, _), u = fitting(problem, plan, drive, x, k, fraction), input_during(problem, drive, k)
    velocity = problem.rnn(t, y, None if u is None else lambda _: u(fraction))
    event = plan.event
    assert event is not None
    return jax.jvp(event.value, (t, y), (jnp.ones_like(t), velocity))[1][0] * problem.dt


def _frozen(tree: PyTree) -> Any:
    """Without derivatives."""

    def freeze(leaf):
        inexact = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.inexact)
        return lax.stop_gradient(leaf) if inexact else leaf

    return jax.tree.map(freeze, tree)
