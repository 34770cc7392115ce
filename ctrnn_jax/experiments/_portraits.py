"""Phase portraits side by side with one bar of colours."""

from __future__ import annotations

from typing import Any

from ..trajectory import Trajectory


def portraits(panels: list[list[tuple[str, Trajectory]]], same_axes: bool = False) -> Any:
    """Rows of titled phase portraits; time runs from violet (early) to yellow (late)."""
    import matplotlib.pyplot as plt

    from .. import plot

    rows, columns = len(panels), len(panels[0])
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.4 * columns + 0.9, 3.5 * rows), squeeze=False,
        layout="compressed", sharex=same_axes, sharey=same_axes,
    )  # fmt: skip
    duration = max(float(trajectory.ts[-1]) for row in panels for _, trajectory in row)
    for i, row in enumerate(panels):
        for j, (title, trajectory) in enumerate(row):
            ax = plot.phase_portrait(trajectory, colorbar=False, ax=axes[i, j])
            ax.collections[0].set_clim(0, duration)
            ax.set_title(title, fontsize=10)
    figure.colorbar(axes[0, 0].collections[0], ax=axes, label="time (s)")
    return figure
