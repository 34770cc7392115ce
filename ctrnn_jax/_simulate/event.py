"""What may happen to a trajectory: a function of time and state that changes its sign."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from .._util import checks
from .._util.types import Array, Bool, Float, Scalar, State


@dataclasses.dataclass(frozen=True)
class Event:
    """g(t, x) passes 0, for `simulate(..., until=event)` and `crossings`.

    It is looked for from step to step: a g that leaves 0 and is back within one step is not seen.
    A trajectory that begins at g = 0 has not passed it.

    Attributes:
        fn: `fn(t, x)`, a scalar of one state x (n,). What it closes over is no argument of it to
            JAX, neither traced nor differentiated.
        direction: 1 for g that rises, -1 for g that falls, 0 for both.

    Raises:
        TypeError, ValueError: for a wrong kind or value.

    Example:
        >>> rises = ct.Event(lambda t, x: x[0] - 0.5, direction=1)
    """

    fn: Callable[[Scalar, Any], Any]
    direction: int = 0
    count: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        checks.compiled_function("fn", self.fn, "a function g(t, x)")
        direction = self.direction
        if isinstance(direction, bool) or direction not in (-1, 0, 1):
            checks.fail("direction", "1 (rising), -1 (falling) or 0 (both)", repr(direction))

    def value(self, t: Scalar, x: State) -> Float[Array, " batch"]:
        """g at columns x (n, batch)."""
        return jax.vmap(self.fn, in_axes=(None, 1))(t, x)

    def check(self, x: Any) -> None:
        """Refuse a function that is none of a state like x (n,)."""
        found = jax.eval_shape(self.fn, jax.ShapeDtypeStruct((), x.dtype), x)
        if getattr(found, "shape", None) != ():
            got = f"one of shape {found.shape}" if hasattr(found, "shape") else type(found).__name__
            checks.fail("event", "a function that gives a scalar", got)
        checks.same_dtype("event", found, x.dtype, "the states")

    def passed(self, before: Array, after: Array) -> Bool[Array, "*batch"]:
        """Whether it happens between two values of g; not so where one is no number."""
        rises, falls = (before < 0) & (after >= 0), (before > 0) & (after <= 0)
        if self.direction == 0:
            return rises | falls
        return rises if self.direction > 0 else falls


@dataclasses.dataclass(frozen=True)
class Recurring(Event):
    """An event that stops nothing, of which the first `count` are wanted."""

    count: int | None = None  # pyright: ignore[reportIncompatibleVariableOverride]

    def recorder(self, dt: Scalar, start: Any) -> tuple[Callable, Callable]:
        """A fold: its carry is g, the steps made, how often it happened, and after which steps."""
        assert self.count is not None
        places = jnp.arange(self.count, dtype=jnp.int32)
        first = jnp.asarray(start, jnp.int32)

        def begin(x):
            g = self.fn(first.astype(x.dtype) * dt, x)
            zero = jnp.zeros((), jnp.int32)
            return jax.lax.stop_gradient(g), first, zero, jnp.full(self.count, -1, jnp.int32)

        def update(carry, t, x):
            before, k, many, steps = carry
            g = jax.lax.stop_gradient(self.fn(t, x))
            happens = self.passed(before, g)
            steps = jnp.where(happens & (places == many), k, steps)
            return g, k + 1, many + happens.astype(many.dtype), steps

        return begin, update
