"""Linear memory: how much of an input of the past a linear read-out finds in the state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from .._network.activations import Linear
from .._network.model import CTRNN, one_network
from .._simulate.api import simulate
from .._util import checks
from .._util.types import ArrayLike, Float
from ..solvers import ExactLinear
from .ridge import ridge_regression

DISTRIBUTIONS = ("uniform", "normal")


@dataclass(frozen=True)
class MemoryCapacity:
    """Memory capacities; inputs beside each other are added up.

    Attributes:
        delays: (D + 1,) 0, 1, ..., in samples.
        capacities: (D + 1,) share of the variance of the input so long ago that a linear read-out
            of the state explains, as measured: 1 is all of it. An estimate of 0 may be negative.
        exact: (D + 1,) the same by a formula, of linear networks that forget; else None.
        exact_total: the sum over all delays, also those beyond D, or None.
    """

    delays: np.ndarray
    capacities: np.ndarray
    exact: np.ndarray | None
    exact_total: float | None

    @property
    def total(self) -> float:
        """The sum over the delays that were measured; at most n for all delays together."""
        return float(np.sum(self.capacities))

    def __repr__(self) -> str:
        exact = ""
        if self.exact is not None:
            exact = f", exactly {np.sum(self.exact):.4g} ({self.exact_total:.4g} over all delays)"
        return f"MemoryCapacity: {self.total:.4g} over delays 0 to {self.delays[-1]}{exact}"


def memory_capacity(
    rnn: CTRNN,
    dt: ArrayLike,
    *,
    key: Any,
    max_delay: int | None = None,
    num_steps: int = 20_000,
    washout: int = 1000,
    ridge: ArrayLike = 0.0,
    amplitude: ArrayLike = 1.0,
    distribution: str = "uniform",
    solver: diffrax.AbstractSolver[Any] | None = None,
    steps_per_sample: int = 1,
) -> MemoryCapacity:
    """How much of white input of so many samples ago is in the state, for each delay.

    The network starts from 0 and is driven by independent samples u_k of mean 0, each held for dt.
    The capacity at delay j is the share of the variance of u_{k-j} that the best c·x + d explains
    at the end of sample k, corrected for the n numbers that are fitted. For `Linear()` there is
    also the exact one: with x_{k+1} = F x_k + G u_k, b_j = F^j G and P = Σ_j b_j b_jᵀ, the solution
    of P = F P Fᵀ + G Gᵀ, it is b_jᵀ P⁻¹ b_j. Over all delays these sum to n, whatever the leak: a
    small one spreads them out. A network that forgets nothing has no stationary state, and no
    exact capacities.

    Args:
        rnn: with `input_weights`, n neurons.
        dt: seconds from sample to sample.
        key: PRNG key of the samples.
        max_delay: D, the longest delay in samples; 4 n unless given.
        num_steps: samples that are used.
        washout: samples before them, longer than the memory.
        ridge: as in `fit_readout`.
        amplitude: standard deviation of the samples: nonlinear networks remember small ones best.
        distribution: "uniform" or "normal".
        solver: as `simulate` takes it; unless given `ExactLinear()` for `Linear()`, else
            `diffrax.Tsit5()`.
        steps_per_sample: time steps in each dt.

    Raises:
        TypeError, ValueError: where an argument has the wrong kind, shape or value.

    Source:
        Jaeger, "Short term memory in echo state networks", GMD Report 152, 2001. Dambre,
        Verstraeten, Schrauwen, Massar, "Information processing capacity of dynamical systems",
        Scientific Reports 2, 514, 2012 (that they sum to n).

    Example:
        >>> weights = ct.DenseSkew.init(jax.random.key(0), 20)
        >>> B = jax.random.normal(jax.random.key(1), (20, 1))
        >>> rnn = ct.CTRNN(weights, ct.Linear(), leak=0.02, input_weights=B)
        >>> ct.memory_capacity(rnn, 1.0, key=jax.random.key(2), max_delay=200).total
    """
    one_network(rnn)
    if not rnn.num_inputs:
        checks.fail("rnn", "a network with input_weights", "one without")
    if any(map(checks.is_traced, jax.tree.leaves(rnn))):
        checks.fail("rnn", "known values: outside jit, vmap, grad", "a tracer", TypeError)
    n, m, dtype = rnn.size, rnn.num_inputs, rnn.dtype
    dt = checks.positive_float("dt", dt)
    checks.prng_key("key", key)
    max_delay = 4 * n if max_delay is None else checks.integer("max_delay", max_delay, 0)
    washout = checks.integer("washout", washout, 0)
    if washout < max_delay:
        checks.fail("washout", f"at least the longest delay, {max_delay}", washout)
    num_steps = checks.integer("num_steps", num_steps, 1)
    if num_steps < 2 * n + 2:
        checks.fail("num_steps", f"at least 2 n + 2 = {2 * n + 2} samples", num_steps)
    penalty = float(checks.real("ridge", ridge))
    if penalty < 0:
        checks.fail("ridge", "a number >= 0", penalty)
    amplitude = checks.positive("amplitude", amplitude, dtype)
    checks.one_of("distribution", distribution, DISTRIBUTIONS)
    steps = checks.integer("steps_per_sample", steps_per_sample, 1)
    linear = isinstance(rnn.activation, Linear)
    if solver is None:
        solver = ExactLinear() if linear else diffrax.Tsit5()

    total = washout + num_steps
    if distribution == "normal":
        u = jax.random.normal(key, (total, m), dtype)
    else:
        u = jax.random.uniform(key, (total, m), dtype, -np.sqrt(3), np.sqrt(3))
    u = u * amplitude
    run = simulate(
        rnn,
        jnp.zeros(n, dtype),
        dt=dt / steps,
        num_steps=total * steps,
        save_every=steps,
        solver=solver,
        inputs=u if steps == 1 else jnp.repeat(u, steps, axis=0),
    )
    xs, samples = np.asarray(run.xs)[1 + washout :], np.asarray(u)
    if int(run.stopped_at) >= 0:
        checks.fail("rnn", "one whose states stay finite", "states that are not")
    delays = np.arange(max_delay + 1)
    capacities = _measured(xs, samples, delays, washout, penalty)
    exact = exact_total = None
    if linear:
        exact, exact_total = _exact(rnn, dt, len(delays))
    return MemoryCapacity(delays, capacities, exact, exact_total)


def _measured(
    xs: Float[np.ndarray, "N n"],
    u: Float[np.ndarray, "W m"],
    delays: np.ndarray,
    washout: int,
    ridge: float,
) -> Float[np.ndarray, " D"]:
    """Adjusted shares of explained variance; xs are the states after u[washout:]."""
    size, n = xs.shape
    Y = np.stack([u[washout - j : washout - j + size] for j in delays], axis=1).reshape(size, -1)
    Y = Y.astype(np.float64)
    C, d = ridge_regression(xs, Y, ridge)
    left = np.mean((Y - xs.astype(np.float64) @ C.T - d) ** 2, axis=0) / np.var(Y, axis=0)
    # Of noise alone n numbers explain n / (N - 1).
    shares = 1 - left * (size - 1) / (size - n - 1)
    return shares.reshape(len(delays), -1).sum(axis=1)


def _exact(rnn: CTRNN, dt: float, count: int) -> tuple[np.ndarray | None, float | None]:
    """Capacities of a linear network at `count` delays, and their sum over all."""
    n, m = rnn.size, rnn.num_inputs
    M = np.asarray(rnn.weights.as_matrix(), np.float64)
    if rnn.leak is not None:
        M = M - np.diag(np.broadcast_to(np.asarray(rnn.leak, np.float64), (n,)))
    augmented = np.zeros((n + m, n + m))
    augmented[:n, :n], augmented[:n, n:] = M, np.asarray(rnn.input_weights, np.float64)
    F, G = np.split(scipy.linalg.expm(dt * augmented)[:n], [n], axis=1)
    if np.abs(np.linalg.eigvals(F)).max() > 1 - 1e-12:
        return None, None
    # A root of P = RᵀR, each time of twice as many delays: P itself would lose what is below 1e-8
    # of the largest deviation to rounding, and with it directions that remember as much as others.
    root, power = G.T, F
    while np.linalg.norm(power) > np.finfo(float).eps ** 2:
        root = np.linalg.qr(np.concatenate([root, root @ power.T]), mode="r")
        power = power @ power
    _, deviations, axes = np.linalg.svd(root, full_matrices=False)
    # Directions that the input does not reach hold nothing.
    seen = deviations > n * np.finfo(float).eps * deviations.max()
    whitened = axes[seen] / deviations[seen, None]
    b, capacities = G, np.empty(count)
    for j in range(count):
        capacities[j] = np.sum((whitened @ b) ** 2)
        b = F @ b
    return capacities, float(np.sum(seen))
