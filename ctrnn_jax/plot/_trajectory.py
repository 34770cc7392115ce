"""Pictures of trajectories, energy drift, spectra and level sets.

Every function draws into the matplotlib axes `ax`, or into a new figure where `ax` is None, and
returns the axes; nothing is shown, saved or set globally. Leading axes of a trajectory are one
flat batch here, in which `index` counts. States are dimensionless: their unit reads a.u. In
figures of several panels `layout="compressed"` suits axes of equal aspect best.

All raise TypeError or ValueError for a trajectory without states, with too few saves or nowhere
finite, and for a neuron or an index that it does not have.
"""

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

from . import _checks, invariants, spectra
from ._drawing import (
    _CMAP,
    _LINE,
    _POWER_RANGE,
    _STYLES,
    _axes,
    _highest_frequency,
    _legend,
    _mark,
    _name,
)
from ._saves import Orbits, are_sparse, before_they_left, position
from ._types import ArrayLike
from .model import CTRNN, one_network
from .plot_training import loss_curve as loss_curve
from .plot_training import signal_fit as signal_fit
from .plot_training import signal_residual as signal_residual
from .plot_training import spectrum_fit as spectrum_fit
from .trajectory import Trajectory

_SPARSE = "dots: saves, fewer than 12 a turn"


def _state(neuron: int) -> str:
    return f"$x_{{{neuron}}}$"


def _portrait_axes(ax: Axes, horizontal: int, vertical: int, note: str | None = None) -> None:
    ax.set(xlabel=f"{_state(horizontal)} (a.u.)", ylabel=f"{_state(vertical)} (a.u.)")
    ax.set_aspect("equal")
    _legend(ax, note)


def _band(ax: Axes, x: np.ndarray, values: np.ndarray) -> None:
    """The median of values (B, len(x)), and for a batch the 10 to 90 % band; nan is left out."""
    low, median, high = np.nanquantile(values, (0.1, 0.5, 0.9), axis=0)
    batch = len(values) > 1
    ax.plot(x, median, color=_LINE, label=f"median of {len(values)}" if batch else None)
    if batch:
        ax.fill_between(x, low, high, color=_LINE, alpha=0.3, linewidth=0, label="10 to 90 %")


