"""Training by the waveform: least squares, with derivatives through the simulation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from .._network.activations import AbstractActivation
from .._network.model import CTRNN
from .._network.weights import DenseSkew
from .._simulate.api import simulate
from .._util.types import Array
from .least_squares import levenberg_marquardt

_MOST_ENTRIES = 4e6  # of the derivatives of a piece of the samples by all unknowns


class Unknowns(NamedTuple):
    """What is trained; time is in units of 1/speed, in which the fastest mode turns 1 rad."""

    upper: Array  # (n (n - 1) / 2,) of A
    z: Array  # (n,) initial pre-activations
    readout: Array  # (channels, n)
    offset: Array  # (channels,)


class Motion(eqx.Module):
    """How the network is integrated, in units of 1/speed."""

    activation: AbstractActivation
    n: int = eqx.field(static=True)
    step: Array
    every: int = eqx.field(static=True)
    samples: int = eqx.field(static=True)

    def next_sample(self, z: Array, upper: Array) -> Array:
        """The pre-activations one sample later."""
        xs = simulate(
            CTRNN(weights_of(upper, self.n), self.activation, "current"),
            z,
            dt=self.step,
            num_steps=self.every,
            save_every=self.every,
            solver=diffrax.Dopri8(),
            adjoint="direct",
        ).xs
        assert xs is not None
        return xs[-1]

    def observed(self, upper: Array, z: Array, observe: Any) -> Array:
        """What `observe` says of the pre-activations at every sample, from the first on."""
        return simulate(
            CTRNN(weights_of(upper, self.n), self.activation, "current"),
            z,
            dt=self.step,
            num_steps=self.samples * self.every,
            save_every=self.every,
            solver=diffrax.Dopri8(),
            keep_states=False,
            observe=lambda t, z: observe(z),
        ).observed


def upper_of(weights: DenseSkew) -> Array:
    """The entries of A above its diagonal: as many unknowns as A has."""
    return upper_of_matrix(weights.as_matrix())


def upper_of_matrix(A: Any) -> Any:
    return A[np.triu_indices(len(A), 1)]


def weights_of(upper: Array, n: int) -> DenseSkew:
    return DenseSkew(jnp.zeros((n, n), upper.dtype).at[np.triu_indices(n, 1)].set(upper))


@eqx.filter_jit
def outputs(unknowns: Unknowns, motion: Motion) -> Array:
    upper, z, readout, offset = unknowns
    return motion.observed(upper, z, lambda z: readout @ z + offset)


def least_squares(
    start: Unknowns,
    motion: Motion,
    y: np.ndarray,
    used: int,
    steps: int,
    advance: Callable[[int], Any],
) -> tuple[Unknowns, list[float]]:
    """Unknowns of a smaller mean square error of the first `used` samples, and the least so far."""
    values, unflatten = ravel_pytree(start)
    dtype = values.dtype
    piece = int(np.clip(_MOST_ENTRIES / (motion.n * values.size), 1, 256))
    padded = np.zeros((-(-len(y) // piece) * piece, y.shape[1]), dtype)
    padded[: len(y)] = y
    target = jnp.asarray(padded.reshape(-1, piece, y.shape[1]))
    first = jnp.asarray(used, jnp.int32)  # an array: another number compiles nothing anew

    def equations(values: np.ndarray) -> list[np.ndarray]:
        unknowns = unflatten(jnp.asarray(values, dtype))
        return [np.asarray(sums, float) for sums in _normal(unknowns, motion, target, first)]

    values = np.asarray(values, float)
    # Unscaled: the unknowns are of order 1, and some change nothing, such as turning all modes.
    values, losses = levenberg_marquardt(values, equations, steps, advance)
    return unflatten(jnp.asarray(values, dtype)), losses


@eqx.filter_jit
def _normal(unknowns: Unknowns, motion: Motion, target: Array, used: Array) -> tuple[Array, ...]:
    """Σ r², Jᵀr and JᵀJ of the errors r of the first `used` samples, over √(used channels).

    The state after a sample depends on the unknowns through the state before it and directly:
    dz_{k+1} = ∂F/∂z dz_k + ∂F/∂A dA. These derivatives of single samples are taken side by side,
    and backwards, as there are fewer neurons than weights; then dz_k follows by small products.
    """
    upper, z, readout, offset = unknowns
    _, piece, channels = target.shape
    count = upper.size + z.size
    share = jax.lax.rsqrt((used * channels).astype(z.dtype))
    after = jax.vmap(jax.jacrev(motion.next_sample, (0, 1)), (0, None))

    def sensitive(S: Array, parts: tuple[Array, Array]) -> tuple[Array, Array]:
        by_z, by_upper = parts
        return by_z @ S + jnp.pad(by_upper, ((0, 0), (0, z.size))), S

    def add(i: Any, sums: tuple[Array, ...]) -> tuple[Array, ...]:
        z, S, error, slope, normal = sums
        z, zs = jax.lax.scan(lambda z, _: (motion.next_sample(z, upper), z), z, length=piece)
        S, Ss = jax.lax.scan(sensitive, S, after(zs, upper))
        weight = jnp.where(i * piece + jnp.arange(piece, dtype=used.dtype) < used, share, 0)[
            :, None
        ]
        r = weight * (zs @ readout.T + offset[None] - target[i])
        eye = jnp.eye(channels, dtype=z.dtype)
        by_readout = (eye[None, :, :, None] * zs[:, None, None, :]).reshape(piece, channels, -1)
        by_offset = jnp.broadcast_to(eye, (piece, channels, channels))
        J = jnp.concatenate([jnp.einsum("cn,bnp->bcp", readout, Ss), by_readout, by_offset], axis=2)
        J = (weight[:, :, None] * J).reshape(piece * channels, -1)
        r = r.ravel()
        return z, S, error + r @ r, slope + J.T @ r, normal + J.T @ J

    size = count + readout.size + channels
    S = jnp.concatenate(
        [jnp.zeros((z.size, upper.size), z.dtype), jnp.eye(z.size, dtype=z.dtype)], 1
    )
    zero = jnp.zeros((), z.dtype)
    start = (z, S, zero, jnp.zeros(size, z.dtype), jnp.zeros((size, size), z.dtype))
    return jax.lax.fori_loop(0, -(-used // piece), add, start)[2:]
