"""Pictures of regimes."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from .._analysis.regime import (
    CHAOTIC,
    DIVERGED,
    EQUILIBRIUM,
    PERIODIC,
    QUASI_PERIODIC,
    UNDECIDED,
    Regime,
)
from .._util import checks
from .._util.types import ArrayLike
from ._style import CMAP, add_legend, add_name, axes_or_new

# From the dark end of the map to the light one as order is lost; what tells nothing is hatched.
_LOOKS = {
    EQUILIBRIUM: (0.0, ""),
    PERIODIC: (0.25, ""),
    QUASI_PERIODIC: (0.55, ""),
    CHAOTIC: (0.95, ""),
    UNDECIDED: (None, "//"),
    DIVERGED: (None, "xx"),
}


def regimes(
    regime: Regime, amplitudes: ArrayLike | Sequence[float], *, ax: Axes | None = None
) -> Axes:
    """The share of each regime among the states of each amplitude, one bar an amplitude.

    Args:
        regime: of states (A, ..., n), as `regime` returns it.
        amplitudes: (A,) of these, in any unit, which names the bars.

    Raises:
        TypeError, ValueError: also where there are no states.
    """
    checks.instance("regime", regime, Regime, "what regime returns")
    status, names = np.asarray(regime.status), np.asarray(amplitudes, float)
    if status.ndim < 2 or status.size == 0:
        checks.fail("regime", "that of states (A, ..., n), A amplitudes", f"status {status.shape}")
    if names.shape != status.shape[:1]:
        checks.fail("amplitudes", f"shape {status.shape[:1]}, as of regime", names.shape)
    status = status.reshape(len(names), -1)
    ax, at, below = axes_or_new(ax), np.arange(len(names)), np.zeros(len(names))
    for code, (place, hatch) in _LOOKS.items():
        share = 100 * np.mean(status == code, axis=1)
        if not share.any():
            continue
        color = "white" if place is None else plt.get_cmap(CMAP)(place)
        ax.bar(
            at, share, 0.86, below, label=Regime.WORDS[code], color=color, hatch=hatch,
            edgecolor="0.25", linewidth=0.6,
        )  # fmt: skip
        below += share
    ax.set_xticks(at, [f"{a:.3g}" for a in names])
    ax.set(xlabel="amplitude (a.u.)", ylabel="states (%)", ylim=(0, 100))
    ax.set_yticks([0, 25, 50, 75, 100])
    add_name(ax, f"{status.shape[1]} states of each amplitude")
    add_legend(ax)
    return ax
