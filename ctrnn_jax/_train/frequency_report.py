"""What trained oscillators do, measured by an integrator and an estimator that no training uses."""

from __future__ import annotations

import math
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._analysis.harmonics import harmonic_regression
from .._analysis.samples import hann
from .._analysis.spectra import dominant_frequency
from .._files.models import register
from .._network.invariants import energy
from .._network.products import product
from .._simulate.api import simulate
from .._util import checks
from .._util.types import Array, Bool, Float
from .oscillator import Oscillator

_PERIODS = 64
_PER_PERIOD = 16
_MAX_SAMPLES = 2**15


class FrequencyReport(eqx.Module):
    """Frequencies reached by an oscillator, or by an ensemble of K.

    Args:
        target_hz: (...,) or (..., lines) what was asked for, in Hz.
        frequency: of the same shape: what the output has, in Hz.
        error: of the same shape: |frequency / target_hz - 1|.
        share: of the same shape: power of the line over the variance of the output.
        amplitude: (...,) root mean square of the output, its mean removed.
        drift: (...,) largest relative change of the energy over the time measured.
        closed: (...,) whether the orbit is closed: it then has no other lines than harmonics.
        losses: (..., steps) loss of each step of `fit_frequency`; none where nothing descends.
    """

    target_hz: Float[Array, "*shape"]
    frequency: Float[Array, "*shape"]
    error: Float[Array, "*shape"]
    share: Float[Array, "*shape"]
    amplitude: Float[Array, "*batch"]
    drift: Float[Array, "*batch"]
    closed: Bool[Array, "*batch"]
    losses: Float[Array, "*batch steps"]

    def reached(self, tolerance: float = 1e-3) -> Bool[Array, "*batch"]:
        """Whether every line is within a relative `tolerance` of its target.

        Of several lines each must also be nearer to its target than a tenth of the distance to the
        neighbouring target.
        """
        within = self.error <= checks.positive_float("tolerance", tolerance)
        if self.error.ndim == self.closed.ndim:
            return within
        return jnp.all(within & (self._missed() <= 0.1), axis=-1)

    def _missed(self) -> Float[Array, "*shape"]:
        """|frequency - target_hz| over the distance to the nearest other target."""
        target = self.target_hz
        apart = jnp.abs(target[..., :, None] - target[..., None, :])
        apart = jnp.where(jnp.eye(target.shape[-1], dtype=bool), jnp.inf, apart)
        return jnp.abs(self.frequency - target) / jnp.min(apart, axis=-1)

    def __str__(self) -> str:
        reached = np.asarray(self.reached())
        if reached.size == 1:
            rows = np.stack([np.ravel(v) for v in (self.target_hz, self.frequency, self.share)], 1)
            text = [f"{t:.8g} Hz: {f:.8g} Hz, {100 * s:.2f} % of the power" for t, f, s in rows]
            if self.error.ndim > self.closed.ndim and not reached.all():
                missed = float(np.max(self._missed()))
                text.append(
                    f"NOT REACHED: off by up to {np.max(self.error):.1e} of a target,"
                    f" {missed:.2g} of the distance to its neighbour"
                )
        else:
            text = [
                f"{reached.mean():.2%} of {reached.size} within 0.1 % of the target",
                "relative error: median {:.1e}, 99 % below {:.1e}, largest {:.1e}".format(
                    *np.nanpercentile(np.asarray(self.error), [50, 99, 100])
                ),
                f"share of the power: smallest {np.min(self.share):.3f}",
            ]
        closed = f"closed orbits: {np.mean(self.closed):.0%}"
        if self.error.ndim > self.closed.ndim and not np.any(self.closed):
            closed = "quasi-periodic, as several lines ask for: the orbit does not close"
        amplitudes = " to ".join(
            f"{a:.4g}" for a in {float(f(self.amplitude)) for f in (np.min, np.max)}
        )
        return "\n".join(
            [
                *text,
                f"amplitude (rms): {amplitudes}; largest energy drift {np.max(self.drift):.1e}",
                closed,
            ]
        )


register(FrequencyReport)


