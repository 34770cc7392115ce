"""The pictures of `ctrnn analyse`."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

import jax
import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from .. import plot
from .._analysis.analyse import Analysis
from .._analysis.step_sizes import DRIFT, PER_PERIOD, PERIODS, TURNS
from ..plot._style import LINE, STYLES

_COLORS = ("#440154", "#31688e", "#35b779")
_MARKERS = "osD"


def pictures(found: Analysis) -> dict[str, tuple[bytes, str, str]]:
    """By name: a PNG, what it is, and what is to be seen in it."""
    matplotlib.use("Agg")
    drawn: dict[str, tuple[Callable[[Any], Any], tuple[float, float], str, str]] = {
        "regimes": (
            lambda figure: _regimes(figure, found), (7.5, 4.0), "Regimes over amplitude",
            "Share of random states of each amplitude (standard deviation of z about the fixed "
            "point) that lead to each kind of motion.",
        ),
        "exponents": (
            lambda figure: _exponents(figure, found), (7.5, 4.0), "Lyapunov exponents",
            "Of one state of each of three amplitudes. They come in pairs; what is 0 comes out in "
            "the grey band or below.",
        ),
    }  # fmt: skip
    modes = found.modes
    if modes is not None and np.isfinite(modes.periods).any():
        drawn["backbone"] = (
            lambda figure: plot.backbone(modes, ax=figure.subplots()), (7.5, 5.0),
            "Backbone curves",
            "The frequency of each family of closed orbits against its energy. Solid: stable.",
        )  # fmt: skip
    if found.sections is not None and np.isfinite(found.sections.ts).any():
        drawn["sections"] = (
            lambda figure: _sections(figure, found), (10.0, 3.8), "Poincaré sections",
            "Where orbits pass the plane x₀ = fixed point upwards. Closed orbits show dots, "
            "quasi-periodic ones of two frequencies curves, others bands, chaotic ones clouds.",
        )  # fmt: skip
    if found.steps:
        drawn["steps"] = (
            lambda figure: _steps(figure, found), (10.0, 4.0), "Errors by step",
            f"Left: by how many turns the phase of the fastest small motion is wrong after "
            f"{PERIODS} of its periods. Right: largest energy drift of the three states above in "
            "2048 steps. Dashed: what is asked for.",
        )  # fmt: skip
    return {name: (_png(draw, size), title, caption)
            for name, (draw, size, title, caption) in drawn.items()}  # fmt: skip


def _png(draw: Callable[[Any], Any], size: tuple[float, float]) -> bytes:
    figure, file = plt.figure(figsize=size, layout="constrained"), BytesIO()
    try:
        draw(figure)
        figure.savefig(file, format="png", dpi=120)
    finally:
        plt.close(figure)
    return file.getvalue()


def _regimes(figure: Any, found: Analysis) -> None:
    ax = plot.regimes(found.regimes, found.amplitudes, ax=figure.subplots())
    ax.set_xlabel("amplitude of z (a.u.)")


def _exponents(figure: Any, found: Analysis) -> None:
    ax = figure.subplots()
    ax.axhspan(-found.exponents_bound, found.exponents_bound, color="0.88", zorder=0)
    at = 1 + np.arange(found.exponents.shape[1])
    looks = zip(found.shown, found.exponents, strict=True)
    for (k, values), color, marker, style in zip(looks, _COLORS, _MARKERS, STYLES, strict=False):
        label = f"amplitude {found.amplitudes[k]:.3g}"
        ax.plot(at, values, style, color=color, marker=marker, markersize=4, label=label)
    ax.set(xlabel="number of the exponent", ylabel="Lyapunov exponent (1/s)")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(frameon=False)


def _sections(figure: Any, found: Analysis) -> None:
    words, n = found.regimes.words(), found.rnn.size
    axes = figure.subplots(1, len(found.shown), squeeze=False)[0]
    for row, (k, ax) in enumerate(zip(found.shown, axes, strict=True)):
        some = jax.tree.map(
            lambda leaf, row=row: (
                leaf[row : row + 1] if hasattr(leaf, "ndim") and leaf.ndim else leaf
            ),
            found.sections,
        )
        ax.set_title(f"amplitude {found.amplitudes[k]:.3g}: {words[k, 0]}", fontsize="medium")
        if np.isfinite(some.ts).any():
            plot.section(some, neurons=(1, 2) if n > 2 else (0, 1), ax=ax)
        else:
            ax.text(0.5, 0.5, "no crossing", ha="center", transform=ax.transAxes)


def _steps(figure: Any, found: Analysis) -> None:
    left, right = figure.subplots(1, 2)
    for (name, m), color, marker, style in zip(
        found.steps.items(), _COLORS, _MARKERS, STYLES, strict=False
    ):
        look = {"color": color, "marker": marker, "linestyle": style, "label": name}
        for ax, values in ((left, m.turns), (right, m.drift)):
            shown = np.where(np.asarray(values) > 1e-14, values, np.nan)
            ax.plot(PER_PERIOD, shown, **look)
    for ax, bound, label in (
        (left, TURNS, f"phase error after {PERIODS} periods (turns)"),
        (right, DRIFT, "relative energy drift"),
    ):
        ax.axhline(bound, color=LINE, linewidth=1, linestyle="--")
        ax.set(xscale="log", yscale="log", ylabel=label, xlabel="steps in the fastest period")
        ax.set_xticks([8, 16, 32, 64, 128, 256], [str(s) for s in (8, 16, 32, 64, 128, 256)])
        ax.minorticks_off()
    left.legend(frameon=False)
