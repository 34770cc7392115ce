"""Figure 3: state space of two neurons with activations that are not odd."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._analysis.period import period
from .._network.activations import ReLU, Sigmoid, Tanh
from .._network.invariants import energy, energy_drift
from .._network.model import CTRNN
from .._network.weights import BlockSkew
from .._simulate.api import simulate
from .._simulate.trajectory import Trajectory
from ._common import OneOf, Verdict, at_least, at_most, needs_float64, states
from ._portraits import portraits

CAPTION = (
    "State space of two neurons with tanh for comparison (left), sigmoid (centre) and ReLU "
    "activation (right), which are not odd. A black dot is a start, a blue star an end, a red "
    "cross where the run was interrupted because the norm of the state passed a threshold; "
    "colours run from violet (early) to yellow (late)."
)
READING = (
    "Without oddness the energy is conserved all the same, but its level sets are open: the "
    "states turn once and run away for ever, at a constant speed that the energy tells "
    "beforehand."
)
ACTIVATIONS = {"tanh": Tanh, "sigmoid": Sigmoid, "ReLU": ReLU}


@dataclasses.dataclass(frozen=True)
class Config:
    """Phase portraits: tanh for comparison, sigmoid, ReLU.

    Attributes:
        omega: angular frequency in rad/s.
        starts: (x, y) of the initial states.
        duration: seconds that are drawn.
        dt: time step in seconds.
        max_norm: norm at which a ReLU run is interrupted, a red cross.
        long_duration: seconds after which the velocity of what runs away is measured.
    """

    omega: float = 1.0
    starts: tuple[tuple[float, float], ...] = ((0.5, 0.8), (-1.0, 0.6), (-1.6, -0.6))
    duration: float = 8.0
    dt: float = 0.02
    max_norm: float = 4.0
    long_duration: float = 200.0


class Data(NamedTuple):
    """What is drawn, by activation; returns; and the velocities (starts, 2) far out."""

    config: Config
    trajectories: dict[str, Trajectory]
    drifts: dict[str, float]
    periods: dict[str, np.ndarray]
    velocities: dict[str, np.ndarray]
    predicted: dict[str, np.ndarray]


def run(config: Config = Config()) -> Data:
    """Simulate, look for returns, and measure how fast the states run away."""
    needs_float64()
    x0 = jnp.asarray(config.starts)
    weights = BlockSkew(jnp.asarray([config.omega]))
    steps = round(config.duration / config.dt)
    long_steps = round(config.long_duration / config.dt)
    kinds = tuple(make() for make in ACTIVATIONS.values())

    @jax.jit
    def look(which, bound):
        rnn = CTRNN(weights, OneOf(kinds, which))
        run = simulate(rnn, x0, dt=config.dt, num_steps=steps, rtol=1e-12, max_norm=bound)
        far = simulate(
            rnn, x0, dt=config.dt, num_steps=long_steps, save_every=long_steps, rtol=1e-12
        )
        drift = jnp.max(jnp.abs(energy_drift(rnn, states(run))))
        return run, drift, period(rnn, x0), rnn(None, states(far)[:, -1].T).T, energy(rnn, x0)

    trajectories, drifts, periods, velocities, predicted = {}, {}, {}, {}, {}
    for k, name in enumerate(ACTIVATIONS):
        bound = config.max_norm if name == "ReLU" else np.inf
        run, *found = look(jnp.asarray(k), jnp.asarray(bound))
        drift, periods[name], velocities[name], level = map(np.asarray, found)
        trajectories[name], drifts[name] = run, float(drift)
        # Sigmoid: x grows until softplus(-ωx) is 0, and softplus(ωy) has all of E + 2 log 2.
        # ReLU: x grows with y at rest, where (ωy)²/2 = E. Tanh does neither.
        sigmoid = name == "sigmoid"
        speed = 1 - np.exp(-(level + 2 * np.log(2))) if sigmoid else np.sqrt(2 * level)
        predicted[name] = np.stack([speed, np.zeros_like(speed)], axis=-1)
    return Data(config, trajectories, drifts, periods, velocities, predicted)


def check(data: Data) -> list[Verdict]:
    """No return without oddness, but the energy is kept; what runs away does so in a known way."""
    verdicts = [
        at_most(
            "Without oddness the energy is conserved all the same.",
            "theory, for any σ",
            "largest relative energy drift, sigmoid and ReLU",
            [data.drifts["sigmoid"], data.drifts["ReLU"]],
            1e-8,
        ),
        at_least(
            "With an odd activation every orbit returns.",
            "paper, Cor. 1",
            "share of the starts that return, tanh",
            np.isfinite(data.periods["tanh"]).mean(),
            1.0,
        ),
    ]
    for name, law in (("sigmoid", "1 - exp(-E - 2 log 2)"), ("ReLU", "√(2E)")):
        returns = np.isfinite(data.periods[name]).mean()
        error = np.abs(data.velocities[name] - data.predicted[name])
        verdicts += [
            at_most(
                f"With {name} no orbit returns: the level sets are open.",
                "paper, Prop. 3 and Fig. 3",
                "share of the starts that return",
                returns,
                0.0,
            ),
            at_most(
                f"With {name} the state runs away along x at the constant speed {law}.",
                "theory, from the energy",
                f"largest error of the velocity after {data.config.long_duration:g} s",
                error,
                1e-6,
            ),
        ]
    stopped = np.asarray(data.trajectories["ReLU"].stopped_at) >= 0
    verdicts.append(
        at_least(
            "The ReLU runs pass any bound on the norm and are interrupted there.",
            "paper, Fig. 3",
            f"share of the ReLU runs stopped at |x| = {data.config.max_norm:g}",
            stopped.mean(),
            1.0,
        )
    )
    return verdicts


def plot(data: Data) -> Any:
    """Three panels; a red cross is where the norm passed the threshold."""
    omega = data.config.omega
    row = [(f"{name}, ω = {omega:g} rad/s", [run]) for name, run in data.trajectories.items()]
    return portraits([row])
