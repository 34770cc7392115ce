"""Explicit Poisson integrators: the flows of single neurons, composed."""

from __future__ import annotations

from typing import Any, ClassVar

import diffrax
import equinox as eqx
import jax.numpy as jnp

from .._network.model import CTRNN
from .._network.products import AbstractTwoGroups
from .._network.rows import Rows, has_rows
from .._util import checks
from .._util.types import Array, Float
from ._common import biases_at, conservative_network_of, during_step, middles
from ._leapfrog import Leapfrog
from ._sweep import Sweep
from ._sweep_rows import SweepOfRows
from .base import AbstractNetworkSolver, AbstractRetrace, Input, dense_info
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

    An input is seen at the middle of each substep: the flows stay explicit, and what is symmetric
    stays reversible.

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
        >>> ct.simulate(rnn, x0, dt=0.05, num_steps=10**5, save_every=1000,
        ...             solver=ct.PoissonSplitting())
    """

    can_undo: ClassVar[bool] = True
    _sweep: ClassVar[type[Sweep]] = Sweep
    order_: int = eqx.field(static=True)
    compensated: bool = eqx.field(static=True)

    def __init__(self, order: int = 2, compensated: bool = False):
        if order not in ORDERS:
            checks.fail("order", "1, 2, 4 or 6", repr(order))
        self.order_ = int(order)
        self.compensated = checks.flag("compensated", compensated)

    def order(self, terms: Any) -> int:
        """1, 2, 4 or 6."""
        return self.order_

    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> Any:
        """The velocity that the next step begins with (leapfrog), and what rounding has cut off."""
        steps = self._steps(conservative_network_of(terms, self))
        velocity = None
        if isinstance(steps, Leapfrog) and args is None:  # an input changes it at once
            velocity = steps.velocity_at(_columns(y0))
        return velocity, jnp.zeros_like(_columns(y0)) if self.compensated else None

    def step(
        self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any, solver_state: Any, made_jump: Any
    ) -> Any:
        """One step from t0 to t1."""
        h = terms.contr(t0, t1)
        rnn = conservative_network_of(terms, self)
        steps, u = self._steps(rnn), during_step(args, t0, t1)
        biases = None if u is None else self.biases(rnn, u)
        x, (velocity, lost) = _columns(y0), solver_state
        if isinstance(steps, Leapfrog):
            if velocity is not None and made_jump is True:  # not the state that a step ended with
                velocity = steps.velocity_at(x)
            x, velocity, lost = steps.step(x, velocity, lost, h, biases)
        else:
            x, lost = steps.step(x, lost, h, biases)
        y1 = x.reshape(y0.shape)
        info = dense_info(terms, t0, t1, y0, y1, args, h)
        return y1, None, info, (velocity, lost), diffrax.RESULTS.successful

    def retrace(self, rnn: CTRNN) -> AbstractRetrace:
        """The way back for `adjoint="reversible"`: shears undone one by one."""
        return self._steps(rnn)

    def biases(self, rnn: CTRNN, u: Input) -> Array:
        """b + B u at the middle of each substep."""
        return biases_at(rnn, u, middles(self._parts))

    def on(self, platform: str) -> PoissonSplitting:
        """With the moves of many neurons in a kernel, where it is not a CPU."""
        return self if platform == "cpu" else _OfRows(self.order_, self.compensated)

    @property
    def _parts(self) -> tuple[float, ...]:
        return COMPOSITIONS.get(self.order_, (1.0,))

    def _steps(self, rnn: CTRNN) -> Leapfrog | Sweep:
        fractions = jnp.asarray(self._parts, rnn.dtype)
        symmetric = self.order_ > 1
        if isinstance(rnn.weights, AbstractTwoGroups):
            first, last = (0.5, 0.5) if symmetric else (1.0, 0.0)
            return Leapfrog(rnn, fractions, first, last)
        return self._sweep(rnn, fractions, there_and_back=symmetric)


class _OfRows(PoissonSplitting):
    _sweep: ClassVar[type[Sweep]] = SweepOfRows

    def products_of_rows(self, rnn: CTRNN) -> int:
        swept = not isinstance(rnn.weights, AbstractTwoGroups) and not self.compensated
        return (2 if self.order_ > 1 else 1) * len(self._parts) if swept and has_rows(rnn) else 0

    def begin(self, rnn, dt, x0, u=None):
        remembered, of_columns = super().begin(rnn, dt, x0, u)

        def step(x, state, k, u=None):
            if not isinstance(x, Rows):
                return of_columns(x, state, k, u)
            sweep = self._steps(rnn)
            assert isinstance(sweep, SweepOfRows)
            biases = None if u is None else self.biases(rnn, u)
            return sweep.step_of_rows(x, dt, biases), state, None

        return remembered, step


def _columns(y: Array) -> Float[Array, "n batch"]:
    return y if y.ndim == 2 else y[:, None]
