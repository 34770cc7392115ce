"""Solvers that know diffrax alone, as `simulate` takes them."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jax import lax

from .._network.inputs import CONTINUOUS
from .._network.model import CTRNN
from .._network.rows import Rows, field, has_rows
from .._util.types import Array, Int, Scalar, State
from .base import (
    AbstractNetworkSolver,
    Columns,
    Declarations,
    Input,
    Step,
    initial_state,
    one_step,
    time_at,
)

# Their steps are elementwise in the state: they may as well take a batch of states as columns.
_ELEMENTWISE = (diffrax.Euler, diffrax.LeapfrogMidpoint, diffrax.ReversibleHeun)


def adapted(solver: diffrax.AbstractSolver) -> Declarations:
    """A solver with all that it may declare: itself where it is one of ours."""
    kind = type(solver)  # isinstance is true of a solver that wraps one, too
    if issubclass(kind, AbstractNetworkSolver):
        return solver  # pyright: ignore[reportReturnType]
    if _is_explicit_runge_kutta(kind):
        return _ExplicitRungeKutta(solver)
    if issubclass(type(_innermost(solver)), diffrax.AbstractImplicitSolver):
        return _Implicit(solver)
    return _Columns(solver) if _is_elementwise(solver) else _EachState(solver)


def _is_explicit_runge_kutta(kind: type) -> bool:
    return (
        issubclass(kind, diffrax.AbstractERK)
        and isinstance(kind.tableau, diffrax.ButcherTableau)
        and kind.step is diffrax.AbstractRungeKutta.step
    )


def _is_elementwise(solver: diffrax.AbstractSolver) -> bool:
    if type(solver) is diffrax.HalfSolver:
        return _is_elementwise(solver.solver)
    return type(solver) in _ELEMENTWISE or _is_explicit_runge_kutta(type(solver))


def _innermost(solver: Any) -> Any:
    """What a solver wraps, through all wrappers; itself where it wraps none."""
    while issubclass(type(solver), diffrax.AbstractWrappedSolver):
        solver = solver.solver
    return solver


class _Foreign(Declarations):
    """A solver that is asked for diffrax's methods only."""

    def __init__(self, solver: Any):
        self.solver = solver

    @property
    def name(self):
        return type(self.solver).__name__

    @property
    def inputs(self):
        # Two steps at once see an input through the second of them alone.
        two_steps = isinstance(_innermost(self.solver), diffrax.LeapfrogMidpoint)
        return (CONTINUOUS,) if two_steps else super().inputs

    @property
    def is_adaptive(self):
        return isinstance(self.solver, diffrax.AbstractAdaptiveSolver)

    def with_tolerances(self, rtol, atol):
        return for_tolerances(self.solver, rtol, atol)


def _slope(
    rnn: CTRNN, dt: Scalar, k: Any, fraction: float, x: State | Rows, u: Input | None
) -> State | Rows:
    """x' at a fraction of step k."""
    if isinstance(x, Rows):
        return field(rnn, x, None if u is None else u(fraction))
    args = None if u is None else lambda _: u(fraction)
    return rnn(time_at(k, fraction, dt), x, args)


class _Columns(_Foreign):
    """All states at once, as columns."""

    unrolls: ClassVar[bool] = True

    def products_of_rows(self, rnn):
        return int(type(self.solver) is diffrax.Euler and has_rows(rnn))

    def begin(self, rnn, dt, x0, u=None):
        def euler_step(x, state, k, u=None):
            return x + dt * _slope(rnn, dt, k, 0.0, x, u), None, None

        solver = for_forward_mode(self.solver)

        def step(x, state, k, u=None):
            x, state, _ = one_step(solver, rnn, dt, x, state, k, u)
            return x, state, None

        if type(self.solver) is diffrax.Euler:
            return None, euler_step
        return initial_state(solver, rnn, dt, x0, u), step


class _ExplicitRungeKutta(_Foreign):
    """The stages written out: the same numbers as `solver.step`, without its loop over stages.

    A last stage that is the first of the next step (FSAL) is left to that one: as many slopes are
    computed, and from step to step only the state is handed on, and kept for reverse mode.
    """

    unrolls: ClassVar[bool] = True

    @property
    def arrays_per_step(self):
        return self.solver.tableau.num_stages + 3

    def products_of_rows(self, rnn):
        tableau = self.solver.tableau
        return tableau.num_stages - tableau.ssal if has_rows(rnn) else 0

    def begin(self, rnn, dt, x0, u=None):
        tableau = self.solver.tableau

        def f(k, stage, x, u):
            fraction = float(tableau.c[stage - 1]) if stage else 0.0
            return _slope(rnn, dt, k, fraction, x, u)

        def advance(x, coefficients, slopes):
            terms = [float(a) * k for a, k in zip(coefficients, slopes, strict=True) if a != 0]
            return x + dt * sum(terms[1:], start=terms[0])

        def step(x, state, k, u=None):
            slopes = [f(k, 0, x, u)]
            for stage, row in enumerate(tableau.a_lower[:-1], 1):
                slopes.append(f(k, stage, advance(x, row, slopes), u))
            last = advance(x, tableau.a_lower[-1], slopes)
            if tableau.ssal:  # the last stage is the solution
                return last, None, None
            slopes.append(f(k, len(tableau.a_lower), last, u))
            return advance(x, tableau.b_sol, slopes), None, None

        return None, step


def column_of(u: Input | None, column: Int[Array, ""]) -> Input | None:
    """The input of one trajectory."""
    if u is None:
        return None

    def one(fraction):
        value = u(fraction)
        return value[:, column] if value.ndim == 2 else value

    return one


class _EachState(_Foreign):
    """One state at a time: nothing else is known of a user's own solver.

    Nor of what wraps one of ours: its result would be one for the whole batch.
    """

    def begin(
        self, rnn: CTRNN, dt: Scalar, x0: Columns, u: Input | None = None
    ) -> tuple[Any, Step]:
        def initial(x, column):
            return initial_state(for_steps_from(x, self.solver), rnn, dt, x, column_of(u, column))

        def one(x, state, k, u, column):
            solver = for_steps_from(x, self.solver)
            return one_step(solver, rnn, dt, x, state, k, column_of(u, column))

        columns = jnp.arange(x0.shape[1])

        def step(x, state, k, u=None):
            each = jax.vmap(partial(one, k=k, u=u), in_axes=(1, 0), out_axes=(1, 0, 0))
            return each(x, state, column=columns)

        return jax.vmap(initial, in_axes=(1, 0))(x0, columns), step


class _Implicit(_EachState):
    """diffrax's Newton method, for each state alone: else the Jacobian were (n·batch)²."""

    works_alone: ClassVar[bool] = False  # lineax compares shapes with shardings
    checks_each_step: ClassVar[bool] = True


def for_forward_mode(solver: Any) -> Any:
    """With stages in a loop that has derivatives in both modes: diffrax's own has none in this."""
    inner = _innermost(solver)
    # "lax" of the first is a loop without reverse mode; of the others "bounded" is none.
    kinds = {diffrax.AbstractRungeKutta: "bounded", diffrax.AbstractSRK: "lax"}
    kind = next((kind for cls, kind in kinds.items() if isinstance(inner, cls)), None)
    if kind is None or inner.scan_kind is not None:
        return solver

    def of_stages(solver: Any) -> Any:
        return _innermost(solver).scan_kind

    return eqx.tree_at(of_stages, solver, kind, is_leaf=lambda leaf: leaf is None)


def _with_tolerances(solver: Any, rtol: Any, atol: Any) -> Any:
    """The root finder of an implicit solver with these tolerances, where its own are left open.

    Chord iterations, and not diffrax's own ones: those take it for divergence where the updates
    have come down to rounding.
    """
    inner = _innermost(solver)
    if not isinstance(inner, diffrax.AbstractImplicitSolver):
        return solver
    options = [getattr(inner.root_finder, name, 0.0) for name in ("rtol", "atol", "norm")]
    # What is still open is a marker object, neither a number nor a norm.
    if all(isinstance(o, float | int) or hasattr(o, "dtype") or callable(o) for o in options):
        return solver
    finder = optx.Chord(rtol, atol, optx.max_norm)
    return eqx.tree_at(lambda solver: _innermost(solver).root_finder, solver, finder)


def for_steps_from(x: State, solver: Any) -> Any:
    """As `simulate` steps it, with both modes of derivatives.

    An implicit solver has tolerances in shares of the state: no result depends on its unit.
    """
    solver = for_forward_mode(solver)
    rtol = float(jnp.finfo(x.dtype).eps) ** 0.5
    size = jnp.maximum(jnp.max(jnp.abs(x)), float(jnp.finfo(x.dtype).tiny))
    return _with_tolerances(solver, rtol, rtol * lax.stop_gradient(size))


def for_tolerances(solver: Any, rtol: Scalar, atol: Scalar) -> Any:
    """A solver as `diffrax.diffeqsolve` takes it for adaptive steps."""
    if not isinstance(_innermost(solver), diffrax.AbstractImplicitSolver):
        return solver
    solver = _with_tolerances(solver, rtol, atol)
    return _Unwrapped(solver) if isinstance(solver, diffrax.AbstractWrappedSolver) else solver


class _Unwrapped(diffrax.AbstractAdaptiveSolver):
    """A wrapped solver that does not pass for the one inside, whose attributes it lacks.

    isinstance(HalfSolver(ImplicitEuler()), AbstractImplicitSolver) is true, and so
    diffrax.diffeqsolve asks it for a root finder.
    """

    inner: Any
    interpolation_cls: ClassVar[Any] = property(lambda self: self.inner.interpolation_cls)
    term_structure: ClassVar[Any] = property(lambda self: self.inner.term_structure)

    def order(self, terms):
        return self.inner.order(terms)

    def error_order(self, terms):
        return self.inner.error_order(terms)

    def init(self, terms, t0, t1, y0, args):
        return self.inner.init(terms, t0, t1, y0, args)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        return self.inner.step(terms, t0, t1, y0, args, solver_state, made_jump)

    def func(self, terms, t0, y0, args):
        return self.inner.func(terms, t0, y0, args)
