"""What drives a network from outside on the command line: inputs from files, and noise."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .._files.arrays import read_array
from .._files.signals import read_signal
from .._util import checks
from .._util.types import Array


class Inputs(NamedTuple):
    """Inputs as they were read: (steps, m) or (states, steps, m), and their interval, if told."""

    name: str
    values: np.ndarray
    dt: float | None

    @property
    def steps(self) -> int:
        return self.values.shape[-2]

    @property
    def count(self) -> int:
        """How many inputs there are, m."""
        return self.values.shape[-1]

    def interval(self, dt: float | None, otherwise: float | None) -> float | None:
        """The time step by --dt and the file, which must not contradict each other."""
        if dt is None:
            return otherwise if self.dt is None else self.dt
        if self.dt is not None and not math.isclose(self.dt, dt, rel_tol=1e-4):
            checks.fail("--dt", f"none, or the {self.dt:.6g} s that {self.name} has", dt)
        return dt


def read_inputs(path: Path, *, each: bool = False) -> Inputs:
    """--inputs, without a column of times; `each` allows some for each state, too."""
    option, dt = "--inputs", None
    if path.suffix.lower() == ".csv":
        read = read_signal(path, name=option)
        values, dt = read.samples, read.dt
    else:
        values = read_array(option, path)
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim not in ((2, 3) if each else (2,)):
        expected = "(steps, inputs)" + " or (states, steps, inputs)" * each
        checks.fail(option, f"shape {expected}", values.shape)
    checks.finite(option, values)
    return Inputs(path.name, values, dt)


class Drive(NamedTuple):
    """What drives the states of a run.

    Attributes:
        inputs: (steps, m), or (states, steps, m), or None.
        noise: intensity, or None.
        key: of the noise, or None.
    """

    inputs: Array | None = None
    noise: float | None = None
    key: Any = None

    def __bool__(self) -> bool:
        return self.inputs is not None or self.noise is not None

    def options(self, steps: int | None = None, rows: Any = None) -> dict[str, Any]:
        """For `simulate`, of some steps from the first on and some of the states."""
        inputs = self.inputs
        if inputs is not None:
            inputs = inputs[rows] if inputs.ndim == 3 and rows is not None else inputs
            inputs = inputs[..., :steps, :]
        return {"inputs": inputs, "noise": self.noise, "key": self.key}
