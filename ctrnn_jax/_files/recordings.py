"""Runs on disk, and how they are read: nothing but what is asked for."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._network.model import CTRNN
from .._simulate.resume import End
from .._simulate.trajectory import Trajectory
from .._util import checks
from .._util.stored import Stored
from .._util.types import PyTree
from .models import load
from .store import ROOT, stored_in

KIND, VERSION = "ctrnn_jax recording", 1
OWN = "ctrnn"  # the folder of what is not for zarr, and the attribute that tells of it
NETWORK = "network.ctrnn"


@dataclasses.dataclass(frozen=True)
class Recording:
    """A run on disk, of which only what is asked for is read; see `record`.

    Attributes:
        path: its folder, a store of zarr 3, which `xarray.open_zarr` opens, too.
        settings: network, solver, steps and versions in words.
        xs: (..., S, n) states as `Stored`, or None: indexed as an array, each axis by itself.
        observed: what `observe` returned, (..., S, ...) as `Stored`, in dicts and lists; or None.
    """

    path: Path
    settings: dict[str, Any]
    header: dict[str, Any] = dataclasses.field(repr=False)
    stored: dict[str, Stored] = dataclasses.field(repr=False)

    @property
    def num_saves(self) -> int:
        """How many saves there are up to now, S."""
        return self.header["saves"]

    @property
    def complete(self) -> bool:
        """Whether the run was made to its end."""
        return self.num_saves == self.header["of"]

    @property
    def ts(self) -> np.ndarray:
        """(S,) times in seconds."""
        return self.stored["time"][:] if self.stored else np.zeros(0)

    @property
    def xs(self) -> Stored | None:
        """(..., S, n) states, or None with `keep_states=False`."""
        return self.stored.get("x")

    @property
    def observed(self) -> PyTree:
        """What `observe` returned, (..., S, ...), or None."""
        return jax.tree.map(self.stored.__getitem__, self.header["observed"])

    @property
    def end(self) -> End:
        """Where the recorded part ends: `simulate(rnn, recording.end, ...)` goes on from there.

        The carry of a fold is in dicts, lists and tuples, or a list of its arrays.
        """
        if not self.num_saves:
            checks.fail("recording", "one with saves", f"{self.path}, which has none yet")
        try:
            return load(self.path / OWN / end_file(self.num_saves))
        except FileNotFoundError:  # it has grown since it was opened
            return open_recording(self.path).end

    @property
    def folded(self) -> PyTree:
        """The carry of `fold` at the end, one per trajectory (..., ...), or None; see `end`."""
        return self.end.folded

    @property
    def stopped_at(self) -> jax.Array:
        """(...,) as in `Trajectory`, at the end."""
        return self.end.stopped_at

    @property
    def unconverged_at(self) -> jax.Array:
        """(...,) as in `Trajectory`, at the end."""
        return self.end.unconverged_at

    @property
    def rnn(self) -> CTRNN:
        """The network.

        Raises:
            FileNotFoundError: where it could not be saved, as one of a class of one's own.
        """
        return load(self.path / OWN / NETWORK)

    def __len__(self) -> int:
        return self.num_saves

    def __getitem__(self, saves: slice) -> Trajectory:
        """A slice of the saves in memory, such as `recording[-100:]` or `recording[::10]`."""
        checks.instance("saves", saves, slice, "a slice, as in recording[:100]")

        def part(stored: Stored | None) -> Any:
            return None if stored is None else stored[(slice(None),) * stored.axis + (saves,)]

        parts = jax.tree.map(part, (self.stored.get("time"), self.xs, self.observed))
        for leaf in jax.tree.leaves(parts):
            if jax.dtypes.canonicalize_dtype(leaf.dtype) != leaf.dtype:
                hint = 'jax.config.update("jax_enable_x64", True)'
                checks.fail(str(self.path), f"jax_enable_x64 on for {leaf.dtype}", f"off: {hint}")
        ts, xs, observed = jax.tree.map(jnp.asarray, parts)
        end = self.end
        return Trajectory(ts, xs, observed, None, end.stopped_at, end.unconverged_at)

    def parts(self) -> Iterator[Trajectory]:
        """The saves of one chunk after the other."""
        for begin in range(0, self.num_saves, self.header["chunk"]):
            yield self[begin : begin + self.header["chunk"]]

    def to_xarray(self) -> Any:
        """An `xarray.Dataset` as of `Trajectory.to_xarray`, of which only what is used is read.

        Raises:
            ImportError: where xarray or zarr is not installed: they are in the extra `files`.
        """
        xarray = checks.module("xarray", extra="files")
        checks.module("zarr", extra="files")
        return xarray.open_zarr(self.path, consolidated=True, chunks=None)


def open_recording(path: str | os.PathLike[str]) -> Recording:
    """Read what `record` wrote, or has written up to now.

    Args:
        path: the folder.

    Returns:
        A `Recording`: nothing but its description is in memory.

    Raises:
        FileNotFoundError: where there is no such folder.
        ValueError: where it is no recording, of a newer version, or lacks something.
    """
    path = Path(os.path.realpath(os.fspath(path)))
    if not path.is_dir():
        checks.fail("path", "the folder of a recording", f"{path}", FileNotFoundError)
    expected = "a folder written by ctrnn_jax.record"
    try:
        root = json.loads((path / ROOT).read_bytes())
        settings = root["attributes"]
        header = settings.pop(OWN)
        if header["kind"] != KIND:
            raise ValueError(header["kind"])
        if header["version"] <= VERSION:
            metadata = root["consolidated_metadata"]["metadata"]
            stored = {
                name: stored_in(path / name, one, header["chunk"])
                for name, one in metadata.items()
                if "time" in one["dimension_names"]
            }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        checks.fail("path", expected, f"{path}: {type(error).__name__}: {error}")
    if header["version"] > VERSION:
        checks.fail("path", f"a recording of version {VERSION}", f"{path} of a newer one")
    for one in stored.values():
        bytes_each = math.prod(one.file_shape) * one.dtype.itemsize
        for file in one.files:
            if not file.is_file() or file.stat().st_size != bytes_each:
                checks.fail("path", f"{file} of {bytes_each} bytes", "another size or no file")
    return Recording(path, settings, header, stored)


def end_file(saves: int) -> str:
    return f"end-{saves}.ctrnn"
