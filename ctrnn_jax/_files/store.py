"""The layout of a recording: arrays of zarr 3, cut along time, and files that appear whole."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .._util.stored import Stored

ROOT = "zarr.json"
_BYTES_AT_ONCE = 2**22


def metadata_of(
    dims: tuple[str, ...], shape: list[int], chunk: list[int], dtype: np.dtype, attributes: Any
) -> dict[str, Any]:
    """An array as zarr 3 describes it, its chunks without a codec."""
    endian = {"configuration": {"endian": "little"}} if dtype.itemsize > 1 else {}
    fill: Any = 0
    if dtype.kind == "f":
        fill = "NaN"
    elif dtype.kind == "c":
        fill = ["NaN", "NaN"]
    elif dtype.kind == "b":
        fill = False
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": dtype.name,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [max(1, size) for size in chunk]},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": [{"name": "bytes", **endian}],
        "attributes": attributes,
        "dimension_names": list(dims),
        "storage_transformers": [],
    }


def stored_in(folder: Path, metadata: dict[str, Any], piece: int) -> Stored:
    axis = metadata["dimension_names"].index("time")
    dtype = np.dtype(metadata["data_type"]).newbyteorder("<")
    return Stored(folder, tuple(metadata["shape"]), dtype, axis, piece)


def root_of(attributes: dict[str, Any], arrays: dict[str, Any]) -> bytes:
    consolidated = {"kind": "inline", "must_understand": False, "metadata": arrays}
    return as_json(
        {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": attributes,
            "consolidated_metadata": consolidated,
        }
    )


def as_json(value: Any) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False).encode()


def filled_up(part: np.ndarray, axis: int, size: int) -> Iterator[np.ndarray]:
    """The values in pieces of a few MiB, in order, filled up along the axis."""
    rows = part.reshape(-1, *part.shape[axis:])
    each = max(
        1, _BYTES_AT_ONCE // max(1, size * part.itemsize * math.prod(part.shape[axis + 1 :]))
    )
    missing = size - rows.shape[1]
    for begin in range(0, len(rows), each):
        piece = rows[begin : begin + each]
        if missing:
            piece = np.pad(piece, [(0, 0), (0, missing)] + [(0, 0)] * (piece.ndim - 2))
        yield bytes_of(piece)


def bytes_of(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


def write_file(path: Path, pieces: Any, store: Path, *, sync: bool = True) -> None:
    """A file that appears whole, and is on the disk.

    Under a name that is known, not by `writing.appearing`: what a kill leaves is written over.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            if sync:
                os.fsync(file.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        got = f"{error.strerror or error} at {path}"
        expected = f"a disk to write to; {store} keeps what it holds, and record goes on from there"
        raise OSError(error.errno, f"path: expected {expected}, got {got}") from error
    os.replace(partial, path)
    if sync:
        with contextlib.suppress(OSError):  # folders cannot be opened everywhere
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
