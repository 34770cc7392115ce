"""Which orbits close in higher dimensions? Families of closed orbits, and typical ones."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._analysis.for_each import for_each
from .._analysis.nonlinear_modes import STABLE, UNSTABLE, NonlinearModes, modes_followed
from .._network.model import CTRNN
from .._network.weights import DenseSkew
from .._simulate.api import simulate
from ._common import Verdict, at_least, at_most, needs_float64, normal

CAPTION = (
    "Closed orbits of random tanh networks in the current form. Left: period over that of small "
    "oscillations against the energy per neuron, for every family that was followed (thin) and "
    "the median of each number of neurons. Middle: share of the families that are stable. Right: "
    "how near random states of the same energy come back to themselves (dots; squares: medians), "
    "and how near the closed orbits do (crosses). Not in the paper."
)
READING = (
    "Limit cycles do persist in higher dimensions, as n/2 families of closed orbits, one for each "
    "frequency, stable as long as they are small. But they are exceptions that have to be looked "
    "for: for four neurons and more a random state lies on none of them, and does not return."
)
_SOURCE = "paper: limit cycles in higher dimensions"
_THEORY = "Lyapunov's centre theorem"
_MAX_ROUNDS = 60


@dataclasses.dataclass(frozen=True)
class Config:
    """Random tanh networks in the current form, W normal / √(2n) times 2.

    In the rate form z = A x obeys the same equation, with the same energies.

    Attributes:
        sizes: numbers of neurons.
        families: how many are followed for each size, at most but for those of one network, which
            has n // 2.
        energies: of the closed orbits, for each neuron; ascending.
        claimed: energy for each neuron to which families are claimed to be followed, and that of
            the random states.
        states: random states of each size, one in each of so many networks.
        dt: time step in seconds of their orbits.
        duration: seconds in which they may return.
    """

    sizes: tuple[int, ...] = (3, 4, 6, 8, 12, 20)
    families: int = 9
    energies: tuple[float, ...] = (0.001, 0.01, 0.1)
    claimed: float = 0.1
    states: int = 24
    dt: float = 0.02
    duration: float = 200.0


class Data(NamedTuple):
    """By size: families (families, E), and what random states do (states,)."""

    config: Config
    periods: dict[int, np.ndarray]  # over that of small oscillations
    status: dict[int, np.ndarray]
    residuals: dict[int, np.ndarray]
    words: tuple[str, ...]
    returns: dict[int, np.ndarray]  # shares of |x0|


def _weights(config: Config, n: int, count: int, of: int) -> np.ndarray:
    """(count, n, n)"""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(2), n), of)
    most = max(config.families, config.states) * max(config.sizes) ** 2
    return normal(key, (count, n, n), most) * (2 / (2 * n) ** 0.5)


def _networks(config: Config, n: int) -> int:
    return max(1, config.families // (n // 2))


def _padded(n: int) -> int:
    """Neurons without weights, which stay at 0, make few programs of many sizes."""
    return next(size for size in (8, 20, n) if size >= n)


@jax.jit
def _followed(W: jax.Array, mode: jax.Array, energies: jax.Array) -> NonlinearModes:
    def one(W, mode, energies):
        rnn, origin = CTRNN(DenseSkew(W), form="current"), jnp.zeros(len(W))
        return modes_followed(rnn, origin, energies, mode[None], _MAX_ROUNDS)

    return for_each(one, W, mode, energies, n=W.shape[-1], searched=True)


def run(config: Config = Config()) -> Data:
    """The families of every size, and the returns of random states of one energy."""
    needs_float64()
    alike: dict[int, list[int]] = {}
    for n in config.sizes:
        alike.setdefault(_padded(n), []).append(n)
    periods, status, residuals, returns = {}, {}, {}, {}
    for size, sizes in alike.items():
        W, modes = zip(*(_families(config, n, size) for n in sizes), strict=True)
        of = np.repeat(sizes, [len(which) for which in modes])
        energies = np.multiply.outer(of, config.energies)
        found = _followed(*map(jnp.asarray, (np.concatenate(W), np.concatenate(modes), energies)))
        for k, n in enumerate(sizes):
            rows = of == n
            A = W[k] - W[k].swapaxes(-1, -2)
            omega = np.linalg.eigvalsh(1j * A)[:, (size + 1) // 2 :]
            omega = np.take_along_axis(omega, modes[k][:, None], axis=1)
            periods[n] = np.asarray(found.periods[rows, 0]) * omega / (2 * np.pi)
            status[n] = np.asarray(found.status[rows, 0])
            residuals[n] = np.asarray(found.residuals[rows, 0])
        returns.update(_returns(config, sizes, size))
    return Data(config, periods, status, residuals, NonlinearModes.WORDS, returns)


def _families(config: Config, n: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights (families, size, size) and which mode: all of each network."""
    networks = _networks(config, n)
    still = (0, size - n)
    W = np.pad(_weights(config, n, networks, 0), ((0, 0), still, still))
    modes = size // 2 - n // 2 + np.arange(n // 2)  # neurons without weights have the frequency 0
    return np.repeat(W, n // 2, axis=0), np.tile(modes, networks)


def _returns(config: Config, sizes: list[int], size: int) -> dict[int, np.ndarray]:
    """How near random states come back to themselves, as shares of |x0|."""
    W, x0 = [], []
    for n in sizes:
        key = jax.random.fold_in(jax.random.key(3), n)
        x = normal(key, (config.states, n), config.states * max(config.sizes))
        still = (0, size - n)
        W.append(np.pad(_weights(config, n, config.states, 1), ((0, 0), still, still)))
        x0.append(np.pad(_of_energy(x, config.claimed * n), ((0, 0), still)))
    steps = round(config.duration / config.dt)

    @jax.jit
    @jax.vmap
    def nearest(W, x0):
        rnn = CTRNN(DenseSkew(W), form="current")
        start, size = rnn(None, x0), jnp.linalg.norm(x0)

        def nearer(carry, t, x):
            left, least = carry
            way = x - x0
            # Between two steps the orbit passes at the distance that is normal to it.
            flow = (rnn(None, x) + start) / 2
            late = jnp.sum(way * flow) / jnp.sum(flow**2)
            passes = jnp.abs(late) <= config.dt
            apart = jnp.linalg.norm(jnp.where(passes, way - late * flow, way)) / size
            left = left | (apart > 0.5)
            return left, jnp.where(left, jnp.minimum(least, apart), least)

        fold = (jnp.array(False), jnp.array(jnp.inf)), nearer
        run = simulate(rnn, x0, dt=config.dt, num_steps=steps, save_every=steps, fold=fold)
        return run.folded[1]

    least = nearest(jnp.asarray(np.concatenate(W)), jnp.asarray(np.concatenate(x0)))
    return dict(zip(sizes, np.asarray(least).reshape(len(sizes), -1), strict=True))


def _of_energy(x: np.ndarray, energy: float) -> np.ndarray:
    """Multiples of states (states, n) of this energy, Σ log cosh x_i."""
    low, high = np.zeros((len(x), 1)), np.full((len(x), 1), 1e3)
    for _ in range(80):
        middle = (low + high) / 2
        above = (np.logaddexp(z := middle * x, -z) - np.log(2)).sum(axis=1, keepdims=True) > energy
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return high * x


def check(data: Data) -> list[Verdict]:
    """What holds, n/2 families of closed orbits, and what does not: that typical orbits close."""
    config = data.config
    energies = np.asarray(config.energies)
    status = np.concatenate(list(data.status.values()))
    found = np.isin(status, [STABLE, UNSTABLE])
    residuals = np.concatenate(list(data.residuals.values()))
    there = int(np.flatnonzero(energies <= config.claimed * (1 + 1e-9))[-1])
    upto = f"E = {energies[there]:g} n"
    ends = Counter(data.words[k] for k in status[~found[:, there], there])
    missing = ", ".join(f"{count} {word}" for word, count in ends.items()) or "none missing"
    stable = (status == STABLE).sum(axis=0) / np.maximum(found.sum(axis=0), 1)
    shares = ", ".join(f"{100 * s:.0f} % at {e:g} n" for s, e in zip(stable, energies, strict=True))
    sizes = f"n = {', '.join(map(str, config.sizes))}"
    verdicts = [
        at_least(
            "Limit cycles persist in higher dimensions: n/2 families of closed orbits exist, one "
            f"grows out of each frequency, and are followed to {upto}.",
            f"{_SOURCE}; {_THEORY}",
            f"share of the families, {found[:, there].sum()} of {len(found)} ({missing}), {sizes}",
            found[:, there].mean(),
            0.9,
        ),
        at_most(
            "They close.",
            _THEORY,
            f"largest |φ_T(x) - x| over |x|, {found.sum()} orbits",
            residuals[found],
            1e-11,
        ),
        at_least(
            "Small ones are stable: all Floquet multipliers are on the unit circle.",
            _THEORY,
            f"share of the families that are stable, {shares}; the first",
            stable[0],
            0.95,
        ),
    ]
    large = [n for n in config.sizes if n >= 10]
    if large:
        last = np.concatenate([data.status[n][:, -1] for n in large])
        kept = (last == STABLE).sum() / max(1, np.isin(last, [STABLE, UNSTABLE]).sum())
        verdicts.append(
            at_most(
                "Larger ones need not be: in networks of ten and more neurons many have lost "
                f"their stability at E = {energies[-1]:g} n.",
                f"{_SOURCE}, needs this condition",
                f"share of the families that are stable, {shares}; of n >= 10 at the last energy",
                kept,
                0.9,
                counterexample=True,
            )
        )
    many = [n for n in config.sizes if n >= 4]
    if many:
        returns = np.concatenate([data.returns[n] for n in many])
        medians = ", ".join(f"n = {n}: {np.median(data.returns[n]):.2g}" for n in many)
        verdicts.append(
            at_least(
                "But a random state lies on none of them: for n >= 4 none comes back to itself.",
                f"{_SOURCE}, needs a state on one of these orbits",
                f"distance over |x0| at the nearest return of {len(returns)} random states at "
                f"E = {config.claimed:g} n in {config.duration:g} s, medians {medians}; smallest",
                returns,
                1e-4,
                counterexample=True,
            )
        )
    if 3 in config.sizes:
        verdicts.append(
            at_most(
                "With three neurons all orbits are closed.",
                "theory: integrable",
                "distance over |x0| at the nearest return of random states; the largest",
                data.returns[3],
                1e-4,
            )
        )
    return verdicts


def plot(data: Data) -> Any:
    """Periods by energy, the share of stable families, and how near states come back."""
    import matplotlib.pyplot as plt

    config = data.config
    energies, sizes = np.asarray(config.energies), config.sizes
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(16, 4.8), layout="constrained")
    colors = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(sizes)))
    for k, (n, color) in enumerate(zip(sizes, colors, strict=True)):
        style = {
            "color": color, "marker": "osv^DPX"[k % 7], "linestyle": ("-", "--", "-.", ":")[k % 4]
        }  # fmt: skip
        ratio = data.periods[n]
        left.plot(energies, ratio.T, color=color, linewidth=0.5, alpha=0.35)
        known = np.isfinite(ratio).any(axis=0)
        medians = np.nanmedian(ratio[:, known], axis=0)
        left.plot(energies[known], medians, **style, label=f"n = {n}")
        found = np.isin(data.status[n], [STABLE, UNSTABLE]).sum(axis=0)
        stable = (data.status[n] == STABLE).sum(axis=0)
        share = 100 * stable[found > 0] / found[found > 0]
        shift = 1.05 ** (k - (len(sizes) - 1) / 2)  # beside each other, where many are 100 %
        middle.plot(shift * energies[found > 0], share, **style)
        across = k + np.linspace(-0.25, 0.25, len(data.returns[n]))
        right.plot(across, data.returns[n], ".", color=color, markersize=5, alpha=0.6)
        right.plot(k, np.median(data.returns[n]), "s", color=color, markersize=7, mec="black")
        residuals = data.residuals[n][np.isfinite(data.residuals[n])]
        across = k + np.linspace(-0.25, 0.25, residuals.size)
        right.plot(across, np.maximum(residuals, 1e-16), "x", color=color, markersize=3)
    marks = {"random states": ".", "their median": "s", "closed orbits": "x"}
    for label, marker in marks.items():
        right.plot([], [], marker, color="black", label=label)
    left.set(xscale="log", ylabel="period over that of small oscillations")
    middle.set(xscale="log", ylabel="families that are stable (%)", ylim=(-4, 104))
    for ax in (left, middle):
        ax.set_xlabel("energy per neuron, E/n")
    right.set(yscale="log", xlabel="neurons", ylabel="distance at the nearest return, over $|x_0|$")
    right.set_xticks(range(len(sizes)), [str(n) for n in sizes])
    handles, labels = (
        a + b
        for a, b in zip(
            left.get_legend_handles_labels(), right.get_legend_handles_labels(), strict=True
        )
    )
    figure.legend(handles, labels, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure
