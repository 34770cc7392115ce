"""Once around an orbit: the monodromy matrix and its eigenvalues, the Floquet multipliers."""

from __future__ import annotations

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._network.invariants import bias_offset, total_energy
from .._network.model import CTRNN, states_for
from .._network.products import product
from .._util import checks
from .._util.types import Array, ArrayLike, Float, Inexact
from .beside import Beside
from .for_each import for_each

MAX_STEPS = 2**16  # of a turn: a smooth orbit takes some tens, one with a hundred kinks a thousand


def monodromy(rnn: CTRNN, x0: ArrayLike, period: ArrayLike) -> Float[Array, "*shape n n"]:
    """How a small change of a state has grown or turned after some time, M = ∂φ_T(x0)/∂x0.

    M is V(T) of V' = (∂f/∂x)(x(t)) V, V(0) = I, solved beside the orbit by `diffrax.Dopri8` with
    adaptive steps. Of a closed orbit and its period T it is the monodromy matrix, of any other
    state the tangent map over that time. For skew-symmetric weights without leak det M = 1.

    Differentiable in reverse mode by the network, x0 and the period, for smooth activations.

    Args:
        rnn: any network, n neurons.
        x0: (..., n) states.
        period: T, a number > 0 or (...,), in seconds.

    Returns:
        (..., n, n); nan of what is not finite.

    Raises:
        TypeError, ValueError: for a wrong shape, dtype or value of an argument.

    Source:
        Y. A. Kuznetsov, "Elements of Applied Bifurcation Theory", section 1.5.

    Example:
        >>> rnn = ct.CTRNN(ct.BlockSkew.from_hz(jnp.array([1.0])))
        >>> x0 = jnp.array([0.1, 0.0])
        >>> ct.monodromy(rnn, x0, ct.period(rnn, x0))
    """
    states, times, shape = _states_and_times(rnn, x0, period)
    return turns(rnn, states, times)[1].reshape(*shape, rnn.size, rnn.size)


def floquet_multipliers(rnn: CTRNN, x0: ArrayLike, period: ArrayLike) -> Inexact[Array, "*shape n"]:
    """The eigenvalues of the `monodromy` matrix of closed orbits.

    A closed orbit is unstable where one lies outside the unit circle. With skew-symmetric weights
    and without leak they come in pairs μ, 1/μ, and 2 + k of them are 1, for the direction of the
    flow, the energy and the k vectors of the kernel of A. Those are known and are taken out
    before the others are computed, as a multiple eigenvalue keeps half of the digits only.

    Args:
        rnn: any network, n neurons.
        x0: (..., n) states on closed orbits.
        period: (...,) their periods in seconds, as `period` or `nonlinear_modes` finds them.

    Returns:
        (..., n) complex, by ascending |angle|, and by ascending modulus where that is equal; nan
        where x0 has not returned after the period to eps^0.4 of the orbit's size (5e-7 in
        float64, 2e-3 in float32), or is at rest.

    Raises:
        TypeError, ValueError: for a wrong shape, dtype or value of an argument, and for a bias
            outside the range of A in the current form of skew-symmetric weights.

    Source:
        Y. A. Kuznetsov, "Elements of Applied Bifurcation Theory", section 1.5; for those that are
        1, K. R. Meyer, D. C. Offin, "Introduction to Hamiltonian Dynamical Systems", chapter 8.

    Example:
        >>> modes = ct.nonlinear_modes(rnn)
        >>> ct.floquet_multipliers(rnn, modes.states, modes.periods)  # (modes, E, n)
    """
    states, times, shape = _states_and_times(rnn, x0, period)
    offset = bias_offset(rnn) if rnn.is_conservative else None
    moved, M, _ = turns(rnn, states, times)
    return multipliers_of(rnn, states, moved, M, offset).reshape(*shape, rnn.size)


def _states_and_times(rnn: CTRNN, x0: Any, period: Any) -> tuple[Array, Array, tuple[int, ...]]:
    x0 = states_for(rnn, x0)
    shape = x0.shape[:-1]
    if isinstance(period, int) and not isinstance(period, bool):
        period = float(period)
    times = checks.float_array("period", period, f"() or {shape}", ndim=(0, len(shape)))
    if times.shape not in ((), shape):
        checks.fail("period", f"shape () or {shape}", times.shape)
    times = jnp.broadcast_to(times.astype(x0.dtype), shape)
    return x0.reshape(-1, rnn.size), times.reshape(-1), shape


