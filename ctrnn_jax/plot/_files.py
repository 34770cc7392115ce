"""Pictures as files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt


def draw(folder: Path, pictures: Mapping[str, Callable[[Any], Any]]) -> None:
    """A PNG for each name, by the function that draws into an empty figure; for processes alone.

    Shows nothing from then on: the backend is one without windows.
    """
    matplotlib.use("Agg")
    for name, picture in pictures.items():
        figure = plt.figure(figsize=(7, 4.5), layout="constrained")
        try:
            picture(figure)
            figure.savefig(folder / f"{name}.png", dpi=150)
        finally:
            plt.close(figure)
