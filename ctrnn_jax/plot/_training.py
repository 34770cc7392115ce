"""Pictures of trained oscillators: signals, residuals, spectra and losses, as `plot` has them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from .._analysis import spectra
from .._analysis.samples import signal_samples
from .._util import checks
from .._util.types import ArrayLike
from ._saves import extremes
from ._style import LINE, POWER_RANGE, add_legend, axes_or_new, highest_frequency

# A broad light line under a thin dark one, so that both are seen where they agree.
_TARGET: dict[str, Any] = {"color": "0.65", "linewidth": 3.5, "solid_capstyle": "round"}
_DOTS: dict[str, Any] = {"color": "0.55", "linestyle": "none", "marker": "o", "markersize": 3}
_MADE: dict[str, Any] = {"color": LINE, "linewidth": 1.2}
_POINTS = 4000


def signal_fit(
    target: ArrayLike,
    generated: ArrayLike,
    dt: ArrayLike,
    *,
    times: ArrayLike | None = None,
    training_samples: int | None = None,
    window: Iterable[float | int] | None = None,
    label: str = "target",
    ax: Axes | None = None,
) -> Axes:
    """A target signal and the generated one against time; the held-out part is shaded.

    Args:
        target: (S,) samples.
        generated: (S,) samples on the same grid, from 0 s on.
        dt: sampling interval in seconds.
        times: (S,) in seconds from 0 on at which the target has its samples, which are dots, nan
            where one is missing. What is generated, on the grid of dt, may then have any length.
        training_samples: where the held-out part begins; none is held out unless given.
        window: (start, end) in seconds of what is shown; all unless given.
        label: what the legend calls the target.

    Raises:
        TypeError, ValueError: where a signal is no finite array of these shapes.

    Example:
        >>> ct.plot.signal_fit(y, oscillator.generate(dt, len(y) - 1)[:, 0], dt)
    """
    target, generated, dt, at = _pair(target, generated, dt, times, alike=False)
    shown = _shown(window, len(generated), dt)
    ax = axes_or_new(ax)
    if at is None:
        ax.plot(*_thinned(target, dt, shown), **_target_style(ax, target, shown), label=label)
    else:
        ax.plot(at, target, **_DOTS, label=label)
    ax.plot(*_thinned(generated, dt, shown), **_MADE, label="generated")
    _held_out(ax, shown, training_samples, dt, at)
    ax.set(xlabel="time (s)", ylabel="signal (a.u.)")
    add_legend(ax)
    return ax


def signal_residual(
    target: ArrayLike,
    generated: ArrayLike,
    dt: ArrayLike,
    *,
    times: ArrayLike | None = None,
    training_samples: int | None = None,
    window: Iterable[float | int] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """What the generated signal lacks, target - generated, against time; as `signal_fit`.

    With `times` both are samples (S,) at these.
    """
    target, generated, dt, at = _pair(target, generated, dt, times)
    size = len(target) if at is None else int(np.ceil(at[-1] / dt)) + 1
    shown = _shown(window, size, dt)
    ax = axes_or_new(ax)
    if at is None:
        ax.plot(*_thinned(target - generated, dt, shown), color=LINE, linewidth=0.8)
    else:
        ax.plot(at, target - generated, **_DOTS | {"color": LINE, "markersize": 2})
    ax.axhline(0, color="black", linewidth=0.6)
    _held_out(ax, shown, training_samples, dt, at)
    ax.set(xlabel="time (s)", ylabel="residual (a.u.)")
    return ax


def spectrum_fit(
    generated: ArrayLike,
    dt: ArrayLike,
    *,
    target: ArrayLike | None = None,
    times: ArrayLike | None = None,
    lines_hz: Iterable[Any] = (),
    max_frequency: ArrayLike | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Power spectral density of the generated signal, with that of the target or target lines.

    Args:
        generated: (S,) samples.
        dt: sampling interval in seconds.
        target: (S',) samples of the target signal, or None.
        times: (S',) in seconds at which the target has its samples, nan where one is missing: its
            density is then a Lomb-Scargle periodogram with a Hann window.
        lines_hz: target frequencies in Hz.
        max_frequency: end of the axis in Hz; unless given, about twice the frequency below
            which 99.9 % of the power lies.

    Raises:
        TypeError, ValueError: where a signal is no finite array of 4 samples, or constant.
    """
    dt = checks.positive_float("dt", dt)
    signals = {"generated": (_samples("generated", generated, 4), _MADE)}
    style, sampled = _TARGET | {"linewidth": 2}, None
    if target is not None and times is None:
        signals = {"target": (_samples("target", target, 4), style)} | signals
    elif target is not None:
        sampled = _at_times(target, times, 4)
    lines = [checks.positive_float("lines_hz", line) for line in lines_hz]
    densities: dict[str, tuple[np.ndarray, np.ndarray, dict[str, Any]]] = {}
    for name, (y, style_of) in signals.items():
        found = _varying(name, *spectra.power_spectrum(y - y[0], dt))
        densities[name] = (*found, style_of)
    limit = max(highest_frequency(max_frequency, f, p[None]) for f, p, _ in densities.values())
    if sampled is not None:
        f = densities["generated"][0]
        f = f[f <= limit]
        found = _varying("target", np.append(0, f), _lomb_scargle(*sampled, f))
        densities = {"target": (*found, style)} | densities
    ax = axes_or_new(ax)
    ax.set_yscale("log")
    for name, (f, power, style) in densities.items():
        ax.plot(f, power, **style, label=name)
    for line in lines:
        label = "target " + ", ".join(f"{line:.4g}" for line in sorted(lines)) + " Hz"
        label = label if len(lines) <= 4 else f"{len(lines)} targets"
        ax.axvline(line, color="black", linestyle="--", linewidth=1, zorder=1, label=label)
    ax.set(xlabel="frequency (Hz)", ylabel="power (a.u.²/Hz)", xlim=(0, limit))
    # Without a floor of noise, what is generated would stretch the picture far below the target's.
    f, power, _ = next(iter(densities.values()))
    bottom = power[f <= max(limit, f[0])].min() / 10
    ax.set_ylim(bottom=max(bottom, power.max() / POWER_RANGE), auto=None)
    add_legend(ax)
    return ax


