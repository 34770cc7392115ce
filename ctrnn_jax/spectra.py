"""Spectra of sampled signals: plain arrays in, plain arrays out, differentiable."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from . import _checks
from ._types import Array, ArrayLike, Float


def _signal(y: ArrayLike, minimum: int) -> Array:
    array = _checks.float_array("y", y, "(..., S)")
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
    return jax.scipy.signal.welch(y, 1 / dt, "hann", nperseg=y.shape[-1], detrend="constant")


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
    if method == "periodogram":
        return _strongest_line(y, dt)
    return _repetition(y, dt) if method == "autocorrelation" else _passages(y, dt)


@jax.jit
def _strongest_line(y: Array, dt: Array) -> Float[Array, "*batch"]:
    size = y.shape[-1]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    signal = (y - jnp.mean(y, axis=-1, keepdims=True)) * _last(window, y)
    spectrum = jnp.fft.rfft(jax.lax.stop_gradient(signal))
    power = jnp.abs(spectrum) ** 2
    peak = 1 + jnp.argmax(power[..., 1:], axis=-1)
    # Below the rounding of the signal itself there is no line to speak of.
    magnitude = jnp.max(jnp.abs(jax.lax.stop_gradient(y)), axis=-1)
    floor = (8 * float(jnp.finfo(y.dtype).eps) * size * magnitude) ** 2
    largest = jnp.max(power[..., 1:], axis=-1)
    has_line = jnp.isfinite(largest) & (largest > floor)

    # Newton works on the signal turned back by the peak's bin, X(k + d) = Σ c_j exp(-i d θ_j).
    angle = _last(2 * np.pi * (np.arange(size) / size - 0.5), y)
    carrier = signal.astype(spectrum.dtype) * _phasor(_turns(peak, size, y.dtype) / size)
    # Where there is no line, a harmless stand-in keeps gradients finite.
    carrier = jnp.where(has_line[..., None], carrier, jnp.ones_like(carrier))

    def newton_step(carrier: Array, offset: Array) -> Array:
        turned = carrier * _phasor(offset[..., None] * angle / (2 * np.pi))
        x0 = jnp.sum(turned, axis=-1)
        x1 = jnp.sum(turned * angle.astype(turned.dtype), axis=-1) / x0  # i dX/dd / X
        x2 = jnp.sum(turned * (angle**2).astype(turned.dtype), axis=-1) / x0  # -d²X/dd² / X
        slope = 2 * jnp.imag(x1)
        curvature = 2 * jnp.real(x1**2 - x2)
        # A maximum has negative curvature; and never leave the neighbourhood of the bin.
        step = -slope / jnp.minimum(jax.lax.stop_gradient(curvature), -1e-3)
        return jnp.clip(offset + step, -1, 1)

    offset = jnp.zeros_like(magnitude)
    for _ in range(6):
        offset = jax.lax.stop_gradient(newton_step(carrier, offset))
    # One step more, with gradients: at the converged point it is the implicit derivative.
    offset = newton_step(carrier, offset)
    frequency = (peak.astype(y.dtype) + offset) / (size * dt)
    return jnp.where(has_line, frequency, jnp.nan)


@jax.jit
def _repetition(y: Array, dt: Array) -> Float[Array, "*batch"]:
    size = y.shape[-1]
    signal = y - jnp.mean(y, axis=-1, keepdims=True)
    # Padded to twice the length, so that the end does not meet the beginning.
    power = jnp.abs(jnp.fft.rfft(signal, 2 * size)) ** 2
    correlation = jnp.fft.irfft(power, 2 * size)[..., :size]
    values = jax.lax.stop_gradient(correlation)
    lag = jnp.arange(size)
    dipped = jnp.cumsum(values < 0, axis=-1) > 0
    inner = (lag > 0) & (lag < size - 1)
    before, after = jnp.roll(values, 1, axis=-1), jnp.roll(values, -1, axis=-1)
    peaks = dipped & inner.reshape((1,) * (y.ndim - 1) + (-1,))
    peaks = peaks & (values > 0) & (values >= before) & (values >= after)
    at = jnp.argmax(jnp.where(peaks, values, 0), axis=-1)
    has_peak = jnp.any(peaks, axis=-1) & jnp.all(jnp.isfinite(y), axis=-1) & ~_is_constant(y)
    at = jnp.where(has_peak, at, 1)
    low, middle, high = (
        _take(correlation, at + d) / (size - at - d).astype(y.dtype) for d in (-1, 0, 1)
    )
    bend = low - 2 * middle + high
    offset = 0.5 * (low - high) / jnp.where(has_peak & (bend < 0), bend, 1)
    return jnp.where(has_peak, 1 / ((at.astype(y.dtype) + offset) * dt), jnp.nan)


@jax.jit
def _passages(y: Array, dt: Array) -> Float[Array, "*batch"]:
    signal = y - jnp.mean(y, axis=-1, keepdims=True)
    below, above = signal[..., :-1], signal[..., 1:]
    upward = (below < 0) & (above >= 0)
    count = jnp.sum(upward, axis=-1)
    first = jnp.argmax(upward, axis=-1)
    last = upward.shape[-1] - 1 - jnp.argmax(upward[..., ::-1], axis=-1)
    found = (count > 1) & jnp.all(jnp.isfinite(y), axis=-1) & ~_is_constant(y)

    def when(at):
        a, b = _take(below, at), _take(above, at)
        return at.astype(y.dtype) + a / jnp.where(found, a - b, 1)

    span = jnp.where(found, when(last) - when(first), 1)
    return jnp.where(found, (count - 1).astype(y.dtype) / (span * dt), jnp.nan)


def _is_constant(y: Array) -> Array:
    """Whether all that varies is rounding."""
    y = jax.lax.stop_gradient(y)
    size = jnp.max(jnp.abs(y), axis=-1)
    return jnp.max(y, axis=-1) - jnp.min(y, axis=-1) <= 8 * float(jnp.finfo(y.dtype).eps) * size


def _take(y: Array, at: Array) -> Array:
    return jnp.take_along_axis(y, at[..., None], axis=-1)[..., 0]


def _phasor(turns: Array) -> Array:
    """exp(-2πi · turns)."""
    return jax.lax.complex(jnp.cos(2 * np.pi * turns), -jnp.sin(2 * np.pi * turns))


def _last(vector: np.ndarray, like: Array) -> Array:
    """A constant along the last axis of `like`, in its dtype and number of dimensions."""
    return jnp.asarray(vector, like.dtype).reshape((1,) * (like.ndim - 1) + (-1,))


def _turns(peak: Array, size: int, dtype) -> Float[Array, "*batch S"]:
    """(peak · j) mod size for j = 0 ... size - 1, exactly, where 32-bit products overflow.

    In float32 the plain product of a high bin and a late sample would lose the phase.
    """
    high, low = jnp.divmod(peak[..., None], 2048)
    sample = jnp.arange(size, dtype=peak.dtype).reshape((1,) * peak.ndim + (-1,))
    # size <= 2^20: each product stays below 2^31, and each remainder below 2^20.
    turns = ((high * sample) % size * 2048) % size + (low * sample) % size
    return (turns % size).astype(dtype)