def phase_portrait(
    trajectory: Trajectory,
    *,
    neurons: Iterable[int] = (0, 1),
    max_trajectories: int = 64,
    cmap: str = _CMAP,
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
    at_most = _checks.integer("max_trajectories", max_trajectories, 1)
    orbits = Orbits(trajectory, 2, at_most=at_most)
    if orbits.n < 2:
        _checks.fail("trajectory.xs", "at least 2 neurons", orbits.n)
    pair = [position("neurons", k, orbits.n) for k in neurons]
    if len(pair) != 2:
        _checks.fail("neurons", "two indices", pair)
    colors = plt.get_cmap(cmap)
    ax = _axes(ax)
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
    _mark(ax, "start", *xy[last >= 0, 0].T)
    _mark(ax, "end", *final[~orbits.cut & ~left].T)
    _mark(ax, "stopped", *final[cut & ~left].T)
    _mark(ax, "leaves the picture", *final[left].T)
    _name(ax, orbits.which)
    _portrait_axes(ax, pair[0], pair[1], _SPARSE if dotted.any() else None)
    if colorbar:
        # An inset keeps the height of axes of equal aspect in every layout.
        bar = ax.inset_axes((1.03, 0, 0.04, 1))
        ax.figure.colorbar(drawn, cax=bar, label="time (s)")
    return ax


def time_series(
    trajectory: Trajectory,
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
        _checks.fail("neurons", "at least one index", chosen)
    ax = _axes(ax)
    shown = slice(orbits.last[0] + 1)
    ts, xs = orbits.ts[shown], orbits.xs[0, shown]
    colors = plt.get_cmap(_CMAP)(np.linspace(0, 0.85, len(chosen)))
    sparse = [are_sparse(xs[:, k]) for k in chosen]
    for i, k in enumerate(chosen):
        style: dict[str, Any] = {"linestyle": _STYLES[i % 4], "color": colors[i]}
        if sparse[i]:
            if not are_sparse(xs[:, k], 4):
                ax.plot(ts, xs[:, k], **style, linewidth=0.8, alpha=0.4)
            size = 3.5 if len(ts) <= 200 else 2
            style |= {"linestyle": "none", "marker": "osD^"[i % 4], "markersize": size}
        ax.plot(ts, xs[:, k], **style, label=_state(k))
    if orbits.cut[0]:
        _mark(ax, "stopped", np.full(len(chosen), ts[-1]), xs[-1, chosen])
    ax.set(xlabel="time (s)", ylabel="state (a.u.)")
    _name(ax, orbits.which)
    _legend(ax, _SPARSE if any(sparse) else None)
    return ax


def energy_drift(rnn: CTRNN, trajectory: Trajectory, *, ax: Axes | None = None) -> Axes:
    """The size of the relative energy drift, |E(t) - E(0)| / |E(0)|, against time.

    For a batch its median, its 10 to 90 % band and its maximum, at each time. A stopped trajectory
    counts with its drift at the stop, a red cross, from there on. The first save, 0 by definition,
    has no place on the logarithmic axis; drifts below the rounding unit are drawn at it.

    The legend tells the largest drift of a run, for a batch the median and the maximum over those
    that ran to the end.

    Raises:
        TypeError, ValueError: also for another number of neurons than the network's.
    """
    orbits = Orbits(trajectory, 2)
    drift = np.abs(np.asarray(invariants.energy_drift(rnn, orbits.xs)))
    saves = np.arange(len(orbits.ts))
    # Without those that stopped, the batch would seem to drift less from their stop on.
    drift = np.take_along_axis(drift, np.minimum(saves, orbits.last[:, None]), axis=1)
    worst = drift[~orbits.cut].max(axis=1)
    drift[~np.isfinite(drift)] = np.nan
    some = (saves > 0) & (saves <= orbits.last.max()) & np.isfinite(drift).any(axis=0)
    if not some.any():
        _checks.fail("trajectory.xs", "2 saves of finite energy before the stop", "fewer")
    ax = _axes(ax)
    unit = np.finfo(drift.dtype).eps
    rounded = (drift[:, some] < unit).any()
    drift = np.maximum(drift, unit)
    ax.set_yscale("log")
    _band(ax, orbits.ts[some], drift[:, some])
    if len(drift) > 1:
        largest = np.nanmax(drift[:, some], axis=0)
        ax.plot(orbits.ts[some], largest, color="black", linewidth=0.7, label="maximum")
    cut = np.flatnonzero(orbits.cut)
    at = orbits.last[cut]
    _mark(ax, "stopped", orbits.ts[at], drift[cut, at], f"stopped ({len(cut)} of {len(drift)})")
    if rounded:
        ax.axhline(unit, linestyle=":", color="0.4", linewidth=1, label="rounding unit")
    ax.set(xlabel="time (s)", ylabel="|relative energy drift|")
    told = None
    if len(worst):
        told = f"largest of a run: median {np.median(worst):.3g}, maximum {worst.max():.3g}"
        told = told if len(drift) > 1 else f"largest: {worst[0]:.3g}"
    _legend(ax, told)
    return ax


def spectrum(
    trajectory: Trajectory,
    *,
    neuron: int | None = 0,
    max_frequency: ArrayLike | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Power spectral density against frequency, with its peak marked, down to 100 dB below it.

    For a batch the median, whose peak it is, and the 10 to 90 % band. No peak is marked where the
    power is largest in the lowest bin, a trend or less than a period, or where most trajectories
    have no `dominant_frequency`. Stopped trajectories are left out, and the legend says how many.

    Args:
        neuron: its index, or None for the mean of the power over all neurons.
        max_frequency: end of the axis in Hz; unless given, about twice the frequency below
            which 99.9 % of the power lies.

    Raises:
        TypeError, ValueError: also for a constant signal or where the whole batch stopped.
    """
    orbits = Orbits(trajectory, 4)
    chosen = slice(None) if neuron is None else [position("neuron", neuron, orbits.n)]
    xs = np.where(orbits.cut[:, None, None], 0, orbits.xs[..., chosen])
    # Less the first value, a constant signal has no power at all, not even from rounding.
    f, power = spectra.power_spectrum(np.moveaxis(xs - xs[:, :1], -1, 0), orbits.dt)
    # The mean is taken out of the signal, so 0 Hz means nothing.
    f, power = np.asarray(f)[1:], np.asarray(power)[..., 1:].mean(axis=0)
    power = power[~orbits.cut & np.isfinite(power).all(axis=-1)]
    signals = np.moveaxis(xs, -1, 0)[..., : 2**20]  # as many as it takes
    lines = np.asarray(spectra.dominant_frequency(signals, orbits.dt))
    lines = lines[:, ~orbits.cut]
    total = len(orbits.cut)
    left_out = total - len(power)
    if left_out == total:
        _checks.fail("trajectory", "one that ran to its end", f"{total} of {total} stopped")
    median = np.median(power, axis=0)
    peak = median.argmax()
    if median[peak] == 0:
        _checks.fail("trajectory.xs", "a signal that varies", "zero power")
    limit = _highest_frequency(max_frequency, f, power)
    ax = _axes(ax)
    ax.set_yscale("log")
    _band(ax, f, power)
    if peak > 0 and np.isfinite(lines).mean() >= 0.5:
        _mark(ax, "peak", f[peak], median[peak], f"peak at {f[peak]:.3g} Hz")
        notes = []
    else:
        where = "most power in the lowest bin" if peak == 0 else "no dominant frequency"
        notes = [f"no peak: {where}"]
    name = "all neurons" if neuron is None else _state(neuron)
    ax.set(xlabel="frequency (Hz)", ylabel=f"power of {name} (a.u.²/Hz)", xlim=(0, limit))
    lowest = power[:, f <= max(limit, f[0])].min()
    ax.set_ylim(bottom=max(lowest / 2, median[peak] / _POWER_RANGE), auto=None)
    notes += [f"{left_out} of {total} stopped, left out"] if left_out else []
    _legend(ax, "; ".join(notes) or None)
    return ax


def spectrogram(
    trajectory: Trajectory,
    *,
    neuron: int = 0,
    index: int = 0,
    window_length: int | None = None,
    max_frequency: ArrayLike | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Power spectral density of a neuron against time and frequency, yellower where larger.

    Colours span 50 dB, or down to 40 dB below the strongest line of the weakest window.

    Args:
        neuron: its index.
        index: which trajectory of the batch; a stopped one is drawn up to its stop.
        window_length: samples in a window, 4 or more; unless given an eighth of all, or four
            periods of the dominant frequency where that is more, up to a quarter.
        max_frequency: end of the axis in Hz; unless given, about twice the frequency below
            which 99.9 % of the power of a window lies.

    Raises:
        TypeError, ValueError: also for a constant signal and a window longer than the signal.
    """
    orbits = Orbits(trajectory, 4, index=index)
    saves = int(orbits.last[0]) + 1
    if saves < 4:
        _checks.fail("trajectory.xs", "at least 4 saves before the stop", saves)
    signal = orbits.xs[0, :saves, position("neuron", neuron, orbits.n)]
    if window_length is None:
        # Four periods of the strongest line tell it from its neighbours, where there are as many.
        f = float(spectra.dominant_frequency(signal[: 2**20], orbits.dt))
        periods = 4 / (f * orbits.dt) if f > 0 else 0
        window_length = max(4, saves // 8, int(min(periods, saves // 4)))
    length = _checks.integer("window_length", window_length, 4)
    # Windows overlap by three quarters, or by more for a picture of 300 columns.
    hop = int(np.clip((saves - length) // 300, 1, length // 4))
    window = {"window_length": length, "overlap": length - hop}
    f, t, power = spectra.spectrogram(signal - signal[0], orbits.dt, **window)
    f, power = np.asarray(f)[1:], np.asarray(power)[1:]  # as in `spectrum`
    largest = power.max()
    if not 0 < largest < np.inf:
        _checks.fail("trajectory.xs", "a signal of finite, positive power", largest)
    limit = _highest_frequency(max_frequency, f, power.T, least=8)
    ax = _axes(ax)
    width = (hop if len(t) > 1 else length) * orbits.dt
    start, end = orbits.ts[0] + np.asarray(t)[[0, -1]] + np.array([-width / 2, width / 2])
    extent = (start, end, f[0] / 2, f[-1] + f[0] / 2)
    decibels = 10 * np.log10(np.maximum(power, largest / _POWER_RANGE))
    top = decibels.max()
    # Below 40 dB the weakest window has little but leakage of its lines.
    floor = np.clip(decibels.max(axis=0).min() - 40, top - 10 * np.log10(_POWER_RANGE), top - 50)
    style = {"aspect": "auto", "origin": "lower", "interpolation": "bilinear", "extent": extent}
    image = ax.imshow(decibels, _CMAP, vmin=floor, vmax=top, **style)
    ax.set(xlabel="time (s)", ylabel="frequency (Hz)", ylim=(f[0] / 2, max(limit, f[0])))
    _name(ax, orbits.which)
    label = f"power of {_state(neuron)} (dB re 1 a.u.²/Hz)"
    ax.figure.colorbar(image, ax=ax, label=label)
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
        _checks.fail("rnn", "a network of 2 neurons", rnn.size)
    resolution = _checks.integer("resolution", resolution, 8)
    values = np.unique(np.asarray(list(levels), dtype=float))
    if not values.size or not np.isfinite(values).all():
        _checks.fail("levels", "one or more finite energies", values)
    bounds = _extent(rnn, values[-1]) if extent is None else tuple(extent)
    pairs = bounds[:2], bounds[2:]
    if len(bounds) != 4 or not all(-np.inf < low < high < np.inf for low, high in pairs):
        _checks.fail("extent", "(left, right, bottom, top) with left < right, bottom < top", bounds)
    x, y, E = _energies(rnn, bounds, resolution)
    for value in values:
        if not np.nanmin(E) < value < np.nanmax(E):
            taken = f"between {np.nanmin(E):.4g} and {np.nanmax(E):.4g}, as in the picture"
            _checks.fail("levels", taken, value)
    ax = _axes(ax)
    colors = plt.get_cmap(_CMAP)(np.linspace(0, 0.75, len(values)))
    styles = [_STYLES[i % len(_STYLES)] for i in range(len(values))]
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
        _checks.fail("levels", "energies that the network takes", level)
    return (-crossed, crossed, -crossed, crossed)
