"""The exact flow of linear networks."""

from __future__ import annotations

import diffrax
import jax
import jax.numpy as jnp

from .. import _checks
from .._types import Array, Float, matmul_precision
from ..activations import Linear
from ..model import CTRNN
from ._common import AbstractNetworkSolver, dense_info, network_of


class ExactLinear(AbstractNetworkSolver):
    """x(t + h) = exp(hM) x(t) + ∫₀ʰ exp(sM) ds b, for activation `Linear()`, M = A - diag(γ).

    Exact for any step size. For skew-symmetric A without leak exp(hA) is orthogonal: norm and
    energy are kept to rounding. The matrix exponential is computed once, and again
    only where the step size changes.

    Raises:
        ValueError: when used on a network with another activation.
        TypeError: when the term is not an `ODETerm` of a CTRNN.

    Source:
        Casoni et al. 2025, Theorem 1. The integral is a column of the exponential of the
        augmented matrix [[M, b], [0, 0]] (Van Loan 1978).
    """

    def order(self, terms):
        """No order: the error is rounding at any step size."""
        return None

    def init(self, terms, t0, t1, y0, args):
        """The propagator of the first step size."""
        h = terms.contr(t0, t1)
        return h, _propagator(self._linear_network(terms), h)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        """One step from t0 to t1."""
        h = terms.contr(t0, t1)
        known, known_propagator = solver_state
        rnn = self._linear_network(terms)
        propagator = jax.lax.cond(h == known, lambda: known_propagator, lambda: _propagator(rnn, h))
        n = rnn.size
        y1 = jnp.matmul(propagator[:, :n], y0, precision=matmul_precision())
        if rnn.bias is not None:
            y1 = y1 + propagator[:, n].reshape((n,) + (1,) * (y0.ndim - 1))
        info = dense_info(terms, t0, t1, y0, y1, args, h)
        return y1, None, info, (h, propagator), diffrax.RESULTS.successful

    def _linear_network(self, terms) -> CTRNN:
        rnn = network_of(terms, self)
        if not isinstance(rnn.activation, Linear):
            got = type(rnn.activation).__name__
            _checks.fail("solver", "activation Linear() for ExactLinear", got)
        return rnn


@jax.checkpoint  # so that reverse mode stores no intermediate of it for every step
def _propagator(rnn: CTRNN, h: Float[Array, ""]) -> Float[Array, "n columns"]:
    """exp(hM), with the bias' response as a last column where there is a bias."""
    n = rnn.size
    M = rnn.weights.as_matrix()
    if rnn.leak is not None:
        M = M - jnp.diag(jnp.broadcast_to(rnn.leak, (n,)))
    if rnn.bias is None:
        return jax.scipy.linalg.expm(h * M)
    augmented = jnp.zeros((n + 1, n + 1), M.dtype).at[:n, :n].set(M).at[:n, n].set(rnn.bias)
    return jax.scipy.linalg.expm(h * augmented)[:n]
