"""Least squares of the outputs of a network: its normal equations, sample by sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._network.products import product
from .._util.types import Array, matmul_precision

_MOST_ENTRIES = 4e6  # of the derivatives of a piece of the samples by all unknowns


class Model(NamedTuple):
    """y_k = readout x_k + offset of the states x_k, from x_0 = `start` on; all of it unknown."""

    inner: Array  # (p,) what the motion depends on
    start: Array  # (n,)
    readout: Array  # (channels, n)
    offset: Array  # (channels,)


def in_pieces(series: np.ndarray, neurons: int, unknowns: int, dtype: np.dtype) -> Array:
    """(pieces, samples of a piece, columns), filled up with 0."""
    size, columns = series.shape
    piece = int(np.clip(_MOST_ENTRIES / (neurons * unknowns), 1, 256))
    padded = np.zeros((-(-size // piece) * piece, columns), dtype)
    padded[:size] = series
    return jnp.asarray(padded.reshape(len(padded) // piece, piece, columns))


def normal_equations(
    next_sample: Callable[[Array, Array, Array], Array],
    model: Model,
    y: Array,
    u: Array,
    used: Array,
) -> tuple[Array, Array, Array]:
    """Σ r², Jᵀr and JᵀJ of the errors r of the first `used` samples, over √(how many there are).

    The state after a sample depends on the unknowns through the state before it and directly:
    dx_{k+1} = ∂F/∂x dx_k + ∂F/∂p dp. These derivatives of single samples are taken side by side,
    and backwards, as there are fewer neurons than unknowns; then dx_k follows by small products.

    Args:
        next_sample: F(x, p, u), the state one sample later.
        model: at which values; the order of its parts is that of the unknowns.
        y: outputs, in pieces, nan where there is none.
        u: inputs, in the same pieces.
        used: samples that count.
    """
    inner, start, readout, offset = model
    _, piece, channels = y.shape
    n, dtype = start.size, start.dtype
    known = ~jnp.isnan(y)
    order = jnp.arange(len(y) * piece, dtype=used.dtype).reshape(-1, piece, 1)
    share = jax.lax.rsqrt(jnp.sum(known & (order < used), dtype=used.dtype).astype(dtype))
    after = jax.vmap(jax.jacrev(next_sample, (0, 1)), (0, None, 0))

    def sensitive(S: Array, parts: tuple[Array, Array]) -> tuple[Array, Array]:
        by_x, by_inner = parts
        return product(by_x, S) + jnp.pad(by_inner, ((0, 0), (0, n))), S

    def add(i: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
        x, S, error, slope, normal = sums
        x, xs = jax.lax.scan(lambda x, u: (next_sample(x, inner, u), x), x, u[i])
        S, Ss = jax.lax.scan(sensitive, S, after(xs, inner, u[i]))
        weight = jnp.where(known[i] & (order[i] < used), share, 0)
        r = weight * (product(xs, readout.T) + offset[None] - jnp.where(known[i], y[i], 0))
        eye = jnp.eye(channels, dtype=dtype)
        by_states = jnp.einsum("cn,bnp->bcp", readout, Ss, precision=matmul_precision())
        by_readout = (eye[None, :, :, None] * xs[:, None, None, :]).reshape(piece, channels, -1)
        by_offset = jnp.broadcast_to(eye, (piece, channels, channels))
        J = jnp.concatenate([by_states, by_readout, by_offset], axis=2)
        J = (weight[:, :, None] * J).reshape(piece * channels, -1)
        r = r.ravel()
        return x, S, error + jnp.sum(r**2), slope + product(J.T, r), normal + product(J.T, J)

    S = jnp.concatenate([jnp.zeros((n, inner.size), dtype), jnp.eye(n, dtype=dtype)], axis=1)
    size = sum(part.size for part in model)
    zero = jnp.zeros((), dtype)
    sums = (start, S, zero, jnp.zeros(size, dtype), jnp.zeros((size, size), dtype))
    return jax.lax.fori_loop(0, -(-used // piece), add, sums)[2:]
