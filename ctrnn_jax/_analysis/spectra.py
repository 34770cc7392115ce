"""Spectra of sampled signals: plain arrays in, plain arrays out, differentiable."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from .._util import checks
from .._util.types import Array, ArrayLike, Float
from . import tones
from .samples import unit_free


def _signal(y: ArrayLike, minimum: int) -> Array:
    array = checks.float_array("y", y, "(..., S)")
    if array.shape[-1] < minimum:
        checks.fail("y", f"at least {minimum} samples on the last axis", f"shape {array.shape}")
    return array


def _sampling_interval(dt, dtype) -> Float[Array, ""]:
    return checks.positive("dt", dt, dtype)


def power_spectrum(
    y: ArrayLike, dt: ArrayLike
) -> tuple[Float[Array, " F"], Float[Array, "*batch F"]]:
    """Power spectral density of a signal: periodogram, mean removed, Hann window.

    P(f) = 2 dt |Σ_j w_j (y_j - ȳ) exp(-2πi f j dt)|² / Σ_j w_j²; its integral over f is the
    variance of the windowed signal.

    Args:
        y: (..., S) samples, S >= 4.
        dt: sampling interval in seconds.

    Returns:
        Frequencies (F,) in Hz, F = S // 2 + 1, and densities (..., F) in y²/Hz.

    Raises:
        TypeError, ValueError: where y is no floating-point array of 4 samples or dt is not > 0.

    Example:
        >>> f, power = ct.power_spectrum(trajectory.xs[..., 0], dt=0.01)
    """
    y = _signal(y, 4)
    return _periodogram(y, _sampling_interval(dt, y.dtype))


@jax.jit
def _periodogram(y: Array, dt: Array) -> tuple[Float[Array, " F"], Float[Array, "*batch F"]]:
    f, density, scale = _standard_periodogram(y, dt)
    return f, density * (scale * jnp.sqrt(dt)) ** 2


@jax.jit
def _standard_periodogram(y: Array, dt: Array) -> tuple[Array, Array, Array]:
    z, scale = unit_free(y)
    f, density = jax.scipy.signal.welch(z, 1.0, "hann", nperseg=y.shape[-1], detrend="constant")
    return f / dt, density, scale


def spectral_density(
    y: ArrayLike, dt: ArrayLike
) -> tuple[Float[Array, " F"], Float[Array, "*batch F"]]:
    """`power_spectrum` up to a factor for each signal: neither overflows nor vanishes."""
    y = _signal(y, 4)
    return _standard_periodogram(y, _sampling_interval(dt, y.dtype))[:2]


def spectrogram(
    y: ArrayLike, dt: ArrayLike, *, window_length: int | None = None, overlap: int | None = None
) -> tuple[Float[Array, " F"], Float[Array, " T"], Float[Array, "*batch F T"]]:
    """Short-time power spectral density: `power_spectrum` of overlapping segments.

    Args:
        y: (..., S) samples.
        dt: sampling interval in seconds.
        window_length: samples in a segment, L, 4 to S; S // 8 (at least 4) unless given.
        overlap: samples shared by neighbours, below L; 3 L // 4 unless given.

    Returns:
        Frequencies (F,) in Hz, F = L // 2 + 1; segment centres (T,) in seconds after the first
        sample; densities (..., F, T) in y²/Hz.

    Raises:
        TypeError, ValueError: where y, dt, window_length or overlap is out of range.
    """
    y = _signal(y, 4)
    dt = _sampling_interval(dt, y.dtype)
    size = y.shape[-1]
    length = max(4, size // 8) if window_length is None else window_length
    length = checks.integer("window_length", length, 4)
    if length > size:
        checks.fail("window_length", f"at most the {size} samples of y", length)
    overlap = 3 * length // 4 if overlap is None else checks.integer("overlap", overlap, 0)
    if overlap >= length:
        checks.fail("overlap", f"less than window_length = {length}", overlap)
    starts = np.arange(0, size - length + 1, length - overlap)
    segments = y[..., starts[:, None] + np.arange(length)]
    f, power = power_spectrum(segments, dt)
    centres = jnp.asarray(starts + length / 2, y.dtype) * dt
    return f, centres, jnp.moveaxis(power, -1, -2)


FREQUENCY_METHODS = ("periodogram", "autocorrelation", "zero_crossings")


def dominant_frequency(
    y: ArrayLike, dt: ArrayLike, *, method: str = "periodogram"
) -> Float[Array, "*batch"]:
    """Frequency of a signal, finer than the bins of the FFT and differentiable; nan if unknown.

    - "periodogram": the strongest spectral line: the f at which a sinusoid beside a straight line
      explains most of the samples, weighted by a Hann window. The largest value on half bins, then
      Newton's method; amplitudes within 5 % of each other count as equally strong.
    - "autocorrelation": over how long the waveform repeats, also where its fundamental is weak: the
      first lag m after a dip below 0 at which 1 - Σ (x_j - x_{j+m})² / Σ (x_j² + x_{j+m}²) has a
      peak at least 0.8 as high as the highest, of at least 1/2; or 2, 4, 8 ... such lags.
    - "zero_crossings": the mean time between passages of 0 in the same direction, after an
      excursion of about half the amplitude on either side, of means over a quarter of a period.

    x is y without the straight line beside its strongest line, so that a constant or a trend does
    no harm; no answer depends on the unit of y. They agree for what is periodic; in quasi-periodic
    and chaotic motion they are three answers to three questions. The gradient with respect to y is
    that of the location found; it is smooth as long as the same line, peak or passages are chosen.

    Largest error for a sinusoid of amplitude A in white noise of standard deviation s, beside any
    straight line, in cycles a record, that is, in 1/(S dt) Hz; rounding counts as noise, s = eps
    max|y|, and adds 8 eps times the number of cycles:

    | method | without noise | with noise | s/A = 0.2, S = 100 | S = 10000 |
    |---|---|---|---|---|
    | periodogram | 0 | 8 s/(A √S) | 0.16 | 0.016 |
    | autocorrelation, below 0.35/dt | 0.03 | 0.03 + 8 s/(A √S) | 0.19 | 0.046 |
    | zero_crossings, below 0.35/dt | 0.005 | 0.005 + 8 s/(A √S) | 0.165 | 0.021 |

    Waveforms with jumps and further lines, of 0.3 the amplitude and two bins away, add up to 0.2
    cycles below 3 cycles a record, 0.15 above.

    Args:
        y: (..., S) samples, 4 <= S <= 2^20.
        dt: sampling interval in seconds.
        method: "periodogram", "autocorrelation" or "zero_crossings".

    Returns:
        (...,) in Hz. It is nan where the record cannot carry an answer: y is not finite or
        constant; the strongest line has fewer than 1.8 cycles in the record or is as near to
        1/(2 dt), has an amplitude below 8 eps max|y|, or could be one of white noise (chance above
        1e-5). By autocorrelation and zero crossings also above 0.35/dt; where nothing repeats; and
        where noise could pass for an excursion, 4 s > 0.45 A cos(π f dt) after the means: with
        s/A = 0.2 below some 12 samples a period, with 0.1 below some 5.

    Raises:
        TypeError, ValueError: where y is no floating-point array of 4 samples, dt is not > 0, or
            for another method.
    """
    checks.one_of("method", method, FREQUENCY_METHODS)
    y = _signal(y, 4)
    if y.shape[-1] > 2**20:
        checks.fail("y", "at most 2^20 samples on the last axis", f"shape {y.shape}")
    dt = _sampling_interval(dt, y.dtype)
    # In rows: what is one signal to a caller and a batch to another has one program.
    return _frequency(y.reshape(-1, y.shape[-1]), dt, method).reshape(y.shape[:-1])


@functools.partial(jax.jit, static_argnums=2)
def _frequency(y: Array, dt: Array, method: str) -> Float[Array, "*batch"]:
    z, scale = unit_free(y)
    largest = jnp.max(jnp.abs(jax.lax.stop_gradient(y)), axis=-1)
    scale = jnp.where(scale > 0, scale, 1)[..., 0]
    tone = tones.strongest_tone(z, float(jnp.finfo(y.dtype).eps) * (largest / scale))
    if method == "periodogram":
        frequency = (tone.base.astype(y.dtype) + tone.offset) / (y.shape[-1] * dt)
        return jnp.where(tone.found, frequency, jnp.nan)
    find = tones.repetition if method == "autocorrelation" else tones.passages
    frequency, found = find(tone)
    return jnp.where(tone.found & found, frequency / dt, jnp.nan)
