"""The classical Runge-Kutta method."""

from __future__ import annotations

from typing import Any, ClassVar

import diffrax

from .._network.model import CTRNN
from .._network.rows import has_rows
from .base import AbstractNetworkSolver, dense_info


class RK4(AbstractNetworkSolver):
    """The classical fourth-order Runge-Kutta method, at fixed steps.

    Four evaluations a step. The energy drifts linearly in time with a rate of order h⁵.

    Source:
        Hairer, Nørsett, Wanner, Solving Ordinary Differential Equations I, section II.1.

    Example:
        >>> ct.simulate(rnn, x0, dt=0.05, num_steps=1000, solver=ct.RK4())
    """

    unrolls: ClassVar[bool] = True

    def products_of_rows(self, rnn: CTRNN) -> int:
        """Four, one a slope."""
        return 4 if has_rows(rnn) else 0

    def order(self, terms: Any) -> int:
        """4."""
        return 4

    def step(
        self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any, solver_state: Any, made_jump: Any
    ) -> Any:
        """One step from t0 to t1."""
        h = terms.contr(t0, t1)
        middle = t0 + (t1 - t0) / 2
        k1 = terms.vf_prod(t0, y0, args, h)
        k2 = terms.vf_prod(middle, y0 + k1 / 2, args, h)
        k3 = terms.vf_prod(middle, y0 + k2 / 2, args, h)
        k4 = terms.vf_prod(t1, y0 + k3, args, h)
        y1 = y0 + (k1 + 2 * k2 + 2 * k3 + k4) / 6
        info = dense_info(terms, t0, t1, y0, y1, args, h)
        return y1, None, info, None, diffrax.RESULTS.successful
