"""What kind of motion a state leads to: at rest, periodic, quasi-periodic or chaotic."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._network.invariants import energy_drift
from .._network.model import CTRNN, states_for
from .._simulate.api import simulate
from .._simulate.arguments import check_solver
from .._util import checks
from .._util.types import Array, ArrayLike, Float, Int
from ..solvers._foreign import adapted
from .beside import Beside
from .lyapunov import stretching
from .period import period
from .torus import Torus, spectrum, torus

EQUILIBRIUM, PERIODIC, QUASI_PERIODIC, CHAOTIC, UNDECIDED, DIVERGED = range(6)

STEPS = 32  # of a turn of the fastest linear mode
SAMPLES = 16  # of such a turn: harmonics up to the 8th are told apart
REGULAR, EXPANDING = 3.0, 6.0  # logarithms of the stretching in half of the run
DISCRETE = 0.99  # of the power, in lines of few frequencies
MOST_DRIFT = 0.01
_CHANNELS = 16  # of many neurons so many random combinations: every line is in each of them
_NUMBERS = 2**24  # in memory at once


class Regime(eqx.Module):
    """The motion of each of the states (...,), as `regime` finds it.

    Attributes:
        status: (...,) index into `WORDS`.
        num_frequencies: (...,) independent frequencies of the lines of the spectrum, of which
            those nearer to each other than some 4 / duration count as one; 0 at rest, in chaotic
            motion and where nothing was decided.
        frequencies: (..., most) these in Hz, the strongest first; nan beyond them.
        share: (...,) of the power of z, 0 to 1, in their lines and those of their combinations.
        exponent: (...,) the largest Lyapunov exponent in 1/s, of the second half of the run.
        uncertainty: (...,) half of the difference between the quarters of that half.
        bound: () 3 / (half of the run): an exponent of 0 comes out between -bound and bound.
        period: (...,) after which a periodic orbit first returned, in seconds; else nan.
        distance: (...,) by which it then missed its start, as a share of its size; else nan.
        drift: (...,) the largest relative energy drift of the run; nan without an energy.
        WORDS: what the status tells.
    """

    status: Int[Array, "*shape"]
    num_frequencies: Int[Array, "*shape"]
    frequencies: Float[Array, "*shape most"]
    share: Float[Array, "*shape"]
    exponent: Float[Array, "*shape"]
    uncertainty: Float[Array, "*shape"]
    bound: Float[Array, ""]
    period: Float[Array, "*shape"]
    distance: Float[Array, "*shape"]
    drift: Float[Array, "*shape"]
    WORDS: ClassVar[tuple[str, ...]] = (
        "equilibrium", "periodic", "quasi-periodic", "chaotic", "undecided", "diverged",
    )  # fmt: skip

    def words(self) -> np.ndarray:
        """The status (...,) in words."""
        return np.asarray(np.array(self.WORDS)[np.asarray(self.status)])


def regime(
    rnn: CTRNN,
    x0: ArrayLike,
    *,
    dt: ArrayLike | None = None,
    num_steps: int = 2**14,
    transient: int = 0,
    solver: diffrax.AbstractSolver[Any] = diffrax.Tsit5(),  # noqa: B008 - frozen and stateless
) -> Regime:
    """Whether states lead to rest, periodic, quasi-periodic or chaotic motion, and by which signs.

    What moves is z = A x + b in the rate form, z = x in the current form: a drift of x along the
    kernel of A, which nothing else sees, is left out of account. The signs are

    - G, the logarithm of the stretching of a tangent vector in the second half of the run, that is
      the largest Lyapunov exponent times this time. In regular motion tangents grow like t, by
      log 2 there, more or less a little; in chaotic motion exponentially;
    - the lines of the spectrum of z (window sin⁶): peaks whose two sides agree about the frequency
      to 0.25 bins. The strongest is the first independent frequency, each next one is either a
      combination, q f = Σ k_i ν_i with whole numbers, as exactly as the lines are known, or one
      more of them; `most` is half of the rank of A without damping (the dimension of an invariant
      torus), else n - 1.
      Relations are looked for from the simplest, q + Σ|k_i| = 2, on, as far as one in 200
      frequencies would fulfil one by chance, and lines until 1 - 10⁻⁵ of the power is explained;
    - whether the orbit returns to its start, see `period`.

    And the rule is, by the first line that holds:

    ==============  ========================================================================
    diverged        a state is not finite
    equilibrium     z' = 0 to rounding; or G < -6: the motion dies out
    undecided       the energy has drifted by more than 1 %: `dt` is too long
    quasi-periodic  |G| < 3, and two or more frequencies and their combinations have 99 % of the
                    power
    periodic        it returns
    chaotic         G > 6, and the lines have less than 99 % of the power
    undecided       anything else: the run is too short, or two frequencies are nearer to each
                    other than some 8 / duration, or slower than that
    ==============  ========================================================================

    No part of it hangs on the units of time or, for linear networks, of states. "Chaotic" is what
    is so within the run, and weaker chaos passes for quasi-periodic in a short one.

    Args:
        rnn: any network, n neurons; inputs are 0.
        x0: (..., n) initial states.
        dt: time step in seconds; unless given 1/32 of 2π/‖A‖, the fastest period of small motions
            where σ' <= 1.
        num_steps: number of steps: unless given 512 such periods. Large amplitudes are slower with
            activations that saturate, and need more.
        transient: steps before these, to come to an attractor of networks that have some.
        solver: any fixed-step solver that `simulate` takes.

    Returns:
        A `Regime`.

    Raises:
        TypeError, ValueError: for a wrong shape, dtype or value of an argument, traced ones among
            them: the rule is evaluated outside of JAX.

    Source:
        Frequencies after J. Laskar, "Frequency analysis for multi-dimensional systems", Physica D
        67, 1993, with the closed form for windows of D. C. Rife, G. A. Vincent, Bell Syst. Tech. J.
        49, 1970; exponents after G. Benettin et al., Meccanica 15, 1980.

    Example:
        >>> rnn = ct.CTRNN(ct.DenseSkew.init(jax.random.key(0), 8), form="current")
        >>> x0 = jnp.array([0.1, 1.0])[:, None, None] * jax.random.normal(key, (2, 32, 8))
        >>> found = ct.regime(rnn, x0)
        >>> found.words(), found.num_frequencies
    """
    x0, n = states_for(rnn, x0), rnn.size
    if any(checks.is_traced(leaf) for leaf in (x0, dt, *jax.tree.leaves(rnn))):
        checks.fail("regime", "values known beforehand: no jit, vmap or grad", "traced ones")
    num_steps = checks.integer("num_steps", num_steps, 64)
    transient = checks.integer("transient", transient, 0)
    check_solver(solver)
    adapted(solver).check(rnn, x0)
    A = np.asarray(rnn.weights.as_matrix())
    rate = float(np.linalg.norm(A, 2)) or 1.0
    step = checks.positive("dt", 2 * np.pi / rate / STEPS if dt is None else dt, x0.dtype)
    every = max(1, int(2 * np.pi / rate / SAMPLES / float(step) * (1 + 1e-6)))
    every = min(every, num_steps // 64)
    x, shape = x0.reshape(-1, n), x0.shape[:-1]
    most = max(1, np.linalg.matrix_rank(A / rate).item() // 2 if rnn.is_conservative else n - 1)
    if transient and x.size:
        run = simulate(rnn, x, dt=step, num_steps=transient, save_every=transient, solver=solver)
        alive = (run.stopped_at < 0)[:, None]
        x = jnp.where(alive, run.xs[:, -1], jnp.nan)  # pyright: ignore[reportOptionalSubscript]
    found = _decided(rnn, x, step, solver, num_steps, every, most)
    return jax.tree.map(
        lambda leaf: leaf if leaf.ndim == 0 else leaf.reshape(*shape, *leaf.shape[1:]), found
    )


def _decided(rnn, x, dt, solver, num_steps: int, every: int, most: int) -> Regime:
    half, dtype, count = num_steps // 2, x.dtype, len(x)
    finite, resting = (np.asarray(flags) for flags in _at_rest(rnn, x))
    rest = num_steps - half
    spans = (half, rest // 2, rest - rest // 2)
    logs = np.zeros((3, count, 1))
    if count:
        logs = np.asarray(stretching(rnn, x.T, dt, solver, spans, 1))
    G = logs[1:, :, 0].sum(axis=0)
    quarters = logs[1:, :, 0] / (np.array(spans[1:])[:, None] * float(dt))
    tori, drift, stopped = _recorded(rnn, x, dt, solver, num_steps // every, every, most)
    m = np.array([len(found.basis) for found in tori], int)
    share = np.array([found.share for found in tori])

    lost = ~finite | stopped | ~np.isfinite(G)
    resting = resting | (G < -EXPANDING)
    wrong = drift > MOST_DRIFT
    moving = ~lost & ~resting & ~wrong
    regular = moving & (np.abs(G) < REGULAR) & (share >= DISCRETE)
    T, distance = _returns(
        rnn, x, moving & ~(regular & (m > 1)), tori, dt, num_steps // every, every
    )
    rules = [
        (lost, DIVERGED), (resting, EQUILIBRIUM), (wrong, UNDECIDED),
        (regular & (m > 1), QUASI_PERIODIC), (np.isfinite(T), PERIODIC),
        (moving & (G > EXPANDING) & (share < DISCRETE), CHAOTIC),
    ]  # fmt: skip
    status = np.select([flags for flags, _ in rules], [code for _, code in rules], UNDECIDED)

    duration = num_steps // every * every * float(dt)
    frequencies = np.full((count, most), np.nan)
    for row, found, code in zip(frequencies, tori, status, strict=True):
        if code == QUASI_PERIODIC:
            row[: len(found.basis)] = found.basis / duration
    periodic = status == PERIODIC
    frequencies[periodic, 0] = 1 / T[periodic]
    counted = np.select([periodic, status == QUASI_PERIODIC], [1, m], 0)
    nothing = lost | (status == EQUILIBRIUM)

    def floats(values: Any) -> Array:
        return jnp.asarray(values, dtype)

    return Regime(
        status=jnp.asarray(status, jnp.int32),
        num_frequencies=jnp.asarray(counted, jnp.int32),
        frequencies=floats(frequencies),
        share=floats(np.where(nothing, np.nan, share)),
        exponent=floats(G / (rest * float(dt))),
        uncertainty=floats(np.abs(quarters[1] - quarters[0]) / 2),
        bound=floats(REGULAR / (rest * float(dt))),
        period=floats(np.where(periodic, T, np.nan)),
        distance=floats(np.where(periodic, distance, np.nan)),
        drift=floats(np.where(lost, np.nan, drift)),
    )


@eqx.filter_jit
def _at_rest(rnn: CTRNN, x: Array) -> tuple[Array, Array]:
    """Whether states (batch, n) are finite, and whether z stays where it is, to rounding."""
    rnn = rnn.prepared()

    def one(x):
        here = Beside(rnn, x)
        velocity, (doubt, _) = here.velocity(jnp.zeros_like(x)), here.rounding()
        least = (8 + rnn.size) * doubt
        still = jnp.max(jnp.abs(velocity)) <= least
        if rnn.form == "rate" and rnn.leak is None:
            size = jnp.max(jnp.sum(jnp.abs(rnn.weights.as_matrix()), axis=1))
            moved = jnp.max(jnp.abs(rnn.weights.matvec(velocity)))
            eps = float(jnp.finfo(x.dtype).eps)
            least = size * (least + (8 + rnn.size) * eps * jnp.max(jnp.abs(velocity)))
            still = still | (moved <= least)
        return jnp.all(jnp.isfinite(x)), still

    return jax.vmap(one)(x)


def _recorded(
    rnn, x, dt, solver, saves: int, every: int, most: int
) -> tuple[list[Torus], np.ndarray, np.ndarray]:
    """Of runs from states (batch, n): their lines, their energy drifts, and whether they ended."""
    n, count = rnn.size, len(x)
    part = max(1, min(count, _NUMBERS // ((saves + 1) * n)))
    tori, drifts, stopped = [], [], []
    # Channels of z; what is constant in it, as a bias, is taken out of spectra.
    mixed = np.eye(n)
    if n > _CHANNELS:
        mixed = np.random.default_rng(0).normal(size=(n, _CHANNELS)) / math.sqrt(n)
    if rnn.form == "rate":
        mixed = np.asarray(rnn.weights.as_matrix(), float).T @ mixed
    for start in range(0, count, part):
        rows = np.arange(start, start + part) % count  # one program for all parts
        run = simulate(
            rnn, x[rows], dt=dt, num_steps=saves * every, save_every=every, solver=solver
        )
        assert run.xs is not None
        drift = np.full(part, np.nan)
        if rnn.is_conservative:
            drift = np.max(np.abs(np.asarray(energy_drift(rnn, run.xs))), axis=1)
        drifts.append(drift)
        stopped.append(np.asarray(run.stopped_at) >= 0)
        z = np.asarray(run.xs, float)[:, :-1] @ mixed
        usable = np.all(np.isfinite(z), axis=(1, 2))
        power = spectrum(np.where(usable[:, None, None], z, 0))
        tori += [torus(p, most) for p in power]
    if not count:
        return [], np.zeros(0), np.zeros(0, bool)
    return tori[:count], np.concatenate(drifts)[:count], np.concatenate(stopped)[:count]


def _returns(rnn, x, asked, tori, dt, saves: int, every: int) -> tuple[np.ndarray, np.ndarray]:
    """Periods of those asked for, nan without a return, and by which share of its size each
    misses."""
    count = len(x)
    T, distance = np.full(count, np.nan), np.full(count, np.nan)
    if not asked.any():
        return T, distance
    # States that are not asked for are put to rest beside the others: one program.
    still = jnp.where(jnp.asarray(asked)[:, None], x, jnp.nan)
    T = np.asarray(period(rnn, still), float)
    duration = saves * every * float(dt)
    common = [t.common * duration / t.basis[0] if len(t.basis) == 1 else 0.0 for t in tori]
    open_still = asked & ~np.isfinite(T) & (np.array(common) > 0)
    if open_still.any():
        longest = 1.01 * float(np.max(np.array(common)[open_still]))
        still = jnp.where(jnp.asarray(open_still)[:, None], x, jnp.nan)
        T = np.where(open_still, np.asarray(period(rnn, still, max_time=longest), float), T)
    if np.isfinite(T).any():
        distance = np.asarray(_missed(rnn, x, jnp.asarray(T, x.dtype)), float)
    return T, distance


@eqx.filter_jit
def _missed(rnn: CTRNN, x: Array, T: Array) -> Array:
    """|φ_T(x) - x| as shares of the sizes of orbits."""
    rtol = float(jnp.finfo(x.dtype).eps) ** 0.84

    def one(x, T):
        size = jnp.max(jnp.abs(rnn(None, x))) * T / (2 * np.pi)  # radius of a round orbit
        run = simulate(rnn, x, dt=T, num_steps=1, rtol=rtol, atol=rtol * size)
        assert run.xs is not None
        return jnp.max(jnp.abs(run.xs[1] - x)) / size

    closed = jnp.isfinite(T)
    some = jnp.argmax(closed)
    missed = jax.vmap(one)(jnp.where(closed[:, None], x, x[some]), jnp.where(closed, T, T[some]))
    return jnp.where(closed, missed, jnp.nan)
