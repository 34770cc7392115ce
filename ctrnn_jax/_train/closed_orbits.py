"""Closed orbits of given frequency, energy and stability in networks of many neurons.

All is done in units of the highest target's period and with the pre-activations z = A x, in which
both forms are z' = A σ(z), with the same energies. A network (n, n) has L orbits, one of each mode.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._analysis.floquet import floquet_multipliers, multipliers_of, turns
from .._analysis.for_each import for_each
from .._analysis.modes import half_spectrum, with_spectrum
from .._analysis.nonlinear_modes import STABLE, modes_followed
from .._files.models import register
from .._network.activations import AbstractActivation
from .._network.model import CTRNN
from .._network.weights import DenseSkew
from .._util.types import Array, Bool, Float, Inexact
from .arguments import Draft
from .fit import progress_bar
from .frequency_report import FrequencyReport, measure
from .oscillator import Oscillator, for_form

_DRAWS = 8
_LONGEST = 0.1  # step, as a share of the weights
_SHORTEST = 1e-3  # share of a step
_PATIENCE = 12  # steps that are no better
_NEAR = 0.01  # frequencies, before stability is looked at
_MAX_ROUNDS = 500


class OrbitReport(FrequencyReport):
    """What `fit_frequency` reached with modes: closed orbits, seen by an integration of their own.

    Attributes:
        frequency: (...,) in Hz, 1/T of the closed orbit; nan where none was found.
        energy: (...,) of the orbit.
        residual: (...,) |φ_T(x0) - x0|, the largest entry over the radius that a round orbit of
            the same largest velocity has.
        multipliers: (..., n) complex, see `floquet_multipliers`.
        stable: (...,) whether all of them are on the unit circle, to eps^0.3 (2e-5 in float64).
    """

    energy: Float[Array, "*batch"]
    residual: Float[Array, "*batch"]
    multipliers: Inexact[Array, "*batch n"]
    stable: Bool[Array, "*batch"]

    def __str__(self) -> str:
        if not np.all(self.closed):
            found = f"closed orbits: {np.mean(self.closed):.0%}, no orbit was found for the others"
            return found if self.closed.size == 1 else f"{super().__str__()}\n{found}"
        largest = np.max(np.abs(np.asarray(self.multipliers)))
        verdict = f"all stable, multipliers on the unit circle to {abs(largest - 1):.1e}"
        if not np.all(self.stable):
            share = f"{np.mean(np.asarray(self.stable)):.0%} stable"
            verdict = f"{share}; UNSTABLE with multipliers up to {largest:.4g}"
        if self.closed.size == 1:
            verdict = verdict.removeprefix("all ").removeprefix("0% stable; ")
        closing = f"they close to {np.max(self.residual):.1e} of their size"
        return f"{super().__str__()}\n{closing}; {verdict}"


register(OrbitReport)


class Orbits(NamedTuple):
    """One orbit of each of L modes of N networks, and how its period moves with the weights."""

    T: Float[Array, "N L"]
    z: Float[Array, "N L n"]
    stable: Bool[Array, "N L"]
    slope: Float[Array, "N L n n"]  # d log T / dW


def on_modes(
    keys: Array,
    targets: Float[Array, "N L"],
    energies: Float[Array, "N L"],
    sizes: Float[Array, "N L"],
    draft: Draft,
    modes: tuple[int, ...],
    steps: int,
    progress: bool,
) -> tuple[Oscillator, OrbitReport]:
    """Oscillators (N L,) whose states lie on orbits of the modes, and what is measured of them."""
    highest = jnp.max(targets, axis=1, keepdims=True)
    wanted = targets / highest
    W, orbits, losses = _trained(keys, wanted, energies, draft, modes, steps, progress)
    _, L, n = orbits.z.shape
    W, highest, keys, losses = (jnp.repeat(a, L, axis=0) for a in (W, highest[:, 0], keys, losses))
    z, T = orbits.z.reshape(-1, n), orbits.T.ravel()
    made = _read_out(W, z, highest, keys, draft.activation, draft.form)
    report = _report(made, T / highest, targets.ravel(), energies.ravel(), losses)
    scale = sizes.ravel() / report.amplitude
    made = eqx.tree_at(lambda o: o.readout, made, made.readout * scale[:, None, None])
    return made, dataclasses.replace(report, amplitude=report.amplitude * scale)


def _trained(
    keys: Array, wanted: Array, energies: Array, draft: Draft, modes: tuple[int, ...],
    steps: int, progress: bool,
) -> tuple[Array, Orbits, Array]:  # fmt: skip
    """Weights (N, n, n), their orbits, and losses (N, steps).

    The equations log T f* = 0, and then log |μ| = 0 of the largest multiplier of orbits that are
    unstable, are fewer than the weights: Newton's method takes the shortest step that solves them
    linearised. Where |μ| leaves 1 as a root does, it comes as far to the other side. Steps that
    lead to no orbit are halved; kept are the weights that meet the frequencies, or miss them least,
    and of those the ones of least growth.
    """
    activation = draft.activation
    follow = partial(_orbits, modes=modes, energies=energies, activation=activation)
    base, orbits = _start(keys, wanted, draft, modes, follow)
    tried, best = base, (base, orbits)
    least = np.full(len(base), np.inf)
    step, share = jnp.zeros_like(base), np.ones(len(base))
    tolerance = float(jnp.finfo(base.dtype).eps) ** 0.84  # of the turns
    losses, idle = [], 0
    with progress_bar(progress, steps) as bar:
        for _ in range(steps + 1):
            # Time is scaled exactly: a single orbit has its frequency at once.
            scale = jnp.exp(jnp.mean(jnp.log(orbits.T * wanted), axis=1))
            tried, orbits = _scaled(tried, orbits, scale)
            miss = jnp.log(orbits.T * wanted)
            left, rows = miss, orbits.slope
            growth = jnp.zeros_like(miss)
            if steps and not bool(jnp.all(orbits.stable | ~jnp.isfinite(miss))):
                growth, by_weights = _growth(tried, modes, energies, activation)
                growth = jnp.where(orbits.stable, 0, growth)
                asked = (growth > 0) & jnp.all(jnp.abs(miss) < _NEAR, axis=1, keepdims=True)
                left = jnp.concatenate([miss, jnp.where(asked, growth, 0)], axis=1)
                by_weights = jnp.where(asked[..., None, None], by_weights, 0)
                rows = jnp.concatenate([rows, by_weights], axis=1)
            missed, grown = (np.asarray(jnp.sum(v**2, axis=1)) for v in (miss, growth))
            losses.append(missed + grown)
            rank = np.maximum(missed / tolerance**2, miss.shape[1]) + grown
            best = _where(rank < least, (tried, orbits), best)
            idle = 0 if np.any(rank < least) else idle + 1
            least = np.fmin(rank, least)
            done = least <= miss.shape[1]
            exists = np.isfinite(missed + grown)
            base = _where(exists, tried, base)
            step = _where(exists, _shortest(tried, left, rows), step)
            share = np.where(exists, 1.0, share / 2)
            ended = (done | (share < _SHORTEST)).all() or idle == _PATIENCE
            if ended or len(losses) > steps:
                break
            if bar is not None:
                bar.update()
            tried = base + jnp.asarray(np.where(done, 0, share), base.dtype)[:, None, None] * step
            orbits = follow(tried)
    W, orbits = best
    shown = np.full((len(W), steps), np.nan)
    shown[:, : len(losses)] = np.array(losses).T[:, :steps]
    return W, orbits, jnp.asarray(shown, W.dtype)


def _where(condition: Any, new: Any, old: Any) -> Any:
    def choose(a: Array, b: Array) -> Array:
        return jnp.where(condition.reshape((-1,) + (1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(choose, new, old)


def _scaled(W: Array, orbits: Orbits, c: Float[Array, " N"]) -> tuple[Array, Orbits]:
    """The same orbits c times as fast."""
    slope = orbits.slope / c[:, None, None, None]
    return W * c[:, None, None], orbits._replace(T=orbits.T / c[:, None], slope=slope)


def _start(
    keys: Array, wanted: Array, draft: Draft, modes: tuple[int, ...], follow: Any
) -> tuple[Array, Orbits]:
    """Random weights; drawn anew, up to some times, where a mode's family ends too early."""
    W = _drawn(keys, wanted, modes, draft)
    now = follow(W)
    for draw in range(1, _DRAWS):
        lost = ~np.isfinite(np.asarray(now.T)).all(axis=1)
        if not lost.any():
            break
        again = jax.vmap(jax.random.fold_in, (0, None))(keys, draw)
        other = _drawn(again, wanted, modes, draft)
        W, now = _where(lost, (other, follow(other)), (W, now))
    return W, now


