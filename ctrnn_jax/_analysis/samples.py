"""Sampled signals before they are analysed: checked, rid of offset and unit, and windowed."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._util import checks
from .._util.types import Array


def signal_samples(
    name: str, value: Any, shape: str, ndim: tuple[int, ...], minimum: int
) -> np.ndarray:
    """Finite samples in float64, whether or not JAX has it enabled."""
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
    checks.finite(name, array)
    return array.astype(np.float64)


def standardised(
    Y: np.ndarray, dtype: Any = np.float64
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(Y - mean) / deviation (S, C), mean, deviation and rounding of the samples (C,).

    The rounding is that of samples of this dtype, in units of the deviation; a channel that varies
    no more than by it is constant: its deviations are 0, in a unit of 1.
    """
    peak = np.max(np.abs(Y), axis=0)
    unit = np.exp2(np.frexp(peak)[1])  # powers of 2 divide exactly, and squares then stay finite
    scaled = Y / unit
    mean = np.mean(scaled, axis=0)
    # From the first sample the mean is off by a rounding of the offset: taken out once more.
    mean += np.mean(scaled - mean, axis=0)
    deviation = np.std(scaled - mean, axis=0)
    rounding = float(np.finfo(dtype).eps) * np.max(np.abs(scaled), axis=0)
    varies = deviation > rounding
    deviation = np.where(varies, deviation, 1)
    standard = np.where(varies, (scaled - mean) / deviation, 0)
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
