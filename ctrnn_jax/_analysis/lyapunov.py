"""Lyapunov exponents: how fast neighbouring orbits part."""

from __future__ import annotations

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from .._network.model import CTRNN, states_for
from .._simulate.arguments import check_solver
from .._util import checks
from .._util.types import Array, ArrayLike, Float, Scalar, finite_or_nan
from ..solvers._foreign import adapted


def lyapunov_spectrum(
    rnn: CTRNN,
    x0: ArrayLike,
    *,
    dt: ArrayLike,
    num_steps: int,
    k: int | None = None,
    transient: int = 0,
    solver: diffrax.AbstractSolver[Any] = diffrax.Tsit5(),  # noqa: B008 - frozen and stateless
    qr_every: int = 10,
) -> Float[Array, "*shape k"]:
    r"""The k largest Lyapunov exponents of orbits, in 1/s.

    A frame of k tangent vectors V is carried along each orbit, V' = (∂f/∂x)(x(t)) V, by
    differentiating the steps themselves, and made orthonormal again every `qr_every` steps,
    V = Q R, V ← Q. The exponents are λ_i = Σ log R_ii / t. The first frame is random, but the same
    in every call: the Q of `jax.random.normal(jax.random.key(0), (n, k))`.

    Their error falls like 1/t; so exponents that are 0 come out as some multiple of log(t)/t. For
    skew-symmetric weights without leak they come in pairs ±λ, their sum is 0, and at least two
    are 0 (the direction of the flow and the energy): two neurons, three in the current form and
    linear networks of any size have no other than 0.

    Args:
        rnn: the network, n neurons.
        x0: (..., n) initial states.
        dt: time step in seconds.
        num_steps: number of steps over which the exponents are averaged.
        k: how many exponents, 1 to n; all unless given.
        transient: number of steps before these, to come to an attractor and to turn the frame.
        solver: any fixed-step solver that `simulate` takes.
        qr_every: steps between two orthonormalisations: few enough that exp(Δλ qr_every dt)
            stays far below 1/eps.

    Returns:
        (..., k) in 1/s, descending; nan where an orbit does not stay finite.

    Raises:
        TypeError, ValueError: for a wrong kind, shape, dtype or value of an argument, and as
            `simulate` for a network that has no energy where the solver needs one.

    Source:
        G. Benettin, L. Galgani, A. Giorgilli, J.-M. Strelcyn, Meccanica 15, 1980; conventions of
        ChaosTools.jl (`lyapunovspectrum`), with time in steps.

    Example:
        >>> rnn = ct.CTRNN(ct.DenseSkew.init(jax.random.key(0), 8, scale=2.0), form="current")
        >>> x0 = jax.random.normal(jax.random.key(1), (32, 8))
        >>> ct.lyapunov_spectrum(rnn, x0, dt=0.1, num_steps=20_000, k=1)
    """
    x0, n = states_for(rnn, x0), rnn.size
    dt = checks.positive("dt", dt, x0.dtype)
    num_steps = checks.integer("num_steps", num_steps, 1)
    transient = checks.integer("transient", transient, 0)
    qr_every = checks.integer("qr_every", qr_every, 1)
    k = n if k is None else checks.integer("k", k, 1)
    if k > n:
        checks.fail("k", f"at most the {n} neurons", k)
    check_solver(solver)
    adapted(solver).check(rnn, x0)
    if x0.size == 0:
        return jnp.zeros((*x0.shape[:-1], k), x0.dtype)
    spans = transient, num_steps
    logs = stretching(rnn, x0.reshape(-1, n).T, dt, solver, spans, k, qr_every)[1]
    exponents = -jnp.sort(-logs, axis=-1) / (num_steps * dt)
    return exponents.reshape(*x0.shape[:-1], k)


@eqx.filter_jit
def stretching(
    rnn: CTRNN,
    x: Float[Array, "n batch"],
    dt: Scalar,
    solver: diffrax.AbstractSolver[Any],
    spans: tuple[int, ...],
    k: int,
    qr_every: int = 10,
) -> Float[Array, "spans batch k"]:
    """Logarithms of the stretching of a frame of k tangents in spans of so many steps each, one
    after another; nan where an orbit does not stay finite."""
    rnn = rnn.prepared()
    n, batch = x.shape

    def steps(x, count: int):
        # What the solver remembers is made anew, so that its tangents belong to those of x.
        solver_state, step = adapted(solver).begin(rnn, dt, x)

        def one(state, i):
            x, solver_state = state
            x, solver_state, _ = step(x, solver_state, i, None)
            return (x, solver_state), None

        (x, _), _ = lax.scan(one, (x, solver_state), jnp.arange(count))
        return x

    def stretch(state, count: int):
        """State, frame (k, n, batch) and logarithms of the stretching after `count` steps."""
        x, frame, logs = state
        push = jax.vmap(
            lambda v: jax.jvp(lambda x: steps(x, count), (x,), (v,)), out_axes=(None, 0)
        )
        x, frame = push(frame)
        q, r = jnp.linalg.qr(frame.transpose(2, 1, 0))
        logs = logs + jnp.log(jnp.abs(jnp.diagonal(r, axis1=1, axis2=2)))
        return x, q.transpose(2, 1, 0), logs

    def stretched(state, total: int):
        whole, rest = divmod(total, qr_every)
        if whole:
            state, _ = lax.scan(
                lambda state, _: (stretch(state, qr_every), None), state, length=whole
            )
        return stretch(state, rest) if rest else state

    frame, _ = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (n, k), x.dtype))
    frame = jnp.broadcast_to(frame.T[:, :, None], (k, n, batch))
    found = []
    for span in spans:
        x, frame, logs = stretched((x, frame, jnp.zeros((batch, k), x.dtype)), span)
        found.append(logs)
    # What is infinite may stay so, while slopes of 0 there leave the frame as it is.
    return jnp.stack(found) * finite_or_nan(x, axis=0)[None, :, None]
