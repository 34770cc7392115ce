"""What drives a network from outside: the inputs of each step, by segments and trajectories."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from .._network.inputs import CONTINUOUS, HELD, input_at
from .._util.types import Array, Float, Int, PyTree, Scalar
from ..solvers.base import Input, time_at
from .problem import Problem
from .resume import Begun


class Batch(NamedTuple):
    """What each trajectory has of its own; leaves (batch, ...).

    Attributes:
        x0: (batch, n) initial states.
        inputs: (batch, num_steps, m) inputs, each held through its step, or None.
        keys: (batch,) PRNG keys of its noise, or None.
        save_at: (batch, saves) times of its saves, or None.
        begun: what is known of it, where its run goes on, or None.
    """

    x0: Float[Array, "batch n"]
    inputs: Float[Array, "batch num_steps m"] | None
    keys: Any
    save_at: Float[Array, "batch saves"] | None = None
    begun: Begun | None = None

    def times(self, problem: Problem) -> Array | None:
        """At which states are saved, (saves,) of all or (batch, saves); None: on the grid."""
        return problem.save_at if self.save_at is None else self.save_at

    def drive(self, problem: Problem, first: Any, columns: int) -> Drive:
        """The inputs of so many trajectories, from the first on."""
        smooth = isinstance(problem.inputs, Continuous)
        return Drive(
            shared=None if smooth else problem.inputs,
            each=self.inputs,
            first=first,
            columns=columns,
            path=problem.inputs if smooth else None,
            start=problem.start,
        )


class Continuous(eqx.Module):
    """u(t) without what it closes over, which derivatives and devices are to see as arguments."""

    function: Callable = eqx.field(static=True)
    values: list[Array]

    def __call__(self, t: Scalar) -> Array:
        return self.function(t, *self.values)


def continuous(inputs: Any, dtype: Any) -> Continuous:
    """A function u(t) or a diffrax path as `Continuous`."""
    function, values = jax.closure_convert(lambda t: input_at(inputs, t), jnp.zeros((), dtype))
    return Continuous(function, values)


class Drive(eqx.Module):
    """The inputs of a block of trajectories.

    Attributes:
        shared: (num_steps, m), held through a step, the same for all trajectories; or None.
        each: (batch, num_steps, m) of more than this block, or None.
        first: of the rows of `each`, the first of this block.
        columns: trajectories in this block.
        path: a function of time, or None.
        start: the step that the first of the held inputs is for; None: 0.
    """

    shared: Float[Array, "num_steps m"] | None
    each: Float[Array, "batch num_steps m"] | None
    first: Any
    columns: int = eqx.field(static=True)
    path: Continuous | None
    start: Int[Array, ""] | None = None

    @property
    def kind(self) -> str | None:
        """ "held", "continuous", or None without inputs."""
        if self.path is not None:
            return CONTINUOUS
        return None if self.shared is None and self.each is None else HELD

    def held(self, step: Any, count: int) -> Float[Array, "count m *columns"] | None:
        """What is held through `count` steps from `step` on; None where nothing is.

        Taken where it is wanted, so that no more than a segment is ever copied.
        """
        if self.start is not None:
            step = step - self.start
        if self.shared is not None:
            return lax.dynamic_slice_in_dim(self.shared, step, count)
        if self.each is None:
            return None
        start = tuple(jnp.asarray(i, jnp.int32) for i in (self.first, step, 0))
        part = lax.dynamic_slice(self.each, start, (self.columns, count, self.each.shape[2]))
        return jnp.transpose(part, (1, 2, 0))

    def during(self, k: Any, held: Array | None, dt: Scalar) -> Input | None:
        """The input at fractions of step k."""
        if self.path is not None:
            path = self.path
            return lambda fraction: path(time_at(k, fraction, dt))
        return None if held is None else lambda fraction: held

    def at_start(self, dt: Scalar) -> Input | None:
        """The input during the first step."""
        first = jnp.zeros((), jnp.int32) if self.start is None else self.start
        held = self.held(first, 1)
        return self.during(first, None if held is None else held[0], dt)


def in_parts(held: PyTree, parts: int) -> PyTree:
    """(parts·count, ...) as (parts, count, ...)."""
    return jax.tree.map(lambda a: a.reshape(parts, -1, *a.shape[1:]), held)
