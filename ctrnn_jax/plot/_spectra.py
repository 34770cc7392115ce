"""Pictures of spectra of trajectories."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from .._analysis import spectra
from .._files.recordings import Recording
from .._simulate.trajectory import Trajectory
from .._util import checks
from .._util.types import ArrayLike
from ._saves import Orbits, position
from ._style import (
    CMAP,
    POWER_RANGE,
    add_legend,
    add_mark,
    add_name,
    axes_or_new,
    draw_band,
    highest_frequency,
    state_label,
)


def spectrum(
    trajectory: Trajectory | Recording,
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
        checks.fail("trajectory", "one that ran to its end", f"{total} of {total} stopped")
    median = np.median(power, axis=0)
    peak = median.argmax()
    if median[peak] == 0:
        checks.fail("trajectory.xs", "a signal that varies", "zero power")
    limit = highest_frequency(max_frequency, f, power)
    ax = axes_or_new(ax)
    ax.set_yscale("log")
    draw_band(ax, f, power)
    if peak > 0 and np.isfinite(lines).mean() >= 0.5:
        add_mark(ax, "peak", f[peak], median[peak], f"peak at {f[peak]:.3g} Hz")
        notes = []
    else:
        where = "most power in the lowest bin" if peak == 0 else "no dominant frequency"
        notes = [f"no peak: {where}"]
    name = "all neurons" if neuron is None else state_label(neuron)
    ax.set(xlabel="frequency (Hz)", ylabel=f"power of {name} (a.u.²/Hz)", xlim=(0, limit))
    lowest = power[:, f <= max(limit, f[0])].min()
    ax.set_ylim(bottom=max(lowest / 2, median[peak] / POWER_RANGE), auto=None)
    notes += [f"{left_out} of {total} stopped, left out"] if left_out else []
    add_legend(ax, "; ".join(notes) or None)
    return ax


def window_for(saves: int, cycles: float) -> int:
    """Samples in a window of `spectrogram`, of a line with so many cycles a save, nan for none."""
    # Four periods of the strongest line tell it from its neighbours, where there are as many.
    periods = 4 / cycles if cycles > 0 else 0
    return max(4, saves // 8, int(min(periods, saves // 4)))


def spectrogram(
    trajectory: Trajectory | Recording,
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
        checks.fail("trajectory.xs", "at least 4 saves before the stop", saves)
    signal = orbits.xs[0, :saves, position("neuron", neuron, orbits.n)]
    if window_length is None:
        f = float(spectra.dominant_frequency(signal[: 2**20], orbits.dt))
        window_length = window_for(saves, f * orbits.dt)
    length = checks.integer("window_length", window_length, 4)
    # Windows overlap by three quarters, or by more for a picture of 300 columns.
    hop = int(np.clip((saves - length) // 300, 1, length // 4))
    window = {"window_length": length, "overlap": length - hop}
    f, t, power = spectra.spectrogram(signal - signal[0], orbits.dt, **window)
    f, power = np.asarray(f)[1:], np.asarray(power)[1:]  # as in `spectrum`
    largest = power.max()
    if not 0 < largest < np.inf:
        checks.fail("trajectory.xs", "a signal of finite, positive power", largest)
    limit = highest_frequency(max_frequency, f, power.T, least=8)
    ax = axes_or_new(ax)
    width = (hop if len(t) > 1 else length) * orbits.dt
    start, end = orbits.ts[0] + np.asarray(t)[[0, -1]] + np.array([-width / 2, width / 2])
    extent = (start, end, f[0] / 2, f[-1] + f[0] / 2)
    decibels = 10 * np.log10(np.maximum(power, largest / POWER_RANGE))
    top = decibels.max()
    # Below 40 dB the weakest window has little but leakage of its lines.
    floor = np.clip(decibels.max(axis=0).min() - 40, top - 10 * np.log10(POWER_RANGE), top - 50)
    style = {"aspect": "auto", "origin": "lower", "interpolation": "bilinear", "extent": extent}
    image = ax.imshow(decibels, CMAP, vmin=floor, vmax=top, **style)
    ax.set(xlabel="time (s)", ylabel="frequency (Hz)", ylim=(f[0] / 2, max(limit, f[0])))
    add_name(ax, orbits.which)
    label = f"power of {state_label(neuron)} (dB re 1 a.u.²/Hz)"
    ax.figure.colorbar(image, ax=ax, label=label)
    return ax
