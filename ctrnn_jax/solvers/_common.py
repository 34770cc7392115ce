"""What the solvers share: the network behind a diffrax term, dense output, default methods."""

from __future__ import annotations

from typing import Any, ClassVar

import diffrax

from .. import _checks
from ..model import CTRNN


def network_of(terms: Any, solver: Any) -> CTRNN:
    """The CTRNN that a term integrates, for solvers that use its structure."""
    term = terms
    while hasattr(term, "term"):  # diffrax wraps terms to integrate backwards in time
        term = term.term
    rnn = getattr(term, "vector_field", None)
    name = type(solver).__name__
    return _checks.instance("terms", rnn, CTRNN, f"ODETerm(rnn) with a CTRNN for {name}")


def conservative_network_of(terms: Any, solver: Any) -> CTRNN:
    """The CTRNN that a term integrates, refused where there is no energy to conserve."""
    rnn = network_of(terms, solver)
    if not rnn.is_conservative:
        got = "a leak" if rnn.leak is not None else type(rnn.weights).__name__
        needs = f"skew-symmetric weights and no leak for {type(solver).__name__}"
        _checks.fail("rnn", needs, got)
    return rnn


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

    @staticmethod
    def _dense_info(terms, t0, t1, y0, y1, args, control) -> dict:
        k0 = terms.vf_prod(t0, y0, args, control)
        k1 = terms.vf_prod(t1, y1, args, control)
        return {"y0": y0, "y1": y1, "k0": k0, "k1": k1}
