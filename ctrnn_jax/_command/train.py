"""What `ctrnn train` and `ctrnn generate` do: a target in, an oscillator out, and its signal."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from .._analysis.orbits import natural_frequencies
from .._analysis.spectra import dominant_frequency
from .._files.models import load, save
from .._files.signals import known_format, read_signal, wav_rate, write_signal
from .._files.writing import appearing_together, draw, place_for, write_json
from .._simulate.api import simulate
from .._train.fit_frequency import fit_frequency
from .._train.fit_signal import fit_signal
from .._train.fit_spectrum import fit_spectrum
from .._train.oscillator import Oscillator
from .._util import checks
from ..solvers import PoissonSplitting
from .options import activation_named, environment, fits, prepared, seed_of

_PER_PERIOD = 20  # least steps in the fastest period of small oscillations
_MOST_VALUES, _MOST_STEPS = 2**28, 2**31 - 1
_PANELS = 3  # channels drawn
_WAV_RATE = 44100


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """The options of `ctrnn train`, as its help describes them; None where one is left out."""

    out: Path
    frequency: list[float] | None
    signal: Path | None
    columns: list[str] | None
    time_column: str | None
    time_unit: str | None
    array: str | None
    decimal: str | None
    header: bool | None
    dt: float | None
    hold_out: float | None
    neurons: int | None
    activation: str
    form: str
    amplitude: float | None
    steps: int | None
    seed: int
    dtype: str
    device: str | None
    progress: bool

    @property
    def kind(self) -> str:
        """frequency, chord or signal."""
        if bool(self.frequency) == (self.signal is not None):
            got = "both" if self.frequency else "neither"
            checks.fail("--frequency", "either --frequency or --signal", got)
        return (
            "signal" if self.signal else "frequency" if len(self.frequency or ()) == 1 else "chord"
        )


# Where an option has no meaning, silence would suggest that it has one.
_READING = ("columns", "time_column", "time_unit", "array", "decimal", "header")
_IDLE = {
    "frequency": ("dt", "hold_out", *_READING),
    "chord": ("dt", "hold_out", "steps", *_READING),
    "signal": ("amplitude",),
}
_NAMES = {"frequency": "one --frequency", "chord": "several --frequency", "signal": "--signal"}


@dataclasses.dataclass(frozen=True)
class _Result:
    """An oscillator, what it reached, and the signals to draw, (S, channels) at k dt."""

    oscillator: Oscillator
    report: Any
    dt: float
    target: np.ndarray
    generated: np.ndarray
    lines_hz: list[float]
    training_samples: int | None


def train_to_folder(settings: TrainSettings) -> None:
    """Run `ctrnn train`: all files appear in the folder together, or none does."""
    with prepared(settings.out, settings.dtype, settings.device):
        _train_to_folder(settings)


def generate_to_file(
    model: Path, duration: float, dt: float | None, rate: float | None, out: Path
) -> None:
    """Run `ctrnn generate`: the file appears complete or not at all."""
    suffix = known_format("--out", out)
    if out.is_dir():
        checks.fail("--out", "a file", f"the folder {out}")
    place_for(out.parent)
    duration = checks.positive_float("--duration", duration)
    if rate is not None:
        if dt is not None:
            checks.fail("--rate", "either --dt or --rate", "both")
        dt = 1 / checks.positive_float("--rate", rate)
    elif dt is not None:
        dt = checks.positive_float("--dt", dt)
    jax.config.update("jax_enable_x64", True)  # or models of float64 could not be loaded
    oscillator = _with_max_step(_loaded(model))
    assert oscillator.max_step is not None
    if dt is None:
        dt = 1 / _WAV_RATE if suffix == ".wav" else oscillator.max_step
    if suffix == ".wav":
        wav_rate("--dt" if rate is None else "--rate", 1 / dt, oscillator.readout.shape[0])

    size = round(duration / dt)
    values = size * max(oscillator.readout.shape)
    if size < 2:
        checks.fail("--duration", f"at least two samples of {dt:.4g} s", f"{duration:.4g} s")
    if values > _MOST_VALUES or size * math.ceil(dt / oscillator.max_step) > _MOST_STEPS:
        got = f"{size} samples of {oscillator.rnn.size} neurons, {dt:.4g} s apart"
        checks.fail(
            "--duration", f"at most 2^28 values and 2^31 steps of {oscillator.max_step:.4g} s", got
        )
    # The states, two copies of the signal and a table of it; a number of a .csv has 25 characters.
    stored = 25 if suffix == ".csv" else 8
    fits(f"{size} samples", 40.0 * values, stored * size * oscillator.readout.shape[0], out)
    y = np.asarray(oscillator.generate(dt, size - 1))
    checks.finite("the signal", y)
    write_signal(out, y, dt)
    channels = y.shape[1]
    print(f"{size} samples of {channels} channel{'s' * (channels > 1)}, {dt:.6g} s apart, in {out}")


def _train_to_folder(settings: TrainSettings) -> None:
    kind = settings.kind
    for name in _IDLE[kind]:
        if (value := getattr(settings, name)) is not None:
            checks.fail(f"--{name.replace('_', '-')}", f"none with {_NAMES[kind]}", value)
    n = 16 if settings.neurons is None else settings.neurons
    fits(f"{n} neurons", 64.0 * n**2, 8.0 * n**2, settings.out)
    start = time.perf_counter()
    result = _signal(settings) if kind == "signal" else _frequency(settings)
    orbit = _orbit(result)
    contents = {
        "report": result.report,
        "seconds": time.perf_counter() - start,
        "settings": settings,
        "environment": environment(),
    }
    with appearing_together(settings.out) as workplace:
        save(workplace / "oscillator.ctrnn", result.oscillator)
        write_json(workplace / "report.json", contents)
        draw(workplace, _pictures(result, orbit))
    print(_table(settings, result, contents["seconds"]))
    print(f"results in {settings.out}")


def _options(settings: TrainSettings) -> dict[str, Any]:
    """Arguments that all three fits take, and those given of what some take."""
    given = {
        name: getattr(settings, name) for name in ("neurons", "amplitude", "steps", "hold_out")
    }
    return {
        "activation": activation_named(settings.activation),
        "form": settings.form,
        "key": jax.random.key(seed_of(settings.seed)),
        "dtype": jnp.dtype(settings.dtype),
        **{name: value for name, value in given.items() if value is not None},
    }


def _frequency(settings: TrainSettings) -> _Result:
    lines = [checks.positive_float("--frequency", line) for line in settings.frequency or ()]
    options = _options(settings)
    if len(lines) == 1:
        oscillator, report = fit_frequency(lines[0], progress=settings.progress, **options)
    else:
        oscillator, report = fit_spectrum(jnp.asarray(lines, options["dtype"]), **options)
    # Long enough to resolve the lines in the picture of the spectrum, too.
    dt = 1 / (64 * max(lines))
    size = min(math.ceil(64 / (_closest(lines) * dt)), 2**17)
    y = _generated(oscillator, dt, size)
    # The target has no phases or powers of its own: those of the output are taken.
    phase = 2 * np.pi * dt * np.outer(np.arange(size), lines)
    waves = np.hstack([np.ones((size, 1)), np.cos(phase), np.sin(phase)])
    target = waves @ np.linalg.lstsq(waves, y, rcond=None)[0]
    return _Result(oscillator, report, dt, target, y, lines, None)


def _signal(settings: TrainSettings) -> _Result:
    assert settings.signal is not None
    read = read_signal(
        settings.signal,
        columns=_columns(settings.columns),
        time_column=settings.time_column,
        time_unit=settings.time_unit,
        array=settings.array,
        decimal=settings.decimal,
        header=settings.header,
        name="--signal",
    )
    y, known = read.samples, read.dt
    dt = settings.dt
    if dt is not None:
        dt = checks.positive_float("--dt", dt)
    if known is None and dt is None:
        checks.fail("--dt", f"the sampling interval of {settings.signal.name} in seconds", "none")
    if known is not None and dt is not None and not math.isclose(known, dt, rel_tol=1e-4):
        checks.fail("--dt", f"none, or the {known:.6g} s that {settings.signal.name} has", dt)
    dt = known or dt
    assert dt is not None
    print(f"read {settings.signal.name}: {read}")
    options = _options(settings)
    oscillator, report = fit_signal(y, dt, progress=settings.progress, **options)
    made = _generated(oscillator, dt, len(y))
    return _Result(
        oscillator, report, dt, y.reshape(made.shape), made, [], int(report.training_samples)
    )


def _columns(given: list[str] | None) -> list[str] | None:
    """--columns a,b is --columns a --columns b."""
    return [name.strip() for names in given for name in names.split(",")] if given else None


def _closest(lines: list[float]) -> float:
    """The smallest frequency or distance of two: its inverse is what a picture must cover."""
    return float(min([min(lines), *np.diff(sorted(lines))]))


def _loaded(path: Path) -> Oscillator:
    if not path.is_file():
        checks.fail("MODEL", "an existing file", str(path))
    model = load(path)
    if not isinstance(model, Oscillator):
        checks.fail(
            "MODEL", "a file with an Oscillator, as ctrnn train leaves it", type(model).__name__
        )
    if model.x0.ndim != 1:
        checks.fail("MODEL", "one Oscillator", f"an ensemble of {model.x0.shape[0]}")
    return model


def _with_max_step(oscillator: Oscillator) -> Oscillator:
    """The oscillator, its steps limited by its fastest small oscillation where they were not."""
    if oscillator.max_step is not None:
        return oscillator
    rnn = oscillator.rnn
    fastest = float(natural_frequencies(rnn)[-1]) if rnn.weights.is_skew else 0.0
    if not fastest > 0:
        checks.fail("MODEL", "a max_step, as nothing oscillates around 0 to derive it from", "none")
    return dataclasses.replace(oscillator, max_step=1 / (_PER_PERIOD * fastest))


def _generated(oscillator: Oscillator, dt: float, size: int) -> np.ndarray:
    return np.asarray(_with_max_step(oscillator).generate(dt, size - 1), np.float64)


def _orbit(result: _Result) -> Any:
    """A trajectory through one period of a single frequency, or some of the strongest line."""
    oscillator = _with_max_step(result.oscillator)
    span = result.dt * len(result.generated)
    if len(result.lines_hz) == 1:
        span = 1 / result.lines_hz[0]
    else:
        line = float(dominant_frequency(result.generated[:, 0], result.dt))
        span = min(span, 20 / line) if line > 0 else span
    assert oscillator.max_step is not None
    steps = min(math.ceil(span / min(oscillator.max_step / 4, span / 200)), 20000)
    rnn = oscillator.rnn
    solver = PoissonSplitting(4) if rnn.is_conservative else diffrax.Tsit5()
    return simulate(rnn, oscillator.x0, dt=span / steps, num_steps=steps, solver=solver)


def _pictures(result: _Result, orbit: Any) -> dict[str, Callable[[Any], Any]]:
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
                plot.spectrum_fit(result.generated[:, k], dt, target=result.target[:, k], ax=ax)
            _name_channel(ax, k, result)

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
    if losses is not None and np.isfinite(losses).any():
        pictures["loss"] = lambda figure: plot.loss_curve(losses, ax=figure.subplots()).set_ylabel(
            "loss" if result.lines_hz else "mean square error of the part trained on"
        )
    return pictures


def _draw_signal(figure: Any, result: _Result) -> None:
    """Some periods of a frequency; all of a signal with residuals, and where training ended."""
    from .. import plot

    dt, size = result.dt, len(result.generated)
    if result.lines_hz:
        periods = 4 if len(result.lines_hz) == 1 else 2
        pair = result.target[:, 0], result.generated[:, 0], dt
        name = "sinusoids at " + ", ".join(f"{line:.4g}" for line in result.lines_hz) + " Hz"
        name = name.replace("sinusoids", "sinusoid") if len(result.lines_hz) == 1 else name
        plot.signal_fit(
            *pair, window=(0, periods / _closest(result.lines_hz)), label=name, ax=figure.subplots()
        )
        return
    channels = min(result.generated.shape[1], _PANELS)
    line = float(dominant_frequency(result.target[:, 0], dt))
    middle = result.training_samples or size
    half = math.ceil(6 / (line * dt)) if line > 0 else size
    window = (max(0, middle - half) * dt, min(size - 1, middle + half) * dt)
    detailed = window[1] - window[0] < 0.25 * size * dt
    figure.set_size_inches(11 if detailed else 7, 1.2 + 3.3 * channels)
    grid = figure.subplots(2 * channels, 1 + detailed, squeeze=False, sharex="col",
                           height_ratios=[2, 1] * channels)  # fmt: skip
    for k in range(channels):
        pair = result.target[:, k], result.generated[:, k], dt
        for column in range(1 + detailed):
            above, below = grid[2 * k : 2 * k + 2, column]
            where = {
                "training_samples": result.training_samples,
                "window": window if column else None,
            }
            plot.signal_fit(*pair, **where, ax=above)
            plot.signal_residual(*pair, **where, ax=below)
            if column:
                above.set_ylabel("")
                below.set_ylabel("")
            _name_channel(above, k, result)
    for ax in grid[:-1].ravel():
        ax.set_xlabel("")


def _name_channel(ax: Any, k: int, result: _Result) -> None:
    channels = result.generated.shape[1]
    if channels > 1:
        ax.set_ylabel(f"{ax.get_ylabel()}\nchannel {k + 1} of {channels}")


def _table(settings: TrainSettings, result: _Result, seconds: float) -> str:
    oscillator = result.oscillator
    channels = result.generated.shape[1]
    target = ", ".join(f"{line:g}" for line in result.lines_hz) + " Hz"
    if settings.signal:
        target = f"{settings.signal.name}, {len(result.target)} samples every {result.dt:.4g} s"
        target += f", {channels} channels" if channels > 1 else ""
    activation = type(oscillator.rnn.activation).__name__
    rows = {
        "target": target,
        "oscillator": f"{oscillator.rnn.size} neurons, {activation}, {oscillator.rnn.form} form,"
        f" {oscillator.x0.dtype}",
        "wall time": f"{seconds:.3g} s, compilation included",
        "reached": str(result.report).replace("\n", "\n" + 14 * " "),
    }
    return "\n".join(f"{name:<14}{value}" for name, value in rows.items())
