"""Explicit Poisson integrators: the flows of single neurons, composed."""

from __future__ import annotations

import diffrax
import equinox as eqx
import jax.numpy as jnp
from jax import lax

from .. import _checks
from .._types import Array, Float
from ..model import CTRNN
from ._common import AbstractNetworkSolver, conservative_network_of
from ._sweeps import Sweeps, sweeps_of
from .compositions import COMPOSITIONS

ORDERS = (1, *COMPOSITIONS)


class PoissonSplitting(AbstractNetworkSolver):
    r"""Coordinate splitting: the energy error stays bounded for exponentially long times.

    The energy is a sum over neurons, and the flow of each summand is explicit. In the rate form
    it is x_i ← x_i + h σ((A x + b)_i), one neuron after another (Gauss-Seidel instead of Jacobi).
    One sweep is a Poisson map of order 1; a sweep of h/2 forward and one backward are symmetric,
    reversible and of order 2; compositions of these reach orders 4 and 6. In the current form the
    same sweep runs on s, with z = x + A s, and x ← x + A s.

    The structure of the weights is used: `BipartiteSkew` and `BlockSkew` run as leapfrog, all
    neurons of a group at once; other weights are swept in small blocks, so that nearly all work is
    matrix products: an order-2 step costs two of them.

    Args:
        order: 1, 2, 4 or 6: one, two, ten or eighteen sweeps a step.
        compensated: sums up the states with Kahan's compensation, so that rounding does not grow
            with the number of steps: in float32 for more than about 10⁵ steps.

    Raises:
        ValueError: for another order, and when used on a network that conserves nothing.
        TypeError: when the term is not an `ODETerm` of a CTRNN.

    Source:
        Hairer, Lubich, Wanner, Geometric Numerical Integration, sections II.5 and VII.4;
        McLachlan and Quispel, "Splitting methods", Acta Numerica 2002.

    Example:
        >>> ct.simulate(rnn, x0, dt=0.05, num_steps=10**6, save_every=10**4,
        ...             solver=ct.PoissonSplitting())
    """

    order_: int = eqx.field(static=True)
    compensated: bool = eqx.field(static=True)

    def __init__(self, order: int = 2, compensated: bool = False):
        if order not in ORDERS:
            _checks.fail("order", "1, 2, 4 or 6", repr(order))
        self.order_ = int(order)
        self.compensated = _checks.flag("compensated", compensated)

    def order(self, terms):
        """1, 2, 4 or 6."""
        return self.order_

    def init(self, terms, t0, t1, y0, args):
        """What rounding has cut off so far, and what the next step need not compute again."""
        rnn = conservative_network_of(terms, self)
        if self.compensated:
            return jnp.zeros_like(y0)
        if rnn.form == "current":
            return None
        sweeps = sweeps_of(rnn, _bias(rnn))
        return sweeps.known(sweeps.pack(_columns(y0), None))

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        """One step from t0 to t1."""
        rnn = conservative_network_of(terms, self)
        h = terms.contr(t0, t1)
        x = _columns(y0)
        if rnn.form == "rate" and not self.compensated:
            x, solver_state = self._substeps(sweeps_of(rnn, _bias(rnn)), x, h, solver_state)
            y1 = x.reshape(y0.shape)
        else:
            increment = self._increment(rnn, x, h).reshape(y0.shape)
            if self.compensated:
                increment = increment - solver_state
            y1 = y0 + increment
            if self.compensated:
                solver_state = (y1 - y0) - increment
        dense_info = self._dense_info(terms, t0, t1, y0, y1, args, h)
        return y1, None, dense_info, solver_state, diffrax.RESULTS.successful

    def _increment(self, rnn: CTRNN, x: Float[Array, "n batch"], h: Array) -> Array:
        """x1 - x: both forms as sweeps of s from 0, with z = offset + A s."""
        zero = jnp.zeros_like(x)
        if rnn.form == "rate":
            return self._substeps(sweeps_of(rnn, rnn.preactivation(x)), zero, h)[0]
        bias = _bias(rnn)
        if bias is None:
            return rnn.weights.matvec(self._substeps(sweeps_of(rnn, x), zero, h)[0])

        # A bias adds a constant velocity, a flow of its own: half before and half after a sweep.
        def substep(total, h):
            before = h * bias if self.order_ == 1 else h / 2 * bias
            sweeps = sweeps_of(rnn, x + total + before)
            parts = self._substep(sweeps, sweeps.pack(zero, None), h)
            return total + h * bias + rnn.weights.matvec(sweeps.unpack(parts)), None

        return lax.scan(substep, zero, h * self._fractions(x.dtype))[0]

    def _fractions(self, dtype) -> Float[Array, " substeps"]:
        return jnp.asarray((1.0,) if self.order_ == 1 else COMPOSITIONS[self.order_], dtype)

    def _substep(self, sweeps: Sweeps, parts, h: Array):
        return sweeps.once(parts, h) if self.order_ == 1 else sweeps.there_and_back(parts, h)

    def _substeps(self, sweeps: Sweeps, s: Array, h: Array, known=None):
        """s after all substeps of a step, and what the next step need not compute again."""
        parts = sweeps.pack(s, known)
        if self.order_ <= 2:
            parts = self._substep(sweeps, parts, h)
        else:  # a loop: compile time does not grow with the order
            parts, _ = lax.scan(
                lambda parts, h: (self._substep(sweeps, parts, h), None),
                parts,
                h * self._fractions(s.dtype),
            )
        return sweeps.unpack(parts), sweeps.known(parts)


def _columns(y: Array) -> Float[Array, "n batch"]:
    return y if y.ndim == 2 else y[:, None]


def _bias(rnn: CTRNN) -> Float[Array, "n 1"] | None:
    return None if rnn.bias is None else rnn.bias[:, None]