def loss_curve(losses: ArrayLike, *, ax: Axes | None = None) -> Axes:
    """The loss of every training step; what is not finite is left out.

    Args:
        losses: (steps,) as the `losses` of a history or a report.

    Raises:
        TypeError, ValueError: where no loss is finite.
    """
    losses = np.asarray(checks.float_array("losses", losses, "(steps,)", (1,)), float)
    steps = np.flatnonzero(np.isfinite(losses))
    if not steps.size:
        checks.fail("losses", "at least one finite loss", f"{losses.size} that are not")
    ax = axes_or_new(ax)
    known = losses[steps]
    if (known > 0).all():
        ax.set_yscale("log")
    ax.plot(steps, known, marker="." if steps.size < 30 else None, **_MADE)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="training step", ylabel="loss")
    return ax


def _samples(name: str, value: Any, minimum: int) -> np.ndarray:
    array = checks.float_array(name, value, "(S,)", (1,))
    checks.finite(name, array)
    if array.size < minimum:
        checks.fail(name, f"at least {minimum} samples", array.size)
    return np.asarray(array)


def _pair(
    target: Any, generated: Any, dt: Any, times: Any, *, alike: bool = True
) -> tuple[np.ndarray, np.ndarray, float, np.ndarray | None]:
    """Both, the interval and the times, if any; without times, or if asked for, of one length."""
    at = None
    if times is None:
        target = _samples("target", target, 2)
    else:
        target, at = _at_times(target, times, 2)
    generated = _samples("generated", generated, 2)
    if (alike or at is None) and target.shape != generated.shape:
        checks.fail("generated", f"shape {target.shape} as the target", generated.shape)
    return target, generated, checks.positive_float("dt", dt), at


