"""Networks by their modes, and what the fits of oscillators share.

The modes v of A, iA v = ω v with ω > 0, turn alone in small motions: z = Re(c v exp(-iω σ'(0) t)).
Fits work on the pre-activations z = A x, in which both forms are z' = A σ(z).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._network.activations import AbstractActivation
from .._network.model import CTRNN
from .._network.weights import DenseSkew
from .._util import checks
from .._util.types import Array, ArrayLike, PyTree
from .oscillator import Oscillator


def half_spectrum(A: Array) -> tuple[Array, Array]:
    """ω (n // 2,) >= 0, ascending, and modes v (n, n // 2) with iA v = ω v."""
    omega, modes = jnp.linalg.eigh(jax.lax.complex(jnp.zeros_like(A), A))
    start = (A.shape[0] + 1) // 2
    return omega[start:], modes[:, start:]


def with_spectrum(omega: Array, modes: Array) -> DenseSkew:
    """The weights A = Σ_k 2 Re(-i ω_k v_k v_kᴴ), of which `half_spectrum` is the inverse."""
    A = 2 * jnp.imag((modes * omega.astype(modes.dtype)[None]) @ modes.conj().T)
    return DenseSkew((A - A.T) / 4)


def mode_frequencies(zs: Array, modes: Array, dt: ArrayLike) -> Array:
    """Mean frequency (lines,) at which the parts v_kᴴ z of a motion zs (S, n) turn."""
    u = zs.astype(modes.dtype) @ modes.conj()
    turns = jnp.angle(u[1:] * u[:-1].conj()) / (2 * np.pi)
    # Hann weights: what the other lines add averages out fast.
    weights = jnp.asarray(hann(len(zs) - 1), zs.dtype)[:, None]
    return jnp.abs(jnp.sum(weights * turns, axis=0)) / dt


def hann(size: int) -> np.ndarray:
    """Hann weights (size,), of sum 1."""
    window = 1 - np.cos(2 * np.pi * (np.arange(size) + 0.5) / size)
    return window / window.sum()


def without_kernel(A: Array, z: Array) -> Array:
    """The part of z in the range of A: the rate form's z = A x lies there."""
    return A @ _pseudo_inverse(A) @ z if A.shape[0] % 2 else z


def _pseudo_inverse(A: Array) -> Array:
    if A.shape[0] % 2 == 0:
        return jnp.linalg.inv(A)
    # An odd skew-symmetric matrix has one singular value 0: never let rounding decide.
    u, s, vt = jnp.linalg.svd(A)
    return (vt[:-1].T / s[None, :-1]) @ u[:, :-1].T


def for_form(rnn: CTRNN, z: Array, readout: Array, speed: Array, form: str) -> Oscillator:
    """The oscillator, `speed` times as fast, of which z' = A σ(z) are the pre-activations.

    In the rate form x' = σ(A x), with z = A x, the same motion is read out by C A.
    """
    A = rnn.weights.as_matrix() * speed
    if form == "rate":
        z, readout = _pseudo_inverse(A) @ z, readout @ A
    # W = A/2, and skew-symmetric, as rounding may not have left it.
    return Oscillator(CTRNN(DenseSkew((A - A.T) / 4), rnn.activation, form), z, readout)


def oscillating(activation: Any) -> AbstractActivation:
    """An activation around whose 0 a network oscillates."""
    checks.instance("activation", activation, AbstractActivation, "one such as Tanh()")
    slope = float(activation.derivative(jnp.zeros(())))
    if not (activation.odd and slope > 0):
        name = type(activation).__name__
        checks.fail("activation", "an odd one that rises at 0, such as Tanh()", name)
    return activation


def in_parts(make: Callable[..., PyTree], size: int, *arrays: Array) -> PyTree:
    """`make` of arrays with one leading axis, `size` members at once: memory stays bounded."""
    starts = range(0, len(arrays[0]), size)
    parts = [make(*(array[i : i + size] for array in arrays)) for i in starts]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