@eqx.filter_jit
def turns(rnn: CTRNN, x0: Array, T: Array) -> tuple[Array, Array, Array]:
    """Ways from x0 after T, as shares of the sizes of the orbits; monodromies; the sizes."""
    rnn = rnn.prepared()

    def one(x0, T):
        here = Beside(rnn, x0)
        start = jnp.zeros_like(x0)
        # The radius of a round orbit of this speed and period.
        size = jnp.max(jnp.abs(here.velocity(start))) * T / (2 * np.pi)
        size = jax.lax.stop_gradient(jnp.where(size > 0, size, 1))
        adjoint = diffrax.RecursiveCheckpointAdjoint()
        moved, M = once_around(here, start[None], T[None], size, adjoint)
        return moved[0], jnp.where(T > 0, M[0], jnp.nan), size

    return for_each(one, x0, T, n=rnn.size)


@eqx.filter_jit
def multipliers_of(
    rnn: CTRNN, x0: Array, moved: Array, M: Array, offset: Array | None = None
) -> Inexact[Array, "batch n"]:
    """`floquet_multipliers` of states (batch, n) from what `turns` finds."""
    eps = float(jnp.finfo(x0.dtype).eps)
    closes = jnp.max(jnp.abs(moved), axis=-1) <= eps**0.4
    if rnn.is_conservative:
        kernel = kernel_projector(rnn.weights.as_matrix())
        gradient = jax.vmap(jax.grad(lambda x: total_energy(rnn, x, offset)))(x0)
        flow = jax.vmap(lambda x: rnn(None, x))(x0)
        return jnp.where(
            closes[:, None],
            jax.vmap(eigenvalues_beside_ones, (0, 0, 0, None))(M, flow, gradient, kernel),
            jnp.nan,
        )
    return eigenvalues(jnp.where(closes[:, None, None], M, jnp.nan))


def once_around(
    here: Beside,
    y: Float[Array, "nodes n"],
    T: Float[Array, " nodes"],
    size: Float[Array, ""],
    adjoint: diffrax.AbstractAdjoint,
    rtol: Any = None,
) -> tuple[Float[Array, "nodes n"], Float[Array, "nodes n n"]]:
    """Where each y goes in its time T, as (φ_T(y) - y)/size, and ∂φ_T/∂y, by common steps.

    Errors are controlled for both, for the states to rtol, unless given eps^0.84 (7e-14 and 2e-6):
    the steps become small where σ' jumps, too. Roundings of their sum are kept: an unstable orbit
    magnifies each on its way as much as its tangents. It is nan where the steps do not suffice.
    """
    dtype = y.dtype
    eps = float(jnp.finfo(dtype).eps)
    rtol = eps**0.84 if rtol is None else rtol

    @jax.vmap
    def velocities(w, V, y, T):
        def along(v):
            return jax.jvp(here.velocity, (y + size * w,), (v,))

        velocity, turned = jax.vmap(along, 1, (None, 1))(V)
        return velocity * (T / size), T * turned

    def field(s, state, args):
        w, _, V = state
        velocity, turned = velocities(w, V, y, T)
        return velocity, jnp.zeros_like(w), turned

    # What rounding makes of small ways from a state that is not 0, no step can mend.
    speed = jnp.max(jnp.abs(jax.vmap(here.velocity)(y)))
    noise = jax.lax.stop_gradient(4 * here.rounding()[1] / jnp.where(speed > 0, speed, jnp.inf))
    mended = rtol / (rtol + noise)

    def norm(error):
        w, _, V = error
        return jnp.maximum(mended * jnp.max(jnp.abs(w)), eps**0.19 * jnp.max(jnp.abs(V)))

    eye = jnp.broadcast_to(jnp.eye(y.shape[1], dtype=dtype), (*y.shape, y.shape[1]))
    start = jnp.zeros_like(y), jnp.zeros_like(y), eye
    zero = jnp.zeros((), dtype)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field), _Compensated(), zero, zero + 1, None, start,
        stepsize_controller=diffrax.PIDController(rtol, rtol, norm), adjoint=adjoint,
        max_steps=MAX_STEPS, throw=False,
    )  # fmt: skip
    assert solution.ys is not None
    moved, _, M = jax.tree.map(lambda leaf: leaf[0], solution.ys)
    ended = diffrax.is_successful(solution.result)
    return jnp.where(ended, moved, jnp.nan), jnp.where(ended, M, jnp.nan)


