"""`ctrnn train`: a target in, an oscillator out."""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from typer import Option

from .._analysis.samples import recorded
from .._files.models import save
from .._files.signals import read_signal
from .._files.writing import appearing_together, write_json
from .._train.fit_frequency import fit_frequency
from .._train.fit_signal import fit_signal
from .._train.fit_spectrum import fit_spectrum
from .._util import checks
from .._util.classes import listed
from .drive import read_inputs
from .info import environment
from .options import (
    ACTIVATIONS,
    ARRAY,
    Device,
    Dtype,
    Form,
    Out,
    Progress,
    Seed,
    activation_named,
    fits,
    prepared,
    seed_of,
)
from .train_results import Result, closest, generated, orbit_of, pictures, table

_ODD = [name for name, activation in ACTIVATIONS.items() if activation.odd]


@dataclasses.dataclass(frozen=True)
class Settings:
    """The options of `ctrnn train`; None where one is left out."""

    out: Out = Path("runs/train")
    frequency: Annotated[
        list[float] | None,
        Option(help="Target in Hz; given several times: that many lines in one signal."),
    ] = None
    signal: Annotated[
        Path | None,
        Option(
            help="Target signal (samples,) or (samples, channels): a .npy, .npz, .csv or .wav file."
            " A column t, time, timestamp, date, ms, ... of a .csv file is its time. Samples may be"
            " missing (nan, empty cells) and times uneven."
        ),
    ] = None
    inputs: Annotated[
        Path | None,
        Option(
            help="Inputs (samples,) or (samples, inputs) at the times of --signal: a driven network"
            f" is trained to answer them so. {ARRAY[0].upper()}{ARRAY[1:]}."
        ),
    ] = None
    columns: Annotated[
        list[str] | None,
        Option(help="Channels of --signal: names, or positions from 0, as in a,b or 1,2."),
    ] = None
    time_column: Annotated[
        str | None, Option(help="Column of times in --signal: a name, or a position from 0.")
    ] = None
    time_unit: Annotated[
        str | None, Option(help="Unit of that column: s, ms, us, ns, min or h.")
    ] = None
    array: Annotated[str | None, Option(help="Name of the array in an .npz file.")] = None
    decimal: Annotated[
        str | None, Option(help="Decimal mark of a .csv file, . or , where it is not clear.")
    ] = None
    header: Annotated[
        bool | None,
        Option(help="Whether the first line of a .csv file of numbers names its columns."),
    ] = None
    dt: Annotated[
        float | None,
        Option(help="Sampling interval of --signal in seconds, where the file does not say it."),
    ] = None
    hold_out: Annotated[
        float | None,
        Option(help="Part at the end of --signal kept from training.", show_default="0.2"),
    ] = None
    neurons: Annotated[
        int | None,
        Option(
            help="Neurons.", show_default="8; 12 for several lines; 16 for a signal, 6 with inputs"
        ),
    ] = None
    activation: Annotated[
        str, Option(help=f"{listed(_ODD)}: odd ones, around 0 they oscillate.")
    ] = "tanh"
    form: Form = "rate"
    amplitude: Annotated[
        float | None,
        Option(help="Root mean square of the output, with --frequency.", show_default="1"),
    ] = None
    mode: Annotated[
        int | None,
        Option(
            help="With one --frequency: on a closed orbit of this nonlinear mode, from 0 for the"
            " slowest to neurons/2 - 1 for the fastest; stable where that can be reached."
        ),
    ] = None
    energy: Annotated[
        float | None,
        Option(help="Energy of that orbit, with --mode.", show_default="neurons/8"),
    ] = None
    steps: Annotated[
        int | None,
        Option(
            help="Training steps, with one --frequency or --signal.",
            show_default="60; 30 a horizon for a signal",
        ),
    ] = None
    seed: Seed = 0
    dtype: Dtype = "float64"
    device: Device = None
    progress: Progress = True

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
    "frequency": ("dt", "hold_out", "inputs", *_READING),
    "chord": ("dt", "hold_out", "steps", "mode", "energy", "inputs", *_READING),
    "signal": ("amplitude", "mode", "energy"),
}
_NAMES = {"frequency": "one --frequency", "chord": "several --frequency", "signal": "--signal"}


def train_to_folder(settings: Settings) -> None:
    """Train an oscillator to one or several frequencies, or to a signal; leave it in --out.

    ctrnn train --frequency 3.2, ctrnn train --signal data.csv --dt 0.01, ctrnn train --signal
    y.csv --inputs u.csv: the model
    (oscillator.ctrnn, for ctrnn generate), report.json, and plots of its signal and spectrum
    beside the target's, of its orbit and of the loss.
    """
    with prepared(settings.out, settings.dtype, settings.device):
        _train_to_folder(settings)


