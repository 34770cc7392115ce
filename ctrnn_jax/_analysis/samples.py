"""Sampled signals before they are analysed: checked, rid of offset and unit, and windowed."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._util import checks
from .._util.types import Array

_ROUNDING = 4  # of times on a grid, in units of the last digit of the largest
_ALIKE = 1e-9  # and of a step, as sums of steps have it
_SPARSEST = 4  # points of a grid for each sample: on a finer one times are as good as anywhere


class Record(NamedTuple):
    """Samples at times of their own.

    Attributes:
        y: (S, channels), nan where one is missing.
        at: (S,) times from the first on, in units of the interval: whole ones on a grid.
        interval: in seconds, the spacing of the grid, if they lie on one, else the median step.
    """

    y: np.ndarray
    at: np.ndarray
    interval: float

    @property
    def t(self) -> np.ndarray:
        """(S,) times from the first on, in seconds."""
        return self.interval * self.at

    @property
    def length(self) -> int:
        """Intervals that cover the samples, the last one included."""
        return int(np.ceil(self.at[-1])) + 1

    @property
    def on_grid(self) -> bool:
        return bool(np.all(self.at == np.floor(self.at)))

    @property
    def is_even(self) -> bool:
        """Whether each is there, one after the other."""
        return self.length == len(self.at) and self.on_grid and not np.isnan(self.y).any()

    @property
    def each(self) -> int:
        """Samples of a channel, on average."""
        return int(np.sum(~np.isnan(self.y))) // self.y.shape[1]

    @property
    def fewest(self) -> int:
        """Samples of the channel with the fewest."""
        return int(np.min(np.sum(~np.isnan(self.y), axis=0)))

    def first(self, size: int) -> Record:
        """The first so many samples."""
        return self._replace(y=self.y[:size], at=self.at[:size])


def recorded(name: str, samples: np.ndarray, dt: Any, times: Any) -> Record:
    """Samples (S, channels), without times at which there is none, `dt` apart or at `times`."""
    if (dt is None) == (times is None):
        checks.fail("dt", "either dt or times", "neither" if dt is None else "both")
    size = len(samples)
    if times is None:
        at, interval = np.arange(size, dtype=float), checks.positive_float("dt", dt)
    else:
        at, interval = _clock(times, size)
    known = ~np.isnan(samples)
    if not known.any(axis=0).all():
        k = int(np.argmin(known.any(axis=0)))
        of = f" in channel {k}" if samples.shape[1] > 1 else ""
        checks.fail(name, "samples", f"none that is not missing{of}")
    if not (some := known.any(axis=1)).all():
        samples, at = samples[some], at[some]
    return Record(samples, at, interval)


def _clock(times: Any, size: int) -> tuple[np.ndarray, float]:
    """Times (S,) from the first on in units of an interval, and that in seconds."""
    if checks.is_traced(times):
        checks.fail("times", "known values: this is no JAX function", "a traced array", TypeError)
    try:
        ts = np.asarray(times)
    except (TypeError, ValueError):
        checks.fail("times", "an array of numbers", type(times).__name__, TypeError)
    if ts.dtype.kind not in "iuf":
        checks.fail("times", "an array of numbers, in seconds", f"dtype {ts.dtype}", TypeError)
    if ts.shape != (size,):
        checks.fail("times", f"shape ({size},), one for each sample", ts.shape)
    checks.finite("times", ts)
    if not (steps := ts[1:] > ts[:-1]).all():
        k = int(np.argmin(steps))
        checks.fail("times", "increasing times", f"{ts[k + 1]:.9g} after {ts[k]:.9g}")
    eps = np.finfo(ts.dtype if ts.dtype.kind == "f" else float).eps
    rounding = _ROUNDING * float(eps) * float(np.max(np.abs(ts)))
    # Integers, such as nanoseconds since 1970, less the first one before they are rounded.
    t = (ts - ts[0] if ts.dtype.kind != "f" else ts.astype(float) - float(ts[0])).astype(float)
    steps = np.diff(t)
    # Step by step: the shortest one is known too badly to count all of them at once.
    counts = np.rint(steps / steps.min())
    if counts.sum() < _SPARSEST * size:
        at = np.append(0.0, np.cumsum(counts))
        interval = float(t[-1] / at[-1])
        if np.max(np.abs(t - interval * at)) <= max(rounding, _ALIKE * interval):
            return at, interval
    interval = float(np.median(steps))
    return t / interval, interval


def signal_samples(
    name: str,
    value: Any,
    shape: str,
    ndim: tuple[int, ...],
    minimum: int,
    *,
    gaps: bool = False,
) -> np.ndarray:
    """Finite samples in float64, whether or not JAX has it enabled; with gaps nan is missing."""
    if checks.is_traced(value):
        checks.fail(name, "known values: this is no JAX function", "a traced array", TypeError)
    expected = f"a floating-point array of shape {shape}"
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        checks.fail(name, expected, type(value).__name__, TypeError)
    if not np.issubdtype(array.dtype, np.floating):
        got = f"dtype {array.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
        checks.fail(name, expected, got, TypeError)
    if array.ndim not in ndim:
        checks.fail(name, f"shape {shape}", array.shape)
    if len(array) < minimum or array.size == 0 < minimum:
        checks.fail(name, f"at least {minimum} samples on the first axis", f"shape {array.shape}")
    checks.finite(name, np.where(np.isnan(array), 0, array) if gaps else array)
    return array.astype(np.float64)


def standardised(
    Y: np.ndarray, dtype: Any = np.float64
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(Y - mean) / deviation (S, C), mean, deviation and rounding of the samples (C,).

    The rounding is that of samples of this dtype, in units of the deviation; a channel that varies
    no more than by it is constant: its deviations are 0, in a unit of 1. What is missing, nan,
    stays so.
    """
    missing = np.isnan(Y)
    # Without gaps as numpy does it at once.
    known = ~missing if missing.any() else True
    count = np.maximum(np.sum(~missing, axis=0), 1)

    def mean_of(a: np.ndarray) -> np.ndarray:
        return np.sum(a, axis=0, where=known) / count

    peak = np.max(np.abs(Y), axis=0, where=known, initial=0)
    unit = np.exp2(np.frexp(peak)[1])  # powers of 2 divide exactly, and squares then stay finite
    scaled = Y / unit
    mean = mean_of(scaled)
    # From the first sample the mean is off by a rounding of the offset: taken out once more.
    mean += mean_of(scaled - mean)
    centred = scaled - mean
    deviation = np.sqrt(mean_of((centred - mean_of(centred)) ** 2))
    rounding = float(np.finfo(dtype).eps) * (peak / unit)
    varies = deviation > rounding
    deviation = np.where(varies, deviation, 1)
    standard = np.where(varies, (scaled - mean) / deviation, 0)
    standard[missing] = np.nan
    deviation = np.where(varies, deviation * unit, 1)
    return standard, mean * unit, deviation, np.where(varies, rounding * unit / deviation, 0)


def unit_free(y: Array) -> tuple[Array, Array]:
    """(..., S) samples centred, at most of order 1, and their scale (..., 1) in the unit of y.

    y = constant + scale · z, so that squares of z neither overflow nor vanish, whatever the unit
    of y. The first sample is removed before the mean: that costs no digits where the offset is
    far larger than what moves. A constant signal is z = 0 of scale 0; what is not finite is nan.

    The scale carries no gradient: what does not depend on the unit has the right one without, and
    it enters as a constant into identities such as log rms(y) = log scale + log rms(z).
    """
    half = 0.5 * y - 0.5 * y[..., :1]  # halves: differences of the largest numbers overflow
    scale = jax.lax.stop_gradient(jnp.max(jnp.abs(half), axis=-1, keepdims=True))
    z = 2 * (half / jnp.where(scale == 0, 1, scale))
    return z - jnp.mean(z, axis=-1, keepdims=True), scale


def hann(size: int) -> np.ndarray:
    """Hann window (size,), at most 1, each sample in the middle of its share of the record."""
    return np.cos(np.pi * ((np.arange(size) + 0.5) / size - 0.5)) ** 2
