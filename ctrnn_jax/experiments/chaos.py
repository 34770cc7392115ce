"""Are there limit cycles in higher dimensions? A map of the largest Lyapunov exponent."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._analysis.lyapunov import lyapunov_spectrum
from .._analysis.period import period
from .._network.model import CTRNN
from .._network.weights import DenseSkew
from .._simulate.api import simulate
from ..solvers import PoissonSplitting
from ._common import Verdict, at_least, at_most, needs_float64, normal, spread, states

CAPTION = (
    "Largest Lyapunov exponent of random tanh networks in the current form, by number of neurons "
    "and amplitude of the initial states: medians (left; hatched: not above the bound of chaos), "
    "every orbit with its median (middle) and the share of chaotic orbits (right). What is 0 "
    "comes out at the noise floor log(t)/t or below. Not in the paper."
)
READING = (
    "Two and three neurons stay at the floor, all others leave it as the amplitude grows: "
    "typical motion in higher dimensions is quasi-periodic at small amplitude and chaotic at "
    "larger ones, no limit cycle."
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Random tanh networks in the current form, W normal / √(2n) times 2, x0 normal times a.

    In the rate form z = A x obeys the same equation.

    Attributes:
        sizes: numbers of neurons.
        amplitudes: standard deviations a of the initial states.
        seeds: networks of each size, one orbit each at every amplitude.
        dt: time step in seconds.
        steps: number of steps.
        chaotic: largest exponent in 1/s above which an orbit counts as chaotic; over t seconds
            what is 0 comes out near log(t)/t.
    """

    sizes: tuple[int, ...] = (2, 3, 4, 5, 6, 8, 12, 20)
    amplitudes: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0)
    seeds: int = 32
    dt: float = 0.1
    steps: int = 20_000
    chaotic: float = 0.01

    @property
    def noise_floor(self) -> float:
        """log(t)/t in 1/s, near which an exponent of 0 comes out after t seconds."""
        t = self.steps * self.dt
        return float(np.log(t) / t)


class Data(NamedTuple):
    """Largest exponents (sizes, amplitudes, seeds), and what else is claimed of such networks."""

    config: Config
    exponents: np.ndarray
    spectra: np.ndarray  # (orbits, n) of the largest network at the largest amplitude
    growth: float  # of the largest norm, second half of a long run over its first
    returned: np.ndarray  # (sizes, amplitudes): share of the orbits that return
    kernel_drift: np.ndarray  # per period, three neurons in the rate form with a bias


