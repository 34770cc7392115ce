"""Figure 4: spectral response of two neurons over a sweep of angular frequencies."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._analysis.spectra import dominant_frequency, power_spectrum
from .._network.activations import HardTanh, Linear, Tanh
from .._network.model import CTRNN
from .._network.weights import BlockSkew
from .._simulate.api import simulate
from ._common import (
    OneOf,
    Verdict,
    at_least,
    at_most,
    exact_frequencies,
    needs_float64,
    states,
)

CAPTION = (
    "Spectral response of two neurons for selected angular frequencies, one colour each: "
    "amplitude (logarithmic) against frequency, for linear (a), tanh (b) and hard-tanh activation "
    "with w_m = 10 (c) and w_m = 25 (d). The caption does not define w_m: that it is the largest "
    "angular frequency of the sweep, and that (a) and (b) are swept to the first one, is our "
    "reading. Below, linear and tanh with the other w_m."
)
READING = (
    "Linear neurons answer at ω/2π alone; saturating ones do not get beyond 1/(4(|x| + |y|)), "
    "whatever ω, and show odd harmonics instead. Every line is where the exact formula has it."
)
_STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
ACTIVATIONS = {"linear": Linear, "tanh": Tanh, "hard tanh": HardTanh}


@dataclasses.dataclass(frozen=True)
class Config:
    """Sweeps of omega up to w_m, for each activation.

    The paper's caption does not define w_m. Here it is the largest angular frequency of a sweep:
    our reading. Each activation is shown with each w_m; the four panels of the caption are linear
    and tanh with the first, hard tanh with both.

    Attributes:
        w_m: largest angular frequency of each sweep, in rad/s.
        fractions: the sweep, as fractions of w_m.
        start: (x, y) of the initial state.
        duration: seconds whose spectrum is taken.
        dt: sampling interval in seconds.
    """

    w_m: tuple[float, ...] = (10.0, 25.0)
    fractions: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 1.0)
    start: tuple[float, float] = (0.5, 0.2)
    duration: float = 80.0
    dt: float = 0.01


class Data(NamedTuple):
    """Spectra by (activation, w_m): amplitudes (omegas, F); measured and exact frequencies."""

    config: Config
    frequencies: np.ndarray
    amplitudes: dict[tuple[str, float], np.ndarray]
    measured: dict[tuple[str, float], np.ndarray]
    exact: dict[tuple[str, float], np.ndarray]


def _omegas(config: Config, w_m: float) -> np.ndarray:
    return w_m * np.asarray(config.fractions)


def run(config: Config = Config()) -> Data:
    """The spectrum of x for each omega, and the frequency of its strongest line."""
    needs_float64()
    x0 = jnp.asarray(config.start)
    steps = round(config.duration / config.dt)
    kinds = tuple(make() for make in ACTIVATIONS.values())

    @jax.jit
    def sweep(which, omegas):
        def orbit(omega):
            rnn = CTRNN(BlockSkew(omega[None]), OneOf(kinds, which))
            run = simulate(rnn, x0, dt=config.dt, num_steps=steps, rtol=1e-9, atol=1e-9)
            return states(run)[:, 0]

        y = jax.vmap(orbit)(omegas)
        return *power_spectrum(y, config.dt), dominant_frequency(y, config.dt)

    f = np.zeros(0)
    amplitudes, measured, exact = {}, {}, {}
    for w_m in config.w_m:
        omegas = jnp.asarray(_omegas(config, w_m))
        laws = np.asarray(exact_frequencies(kinds, omegas, x0))
        for k, name in enumerate(ACTIVATIONS):
            exact[name, w_m] = laws[k]
            f, power, measured[name, w_m] = map(np.asarray, sweep(jnp.asarray(k), omegas))
            # A sine of amplitude a has the density a²/3 in its bin of width Δf, times 1/Δf: the
            # Hann window spreads its power a²/2 over 1.5 bins.
            amplitudes[name, w_m] = np.sqrt(3 * power * f[1])
    return Data(config, f, amplitudes, measured, exact)


def check(data: Data) -> list[Verdict]:
    """Measured against exact frequency for every curve; the saturation at large omega."""
    config = data.config
    law = {
        "linear": "f = ω/2π",
        "tanh": "f = ω/2π · agm(1, exp(-l))",
        "hard tanh": "f = 1/T, T piecewise elementary",
    }
    verdicts = []
    for (name, w_m), measured in data.measured.items():
        exact = data.exact[name, w_m]
        verdicts.append(
            at_most(
                f"{name}, w_m = {w_m:g}: the spectrum peaks at {law[name]}.",
                "paper, Fig. 4; theory",
                f"largest relative error over {len(exact)} curves",
                np.abs(measured / exact - 1),
                1e-4,
            )
        )
    limit = 1 / (4 * np.abs(config.start).sum())
    top = max(config.w_m)
    for name in ("tanh", "hard tanh"):
        verdicts.append(
            at_most(
                f"{name}: for large ω the frequency saturates at 1/(4(|x0| + |y0|)).",
                "theory; visible in Fig. 4",
                f"relative distance of the measured frequency from {limit:.4g} Hz at "
                f"ω = {top * config.fractions[-1]:g} rad/s",
                abs(data.measured[name, top][-1] / limit - 1),
                0.01,
            )
        )
    linear = data.measured["linear", top]
    tanh = data.measured["tanh", top]
    verdicts.append(
        at_least(
            "Without saturation the frequency goes on growing with ω.",
            "paper, Fig. 4",
            f"linear over tanh frequency at ω = {top * config.fractions[-1]:g} rad/s",
            linear[-1] / tanh[-1],
            2.0,
        )
    )
    return verdicts


def plot(data: Data) -> Any:
    """The panels of the paper's caption above, those that complete our grid below."""
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    config = data.config
    first, *others = config.w_m
    above = [("linear", first), ("tanh", first), *(("hard tanh", w_m) for w_m in config.w_m)]
    rest = [[(name, w_m) for name in ("linear", "tanh")] for w_m in others]
    # The legend fills what is left of the grid, or a column of its own.
    free = len(above) - 2 if others else 1
    rows = [above + ([] if others else [None])] + [row + [None] * free for row in rest]
    figure, axes = plt.subplots(
        len(rows), len(rows[0]), figsize=(3.3 * len(rows[0]), 3.1 * len(rows)), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    colors = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(config.fractions)))
    for i, row in enumerate(rows):
        for j, panel in enumerate(row):
            ax = axes[i, j]
            if panel is None:
                ax.remove()
                continue
            letter = f"({chr(ord('a') + j)}) " if i == 0 else ""
            ax.set_title(f"{letter}{panel[0]}, $w_m$ = {panel[1]:g} rad/s", fontsize=10)
            _spectra(ax, data, panel, colors)
            ax.set_xlabel("frequency (Hz)")
        axes[i, 0].set_ylabel("amplitude of $x$ (a.u.)")
    entries = [
        Line2D([], [], color=color, linestyle=_STYLES[k % len(_STYLES)], label=f"{fraction:g}")
        for k, (color, fraction) in enumerate(zip(colors, config.fractions, strict=True))
    ]
    entries += [
        Line2D([], [], color="0.6", marker="v", linestyle="none", markeredgecolor="black",
               label="exact frequency"),
        Line2D([], [], color="0.5", linewidth=0.8, label="limit 1/(4(|x| + |y|)) of saturation"),
    ]  # fmt: skip
    spot = axes[0, 0].get_gridspec()[slice(0, 1) if not others else slice(1, None), -free:]
    keys = figure.add_subplot(spot)
    keys.axis("off")
    lettered = "(a) to (d): the paper's panels; the others complete the grid." if others else ""
    keys.text(0.5, 0.02, lettered, ha="center", fontsize=9)
    keys.legend(handles=entries, title="ω / $w_m$", loc="center", frameon=False, fontsize=9)
    return figure


def _spectra(ax: Any, data: Data, panel: tuple[str, float], colors: Any) -> None:
    """A colour and a line style for each omega; triangles above the exact frequencies."""
    name, w_m = panel
    for k, color in enumerate(colors):
        style = {"color": color, "linestyle": _STYLES[k % len(_STYLES)], "linewidth": 1.2}
        ax.semilogy(data.frequencies[1:], data.amplitudes[panel][k, 1:], **style)
        ax.plot(
            data.exact[panel][k], 1.9, "v", color=color, markersize=6, clip_on=False,
            markeredgecolor="black", markeredgewidth=0.5,
        )  # fmt: skip
    if name != "linear":
        limit = 1 / (4 * np.abs(data.config.start).sum())
        ax.axvline(limit, color="0.5", linewidth=0.8, zorder=0)
    ax.set(xlim=(0, 1.25 * w_m / (2 * np.pi)), ylim=(1e-6, 2))