def _at_times(target: Any, times: Any, minimum: int) -> tuple[np.ndarray, np.ndarray]:
    # In float64: nearby times must not meet where that is off.
    target = signal_samples("target", target, "(S,)", (1,), minimum, gaps=True)
    at = signal_samples("times", times, "(S,)", (1,), minimum)
    if at.shape != target.shape:
        checks.fail("times", f"shape {target.shape} as the target", at.shape)
    if (np.diff(at) <= 0).any():
        checks.fail("times", "increasing times", "some that do not increase")
    if (known := int(np.isfinite(target).sum())) < minimum:
        checks.fail("target", f"at least {minimum} samples", known)
    return target, at


def _varying(name: str, f: Any, power: Any) -> tuple[np.ndarray, np.ndarray]:
    """A spectrum without its mean; refused where there is nothing else."""
    f, power = np.asarray(f)[1:], np.asarray(power)[1:]
    if not 0 < power.max() < np.inf:
        checks.fail(name, "a signal that varies", "zero power")
    return f, power


def _lomb_scargle(y: np.ndarray, at: np.ndarray, f: np.ndarray) -> np.ndarray:
    """Power spectral density at 0 and f of samples at uneven times, as `power_spectrum` has it."""
    from scipy.signal import lombscargle  # its import takes half a second

    known = np.isfinite(y)
    y, at = y[known].astype(float), at[known].astype(float)
    span = (at[-1] - at[0]) * len(at) / (len(at) - 1)  # with the half steps beyond both ends
    window = np.cos(np.pi * (at - (at[0] + at[-1]) / 2) / span) ** 2
    y = y - np.sum(window * y) / np.sum(window)
    # Of the square of the sum, over the samples, that is the periodogram.
    found = lombscargle(at, window * y, 2 * np.pi * f) * len(at)
    return np.append(0, 2 * span / len(at) * found / np.sum(window**2))


def _target_style(ax: Axes, target: np.ndarray, shown: slice) -> dict[str, Any]:
    """The broad line, unless it would run into itself from one turn of the signal to the next."""
    y = target[shown]
    turns = np.count_nonzero(np.diff(np.sign(np.diff(y))))
    points = 72 * ax.get_window_extent().width / ax.figure.dpi
    broad = float(_TARGET["linewidth"])
    return _TARGET | {"linewidth": float(np.clip(points / (3 * max(turns, 1)), 0.8, broad))}


def _shown(window: Iterable[float | int] | None, size: int, dt: float) -> slice:
    """The samples in the window."""
    start, end = (0, size * dt) if window is None else tuple(window)
    first, last = max(round(start / dt), 0), min(round(end / dt) + 1, size)
    if last - first < 2:
        checks.fail("window", f"(start, end) within 0 to {(size - 1) * dt:.4g} s", (start, end))
    return slice(first, last)


def _thinned(y: np.ndarray, dt: float, shown: slice) -> tuple[np.ndarray, np.ndarray]:
    """Times and samples; of very many, the lowest and highest of each of some thousand groups."""
    t, y = dt * np.arange(len(y))[shown], y[shown]
    at = extremes(y, _POINTS)
    return t[at], y[at]


def _held_out(
    ax: Axes, shown: slice, training_samples: int | None, dt: float, at: np.ndarray | None
) -> None:
    start, end = dt * shown.start, dt * (shown.stop - 1)
    ax.set_xlim(start, end)
    if training_samples is not None:
        count = checks.integer("training_samples", training_samples, 1)
        first = dt * (count - 0.5)
        if at is not None:
            first = np.mean(at[count - 1 : count + 1]) if count < len(at) else np.inf
        if first < end:
            # With an edge, or its key in the legend could not be told from the span itself.
            style = {"facecolor": "0.9", "edgecolor": "0.4", "linewidth": 0.8, "zorder": 0}
            ax.axvspan(max(first, start), end, **style, label="held out")
