"""`ctrnn export`: what the library saves, for other programs."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from typer import Argument, Option

from .._files.exports import FORMATS, known_export, labelled, write_export
from .._files.models import writer
from .._files.recordings import Recording
from .._simulate.trajectory import Trajectory
from .._util import checks
from .._util.classes import listed
from .._util.labelled import Labelled
from .options import fits, new_file
from .parts import loaded


def export(
    file: Annotated[
        Path,
        Argument(
            help="A .ctrnn file: a trajectory, a network, an oscillator or weights; or a recording."
        ),
    ],
    to: Annotated[
        str | None, Option(help=f"{listed(FORMATS)}.", show_default="the ending of --out")
    ] = None,
    out: Annotated[
        Path | None, Option(help="File to write.", show_default="FILE with the ending of --to")
    ] = None,
) -> None:
    """Write a trajectory or a network for pandas, R, MATLAB, xarray, ...

    A .csv of a trajectory has a row for each trajectory and saved time: trajectory, time, x1, x2,
    ..., what was observed, and, repeated in each row, what there is once for a trajectory. That of
    a network has a row for each neuron: A1, A2, ... (A is what --weights takes), bias, ...
    nc (netCDF) and zarr need the extra files: pip install "ctrnn-jax[files]".
    """
    to = known_export("--to", to, out)
    out = file.parent / f"{file.stem}.{to}" if out is None else out
    new_file(out)
    with loaded("FILE", file) as obj:
        told = told_of(file, obj)
        if isinstance(obj, Recording):
            count = sum(array.size for array in obj.stored.values())
            fits(f"{count} numbers", 8 * count, 8 * count, out)
            obj = obj[:]
        found = labelled(obj)
        if found is None:
            expected = "a file with a trajectory, a network, an oscillator or weights"
            checks.fail("FILE", expected, type(obj).__name__)
        found.attributes.update(told)
    count = found.table_size if to == "csv" else found.size
    # A number has up to 25 characters; what is converted or put into a table is copied.
    fits(f"{count} numbers", 40 * count, (25 if to == "csv" else 8) * count, out)
    write_export(out, to, found)
    print(f"{found.attributes['kind']} in {out}: {', '.join(_shapes(found))}")


def _shapes(found: Labelled) -> list[str]:
    return [f"{name} {v.values.shape}" for name, v in found.variables.items()]


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, bool) else value


def told_of(file: Path, obj: Any) -> dict[str, Any]:
    """What is known of a file beside its contents: who wrote it, and the settings of the run.

    The latter are in the summary.json that `ctrnn simulate` leaves beside it, where that is of
    this run. A recording tells itself.
    """
    if isinstance(obj, Recording):
        return {name: _plain(value) for name, value in obj.settings.items() if name != "kind"}
    told: dict[str, Any] = {"ctrnn_jax_version": writer(file) or "not told"}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        results = json.loads((file.parent / "summary.json").read_text())["results"]
        steps, dt = results["steps"], results["dt"]
        if (
            isinstance(obj, Trajectory)
            and obj.stopped_at.shape == (results["states"],)
            and obj.xs is not None
            and obj.xs.shape[1:] == (1 + steps // results["save_every"], results["neurons"])
            and math.isclose(float(np.asarray(obj.ts)[-1]), steps * dt, rel_tol=1e-5)
        ):
            told |= {"solver": results["solver"], "dt": dt, "save_every": results["save_every"]}
    return told
