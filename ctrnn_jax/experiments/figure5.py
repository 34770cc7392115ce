"""Figure 5: forward Euler on networks of growing size; how fast it departs, and the spectra."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from .._analysis.spectra import power_spectrum
from .._network.activations import Linear, Tanh
from .._network.invariants import energy
from .._network.model import CTRNN
from .._network.weights import DenseSkew
from .._simulate.api import simulate
from .._simulate.trajectory import Trajectory
from ._common import Verdict, at_least, at_most, needs_float64, spread, states

CAPTION = (
    "Skew-symmetric tanh networks of growing size, integrated by forward Euler: output against "
    "time (above), short-time Fourier spectrum (below), yellower where larger; the instability of "
    "the method, visible at n = 2, is mitigated as n grows. Added here: the growth without "
    "saturation (red), and the norms of the states (middle); rows share their scales."
)
READING = (
    "Without saturation Euler's amplitude grows exponentially; tanh tames it to a slow growth at "
    "every size. Larger networks gain less only while the states are small; in the end the three "
    "sizes are about equally far out."
)

_BOTH = (Tanh, Linear)


@dataclasses.dataclass(frozen=True)
class Config:
    """Random networks of several sizes, integrated by forward Euler.

    Every network is scaled to the same largest angular frequency; for comparison also to the same
    root mean square of its angular frequencies.

    Attributes:
        sizes: numbers of neurons.
        omega: largest angular frequency (or its root mean square), in rad/s.
        amplitude: standard deviation of the initial states: small, so that they start unsaturated.
        dt: Euler's time step in seconds.
        duration: seconds that are integrated.
        early: seconds after which the growth is looked at for the first time.
        seeds: networks of each size that the claims are measured over; the first is drawn.
        small_dt: time step in seconds for Euler's drift rate.
        window: seconds of a window of the spectrograms.
    """

    sizes: tuple[int, ...] = (2, 20, 40)
    omega: float = 4.0
    amplitude: float = 0.1
    dt: float = 0.05
    duration: float = 80.0
    early: float = 8.0
    seeds: int = 64
    small_dt: float = 0.001
    window: float = 10.0


class Data(NamedTuple):
    """By size: what is drawn and, over the seeds (seeds,), what was measured."""

    config: Config
    trajectories: dict[int, Trajectory]
    linear: dict[int, Trajectory]  # the same networks and starts without saturation
    drift_rate_errors: dict[int, np.ndarray]
    linear_error: float | None  # None: two neurons are not among the sizes
    norms: dict[tuple[str, int], np.ndarray]  # (seeds, 4): at 0, early, half-time and the end
    entropy: dict[int, np.ndarray]
    centroid: dict[int, np.ndarray]


def _networks(keys: Any, n: int, config: Config) -> tuple[Any, Any]:
    """Weights (seeds, most, most) with a random part of n neurons, states (seeds, most).

    The other neurons have no weights and stay at 0: one program serves all sizes.
    """

    def one(key):
        key_weights, key_state = jax.random.split(key)
        return DenseSkew.init(key_weights, n).W, jax.random.normal(key_state, (n,))

    none = (0, max(config.sizes) - n)
    W, x = map(np.asarray, jax.jit(jax.vmap(one))(keys))
    return np.pad(W, ((0, 0), none, none)), config.amplitude * np.pad(x, ((0, 0), none))


def _scaled(W: np.ndarray, n: int, config: Config, scaling: str) -> np.ndarray:
    A = W - W.swapaxes(-1, -2)
    rms = np.linalg.norm(A, axis=(-2, -1)) / n**0.5
    size = np.linalg.norm(A, 2, axis=(-2, -1)) if scaling == "largest" else rms
    return W * (config.omega / size)[:, None, None]


def run(config: Config = Config()) -> Data:
    """Euler and, for the spectra, an accurate solver, over many seeds."""
    needs_float64()
    early = max(1, round(config.early / config.dt))
    steps = 2 * early * max(1, round(config.duration / config.dt) // (2 * early))
    keys = jax.random.split(jax.random.key(0), config.seeds)
    trajectories, linear, rates, entropy, centroid = {}, {}, {}, {}, {}
    norms = {}
    euler = {"dt": config.dt, "num_steps": steps, "solver": diffrax.Euler()}

    def some_norms(W, x0, activation):
        run = simulate(CTRNN(DenseSkew(W), activation), x0, save_every=early, **euler)
        saved = jnp.array([0, 1, steps // early // 2, steps // early])
        return jnp.linalg.norm(states(run), axis=-1)[saved]

    def drift_rate(W, x0):
        """Energy gained in 1000 small steps, over the sum of (h²/2) Σ σ' (A σ)²."""
        rnn = CTRNN(DenseSkew(W))

        def add(total, t, x):
            z = rnn.preactivation(x)
            push = rnn.weights.matvec(rnn.activation(z))
            return total + jnp.sum(rnn.activation.derivative(z) * push**2)

        run = simulate(
            rnn, x0, dt=config.small_dt, num_steps=1000, save_every=1000,
            solver=diffrax.Euler(), fold=(jnp.zeros(()), add),
        )  # fmt: skip
        E = energy(rnn, states(run))
        return (E[-1] - E[0]) / (0.5 * config.small_dt**2 * run.folded) - 1

    def spectrum(W, x0):
        accurate = simulate(CTRNN(DenseSkew(W)), x0, dt=config.dt, num_steps=steps)
        return power_spectrum(states(accurate)[:, 0], config.dt)

    def over_seeds(function):
        return jax.jit(jax.vmap(function))

    norm_of = {
        activation: over_seeds(partial(some_norms, activation=activation())) for activation in _BOTH
    }
    draw = {
        activation: jax.jit(
            lambda W, x0, a=activation: simulate(CTRNN(DenseSkew(W), a()), x0, **euler)
        )
        for activation in _BOTH
    }
    drift_rates, spectra = over_seeds(drift_rate), over_seeds(spectrum)
    for n in config.sizes:
        W, x0 = _networks(keys, n, config)
        largest, rms = (_scaled(W, n, config, scaling) for scaling in ("largest", "rms"))
        norms["largest", n] = np.asarray(norm_of[Tanh](largest, x0))
        norms["rms", n] = np.asarray(norm_of[Tanh](rms, x0))
        norms["linear", n] = np.asarray(norm_of[Linear](largest, x0))
        rates[n] = np.abs(np.asarray(drift_rates(largest, x0)))
        f, power = map(np.asarray, spectra(largest, x0))
        share = power / power.sum(axis=-1, keepdims=True)
        entropy[n] = -np.sum(share * np.log2(np.where(share > 0, share, 1)), axis=-1)
        centroid[n] = share @ f[0]
        for activation, runs in zip(_BOTH, (trajectories, linear), strict=True):
            run = draw[activation](largest[0], x0[0])
            runs[n] = dataclasses.replace(run, xs=states(run)[:, :n])

    # Two linear neurons: the amplitude grows by √(1 + h²ω²) a step.
    error = None
    if 2 in config.sizes:
        size = norms["linear", 2]
        factor = (1 + (config.dt * config.omega) ** 2) ** (steps / 2)
        error = float(np.abs(size[:, -1] / (size[:, 0] * factor) - 1).max())
    return Data(config, trajectories, linear, rates, error, norms, entropy, centroid)


