"""Arrays by names, with named dimensions and units: what other programs are given."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from . import checks


class Variable(NamedTuple):
    """An array, a name for each of its dimensions, and what is to be known of it."""

    dims: tuple[str, ...]
    values: np.ndarray
    attributes: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Variables by name.

    Attributes:
        rows: dimensions whose places are the rows of a table; all others are columns.
        attributes: of the whole, strings and numbers.
        variables: by names of letters, digits and underscores.
    """

    rows: tuple[str, ...]
    attributes: dict[str, str | int | float]
    variables: dict[str, Variable] = dataclasses.field(default_factory=dict)

    def add(self, name: str, value: Any, dims: tuple[str, ...], **attributes: str) -> None:
        """Take an array in, whose further dimensions are named after it."""
        name = re.sub(r"\W", "_", name, flags=re.ASCII)
        while name in self.variables:
            name += "_"
        values = np.asarray(value)
        if jnp.issubdtype(values.dtype, jnp.floating) and values.dtype.itemsize < 4:
            values = values.astype(np.float32)  # other programs do not know all of these
        further = tuple(f"{name}_{k}" for k in range(values.ndim - len(dims)))
        self.variables[name] = Variable((*dims, *further), values, attributes)

    def add_tree(self, name: str, tree: Any, dims: tuple[str, ...], shape: tuple[int, ...]) -> None:
        """Take the arrays of a tree in, called by their places in it.

        Those whose leading axes are `shape` have them called `dims`.
        """
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if np.asarray(leaf).dtype.kind in "OUS":
                continue
            place = jax.tree_util.keystr(path, simple=True, separator="_")
            led = np.shape(leaf)[: len(shape)] == shape
            self.add("_".join([name, place] if place else [name]), leaf, dims if led else ())

    def without_complex(self) -> Labelled:
        """Real and imaginary parts on their own, for what has no complex numbers."""
        parts = Labelled(self.rows, self.attributes)
        for name, (dims, values, attributes) in self.variables.items():
            if values.dtype.kind == "c":
                parts.add(f"{name}_real", np.real(values), dims, **attributes)
                parts.add(f"{name}_imag", np.imag(values), dims, **attributes)
            else:
                parts.variables[name] = Variable(dims, values, attributes)
        return parts

    @property
    def table_shape(self) -> tuple[int, ...]:
        """How many places each dimension of the rows has."""
        sizes: dict[str, int] = {}
        for dims, values, _ in self.variables.values():
            sizes |= zip(dims, values.shape, strict=True)
        return tuple(sizes[dim] for dim in self.rows)

    @property
    def table_size(self) -> int:
        """How many numbers the table of `columns` has, repeated ones included; at most."""
        inner = (
            [size for dim, size in zip(dims, values.shape, strict=True) if dim not in self.rows]
            for dims, values, _ in self.variables.values()
        )
        return math.prod(self.table_shape) * (len(self.rows) + sum(map(math.prod, inner)))

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return sum(values.size for _, values, _ in self.variables.values())

    def columns(self) -> Iterator[tuple[str, np.ndarray]]:
        """The columns of a table: what is the same in many rows is repeated.

        Trajectories, members and saves without a common time are numbered from 0; columns of what
        has several values in a row from 1, as in x1, x2.
        """
        shape = self.table_shape
        for axis, dim in enumerate(self.rows):
            if dim not in self.variables and dim != "neuron":
                count = np.arange(shape[axis]).reshape(-1, *[1] * (len(shape) - axis - 1))
                yield dim, np.broadcast_to(count, shape).ravel()
        for name, (dims, values, _) in self.variables.items():
            if name in dims and name not in self.rows:
                continue  # the coordinate of another table
            inner = [dim for dim in dims if dim not in self.rows]
            order = [dims.index(dim) for dim in (*self.rows, *inner) if dim in dims]
            values = values.transpose(order)
            values = values[tuple(slice(None) if dim in dims else None for dim in self.rows)]
            numbers = values.shape[len(shape) :]
            values = np.broadcast_to(values, shape + numbers).reshape(-1, *numbers)
            for place in np.ndindex(numbers):
                yield name + "_".join(str(k + 1) for k in place), values[:, *place]

    def to_xarray(self) -> Any:
        """As an `xarray.Dataset`; times are a coordinate."""
        xarray = checks.module("xarray", extra="files")
        dataset = xarray.Dataset(dict(self.variables), attrs=self.attributes)
        return dataset.set_coords([name for name in self.variables if name == "time"])
