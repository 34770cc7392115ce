"""Figure 2: state space of two neurons, linear, tanh and hard tanh; the linear theorems."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from .._analysis.period import period
from .._network.activations import HardTanh, Linear, Tanh
from .._network.model import CTRNN
from .._network.weights import BlockSkew, DenseSkew
from .._simulate.api import simulate
from .._simulate.trajectory import Trajectory
from ..solvers import ExactLinear
from ._common import (
    OneOf,
    Verdict,
    at_most,
    exact_frequencies,
    needs_float64,
    normal,
    states,
)
from ._portraits import portraits

CAPTION = (
    "State space of two neurons with linear (left), tanh (middle) and hard-tanh activation "
    "(right), for several initial states and angular frequencies. A black dot is a start, a blue "
    "star an end; colours run from violet (early) to yellow (late). Here each orbit is followed "
    "for exactly one period."
)
READING = (
    "All orbits close: ends lie on starts. Linear ones are circles that take 2π/ω, however large; "
    "saturation turns large orbits into diamonds that take longer and, in the end, 4(|x| + |y|) "
    "seconds at any ω."
)
ACTIVATIONS = {"linear": Linear, "tanh": Tanh, "hard tanh": HardTanh}


@dataclasses.dataclass(frozen=True)
class Config:
    """Phase portraits: a column for each activation, a row for each angular frequency.

    Attributes:
        omegas: angular frequencies in rad/s.
        starts: (x, y) of the initial states.
        saves: states saved in the one period that is drawn of each orbit.
        sizes: numbers of neurons of the random matrices whose spectra are checked.
        matrices: how many of each size.
        linear_steps: steps of 0.1 s over which the norm of the exact linear flow is watched.
        seed: of the matrices.
    """

    omegas: tuple[float, ...] = (1.0, 2.0)
    starts: tuple[tuple[float, float], ...] = ((0.4, 0.0), (1.0, 0.2), (1.8, 0.4))
    saves: int = 256
    sizes: tuple[int, ...] = (2, 3, 10, 21)
    matrices: int = 16
    linear_steps: int = 10_000
    seed: int = 0


class Data(NamedTuple):
    """Orbits and returns by (activation, omega); spectra and norms of linear networks."""

    config: Config
    orbits: dict[tuple[str, float], list[Trajectory]]  # one period of each start
    return_distances: np.ndarray
    frequency_errors: np.ndarray
    real_parts: np.ndarray
    norm_changes: np.ndarray


def run(config: Config = Config()) -> Data:
    """Simulate what is drawn, follow every orbit once around, and look at linear networks."""
    needs_float64()
    x0 = jnp.asarray(config.starts)
    kinds = tuple(make() for make in ACTIVATIONS.values())

    def orbits(which, omega):
        """One located period, the run through it, the distance after it."""
        rnn = CTRNN(BlockSkew(omega[None]), OneOf(kinds, which))
        T = period(rnn, x0)

        def once_around(x, T):
            return simulate(
                rnn, x, dt=T / config.saves, num_steps=config.saves, solver=diffrax.Dopri8(),
                rtol=1e-12, atol=1e-12,
            )  # fmt: skip

        run = jax.vmap(once_around)(x0, T)
        away = jnp.linalg.norm(states(run)[:, -1] - x0, axis=-1)
        return T, run, away / jnp.linalg.norm(x0, axis=-1)

    omegas = jnp.asarray(config.omegas)

    @jax.jit
    def all_orbits(which):
        return jax.lax.map(lambda k: jax.vmap(partial(orbits, k))(omegas), which)

    T, runs, distances = jax.tree.map(np.asarray, all_orbits(jnp.arange(len(kinds))))
    drawn = {
        (name, omega): [
            jax.tree.map(lambda leaf, at=(k, j, i): leaf[at], runs) for i in range(len(x0))
        ]
        for k, name in enumerate(ACTIVATIONS)
        for j, omega in enumerate(config.omegas)
    }

    # Neurons without weights are added, which stay at 0: one program for all sizes.
    most = max(config.sizes)
    every = max(1, config.linear_steps // 100)
    steps = every * (config.linear_steps // every)

    @jax.jit
    def linear(W, x0):
        options = {"dt": 0.1, "num_steps": steps, "save_every": every, "solver": ExactLinear()}
        return states(simulate(CTRNN(DenseSkew(W), Linear()), x0, **options))

    real_parts, changes = [], []
    for n in config.sizes:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), n), 2)
        matrix = jax.jit(jax.vmap(lambda key, n=n: DenseSkew.init(key, n).as_matrix()))
        A = np.asarray(matrix(jax.random.split(keys[0], config.matrices)))
        real_parts.append(
            max(np.abs(np.linalg.eigvals(a).real).max() / np.linalg.norm(a, 2) for a in A)
        )
        none = (0, most - n)
        starts = np.pad(normal(keys[1], (8, n), 8 * most), ((0, 0), none))
        norms = np.linalg.norm(linear(np.pad(A[0] / 2, (none, none)), starts), axis=-1)
        changes.append(np.abs(norms / norms[:, :1] - 1).max())
    return Data(
        config,
        drawn,
        distances,
        np.abs(T * np.asarray(exact_frequencies(kinds, omegas, x0)) - 1),
        np.array(real_parts),
        np.array(changes),
    )


def check(data: Data) -> list[Verdict]:
    """Imaginary spectra, constant norms, closed orbits of the exact period."""
    config = data.config
    sizes = ", ".join(map(str, config.sizes))
    return [
        at_most(
            "The spectrum of a skew-symmetric matrix lies on the imaginary axis.",
            "paper, Theorem 1",
            f"largest |Re λ| / |A|, {config.matrices} random matrices each of n = {sizes}",
            data.real_parts,
            1e-13,
        ),
        at_most(
            "The exact linear flow keeps the norm of the state.",
            "paper, Remark 2",
            f"largest relative change of the norm in {config.linear_steps} steps, n = {sizes}",
            data.norm_changes,
            1e-11,
        ),
        at_most(
            "Orbits of two neurons with odd activations are closed.",
            "paper, Cor. 1 and Fig. 2",
            "largest return distance after one located period, relative to the start",
            data.return_distances,
            1e-9,
        ),
        at_most(
            "Their periods are the exact ones: 2π/ω, elliptic integral, piecewise elementary.",
            "theory",
            "largest relative error of the located period",
            data.frequency_errors,
            1e-9,
        ),
    ]


def plot(data: Data) -> Any:
    """Rows of omega, columns of activations."""
    config = data.config
    panels = [
        [(f"{name}, ω = {omega:g} rad/s", data.orbits[name, omega]) for name in ACTIVATIONS]
        for omega in config.omegas
    ]
    return portraits(panels)