def check(data: Data) -> list[Verdict]:
    """Euler's drift rate, its growth with and without saturation, and what size changes."""
    return _rates(data) + _saturation(data) + _size(data)


def _rates(data: Data) -> list[Verdict]:
    config, seeds = data.config, _seeds(data)
    verdicts = [
        at_most(
            f"n = {n}: Euler's energy grows at the rate (h/2) Σ σ'(z_i) (Aσ(z))_i².",
            "theory, modified equation",
            f"largest relative error over one second, h = {config.small_dt:g} s, {seeds}",
            error,
            0.02,
        )
        for n, error in data.drift_rate_errors.items()
    ]
    if data.linear_error is not None:
        verdicts.append(
            at_most(
                "Linear, n = 2: Euler's amplitude grows by √(1 + h²ω²) a step, exponentially.",
                "paper and theory",
                "largest relative error of the final amplitude",
                data.linear_error,
                1e-10,
            )
        )
    return verdicts


def _saturation(data: Data) -> list[Verdict]:
    verdicts, seeds = [], _seeds(data)
    for n in data.config.sizes:
        ratios = {}
        for kind in ("linear", "largest"):
            start, _, middle, end = data.norms[kind, n].T
            ratios[kind] = np.log(end / middle) / np.log(middle / start)
        verdicts.append(
            at_most(
                f"n = {n}: Euler's growth with tanh slows down, where the linear one goes on.",
                "paper's stability claim",
                "growth exponent of the second half over that of the first, "
                f"tanh {spread(ratios['largest'])}, linear {spread(ratios['linear'])} ({seeds}); "
                "mean of tanh",
                ratios["largest"].mean(),
                0.6,
            )
        )
        final = np.log10(data.norms["largest", n][:, -1] / data.norms["linear", n][:, -1])
        verdicts.append(
            at_most(
                f"n = {n}: Euler's final amplitude is smaller with tanh than without it.",
                "paper's stability claim",
                f"log10 of tanh over linear amplitude, {seeds}: {spread(final)}; mean",
                final.mean(),
                -1.0,
            )
        )
    return verdicts


