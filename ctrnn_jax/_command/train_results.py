"""What `ctrnn train` tells of an oscillator: its signal beside the target, pictures, a table."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffrax
import jax.numpy as jnp
import numpy as np

from .._analysis.frequencies import natural_frequencies
from .._analysis.spectra import dominant_frequency
from .._simulate.api import simulate
from .._train.oscillator import Oscillator
from .._util import checks
from ..solvers import PoissonSplitting

_PER_PERIOD = 20  # least steps in the fastest period of small oscillations
_PANELS = 3  # channels drawn


@dataclasses.dataclass(frozen=True)
class Result:
    """An oscillator, what it reached, and the signals to draw, (S, channels) at k dt.

    Where samples are uneven or missing, the target is (S', channels) at `times`, as is `compared`,
    what is generated there.
    """

    oscillator: Oscillator
    report: Any
    dt: float
    target: np.ndarray
    generated: np.ndarray
    lines_hz: list[float]
    training_samples: int | None
    inputs: np.ndarray | None = None
    times: np.ndarray | None = None
    compared: np.ndarray | None = None


def with_max_step(oscillator: Oscillator) -> Oscillator:
    """The oscillator, its steps limited by its fastest small oscillation where they were not."""
    if oscillator.max_step is not None:
        return oscillator
    rnn = oscillator.rnn
    fastest = float(natural_frequencies(rnn)[-1]) if rnn.weights.is_skew else 0.0
    if not fastest > 0:
        checks.fail("MODEL", "a max_step, as nothing oscillates around 0 to derive it from", "none")
    return dataclasses.replace(oscillator, max_step=1 / (_PER_PERIOD * fastest))


def generated(
    oscillator: Oscillator,
    dt: float,
    size: int,
    inputs: np.ndarray | None = None,
    times: np.ndarray | None = None,
) -> np.ndarray:
    """Its signal (size, channels) at k dt, in float64, its inputs (size, m) each held for dt.

    Or at times before size dt.
    """
    given = None if inputs is None else jnp.asarray(inputs[:-1].astype(oscillator.x0.dtype))
    at = None if times is None else jnp.asarray(times.astype(oscillator.x0.dtype))
    made = with_max_step(oscillator).generate(dt, size - 1, inputs=given, save_at=at)
    return np.asarray(made, np.float64)


def closest(lines: list[float]) -> float:
    """The smallest frequency or distance of two: its inverse is what a picture must cover."""
    return float(min([min(lines), *np.diff(sorted(lines))]))


def orbit_of(result: Result) -> Any:
    """A trajectory through one period of a single frequency, or some of the strongest line."""
    oscillator = with_max_step(result.oscillator)
    span = result.dt * len(result.generated)
    if len(result.lines_hz) == 1:
        span = 1 / result.lines_hz[0]
    else:
        line = float(dominant_frequency(result.generated[:, 0], result.dt))
        span = min(span, 20 / line) if line > 0 else span
    assert oscillator.max_step is not None
    steps = min(math.ceil(span / min(oscillator.max_step / 4, span / 200)), 20000)
    rnn = oscillator.rnn
    if result.inputs is not None:
        # One of its own accord would only come to rest: that of the first samples is shown.
        every = math.ceil(result.dt / oscillator.max_step)
        count = min(len(result.inputs) - 1, max(2, 20000 // every))
        u = jnp.asarray(np.repeat(result.inputs[:count], every, axis=0).astype(rnn.dtype))
        return simulate(rnn, oscillator.x0, dt=result.dt / every, num_steps=len(u), inputs=u)
    solver = PoissonSplitting(4) if rnn.is_conservative else diffrax.Tsit5()
    return simulate(rnn, oscillator.x0, dt=span / steps, num_steps=steps, solver=solver)


def pictures(result: Result, orbit: Any) -> dict[str, Callable[[Any], Any]]:
    """Functions that draw into an empty figure."""
    from .. import plot

    dt, first = result.dt, result.generated[:, 0]

    def spectrum(figure: Any) -> None:
        channels = 1 if result.lines_hz else min(result.generated.shape[1], _PANELS)
        figure.set_size_inches(7, 4.5 * (1 + channels) / 2)
        axes = figure.subplots(channels, squeeze=False)[:, 0]
        for k, ax in enumerate(axes):
            if result.lines_hz:
                plot.spectrum_fit(first, dt, lines_hz=result.lines_hz, ax=ax,
                                  max_frequency=4 * max(result.lines_hz))  # fmt: skip
            else:
                plot.spectrum_fit(result.generated[:, k], dt, target=result.target[:, k],
                                  times=result.times, ax=ax)  # fmt: skip
            _name_channel(ax, k, result)
        limit = max(ax.get_xlim()[1] for ax in axes)
        for ax in axes:
            ax.set_xlim(0, limit)

    pictures = {"spectrum": spectrum, "signal": lambda figure: _draw_signal(figure, result)}
    if result.oscillator.rnn.size > 1:
        # The two neurons whose orbit encloses the largest area show most of it.
        xs = np.asarray(orbit.xs, np.float64)
        area = xs[:-1].T @ np.diff(xs, axis=0)
        pair = np.unravel_index(np.argmax(np.abs(area - area.T)), area.shape)
        pair = sorted(int(k) for k in pair)
        pictures["phase_portrait"] = lambda figure: plot.phase_portrait(
            orbit, neurons=pair, ax=figure.subplots()
        )
    losses = getattr(result.report, "losses", None)
    if losses is not None and np.isfinite(losses).sum() > 1:
        pictures["loss"] = lambda figure: plot.loss_curve(losses, ax=figure.subplots()).set_ylabel(
            "loss" if result.lines_hz else "mean square error of the part trained on"
        )
    return pictures


def _draw_signal(figure: Any, result: Result) -> None:
    """Some periods of a frequency; all of a signal with residuals, and where training ended."""
    from .. import plot

    dt, size = result.dt, len(result.generated)
    if result.lines_hz:
        periods = 4 if len(result.lines_hz) == 1 else 2
        pair = result.target[:, 0], result.generated[:, 0], dt
        name = "sinusoids at " + ", ".join(f"{line:.4g}" for line in result.lines_hz) + " Hz"
        name = name.replace("sinusoids", "sinusoid") if len(result.lines_hz) == 1 else name
        plot.signal_fit(
            *pair, window=(0, periods / closest(result.lines_hz)), label=name, ax=figure.subplots()
        )
        return
    channels = min(result.generated.shape[1], _PANELS)
    known, compared = result.target, result.generated
    if result.times is not None:  # only what is generated is on a grid
        known, compared = result.generated, result.compared
    assert compared is not None
    line = float(dominant_frequency(known[:, 0], dt))
    middle = result.training_samples or size
    if result.times is not None:
        over = middle >= len(result.times)
        middle = size if over else round(float(result.times[middle]) / dt)
    half = math.ceil(6 / (line * dt)) if line > 0 else size
    window = (max(0, middle - half) * dt, min(size - 1, middle + half) * dt)
    detailed = window[1] - window[0] < 0.25 * size * dt
    figure.set_size_inches(11 if detailed else 7, 1.2 + 3.3 * channels)
    grid = figure.subplots(2 * channels, 1 + detailed, squeeze=False, sharex="col",
                           height_ratios=[2, 1] * channels)  # fmt: skip
    for k in range(channels):
        target = result.target[:, k]
        for column in range(1 + detailed):
            above, below = grid[2 * k : 2 * k + 2, column]
            where = {
                "training_samples": result.training_samples,
                "window": window if column else None,
                "times": result.times,
            }
            plot.signal_fit(target, result.generated[:, k], dt, **where, ax=above)
            plot.signal_residual(target, compared[:, k], dt, **where, ax=below)
            if column:
                above.set_ylabel("")
                below.set_ylabel("")
            _name_channel(above, k, result)
    for ax in grid[:-1].ravel():
        ax.set_xlabel("")


def _name_channel(ax: Any, k: int, result: Result) -> None:
    channels = result.generated.shape[1]
    if channels > 1:
        ax.set_ylabel(f"{ax.get_ylabel()}\nchannel {k + 1} of {channels}")


def table(result: Result, signal: Path | None, seconds: float) -> str:
    """The results, a line each."""
    oscillator = result.oscillator
    channels = result.generated.shape[1]
    target = ", ".join(f"{line:g}" for line in result.lines_hz) + " Hz"
    if signal:
        target = f"{signal.name}, {len(result.target)} samples every {result.dt:.4g} s"
        if result.times is not None:
            target = f"{signal.name}, {len(result.target)} samples within {result.times[-1]:.4g} s"
        target += f", {channels} channels" if channels > 1 else ""
    activation = type(oscillator.rnn.activation).__name__
    rows = {
        "target": target,
        **({} if result.inputs is None else {"inputs": f"{result.inputs.shape[1]}, held"}),
        "oscillator": f"{oscillator.rnn.size} neurons, {activation}, {oscillator.rnn.form} form,"
        f" {oscillator.x0.dtype}",
        "wall time": f"{seconds:.3g} s, compilation included",
        "reached": str(result.report).replace("\n", "\n" + 14 * " "),
    }
    return "\n".join(f"{name:<14}{value}" for name, value in rows.items())
