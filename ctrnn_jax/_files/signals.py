"""Sampled signals as files: .npy, .npz, .csv and .wav."""

from __future__ import annotations

import dataclasses
import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import wavfile

from .._util import checks
from .arrays import numpy_array
from .tables import read_table
from .times import even_interval, split_table
from .writing import appearing

FORMATS = (".npy", ".csv", ".wav")
_PEAK = 0.9
_MOST_RATE = 2**32 - 1  # bytes a second, in the header of a .wav file


@dataclasses.dataclass(frozen=True)
class Signal:
    """A signal as it was read.

    Attributes:
        samples: (S,) or (S, channels), float64; with gaps nan where one is missing.
        dt: sampling interval in seconds, or None where the file does not say it.
        names: of the channels, "" for one without a name.
        times: (S,) in seconds from the first sample on where they are uneven, else None.
    """

    samples: np.ndarray
    dt: float | None
    names: tuple[str, ...]
    times: np.ndarray | None = None

    def __str__(self) -> str:
        count = len(self.names)
        named = ", ".join(name or str(k) for k, name in enumerate(self.names))
        what = f"{len(self.samples)} samples of {count} channel{'s' * (count > 1)} ({named})"
        if (missing := int(np.isnan(self.samples).sum())) > 0:
            what += f", {missing} values missing"
        if self.times is not None:
            what += f", at uneven times within {self.times[-1]:.6g} s"
        return what if self.dt is None else f"{what}, {self.dt:.6g} s apart"


def known_format(option: str, path: Path) -> str:
    """The file's ending, out of those that are written."""
    if path.suffix.lower() not in FORMATS:
        checks.fail(option, "a .npy, .csv or .wav file", path.name or path)
    return path.suffix.lower()


