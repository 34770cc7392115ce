"""One fixed step of any diffrax solver, on a batch of states held as columns (n, batch)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp

from .._network.model import CTRNN
from .._util.types import Array, Bool, Float, Int, Scalar, State
from . import ExactLinear, Projected
from .base import (
    AbstractNetworkSolver,
    conservative_network_of,
    for_steps_from,
    innermost,
    level_of,
)

# step(x, solver_state, k) -> x, solver_state, converged; k counts the steps already made.
Step = Callable[[State, Any, Int[Array, ""]], tuple[State, Any, Bool[Array, " batch"] | None]]

_CYCLE = 4


class _StepTerm(diffrax.AbstractTerm):
    """The network as a diffrax term whose time counts steps, modulo 4, from step `k` on.

    Real time k·dt has a spacing of eps·k·dt, so (k+1)·dt - k·dt is off by eps·k: 6 % after 10⁶
    steps in float32. Small integers are exact; a network whose equation knows the time is given the
    real one. Two-step methods ask for the control over two steps, across the end of a cycle too,
    and get 2 dt.
    """

    vector_field: CTRNN
    dt: Scalar
    k: Int[Array, ""]

    def vf(self, t, y, args):
        fraction = t - (self.k % _CYCLE).astype(self.dt.dtype)
        return self.vector_field(time_at(self.k, fraction, self.dt), y, args)

    def contr(self, t0, t1, **kwargs):
        return self.dt * (jnp.mod(t1 - t0 + 1, _CYCLE) - 1)

    def prod(self, vf, control):
        return vf * control


def time_at(k: Int[Array, ""], fraction: Any, dt: Scalar) -> Scalar:
    """The time of a `fraction` of a step after step k."""
    return k.astype(dt.dtype) * dt + fraction * dt


def is_implicit(solver: diffrax.AbstractSolver) -> bool:
    """Whether a step is diffrax's Newton method, for each trajectory alone."""
    return isinstance(innermost(solver), diffrax.AbstractImplicitSolver)


def _wraps_ours(solver: Any) -> bool:
    wrapped = isinstance(solver, diffrax.AbstractWrappedSolver)
    return wrapped and isinstance(solver, AbstractNetworkSolver | Projected)


def make_step(
    solver: diffrax.AbstractSolver, rnn: CTRNN, dt: Scalar, x0: Float[Array, "n batch"]
) -> tuple[Any, Step]:
    """The initial solver state and the step function of `solver` for columns of states."""
    if type(solver) is diffrax.Euler:
        return None, lambda x, state, k: (x + dt * rnn(time_at(k, 0, dt), x, None), None, None)
    if _is_plain_explicit(solver):
        return None, _explicit_runge_kutta(type(solver).tableau, rnn, dt)  # pyright: ignore[reportAttributeAccessIssue]
    if type(solver) is Projected:  # isinstance is true of what wraps one, too
        return _projected(solver, rnn, dt, x0)
    one, zero = jnp.ones((), x0.dtype), jnp.zeros((), x0.dtype)

    def initial(solver, x):
        return solver.init(_StepTerm(rnn, dt, jnp.zeros((), jnp.int32)), zero, one, x, None)

    def advance(solver, x, state, k):
        t0 = (k % _CYCLE).astype(x0.dtype)
        x, _, _, state, result = solver.step(
            _StepTerm(rnn, dt, k), t0, t0 + 1, x, None, state, False
        )
        return x, state, diffrax.is_successful(result)

    if is_implicit(solver) or _wraps_ours(solver):
        # diffrax would solve one system for the whole batch, with a Jacobian (n·batch)², and the
        # result of a wrapped solver of ours would be one for the whole batch.
        def initial_each(x):
            return initial(for_steps_from(x, solver), x)

        def step_each(x, state, k):
            return advance(for_steps_from(x, solver), x, state, k)

        step = jax.vmap(step_each, in_axes=(1, 0, None), out_axes=(1, 0, 0))
        return jax.vmap(initial_each, in_axes=1)(x0), step

    # Ours step all columns at once and know by themselves which of them failed.
    def step_all(x, state, k):
        x, state, _ = advance(solver, x, state, k)
        return x, state, solver.converged(state) if hasattr(solver, "converged") else None  # pyright: ignore[reportAttributeAccessIssue]

    return initial(solver, x0), step_all


def _projected(
    solver: Projected, rnn: CTRNN, dt: Scalar, x0: Float[Array, "n batch"]
) -> tuple[Any, Step]:
    """The inner solver's own fast step, then the projection."""
    conservative_network_of(diffrax.ODETerm(rnn), solver)
    level = level_of(rnn, x0)
    inner, inner_step = make_step(solver.solver, rnn, dt, x0)

    def step(x, state, k):
        inner, level = state
        # What the solver remembers of its last result is not true of the projected one.
        if not isinstance(solver.solver, ExactLinear):
            inner, _ = make_step(solver.solver, rnn, dt, x)
        x, inner, converged = inner_step(x, inner, k)
        x, reached = solver.project(rnn, x, level)
        return x, (inner, level), reached if converged is None else reached & converged

    return (inner, level), step


def _is_plain_explicit(solver: diffrax.AbstractSolver) -> bool:
    kind = type(solver)
    return (
        issubclass(kind, diffrax.AbstractERK)
        and isinstance(kind.tableau, diffrax.ButcherTableau)
        and kind.step is diffrax.AbstractRungeKutta.step
    )


def _explicit_runge_kutta(tableau: diffrax.ButcherTableau, rnn: CTRNN, dt: Scalar) -> Step:
    """The stages written out: the same numbers as `solver.step`, without its loop over stages.

    A last stage that is the first of the next step (FSAL) is left to that one: as many slopes are
    computed, and from step to step only the state is handed on, and kept for reverse mode.
    """

    def f(k, stage, x):
        fraction = float(tableau.c[stage - 1]) if stage else 0.0
        return rnn(time_at(k, fraction, dt), x, None)

    def advance(x, coefficients, slopes):
        terms = [float(a) * k for a, k in zip(coefficients, slopes, strict=True) if a != 0]
        return x + dt * sum(terms[1:], start=terms[0])

    def step(x, state, k):
        slopes = [f(k, 0, x)]
        for stage, row in enumerate(tableau.a_lower[:-1], 1):
            slopes.append(f(k, stage, advance(x, row, slopes)))
        last = advance(x, tableau.a_lower[-1], slopes)
        if tableau.ssal:  # the last stage is the solution
            return last, None, None
        slopes.append(f(k, len(tableau.a_lower), last))
        return advance(x, tableau.b_sol, slopes), None, None

    return step
