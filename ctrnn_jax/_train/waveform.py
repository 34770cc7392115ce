"""Training by the waveform: least squares, with derivatives through the simulation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from .._analysis.samples import Record
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
    samples: int = eqx.field(static=True)  # intervals

    def next_sample(self, z: Array, upper: Array, share: Array) -> Array:
        """The pre-activations one interval later, or, where `share` (1,) is not empty, so much."""
        xs = simulate(
            CTRNN(weights_of(upper, self.n), self.activation, "current"),
            z,
            dt=self.step * share[0] if share.size else self.step,
            num_steps=self.every,
            save_every=self.every,
            solver=diffrax.Dopri8(),
            adjoint="direct",
        ).xs
        assert xs is not None
        return xs[-1]

    def observed(self, upper: Array, z: Array, observe: Any, at: Array | None = None) -> Array:
        """What `observe` says of the pre-activations after each interval, or at times in them."""
        every, ts = self.every, None
        if at is not None:
            every, ts = 1, at * (self.every * self.step)
        return simulate(
            CTRNN(weights_of(upper, self.n), self.activation, "current"),
            z,
            dt=self.step,
            num_steps=self.samples * self.every,
            save_every=every,
            save_at=ts,
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
def _outputs(unknowns: Unknowns, motion: Motion, at: Array | None) -> Array:
    upper, z, readout, offset = unknowns
    return motion.observed(upper, z, lambda z: product(readout, z) + offset, at)


def outputs(unknowns: Unknowns, motion: Motion, record: Record) -> np.ndarray:
    """At the samples, (S, channels)."""
    if record.on_grid:
        return np.asarray(_outputs(unknowns, motion, None), float)[record.at.astype(int)]
    at = jnp.asarray(record.at, unknowns.z.dtype)
    return np.asarray(_outputs(unknowns, motion, at), float)


class Steps(NamedTuple):
    """From sample to sample in steps of at most an interval: what lies between has no samples."""

    y: np.ndarray  # (points, channels), nan where there is none
    shares: np.ndarray  # (points, 1) of an interval, until the next point; (points, 0): all are 1
    points: np.ndarray  # (S,) up to each sample


def steps_between(record: Record) -> Steps:
    y, at = record.y, record.at
    if at[0] > 0:  # where the motion begins
        y, at = np.concatenate([np.full_like(y[:1], np.nan), y]), np.append(0.0, at)
    gaps = np.diff(at)
    parts = np.ceil(gaps * (1 - 1e-12)).astype(int)
    points = np.append(0, np.cumsum(parts))
    filled = np.full((points[-1] + 1, y.shape[1]), np.nan)
    filled[points] = y
    shares = np.append(np.repeat(gaps / parts, parts), 0.0)[:, None]
    return Steps(filled, shares[:, :0] if record.on_grid else shares, points[-len(record.y) :] + 1)


def least_squares(
    start: Unknowns,
    motion: Motion,
    given: Steps,
    used: int,
    steps: int,
    advance: Callable[[int], Any],
) -> tuple[Unknowns, list[float]]:
    """Unknowns of a smaller mean square error of the first `used` samples, and the least so far."""
    values, unflatten = ravel_pytree(start)
    dtype = values.dtype
    y, shares = (in_pieces(a, motion.n, values.size, dtype) for a in (given.y, given.shares))
    # An array: another number compiles nothing anew.
    first = jnp.asarray(given.points[used - 1], jnp.int32)

    def equations(values: np.ndarray) -> list[np.ndarray]:
        unknowns = unflatten(jnp.asarray(values, dtype))
        return [np.asarray(sums, float) for sums in _normal(unknowns, motion, y, shares, first)]

    values = np.asarray(values, float)
    # Unscaled: the unknowns are of order 1, and some change nothing, such as turning all modes.
    values, losses = levenberg_marquardt(values, equations, steps, advance)
    return unflatten(jnp.asarray(values, dtype)), losses


@eqx.filter_jit
def _normal(
    unknowns: Unknowns, motion: Motion, y: Array, shares: Array, used: Array
) -> tuple[Array, ...]:
    return normal_equations(motion.next_sample, Model(*unknowns), y, shares, used)
