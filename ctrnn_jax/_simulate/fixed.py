"""The fixed-step loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .._network.rows import Rows, rows_of
from .._util.types import Array, Bool, Scalar, State, any_at_all
from ..solvers.base import Step
from .drive import Drive, in_parts
from .event import Event
from .segments import Advance, Carry, Segment, choose, near_divisor
from .size_rules import ONE_BY_ONE, Kernels


def finite(x: State) -> Bool[Array, " batch"]:
    """Which columns are finite."""
    return jnp.all(jnp.isfinite(x), axis=0)


def within(x: State, max_norm: Scalar | None) -> Bool[Array, " batch"]:
    """Which columns are finite and inside the norm bound."""
    if max_norm is None:
        return finite(x)
    # Scaled first: a large bound squared would overflow.
    return jnp.sum((x / max_norm) ** 2, axis=0) <= 1


def event_between(event: Event, old: Carry, new: Carry, dt: Scalar) -> Bool[Array, " batch"]:
    """Whether the event happens in the step to `new`."""
    before, after = (event.value(c.step.astype(c.x.dtype) * dt, c.x) for c in (old, new))
    return event.passed(before, after)


def update_fold(update: Callable, fold: Any, t: Scalar, x: State) -> Any:
    """One update of every trajectory's carry."""
    return jax.vmap(update, in_axes=(0, None, 1))(fold, t, x)


def fixed_segments(
    step: Step,
    dt: Scalar,
    drive: Drive,
    *,
    update: Callable | None = None,
    max_norm: Scalar | None = None,
    event: Event | None = None,
    stored_every: int | None = None,
    check_each_step: bool = False,
    spare: int = 0,
    kernels: Kernels = ONE_BY_ONE,
) -> Advance:
    """How a segment is run with steps of `dt`; states are saved with `spare` columns more.

    Reverse mode stores a state about every `stored_every` steps, of a segment with several saves
    the first, and computes what is between them again; with None it stores all that is computed.

    Checking every trajectory after every step would nearly double the cost of an Euler step.
    But a state that is not finite never becomes finite again, so one look at the end of the
    segment tells; only then the segment is run once more, with a check at every step, for
    those trajectories alone. A norm bound and an event have no such property and are checked at
    every step, and so is all with `check_each_step`, for steps that cost and compile so much more
    than a check.
    """
    free_step = _free_step(step, dt, drive, update, kernels.rows)
    checked_step = _checked_step(free_step, dt, max_norm, event)
    loop = _Loop(drive, stored_every is not None, spare, kernels)
    checked_loop = loop._replace(kernels=ONE_BY_ONE)
    each_step = max_norm is not None or event is not None or check_each_step

    def stored(function: Callable) -> Callable:
        if stored_every is None:
            return function
        return jax.checkpoint(function, static_argnums=1, prevent_cse=False)

    def pick(lanes, saves, otherwise):
        return None if saves is None else jnp.where(loop.padded(lanes), saves, otherwise)

    def advance(carry: Carry, segment: Segment):
        span = 1 if stored_every is None else near_divisor(segment.steps, stored_every)
        if segment.intervals > 1 or span == segment.steps:
            return stored(partial(in_spans, 1))(carry, segment)
        return in_spans(span, carry, segment)

    def in_spans(span: int, carry: Carry, segment: Segment):
        held = drive.held(carry.step, segment.intervals * segment.steps) if span == 1 else None
        if each_step:
            return checked_loop(checked_step, carry, segment, span, held)
        new, saves = loop(free_step, carry, segment, span, held)
        finish = without_diverged if span == 1 else stored(without_diverged)
        return finish(carry, segment, held, new, saves)

    def without_diverged(carry: Carry, segment: Segment, held: Array | None, new: Carry, saves):
        stopped = carry.stopped_at >= 0
        diverged = ~stopped & ~finite(new.x)

        # Not differentiated unless taken: reverse mode stores the start of the segment for it.
        @jax.checkpoint
        def stop_diverged(new, saves):
            # Seldom run, and so in less memory: it would add its own to that of the free steps.
            span = 1 if stored_every is None else math.isqrt(segment.steps)
            checked, checked_saves = checked_loop(checked_step, carry, segment, span, held)
            return choose(~diverged, new, checked), pick(~diverged, saves, checked_saves)

        def as_is(new, saves):
            return new, saves

        def mend(new, saves):
            new, saves = choose(~stopped, new, carry), pick(~stopped, saves, loop.padded(carry.x))
            return lax.cond(any_at_all(diverged), stop_diverged, as_is, new, saves)

        # One choice that is seldom made, not two in turn: XLA copies what passes through the first.
        return lax.cond(any_at_all(stopped | diverged), mend, as_is, new, saves)

    return advance


# A step of all trajectories, with the inputs that are held through it.
_OneStep = Callable[[Carry, Array | None], Carry]