def measure(
    oscillators: Oscillator,
    target_hz: Float[Array, "K lines"],
    closed: Bool[Array, " K"],
    losses: Float[Array, "K steps"],
) -> FrequencyReport:
    """Frequencies of the output (its first channel) over many periods, with adaptive steps.

    One line is found by `dominant_frequency`, several by `harmonic_regression`.
    """
    targets = np.asarray(target_hz, float)
    highest, span = targets.max(axis=1), _PERIODS / targets.min(axis=1)
    if targets.shape[1] > 1:  # long enough to tell neighbours apart
        span = np.maximum(span, 16 / np.diff(np.sort(targets, axis=1)).min(axis=1))
    span = np.minimum(span, _MAX_SAMPLES / (_PER_PERIOD * highest))
    num_steps = math.ceil((_PER_PERIOD * highest * span).max() * (1 - 1e-9))
    dt = jnp.asarray(span / num_steps, target_hz.dtype)
    y, drift = _signals(oscillators, dt, num_steps)
    size = jnp.max(jnp.abs(y), axis=-1)  # squares of large and small units leave float32
    y = y / jnp.where(size > 0, size, 1)[:, None]
    if targets.shape[1] == 1:
        frequency = jax.vmap(dominant_frequency)(y, dt)[:, None]
    else:
        found = [_lines(*signal) for signal in zip(np.asarray(y), dt, targets, strict=True)]
        frequency = jnp.asarray(np.stack(found), target_hz.dtype)
    return FrequencyReport(
        target_hz=target_hz,
        frequency=frequency,
        error=jnp.abs(frequency / target_hz - 1),
        share=_shares(y, dt, frequency),
        amplitude=size * jnp.std(y, axis=-1),
        drift=drift,
        closed=closed,
        losses=losses,
    )


@eqx.filter_jit
def _signals(oscillators: Oscillator, dt: Array, num_steps: int) -> tuple[Array, Array]:
    """Outputs (K, num_steps + 1) and largest drifts (K,)."""

    def one(oscillator, dt):
        # Adaptive steps see the kinks of σ, but close to rounding, in float32, they dissipate.
        substeps, steps = 16, {}
        if dt.dtype == jnp.float64:
            substeps = 1
            steps = {"rtol": 1e-9, "atol": 1e-9 * jnp.max(jnp.abs(oscillator.x0))}
        trajectory = simulate(
            oscillator.rnn,
            oscillator.x0,
            dt=dt / substeps,
            num_steps=num_steps * substeps,
            save_every=substeps,
            solver=diffrax.Dopri5(),
            **steps,
            keep_states=False,
            observe=lambda t, x: (oscillator.read(x)[0], energy(oscillator.rnn, x)),
        )
        y, level = trajectory.observed
        return y, jnp.max(jnp.abs(level / level[0] - 1))

    return eqx.filter_vmap(one)(oscillators, dt)


def _lines(y: np.ndarray, dt: Any, targets: np.ndarray) -> np.ndarray:
    """The strongest lines, in the order of the targets; nan for those that are missing."""
    found = np.sort(harmonic_regression(y, float(dt), targets.size).frequencies)
    lines = np.full(targets.size, np.nan)
    lines[np.argsort(targets)[: found.size]] = found
    return lines


@jax.jit
def _shares(y: Array, dt: Array, frequency: Array) -> Array:
    """Power of the sinusoids of these frequencies (K, lines) in y (K, S), over its variance.

    Both with Hann weights, lest the part of a period at the end counts.
    """

    def one(y, dt, frequency):
        t = jnp.arange(y.size, dtype=y.dtype) * dt
        window = jnp.asarray(hann(y.size), y.dtype)
        phase = 2 * np.pi * jnp.outer(frequency, t)
        window = window / jnp.sum(window)
        y = y - jnp.sum(window * y)
        cosines, sines = (product(f(phase), window * y) for f in (jnp.cos, jnp.sin))
        return 2 * (cosines**2 + sines**2) / jnp.sum(window * y**2)

    return jax.vmap(one)(y, dt, frequency)
