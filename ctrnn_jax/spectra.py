"""Spectra of sampled signals: plain arrays in, plain arrays out, differentiable."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from . import _checks, _tones
from ._scaling import standardized
from ._types import Array, ArrayLike, Float


def _signal(y: ArrayLike, minimum: int) -> Array:
    array = _checks.float_array("y", y, "(..., S)")
    if array.dtype not in (jnp.float32, jnp.float64):
        _checks.fail("y", "dtype float32 or float64", array.dtype, TypeError)
    if array.shape[-1] < minimum:
        _checks.fail("y", f"at least {minimum} samples on the last axis", f"shape {array.shape}")
    return array


def _sampling_interval(dt, dtype) -> Float[Array, ""]:
    return _checks.positive("dt", dt, dtype)


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
    z, scale = standardized(y)
    f, density = jax.scipy.signal.welch(z, 1.0, "hann", nperseg=y.shape[-1], detrend="constant")
    return f / dt, density * (scale * jnp.sqrt(dt)) ** 2


def spectral_shares(
    y: ArrayLike, dt: ArrayLike
) -> tuple[Float[Array, " F"], Float[Array, "*batch F"]]:
    """`power_spectrum` divided by its sum, in any unit of y; nan where y is constant."""
    y = _signal(y, 4)
    f, density = _periodogram(standardized(y)[0], jnp.ones((), y.dtype))
    return f / _sampling_interval(dt, y.dtype), density / jnp.sum(density, axis=-1, keepdims=True)


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
    length = _checks.integer("window_length", length, 4)
    if length > size:
        _checks.fail("window_length", f"at most the {size} samples of y", length)
    overlap = 3 * length // 4 if overlap is None else _checks.integer("overlap", overlap, 0)
    if overlap >= length:
        _checks.fail("overlap", f"less than window_length = {length}", overlap)
    starts = np.arange(0, size - length + 1, length - overlap)
    segments = y[..., starts[:, None] + np.arange(length)]
    f, power = power_spectrum(segments, dt)
    centres = jnp.asarray(starts + length / 2, y.dtype) * dt
    return f, centres, jnp.moveaxis(power, -1, -2)


FREQUENCY_METHODS = ("periodogram", "autocorrelation", "zero_crossings")


def dominant_frequency(
    y: ArrayLike, dt: ArrayLike, *, method: str = "periodogram"
) -> Float[Array, "*batch"]:
    """Frequency of a signal, finer than the bins of the FFT and differentiable.

    - "periodogram": the strongest spectral line, the maximum over f of
      |Σ_j w_j (y_j - ȳ) exp(-2πi f j dt)|², w the Hann window: the largest bin (other than 0 Hz),
      then Newton's method on the logarithm of the power. For a pure tone over ten periods the error
      is below 1e-4 of a bin.
    - "autocorrelation": one over the lag m of the highest peak of Σ_j (y_j - ȳ)(y_{j+m} - ȳ) after
      its first dip below 0, refined by a parabola through the means, Σ_j / (S - m): the frequency
      at which the whole waveform repeats, also where its fundamental is weak.
    - "zero_crossings": upward passages of the mean, a straight line between the samples: their
      number less 1, over the time from the first to the last.

    They agree for what is periodic; in quasi-periodic and chaotic motion they are three answers
    to three questions. The gradient with respect to y is that of the location found (implicit
    function theorem); it is smooth as long as the same line, peak or passages are chosen.

    Args:
        y: (..., S) samples, 4 <= S <= 2^20.
        dt: sampling interval in seconds.
        method: "periodogram", "autocorrelation" or "zero_crossings".

    Returns:
        (...,) in Hz; nan for a constant or non-finite signal, and where there is no peak or are
        fewer than two passages.

    Raises:
        TypeError, ValueError: where y is no floating-point array of 4 samples, dt is not > 0, or
            for another method.
    """
    _checks.one_of("method", method, FREQUENCY_METHODS)
    y = _signal(y, 4)
    if y.shape[-1] > 2**20:
        _checks.fail("y", "at most 2^20 samples on the last axis", f"shape {y.shape}")
    dt = _sampling_interval(dt, y.dtype)
    return _frequency(y, dt, method)


@functools.partial(jax.jit, static_argnums=2)
def _frequency(y: Array, dt: Array, method: str) -> Float[Array, "*batch"]:
    z, scale = standardized(y)
    largest = jnp.max(jnp.abs(jax.lax.stop_gradient(y)), axis=-1)
    scale = jnp.where(scale > 0, scale, 1)[..., 0]
    tone = _tones.strongest_tone(z, float(jnp.finfo(y.dtype).eps) * (largest / scale))
    if method == "periodogram":
        frequency = (tone.base.astype(y.dtype) + tone.offset) / (y.shape[-1] * dt)
        return jnp.where(tone.found, frequency, jnp.nan)
    find = _tones.repetition if method == "autocorrelation" else _tones.passages
    frequency, found = find(tone)
    return jnp.where(tone.found & found, frequency / dt, jnp.nan)
