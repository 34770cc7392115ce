"""Argument checks with one wording: `name: expected ..., got ...`.

Values are checked only when they are known: traced arrays pass, so that every public function
works under jit, vmap and grad.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any, NoReturn

import jax
import jax.core
import jax.numpy as jnp
import numpy as np


def fail(name: str, expected: str, got: Any, error: type[Exception] = ValueError) -> NoReturn:
    """Raise `error` in the one wording of this package."""
    raise error(f"{name}: expected {expected}, got {got}")


def is_traced(x: Any) -> bool:
    """Whether the value of `x` is unknown until run time."""
    return isinstance(x, jax.core.Tracer)


def float_array(name: str, value: Any, shape: str, ndim: int | None = None) -> jax.Array:
    """`value` as a JAX array of floating dtype; `ndim=None` means one dimension or more."""
    expected = f"a floating-point array of shape {shape}"
    if value is None or isinstance(value, str | bytes | dict):
        fail(name, expected, type(value).__name__, TypeError)
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError):
        fail(name, expected, type(value).__name__, TypeError)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        fail(name, expected, f"dtype {array.dtype}", TypeError)
    if array.ndim != ndim if ndim is not None else array.ndim == 0:
        fail(name, f"shape {shape}", array.shape)
    return array


def finite(name: str, array: jax.Array | np.ndarray) -> None:
    """Refuse NaN and infinity where the values are known."""
    if not is_traced(array) and not bool(np.all(np.isfinite(np.asarray(array)))):
        bad = int(np.sum(~np.isfinite(np.asarray(array))))
        fail(name, "finite values", f"{bad} non-finite of {array.size}")


def same_dtype(name: str, array: jax.Array, dtype: Any, of: str) -> None:
    """Refuse silent promotion: precision is the caller's choice."""
    if array.dtype != dtype:
        fail(name, f"the dtype of {of}, {jnp.dtype(dtype).name}", array.dtype.name, TypeError)


def integer(name: str, value: Any, minimum: int) -> int:
    """`value` as a Python int of at least `minimum`."""
    expected = f"an integer >= {minimum}"
    if isinstance(value, bool | np.bool_):
        fail(name, expected, repr(value), TypeError)
    try:
        number = operator.index(value)
    except TypeError:
        fail(name, expected, repr(value), TypeError)
    if number < minimum:
        fail(name, expected, number)
    return number


def positive(name: str, value: Any, *, allow_zero: bool = False) -> Any:
    """A real scalar that is finite and positive where its value is known; returned as it came."""
    expected = f"a finite number {'>=' if allow_zero else '>'} 0"
    if is_traced(value):
        if value.ndim:
            fail(name, "a scalar", f"shape {value.shape}")
        return value
    if isinstance(value, bool | np.bool_ | str) or value is None:
        fail(name, expected, repr(value), TypeError)
    shape = np.shape(value)
    if shape:
        fail(name, expected, f"shape {shape}")
    try:
        number = float(value)
    except (TypeError, ValueError):
        fail(name, expected, repr(value), TypeError)
    if not math.isfinite(number) or number < 0 or (number == 0 and not allow_zero):
        fail(name, expected, value)
    return value


def one_of(name: str, value: Any, options: Iterable[str]) -> str:
    """A name out of a list of names."""
    options = list(options)
    if value not in options:
        fail(name, "one of " + ", ".join(map(repr, options)), repr(value))
    return value


def instance(name: str, value: Any, kind: type | tuple[type, ...], expected: str) -> Any:
    """An instance of `kind`, not the class itself."""
    if isinstance(value, type):
        fail(name, expected, f"the class {value.__name__}; call it", TypeError)
    if not isinstance(value, kind):
        fail(name, expected, type(value).__name__, TypeError)
    return value
