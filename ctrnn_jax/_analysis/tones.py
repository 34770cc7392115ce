"""How often a signal oscillates: the three methods of `spectra.dominant_frequency`.

All work on `unit_free` samples and in samples or cycles a record: the unit of the signal and the
sampling interval do not enter. What selects (a bin, a lag, a passage) carries no gradient; what
is located does, by one differentiable step of Newton's method at the point found.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._util.types import Array
from .samples import hann

# What a record cannot carry is not answered.
FEWEST_CYCLES = 1.8
# Lags and passages need samples enough in each period, cycles per sample at most:
HIGHEST = 0.35
# Of a line in white noise; and an amplitude in units of the rounding of the samples.
FALSE_ALARM = 1e-5
LEAST_AMPLITUDE = 8
# Of a repetition: to be one at all; and beside the best one, to be the first.
ALIKE, AS_ALIKE = 0.5, 0.8
# Standard deviations of the noise that keep passages apart.
MARGIN = 4


class Tone(NamedTuple):
    """The strongest spectral line."""

    base: Array  # (...,) a whole number of cycles a record, as the integer it is
    offset: Array  # (...,) and what is missing of it
    amplitude: Array  # (...,)
    rest: Array  # (..., S) the samples without the straight line beside the tone
    found: Array  # (...,) whether there is one


def strongest_tone(z: Array, rounding: Array) -> Tone:
    """The sinusoid that fits best beside a straight line, with the weights w of a Hann window.

    For any f, with sums weighted by w and τ from -1/2 to 1/2, cos and sin are orthogonal to each
    other and, less their parts in 1 and in τ, to the straight line; the explained power is
    P(f) = <cos, z>²/<cos, cos> + <sin, z>²/<sin, sin>. Exact for a tone, however few its cycles.
    """
    size = z.shape[-1]
    place = (np.arange(size) + 0.5) / size - 0.5
    window = hann(size)
    tau, w = _last(place, z), _last(window, z)
    W0, W2 = float(np.sum(window)), float(np.sum(window * place**2))

    usable = jnp.all(jnp.isfinite(z), axis=-1) & jnp.any(z != 0, axis=-1)
    # Where there is nothing to find, a harmless stand-in keeps gradients finite.
    z = jnp.where(usable[..., None], z, _last(np.cos(2.0 * np.arange(size)), z))
    level = jnp.sum(w * z, axis=-1) / W0
    slope = jnp.sum(w * tau * z, axis=-1) / W2
    weighted = w * (z - level[..., None] - slope[..., None] * tau)

    # P on half bins: between whole ones the power would drop by a quarter.
    even, odd, cos_norm, sin_norm = _half_bins(jax.lax.stop_gradient(weighted), window, place)
    peak = 1 + jnp.argmax(even**2 / cos_norm + odd**2 / sin_norm, axis=-1)
    base, start = peak // 2, 0.5 * (peak % 2).astype(z.dtype)
    turns = _turns(base, size, z.dtype)

    def projections(offset, weighted):
        angle = 2 * np.pi * (turns + offset[..., None] * tau)
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        on_1, on_tau = jnp.sum(w * cos, axis=-1) / W0, jnp.sum(w * tau * sin, axis=-1) / W2
        cos_norm = jnp.sum(w * cos**2, axis=-1) - W0 * on_1**2
        sin_norm = jnp.sum(w * sin**2, axis=-1) - W2 * on_tau**2
        even, odd = jnp.sum(weighted * cos, axis=-1), jnp.sum(weighted * sin, axis=-1)
        return even, odd, cos_norm, sin_norm, on_1, on_tau

    def log_power(offset, weighted):
        even, odd, cos_norm, sin_norm, *_ = projections(offset, weighted)
        return jnp.log(even**2 / cos_norm + odd**2 / sin_norm)

    def newton_step(offset, weighted):
        offset = jax.lax.stop_gradient(offset)

        def gradient(offset):
            one = jnp.ones_like(offset)
            return jax.jvp(lambda d: log_power(d, weighted), (offset,), (one,))[1]

        ascent, bend = jax.jvp(gradient, (offset,), (jnp.ones_like(offset),))
        # A maximum has negative curvature; and never leave the neighbourhood of the bin.
        step = -ascent / jnp.minimum(jax.lax.stop_gradient(bend), -1e-2)
        return start + jnp.clip(offset + step - start, -0.75, 0.75)

    fixed = jax.lax.stop_gradient(weighted)
    offset = jax.lax.fori_loop(0, 5, lambda _, d: newton_step(d, fixed), start)
    # One step more, with gradients: at the converged point it is the implicit derivative.
    offset = newton_step(offset, weighted)

    even, odd, cos_norm, sin_norm, on_1, on_tau = projections(offset, weighted)
    a, b = even / cos_norm, odd / sin_norm
    level, slope = level - a * on_1, slope - b * on_tau
    rest = z - level[..., None] - slope[..., None] * tau
    power, total = a * even + b * odd, jnp.sum(weighted * z, axis=-1)
    amplitude = jax.lax.stop_gradient(jnp.sqrt(a**2 + b**2))
    cycles = base.astype(z.dtype) + offset
    # The chance that white noise has a line as strong, as of a Lomb-Scargle periodogram, for as
    # many independent samples as the window leaves.
    samples = W0**2 / float(np.sum(window**2))
    unexplained = jnp.maximum(1 - power / total, 8 * float(jnp.finfo(z.dtype).eps))
    chance = math.log(size) + 0.5 * max(samples - 5, 1) * jnp.log(unexplained)
    found = usable & (chance < math.log(FALSE_ALARM)) & (jnp.abs(offset - start) < 0.75)
    found = found & (amplitude >= LEAST_AMPLITUDE * rounding)
    found = found & (cycles >= FEWEST_CYCLES) & (cycles <= size / 2 - FEWEST_CYCLES)
    return Tone(base, offset, amplitude, rest, found)


def repetition(tone: Tone) -> tuple[Array, Array]:
    """Cycles per sample at which the waveform repeats, and whether it does.

    The likeness of the samples to themselves m samples later is
    n(m) = 2 Σ_j x_j x_{j+m} / Σ_j (x_j² + x_{j+m}²) = 1 - Σ_j (x_j - x_{j+m})² / Σ_j (...),
    exactly 1 after whole periods of any waveform (McLeod and Wyvill 2005).
    """
    x = tone.rest
    size = x.shape[-1]
    # Padded to twice the length, so that the end does not meet the beginning.
    products = jnp.fft.irfft(jnp.abs(jnp.fft.rfft(x, 2 * size)) ** 2, 2 * size)[..., :size]
    head = jnp.cumsum(x**2, axis=-1)[..., ::-1]
    tail = jnp.cumsum(x[..., ::-1] ** 2, axis=-1)[..., ::-1]
    energy = head + tail
    likeness = 2 * products / jnp.where(energy > 0, energy, 1)
    likeness = likeness[..., : math.ceil(0.75 * size)]
    longest = size / FEWEST_CYCLES

    known = jax.lax.stop_gradient(likeness)
    at, height, found = _first_peak(known, longest)
    lag = at.astype(x.dtype)

    sums = _running_sums(likeness)
    known_sums = jax.lax.stop_gradient(sums)
    one = jnp.ones_like(lag)
    lag = jax.lax.fori_loop(0, 4, lambda _, m: _nearer(known_sums, m, one)[0], lag)
    # As many periods as still repeat: whatever pulls at a peak pulls the mean period that less.

    def double(_, state):
        lag, count, going = state
        start = 2 * lag, height
        longer, alike = jax.lax.fori_loop(
            0, 3, lambda _, m: _nearer(known_sums, m[0], 2 * count), start
        )
        good = (jnp.abs(longer - 2 * lag) < 0.25 * lag / count) & (alike >= AS_ALIKE * height)
        going = going & good & (longer <= longest)
        return jnp.where(going, longer, lag), jnp.where(going, 2 * count, count), going

    doublings = max(0, math.ceil(math.log2(longest * HIGHEST)))
    state = (lag, one, found)
    lag, count, _ = jax.lax.fori_loop(0, doublings, double, state)
    # One step more, with gradients: at the converged point it is the implicit derivative.
    lag, _ = _nearer(sums, lag, count)
    found = found & (lag > 0) & (count <= HIGHEST * lag) & (lag <= longest * count)
    return count / jnp.where(found, lag, 1), found


def _first_peak(likeness: Array, longest: float) -> tuple[Array, Array, Array]:
    """The first lag of about the highest likeness, that likeness, and whether it repeats."""
    before, value, after = likeness[..., :-2], likeness[..., 1:-1], likeness[..., 2:]
    dipped = jnp.cumsum(value < 0, axis=-1) > 0
    lags = _last(1.0 + np.arange(value.shape[-1]), likeness)
    peaks = dipped & (value > 0) & (value >= before) & (value >= after) & (lags <= longest)
    # The height between the samples, of the cosine through three of them: with a few samples a
    # period, the nearest sample may be nearer to the second repetition than to the first.
    safe = jnp.where(peaks, value, 1)
    sine2 = jnp.clip((2 * value - before - after) / (4 * safe), 1e-9, 0.95)  # sin²(ω/2)
    tangent = (after - before) / (4 * safe * jnp.sqrt(sine2 * (1 - sine2)))
    height = jnp.where(peaks, value * jnp.sqrt(1 + tangent**2), 0)
    highest = jnp.max(height, axis=-1)
    first = 1 + jnp.argmax(height >= AS_ALIKE * highest[..., None], axis=-1)
    found = highest >= ALIKE
    # In noise that may lie on the flank: the top of this peak.
    there = (lags >= first[..., None].astype(lags.dtype)) & (
        lags <= 1.25 * first[..., None].astype(lags.dtype)
    )
    top = 1 + jnp.argmax(jnp.where(there & peaks, value, -jnp.inf), axis=-1)
    return jnp.where(found, top, 1), highest, found


def _nearer(sums: Array, lag: Array, count: Array) -> tuple[Array, Array]:
    """A step of Newton's method towards the peak by a lag, where b = 0, and its height."""
    near, fixed = jnp.round(lag).astype(jnp.int32), jax.lax.stop_gradient(sums)
    one = jnp.ones_like(lag)
    slope = jax.jvp(lambda m: _local_fit(fixed, near, m, m / count)[1], (lag,), (one,))[1]
    height, value = _local_fit(sums, near, lag, lag / count)
    step, most = value / jnp.where(slope < 0, slope, -jnp.inf), lag / count / 12
    return lag - jnp.clip(step, -most, most), height


