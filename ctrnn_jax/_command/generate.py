"""`ctrnn generate`: the signal of a trained oscillator as a file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from typer import Argument, Option

from .._files.models import load
from .._files.signals import known_format, wav_rate, write_signal
from .._train.oscillator import Oscillator
from .._util import checks
from .drive import Inputs, read_inputs
from .options import ARRAY, fits, new_file
from .train_results import with_max_step

_MOST_VALUES, _MOST_STEPS = 2**28, 2**31 - 1
_WAV_RATE = 44100


def generate(
    model: Annotated[Path, Argument(help="oscillator.ctrnn, as ctrnn train leaves it.")],
    duration: Annotated[
        float | None,
        Option(help="Length of the signal in seconds.", show_default="that of --inputs"),
    ] = None,
    inputs: Annotated[
        Path | None,
        Option(
            help=f"Inputs (samples, inputs) of a driven model, each held for --dt: {ARRAY}. A"
            " column of times of a .csv file gives --dt."
        ),
    ] = None,
    dt: Annotated[
        float | None,
        Option(
            help="Time between samples in seconds.",
            show_default="1/44100 for .wav, else the model's longest step",
        ),
    ] = None,
    rate: Annotated[float | None, Option(help="Samples a second, in Hz, instead of --dt.")] = None,
    out: Annotated[
        Path,
        Option(
            help="A .npy, .csv or .wav file; .csv has a column t of times, .wav 16 bits a sample,"
            " scaled so that the highest peak is 0.9 of the range."
        ),
    ] = Path("runs/signal.csv"),
) -> None:
    """Generate the signal of a trained oscillator, for as long as you like; write it to --out.

    Samples are at 0, dt, 2 dt, ..., before --duration; a driven model has one for each of its
    --inputs, the answer to those before. The integration keeps to steps that the
    model is accurate with, however far apart the samples are.
    """
    suffix = known_format("--out", out)
    new_file(out)
    read = None if inputs is None else read_inputs(inputs)
    if duration is None and read is None:
        checks.fail("--duration", "the length of the signal in seconds", "none")
    if rate is not None:
        if dt is not None:
            checks.fail("--rate", "either --dt or --rate", "both")
        dt = 1 / checks.positive_float("--rate", rate)
    elif dt is not None:
        dt = checks.positive_float("--dt", dt)
    jax.config.update("jax_enable_x64", True)  # or models of float64 could not be loaded
    oscillator = with_max_step(_loaded(model))
    assert oscillator.max_step is not None
    _check_inputs(oscillator, read)
    if read is not None:
        dt = read.interval(dt, None)
    if dt is None:
        dt = 1 / _WAV_RATE if suffix == ".wav" else oscillator.max_step
    if suffix == ".wav":
        wav_rate("--dt" if rate is None else "--rate", 1 / dt, oscillator.readout.shape[0])

    if duration is None:
        assert read is not None
        duration = read.steps * dt
    duration = checks.positive_float("--duration", duration)
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
    given = None if read is None else _first(read, size, dt, oscillator.x0.dtype)
    y = np.asarray(oscillator.generate(dt, size - 1, inputs=given))
    checks.finite("the signal", y)
    write_signal(out, y, dt)
    channels = y.shape[1]
    print(f"{size} samples of {channels} channel{'s' * (channels > 1)}, {dt:.6g} s apart, in {out}")


def _first(read: Inputs, size: int, dt: float, dtype: Any) -> jax.Array:
    """The inputs between so many samples."""
    if size > read.steps:
        got = f"{size} samples of {dt:.4g} s"
        checks.fail("--duration", f"at most the {read.steps} samples of {read.name}", got)
    given = jnp.asarray(read.values[: size - 1].astype(dtype))
    checks.finite("--inputs", given)
    return given


def _check_inputs(oscillator: Oscillator, read: Inputs | None) -> None:
    """Refuse inputs of a model that has none, and a driven model without."""
    m = oscillator.rnn.num_inputs
    if read is None and m:
        checks.fail("--inputs", f"a file with the {m} input(s) of MODEL", "none")
    if read is not None and not m:
        checks.fail("--inputs", "none, as MODEL has no inputs", read.name)
    if read is not None and read.count != m:
        checks.fail("--inputs", f"{m} input(s), as MODEL has", f"{read.count} in {read.name}")


def _loaded(path: Path) -> Oscillator:
    if not path.is_file():
        checks.fail("MODEL", "an existing file", str(path))
    model = load(path)
    if not isinstance(model, Oscillator):
        checks.fail(
            "MODEL", "a file with an Oscillator, as ctrnn train leaves it", type(model).__name__
        )
    if model.x0.ndim != 1:
        checks.fail(
            "MODEL", "one Oscillator", f"an ensemble of {model.x0.shape[0]}: save one of it"
        )
    return model
