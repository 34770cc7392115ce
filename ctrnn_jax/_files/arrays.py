"""One array out of a file of NumPy, an .npz archive among them, and matrices as files."""

from __future__ import annotations

import math
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from .._util import checks
from .cells import INDEX
from .tables import read_table


def numpy_array(name: str, path: Path, array: str | None = None) -> np.ndarray:
    """One real array with something in it, whatever of the two kinds the file is by its bytes."""
    try:
        with open(path, "rb") as file:
            start = file.read(6)
            file.seek(0)
            if start[:2] != b"PK":
                if array is not None:
                    checks.fail("array", "none: the file holds one array", repr(array))
                return _real(name, npy_array(file, os.path.getsize(path)))
            with zipfile.ZipFile(file) as archive:
                sizes = {info.filename: info.file_size for info in archive.infolist()}
                names = [n.removesuffix(".npy") for n in sizes if n.endswith(".npy")]
                if array is None and len(names) != 1:
                    got = f"{len(names)} arrays: {', '.join(names)} (array decides)"
                    return checks.fail(name, "an .npz file of one array", got)
                chosen = names[0] if array is None else array
                if chosen not in names:
                    checks.fail("array", "one of " + ", ".join(map(repr, names)), repr(array))
                with archive.open(f"{chosen}.npy") as member:
                    return _real(name, npy_array(member, sizes[f"{chosen}.npy"]))
    except Exception as error:  # damaged bytes make numpy and zipfile raise many kinds
        if str(error).startswith((f"{name}: expected", "array: expected")):
            raise
        reason = " ".join(str(error).split())[:200]
        checks.fail(name, f"a readable {path.suffix} file", f"{path.name}: {reason}")


def npy_array(file: Any, size: int) -> np.ndarray:
    """The array of a .npy file of `size` bytes; the header may declare no more than that."""
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0}
    shape, fortran, dtype = read.get(version, np.lib.format.read_array_header_2_0)(file)
    if dtype.hasobject:
        raise ValueError("Python objects, which are not read")
    if math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"{size} bytes, which are no array of {dtype} {shape}")
    data = file.read(math.prod(shape) * dtype.itemsize)
    flat = np.frombuffer(data, dtype, math.prod(shape))
    return flat.reshape(shape, order="F" if fortran else "C")


def _real(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.names:
        fields = ", ".join(array.dtype.names)
        checks.fail(name, "real numbers", f"a structured array of {fields}")
    if array.dtype.kind not in "iuf":
        checks.fail(name, "real numbers", f"dtype {array.dtype}")
    if not array.size:
        checks.fail(name, "an array with something in it", f"shape {array.shape}")
    return array


def read_array(name: str, path: Path, array: str | None = None) -> np.ndarray:
    """One real, floating-point array from a .npy, .npz or .csv file.

    Numbers of a .csv file are as `tables` reads them; its columns of row numbers are left out.
    """
    if not path.is_file():
        checks.fail(name, "an existing file", str(path))
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz"):
        values = numpy_array(name, path, array)
    elif suffix == ".csv":
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
        checks.fail(name, "a .npy, .npz or .csv file", path.name)
    if values.dtype.kind in "iu":
        values = values.astype(float)
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    if values.dtype.itemsize < 4:  # half precision: its rounding is no measure for the matrix
        values = values.astype(np.float32)
    return values.astype(np.float64) if values.dtype.itemsize > 8 else values
