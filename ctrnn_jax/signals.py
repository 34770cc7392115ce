"""Sampled signals as files: .npy, .csv and .wav."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import wavfile

from . import _checks
from ._output import appearing

FORMATS = (".npy", ".csv", ".wav")
# Of a step: times are often rounded, but a missing sample must not pass.
_JITTER = 0.05
_PEAK = 0.9


def known_format(option: str, path: Path) -> str:
    """The file's ending, out of those that are known."""
    if path.suffix.lower() not in FORMATS:
        _checks.fail(option, "a .npy, .csv or .wav file", path.name or path)
    return path.suffix.lower()


def read_signal(option: str, path: Path) -> tuple[np.ndarray, float | None]:
    """Samples (S,) or (S, channels) in float64, and the sampling interval where the file says it.

    A .csv file may have a header line and comments (#), and commas, semicolons (then decimal
    commas are understood too) or blanks between its columns. A first column named t or time, in
    seconds, gives the interval, as the rate of a .wav file does, whose integers become -1 to 1.

    Raises:
        ValueError: naming `option`, where there is no such file or no signal in it.
    """
    suffix = known_format(option, path)
    if not path.is_file():
        _checks.fail(option, "an existing file", str(path))
    dt = None
    try:
        if suffix == ".npy":
            y = np.load(path, allow_pickle=False)
        elif suffix == ".csv":
            names, y = _table(path.read_text(encoding="utf-8-sig"))
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", wavfile.WavFileWarning)  # of further chunks
                rate, y = wavfile.read(path)
            y, dt = _unit_range(y), 1 / rate
    except Exception as error:  # damaged bytes make numpy and scipy raise many kinds
        reason = " ".join(str(error).split())[:200]
        _checks.fail(option, f"a readable {suffix} file", f"{path.name}: {reason}")
    if y.dtype.kind not in "iuf":
        _checks.fail(option, "real numbers", f"dtype {y.dtype}")
    y = y.astype(np.float64)
    if suffix == ".csv":
        y, dt = _without_time(option, names, y)
    if y.ndim not in (1, 2) or 0 in y.shape or (y.ndim == 2 and y.shape[1] > y.shape[0]):
        _checks.fail(option, "samples (S,) or (S, channels)", f"shape {y.shape}")
    if len(y) < 4:
        _checks.fail(option, "at least 4 samples", len(y))
    _checks.finite(option, y)
    return (y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y), dt


def write_signal(path: Path, y: np.ndarray, dt: float) -> None:
    """Write samples (S, channels) to a file, which appears complete or not at all.

    .npy: the array as it is. .csv: a line `t,y1,y2,...`, then times in seconds and samples, which
    round-trip. .wav: 16-bit integers at 1 / dt samples a second, the highest peak at 0.9 of the
    range.
    """
    suffix = known_format("path", path)
    with appearing(path) as temporary, open(temporary, "wb") as file:
        if suffix == ".npy":
            np.save(file, y)
        elif suffix == ".csv":
            times = np.char.mod("%.12g", dt * np.arange(len(y)))
            header = ",".join(["t", *(f"y{k + 1}" for k in range(y.shape[1]))])
            table = np.column_stack([times, y.astype(str)])
            np.savetxt(file, table, fmt="%s", delimiter=",", header=header, comments="")
        else:
            peak = np.abs(y).max()
            scaled = y.astype(np.float64) * (_PEAK / peak if peak > 0 else 0)
            wavfile.write(file, round(1 / dt), np.rint(32767 * scaled).astype(np.int16))


def _table(text: str) -> tuple[list[str], np.ndarray]:
    """Names of the columns, if there are any, and numbers (rows, columns)."""
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    if not lines:
        raise ValueError("no numbers")
    delimiter = next((d for d in ";," if d in lines[-1]), None)
    if delimiter == ";":
        lines = [line.replace(",", ".") for line in lines]
    names = [name.strip(" \t\"'") for name in lines[0].split(delimiter)]
    if all(_is_number(name) for name in names):
        names = []
    return names, np.loadtxt(lines[bool(names) :], delimiter=delimiter, ndmin=2)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _without_time(
    option: str, names: list[str], columns: np.ndarray
) -> tuple[np.ndarray, float | None]:
    """The columns less one of times, and the interval of these."""
    first = names[0].lower() if names else ""
    if not re.match(r"(t|time)\b|time_", first):
        return columns, None
    if not re.fullmatch(r"(t|time)[\s_]*[\[(]?(s|sec|second|seconds)?[\])]?", first):
        _checks.fail(option, "times in seconds, such as a column 'time [s]'", repr(names[0]))
    if columns.shape[1] < 2:
        _checks.fail(option, "a column of samples beside that of times", "none")
    times = columns[:, 0]
    _checks.finite(option, times)
    if len(times) < 4:
        _checks.fail(option, "at least 4 samples", len(times))
    dt = float(times[-1] - times[0]) / (len(times) - 1)
    if not dt > 0:
        _checks.fail(option, "times that rise", f"from {times[0]:g} to {times[-1]:g}")
    off = np.abs(times - times[0] - dt * np.arange(len(times)))
    if off.max() > _JITTER * dt:
        got = f"{times[off.argmax()]:g} s, which is {off.max() / dt:.2g} steps of {dt:.4g} s off"
        _checks.fail(option, "evenly spaced times", got)
    return columns[:, 1:], dt


def _unit_range(y: Any) -> np.ndarray:
    """Integers of a .wav file as -1 to 1: those of 8 bits have their zero at 128."""
    if y.dtype == np.uint8:
        return (y.astype(np.float64) - 128) / 128
    if y.dtype.kind == "i":
        return y.astype(np.float64) / -float(np.iinfo(y.dtype).min)
    return y