def read_signal(
    path: str | os.PathLike[str],
    *,
    columns: Sequence[str | int] | None = None,
    time_column: str | int | None = None,
    time_unit: str | None = None,
    array: str | None = None,
    decimal: str | None = None,
    header: bool | None = None,
    gaps: bool = False,
    name: str = "path",
) -> Signal:
    """Samples, sampling interval and names of the channels out of a file.

    A .csv file may have names, units, a preamble and comments above its numbers; tabs, semicolons,
    commas or blanks between them; decimal points or commas; and any encoding of spreadsheets. A
    column of times (t, time, timestamp, date, ms, ...; without a unit in seconds; also dates, or
    an epoch, whose unit its size tells) gives the interval. A column that counts up by one and has
    no name, or index, rownames or Unnamed: 0, is no channel. What a file leaves open is refused,
    with the argument that decides. The rate of a .wav file gives the interval, and its integers
    become -1 to 1.

    Args:
        path: a .npy, .npz, .csv or .wav file.
        columns: channels by name or by position in the file, from 0; all of them unless given.
        time_column: the column of times, by name or position, where its name does not tell.
        time_unit: "s", "ms", "us", "ns", "min" or "h", where the file does not tell.
        array: which array of an .npz file, where there are several.
        decimal: "." or ",", where the file leaves it open.
        header: whether the first of all lines of numbers holds names, where that is open.
        gaps: whether samples may be missing (nan, empty or `NA` cells) and times uneven, as
            `fit_signal` takes them.
        name: how messages call the file.

    Raises:
        ValueError: where there is no such file or no signal in it: infinite samples, words, without
            `gaps` missing samples and uneven times; the message names line and column.

    Example:
        >>> signal = ct.read_signal("scope.csv")
        >>> oscillator, report = ct.fit_signal(signal.samples, signal.dt)
        >>> signal = ct.read_signal("logger.csv", gaps=True)
        >>> fitted = ct.fit_signal(signal.samples, signal.dt, times=signal.times)
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".npy", ".npz", ".csv", ".wav"):
        checks.fail(name, "a .npy, .npz, .csv or .wav file", path.name)
    if not path.is_file():
        checks.fail(name, "an existing file", str(path))
    if decimal is not None:
        checks.one_of("decimal", decimal, (".", ","))
    if array is not None and suffix != ".npz":
        checks.fail("array", "none where the file is no .npz file", repr(array))
    for option, value in {"time_column": time_column, "time_unit": time_unit, "decimal": decimal,
                          "header": header}.items():  # fmt: skip
        if value is not None and suffix != ".csv":
            checks.fail(option, "none where the file is no .csv file", repr(value))
    dt, names, times = None, None, None
    if suffix == ".csv":
        table = read_table(name, path.read_bytes(), decimal=decimal, header=header)
        y, times, names = split_table(table, columns, time_column, time_unit, gaps=gaps)
        if len(y) < 4:
            checks.fail(name, "at least 4 samples", len(y))
        dt = None if times is None else even_interval(table, times, uneven=gaps)
    elif suffix == ".wav":
        y, dt = _wav(name, path)
    else:
        y = numpy_array(name, path, array)
    if names is None:
        y = y.astype(np.float64)
        y = _positions(name, y, columns) if columns is not None else y
        names = ("",) * (y.shape[1] if y.ndim == 2 else 1)
    if y.ndim not in (1, 2) or 0 in y.shape or (y.ndim == 2 and y.shape[1] > y.shape[0]):
        checks.fail(name, "samples (S,) or (S, channels)", f"shape {y.shape}")
    if len(y) < 4:
        checks.fail(name, "at least 4 samples", len(y))
    checks.finite(name, np.nan_to_num(y, posinf=np.inf, neginf=-np.inf) if gaps else y)
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    return Signal(y, dt, tuple(names), times if dt is None else None)


def wav_rate(option: str, rate: float, channels: int) -> int:
    """Whole samples a second, as many as the header of a .wav file holds."""
    whole, most = round(rate), _MOST_RATE // (2 * channels)
    if not 1 <= whole <= most:
        checks.fail(option, f"1 to {most} samples a second for .wav", f"{rate:.9g}")
    if not math.isclose(rate, whole, rel_tol=1e-6):
        checks.fail(option, "a whole number of samples a second for .wav", f"{rate:.9g}")
    return whole


def write_signal(path: Path, y: np.ndarray, dt: float) -> None:
    """Write samples (S, channels) to a file, which appears complete or not at all.

    .npy: the array as it is. .csv: a line `t,y1,y2,...`, then times in seconds and samples, which
    round-trip. .wav: 16-bit integers at 1 / dt samples a second, the highest peak at 0.9 of the
    range.
    """
    suffix = known_format("path", path)
    rate = 0
    if suffix == ".wav":
        rate = wav_rate("dt", 1 / dt, y.shape[1])
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
            wavfile.write(file, rate, np.rint(32767 * scaled).astype(np.int16))


def _positions(name: str, y: np.ndarray, columns: Sequence[str | int]) -> np.ndarray:
    """Channels of a file that has no names."""
    count = y.shape[1] if y.ndim == 2 else 1
    for column in columns:
        if not str(column).isdecimal() or int(column) >= count:
            checks.fail("columns", f"positions from 0 to {count - 1}", repr(column))
    return y.reshape(len(y), -1)[:, [int(column) for column in columns]]


def _wav(name: str, path: Path) -> tuple[np.ndarray, float]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # of further chunks
            rate, y = wavfile.read(path)
        return _unit_range(y), 1 / rate
    except Exception as error:  # damaged bytes make scipy raise many kinds
        reason = " ".join(str(error).split())[:200]
        checks.fail(name, "a readable .wav file", f"{path.name}: {reason}")


def _unit_range(y: Any) -> np.ndarray:
    """Integers of a .wav file as -1 to 1: those of 8 bits have their zero at 128."""
    if y.dtype == np.uint8:
        return (y.astype(np.float64) - 128) / 128
    if y.dtype.kind == "i":
        return y.astype(np.float64) / -float(np.iinfo(y.dtype).min)
    return y