def _size(data: Data) -> list[Verdict]:
    config, seeds = data.config, _seeds(data)
    small, large = min(config.sizes), max(config.sizes)

    def growth(kind: str, until: int) -> tuple[str, float]:
        """log10 of the growth of the norm in words, and that of the largest over the smallest."""
        change = {
            n: np.log10(data.norms[kind, n][:, until] / data.norms[kind, n][:, 0])
            for n in config.sizes
        }
        words = ", ".join(f"n = {n}: {spread(change[n])}" for n in config.sizes)
        words = f"log10 of the growth of the norm, {words} ({seeds}); n = {large} over n = {small}"
        return words, change[large].mean() / change[small].mean()

    words, ratio = growth("largest", 1)
    same_rms, rms_ratio = growth("rms", 1)
    long_run, long_ratio = growth("largest", 3)
    return [
        at_most(
            "Euler's instability is milder in larger networks: while the states are small, with "
            "the same largest angular frequency.",
            "paper, Fig. 5",
            f"in {config.early:g} s, {words}",
            ratio,
            0.85,
        ),
        at_least(
            "It is their slower modes, not their number: with the same root mean square angular "
            "frequency larger networks gain as much.",
            "paper, Fig. 5, needs this condition",
            f"in {config.early:g} s, {same_rms}",
            rms_ratio,
            0.85,
            counterexample=True,
        ),
        at_least(
            "And it does not last: once the neurons saturate, larger networks gain as much.",
            "paper, Fig. 5, needs this condition",
            f"in {float(data.trajectories[small].ts[-1]):g} s, {long_run}",
            long_ratio,
            0.85,
            counterexample=True,
        ),
        at_least(
            "The spectrum grows richer with the number of neurons.",
            "paper, Fig. 5",
            "spectral entropy in bits, "
            + ", ".join(f"n = {n}: {spread(data.entropy[n])}" for n in config.sizes)
            + f"; n = {large} less n = {small}",
            data.entropy[large].mean() - data.entropy[small].mean(),
            1.0,
        ),
        at_most(
            "It concentrates at low frequencies.",
            "paper, Fig. 5",
            "spectral centroid in Hz, "
            + ", ".join(f"n = {n}: {spread(data.centroid[n])}" for n in config.sizes)
            + f"; n = {large} over n = {small}",
            data.centroid[large].mean() / data.centroid[small].mean(),
            0.9,
        ),
    ]


def _seeds(data: Data) -> str:
    return f"{data.config.seeds} networks"


def plot(data: Data) -> Any:
    """Output, norm and short-time spectrum against time, a column for each size, equal scales."""
    import matplotlib.pyplot as plt

    from .. import plot

    config = data.config
    figure, axes = plt.subplots(
        3, len(config.sizes), figsize=(3.7 * len(config.sizes) + 0.8, 8), sharex=True, sharey="row",
        squeeze=False, layout="constrained",
    )  # fmt: skip
    window = max(8, round(config.window / config.dt))
    images = []
    limit = 1.1 * max(float(abs(states(run)[:, 0]).max()) for run in data.trajectories.values())
    for j, n in enumerate(config.sizes):
        above, middle, below = axes[:, j]
        styles = {"linear": ("#d03020", "--"), "tanh": ("#31688e", "-")}
        for (name, (color, dashes)), runs in zip(
            styles.items(), (data.linear, data.trajectories), strict=True
        ):
            ts, xs = np.asarray(runs[n].ts), np.asarray(states(runs[n]))
            style = {"color": color, "linestyle": dashes, "linewidth": 0.9, "label": name}
            # What leaves the picture would fill it with its further swings.
            inside = np.cumsum(np.abs(xs[:, 0]) > limit) <= 1
            above.plot(ts[inside], xs[inside, 0], **style)
            middle.semilogy(ts, np.linalg.norm(xs, axis=-1) / np.sqrt(n), **style)
        plot.spectrogram(
            data.trajectories[n], window_length=window, max_frequency=config.omega / np.pi, ax=below
        )
        (image,) = below.images
        image.colorbar.remove()
        images.append(image)
        above.set_title(f"n = {n}, forward Euler, dt = {config.dt:g} s", fontsize=10)
        below.set(xlabel="time (s)", ylabel="", xlim=(0, float(data.trajectories[n].ts[-1])))
    axes[0, 0].set(ylim=(-limit, limit), ylabel="output $x_0$ (a.u.)")
    axes[1, 0].set_ylabel("rms of the states (a.u.)")
    axes[2, 0].set_ylabel("frequency (Hz)")
    floor, top = zip(*(image.get_clim() for image in images), strict=True)
    for image in images:
        image.set_clim(min(floor), max(top))
    label = "power of $x_0$ (dB re 1 a.u.²/Hz)"
    figure.colorbar(images[0], ax=axes[2, :], label=label, aspect=12)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    return figure
