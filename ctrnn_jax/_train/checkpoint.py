"""The file that holds a training between two chunks of steps."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr

from .._files.models import load, save
from .._util import checks
from .._util.types import PyTree


class Checkpoint:
    """A file for one training: that of this model, data, key, settings and kind of optimizer."""

    def __init__(self, path: str | os.PathLike[str], identity: Any, state: PyTree):
        expected = "the path of a file"
        if not isinstance(path, str | os.PathLike):
            checks.fail("checkpoint", expected, repr(path), TypeError)
        self.path, self.next_write = os.fspath(path), 0.0
        if not self.path or os.path.isdir(self.path):
            got = f"the folder {self.path!r}" if self.path else repr(self.path)
            checks.fail("checkpoint", expected, got)
        folder = os.path.dirname(self.path) or "."
        if not os.path.isdir(folder):
            expected = "a file in an existing folder"
            checks.fail("checkpoint", expected, repr(folder), FileNotFoundError)
        leaves = jax.tree_util.tree_leaves_with_path(state)
        layout = [f"{keystr(at)} {leaf.dtype} {leaf.shape}" for at, leaf in leaves]
        self.owner = {"fingerprint": _fingerprint(identity), "layout": layout}

    def read(self) -> dict[str, Any] | None:
        """The "step", the leaves of the "state" and the "log"; None where there is no file yet."""
        if not os.path.exists(self.path):
            return None
        found = load(self.path)
        if not isinstance(found, dict) or found.keys() != {*self.owner, "step", "state", "log"}:
            checks.fail("checkpoint", "a file written by fit", f"{self.path} of another kind")
        same = {"fingerprint": "model, data, key and settings", "layout": "kind of optimizer"}
        for name, what in same.items():
            if found[name] != self.owner[name]:
                checks.fail("checkpoint", f"a file of the same {what}", f"{self.path} of another")
        return found

    @property
    def is_old(self) -> bool:
        return time.perf_counter() >= self.next_write

    def write(self, step: int, state: PyTree, log: np.ndarray, seconds: float) -> None:
        """It is old after so many seconds, or more where writing takes long."""
        began = time.perf_counter()
        save(self.path, self.owner | {"step": step, "state": jax.tree.leaves(state), "log": log})
        # At most a tenth of the time goes into files, also where they get large.
        ended = time.perf_counter()
        self.next_write = ended + max(seconds, 9 * (ended - began))


def _fingerprint(tree: Any) -> str:
    """SHA-256 of structure, classes, static fields and values, the same in every process."""
    digest = hashlib.sha256()

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
        digest.update(f"{items}\n".encode())

    for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=visit):
        put(keystr(path), name(leaf))
        if isinstance(leaf, jax.Array):
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                leaf = jax.random.key_data(leaf)
            put(leaf.dtype.name, leaf.shape)
            digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()
