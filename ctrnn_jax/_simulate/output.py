"""What is kept of a run, written while it goes on: saves, and what is known at the end."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .._util.types import Array, Float, Int, PyTree, Scalar
from .problem import Plan


class Saves(NamedTuple):
    """Leaves (batch, saves, ...), or None."""

    xs: Float[Array, "batch saves n"] | None
    observed: PyTree


class Ends(NamedTuple):
    """Leaves (batch, ...); see `Trajectory` and `End`."""

    folded: PyTree
    stopped_at: Int[Array, " batch"]
    unconverged_at: Int[Array, " batch"]
    x: Float[Array, "batch n"] | None
    solver: list[Array]
    event_times: Float[Array, "*batch"] | None = None


def saves_of(
    plan: Plan, dt: Scalar, steps: Int[Array, " saves"], states: Float[Array, "saves n batch"]
) -> Saves:
    """What is kept of the states after `steps`."""
    observed = None
    if plan.observe is not None:
        ts = steps.astype(states.dtype) * dt
        observed = jax.vmap(jax.vmap(plan.observe), in_axes=(None, 2))(ts, states)
    return Saves(jnp.moveaxis(states, 2, 0) if plan.keep_states else None, observed)


def no_saves_yet(plan: Plan, dt: Scalar, rows: Float[Array, "_ n"], batch: int) -> Saves:
    """Room for the saves of `batch` states like `rows`."""
    steps = plan.saved_steps
    shapes = jax.eval_shape(partial(saves_of, plan, dt), steps[:1], rows[:1].T[None])
    first = batch, len(steps)
    return jax.tree.map(lambda a: jnp.zeros(first + a.shape[2:], a.dtype), shapes)


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
