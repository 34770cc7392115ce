"""What the conserving solvers share: the network behind a diffrax term, the energies to keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp

from .._network.inputs import input_at
from .._network.invariants import bias_offset, total_energy
from .._network.model import CTRNN, check_input
from .._util import checks
from .._util.types import Array, Bool, Float, State
from .base import Input


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


def during_step(args: Any, t0: Any, t1: Any) -> Input | None:
    """The input that diffrax calls `args`, at fractions of a step."""
    if args is None:
        return None
    return lambda fraction: input_at(args, t0 + fraction * (t1 - t0))


def biases_at(rnn: CTRNN, u: Input, fractions: Sequence[float]) -> Float[Array, "times n columns"]:
    """b + B u at fractions of a step, as columns: one for all states, or one for each."""

    def at(fraction):
        value = u(fraction)
        check_input(rnn, "inputs", value)
        bias = rnn.bias_with(value)
        assert bias is not None
        return bias.reshape(rnn.size, -1)

    if len(fractions) == 1:
        return at(fractions[0])[None]
    return jax.vmap(at)(jnp.asarray(fractions, rnn.dtype))


def middles(parts: Sequence[float]) -> list[float]:
    """The middles of the parts of a step, as fractions of it."""
    return [sum(parts[:i], 0.0) + part / 2 for i, part in enumerate(parts)]


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
