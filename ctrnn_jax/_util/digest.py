"""What a model or an argument is, in 64 letters: to tell whether it is the same later."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr

from .types import PyTree


def digest(tree: PyTree) -> str:
    """SHA-256 of structure, classes, static fields and values, the same in every process."""
    found = hashlib.sha256()

    def name(value: Any) -> str:
        if value is None or isinstance(value, bool | int | float | complex | str):
            return repr(value)
        if isinstance(value, list | tuple):
            return f"[{', '.join(map(name, value))}]"
        if isinstance(value, jax.Array):
            return "array"
        # Of other objects the repr may hold an address.
        known = value if hasattr(value, "__qualname__") else type(value)
        package = __name__.partition(".")[0]  # in which classes may move from file to file
        module = package if known.__module__.startswith(f"{package}.") else known.__module__
        return f"{module}.{known.__qualname__}"

    def visit(node: Any) -> bool:
        if isinstance(node, eqx.Module):
            fields = [f.name for f in dataclasses.fields(node) if f.metadata.get("static")]
            put(name(type(node)), [name(getattr(node, field)) for field in fields])
        return False

    def put(*items: Any) -> None:
        found.update(f"{items}\n".encode())

    for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=visit):
        put(keystr(path), name(leaf))
        if isinstance(leaf, jax.Array):
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                leaf = jax.random.key_data(leaf)
            put(leaf.dtype.name, leaf.shape)
            found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()
