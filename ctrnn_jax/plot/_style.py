"""What all pictures share: axes, colours, marks, legends."""

from __future__ import annotations

import textwrap
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import AutoLocator, MaxNLocator, ScalarFormatter

from .._util import checks

# Viridis rises in lightness, so it survives grey print and colour blindness; what else is told
# apart differs in shape or line style too.
CMAP = "viridis"
LINE = "#31688e"
STYLES = ("-", "--", "-.", ":")
_MARKERS = {
    "start": ("o", "black", 5.5),
    "end": ("*", "#1f5fff", 15),
    "stopped": ("X", "#e0201b", 9),
    "leaves the picture": ("s", "#e0201b", 6),
    "peak": ("v", "#e0201b", 9),
}
POWER_RANGE = 1e10  # 100 dB: weaker parts of a spectrum are left below its picture


class _Spaced(MaxNLocator):
    """As many ticks of a horizontal axis as leave room between their labels.

    Matplotlib's own locator takes labels for three times as wide as high: longer ones run into
    each other in narrow axes.
    """

    def __init__(self) -> None:
        super().__init__(nbins=9, steps=[1, 2, 2.5, 5, 10], min_n_ticks=1)

    def tick_values(self, vmin: float, vmax: float) -> Any:
        axis: Any = self.axis
        size = FontProperties(size=plt.rcParams["xtick.labelsize"]).get_size_in_points()
        points = axis.axes.bbox.width / axis.axes.figure.dpi * 72
        ticks = np.array([])
        for bins in range(9, 0, -1):
            self.set_params(nbins=bins)
            ticks = np.asarray(super().tick_values(vmin, vmax))
            labels = axis.get_major_formatter().format_ticks(ticks)
            room = points * (ticks[1] - ticks[0]) / abs(vmax - vmin)
            if room > size * (0.64 * max(map(len, labels)) + 0.8):
                break
        return ticks


def axes_or_new(ax: Any) -> Axes:
    if ax is None:
        # Like "constrained", but right for axes of equal aspect too.
        ax = plt.subplots(layout="compressed")[1]
    _ticks(checks.instance("ax", ax, Axes, "one matplotlib Axes, or None"))
    return ax


def _ticks(ax: Axes) -> None:
    """Short labels that do not touch, unless the caller has chosen his own."""
    if type(ax.xaxis.get_major_locator()) is AutoLocator:
        ax.xaxis.set_major_locator(_Spaced())
    for axis in (ax.xaxis, ax.yaxis):
        formatter = axis.get_major_formatter()
        if type(formatter) is ScalarFormatter:
            formatter.set_powerlimits((-3, 4))


def add_name(ax: Axes, text: str) -> None:
    """What is drawn, as a title, unless the caller gave one."""
    if text and not ax.get_title():
        ax.set_title(text, fontsize="medium")


def add_mark(ax: Axes, kind: str, x: Any, y: Any, label: str | None = None) -> None:
    if np.size(x):
        marker, color, size = _MARKERS[kind]
        size = size if np.size(x) <= 16 else 0.6 * size
        # A start lies upon the larger star of an orbit that ends where it began.
        order = 6 if kind == "start" else 5
        style = {"linestyle": "none", "markeredgecolor": "white", "zorder": order}
        ax.plot(x, y, marker=marker, color=color, markersize=size, label=label or kind, **style)


def add_legend(ax: Axes, title: str | None = None) -> None:
    """A legend in room made for it above the data, so that it covers none of them."""
    entries = {label: handle for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    if not entries and title is None:
        return
    ax.get_ylim()  # scales the axes to their data, which until now was only due
    ax.apply_aspect()
    inches = ax.get_window_extent().transformed(ax.figure.dpi_scale_trans.inverted())
    bare = [len(label.translate(dict.fromkeys(map(ord, "${}_")))) for label in entries]
    widest = max(bare, default=0)
    columns = int(np.clip(inches.width / (0.45 + 0.07 * widest), 1, max(len(entries), 1)))
    title = title and textwrap.fill(title, max(12, int(inches.width / 0.075)))
    rows = -(-len(entries) // columns) + (title.count("\n") + 1 if title else 0)
    top = ax.transAxes.transform((0, 1 + (0.1 + 0.21 * rows) / inches.height))
    # auto=None: a later call on the same axes may scale them anew.
    ax.set_ylim(top=ax.transData.inverted().transform(top)[1], auto=None)
    style = {"frameon": False, "columnspacing": 1.2, "handletextpad": 0.5, "borderaxespad": 0.2}
    handles = list(entries.values())
    ax.legend(handles, list(entries), loc="upper center", ncols=columns, title=title, **style)


def highest_frequency(
    max_frequency: Any, f: np.ndarray, power: np.ndarray, least: int = 24
) -> float:
    """The caller's, else twice the frequency below which 99.9 % of the power (rows, F) lies.

    At least so many bins are shown.
    """
    if max_frequency is not None:
        return checks.positive_float("max_frequency", max_frequency)
    # Rows (trajectories or windows) count alike, however weak.
    total = power.sum(axis=-1, keepdims=True)
    share = np.cumsum((power / np.where(total > 0, total, 1)).mean(axis=0))
    enough = 2 * np.searchsorted(share, 0.999 * share[-1])
    return float(f[min(max(enough, least), len(f) - 1)])


def state_label(neuron: int) -> str:
    return f"$x_{{{neuron}}}$"


def draw_band(ax: Axes, x: np.ndarray, values: np.ndarray) -> None:
    """The median of values (B, len(x)), and for a batch the 10 to 90 % band; nan is left out."""
    low, median, high = np.nanquantile(values, (0.1, 0.5, 0.9), axis=0)
    batch = len(values) > 1
    ax.plot(x, median, color=LINE, label=f"median of {len(values)}" if batch else None)
    if batch:
        ax.fill_between(x, low, high, color=LINE, alpha=0.3, linewidth=0, label="10 to 90 %")