@eqx.filter_jit
def _drawn(keys: Array, wanted: Array, modes: tuple[int, ...], draft: Draft) -> Array:
    """Random W (N, n, n) whose modes have the wanted frequencies as long as they are small.

    The others are moved along, in the same order.
    """
    dtype = wanted.dtype
    slope = draft.activation.derivative(jnp.zeros((), dtype))

    def one(key, wanted):
        W = DenseSkew.init(key, draft.neurons, dtype=dtype).W
        omega, vectors = half_spectrum(W - W.T)
        logs = jnp.log(omega)
        known = logs[jnp.array(modes)]
        moved = jnp.interp(logs, known, jnp.log(2 * np.pi * wanted / slope))
        beyond = logs - jnp.clip(logs, known[0], known[-1])
        return with_spectrum(jnp.exp(moved + beyond), vectors).W

    return jax.vmap(one)(keys, wanted)


def _network(W: Array, activation: AbstractActivation) -> CTRNN:
    return CTRNN(DenseSkew(W), activation, "current")


def _orbit(W: Array, mode: Array, E: Array, activation: AbstractActivation) -> Any:
    origin = jnp.zeros(len(W), W.dtype)
    rnn = _network(W, activation)
    found = modes_followed(rnn, origin, E[None], mode[None], _MAX_ROUNDS)
    return found.periods[0, 0], found.states[0, 0], found.status[0, 0] == STABLE


