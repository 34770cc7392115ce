"""What all pictures share: axes, colours, marks, legends."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from . import _checks

# Viridis rises in lightness, so it survives grey print and colour blindness; what else is told
# apart differs in shape or line style too.
_CMAP = "viridis"
_LINE = "#31688e"
_STYLES = ("-", "--", "-.", ":")
_MARKERS = {
    "start": ("o", "black", 5.5),
    "end": ("*", "#1f5fff", 15),
    "stopped": ("X", "#e0201b", 9),
    "peak": ("v", "#e0201b", 9),
}
_POWER_RANGE = 1e10  # 100 dB: weaker parts of a spectrum are left below its picture


def _axes(ax: Any) -> Axes:
    if ax is None:
        # Like "constrained", but right for axes of equal aspect too.
        return plt.subplots(layout="compressed")[1]
    return _checks.instance("ax", ax, Axes, "one matplotlib Axes, or None")


def _mark(ax: Axes, kind: str, x: Any, y: Any, label: str | None = None) -> None:
    if np.size(x):
        marker, color, size = _MARKERS[kind]
        size = size if np.size(x) <= 16 else 0.6 * size
        # A start lies upon the larger star of an orbit that ends where it began.
        order = 6 if kind == "start" else 5
        style = {"linestyle": "none", "markeredgecolor": "white", "zorder": order}
        ax.plot(x, y, marker=marker, color=color, markersize=size, label=label or kind, **style)


def _legend(ax: Axes, title: str | None = None) -> None:
    """A legend in room made for it above the data, so that it covers none of them."""
    entries = {label: handle for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    if not entries:
        return
    ax.get_ylim()  # scales the axes to their data, which until now was only due
    ax.apply_aspect()
    inches = ax.get_window_extent().transformed(ax.figure.dpi_scale_trans.inverted())
    widest = max(len(label.translate(dict.fromkeys(map(ord, "${}_")))) for label in entries)
    columns = int(np.clip(inches.width / (0.45 + 0.07 * widest), 1, len(entries)))
    rows = -(-len(entries) // columns) + (title is not None)
    top = ax.transAxes.transform((0, 1 + (0.1 + 0.21 * rows) / inches.height))
    # auto=None: a later call on the same axes may scale them anew.
    ax.set_ylim(top=ax.transData.inverted().transform(top)[1], auto=None)
    style = {"frameon": False, "columnspacing": 1.2, "handletextpad": 0.5, "borderaxespad": 0.2}
    handles = list(entries.values())
    ax.legend(handles, list(entries), loc="upper center", ncols=columns, title=title, **style)


def _highest_frequency(max_frequency: Any, f: np.ndarray, power: np.ndarray) -> float:
    """The caller's, else twice the frequency below which 99.9 % of the power (rows, F) lies."""
    if max_frequency is not None:
        return _checks.positive_float("max_frequency", max_frequency)
    # Rows (trajectories or windows) count alike, however weak.
    total = power.sum(axis=-1, keepdims=True)
    share = np.cumsum((power / np.where(total > 0, total, 1)).mean(axis=0))
    enough = 2 * np.searchsorted(share, 0.999 * share[-1])
    return float(f[min(max(enough, 24), len(f) - 1)])
