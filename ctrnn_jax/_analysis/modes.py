"""Linear modes of a network, and networks by their modes.

The modes v of A, iA v = ω v with ω > 0, turn alone in small motions: z = Re(c v exp(-iω σ'(0) t)),
with the pre-activations z = A x, in which both forms are z' = A σ(z).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from .._network.products import product
from .._network.weights import DenseSkew
from .._util.types import Array, ArrayLike
from .samples import hann


def half_spectrum(A: Array) -> tuple[Array, Array]:
    """ω (n // 2,) >= 0, ascending, and modes v (n, n // 2) with iA v = ω v."""
    omega, modes = jnp.linalg.eigh(jax.lax.complex(jnp.zeros_like(A), A))
    start = (A.shape[0] + 1) // 2
    return omega[start:], modes[:, start:]


def with_spectrum(omega: Array, modes: Array) -> DenseSkew:
    """The weights A = Σ_k 2 Re(-i ω_k v_k v_kᴴ), of which `half_spectrum` is the inverse."""
    A = product(modes * omega.astype(modes.dtype)[None], modes.conj().T)
    return skew_weights(2 * jnp.imag(A))


def skew_weights(A: Array) -> DenseSkew:
    """The weights A: W = A/2, and skew-symmetric, as rounding may not have left it."""
    return DenseSkew((A - A.T) / 4)


def mode_frequencies(zs: Array, modes: Array, dt: ArrayLike) -> Array:
    """Mean frequency (lines,) at which the parts v_kᴴ z of a motion zs (S, n) turn."""
    u = product(zs.astype(modes.dtype), modes.conj())
    turns = jnp.angle(u[1:] * u[:-1].conj()) / (2 * np.pi)
    window = hann(len(zs) - 1)  # what the other lines add averages out fast
    weights = jnp.asarray(window / window.sum(), zs.dtype)[:, None]
    return jnp.abs(jnp.sum(weights * turns, axis=0)) / dt


def without_kernel(A: Array, z: Array) -> Array:
    """The part of z in the range of A: the rate form's z = A x lies there."""
    return product(A, product(pseudo_inverse(A), z)) if A.shape[0] % 2 else z


def pseudo_inverse(A: Array) -> Array:
    """The inverse on the range of A, which for an odd number of neurons is not the whole space."""
    if A.shape[0] % 2 == 0:
        return jnp.linalg.inv(A)
    # An odd skew-symmetric matrix has one singular value 0: never let rounding decide.
    u, s, vt = jnp.linalg.svd(A)
    return product(vt[:-1].T / s[None, :-1], u[:, :-1].T)
