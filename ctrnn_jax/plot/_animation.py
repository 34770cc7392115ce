"""Trajectories in motion."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.animation import FFMpegWriter, FuncAnimation, PillowWriter
from matplotlib.axes import Axes

from .._analysis import spectra
from .._files.recordings import Recording
from .._files.writing import appearing
from .._simulate.trajectory import Trajectory
from .._util import checks
from .._util.types import ArrayLike
from ._saves import Orbits, are_sparse, before_they_left, extremes, position
from ._spectra import window_for
from ._style import (
    CMAP,
    LINE,
    POWER_RANGE,
    STYLES,
    add_legend,
    add_mark,
    add_name,
    axes_or_new,
    highest_frequency,
    state_label,
)

_MOST_TRAJECTORIES, _MOST_POINTS = 64, 4000
_TAIL = 8  # a tail is so small a part of what is shown
_PATH: dict[str, Any] = {"color": "0.8", "linewidth": 0.8, "zorder": 1}
_DPI = 100

_Frames = tuple[np.ndarray, Callable[[int], None]]  # their times, and what draws one


def animate(
    trajectory: Trajectory | Recording,
    kind: str = "state",
    *,
    neurons: Iterable[int] | None = None,
    readout: ArrayLike | None = None,
    index: int | None = None,
    duration: float | int | None = None,
    max_frames: int = 150,
    fps: float | int = 25,
    path: str | os.PathLike[str] | None = None,
    ax: Axes | None = None,
) -> FuncAnimation:
    """State, spectrum or read-out in motion, as a matplotlib animation.

    - "state": one neuron against another, a dot with a tail for each trajectory on its grey path.
    - "spectrum": the power of signals in a window that moves with time, over the median of all
      windows in grey; windows are those of `spectrogram`.
    - "readout": signals against time, drawn up to the moment.

    Signals are y = C x with the read-out C, else the states of neurons.

    Args:
        kind: "state", "spectrum" or "readout".
        neurons: indices: two for "state", (0, 1) unless given; else of the signals, the first one
            for "spectrum" and the first six for "readout" unless given.
        readout: C (channels, n), for "spectrum" and "readout".
        index: which trajectory of the batch; unless given the first, and for "state" all, of more
            than 64 so many.
        duration: seconds of the run that are shown, from its start; all unless given.
        max_frames: frames at most, 2 or more, evenly spread over the saves (or windows).
        fps: frames a second.
        path: a .gif or .mp4 file to write, which appears complete or not at all; .mp4 takes ffmpeg.

    Returns:
        The animation: keep it as long as it is shown; `.save(path)` and `.to_jshtml()` are
        matplotlib's own.

    Raises:
        TypeError, ValueError: also for another kind of file, and for .mp4 where ffmpeg is missing.

    Example:
        >>> ct.plot.animate(trajectory, duration=10.0, path="orbit.gif")
    """
    checks.one_of("kind", kind, _KINDS)
    max_frames = checks.integer("max_frames", max_frames, 2)
    fps = checks.positive_float("fps", fps)
    target = None if path is None else _target(path)
    if kind == "state":
        if readout is not None:
            checks.fail("readout", 'none for kind "state"', "one")
        orbits = Orbits(trajectory, 2, index=index, at_most=_MOST_TRAJECTORIES)
    else:
        orbits = Orbits(trajectory, 4, index=0 if index is None else index)
    saves = _saves(orbits, duration, 4 if kind == "spectrum" else 2)
    if kind == "state":
        signals, names = _pair(orbits, neurons)
    else:
        signals, names = _signals(orbits, kind, neurons, readout)
    own, ax = ax is None, axes_or_new(ax)
    figure: Any = ax.figure
    try:
        times, draw = _KINDS[kind](ax, orbits, signals[:, :saves], names, max_frames)
        add_name(ax, orbits.which)
        name, told = ax.get_title(), _time_format(times)

        def frame(k: int) -> list[Any]:
            draw(k)
            ax.set_title(", ".join(filter(None, [name, told(times[k])])), fontsize="medium")
            return []

        frame(0)
        if own:  # what moves must not move the axes
            figure.canvas.draw()
            figure.set_layout_engine("none")
        frames = {"frames": len(times), "interval": 1000 / fps}
        animation = FuncAnimation(figure, frame, **frames, cache_frame_data=False)
        if target is not None:
            writer = FFMpegWriter if target.suffix.lower() == ".mp4" else PillowWriter
            with appearing(target, name="path") as temporary:
                animation.save(temporary, writer=writer(fps=fps), dpi=_DPI)  # pyright: ignore
    except BaseException:
        if own:
            plt.close(figure)
        raise
    return animation


def _target(path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    if target.suffix.lower() not in (".gif", ".mp4"):
        checks.fail("path", "a .gif or .mp4 file", target.name or target)
    if target.suffix.lower() == ".mp4" and not FFMpegWriter.isAvailable():
        checks.fail("path", "a .gif file, as ffmpeg, which writes .mp4, is not found", target.name)
    return target


def _saves(orbits: Orbits, duration: Any, least: int) -> int:
    """So many are shown: up to where all have ended, and for so many seconds."""
    saves = int(orbits.last.max()) + 1
    if duration is not None:
        seconds = checks.positive_float("duration", duration)
        inside = orbits.ts[:saves] - orbits.ts[0] <= seconds * (1 + 1e-6)
        if inside.sum() < min(least, saves):
            got = f"{seconds:g}, in which there are {inside.sum()}"
            checks.fail("duration", f"seconds with {least} saves at least", got)
        saves = int(inside.sum())
    if saves < least:
        checks.fail("trajectory.xs", f"at least {least} saves before the stop", saves)
    return saves


def _pair(orbits: Orbits, neurons: Iterable[int] | None) -> tuple[np.ndarray, list[str]]:
    if orbits.n < 2:
        checks.fail("trajectory.xs", "at least 2 neurons", orbits.n)
    pair = [position("neurons", k, orbits.n) for k in ((0, 1) if neurons is None else neurons)]
    if len(pair) != 2:
        checks.fail("neurons", "two indices", pair)
    return orbits.xs[..., pair], [state_label(k) for k in pair]


def _signals(
    orbits: Orbits, kind: str, neurons: Iterable[int] | None, readout: Any
) -> tuple[np.ndarray, list[str]]:
    """(channels, S) and their names."""
    xs = orbits.xs[0]
    if readout is not None:
        if neurons is not None:
            checks.fail("readout", "either neurons or readout", "both")
        C = np.asarray(readout)
        if C.ndim != 2 or C.shape[1] != orbits.n or not len(C):
            checks.fail("readout", f"shape (channels, {orbits.n})", C.shape)
        checks.finite("readout", C)
        return C @ xs.T, [f"$y_{{{k}}}$" for k in range(len(C))]
    few = range(min(orbits.n, 6 if kind == "readout" else 1))
    chosen = [position("neurons", k, orbits.n) for k in (few if neurons is None else neurons)]
    if not chosen:
        checks.fail("neurons", "at least one index", chosen)
    return xs.T[chosen], [state_label(k) for k in chosen]


def _time_format(times: np.ndarray) -> Callable[[float], str]:
    """All times with as many digits, or the text beside them would jump."""
    step, largest = np.diff(times).min(initial=1.0), np.abs(times).max()
    digits = int(np.clip(np.ceil(-np.log10(step)), 0, 9)) if step > 0 else 3
    plain = step >= 1e-4 and largest < 1e6
    return lambda t: f"$t$ = {t:.{digits}f} s" if plain else f"$t$ = {t:.4e} s"


def _spread(first: int | np.integer, last: int | np.integer, most: int) -> np.ndarray:
    """Of the positions first to last at most so many, both of these among them."""
    return np.linspace(first, last, min(int(last - first) + 1, most)).round().astype(int)


def _state(ax: Axes, orbits: Orbits, xy: np.ndarray, names: list[str], max_frames: int) -> _Frames:
    saves = xy.shape[1]
    here = np.minimum(orbits.last, saves - 1)
    last = before_they_left(xy, here)
    left, cut = last < here, orbits.cut & (orbits.last < saves) & (here >= 0)
    shown = _spread(0, int(last.max()), max_frames)
    there = np.flatnonzero(last >= 0)
    one = len(there) == 1
    colors = [LINE] if one else plt.get_cmap(CMAP)(np.linspace(0, 0.85, len(there)))
    tails = []
    for row, color in zip(there, colors, strict=True):
        path = xy[row, _spread(0, last[row], _MOST_POINTS)]
        if are_sparse(xy[row, : last[row] + 1]):  # lines would draw polygons
            style: dict[str, Any] = {"linestyle": "none", "marker": "."}
            ax.plot(*path.T, color="0.8", zorder=1, markersize=3, **style)
        else:
            style = {"linewidth": 2, "solid_capstyle": "round"}
            ax.plot(*path.T, **_PATH)
        tails += ax.plot([], [], color=color, zorder=3, **style)
    dots = ax.scatter(*xy[there, 0].T, c=colors, s=60, edgecolors="white", zorder=4)
    final = xy[np.arange(len(xy)), last]
    ended = {"stopped": np.flatnonzero(cut & ~left), "leaves the picture": np.flatnonzero(left)}
    ended = {kind: rows[last[rows] >= 0] for kind, rows in ended.items()}
    for kind, rows in ended.items():
        add_mark(ax, kind, *final[rows].T)
    marks = {line.get_label(): line for line in ax.lines}
    ax.set(xlabel=f"{names[0]} (a.u.)", ylabel=f"{names[1]} (a.u.)")
    ax.set_aspect("equal")
    add_legend(ax)
    ax.autoscale(False)
    length = max(1, (shown[-1] + 1) // _TAIL)

    def draw(k: int) -> None:
        now = np.minimum(shown[k], last)
        for tail, row in zip(tails, there, strict=True):
            since = min(max(0, shown[k] - length), now[row])
            tail.set_data(*xy[row, _spread(since, now[row], _MOST_POINTS)].T)
        dots.set_offsets(xy[there, now[there]])
        for kind, rows in ended.items():
            if rows.size:
                marks[kind].set_data(*final[rows[last[rows] <= shown[k]]].T)

    return orbits.ts[shown], draw


def _readout(ax: Axes, orbits: Orbits, y: np.ndarray, names: list[str], max_frames: int) -> _Frames:
    saves = y.shape[1]
    ts, shown = orbits.ts[:saves], _spread(0, saves - 1, max_frames)
    colors = plt.get_cmap(CMAP)(np.linspace(0, 0.85, len(y)))
    curves = []
    for i, (signal, name) in enumerate(zip(y, names, strict=True)):
        at = extremes(signal, _MOST_POINTS)
        style: dict[str, Any] = {"linestyle": STYLES[i % 4]}
        if are_sparse(signal):
            style = {"linestyle": "none", "marker": "osD^"[i % 4], "markersize": 2}
        ax.plot(ts[at], signal[at], **{**_PATH, **style})
        (line,) = ax.plot(ts[at], signal[at], color=colors[i], label=name, **style)
        curves.append((line, at, signal))
    dots = ax.scatter(np.full(len(y), ts[0]), y[:, 0], c=colors, s=40, edgecolors="white", zorder=4)
    mark = "stopped" if orbits.cut[0] and saves > orbits.last[0] else None
    if mark:
        add_mark(ax, mark, np.full(len(y), ts[-1]), y[:, -1])
    label = "state" if names[0].startswith("$x") else "read-out"
    ax.set(xlabel="time (s)", ylabel=f"{label} (a.u.)")
    add_legend(ax)
    ax.autoscale(False)

    def draw(k: int) -> None:
        now = shown[k]
        for line, at, signal in curves:
            past = np.append(at[at < now], now)
            line.set_data(ts[past], signal[past])
        dots.set_offsets(np.stack([np.full(len(y), ts[now]), y[:, now]], axis=1))

    return ts[shown], draw


def _spectrum(
    ax: Axes, orbits: Orbits, y: np.ndarray, names: list[str], max_frames: int
) -> _Frames:
    saves = y.shape[1]
    lines = np.asarray(spectra.dominant_frequency(y[:, : 2**20], orbits.dt)) * orbits.dt
    cycles = float(lines[np.isfinite(lines)].min(initial=np.inf))
    length = window_for(saves, cycles if np.isfinite(cycles) else np.nan)
    hop = int(np.clip((saves - length) // (max_frames - 1), 1, length))
    window = {"window_length": length, "overlap": length - hop}
    f, t, power = spectra.spectrogram(y - y[:, :1], orbits.dt, **window)
    f, t, power = np.asarray(f)[1:], np.asarray(t), np.asarray(power)[:, 1:]  # 0 Hz: the mean
    largest = power.max()
    if not 0 < largest < np.inf:
        checks.fail("trajectory.xs", "a signal of finite, positive power", largest)
    limit = highest_frequency(None, f, power.swapaxes(1, 2).reshape(-1, len(f)), least=8)
    seen = max(2, int((f <= limit).sum()))
    f, power = f[:seen], np.maximum(power[:, :seen], largest / POWER_RANGE)
    colors = [LINE] if len(y) == 1 else plt.get_cmap(CMAP)(np.linspace(0, 0.85, len(y)))
    ax.set_yscale("log")
    curves = []
    for i, name in enumerate(names):
        middle = np.median(power[i], axis=1)
        ax.plot(f, middle, **_PATH, label="median of all windows" if i == 0 else None)
        curves += ax.plot(f, middle, STYLES[i % 4], color=colors[i], label=name)
    ax.set(xlabel="frequency (Hz)", ylabel="power (a.u.²/Hz)", xlim=(0, limit))
    ax.set_ylim(max(power.min() / 2, largest / POWER_RANGE), 2 * largest)
    add_legend(ax, f"windows of {length * orbits.dt:.3g} s")
    ax.autoscale(False)
    shown = _spread(0, len(t) - 1, max_frames)

    def draw(k: int) -> None:
        for curve, of in zip(curves, power, strict=True):
            curve.set_data(f, of[:, shown[k]])

    return float(orbits.ts[0]) + t[shown], draw


_KINDS = {"state": _state, "spectrum": _spectrum, "readout": _readout}