class _Compensated(diffrax.Dopri8):
    """Steps of (w, lost, V): `lost` is what rounding takes from the sum w of many small steps."""

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        w, lost, V = y0

        def beside(t, moved, args):
            d, _, V = moved
            return terms.vf(t, (w + d, lost, V), args)

        term, start = diffrax.ODETerm(beside), (lost, jnp.zeros_like(lost), V)
        moved, error, dense, solver_state, result = super().step(
            term, t0, t1, start, args, solver_state, made_jump
        )
        d, _, V = moved
        end = w + d
        taken = end - w
        lost = (w - (end - taken)) + (d - taken)
        return (end, lost, V), error, dense, solver_state, result


@jax.custom_jvp
def kernel_projector(A: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """The orthogonal projector to the numerical kernel of a skew-symmetric A; 0 without one."""
    _, s, vh = jnp.linalg.svd(A)
    none = s <= A.shape[0] * float(jnp.finfo(A.dtype).eps) * jnp.max(s)
    kernel = jnp.where(none[:, None], vh, 0)
    return product(kernel.T, kernel)


@kernel_projector.defjvp
def _kernel_projector_jvp(primals, tangents):
    (A,), (dA,) = primals, tangents
    K = kernel_projector(A)
    # 0 = d(A K) = dA K + A dK, of a kernel of the same dimension; A + K has an inverse.
    turned = product(jnp.linalg.solve(A + K, product(dA, K)), K)
    turned = turned - product(K, turned)
    return K, -turned - turned.T


def eigenvalues_beside_ones(
    M: Float[Array, "n n"], flow: Array, gradient: Array, kernel: Array
) -> Inexact[Array, " n"]:
    """`eigenvalues` of a monodromy matrix, where those that are 1 are known to be.

    M maps the tangents of the level set of energy and Casimirs to themselves and keeps the flow
    (rate form: and the kernel, along which orbits are shifted). So on the complement of flow,
    gradient and kernel it has the other eigenvalues; what is taken out is given one beyond all of
    these, by which it is known again: beside 1 rounding would leave eps |M| of it.
    """
    taken = kernel
    for v in (flow, gradient):  # these are normal to each other, but not always to the kernel
        v = v - product(kernel, v)
        v = v / jnp.linalg.norm(v)
        taken = taken + v[:, None] * v[None]
    rest = jnp.eye(len(M), dtype=M.dtype) - taken
    beyond = jax.lax.stop_gradient(1 + 2 * jnp.linalg.norm(M))
    found = eigenvalues(product(rest, product(M, rest)) + beyond * taken)
    count = jnp.round(jnp.trace(taken)).astype(jnp.int32)
    known = jnp.argsort(jnp.argsort(-jnp.abs(found))).astype(jnp.int32) < count
    return in_order(jnp.where(known & jnp.isfinite(found), 1, found))


def eigenvalues(M: Float[Array, "*batch n n"]) -> Inexact[Array, "*batch n"]:
    """Of matrices, by |angle| and then by modulus."""
    finite = jnp.all(jnp.isfinite(M), axis=(-2, -1))
    found = jnp.linalg.eigvals(jnp.where(finite[..., None, None], M, 0))
    return jnp.where(finite[..., None], in_order(found), jnp.nan)


def in_order(found: Inexact[Array, "*batch n"]) -> Inexact[Array, "*batch n"]:
    """By |angle|, and by modulus where that is equal."""
    angles = jnp.abs(jnp.angle(found))
    order = jnp.lexsort((jnp.abs(found), jnp.where(angles < 1e-12, 0, angles)))
    return jnp.take_along_axis(found, order, axis=-1)
