"""One fixed step of any diffrax solver, on a batch of states held as columns (n, batch)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx

from ._types import Array, Bool, Float, Int, Scalar, State
from .model import CTRNN
from .solvers import ExactLinear, Projected
from .solvers._common import conservative_network_of, level_of

# step(x, solver_state, k) -> x, solver_state, converged; k counts the steps already made.
Step = Callable[[State, Any, Int[Array, ""]], tuple[State, Any, Bool[Array, " batch"] | None]]

_CYCLE = 4


class _StepTerm(diffrax.AbstractTerm):
    """The network as a diffrax term whose time counts steps, modulo 4.

    Real time k·dt has a spacing of eps·k·dt, so (k+1)·dt - k·dt is off by eps·k: 6 % after 10⁶
    steps in float32. Small integers are exact, and the network is autonomous. Two-step
    methods ask for the control over two steps, across the end of a cycle too, and get 2 dt.
    """

    vector_field: CTRNN
    dt: Scalar

    def vf(self, t, y, args):
        return self.vector_field(t, y, args)

    def contr(self, t0, t1, **kwargs):
        return self.dt * (jnp.mod(t1 - t0 + 1, _CYCLE) - 1)

    def prod(self, vf, control):
        return vf * control


def make_step(
    solver: diffrax.AbstractSolver, rnn: CTRNN, dt: Scalar, x0: Float[Array, "n batch"]
) -> tuple[Any, Step]:
    """The initial solver state and the step function of `solver` for columns of states."""
    if type(solver) is diffrax.Euler:
        return None, lambda x, state, k: (x + dt * rnn(None, x, None), None, None)
    if _is_plain_explicit(solver):
        return None, _explicit_runge_kutta(type(solver).tableau, rnn, dt)  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(solver, Projected):
        return _projected(solver, rnn, dt, x0)
    term = _StepTerm(rnn, dt)
    one, zero = jnp.ones((), x0.dtype), jnp.zeros((), x0.dtype)

    def initial(x):
        return solver.init(term, zero, one, x, None)

    def step(x, state, k):
        t0 = (k % _CYCLE).astype(x0.dtype)
        x, _, _, state, result = solver.step(term, t0, t0 + 1, x, None, state, False)
        return x, state, diffrax.is_successful(result)

    if isinstance(solver, diffrax.AbstractImplicitSolver):
        solver = _with_tolerances(solver, x0.dtype)
        # diffrax would solve one system for the whole batch, with a Jacobian (n·batch)².
        step_each = jax.vmap(step, in_axes=(1, 0, None), out_axes=(1, 0, 0))
        return jax.vmap(initial, in_axes=1)(x0), step_each

    # Ours step all columns at once and know by themselves which of them failed.
    def step_all(x, state, k):
        x, state, _ = step(x, state, k)
        return x, state, solver.converged(state) if hasattr(solver, "converged") else None  # pyright: ignore[reportAttributeAccessIssue]

    return initial(x0), step_all


def _projected(
    solver: Projected, rnn: CTRNN, dt: Scalar, x0: Float[Array, "n batch"]
) -> tuple[Any, Step]:
    """The inner solver's own fast step, then the projection."""
    conservative_network_of(_StepTerm(rnn, dt), solver)
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


def _with_tolerances(
    solver: diffrax.AbstractImplicitSolver, dtype: Any
) -> diffrax.AbstractImplicitSolver:
    """Tolerances for the root finder, which diffrax leaves to an adaptive step size."""
    tolerance = float(jnp.finfo(dtype).eps) ** 0.5
    finder = solver.root_finder
    names = ("rtol", "atol", "norm")
    # What is still open is a marker object, neither a number nor a norm.
    missing = [n for n in names if not eqx.is_inexact_array_like(getattr(finder, n, 0.0))]
    missing = [n for n in missing if not callable(getattr(finder, n))]
    if not missing:
        return solver
    values = [optx.max_norm if n == "norm" else tolerance for n in missing]
    return eqx.tree_at(lambda s: [getattr(s.root_finder, n) for n in missing], solver, values)


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

    def f(x):
        return rnn(None, x, None)

    def advance(x, coefficients, slopes):
        terms = [float(a) * k for a, k in zip(coefficients, slopes, strict=True) if a != 0]
        return x + dt * sum(terms[1:], start=terms[0])

    def step(x, state, k):
        slopes = [f(x)]
        for row in tableau.a_lower[:-1]:
            slopes.append(f(advance(x, row, slopes)))
        last = advance(x, tableau.a_lower[-1], slopes)
        if tableau.ssal:  # the last stage is the solution
            return last, None, None
        slopes.append(f(last))
        return advance(x, tableau.b_sol, slopes), None, None

    return step
