"""The exact flow of linear networks."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, NamedTuple

import diffrax
import jax
import jax.numpy as jnp

from .._network.activations import Linear
from .._network.model import CTRNN, check_input, per_neuron
from .._network.products import product
from .._util import checks
from .._util.types import Array, Float, Scalar, State, any_at_all
from ._common import during_step, network_of
from ._pairs import coarse, exponential_change, two_sum
from .base import AbstractNetworkSolver, Input, dense_info


class ExactLinear(AbstractNetworkSolver):
    """x(t + h) = exp(hM) x(t) + ∫₀ʰ exp(sM) ds (b + B u), for `Linear()`, M = A - diag(γ).

    Exact for any step size where the input u is held through the step; a continuous one is taken
    from the middle of the step, an error of order 2. For skew-symmetric A without leak exp(hA) is a
    rotation. A matrix of rounded numbers is none: in float32 it loses some percent of the energy in
    10⁶ steps. So exp(hA) - 1 is used with twice the digits, and the digits that states lose to
    rounding are kept beside them: norm and energy are kept to rounding, and the phase to a random
    walk of it. The matrix exponential is computed once, and again only where the step size changes.

    Raises:
        ValueError: when used on a network with another activation.
        TypeError: when the term is not an `ODETerm` of a CTRNN.

    Source:
        Casoni et al. 2025, Theorem 1. The integral is a column of the exponential of the
        augmented matrix [[M, b], [0, 0]] (Van Loan 1978).
    """

    remembers_result: ClassVar[bool] = False  # the propagator, and digits that still are missing

    def order(self, terms: Any) -> int | None:
        """No order: the error is rounding at any step size."""
        return None

    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> Any:
        """The propagator of the first step size, and no rounding to make good yet."""
        h = terms.contr(t0, t1)
        rnn = self._linear_network(terms)
        lost = jnp.zeros_like(y0) if rnn.is_conservative else None
        return _State(h, _propagator(rnn, h, args is not None), lost)

    def step(
        self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any, solver_state: Any, made_jump: Any
    ) -> Any:
        """One step from t0 to t1."""
        h = terms.contr(t0, t1)
        known, propagator, lost = solver_state
        rnn, u = self._linear_network(terms), during_step(args, t0, t1)
        driven = u is not None
        propagator = jax.lax.cond(
            any_at_all((h != known)[None]), lambda: _propagator(rnn, h, driven), lambda: propagator
        )
        push = _push(rnn, u)
        if propagator.second is None:
            y1 = _affine(propagator.first, y0, push)
        else:
            # The large part without rounding: it would lock orbits of a few steps to a cycle.
            large = coarse(y0)
            small = product(propagator.first[0], (y0 - large) + lost)
            y1, low = two_sum(y0, _affine(propagator.first, large, push))
            y1, lost = two_sum(y1, low + (lost + (small + _affine(propagator.second, y0, push))))
            lost = jax.lax.stop_gradient(lost)
        info = dense_info(terms, t0, t1, y0, y1, args, h)
        return y1, None, info, _State(h, propagator, lost), diffrax.RESULTS.successful

    def _linear_network(self, terms) -> CTRNN:
        rnn = network_of(terms, self)
        if not isinstance(rnn.activation, Linear):
            got = type(rnn.activation).__name__
            checks.fail("solver", "activation Linear() for ExactLinear", got)
        return rnn


class _Affine(NamedTuple):
    matrix: Float[Array, "n n"]
    response: Float[Array, "n k"] | None  # to what pushes: 1, for the bias, and the inputs


def _push(rnn: CTRNN, u: Input | None) -> Array | None:
    """1, where there is a bias, and the inputs."""
    value = None if u is None else u(0.5)
    if value is not None:
        check_input(rnn, "inputs", value)
    if rnn.bias is None:
        return value
    rest = () if value is None else value.shape[1:]
    one = jnp.ones((1, *rest), rnn.dtype)
    return one if value is None else jnp.concatenate([one, value])


def _affine(part: _Affine, y: State, push: Array | None) -> State:
    moved = product(part.matrix, y)
    if part.response is None or push is None:
        return moved
    return moved + per_neuron(product(part.response, push), moved)


class _Propagator(NamedTuple):
    """exp(hM); or for a rotation the two parts of exp(hA) - 1."""

    first: _Affine
    second: _Affine | None


class _State(NamedTuple):
    h: Scalar
    propagator: _Propagator
    lost: State | None  # the digits that a rotated state lost to rounding


@partial(jax.checkpoint, static_argnums=2)  # so that reverse mode stores no intermediate of it
def _propagator(rnn: CTRNN, h: Scalar, driven: bool) -> _Propagator:
    n, M = rnn.size, rnn.weights.as_matrix()
    if rnn.leak is not None:
        M = M - jnp.diag(jnp.broadcast_to(rnn.leak, (n,)))
    pushed = [] if rnn.bias is None else [rnn.bias[:, None]]
    if driven and rnn.input_weights is not None:
        pushed.append(rnn.input_weights)
    units = [_unit(columns, M) for columns in pushed]
    augmented = M
    if pushed:
        columns = jnp.concatenate([a / unit for a, unit in zip(pushed, units, strict=True)], axis=1)
        k = columns.shape[1]
        augmented = jnp.zeros((n + k, n + k), M.dtype).at[:n, :n].set(M).at[:n, n:].set(columns)

    def affine(flow):
        if not pushed:
            return _Affine(flow, None)
        unit = jnp.concatenate(
            [jnp.broadcast_to(u, a.shape[1:]) for a, u in zip(pushed, units, strict=True)]
        )
        return _Affine(flow[:n, :n], flow[:n, n:] * unit[None])

    if not rnn.is_conservative:
        return _Propagator(affine(jax.scipy.linalg.expm(h * augmented)), None)
    first, second = exponential_change(h, augmented)
    return _Propagator(affine(first), affine(jax.lax.stop_gradient(second)))


def _unit(columns: Array, M: Array) -> Scalar:
    """The unit in which these are as large as M, which would lose its digits beside them."""
    sizes = (jnp.frexp(jnp.max(jnp.abs(a)))[1] for a in (columns, M))
    return jax.lax.stop_gradient(jnp.ldexp(jnp.ones((), M.dtype), next(sizes) - next(sizes)))
