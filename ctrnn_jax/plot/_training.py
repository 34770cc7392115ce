"""Pictures of trained oscillators: signals, residuals, spectra and losses, as `plot` has them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from .._analysis import spectra
from .._util import checks
from .._util.types import ArrayLike
from ._style import LINE, POWER_RANGE, add_legend, axes_or_new, highest_frequency

# A broad light line under a thin dark one, so that both are seen where they agree.
_TARGET: dict[str, Any] = {"color": "0.65", "linewidth": 3.5, "solid_capstyle": "round"}
_MADE: dict[str, Any] = {"color": LINE, "linewidth": 1.2}
_POINTS = 4000


def signal_fit(
    target: ArrayLike,
    generated: ArrayLike,
    dt: ArrayLike,
    *,
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
        training_samples: where the held-out part begins; none is held out unless given.
        window: (start, end) in seconds of what is shown; all unless given.
        label: what the legend calls the target.

    Raises:
        TypeError, ValueError: where a signal is no finite array of these shapes.

    Example:
        >>> ct.plot.signal_fit(y, oscillator.generate(dt, len(y) - 1)[:, 0], dt)
    """
    target, generated, dt = _pair(target, generated, dt)
    shown = _shown(window, len(target), dt)
    ax = axes_or_new(ax)
    ax.plot(*_thinned(target, dt, shown), **_target_style(ax, target, shown), label=label)
    ax.plot(*_thinned(generated, dt, shown), **_MADE, label="generated")
    _held_out(ax, shown, training_samples, dt)
    ax.set(xlabel="time (s)", ylabel="signal (a.u.)")
    add_legend(ax)
    return ax


def signal_residual(
    target: ArrayLike,
    generated: ArrayLike,
    dt: ArrayLike,
    *,
    training_samples: int | None = None,
    window: Iterable[float | int] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """What the generated signal lacks, target - generated, against time; as `signal_fit`."""
    target, generated, dt = _pair(target, generated, dt)
    shown = _shown(window, len(target), dt)
    ax = axes_or_new(ax)
    ax.plot(*_thinned(target - generated, dt, shown), color=LINE, linewidth=0.8)
    ax.axhline(0, color="black", linewidth=0.6)
    _held_out(ax, shown, training_samples, dt)
    ax.set(xlabel="time (s)", ylabel="residual (a.u.)")
    return ax


def spectrum_fit(
    generated: ArrayLike,
    dt: ArrayLike,
    *,
    target: ArrayLike | None = None,
    lines_hz: Iterable[Any] = (),
    max_frequency: ArrayLike | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Power spectral density of the generated signal, with that of the target or target lines.

    Args:
        generated: (S,) samples.
        dt: sampling interval in seconds.
        target: (S',) samples of the target signal, or None.
        lines_hz: target frequencies in Hz.
        max_frequency: end of the axis in Hz; unless given, about twice the frequency below
            which 99.9 % of the power lies.

    Raises:
        TypeError, ValueError: where a signal is no finite array of 4 samples, or constant.
    """
    dt = checks.positive_float("dt", dt)
    signals = {"generated": (_samples("generated", generated, 4), _MADE)}
    if target is not None:
        style = _TARGET | {"linewidth": 2}
        signals = {"target": (_samples("target", target, 4), style)} | signals
    lines = [checks.positive_float("lines_hz", line) for line in lines_hz]
    densities = {}
    for name, (y, style) in signals.items():
        f, power = (np.asarray(v)[1:] for v in spectra.power_spectrum(y - y[0], dt))
        if not 0 < power.max() < np.inf:
            checks.fail(name, "a signal that varies", "zero power")
        densities[name] = f, power, style
    limit = max(highest_frequency(max_frequency, f, p[None]) for f, p, _ in densities.values())
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


def _pair(target: Any, generated: Any, dt: Any) -> tuple[np.ndarray, np.ndarray, float]:
    target, generated = _samples("target", target, 2), _samples("generated", generated, 2)
    if target.shape != generated.shape:
        checks.fail("generated", f"shape {target.shape} as the target", generated.shape)
    return target, generated, checks.positive_float("dt", dt)


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
    size = len(y) // (_POINTS // 2)
    if size < 3:
        return t, y
    groups = y[: len(y) // size * size].reshape(-1, size)
    at = np.sort(np.stack([groups.argmin(axis=1), groups.argmax(axis=1)], axis=1), axis=1)
    at = (at + size * np.arange(len(groups))[:, None]).ravel()
    return t[at], y[at]


def _held_out(ax: Axes, shown: slice, training_samples: int | None, dt: float) -> None:
    start, end = dt * shown.start, dt * (shown.stop - 1)
    ax.set_xlim(start, end)
    if training_samples is not None:
        first = dt * (checks.integer("training_samples", training_samples, 1) - 0.5)
        if first < end:
            # With an edge, or its key in the legend could not be told from the span itself.
            style = {"facecolor": "0.9", "edgecolor": "0.4", "linewidth": 0.8, "zorder": 0}
            ax.axvspan(max(first, start), end, **style, label="held out")
