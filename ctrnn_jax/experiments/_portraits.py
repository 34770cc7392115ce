"""Phase portraits side by side with one legend and one bar of colours."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._simulate.trajectory import Trajectory


def portraits(panels: list[list[tuple[str, list[Trajectory]]]]) -> Any:
    """Rows of titled phase portraits of one scale; time runs from violet (early) to yellow (late).

    A panel is as wide as the states of its column.
    """
    import matplotlib.pyplot as plt

    from .. import plot

    rows, columns = len(panels), len(panels[0])
    runs = [run for row in panels for _, several in row for run in several]
    low, high = _bounds(runs)[1]
    across = [_bounds([r for row in panels for r in row[j][1]])[0] for j in range(columns)]
    widths = [right - left for left, right in across]
    scale = min(10 / sum(widths), 3.2 / (high - low))  # inches a unit
    size = (scale * sum(widths) + 0.6 * columns + 1.1, (scale * (high - low) + 0.5) * rows + 0.9)
    figure, axes = plt.subplots(
        rows, columns, figsize=size, squeeze=False, layout="constrained",
        gridspec_kw={"width_ratios": widths},
    )  # fmt: skip
    duration = max(float(run.ts[-1]) for run in runs)
    entries = {}
    for i, row in enumerate(panels):
        for j, (title, several) in enumerate(row):
            ax = axes[i, j]
            ax.set_title(title, fontsize=10)
            for run in several:
                plot.phase_portrait(run, colorbar=False, ax=ax)
            for lines in ax.collections:
                lines.set_clim(0, duration)
            ax.set(xlim=across[j], ylim=(low, high))
            handles, labels = ax.get_legend_handles_labels()
            entries |= dict(zip(labels, handles, strict=True))
            ax.get_legend().remove()
    figure.colorbar(axes[0, 0].collections[0], ax=axes, label="time (s)", aspect=40)
    names = {"start": "start", "end": "end", "stopped": "stopped: norm past the threshold"}
    figure.legend(
        [entries[name] for name in names if name in entries],
        [words for name, words in names.items() if name in entries],
        loc="outside lower center", ncols=3, frameon=False,
    )  # fmt: skip
    return figure


def _bounds(runs: list[Trajectory]) -> np.ndarray:
    """(2 neurons, lowest and highest) with a margin."""
    xy = np.concatenate([np.asarray(run.xs).reshape(-1, 2) for run in runs])
    low, high = xy.min(axis=0), xy.max(axis=0)
    margin = 0.1 * (high - low).min()
    return np.stack([low - margin, high + margin], axis=-1)
