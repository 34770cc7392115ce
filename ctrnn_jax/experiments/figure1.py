"""Figure 1: the level sets of the energy of two tanh neurons, and conservation of energy."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from .._analysis.period import period
from .._network.activations import Arctan, Erf, HardTanh, Linear, Sin, Tanh
from .._network.invariants import energy_drift
from .._network.model import CTRNN
from .._network.weights import BlockSkew, DenseSkew
from .._simulate.api import simulate
from ..solvers import DiscreteGradient
from ._common import OneOf, Verdict, at_most, needs_float64, states

CAPTION = (
    "Level sets of log(cosh x cosh y) = l of two tanh neurons with ω = 1 rad/s, for l = 0.2, 1.5 "
    "and 3. Added here: the states of a simulated period of each."
)
READING = (
    "Simulated states lie on the level sets of a conserved energy, which are closed: what starts "
    "on one goes around it for ever."
)
ODD = (Tanh, HardTanh, Linear, Arctan, Erf, Sin)


@dataclasses.dataclass(frozen=True)
class Config:
    """Level sets log(cosh x cosh y) = l at omega = 1 rad/s, orbits on them, and energy drifts.

    Attributes:
        omega: angular frequency in rad/s.
        levels: values of l.
        points: points of an orbit that are drawn and checked.
        sizes: numbers of neurons of the networks whose energy is watched.
        states: initial states of each.
        duration: seconds for which it is watched.
        dt: time step in seconds for that.
        seed: of these networks and states.
    """

    omega: float = 1.0
    levels: tuple[float, ...] = (0.2, 1.5, 3.0)
    points: int = 240
    sizes: tuple[int, ...] = (2, 20)
    states: int = 16
    duration: float = 100.0
    dt: float = 0.05
    seed: int = 0


class Data(NamedTuple):
    """Orbits (levels, points + 1, 2) over one period, and drifts (activations, sizes)."""

    config: Config
    orbits: np.ndarray
    periods: np.ndarray
    drifts: np.ndarray


def run(config: Config = Config()) -> Data:
    """One orbit on each level set, and the largest energy drift for every odd activation."""
    needs_float64()
    rnn = CTRNN(BlockSkew(jnp.asarray([config.omega])))
    levels = jnp.asarray(config.levels)
    # Starts on the axis: log cosh(omega x) = l.
    edge = jnp.arccosh(jnp.exp(levels)) / config.omega
    x0 = jnp.stack([edge, jnp.zeros_like(edge)], axis=-1)
    periods = period(rnn, x0)

    def once_around(x, T):
        run = simulate(
            rnn, x, dt=T / config.points, num_steps=config.points, solver=diffrax.Dopri8(),
            rtol=1e-12, atol=1e-12,
        )  # fmt: skip
        return states(run)

    orbits = jax.vmap(once_around)(x0, periods)

    every = tuple(make() for make in ODD)

    # Neurons without weights are added, which stay at 0: one program for all sizes.
    most, steps = max(config.sizes), round(config.duration / config.dt)

    @jax.jit
    def networks():
        key_weights, key_states = jax.random.split(jax.random.key(config.seed))
        W, starts = [], []
        for n in config.sizes:
            still = (0, most - n)
            W.append(jnp.pad(DenseSkew.init(key_weights, n).W, still))
            x0 = jax.random.normal(key_states, (config.states, n))
            starts.append(jnp.pad(x0, ((0, 0), still)))
        return jnp.stack(W), jnp.stack(starts)

    def largest_drift(which, W, starts):
        network = CTRNN(DenseSkew(W), OneOf(every, which))
        run = simulate(network, starts, dt=config.dt, num_steps=steps, solver=DiscreteGradient())
        return jnp.max(jnp.abs(energy_drift(network, states(run))))

    @jax.jit
    def largest_drifts(which, W, starts):
        def of_all_sizes(which):
            return jax.lax.map(lambda network: largest_drift(which, *network), (W, starts))

        return jax.lax.map(of_all_sizes, which)

    drifts = np.asarray(largest_drifts(jnp.arange(len(ODD)), *networks()))
    return Data(config, np.asarray(orbits), np.asarray(periods), drifts)


def check(data: Data) -> list[Verdict]:
    """The orbits stay on their level sets and close; every odd activation conserves its energy."""
    omega = data.config.omega
    z = omega * data.orbits
    off = np.log(np.cosh(z)).sum(axis=-1) - np.asarray(data.config.levels)[:, None]
    size = np.abs(data.orbits).max(axis=(1, 2))
    gap = np.abs(data.orbits[:, -1] - data.orbits[:, 0]).max(axis=-1) / size
    source = "paper, Prop. 2 and Fig. 1"
    verdicts = [
        at_most(
            "The orbits of two tanh neurons are the level sets log(cosh ωx cosh ωy) = l.",
            source,
            "largest distance of an orbit from its level, in l",
            np.abs(off),
            1e-9,
        ),
        at_most(
            "These level sets are closed: the orbit returns after one period.",
            source,
            "largest return distance after one located period, relative to the orbit",
            gap,
            1e-9,
        ),
    ]
    for make, drifts in zip(ODD, data.drifts, strict=True):
        sizes = " and ".join(map(str, data.config.sizes))
        verdicts.append(
            at_most(
                f"{make.__name__} networks conserve E = Σ Φ(z_i).",
                "paper, Prop. 2, Cor. 1",
                f"largest relative energy drift over {data.config.duration:g} s, n = {sizes}",
                drifts,
                1e-12,
            )
        )
    return verdicts


def plot(data: Data) -> Any:
    """The level sets, with the orbits as dots upon them."""
    import matplotlib.pyplot as plt

    config = data.config
    figure, ax = plt.subplots(figsize=(5.6, 5.2), layout="compressed")
    limit = 1.15 * np.abs(data.orbits).max()
    axis = np.linspace(-limit, limit, 400)
    x, y = np.meshgrid(axis, axis)
    energy = np.log(np.cosh(config.omega * x)) + np.log(np.cosh(config.omega * y))
    colors = plt.get_cmap("viridis")(np.linspace(0, 0.8, len(config.levels)))
    for k, level in enumerate(config.levels):
        ax.contour(x, y, energy, [level], colors=[colors[k]])
        ax.plot([], [], color=colors[k], label=f"l = {level:g}")
    for orbit in data.orbits:
        dots = orbit[:: max(1, config.points // 24)]
        ax.plot(dots[:, 0], dots[:, 1], "o", color="black", markersize=2.5)
    ax.plot([], [], "o", color="black", markersize=2.5, label="24 moments of one simulated period")
    ax.set(xlabel="$x$ (a.u.)", ylabel="$y$ (a.u.)", aspect="equal")
    ax.set_title(f"Level sets log(cosh ωx cosh ωy) = l, ω = {config.omega:g} rad/s", fontsize=11)
    figure.legend(loc="outside lower center", frameon=False, ncols=2, fontsize=9)
    return figure
