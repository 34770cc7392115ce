"""Projection back to the initial energy after every step of another solver."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import diffrax
import jax.numpy as jnp
from jax import lax

from .._network.model import CTRNN
from .._util import checks
from .._util.types import Array, Bool, Float, Scalar
from ._common import Level, conservative_network_of, level_of, merged
from ._foreign import adapted, for_steps_from, for_tolerances
from .base import AbstractNetworkSolver, Columns, Input, Step, dense_info

_MAX_ITERATIONS = 16


class _State(NamedTuple):
    solver: Any
    level: Level
    converged: Bool[Array, "*batch"]


class Projected(AbstractNetworkSolver, diffrax.AbstractWrappedSolver):
    """Any one-step solver, its result put back on the initial energy level after every step.

    x ← x - λ ∇E(x) with E(x - λ ∇E(x)) = E(x(0)), λ by Newton's method. Order and cost are those
    of the solver, plus three products in the rate form and none in the current form; the energy is
    kept to rounding. Casimirs are not. With an input there is no level to go back to: it is refused
    (`DiscreteGradient` keeps the balance).

    Args:
        solver: any one-step diffrax solver of ordinary differential equations; with error
            estimates also at adaptive steps. Saves between those are interpolated, and off the
            level by the error of the interpolation.

    Raises:
        TypeError, ValueError: for what is no solver, a two-step method, and when used on a
            network that conserves nothing.

    Source:
        Hairer, Lubich, Wanner, Geometric Numerical Integration, section IV.4.

    Example:
        >>> ct.simulate(rnn, x0, dt=0.1, num_steps=1000, solver=ct.Projected(ct.RK4()))
    """

    solver: diffrax.AbstractSolver[Any]
    keeps_energy: ClassVar[bool] = True
    inputs: ClassVar[tuple[str, ...]] = ()
    works_alone: ClassVar[bool] = property(lambda self: adapted(self.solver).works_alone)  # pyright: ignore
    checks_each_step: ClassVar[bool] = property(  # pyright: ignore
        lambda self: adapted(self.solver).checks_each_step
    )

    def __init__(self, solver: diffrax.AbstractSolver[Any]):
        expected = "a diffrax solver such as diffrax.Tsit5()"
        checks.instance("solver", solver, diffrax.AbstractSolver, expected)
        if isinstance(solver, diffrax.LeapfrogMidpoint | Projected):
            checks.fail("solver", "a one-step method, not projected yet", type(solver).__name__)
        self.solver = solver

    @property
    def term_structure(self) -> Any:
        """That of the solver."""
        return self.solver.term_structure

    @property
    def term_compatible_contr_kwargs(self) -> Any:
        """That of the solver."""
        return self.solver.term_compatible_contr_kwargs

    @property
    def root_finder(self) -> Any:
        """That of an implicit solver, whose tolerances diffrax takes from the step size's."""
        return self.solver.root_finder  # pyright: ignore[reportAttributeAccessIssue]

    def order(self, terms: Any) -> int | None:
        """That of the solver."""
        return self.solver.order(terms)

    def error_order(self, terms: Any) -> Any:
        """That of the solver."""
        return self.solver.error_order(terms)

    def func(self, terms: Any, t0: Any, y0: Any, args: Any) -> Any:
        """The vector field."""
        return self.solver.func(terms, t0, y0, args)

    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> Any:
        """The solver's state, the energy level, and whether the last projection succeeded."""
        rnn = conservative_network_of(terms, self)
        if args is not None:
            checks.fail(
                "args", "no input for Projected, as none of the energy is kept with one", "one"
            )
        state = for_steps_from(y0, self.solver).init(terms, t0, t1, y0, args)
        return _State(state, level_of(rnn, y0), jnp.ones(y0.shape[1:], bool))

    def step(
        self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any, solver_state: Any, made_jump: Any
    ) -> Any:
        """One step from t0 to t1."""
        rnn = conservative_network_of(terms, self)
        # What the solver remembers of its last result is not true of the projected one.
        y1, error, _, state, result = for_steps_from(y0, self.solver).step(
            terms, t0, t1, y0, args, solver_state.solver, True
        )
        y1, converged = self.project(rnn, y1, solver_state.level)
        result = merged(result, jnp.all(converged))
        state = _State(state, solver_state.level, converged)
        info = dense_info(terms, t0, t1, y0, y1, args, terms.contr(t0, t1))
        return y1, error, info, state, result

    def begin(
        self, rnn: CTRNN, dt: Scalar, x0: Columns, u: Input | None = None
    ) -> tuple[Any, Step]:
        """The inner solver's own fast step, then the projection."""
        conservative_network_of(diffrax.ODETerm(rnn), self)
        solver, level = adapted(self.solver), level_of(rnn, x0)
        remembered, inner_step = solver.begin(rnn, dt, x0)

        def step(x, state, k, u=None):
            remembered, level = state
            if solver.remembers_result:
                remembered, _ = solver.begin(rnn, dt, x)
            x, remembered, converged = inner_step(x, remembered, k, u)
            x, reached = self.project(rnn, x, level)
            return x, (remembered, level), reached if converged is None else reached & converged

        return (remembered, level), step

    def with_tolerances(self, rtol: Scalar, atol: Scalar) -> diffrax.AbstractSolver[Any]:
        """Its implicit solver's root finder with these tolerances."""
        return for_tolerances(self, rtol, atol)

    @staticmethod
    def project(
        rnn: CTRNN, y: Float[Array, " n *batch"], level: Level
    ) -> tuple[Float[Array, " n *batch"], Bool[Array, "*batch"]]:
        """States on their level, and whether it was reached."""
        sigma, z = rnn.activation, rnn.preactivation(y)
        if rnn.form == "rate":
            direction = -rnn.weights.matvec(sigma(z))  # ∇E = Aᵀ σ(z)
            dz, slope = rnn.weights.matvec(direction), None
        else:
            c = 0.0 if level.offset is None else level.offset.reshape(-1, *[1] * (y.ndim - 1))
            direction = dz = sigma(z) + c
            slope = None if level.offset is None else c

        def miss(move):
            """E(y + move ∇E) - level, its derivative by `move`, and the size of its terms."""
            there = z + move[None] * dz
            terms, change = sigma.potential(there), sigma(there) * dz
            if slope is not None:
                terms, change = terms + slope * there, change + slope * dz
            size = jnp.sum(jnp.abs(terms), axis=0)
            return jnp.sum(terms, axis=0) - level.energy, jnp.sum(change, axis=0), size

        bound = float(jnp.finfo(y.dtype).eps) ** 0.6

        def solve(f, guess):
            del f

            # Newton's error squares: an update from within the bound ends at rounding.
            def update(state):
                move, found, lost, count = state
                value, derivative, size = miss(move)
                flat = derivative == 0
                new = move - jnp.where(flat, 0, value / jnp.where(flat, 1, derivative))
                move = jnp.where(found | lost, move, new)
                lost = ~jnp.isfinite(value)
                found = found | (~lost & (jnp.abs(value) <= bound * size))
                return move, found, lost, count + 1

            def wanted(state):
                _, found, lost, count = state
                return jnp.any(~(found | lost)) & (count < _MAX_ITERATIONS)

            no = jnp.zeros(guess.shape, bool)
            start = guess, no, no, jnp.zeros((), jnp.int32)
            move, found, _, _ = lax.while_loop(wanted, update, start)
            return move, found.astype(guess.dtype)  # custom_root differentiates it, as a constant

        def tangent_solve(g, value):
            derivative = g(jnp.ones_like(value))
            flat = derivative == 0
            return jnp.where(flat, 0, value / jnp.where(flat, 1, derivative))

        guess = jnp.zeros_like(level.energy)
        move, converged = lax.custom_root(
            lambda move: miss(move)[0], guess, solve, tangent_solve, has_aux=True
        )
        return y + move[None] * direction, converged > 0
