"""Pictures of nonlinear modes."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from .._analysis.nonlinear_modes import STABLE, UNSTABLE, NonlinearModes
from .._util import checks
from ._style import LINE, STYLES, add_legend, add_mark, axes_or_new


def backbone(modes: NonlinearModes, *, ax: Axes | None = None) -> Axes:
    """The frequency of each family of closed orbits against its energy: backbone curves.

    Solid where the orbits are stable, dashed on to and from those that are not; a cross where the
    family was not found any further.

    Args:
        modes: of one network, as `nonlinear_modes` returns them, with two energies or more.

    Raises:
        TypeError, ValueError: also where no orbit was found.
    """
    checks.instance("modes", modes, NonlinearModes, "what nonlinear_modes returns")
    status, E = np.asarray(modes.status), np.asarray(modes.energies, float)
    if status.ndim != 2 or len(E) < 2:
        got = f"status of shape {status.shape}"
        checks.fail("modes", "the modes of one network at two energies or more", got)
    f = 1 / np.asarray(modes.periods, float)
    found = np.isfinite(f)
    if not found.any():
        checks.fail("modes", "at least one closed orbit", "none: see modes.words()")
    ax = axes_or_new(ax)
    ax.set_xscale("log")
    ax.set_yscale("log")
    unstable = status == UNSTABLE
    # Parts of a curve join two orbits: those of an unstable one and a stable one are dashed.
    beside = unstable.copy()
    beside[:, 1:] |= unstable[:, :-1]
    beside[:, :-1] |= unstable[:, 1:]
    curves = ("stable", status == STABLE, STYLES[0]), ("unstable", beside & found, STYLES[1])
    for label, shown, style in curves:
        for k in np.flatnonzero(shown.any(axis=1)):
            ax.plot(E, np.where(shown[k], f[k], np.nan), style, color=LINE, label=label)
    last = found.sum(axis=1) - 1
    ended = np.flatnonzero((last >= 0) & ~found[:, -1])
    add_mark(ax, "stopped", E[last[ended]], f[ended, last[ended]], "found no further")
    ax.set(xlabel="energy", ylabel="frequency (Hz)")
    add_legend(ax)
    return ax