def _train_to_folder(settings: Settings) -> None:
    kind = settings.kind
    for name in _IDLE[kind]:
        if (value := getattr(settings, name)) is not None:
            checks.fail(f"--{name.replace('_', '-')}", f"none with {_NAMES[kind]}", value)
    n = 16 if settings.neurons is None else settings.neurons
    fits(f"{n} neurons", 64.0 * n**2, 8.0 * n**2, settings.out)
    start = time.perf_counter()
    result = _signal(settings) if kind == "signal" else _frequency(settings)
    orbit = orbit_of(result)
    contents = {
        "report": result.report,
        "seconds": time.perf_counter() - start,
        "settings": settings,
        "environment": environment(),
    }
    from ..plot._files import draw  # loads matplotlib, which help and bad options need not

    with appearing_together(settings.out) as workplace:
        save(workplace / "oscillator.ctrnn", result.oscillator)
        write_json(workplace / "report.json", contents)
        draw(workplace, pictures(result, orbit))
    print(table(result, settings.signal, contents["seconds"]))
    print(f"results in {settings.out}")


def _options(settings: Settings) -> dict[str, Any]:
    """Arguments that all three fits take, and those given of what some take."""
    given = {
        name: getattr(settings, name)
        for name in ("neurons", "amplitude", "mode", "energy", "steps", "hold_out")
    }
    return {
        "activation": activation_named(settings.activation),
        "form": settings.form,
        "key": jax.random.key(seed_of(settings.seed)),
        "dtype": jnp.dtype(settings.dtype),
        **{name: value for name, value in given.items() if value is not None},
    }


def _frequency(settings: Settings) -> Result:
    lines = [checks.positive_float("--frequency", line) for line in settings.frequency or ()]
    options = _options(settings)
    if len(lines) == 1:
        oscillator, report = fit_frequency(lines[0], progress=settings.progress, **options)
    else:
        oscillator, report = fit_spectrum(jnp.asarray(lines, options["dtype"]), **options)
    # Long enough to resolve the lines in the picture of the spectrum, too.
    dt = 1 / (64 * max(lines))
    size = min(math.ceil(64 / (closest(lines) * dt)), 2**17)
    y = generated(oscillator, dt, size)
    # The target has no phases or powers of its own: those of the output are taken.
    phase = 2 * np.pi * dt * np.outer(np.arange(size), lines)
    waves = np.hstack([np.ones((size, 1)), np.cos(phase), np.sin(phase)])
    target = waves @ np.linalg.lstsq(waves, y, rcond=None)[0]
    return Result(oscillator, report, dt, target, y, lines, None)


def _signal(settings: Settings) -> Result:
    assert settings.signal is not None
    read = read_signal(
        settings.signal,
        columns=_columns(settings.columns),
        time_column=settings.time_column,
        time_unit=settings.time_unit,
        array=settings.array,
        decimal=settings.decimal,
        header=settings.header,
        gaps=True,
        name="--signal",
    )
    y, known, times = read.samples, read.dt, read.times
    has_gaps = times is not None or bool(np.isnan(y).any())
    dt, driven = settings.dt, None
    if settings.inputs is not None:
        if has_gaps:
            name = settings.signal.name
            checks.fail("--inputs", f"none, as samples of {name} are uneven or missing", "some")
        driven = read_inputs(settings.inputs)
        if driven.steps != len(y):
            expected = f"{len(y)} samples, as many as {settings.signal.name} has"
            checks.fail("--inputs", expected, driven.steps)
        if None not in (known, driven.dt) and not math.isclose(known, driven.dt, rel_tol=1e-4):  # pyright: ignore[reportArgumentType]
            expected = f"samples every {known:.6g} s, as {settings.signal.name} has"
            checks.fail("--inputs", expected, f"{driven.dt:.6g} s")
        known = driven.dt if known is None else known
    if dt is not None:
        dt = checks.positive_float("--dt", dt)
    if times is not None and dt is not None:
        checks.fail("--dt", f"none, as {settings.signal.name} has uneven times of its own", dt)
    if known is None and dt is None and times is None:
        checks.fail("--dt", f"the sampling interval of {settings.signal.name} in seconds", "none")
    if known is not None and dt is not None and not math.isclose(known, dt, rel_tol=1e-4):
        checks.fail("--dt", f"none, or the {known:.6g} s that {settings.signal.name} has", dt)
    dt = known or dt
    print(f"read {settings.signal.name}: {read}")
    options = _options(settings)
    u = None if driven is None else driven.values
    if u is not None:
        options.setdefault("neurons", 6)
    oscillator, report = fit_signal(
        y, dt, times=times, progress=settings.progress, inputs=u, **options
    )
    training = int(report.training_samples)
    record = recorded("signal", y.reshape(len(y), -1), dt, times)
    dt, size = record.interval, record.length
    made, at, compared = generated(oscillator, dt, size, u), None, None
    if has_gaps:
        at = record.t
        compared = generated(oscillator, dt, size, times=at)
    return Result(oscillator, report, dt, record.y, made, [], training, u, at, compared)


def _columns(given: list[str] | None) -> list[str] | None:
    """--columns a,b is --columns a --columns b."""
    return [name.strip() for names in given for name in names.split(",")] if given else None
