"""What this library saves, written in the formats of other programs."""

from __future__ import annotations

import dataclasses
import json
import warnings
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import diffrax
import equinox as eqx
import jax
import numpy as np

from .._network.activations import AbstractActivation
from .._network.products import AbstractWeights
from .._simulate.trajectory import Trajectory, labelled_run
from .._util import checks
from .._util.labelled import Labelled
from .arrays import add_npy
from .writing import appearing

_DIMS = {
    "A": ("neuron", "source"),
    "bias": ("neuron",),
    "leak": ("neuron",),
    "input_weights": ("neuron", "input"),
    "x0": ("neuron",),
    "readout": ("channel", "neuron"),
    "offset": ("channel",),
}
_WHOLE = (AbstractWeights, AbstractActivation, diffrax.AbstractSolver)
_UNITS = {"A": "1/s", "leak": "1/s"}
_MOST_BYTES, _MOST_LETTERS = 2**31 - 1, 63  # of a variable of MATLAB and of netCDF-3


def labelled(obj: Any) -> Labelled | None:
    """A trajectory, weights, a network or what has one, with names for its dimensions.

    Of networks the matrix A is told and not its parameters. None for anything else.
    """
    if isinstance(obj, Trajectory):
        return labelled_run(obj)
    parts = list(_parts("", obj))
    weights = [value for _, value in parts if isinstance(value, AbstractWeights)]
    if len(weights) != 1:
        return None
    A, members = _matrices(weights[0])
    leading = ("member", *(f"member_{k}" for k in range(1, members)))[:members]
    told: dict[str, Any] = {"kind": type(obj).__name__, "ctrnn_jax_version": version("ctrnn-jax")}
    found = Labelled((*leading, "neuron"), told)
    for name, value in parts:
        if value is weights[0]:
            name, value = "A", A
            found.attributes["weights"] = type(weights[0]).__name__
        if isinstance(value, jax.Array):
            own = _DIMS.get(name, ())[: max(0, value.ndim - members)]
            units = {"units": _UNITS[name]} if name in _UNITS else {}
            found.add(name, value, (*leading, *own), **units)
        elif value not in (None, ()):
            found.attributes[name] = _in_words(value)
    return found


def _parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The fields of a model and of the models in it; weights and settings stay whole."""
    if isinstance(value, eqx.Module) and not isinstance(value, _WHOLE):
        for field in dataclasses.fields(value):  # pyright: ignore[reportArgumentType]
            yield from _parts(field.name, getattr(value, field.name))
    else:
        yield name, value


def _matrices(weights: AbstractWeights) -> tuple[jax.Array, int]:
    """A (..., n, n), and how many leading axes an ensemble of networks has."""
    matrices, axes, member = type(weights).as_matrix, 0, weights
    while member.parameter_ndim is not None and any(
        leaf.ndim > member.parameter_ndim for leaf in jax.tree.leaves(member)
    ):
        member = jax.tree.map(lambda leaf: leaf[0], member)
        matrices, axes = jax.vmap(matrices), axes + 1
    return matrices(weights), axes


def _in_words(value: Any) -> str | int | float:
    """A setting as an attribute of a file, which has no truth values."""
    if isinstance(value, str | int | float):
        return int(value) if isinstance(value, bool) else value
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value))
    return type(value).__name__


def _write_csv(path: Path, found: Labelled) -> None:
    """The columns of `Labelled.columns`; attributes are left out."""
    import pandas  # heavy, and not needed by those who import the package

    table = pandas.DataFrame(dict(found.without_complex().columns()))
    table.to_csv(path, index=False, lineterminator="\n")


def _write_npz(path: Path, found: Labelled) -> None:
    """Arrays by name, and the attributes as JSON."""
    with zipfile.ZipFile(path, "w") as archive:  # np.savez is noisy when it fails
        for name, variable in found.variables.items():
            add_npy(archive, name, variable.values)
        add_npy(archive, "attributes", np.array(json.dumps(found.attributes)))


def _write_mat(path: Path, found: Labelled) -> None:
    """MATLAB's version 5, attributes as a struct."""
    from scipy.io import savemat

    _refuse_large("mat", found)
    arrays = {name: variable.values for name, variable in found.variables.items()}
    with open(path, "wb") as file:
        everything = arrays | {"attributes": found.attributes}
        savemat(file, everything, long_field_names=True, oned_as="column")


def _write_nc(path: Path, found: Labelled) -> None:
    """netCDF-3 with 64-bit offsets, as SciPy writes it: HDF5 crashes where the disk is full."""
    _refuse_large("nc", found)
    found.without_complex().to_xarray().to_netcdf(path, engine="scipy")


def _write_zarr(path: Path, found: Labelled) -> None:
    """A folder in version 3 of the format; where there is one already, none takes its place."""
    with warnings.catch_warnings():
        # That metadata in one place are not yet in the specification: all readers may look
        # elsewhere, and xarray warns where they are missing.
        warnings.filterwarnings("ignore", "Consolidated metadata")
        found.to_xarray().to_zarr(path, zarr_format=3, consolidated=True)


def _refuse_large(to: str, found: Labelled) -> None:
    for name, variable in found.variables.items():
        size = variable.values.nbytes
        if size > _MOST_BYTES or len(name) > _MOST_LETTERS:
            most = f"{_MOST_BYTES} bytes and names of {_MOST_LETTERS} letters"
            checks.fail(f".{to} file", f"variables of at most {most}", f"{name}, {size}")


# How it is written, and which modules that takes.
_WRITERS = {
    "csv": (_write_csv, ()),
    "npz": (_write_npz, ()),
    "mat": (_write_mat, ()),
    "nc": (_write_nc, ("xarray",)),
    "zarr": (_write_zarr, ("xarray", "zarr")),
}
FORMATS = tuple(_WRITERS)


def known_export(name: str, to: str | None, out: Path | None) -> str:
    """The format that is asked for, or that the ending of `out` tells; with all it needs."""
    if to is None and out is not None and out.suffix[1:].lower() in FORMATS:
        to = out.suffix[1:].lower()
    to = checks.one_of(name, to, FORMATS)
    for module in _WRITERS[to][1]:
        checks.module(module, extra="files")
    return to


def write_export(path: Path, to: str, found: Labelled) -> None:
    """Write in a format of `FORMATS`; the file appears complete or not at all."""
    with appearing(path) as temporary:
        _WRITERS[to][0](temporary, found)