@eqx.filter_jit
def _orbits(
    W: Array, *, modes: tuple[int, ...], energies: Array, activation: AbstractActivation
) -> Orbits:
    def log_period(W, mode, E):
        T, z, stable = _orbit(W, mode, E, activation)
        return jnp.log(T), (T, z, stable)

    with_slope = jax.value_and_grad(log_period, has_aux=True)
    (_, (T, z, stable)), slope = _of_modes(with_slope, W, modes, energies)
    return Orbits(T, z, stable, slope)


@eqx.filter_jit
def _growth(
    W: Array, modes: tuple[int, ...], energies: Array, activation: AbstractActivation
) -> tuple[Array, Array]:
    """log |μ| of the largest multipliers (N, L), and d of it / dW (N, L, n, n)."""

    def growth(W, mode, E):
        T, z, _ = _orbit(W, mode, E, activation)
        multipliers = floquet_multipliers(_network(W, activation), z, T)
        return jnp.log(jnp.max(jnp.abs(multipliers)))

    return _of_modes(jax.value_and_grad(growth), W, modes, energies)


def _of_modes(one: Any, W: Array, modes: tuple[int, ...], energies: Array) -> Any:
    """`one(W, mode, E)` of networks (N, n, n) and their modes at energies (N, L)."""
    n = W.shape[-1]

    def of_network(W, energies):
        def of_mode(mode, E):
            return one(W, mode, E)

        return for_each(of_mode, jnp.array(modes), energies, n=n, searched=True)

    return for_each(of_network, W, energies, n=n, searched=True)


@jax.jit
def _shortest(W: Array, left: Array, rows: Array) -> Array:
    """The shortest steps (N, n, n) to left (N, equations) = 0, at most a share of W."""

    def one(W, left, rows):
        rows = rows.reshape(len(left), -1)
        finite = jnp.all(jnp.isfinite(rows)) & jnp.all(jnp.isfinite(left))
        step = jnp.linalg.lstsq(jnp.where(finite, rows, 0), jnp.where(finite, -left, 0))[0]
        size, most = jnp.linalg.norm(step), _LONGEST * jnp.linalg.norm(W)
        return step.reshape(W.shape) * jnp.where(size > most, most / size, 1)

    return jax.vmap(one)(W, left, rows)


@eqx.filter_jit
def _read_out(
    W: Array, z: Array, speed: Array, keys: Array, activation: AbstractActivation, form: str
) -> Oscillator:
    """Oscillators in seconds, with random read-outs near the state's own direction."""

    def one(W, z, speed, key):
        noise = jax.random.normal(jax.random.fold_in(key, 1), z.shape, z.dtype)
        direction = z / jnp.linalg.norm(z) + 0.3 / np.sqrt(z.size).item() * noise
        return for_form(_network(W, activation), z, direction[None], speed, form)

    return jax.vmap(one)(W, z, speed, keys)


def _report(
    oscillators: Oscillator, T: Array, targets: Array, energies: Array, losses: Array
) -> OrbitReport:
    eps = float(jnp.finfo(T.dtype).eps)
    frequency, residual, multipliers = _measured(oscillators, T)
    closed = residual <= eps**0.6
    seen = measure(oscillators, targets[:, None], closed, losses)
    frequency = jnp.where(closed, frequency, jnp.nan)
    return OrbitReport(
        target_hz=targets,
        frequency=frequency,
        error=jnp.abs(frequency / targets - 1),
        share=seen.share[:, 0],
        amplitude=seen.amplitude,
        drift=seen.drift,
        closed=closed,
        losses=losses,
        energy=energies,
        residual=residual,
        multipliers=multipliers,
        stable=jnp.max(jnp.abs(multipliers), axis=1) <= 1 + eps**0.3,
    )


@eqx.filter_jit
def _measured(oscillators: Oscillator, T: Array) -> tuple[Array, Array, Array]:
    """Frequencies in Hz and closing (K,), multipliers (K, n), of orbits of periods near T."""

    def one(oscillator, T):
        rnn, x0 = oscillator.rnn, oscillator.x0[None]
        moved, M, size = turns(rnn, x0, T[None])
        flow = rnn(None, x0[0]) * (T / size[0])
        late = jnp.sum(moved[0] * flow) / jnp.sum(flow**2)  # as a share of T
        multipliers = multipliers_of(rnn, x0, moved, M)[0]
        return 1 / (T * (1 - late)), jnp.max(jnp.abs(moved)), multipliers

    return eqx.filter_vmap(one)(oscillators, T)