def _local_fit(sums: Array, near: Array, lag: Array, period: Array) -> tuple[Array, Array]:
    """a and b of a cos ωd + b sin ωd, fitted to the likeness at distances d from a lag.

    Within a sixth of a period, of means over a twelfth of it, so that noise averages out.
    """
    half = 16
    width = jnp.maximum(period / 6, 3)[..., None]
    stride = jnp.ceil(width / half).astype(jnp.int32)
    reach = jnp.floor(period / 24).astype(jnp.int32)[..., None]
    at = near[..., None] + stride * np.arange(-half, half + 1, dtype=np.int32).reshape(
        (1,) * near.ndim + (-1,)
    )
    inside = (at - reach >= 1) & (at + reach < sums.shape[-1] - 1)
    low, high = (jnp.where(inside, m, 0) for m in (at - reach, at + reach + 1))
    mean = _take(sums, high) - _take(sums, low)
    mean = mean / (2 * reach + 1).astype(mean.dtype)
    away = at.astype(lag.dtype) - lag[..., None]
    inside = inside & (jnp.abs(away) < width)
    weight = jnp.where(inside, jnp.cos(0.5 * np.pi * away / width) ** 2, 0)
    angle = 2 * np.pi * away / period[..., None]
    cos, sin = jnp.cos(angle), jnp.sin(angle)

    def coefficient(v, along):
        square = jnp.sum(weight * along**2, axis=-1, keepdims=True)
        return jnp.sum(weight * v * along, axis=-1, keepdims=True) / jnp.where(
            square > 0, square, 1
        )

    across = sin - coefficient(sin, cos) * cos
    b = coefficient(mean, across)
    a = coefficient(mean - b * sin, cos)
    return a[..., 0], b[..., 0]


