"""Reservoirs that stay as they are drawn, read out by ridge regression: a part of `memory.py`.

Each kind of as many neurons, with the settings that were best on a validation set: as many for
each, but for the linear one, to which the scale of the input makes no difference. Error: the share
of variance left; memory capacity: the sum over delays, over the number of neurons.
"""

from __future__ import annotations

import importlib.util
import itertools
from functools import partial
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from measure import OURS, Report

import ctrnn_jax as ct
from ctrnn_jax._analysis.ridge import ridge_regression

SEEDS = 3


def narma(samples: int) -> tuple[np.ndarray, np.ndarray]:
    """NARMA-10 (Atiya and Parlos 2000): u uniform in (0, 0.5)."""
    rng = np.random.default_rng(3)
    u = rng.uniform(0, 0.5, samples)
    y = np.zeros(samples)
    for k in range(9, samples - 1):
        past = y[k - 9 : k + 1].sum()
        y[k + 1] = 0.3 * y[k] + 0.05 * y[k] * past + 1.5 * u[k - 9] * u[k] + 0.1
    return 4 * u - 1, np.roll(y, -1)


def mackey_glass(samples: int) -> tuple[np.ndarray, np.ndarray]:
    """x' = 0.2 x(t - 17) / (1 + x(t - 17)^10) - 0.1 x in steps of 0.1, and itself 84 later."""
    per, ahead = 10, 84
    lag, count = 17 * per, (samples + ahead + 200) * per
    x = np.full(count + lag, 1.2)
    for k in range(lag, count + lag - 1):
        late, half = x[k - lag], (x[k - lag] + x[k - lag + 1]) / 2
        gain, gain_half, gain_end = (0.2 * v / (1 + v**10) for v in (late, half, x[k - lag + 1]))
        k1 = gain - 0.1 * x[k]
        k2 = gain_half - 0.1 * (x[k] + 0.05 * k1)
        k3 = gain_half - 0.1 * (x[k] + 0.05 * k2)
        k4 = gain_end - 0.1 * (x[k] + 0.1 * k3)
        x[k + 1] = x[k] + 0.1 / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    x = x[lag + 200 * per :: per]
    x = (x - x.mean()) / x.std()
    return x[:samples], x[ahead : ahead + samples]


def white(samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Independent samples and, as answers, those of 0 to 199 samples ago."""
    u = np.random.default_rng(4).uniform(-1, 1, samples)
    return u, np.stack([np.roll(u, j) for j in range(min(200, samples // 8))], axis=1)


def our_states(
    u: np.ndarray, n: int, seed: int, scale: float, fade: float, kind: str
) -> np.ndarray:
    """`fade`: of a sample, the leak; modes up to half a turn a sample."""
    keys = jax.random.split(jax.random.key(seed))
    weights: Any = ct.DenseSkew.init(keys[0], n, scale=1.4)
    B = scale * jax.random.normal(keys[1], (n, 1))
    leak, solver, activation = fade, diffrax.Tsit5(), ct.Tanh()
    form = "rate" if kind == "damped" else kind
    if kind == "damped":
        weights, leak = ct.Damped(weights, fade), None
    if kind == "linear":
        form, solver, activation = "rate", ct.ExactLinear(), ct.Linear()
    rnn = ct.CTRNN(weights, activation, form, leak=leak, input_weights=B)
    model = ct.SequenceModel(rnn, jnp.zeros((1, n)), dt=1.0, solver=solver)
    return np.asarray(
        eqx.filter_jit(ct.SequenceModel.states)(model, jnp.asarray(u, B.dtype)[:, None])
    )


def echo_states(u: np.ndarray, n: int, seed: int, scale: float, radius: float) -> np.ndarray:
    from reservoirpy.nodes import Reservoir

    node = Reservoir(units=n, sr=radius, lr=1.0, input_scaling=scale, seed=seed)
    return np.asarray(node.run(u[:, None]))


RESERVOIRS = {  # states, scales of the input, and how fast they forget
    f"{OURS} rate": (partial(our_states, kind="rate"), (0.03, 0.1, 0.3), (0.03, 0.1, 0.3)),
    f"{OURS} current": (partial(our_states, kind="current"), (0.03, 0.1, 0.3), (0.03, 0.1, 0.3)),
    f"{OURS} damped": (partial(our_states, kind="damped"), (0.03, 0.1, 0.3), (0.03, 0.1, 0.3)),
    f"{OURS} linear": (partial(our_states, kind="linear"), (1.0,), (0.03, 0.1, 0.3)),
    "echo state network": (echo_states, (0.03, 0.1, 0.3), (0.9, 0.95, 0.99)),
}
RIDGES = (1e-9, 1e-6, 1e-3)


def left(states: np.ndarray, y: np.ndarray, parts: tuple[slice, slice], ridge: float) -> np.ndarray:
    """Share of the variance of each answer that is left on the second part, fitted on the first."""
    fitted, other = parts
    C, d = ridge_regression(states[fitted], y[fitted], ridge)
    return np.mean((y[other] - states[other] @ C.T - d) ** 2, axis=0) / np.var(y[other], axis=0)


def score(task: str, shares: np.ndarray) -> float:
    """The smaller the better: what is left, or the capacity with a minus."""
    if task == "memory capacity":
        return -float(np.sum(np.maximum(1 - shares, 0)))
    return float(np.mean(shares))


def compare(report: Report, n: int, samples: int) -> None:
    """Of n neurons, in so many samples: half to fit, a quarter each to choose and to test."""
    kinds = dict(RESERVOIRS)
    if importlib.util.find_spec("reservoirpy") is None:
        report.notice("reservoirpy is not installed: echo state network left out")
        del kinds["echo state network"]
    tasks = {"memory capacity": white, "NARMA-10": narma, "Mackey-Glass, 84 ahead": mackey_glass}
    wash, a, b = samples // 10, samples // 2, 3 * samples // 4
    train, validation, test = slice(wash, a), slice(a, b), slice(b, samples - 1)
    for name, make in tasks.items():
        u, y = make(samples)
        y = y.reshape(len(u), -1)
        for kind, (states, scales, fades) in kinds.items():
            tried = []
            for scale, fade in itertools.product(scales, fades):
                xs = states(u, n, 0, scale, fade).astype(float)
                if np.all(np.isfinite(xs)):
                    tried += [
                        (score(name, left(xs, y, (train, validation), r)), scale, fade, r)
                        for r in RIDGES
                    ]
            _, scale, fade, best = min(tried)
            found = []
            for seed in range(1, 1 + SEEDS):
                xs = states(u, n, seed, scale, fade).astype(float)
                found.append(score(name, left(xs, y, (slice(wash, b), test), best)))
            about = {"n": n, "samples": samples, "scale": scale, "fade": fade, "ridge": best}
            values, quantity = np.array(found), "error"
            if name == "memory capacity":
                values, quantity = -values / n, "capacity over neurons"
            case = f"{name}, {n} neurons"
            report.value(case, kind, quantity, values, "", parameters=about)
