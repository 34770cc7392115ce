"""Arrays out of files of numbers, or out of this library's own files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._files.arrays import read_array
from .._files.models import load
from .._files.recordings import Recording, open_recording
from .._network.model import CTRNN
from .._network.products import AbstractWeights
from .._simulate.trajectory import Trajectory
from .._train.oscillator import Oscillator
from .._util import checks


def finite_array(option: str, array: np.ndarray, dtype: Any) -> jax.Array:
    """The array in `dtype`, in which it must be finite."""
    with np.errstate(over="ignore"):
        array = array.astype(dtype)
    checks.finite(option, array)
    return jnp.asarray(array)


@contextlib.contextmanager
def loaded(option: str, path: Path) -> Iterator[Any]:
    """What a file of this library holds, or a recording; of any dtype: float64 is on meanwhile."""
    if not path.exists():
        checks.fail(option, "an existing file", str(path))
    before = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    try:
        jax.config.update("jax_enable_x64", True)
        yield open_recording(path) if path.is_dir() else load(path)
    finally:
        jax.config.update("jax_enable_x64", before)


def read_part(
    option: str,
    path: Path,
    part: Callable[[Any], Any],
    array: str | None = None,
    *,
    selects: bool = False,
) -> np.ndarray:
    """An array out of a file of numbers, or the part that is meant of a file of this library.

    `array` and `selects` are those of `read_array`.
    """
    if path.suffix.lower() != ".ctrnn" and not path.is_dir():
        return read_array(option, path, array, selects=selects)
    if array is not None:
        checks.fail("array", "none: the file holds one network", repr(array))
    with loaded(option, path) as found:
        values = part(found)
        if values is None:
            expected = "weights, a network or an oscillator"
            if part is states_of:
                expected = "a trajectory with states, an oscillator or an array"
            if part is input_weights_of:
                expected = "a network or an oscillator with input weights"
            checks.fail(option, f"a file with {expected}", type(found).__name__)
        return np.asarray(values)


def matrix_of(found: Any) -> Any:
    found = found.rnn if isinstance(found, Oscillator) else found
    found = found.weights if isinstance(found, CTRNN) else found
    if isinstance(found, AbstractWeights):
        parameters = [leaf.ndim for leaf in jax.tree.leaves(found)]
        return found.as_matrix() if max(parameters) < 3 else None
    return found if isinstance(found, jax.Array) else None


def input_weights_of(found: Any) -> Any:
    found = found.rnn if isinstance(found, Oscillator) else found
    found = found.input_weights if isinstance(found, CTRNN) else found
    return found if isinstance(found, jax.Array) and found.ndim == 2 else None


def states_of(found: Any) -> Any:
    """The last states of a run, whatever its leading axes; an oscillator's initial one."""
    if isinstance(found, Recording):
        return found.end.x.reshape(-1, found.end.x.shape[-1])
    if isinstance(found, Trajectory):
        return None if found.xs is None else found.xs[..., -1, :].reshape(-1, found.xs.shape[-1])
    return (
        found.x0
        if isinstance(found, Oscillator)
        else (found if isinstance(found, jax.Array) else None)
    )
