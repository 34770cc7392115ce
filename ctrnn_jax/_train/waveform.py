"""Training by the waveform: least squares, with derivatives through the simulation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from .._network.activations import AbstractActivation
from .._network.model import CTRNN
from .._network.products import product
from .._network.weights import DenseSkew
from .._simulate.api import simulate
from .._util.types import Array
from .least_squares import levenberg_marquardt
from .output_error import Model, in_pieces, normal_equations


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
    return motion.observed(upper, z, lambda z: product(readout, z) + offset)


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
    target = in_pieces(y, motion.n, values.size, dtype)
    first = jnp.asarray(used, jnp.int32)  # an array: another number compiles nothing anew

    def equations(values: np.ndarray) -> list[np.ndarray]:
        unknowns = unflatten(jnp.asarray(values, dtype))
        return [np.asarray(sums, float) for sums in _normal(unknowns, motion, target, first)]

    values = np.asarray(values, float)
    # Unscaled: the unknowns are of order 1, and some change nothing, such as turning all modes.
    values, losses = levenberg_marquardt(values, equations, steps, advance)
    return unflatten(jnp.asarray(values, dtype)), losses


@eqx.filter_jit
def _normal(unknowns: Unknowns, motion: Motion, y: Array, used: Array) -> tuple[Array, ...]:
    def next_sample(z: Array, upper: Array, u: Array) -> Array:
        del u
        return motion.next_sample(z, upper)

    return normal_equations(next_sample, Model(*unknowns), y, y[..., :0], used)
