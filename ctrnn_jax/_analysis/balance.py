"""The energy balance of driven networks: what came in, what the leak took, what is missing."""

from __future__ import annotations

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._network.inputs import input_at
from .._network.invariants import bias_offset, total_energy, with_offset
from .._network.model import CTRNN, per_neuron, states_for
from .._network.products import product
from .._simulate.arguments import check_inputs, check_solver
from .._util import checks
from .._util.types import Array, ArrayLike, Float, Scalar, finite_or_nan
from ..solvers._foreign import adapted
from ..solvers.base import Input, time_at

# Nodes and weights on [0, 1] of the quadrature over a step.
_NODES, _WEIGHTS = (np.polynomial.legendre.leggauss(4)[i] for i in (0, 1))
_NODES, _WEIGHTS = (_NODES + 1) / 2, _WEIGHTS / 2


class EnergyBalance(eqx.Module):
    """The energy of trajectories and where it came from and went to, since the first state.

    E(t) - E(0) = supplied - dissipated + missing.

    Attributes:
        ts: (S,) seconds.
        energy: (..., S) E; in the rate form with the input of the step that begins there.
        supplied: (..., S) what the input brought in.
        dissipated: (..., S) what the leak, or weights that are not skew-symmetric, took out.
        exchanged: (..., S) the sum of what came in and went out in each step, without signs: what
            `missing` is to be compared with.
    """

    ts: Float[Array, " S"]
    energy: Float[Array, "*batch S"]
    supplied: Float[Array, "*batch S"]
    dissipated: Float[Array, "*batch S"]
    exchanged: Float[Array, "*batch S"]

    @property
    def missing(self) -> Float[Array, "*batch S"]:
        """What neither input nor leak accounts for: the error of solver and quadrature."""
        return self.energy - self.energy[..., :1] - self.supplied + self.dissipated

    def __repr__(self) -> str:
        def largest(values):
            return f"{np.max(np.abs(np.asarray(values)), initial=0):.3g}"

        last = [np.asarray(a)[..., -1] for a in (self.supplied, self.dissipated, self.exchanged)]
        supplied, dissipated, exchanged = map(largest, last)
        return (
            f"EnergyBalance of {int(np.prod(self.energy.shape[:-1]))} trajectories over"
            f" {self.energy.shape[-1] - 1} steps (largest of all)\n"
            f"  supplied {supplied}, dissipated {dissipated}, exchanged {exchanged}\n"
            f"  missing {largest(self.missing)}"
        )


def energy_balance(
    rnn: CTRNN,
    xs: ArrayLike,
    inputs: Any = None,
    *,
    dt: ArrayLike,
    solver: diffrax.AbstractSolver[Any] = diffrax.Tsit5(),  # noqa: B008 - frozen and stateless
) -> EnergyBalance:
    """Where the energy of a driven network came from and went to, step by step.

    With y = ∇E, σ(x) + c in the current form (b = A c) and σ(z) in the rate form,

        current: dE/dt = yᵀ B u - yᵀ γ x        rate: dE/dt = yᵀ B u' - yᵀ A γ x,

    and where A is not skew-symmetric yᵀ A y besides. An input that is held exchanges energy in the
    rate form at its jumps alone, E(x, u_k+1) - E(x, u_k). The integrals over a step are those of
    `DiscreteGradient` itself where that made the steps, and the balance closes to rounding; else
    Gauss-Legendre's along the cubic through both states and their slopes, of order 4.

    Args:
        rnn: the network.
        xs: (..., S, n) the states at 0, dt, 2 dt, ...: of `simulate` with `save_every=1`.
        inputs: as `simulate` had them, for S - 1 steps.
        dt: seconds between two states.
        solver: that made the steps.

    Returns:
        `EnergyBalance`. nan from a state on that is not finite.

    Raises:
        TypeError, ValueError: for wrong shapes, dtypes or values; for a bias outside the range of A
            in the current form; for a network with an equation of its own.

    Source:
        van der Schaft, Jeltsema, "Port-Hamiltonian Systems Theory", 2014, chapter 2; Celledoni and
        Høiseth, arXiv:1706.08621, for discrete gradients.

    Example:
        >>> run = ct.simulate(rnn, x0, dt=0.1, num_steps=len(u), inputs=u, solver=solver)
        >>> ct.energy_balance(rnn, run.xs, u, dt=0.1, solver=solver).missing[..., -1]
    """
    x0 = states_for(rnn, xs)
    name = "xs"
    if x0.ndim < 2 or x0.shape[-2] < 2 or x0.size == 0:
        checks.fail(name, f"at least two states, (..., S, {rnn.size})", f"shape {x0.shape}")
    if rnn.has_own_equation:
        got = f"a subclass with another one, {type(rnn).__name__}"
        checks.fail("rnn", "the equation of CTRNN", got)
    check_solver(solver)
    dt = checks.real("dt", dt, x0.dtype, positive=True)
    shared, each = check_inputs(rnn, inputs, x0[..., 0, :], x0.shape[-2] - 1, adapted(solver))
    return _balance(rnn, x0, shared, each, dt, solver)


def supplied_energy(
    rnn: CTRNN,
    xs: ArrayLike,
    inputs: Any,
    *,
    dt: ArrayLike,
    solver: diffrax.AbstractSolver[Any] = diffrax.Tsit5(),  # noqa: B008 - frozen and stateless
) -> Float[Array, "*batch S"]:
    """The energy that the input brought in since the first state; see `energy_balance`.

    Args:
        rnn, xs, inputs, dt, solver: as `energy_balance` takes them.

    Returns:
        (..., S), 0 at first.

    Raises:
        TypeError, ValueError: as `energy_balance` does.
    """
    return energy_balance(rnn, xs, inputs, dt=dt, solver=solver).supplied


@eqx.filter_jit
def _balance(
    rnn: CTRNN, xs: Array, shared: Any, each: Array | None, dt: Scalar, solver: Any
) -> EnergyBalance:
    rnn = rnn.prepared()
    *batch, saves, n = xs.shape
    rows = xs.reshape(-1, saves, n)
    count, steps = len(rows), saves - 1
    k = jnp.arange(steps, dtype=jnp.int32)
    held = None
    if each is not None:
        held = each.reshape(count, steps, -1)
    elif isinstance(shared, jax.Array):
        held = jnp.broadcast_to(shared, (count, *shared.shape))

    def columns(a):
        """(trajectories, steps, ...) as (..., trajectories · steps)."""
        return jnp.moveaxis(a.reshape(-1, a.shape[-1]), 0, -1)

    def during(fraction):
        if held is not None:
            return columns(held)
        u = jax.vmap(lambda k: input_at(shared, time_at(k, fraction, dt)))(k)
        return columns(jnp.broadcast_to(u, (count, *u.shape)))

    u: Input | None = None if shared is None and each is None else during
    c = bias_offset(rnn)
    start, end = columns(rows[:, :-1]), columns(rows[:, 1:])
    supplied, dissipated = _exchanges(rnn, (start, end), dt=dt, u=u, solver=solver, c=c)

    def over_time(a):
        return a.reshape(count, steps)

    def energy(x, u):
        return over_time(total_energy(rnn, x, c, u) * finite_or_nan(x, axis=0))

    first = energy(start, None if u is None else u(0.0))
    last = energy(end, None if u is None else u(1.0))
    supplied, dissipated = over_time(supplied), over_time(dissipated)
    if held is not None and rnn.form == "rate":
        supplied = supplied.at[:, :-1].add(first[:, 1:] - last[:, :-1])  # the jumps

    def total(a):
        sums = jnp.cumsum(a, axis=1)
        return jnp.pad(sums, ((0, 0), (1, 0))).reshape(*batch, saves)

    return EnergyBalance(
        ts=jnp.arange(saves).astype(dt.dtype) * dt,
        energy=jnp.concatenate([first, last[:, -1:]], axis=1).reshape(*batch, saves),
        supplied=total(supplied),
        dissipated=total(dissipated),
        exchanged=total(jnp.abs(supplied) + jnp.abs(dissipated)),
    )


def _exchanges(
    rnn: CTRNN,
    ends: tuple[Float[Array, "n steps"], Float[Array, "n steps"]],
    *,
    dt: Scalar,
    u: Input | None,
    solver: diffrax.AbstractSolver[Any],
    c: Array | None,
) -> tuple[Float[Array, " steps"], Float[Array, " steps"]]:
    """What came in and what was lost inside each step."""
    start, end = ends
    none = jnp.zeros(start.shape[1:], start.dtype)
    if u is not None and rnn.is_conservative:
        own = adapted(solver).supplied(rnn, start, dt, u)
        if own is not None:
            return own, none

    def slope(x, fraction):
        value = None if u is None else u(fraction)
        return dt * rnn(0.0, x, None if value is None else lambda _: value)

    v0, v1 = slope(start, 0.0), slope(end, 1.0)

    def between(s):
        h00, h10 = (1 + 2 * s) * (1 - s) ** 2, s * (1 - s) ** 2
        h01, h11 = s * s * (3 - 2 * s), s * s * (s - 1)
        return h00 * start + h10 * v0 + h01 * end + h11 * v1

    supplied, dissipated = none, none
    for s, weight in zip(_NODES.tolist(), _WEIGHTS.tolist(), strict=True):
        x = between(s)
        value, change = (None, None) if u is None else _with_rate(u, s, start.dtype)
        y = rnn.activation(rnn.preactivation(x, value))
        pushed = change  # the rate form sees how an input changes, the current form what it is
        if rnn.form == "current":
            y = with_offset(y, c)
            pushed = None if value is None else dt * value
        if pushed is not None and rnn.input_weights is not None:
            supplied = supplied + weight * jnp.sum(y * product(rnn.input_weights, pushed), 0)
        if rnn.leak is not None:
            lost = per_neuron(rnn.leak, x) * x
            lost = lost if rnn.form == "current" else rnn.weights.matvec(lost)
            dissipated = dissipated + weight * dt * jnp.sum(y * lost, axis=0)
        if not rnn.weights.is_skew:
            dissipated = dissipated - weight * dt * jnp.sum(y * rnn.weights.matvec(y), axis=0)
    return supplied, dissipated


def _with_rate(u: Input, s: float, dtype: Any) -> tuple[Array, Array]:
    """The input at a fraction of the step, and its change a step."""
    at = jnp.asarray(s, dtype)
    return jax.jvp(u, (at,), (jnp.ones_like(at),))