def _networks(config: Config, n: int) -> tuple[jax.Array, jax.Array]:
    """Weights (seeds, n, n) and states (seeds, amplitudes, n)."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(1), n))
    most = max(3, *config.sizes)
    W = normal(keys[0], (config.seeds, n, n), config.seeds * most**2)
    x = normal(keys[1], (config.seeds, 1, n), config.seeds * most)
    amplitudes = np.asarray(config.amplitudes)[None, :, None]
    return jnp.asarray(W * (2 / (2 * n) ** 0.5)), jnp.asarray(x * amplitudes)


def run(config: Config = Config()) -> Data:
    """Exponents of every network and amplitude; returns; the odd network that drifts."""
    needs_float64()

    def current(W):
        return CTRNN(DenseSkew(W), form="current")

    # Neurons without weights, which stay at 0, up to a multiple of four: fewer programs, larger
    # batches.
    alike: dict[int, list[int]] = {}
    for n in config.sizes:
        alike.setdefault(n + -n % 4, []).append(n)
    exponents, returned = {}, {}
    for size, sizes in alike.items():
        W, x0 = [], []
        for n in sizes:
            still = (0, size - n)
            weights, starts = _networks(config, n)
            W.append(np.pad(weights, ((0, 0), still, still)))
            x0.append(np.pad(starts, ((0, 0), (0, 0), still)))
        W, x0 = jnp.concatenate(W), jnp.concatenate(x0)
        largest = jax.vmap(
            lambda W, x: lyapunov_spectrum(current(W), x, dt=config.dt, num_steps=config.steps, k=1)
        )(W, x0)
        T = jax.vmap(lambda W, x: period(current(W), x, rtol=1e-9))(W, x0)
        each = (len(sizes), config.seeds, len(config.amplitudes))
        for n, some, times in zip(sizes, largest.reshape(each), T.reshape(each), strict=True):
            exponents[n] = np.asarray(some).T
            returned[n] = np.isfinite(np.asarray(times)).mean(axis=0)

    n = max(config.sizes)
    W, x0 = _networks(config, n)
    rnn, starts = current(W[0]), x0[:8, -1]
    spectra = lyapunov_spectrum(
        rnn, starts, dt=config.dt, num_steps=config.steps, solver=PoissonSplitting()
    )
    half = config.steps // 2

    def larger_norm(top, t, x):
        now = jnp.arange(2) == jnp.where(t > (half + 0.5) * config.dt, 1, 0)
        return jnp.where(now, jnp.maximum(top, jnp.linalg.norm(x)), top)

    run = simulate(
        rnn,
        starts,
        dt=config.dt,
        num_steps=2 * half,
        save_every=half,
        solver=PoissonSplitting(),
        fold=(jnp.zeros(2), larger_norm),
    )
    largest_norm = run.folded
    growth = float(jnp.max(largest_norm[:, 1] / largest_norm[:, 0]))

    # Odd n in the rate form: z = A x + b closes, the part of x along the kernel of A goes on.
    W, x0 = _networks(config, 3)
    drifts = []
    for matrix, x in zip(W[:4], x0[:4, -1], strict=True):
        weights = DenseSkew(matrix)
        A = weights.as_matrix()
        kernel = jnp.stack([A[1, 2], -A[0, 2], A[0, 1]])
        kernel = kernel / jnp.linalg.norm(kernel)
        rnn = CTRNN(weights, bias=kernel)
        T = period(current(matrix), rnn.preactivation(x))
        end = states(simulate(rnn, x, dt=T, num_steps=1, rtol=1e-11, atol=1e-11))[1]
        drifts.append(float(kernel @ (end - x)))
    return Data(
        config,
        np.stack([exponents[n] for n in config.sizes]),
        np.asarray(spectra),
        growth,
        np.stack([returned[n] for n in config.sizes]),
        np.asarray(drifts),
    )


def check(data: Data) -> list[Verdict]:
    """Where orbits close, where they are chaotic, and what holds of them all."""
    return _by_size(data) + _of_all(data)


def _by_size(data: Data) -> list[Verdict]:
    config = data.config
    share = (data.exponents > config.chaotic).mean(axis=-1)
    sizes = np.asarray(config.sizes)
    t = config.steps * config.dt
    few, many = sizes <= 3, sizes >= 4
    verdicts = []
    if few.any():
        verdicts += [
            at_most(
                "Networks of two and three neurons (current form) are never chaotic.",
                "theory: integrable",
                f"largest Lyapunov exponent in 1/s over {t:g} s, all amplitudes",
                data.exponents[few],
                config.chaotic,
            ),
            at_least(
                "All their orbits are closed.",
                "paper, Cor. 1; theory for n = 3",
                "smallest share of the orbits that return",
                data.returned[few],
                1.0,
            ),
        ]
    if many.any():
        top = share[many][:, -1]
        table = ", ".join(
            f"n = {n}: {100 * s:.0f} %" for n, s in zip(sizes[many], top, strict=True)
        )
        verdicts += [
            at_least(
                "Limit cycles persist in higher dimensions only under a condition: at amplitude "
                f"{config.amplitudes[-1]:g} networks of four and more neurons are chaotic.",
                "paper: limit cycles in higher dimensions",
                f"share of chaotic orbits, {table}; the largest",
                top.max(),
                0.5,
                counterexample=True,
            ),
            at_most(
                f"The condition is a small amplitude: at {config.amplitudes[0]:g} the motion is "
                "quasi-periodic.",
                "theory",
                "share of chaotic orbits, n >= 4",
                share[many][:, 0],
                0.1,
            ),
            at_most(
                "But quasi-periodic is not periodic: for n >= 4 no orbit returns, at any size.",
                "paper: limit cycles in higher dimensions",
                "share of the orbits that return within 100 periods of the fastest mode",
                data.returned[many],
                0.05,
                counterexample=True,
            ),
        ]
    return verdicts


def _of_all(data: Data) -> list[Verdict]:
    return [
        at_most(
            "The motion stays bounded for ever, chaotic or not.",
            "paper: perpetual oscillation",
            "largest norm of the second half of a long run over that of the first",
            data.growth,
            1.25,
        ),
        at_most(
            "Volume is conserved: the exponents add up to 0.",
            "theory",
            f"largest |sum| in 1/s, n = {max(data.config.sizes)}",
            np.abs(data.spectra.sum(axis=-1)),
            1e-12,
        ),
        at_most(
            "The exponents come in pairs ±λ.",
            "theory",
            f"largest |λ_i + λ_(n+1-i)| in 1/s; λ_1 is {spread(data.spectra[:, 0])}",
            np.abs(data.spectra + data.spectra[:, ::-1]),
            0.02,
        ),
        at_least(
            "In the rate form an odd number of neurons need not return where z = A x + b does: "
            "with a bias the part of x in the kernel of A drifts.",
            "paper: closed orbits for odd activations",
            "smallest |drift| of x along the kernel in one period of z, three neurons",
            np.abs(data.kernel_drift),
            1e-3,
            counterexample=True,
        ),
    ]


def plot(data: Data) -> Any:
    """Median largest exponent as a map, every exponent, and the share of chaotic orbits."""
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    config = data.config
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(16, 4.8), layout="constrained")
    _map(left, data)
    colors = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(config.amplitudes)))
    share = 100 * (data.exponents > config.chaotic).mean(axis=-1)
    middle.axhspan(0, config.noise_floor, color="0.88", zorder=0)
    rng = np.random.default_rng(0)
    for k, (amplitude, color) in enumerate(zip(config.amplitudes, colors, strict=True)):
        style = {
            "color": color, "marker": "osv^D"[k % 5], "linestyle": ("-", "--", "-.", ":")[k % 4]
        }  # fmt: skip
        at = np.arange(len(config.sizes)) + 0.16 * (k - (len(colors) - 1) / 2)
        across = at[:, None] + rng.uniform(-0.06, 0.06, data.exponents[:, k].shape)
        dots = {"s": 5, "color": color, "alpha": 0.5, "linewidths": 0}
        middle.scatter(across.ravel(), data.exponents[:, k].ravel(), **dots)
        middle.plot(at, np.median(data.exponents[:, k], axis=-1), **style)
        right.plot(range(len(at)), share[:, k], **style, label=f"amplitude {amplitude:g}")
    middle.axhline(config.chaotic, color="#d03020", linewidth=1, linestyle="--")
    top = 1.12 * max(data.exponents.max(), 2 * config.chaotic)
    middle.set(ylabel="largest Lyapunov exponent (1/s)", ylim=(min(0, data.exponents.min()), top))
    right.set(ylabel=f"orbits with an exponent above {config.chaotic:g}/s (%)", ylim=(-4, 104))
    for ax in (middle, right):
        ax.set_xticks(range(len(config.sizes)), [str(n) for n in config.sizes])
        ax.set_xlabel("neurons")
    floor = Rectangle((0, 0), 1, 1, color="0.88")
    bound = Line2D([], [], color="#d03020", linewidth=1, linestyle="--")
    handles, labels = right.get_legend_handles_labels()
    figure.legend(
        [*handles, floor, bound],
        [*labels, f"noise floor log(t)/t = {config.noise_floor:.2g}/s", "above: chaotic"],
        loc="outside lower right", ncols=len(handles) + 2, frameon=False,
    )  # fmt: skip
    return figure


def _map(ax: Any, data: Data) -> None:
    """Medians as colours and numbers; hatched where they are not above the bound of chaos."""
    from matplotlib.patches import Rectangle

    config = data.config
    median = np.median(data.exponents, axis=-1).T
    picture = ax.imshow(median, origin="lower", aspect="auto", cmap="viridis", vmin=0)
    ax.set_xticks(range(len(config.sizes)), [str(n) for n in config.sizes])
    ax.set_yticks(range(len(config.amplitudes)), [f"{a:g}" for a in config.amplitudes])
    ax.set(xlabel="neurons", ylabel="amplitude of the initial states (a.u.)")
    ax.set_title(
        f"Median of {config.seeds} orbits, t = {config.steps * config.dt:g} s", fontsize=10
    )
    for (i, j), value in np.ndenumerate(median):
        quiet = value <= config.chaotic
        if quiet:
            box = {"fill": False, "hatch": "///", "edgecolor": "0.45", "linewidth": 0}
            ax.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, **box))
        ax.text(
            j, i, f"{value:.3f}", ha="center", va="center", fontsize=8,
            color="white" if value < 0.6 * median.max() else "black",
        )  # fmt: skip
    bar = ax.figure.colorbar(picture, ax=ax, label="largest Lyapunov exponent (1/s)")
    bar.ax.axhline(config.noise_floor, color="white", linewidth=1.5)
    bar.ax.axhline(config.chaotic, color="#d03020", linewidth=1.5, linestyle="--")
