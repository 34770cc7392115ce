"""What the solvers share: the network behind a diffrax term, dense output, default methods."""

from __future__ import annotations

import abc
from typing import Any, ClassVar, NamedTuple

import diffrax
import equinox as eqx
import jax.numpy as jnp
import optimistix as optx
from jax import lax

from .._network.invariants import bias_offset, total_energy
from .._network.model import CTRNN
from .._util import checks
from .._util.types import Array, Bool, Float, State


def network_of(terms: Any, solver: Any) -> CTRNN:
    """The CTRNN that a term integrates, for solvers that use its structure."""
    term = terms
    while hasattr(term, "term"):  # diffrax wraps terms to integrate backwards in time
        term = term.term
    name = type(solver).__name__
    rnn: Any = getattr(term, "vector_field", None)
    checks.instance("terms", rnn, CTRNN, f"ODETerm(rnn) with a CTRNN for {name}")
    if rnn.has_own_equation:
        expected = f"the equation of CTRNN for {name}, which makes steps of its own"
        checks.fail("rnn", expected, f"a subclass with another one, {type(rnn).__name__}")
    return rnn


def conservative_network_of(terms: Any, solver: Any) -> CTRNN:
    """The CTRNN that a term integrates, refused where there is no energy to conserve."""
    rnn = network_of(terms, solver)
    if not rnn.is_conservative:
        got = "a leak" if rnn.leak is not None else type(rnn.weights).__name__
        needs = f"skew-symmetric weights and no leak for {type(solver).__name__}"
        checks.fail("rnn", needs, got)
    return rnn


class Level(NamedTuple):
    """Energies to keep, and the linear term c·x that a bias of the current form adds to them."""

    energy: Float[Array, "*batch"]
    offset: Float[Array, " n"] | None


def level_of(rnn: CTRNN, y: State) -> Level:
    """The energies of states (n,) or (n, batch)."""
    offset = bias_offset(rnn)
    return Level(total_energy(rnn, y, offset), offset)


def merged(result: Any, converged: Bool[Array, ""]) -> Any:
    """A result of diffrax, turned to a failure where an equation was not solved."""
    failed: Any = diffrax.RESULTS.nonlinear_divergence
    return diffrax.RESULTS.where(converged, result, failed)


def innermost(solver: Any) -> Any:
    """What a solver wraps, through all wrappers; itself where it wraps none."""
    while isinstance(solver, diffrax.AbstractWrappedSolver):
        solver = solver.solver
    return solver


def with_tolerances(solver: Any, rtol: Any, atol: Any) -> Any:
    """The root finder of an implicit solver with these tolerances, where its own are left open.

    Chord iterations, and not diffrax's own ones: those take it for divergence where the updates
    have come down to rounding.
    """
    inner = innermost(solver)
    if not isinstance(inner, diffrax.AbstractImplicitSolver):
        return solver
    options = [getattr(inner.root_finder, name, 0.0) for name in ("rtol", "atol", "norm")]
    # What is still open is a marker object, neither a number nor a norm.
    if all(isinstance(o, float | int) or hasattr(o, "dtype") or callable(o) for o in options):
        return solver
    finder = optx.Chord(rtol, atol, optx.max_norm)
    return eqx.tree_at(lambda solver: innermost(solver).root_finder, solver, finder)


def for_steps_from(x: State, solver: Any) -> Any:
    """An implicit solver with tolerances in shares of the state: no result depends on its unit."""
    rtol = float(jnp.finfo(x.dtype).eps) ** 0.5
    size = jnp.maximum(jnp.max(jnp.abs(x)), float(jnp.finfo(x.dtype).tiny))
    return with_tolerances(solver, rtol, rtol * lax.stop_gradient(size))


def dense_info(terms, t0, t1, y0, y1, args, control) -> dict:
    """What cubic Hermite interpolation between two states needs."""
    k0 = terms.vf_prod(t0, y0, args, control)
    k1 = terms.vf_prod(t1, y1, args, control)
    return {"y0": y0, "y1": y1, "k0": k0, "k1": k1}


class AbstractNetworkSolver(diffrax.AbstractSolver):
    """A one-step method for x' = f(x) with cubic Hermite interpolation between the steps."""

    term_structure: ClassVar = diffrax.AbstractTerm
    interpolation_cls: ClassVar = diffrax.ThirdOrderHermitePolynomialInterpolation

    def init(self, terms, t0, t1, y0, args):
        """No hidden state."""
        return None

    def func(self, terms, t0, y0, args):
        """The vector field."""
        return terms.vf(t0, y0, args)


class Retraced(NamedTuple):
    """A state that was reached backwards, and the cotangents of what the steps depend on."""

    x: State
    x_bar: State
    rnn_bar: Any  # of the floating-point arrays of the network, as eqx.partition makes them
    dt_bar: Array


class AbstractRetrace(abc.ABC):
    """Steps undone one by one, pulling a cotangent back through each: reverse mode without memory.

    `solver.retrace(rnn)` gives one for a solver that can undo its steps.
    """

    @abc.abstractmethod
    def turn(self, x: State, x_bar: State) -> Any:
        """Ready to go back from x, with the cotangent of x."""

    @abc.abstractmethod
    def back(self, back: Any, dt: Array) -> Any:
        """One step undone."""

    @abc.abstractmethod
    def anchor(self, back: Any, x: State) -> Any:
        """The state that has been reached, corrected to x."""

    @abc.abstractmethod
    def meet(self, back: Any, x_bar: State) -> Any:
        """More cotangent for the state that has been reached: that of a save."""

    @abc.abstractmethod
    def arrive(self, back: Any, dt: Array) -> Retraced:
        """What has been reached and gathered."""
