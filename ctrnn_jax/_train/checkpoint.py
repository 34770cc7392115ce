"""The file that holds a training between two chunks of steps."""

from __future__ import annotations

import os
import time
from typing import Any

import jax
import numpy as np
from jax.tree_util import keystr

from .._files.models import load, save
from .._util import checks
from .._util.digest import digest
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
        self.owner = {"fingerprint": digest(identity), "layout": layout}

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
