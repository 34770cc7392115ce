"""Which step keeps the phase of the fastest small motion, measured."""

from __future__ import annotations

from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from .._network.invariants import energy_drift
from .._network.model import CTRNN
from .._simulate.api import simulate
from .._util.types import Array
from ..solvers import PoissonSplitting

PER_PERIOD = (256, 192, 128, 96, 64, 48, 32, 24, 16, 12, 8)
PERIODS, TURNS = 100, 0.01  # after so many periods the phase shall be right to so many turns
DRIFT = 1e-3  # and the energy to this share
_SMALL = 1e-4  # of the neurons' own scale, 1: the motion is linear to its square
_STEPS, _EVERY = 2048, 8
# What a step costs, in products with A.
SOLVERS = {"Tsit5": (diffrax.Tsit5(), 6), "PoissonSplitting": (PoissonSplitting(), 2)}


class Measured(NamedTuple):
    """Of one solver, by steps a period of the fastest small motion, `PER_PERIOD`, descending.

    turns: by which the phase is wrong after 100 periods; nan where nothing turns.
    drift: the largest relative energy drift of typical states in 2048 steps.
    chosen: index of the longest step that keeps the phase to 0.01 turns and the energy to 0.001,
        as do all shorter ones; None without one.
    """

    turns: np.ndarray
    drift: np.ndarray
    chosen: int | None


def measure_steps(rnn: CTRNN, rest: Array, typical: Array) -> dict[str, Measured]:
    """Solvers at several steps, on the fastest linear mode beside a fixed point and on states.

    Args:
        rnn: a conservative network.
        rest: (n,) the fixed point.
        typical: (k, n) states whose energy is looked at.
    """
    J = np.asarray(jax.jacfwd(lambda x: rnn(None, x))(rest), float)
    values, right = np.linalg.eig(J)
    fastest = int(np.argmax(np.imag(values)))
    omega = float(np.imag(values)[fastest])
    if not omega > 0:
        return {}
    v = right[:, fastest]
    left = np.linalg.pinv(right)[fastest]
    scale = 1.0 if rnn.form == "current" else 1 / max(float(np.abs(J).max()), 1e-300)
    x0 = np.asarray(rest)[None] + _SMALL * scale * np.real(v)[None] / np.abs(v).max()
    x0 = jnp.concatenate([jnp.asarray(x0, rest.dtype), typical])
    dts = 2 * np.pi / omega / np.array(PER_PERIOD)
    found = {}
    for name, (solver, _) in SOLVERS.items():
        runs = jax.vmap(
            lambda dt, solver=solver: simulate(
                rnn, x0, dt=dt, num_steps=_STEPS, save_every=_EVERY, solver=solver
            )
        )(jnp.asarray(dts, rest.dtype))
        xs = np.asarray(runs.xs, float)
        found[name] = _judged(rnn, xs, np.asarray(rest, float), left, omega, dts, rest.dtype)
    return found


def _judged(rnn, xs, rest, left, omega, dts, dtype) -> Measured:
    angle = np.angle((xs[:, 0] - rest) @ left)  # (steps, saves)
    ahead = angle - omega * dts[:, None] * _EVERY * np.arange(xs.shape[2])
    ahead = np.unwrap(ahead, axis=1) / (2 * np.pi)
    turns = np.abs(ahead[:, -1] - ahead[:, 0]) / (_STEPS / np.array(PER_PERIOD)) * PERIODS
    drift = np.asarray(energy_drift(rnn, jnp.asarray(xs[:, 1:], dtype)))
    drift = np.max(np.abs(drift), axis=(1, 2))
    # What is nan is not kept.
    kept = np.cumprod((turns <= TURNS) & (drift <= DRIFT))
    return Measured(turns, drift, int(kept.sum()) - 1 if kept[0] else None)


def suggestion(found: dict[str, Measured], omega: float) -> dict[str, Any] | None:
    """Of each solver its longest step; which takes the fewest products; and which for long runs.

    The energy error of splitting stays bounded; that of others grows with time, here as it did
    in the run, up to `DRIFT` after so many periods.
    """
    steps = {}
    for name, m in found.items():
        if m.chosen is None:
            continue
        per_period = PER_PERIOD[m.chosen]
        grown, periods = float(m.drift[m.chosen]), _STEPS / per_period
        steps[name] = {
            "dt_s": 2 * np.pi / omega / per_period,
            "steps_per_period": per_period,
            "products_per_period": per_period * SOLVERS[name][1],
            "turns_in_100_periods": float(m.turns[m.chosen]),
            "energy_drift": grown,
            "periods": periods,
            "energy_kept_for_periods": None
            if name == "PoissonSplitting" or grown == 0
            else periods * DRIFT / grown,
        }
    if not steps:
        return None
    cheapest = min(steps, key=lambda name: steps[name]["products_per_period"])
    bounded = "PoissonSplitting" if "PoissonSplitting" in steps else cheapest
    return {"cheapest": cheapest, "long_runs": bounded, "steps": steps}