def passages(tone: Tone) -> tuple[Array, Array]:
    """Cycles per sample by the passages of the straight line, and whether there are enough."""
    x = tone.rest
    size = x.shape[-1]
    cycles = tone.base.astype(x.dtype) + tone.offset
    period = jnp.clip(jax.lax.stop_gradient(size / jnp.where(tone.found, cycles, 4)), 2, size)
    reach = jnp.floor(period / 8).astype(jnp.int32)
    smooth = _smoothed(x, reach)
    # Half of the least crest that samples of a tone may show: sin 30° with three a period.
    crest = 0.9 * tone.amplitude * jnp.cos(np.pi / period)
    noise = _noise(jax.lax.stop_gradient(x)) / jnp.sqrt((2 * reach + 1).astype(x.dtype))
    found = tone.found & (0.5 * crest >= MARGIN * noise) & (period * HIGHEST >= 1)

    omega = 2 * np.pi * jnp.where(tone.found, cycles, 4) / size
    upward = _times(smooth, 0.5 * crest, omega)
    downward = _times(-smooth, 0.5 * crest, omega)
    spread, trend = (u + d for u, d in zip(upward, downward, strict=True))
    found = found & (spread > 0) & (trend > 0)
    return spread / jnp.where(found, trend, 1), found


def _times(x: Array, threshold: Array, omega: Array) -> tuple[Array, Array]:
    """Σ (k - k̄)² and Σ (k - k̄) t_k over the upward passages k of 0, from below -h to above h."""
    size, h = x.shape[-1], threshold[..., None]
    number = jnp.arange(size, dtype=jnp.int32).reshape((1,) * (x.ndim - 1) + (-1,))
    known = jax.lax.stop_gradient(x)

    def latest(flags):
        return jax.lax.cummax(jnp.where(flags, number, -1), axis=x.ndim - 1)

    above = latest(known > h)
    above_before = jnp.concatenate([jnp.full_like(above[..., :1], -1), above[..., :-1]], axis=-1)
    passed = (known > h) & (latest(known < -h) > above_before)
    rises = (known[..., :-1] < 0) & (known[..., 1:] >= 0)
    rises = jnp.concatenate([jnp.zeros_like(rises[..., :1]), rises], axis=-1)
    at = jnp.maximum(latest(rises), 1)  # the sample after the last zero
    a, b = _take(x, at - 1), _take(x, at)
    a, b = jnp.where(passed, a, -1), jnp.where(passed, b, 1)
    # The zero of the sinusoid through both, a straight line where samples are dense.
    w = omega[..., None]
    fraction = jnp.arctan2(-a * jnp.sin(w), b - a * jnp.cos(w)) / w
    k = jnp.cumsum(passed, axis=-1).astype(x.dtype)
    count = jnp.maximum(jnp.sum(passed, axis=-1, keepdims=True), 1).astype(x.dtype)
    k = jnp.where(passed, k - (count + 1) / 2, 0)
    whole = (at - size // 2).astype(x.dtype)
    return jnp.sum(k**2, axis=-1), jnp.sum(k * whole, axis=-1) + jnp.sum(k * fraction, axis=-1)


def _noise(x: Array) -> Array:
    """Standard deviation of white noise in x: half of the bins of a spectrum are below ln 2."""
    window = hann(x.shape[-1])
    power = jnp.abs(jnp.fft.rfft(x * _last(window, x))) ** 2
    return jnp.sqrt(jnp.median(power, axis=-1) / (math.log(2) * float(np.sum(window**2))))


def _smoothed(x: Array, reach: Array) -> Array:
    """Means of 2 reach + 1 samples, of fewer, as many on either side, at the ends."""
    size = x.shape[-1]
    number = jnp.arange(size, dtype=jnp.int32).reshape((1,) * (x.ndim - 1) + (-1,))
    reach = jnp.minimum(jnp.minimum(number, size - 1 - number), reach[..., None])
    sums = _running_sums(x)
    high, low = _take(sums, number + reach + 1), _take(sums, number - reach)
    # A difference of sums would cost digits where there is nothing to average.
    return jnp.where(reach > 0, (high - low) / (2 * reach + 1).astype(x.dtype), x)


def _running_sums(x: Array) -> Array:
    """Sums of the first 0 ... S samples."""
    return jnp.concatenate([jnp.zeros_like(x[..., :1]), jnp.cumsum(x, axis=-1)], axis=-1)


def _take(x: Array, at: Array) -> Array:
    return jnp.take_along_axis(x, at, axis=-1)


def _last(vector: np.ndarray, like: Array) -> Array:
    """A constant along the last axis of `like`, in its dtype and number of dimensions."""
    return jnp.asarray(vector, like.dtype).reshape((1,) * (like.ndim - 1) + (-1,))


def _half_bins(weighted: Array, window: np.ndarray, place: np.ndarray) -> tuple[Array, ...]:
    """<cos, z> and <sin, z> at 1/2, 1, ... (S - 1)/2 cycles, and the norms of cos and sin there."""
    size = weighted.shape[-1]
    k = np.arange(1, size)
    # From the first sample, where the transform has its origin, to the middle of the record.
    turn = np.exp(2j * np.pi * (k / 4 % 1 - k / (4 * size)))
    at_f = np.fft.rfft(window, 2 * size)[1:size] * turn
    at_f_tau = np.fft.rfft(window * place, 2 * size)[1:size] * turn
    at_2f = np.fft.fft(window)[k] * np.exp(2j * np.pi * (k / 2 % 1 - k / (2 * size)))
    total, second = np.sum(window), np.sum(window * place**2)
    cos_norm = (total + at_2f.real) / 2 - at_f.real**2 / total
    sin_norm = (total - at_2f.real) / 2 - at_f_tau.imag**2 / second
    spectrum = jnp.fft.rfft(weighted, 2 * size)[..., 1:size]
    spectrum = spectrum * jnp.asarray(turn, spectrum.dtype).reshape(
        (1,) * (weighted.ndim - 1) + (-1,)
    )
    norms = (_last(norm, weighted) for norm in (cos_norm, sin_norm))
    return jnp.real(spectrum), -jnp.imag(spectrum), *norms


def _turns(cycles: Array, size: int, dtype) -> Array:
    """cycles · τ_j less whole turns, exactly, where 32-bit products overflow.

    In float32 the plain product of a high bin and a late sample would lose the phase.
    """
    high, low = jnp.divmod(cycles[..., None], 2048)
    sample = jnp.arange(size, dtype=cycles.dtype).reshape((1,) * cycles.ndim + (-1,))
    # size <= 2^20: each product stays below 2^31, and each remainder below 2^20.
    turns = ((high * sample) % size * 2048) % size + (low * sample) % size
    middle = 0.5 * (cycles % 2).astype(dtype) - cycles.astype(dtype) / (2 * size)
    return (turns % size).astype(dtype) / size - middle[..., None]
