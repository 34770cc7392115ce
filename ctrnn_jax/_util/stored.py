"""Arrays on disk, in pieces along time, of which only what is asked for is read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from . import checks


@dataclasses.dataclass(frozen=True)
class Stored:
    """An array (..., S, ...) of which each file holds the values at `piece` times, little-endian.

    Indexed as a NumPy array by integers, slices, lists and masks, each axis by itself: lists for
    two axes give all pairs, as in xarray. What comes is a NumPy array in memory, or a number.

    Attributes:
        folder: where the files are, in the layout of zarr 3: c/0/.../k/.../0.
        shape: of what is there.
        dtype: of the values.
        axis: that of time.
        piece: times in a file.
    """

    folder: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    axis: int
    piece: int

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of values."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy
        whole = self[...]
        return whole if dtype is None else whole.astype(dtype)

    def __getitem__(self, index: Any) -> Any:
        index = self._each_axis(index)
        times = np.arange(self.shape[self.axis])[index[self.axis]]
        found = [
            self._of_piece(k, index, here) for k, here in self._by_pieces(np.atleast_1d(times))
        ]
        whole = np.concatenate(found, self.axis) if len(found) != 1 else found[0]
        # From the last to the first: an axis that an integer takes away moves none before it.
        for axis in reversed(range(self.ndim)):
            if isinstance(index[axis], int):
                whole = whole.take(0, axis)
        return whole

    def parts(self) -> Iterator[np.ndarray]:
        """The values of one file after the other."""
        lead = (slice(None),) * self.axis
        for begin in range(0, self.shape[self.axis], self.piece):
            yield self[*lead, begin : begin + self.piece]

    def file(self, k: int) -> Path:
        """That of piece k."""
        return self.folder.joinpath("c", *(str(k * (a == self.axis)) for a in range(self.ndim)))

    @property
    def file_shape(self) -> tuple[int, ...]:
        """Of the values in each file, the last one filled up."""
        return (*self.shape[: self.axis], self.piece, *self.shape[self.axis + 1 :])

    @property
    def files(self) -> Iterator[Path]:
        """Those that hold the values."""
        return map(self.file, range(-(-self.shape[self.axis] // self.piece)))

    def _each_axis(self, index: Any) -> list[Any]:
        """An index of each axis: an integer >= 0, a slice, or an array of integers."""
        index = list(index) if isinstance(index, tuple) else [index]
        dots = [i for i, one in enumerate(index) if one is Ellipsis]
        if len(index) - len(dots) > self.ndim or len(dots) > 1:
            checks.fail("index", f"at most {self.ndim} axes", len(index), IndexError)
        at = dots[0] if dots else len(index)
        missing = [slice(None)] * (self.ndim - len(index) + len(dots))
        index[at : at + len(dots)] = missing
        return [self._one_axis(one, size) for one, size in zip(index, self.shape, strict=True)]

    @staticmethod
    def _one_axis(one: Any, size: int) -> Any:
        if isinstance(one, slice):
            return one
        array = np.asarray(one)
        kinds = array.ndim <= 1 and (array.dtype.kind in "iu" or array.size == 0)
        if array.dtype == bool and array.shape == (size,):
            array, kinds = np.flatnonzero(array), True
        if not kinds:
            expected = "an integer, a slice, a list of integers or a mask for each axis"
            checks.fail("index", expected, repr(one), IndexError)
        array = array.astype(int)
        if array.size and not (-size <= array.min() and array.max() < size):
            checks.fail("index", f"places below {size}", one, IndexError)
        return int(array) % size if array.ndim == 0 else array % max(size, 1)

    def _by_pieces(self, times: np.ndarray) -> Iterator[tuple[int, Any]]:
        """Pieces in the order of the times, and where in them these are."""
        if not times.size:
            yield 0, slice(0)
            return
        pieces = times // self.piece
        starts = np.flatnonzero(np.diff(pieces, prepend=-1))
        for begin, end in zip(starts, [*starts[1:], len(times)], strict=True):
            here = times[begin:end] - pieces[begin] * self.piece
            steps = np.diff(here)
            if len(here) == 1 or (steps[0] > 0 and (steps == steps[0]).all()):
                here = slice(here[0], here[-1] + 1, steps[0] if len(here) > 1 else 1)
            yield int(pieces[begin]), here

    def _of_piece(self, k: int, index: list[Any], here: Any) -> np.ndarray:
        """A copy; axes of integers stay, of size 1."""
        kept = [slice(i, i + 1) if isinstance(i, int) else i for i in index]
        kept[self.axis] = here
        if 0 in self.file_shape:
            values = np.zeros(self.file_shape, self.dtype)
        else:
            values = np.memmap(self.file(k), self.dtype, "r", shape=self.file_shape)
        values = values[tuple(i if isinstance(i, slice) else slice(None) for i in kept)]
        for axis, one in enumerate(kept):
            if not isinstance(one, slice):
                values = values.take(one, axis)
        return np.array(values)


def by_parts(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(rnn, name, x, ...)` of states (..., n), also of those on disk: part after part."""

    @wraps(function)
    def wrapped(rnn: Any, name: str, x: Any, *more: Any) -> Any:
        if not isinstance(x, Stored):
            return function(rnn, name, x, *more)
        found = [np.asarray(function(rnn, name, part, *more)) for part in x.parts()]
        return jnp.asarray(np.concatenate(found, x.axis))

    return wrapped
