"""Signals without their offset and unit."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .._util.types import Array


def standardized(y: Array) -> tuple[Array, Array]:
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