def _free_step(
    step: Step, dt: Scalar, drive: Drive, update: Callable | None, in_rows: bool
) -> _OneStep:
    """A step of all trajectories, whatever becomes of them; `in_rows` it is made of rows.

    It returns x as it is given, columns or `Rows`.
    """

    def free_step(carry: Carry, held: Array | None) -> Carry:
        u = drive.during(carry.step, held, dt)
        x = rows_of(carry.x) if in_rows and not isinstance(carry.x, Rows) else carry.x
        x, solver, converged = step(x, carry.solver, carry.step, u)
        columns = jnp.stack(x) if isinstance(x, Rows) else x
        x = x if isinstance(carry.x, Rows) else columns
        k = carry.step + 1
        unconverged_at = carry.unconverged_at
        if converged is not None:
            unconverged_at = jnp.where((unconverged_at < 0) & ~converged, k, unconverged_at)
        fold = carry.fold
        if update is not None:
            fold = update_fold(update, fold, k.astype(columns.dtype) * dt, columns)
        return Carry(x, solver, fold, k, carry.stopped_at, unconverged_at)

    return free_step


def _checked_step(
    free_step: _OneStep, dt: Scalar, max_norm: Scalar | None, event: Event | None
) -> _OneStep:
    """A step of the trajectories that have not stopped, of which some stop there.

    Before an event it is not made: where that happened is found out later.
    """

    def checked_step(carry: Carry, held: Array | None) -> Carry:
        new = free_step(carry, held)
        running = carry.stopped_at < 0
        stops, made = running & ~within(new.x, max_norm), running & finite(new.x)
        if event is not None:
            happens = event_between(event, carry, new, dt)
            stops, made = stops | (running & happens), made & ~happens
        new = choose(made, new, carry)
        return new._replace(stopped_at=jnp.where(stops, new.step, carry.stopped_at))

    return checked_step


class _Loop(NamedTuple):
    """One kind of step, as often as a segment says."""

    drive: Drive
    checkpoint: bool
    spare: int
    kernels: Kernels

    def __call__(
        self, one_step: _OneStep, carry: Carry, segment: Segment, span: int, held: Array | None
    ) -> tuple[Carry, Array | None]:
        """The carry at the end and what is saved; of several steps in a span reverse mode stores
        the state before the first. What is not `held` already is looked for span by span."""

        def several(carry: Carry, held: Array | None, count: int) -> Carry:
            def from_here(carry: Carry, held: Array | None) -> Carry:
                if held is None:
                    held = self.drive.held(carry.step, count)
                return self._steps(one_step, carry, held, count)

            return self._stored(from_here)(carry, held) if count else carry

        def interval(carry: Carry, held: Array | None):
            spans, rest = divmod(segment.steps, span)
            if span == 1:
                carry = self._steps(one_step, carry, held, segment.steps)
            else:
                first, last = held, held
                if held is not None:
                    first, last = held[: spans * span], held[spans * span :]
                each = in_parts(first, spans)
                carry = _repeat(lambda c, h: several(c, h, span), carry, each, spans)
                carry = several(carry, last, rest)
            return carry, self.padded(carry.x) if segment.save else None

        if segment.intervals == 1:
            carry, saves = interval(carry, held)
            return carry, None if saves is None else saves[None]
        each = in_parts(held, segment.intervals)
        return lax.scan(interval, carry, each, length=segment.intervals)

    def _steps(self, one_step: _OneStep, carry: Carry, held: Array | None, times: int) -> Carry:
        step = self._stored(one_step)
        if not self.kernels.rows or times <= 1:
            return _repeat(step, carry, held, times, self.kernels)
        # From the first step to the last: stacked in between, each row's way would be made anew.
        carry = carry._replace(x=rows_of(carry.x))
        carry = _repeat(step, carry, held, times, self.kernels)
        return carry._replace(x=jnp.stack(carry.x))

    def _stored(self, steps: Callable) -> Callable:
        # Reverse mode keeps the state a step started from, and not all that its stages computed, 33
        # arrays of that size for Tsit5: to write and read them takes longer than to compute them.
        return jax.checkpoint(steps, prevent_cse=False) if self.checkpoint else steps

    def padded(self, a: Array) -> Array:
        """With spare columns."""
        return jnp.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, self.spare)]) if self.spare else a


def _repeat(
    step: _OneStep, carry: Carry, held: Array | None, times: int, kernels: Kernels = ONE_BY_ONE
) -> Carry:
    """So many steps."""
    if times <= 1:
        return step(carry, jax.tree.map(lambda a: a[0], held)) if times else carry
    if kernels == ONE_BY_ONE:
        return lax.scan(lambda c, h: (step(c, h), None), carry, held, length=times)[0]
    together = near_divisor(times, kernels.together)
    rounds, rest = divmod(times, together)

    def several(carry: Carry, held: Array | None, count: int) -> Carry:
        for i in range(count):
            carry = step(carry, None if held is None else held[i])
        return carry._replace(x=lax.optimization_barrier(carry.x))  # the end of a kernel

    whole = None if held is None else in_parts(held[: rounds * together], rounds)
    carry, _ = lax.scan(
        lambda c, h: (several(c, h, together), None),
        carry,
        whole,
        length=rounds,
        unroll=near_divisor(rounds, -(-kernels.unrolled // together)),
    )
    return several(carry, None if held is None else held[rounds * together :], rest)
