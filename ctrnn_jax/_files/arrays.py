"""One array out of a file: of NumPy, of PyTorch, of safetensors, or a table."""

from __future__ import annotations

import math
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .._util import checks
from .cells import INDEX
from .tables import read_table

FORMATS = "a .npy, .npz, .csv, .safetensors, .pt or .pth file"
_MOST_LISTED = 40


def numpy_array(
    name: str, path: Path, array: str | None = None, *, selects: bool = True
) -> np.ndarray:
    """One real array with something in it, whatever of the two kinds the file is by its bytes.

    `selects`: whether the caller lets `array` be chosen, which messages then say.
    """

    def read() -> np.ndarray:
        with open(path, "rb") as file:
            start = file.read(6)
            file.seek(0)
            if start[:2] != b"PK":
                _only_array(array)
                return npy_array(file, os.path.getsize(path))
            with zipfile.ZipFile(file) as archive:
                sizes = {info.filename: info.file_size for info in archive.infolist()}
                shapes = {}
                for member in sizes:
                    if member.endswith(".npy"):
                        with archive.open(member) as opened:
                            shapes[member.removesuffix(".npy")] = _npy_header(opened)[0]
                chosen = _chosen(name, shapes, array, selects)
                with archive.open(f"{chosen}.npy") as member:
                    return npy_array(member, sizes[f"{chosen}.npy"])

    return _real(name, _readable(name, path, read))


def _readable(name: str, path: Path, read: Callable[[], np.ndarray]) -> np.ndarray:
    """What `read` returns, or one line."""
    try:
        return read()
    except ImportError:
        raise
    except Exception as error:  # damaged bytes make numpy, zipfile and torch raise many kinds
        if str(error).startswith((f"{name}: expected", "array: expected")):
            raise
        reason = " ".join(str(error).split())[:200]
        checks.fail(name, f"a readable {path.suffix} file", f"{path.name}: {reason}")


def _only_array(array: str | None) -> None:
    if array is not None:
        checks.fail("array", "none: the file holds one array", repr(array))


def _chosen(
    name: str, shapes: Mapping[str, Sequence[int]], array: str | None, selects: bool
) -> str:
    """The name of the array that is meant, of all that a file has."""
    listed = [f"{key} {tuple(shape)}" for key, shape in shapes.items()]
    if len(listed) > _MOST_LISTED:
        listed[_MOST_LISTED:] = [f"and {len(listed) - _MOST_LISTED} more"]
    if array is None and len(shapes) != 1:
        got = f"{len(shapes)} arrays{': ' * bool(listed)}{', '.join(listed)}"
        checks.fail(name, "a file of one array", got + " (array decides)" * selects)
    if array is not None and array not in shapes:
        checks.fail("array", f"one of {', '.join(listed)}", repr(array))
    return next(iter(shapes)) if array is None else array


def _safetensors(name: str, path: Path, array: str | None, selects: bool) -> np.ndarray:
    module = checks.module("safetensors", extra="files")
    with module.safe_open(path, framework="np") as file:
        shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
        return file.get_tensor(_chosen(name, shapes, array, selects))


def _state_dict(name: str, path: Path, array: str | None, selects: bool) -> np.ndarray:
    """Of PyTorch: a tensor, or tensors by name, also in dictionaries within each other."""
    torch = checks.module("torch")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        expected = "tensors by name, as torch.save(model.state_dict(), path) leaves them"
        checks.fail(name, expected, f"{path.name} of something else, which is not run")
    tensors: dict[str, Any] = {}

    def collect(place: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            tensors[place] = value
        elif isinstance(value, Mapping):
            for key, item in value.items():
                collect(f"{place}.{key}" if place else str(key), item)

    collect("", found)
    shapes = {place: tuple(tensor.shape) for place, tensor in tensors.items()}
    tensor = tensors[_chosen(name, shapes, array, selects)].detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def npy_array(file: Any, size: int) -> np.ndarray:
    """The array of a .npy file of `size` bytes; the header may declare no more than that."""
    shape, fortran, dtype = _npy_header(file)
    if dtype.hasobject:
        raise ValueError("Python objects, which are not read")
    if math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"{size} bytes, which are no array of {dtype} {shape}")
    data = file.read(math.prod(shape) * dtype.itemsize)
    flat = np.frombuffer(data, dtype, math.prod(shape))
    return flat.reshape(shape, order="F" if fortran else "C")


def add_npy(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    """Put an array into an open .npz file; the same one always gives the same bytes."""
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
        np.lib.format.write_array(member, array, allow_pickle=False)


def _npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0}
    return read.get(version, np.lib.format.read_array_header_2_0)(file)


def _real(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.names:
        fields = ", ".join(array.dtype.names)
        checks.fail(name, "real numbers", f"a structured array of {fields}")
    if array.dtype.name == "bfloat16":  # a dtype of ml_dtypes, which NumPy takes for bytes
        array = array.astype(np.float32)
    if array.dtype.kind not in "iuf":
        checks.fail(name, "real numbers", f"dtype {array.dtype}")
    if not array.size:
        checks.fail(name, "an array with something in it", f"shape {array.shape}")
    return array


_TENSORS = {".safetensors": _safetensors, ".pt": _state_dict, ".pth": _state_dict}


def read_array(
    name: str, path: Path, array: str | None = None, *, selects: bool = False
) -> np.ndarray:
    """One real, floating-point array from a file of one of the `FORMATS`.

    Numbers of a .csv file are as `tables` reads them; its columns of row numbers are left out.

    Args:
        name: how messages call the file.
        path: the file.
        array: which one, where there are several.
        selects: whether the caller lets `array` be chosen, which messages then say.
    """
    if not path.is_file():
        checks.fail(name, "an existing file", str(path))
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz"):
        values = numpy_array(name, path, array, selects=selects)
    elif suffix in _TENSORS:
        read = partial(_TENSORS[suffix], name, path, array, selects)
        values = _real(name, _readable(name, path, read))
    elif suffix == ".csv":
        _only_array(array)
        table = read_table(name, path.read_bytes(), matrix=True)
        columns = range(len(table.names))
        kept = [
            k
            for k in columns
            if not (table.row_names and k == 0)
            and not (table.has_header and table.names[k].lower() in ("", *INDEX))
        ]
        values = np.stack([table.finite(k) for k in kept or columns], axis=1)
    else:
        checks.fail(name, FORMATS, path.name)
    if values.dtype.kind in "iu":
        values = values.astype(float)
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    if values.dtype.itemsize < 4:  # half precision: its rounding is no measure for the matrix
        values = values.astype(np.float32)
    return values.astype(np.float64) if values.dtype.itemsize > 8 else values
