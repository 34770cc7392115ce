"""States between two points of the grid of steps: a step to the side, that fits."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from .._network.model import CTRNN
from .._util.types import Array, Bool, Int, Scalar, State
from ..solvers._foreign import adapted
from ..solvers.base import Input
from .adaptive import solve_columns
from .drive import Drive
from .problem import Plan, Problem


class Later(CTRNN):
    """A network with an equation of its own, whose time counts from `began` on."""

    network: CTRNN
    began: Scalar

    def __init__(self, network: CTRNN, began: Scalar):
        self.network, self.began = network, began
        for name in ("weights", "activation", "form", "bias", "leak", "input_weights"):
            setattr(self, name, getattr(network, name))

    def __call__(self, t, x, args=None):
        return self.network(self.began + t, x, args)


def network_from(problem: Problem, k: Array) -> CTRNN:
    """The network where step k is the first."""
    if not problem.rnn.has_own_equation:
        return problem.rnn
    return Later(problem.rnn, k.astype(problem.rnn.dtype) * problem.dt)


def input_during(problem: Problem, drive: Drive, k: Any) -> Input | None:
    """The input at fractions of step k."""
    held = drive.held(k, 1)
    return drive.during(k, None if held is None else held[0], problem.dt)


def fitting(
    problem: Problem, plan: Plan, drive: Drive, x: State, k: Any, fraction: Scalar
) -> tuple[State, Bool[Array, " batch"] | None]:
    """The state `fraction` of a step after columns x at step k; with tolerances, of several.

    And which columns were solved as the solver promises; None where nothing is to be solved.
    """
    u = input_during(problem, drive, k)
    if problem.tolerances is not None:
        seconds = fraction * problem.dt
        nothing = seconds <= 0  # which diffrax cannot solve
        span = jnp.where(nothing, problem.dt, seconds)
        held = None if drive.path is not None or u is None else u(0)
        xs, _, ok = solve_columns(problem, plan, drive)(x, k, span[None], held)
        return jnp.where(nothing, x, xs[0]), nothing | ok
    part = None if u is None else lambda f: u(fraction * f)
    solver = adapted(problem.solver)
    # Steps are counted from here: two-step methods tell by that which is their first.
    remembered, step = solver.begin(network_from(problem, k), fraction * problem.dt, x, part)
    y, _, converged = step(x, remembered, jnp.zeros_like(k), part)
    return y, converged


def first_unsolved(at: Int[Array, "*batch"], beside: Int[Array, "*batch"] | None) -> Array:
    """The earlier of two steps, -1 where there is none."""
    if beside is None:
        return at
    return jnp.where((beside >= 0) & ((at < 0) | (beside < at)), beside, at)
