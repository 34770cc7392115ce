"""Pictures of states and invariants: phase portraits, time series, energy drift, level sets."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize

from .._files.recordings import Recording
from .._network import invariants
from .._network.model import CTRNN, one_network
from .._simulate.trajectory import Trajectory
from .._util import checks
from ._saves import Orbits, are_sparse, before_they_left, position
from ._style import (
    CMAP,
    STYLES,
    add_legend,
    add_mark,
    add_name,
    axes_or_new,
    draw_band,
    state_label,
)

_SPARSE = "dots: saves, fewer than 12 a turn"


def _portrait_axes(ax: Axes, horizontal: int, vertical: int, note: str | None = None) -> None:
    ax.set(xlabel=f"{state_label(horizontal)} (a.u.)", ylabel=f"{state_label(vertical)} (a.u.)")
    ax.set_aspect("equal")
    add_legend(ax, note)


def phase_portrait(
    trajectory: Trajectory | Recording,
    *,
    neurons: Iterable[int] = (0, 1),
    max_trajectories: int = 64,
    cmap: str = CMAP,
    colorbar: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """One neuron against another, coloured by time from violet (early) to yellow (late).

    A black dot is a start, a blue star an end; a red cross is where a trajectory was stopped or
    last finite, a red square where one that grows beyond all bounds leaves the picture. Where fewer
    than 12 saves make a turn they are drawn as dots: lines between them would be polygons.

    Args:
        neurons: the two indices, horizontal and vertical.
        max_trajectories: of a larger batch so many are drawn, spread evenly over it.
        cmap: name of the colour map for time.
        colorbar: whether a bar explains the colours, in seconds.

    Example:
        >>> ct.plot.phase_portrait(trajectory).figure.savefig("portrait.pdf")
    """
    at_most = checks.integer("max_trajectories", max_trajectories, 1)
    orbits = Orbits(trajectory, 2, at_most=at_most)
    if orbits.n < 2:
        checks.fail("trajectory.xs", "at least 2 neurons", orbits.n)
    pair = [position("neurons", k, orbits.n) for k in neurons]
    if len(pair) != 2:
        checks.fail("neurons", "two indices", pair)
    colors = plt.get_cmap(cmap)
    ax = axes_or_new(ax)
    ts, xy = orbits.ts, orbits.xs[:, :, pair]
    last = before_they_left(xy, orbits.last)
    left, cut = last < orbits.last, orbits.cut & (orbits.last >= 0)
    dotted = np.array([are_sparse(xy[row, : end + 1]) for row, end in enumerate(last)])
    # A piece of line for each of 256 colours, not for each save: much faster for long runs.
    edges = np.linspace(0, len(ts) - 1, min(len(ts), 257)).astype(int)
    pieces = [
        (row, a, min(b, last[row]))
        for row in np.flatnonzero(~dotted)
        for a, b in pairwise(edges)
        if a < last[row]
    ]
    when = np.array([(ts[a] + ts[b]) / 2 for _, a, b in pieces])
    few = len(xy) <= 16
    time: dict[str, Any] = {"cmap": colors, "norm": Normalize(float(ts[0]), float(ts[last.max()]))}
    style = {"linewidths": 1.5 if few else 0.9, "capstyle": "round"}
    drawn = LineCollection([xy[row, a : b + 1] for row, a, b in pieces], **time, **style)
    if pieces:
        drawn.set_array(when)
        ax.add_collection(drawn)
    if dotted.any():
        row, save = np.nonzero(dotted[:, None] & (np.arange(len(ts)) <= last[:, None]))
        size = 12 if few and len(row) < 1000 else 4
        x, y = xy[row, save].T
        drawn = ax.scatter(x, y, s=size, c=ts[save], linewidths=0, **time)
    ax.autoscale_view()
    final = xy[np.arange(len(xy)), last]
    add_mark(ax, "start", *xy[last >= 0, 0].T)
    add_mark(ax, "end", *final[~orbits.cut & ~left].T)
    add_mark(ax, "stopped", *final[cut & ~left].T)
    add_mark(ax, "leaves the picture", *final[left].T)
    add_name(ax, orbits.which)
    _portrait_axes(ax, pair[0], pair[1], _SPARSE if dotted.any() else None)
    if colorbar:
        # An inset keeps the height of axes of equal aspect in every layout.
        bar = ax.inset_axes((1.03, 0, 0.04, 1))
        ax.figure.colorbar(drawn, cax=bar, label="time (s)")
    return ax


def section(
    crossings: Trajectory,
    *,
    neurons: Iterable[int] = (0, 1),
    cmap: str = CMAP,
    ax: Axes | None = None,
) -> Axes:
    """Poincaré section: one neuron against another at the crossings of `ctrnn_jax.crossings`.

    A dot is a crossing, its colour the trajectory. Closed orbits show a few dots, quasi-periodic
    ones curves, chaotic ones clouds.

    Args:
        crossings: what `ctrnn_jax.crossings` returned.
        neurons: the two indices, horizontal and vertical.
        cmap: name of the colour map for trajectories.

    Raises:
        TypeError, ValueError: also where no trajectory has a crossing.
    """
    checks.instance("crossings", crossings, Trajectory, "a Trajectory, as of crossings")
    if crossings.xs is None:
        checks.fail("crossings.xs", "states, as keep_states=True keeps them", None)
    xs = np.asarray(crossings.xs)
    n = xs.shape[-1]
    pair = [position("neurons", k, n) for k in neurons]
    if len(pair) != 2:
        checks.fail("neurons", "two indices", pair)
    points = xs.reshape(-1, *xs.shape[-2:])[..., pair]
    there = np.isfinite(points).all(axis=-1)
    if not there.any():
        checks.fail("crossings.xs", "at least one crossing", "none")
    which = np.broadcast_to(np.arange(len(points))[:, None], there.shape)[there]
    # Not to the end of the map, where it is hard to see on white.
    colors = plt.get_cmap(cmap)(0.85 * which / max(1, len(points) - 1))
    ax, found = axes_or_new(ax), points[there]
    ax.scatter(*found.T, s=12 if len(found) < 1000 else 3, c=colors, linewidths=0)
    some = f" of {len(points)} trajectories" if len(points) > 1 else ""
    add_name(ax, f"{len(found)} crossings{some}")
    _portrait_axes(ax, pair[0], pair[1])
    return ax


def time_series(
    trajectory: Trajectory | Recording,
    *,
    neurons: Iterable[int] | None = None,
    index: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """The states of some neurons of one trajectory against time, up to where it was stopped.

    Where fewer than 12 saves make a cycle they are drawn as dots, below 4 without lines.

    Args:
        neurons: indices; the first six unless given.
        index: which trajectory of the batch.
    """
    orbits = Orbits(trajectory, 2, index=index)
    chosen = range(min(orbits.n, 6)) if neurons is None else neurons
    chosen = [position("neurons", k, orbits.n) for k in chosen]
    if not chosen:
        checks.fail("neurons", "at least one index", chosen)
    ax = axes_or_new(ax)
    shown = slice(orbits.last[0] + 1)
    ts, xs = orbits.ts[shown], orbits.xs[0, shown]
    colors = plt.get_cmap(CMAP)(np.linspace(0, 0.85, len(chosen)))
    sparse = [are_sparse(xs[:, k]) for k in chosen]
    for i, k in enumerate(chosen):
        style: dict[str, Any] = {"linestyle": STYLES[i % 4], "color": colors[i]}
        if sparse[i]:
            if not are_sparse(xs[:, k], 4):
                ax.plot(ts, xs[:, k], **style, linewidth=0.8, alpha=0.4)
            size = 3.5 if len(ts) <= 200 else 2
            style |= {"linestyle": "none", "marker": "osD^"[i % 4], "markersize": size}
        ax.plot(ts, xs[:, k], **style, label=state_label(k))
    if orbits.cut[0]:
        add_mark(ax, "stopped", np.full(len(chosen), ts[-1]), xs[-1, chosen])
    ax.set(xlabel="time (s)", ylabel="state (a.u.)")
    add_name(ax, orbits.which)
    add_legend(ax, _SPARSE if any(sparse) else None)
    return ax


def energy_drift(rnn: CTRNN, trajectory: Trajectory | Recording, *, ax: Axes | None = None) -> Axes:
    """The size of the relative energy drift, |E(t) - E(0)| / |E(0)|, against time.

    For a batch its median, its 10 to 90 % band and its maximum, at each time. A stopped trajectory
    counts with its drift at the stop, a red cross, from there on. The first save, 0 by definition,
    has no place on the logarithmic axis; drifts below the rounding unit are drawn at it. Of a long
    recording as many saves are read as can be seen.

    The legend tells the largest drift of a run, for a batch the median and the maximum over those
    that ran to the end.

    Raises:
        TypeError, ValueError: also for another number of neurons than the network's.
    """
    orbits = Orbits(trajectory, 2, spaced=True)
    drift = np.abs(np.asarray(invariants.energy_drift(rnn, orbits.xs)))
    saves = np.arange(len(orbits.ts))
    # Without those that stopped, the batch would seem to drift less from their stop on.
    drift = np.take_along_axis(drift, np.minimum(saves, orbits.last[:, None]), axis=1)
    worst = drift[~orbits.cut].max(axis=1)
    drift[~np.isfinite(drift)] = np.nan
    some = (saves > 0) & (saves <= orbits.last.max()) & np.isfinite(drift).any(axis=0)
    if not some.any():
        checks.fail("trajectory.xs", "2 saves of finite energy before the stop", "fewer")
    ax = axes_or_new(ax)
    unit = np.finfo(drift.dtype).eps
    rounded = (drift[:, some] < unit).any()
    drift = np.maximum(drift, unit)
    ax.set_yscale("log")
    draw_band(ax, orbits.ts[some], drift[:, some])
    if len(drift) > 1:
        largest = np.nanmax(drift[:, some], axis=0)
        ax.plot(orbits.ts[some], largest, color="black", linewidth=0.7, label="maximum")
    cut = np.flatnonzero(orbits.cut)
    at = orbits.last[cut]
    add_mark(ax, "stopped", orbits.ts[at], drift[cut, at], f"stopped ({len(cut)} of {len(drift)})")
    if rounded:
        ax.axhline(float(unit), linestyle=":", color="0.4", linewidth=1, label="rounding unit")
    ax.set(xlabel="time (s)", ylabel="|relative energy drift|")
    told = None
    if len(worst):
        told = f"largest of a run: median {np.median(worst):.3g}, maximum {worst.max():.3g}"
        told = told if len(drift) > 1 else f"largest: {worst[0]:.3g}"
    add_legend(ax, told)
    return ax


def level_sets(
    rnn: CTRNN,
    levels: Iterable[float | int] = (0.2, 1.5, 3.0),
    *,
    extent: Iterable[float | int] | None = None,
    resolution: int = 256,
    ax: Axes | None = None,
) -> Axes:
    """Curves of constant energy E(x) = l of a two-neuron network: its orbits lie on them.

    With tanh and omega = 1 rad/s they are log(cosh x₀ cosh x₁) = l, figure 1 of Casoni et al.

    Args:
        rnn: a network of two neurons.
        levels: the energies l.
        extent: (left, right, bottom, top); unless given, around the curve of the largest level
            where it is closed, else a square that it crosses.
        resolution: grid points along each axis.

    Raises:
        TypeError, ValueError: for another number of neurons, an empty extent, and levels that
            the energy does not take in it.
    """
    one_network(rnn)
    if rnn.size != 2:
        checks.fail("rnn", "a network of 2 neurons", rnn.size)
    resolution = checks.integer("resolution", resolution, 8)
    values = np.unique(np.asarray(list(levels), dtype=float))
    if not values.size or not np.isfinite(values).all():
        checks.fail("levels", "one or more finite energies", values)
    bounds = _extent(rnn, values[-1]) if extent is None else tuple(extent)
    pairs = bounds[:2], bounds[2:]
    if len(bounds) != 4 or not all(-np.inf < low < high < np.inf for low, high in pairs):
        checks.fail("extent", "(left, right, bottom, top) with left < right, bottom < top", bounds)
    x, y, E = _energies(rnn, bounds, resolution)
    for value in values:
        if not np.nanmin(E) < value < np.nanmax(E):
            taken = f"between {np.nanmin(E):.4g} and {np.nanmax(E):.4g}, as in the picture"
            checks.fail("levels", taken, value)
    ax = axes_or_new(ax)
    colors = plt.get_cmap(CMAP)(np.linspace(0, 0.75, len(values)))
    styles = [STYLES[i % len(STYLES)] for i in range(len(values))]
    ax.contour(x, y, E, levels=values, colors=colors, linestyles=styles)
    for value, color, style in zip(values, colors, styles, strict=True):
        # Labels on the curves themselves do not fit the small ones.
        ax.plot([], [], style, color=color, label=f"$E$ = {value:.4g}")
    _portrait_axes(ax, 0, 1)
    return ax


def _energies(rnn: CTRNN, bounds: tuple, resolution: int):
    """Abscissae, ordinates and the energies (resolution, resolution) of a grid."""
    left, right, bottom, top = bounds
    x, y = np.linspace(left, right, resolution), np.linspace(bottom, top, resolution)
    grid = jnp.asarray(np.stack(np.meshgrid(x, y), axis=-1), rnn.dtype)
    return x, y, np.asarray(invariants.energy(rnn, grid), dtype=float)


def _extent(rnn: CTRNN, level: float) -> tuple[float, ...]:
    """Bounds around {E <= level} where it is closed, else those of a square that it crosses."""
    crossed = None
    for radius in 2.0 ** np.arange(-10, 21):
        x, y, E = _energies(rnn, (-radius, radius, -radius, radius), 129)
        rows, columns = np.nonzero(level >= E)
        if 0 < rows.size < E.size:
            crossed = crossed or 1.5 * radius
            box = np.array([[x[columns.min()], x[columns.max()]], [y[rows.min()], y[rows.max()]]])
            if np.abs(box).max() < radius:
                margin = 0.1 * np.ptp(box, axis=1).max() + x[1] - x[0]
                return tuple((box + np.array([-margin, margin])).ravel())
    if crossed is None:
        checks.fail("levels", "energies that the network takes", level)
    return (-crossed, crossed, -crossed, crossed)
