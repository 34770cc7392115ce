"""Argument checks with one wording: `name: expected ..., got ...`.

Values are checked only when they are known: traced arrays pass, so that every public function
works under jit, vmap and grad.
"""

from __future__ import annotations

import importlib
import math
import operator
from collections.abc import Iterable
from typing import Any, NoReturn

import jax
import jax.core
import jax.dtypes
import jax.numpy as jnp
import numpy as np

_SINGLE = np.dtype(np.float32)


def fail(name: str, expected: str, got: Any, error: type[Exception] = ValueError) -> NoReturn:
    """Raise `error` in the one wording of this package."""
    raise error(f"{name}: expected {expected}, got {got}")


def is_traced(x: Any) -> bool:
    """Whether the value of `x` is unknown until run time."""
    return isinstance(x, jax.core.Tracer)


def module(name: str, *, extra: str | None = None) -> Any:
    """A module that is not always installed: one of an extra of this package, or on its own."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name if extra is None else f'"ctrnn-jax[{extra}]"'
        fail(name, f"what pip install {package} brings", error, ImportError)


def float_array(
    name: str, value: Any, shape: str, ndim: tuple[int, ...] | None = None
) -> jax.Array:
    """`value` as a JAX array of floating dtype; `ndim=None` means one dimension or more."""
    expected = f"a floating-point array of shape {shape}"
    if isinstance(value, jax.Array):
        array = value
    elif value is None or isinstance(value, str | bytes | dict):
        fail(name, expected, type(value).__name__, TypeError)
    else:
        try:
            array = jnp.asarray(value)
        except (TypeError, ValueError):
            fail(name, expected, type(value).__name__, TypeError)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        fail(name, expected, f"dtype {array.dtype}", TypeError)
    available(name, array.dtype)
    if array.ndim == 0 if ndim is None else array.ndim not in ndim:
        fail(name, f"shape {shape}", array.shape)
    return array


def float_dtype(dtype: Any) -> Any:
    """A floating-point dtype; JAX's default for None."""
    try:
        dtype = jnp.result_type(float) if dtype is None else jnp.dtype(dtype)
    except TypeError:
        fail("dtype", "a floating-point dtype", repr(dtype), TypeError)
    if not jnp.issubdtype(dtype, jnp.floating):
        fail("dtype", "a floating-point dtype", dtype, TypeError)
    _single_or_double("dtype", dtype)
    return dtype


def _single_or_double(name: str, dtype: Any) -> None:
    # Half precision and less cannot hold a time or an energy.
    if dtype not in (jnp.float32, jnp.float64):
        fail(name, "dtype float32 or float64", dtype, TypeError)


def available(name: str, dtype: Any) -> None:
    """Refuse all but float32 and float64, and float64 of before jax_enable_x64 was switched off."""
    if dtype == _SINGLE:
        return
    _single_or_double(name, dtype)
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        fail(name, "dtype float32, as jax_enable_x64 is off", dtype, TypeError)


def finite(name: str, array: jax.Array | np.ndarray) -> None:
    """Refuse NaN and infinity where the values are known."""
    if not is_traced(array) and not bool(np.all(np.isfinite(np.asarray(array)))):
        bad = int(np.sum(~np.isfinite(np.asarray(array))))
        fail(name, "finite values", f"{bad} non-finite of {array.size}")


def same_dtype(name: str, array: Any, dtype: Any, of: str) -> None:
    """Refuse silent promotion: precision is the caller's choice."""
    if array.dtype != dtype:
        fail(name, f"the dtype of {of}, {jnp.dtype(dtype).name}", array.dtype.name, TypeError)


def integer(name: str, value: Any, minimum: int) -> int:
    """`value` as a Python int of at least `minimum`."""
    expected = f"an integer >= {minimum}"
    if isinstance(value, bool | np.bool_):
        fail(name, expected, repr(value), TypeError)
    if is_traced(value):
        fail(name, f"{expected} known beforehand", "a traced one", TypeError)
    try:
        number = operator.index(value)
    except TypeError:
        fail(name, expected, repr(value), TypeError)
    if number < minimum:
        fail(name, expected, number)
    return number


def real(name: str, value: Any, dtype: Any = None, *, positive: bool = False) -> jax.Array:
    """A finite real scalar, in `dtype`: there it must be finite, and positive where asked for."""
    return jnp.asarray(number(name, value, dtype, positive=positive))


def number(
    name: str, value: Any, dtype: Any = None, *, positive: bool = False
) -> jax.Array | np.ndarray:
    """`real`, not yet on a device where it is known: half the time, for what is compiled next."""
    expected = "a finite number > 0" if positive else "a finite number"
    dtype = jnp.result_type(float) if dtype is None else jnp.dtype(dtype)
    plain = type(value) in (float, int)
    if plain and 1e-30 < value < 1e30:  # what follows takes a sixth of a call of `simulate`
        return np.asarray(value, dtype)
    if value is None or isinstance(value, bool | str | bytes):
        fail(name, expected, repr(value), TypeError)
    if not plain:
        try:
            kind, shape = jnp.result_type(value), jnp.shape(value)
        except (TypeError, ValueError, OverflowError):
            fail(name, expected, repr(value), TypeError)
        if not (jnp.issubdtype(kind, jnp.floating) or jnp.issubdtype(kind, jnp.integer)):
            fail(name, expected, f"dtype {kind}", TypeError)
        if shape:
            fail(name, expected, f"shape {shape}")
        if is_traced(value):
            return value.astype(dtype)
    if isinstance(value, int) and abs(value) > 2**127:
        fail(name, expected, "an integer above 2^127")
    with np.errstate(all="ignore"):
        known = np.asarray(float(value)).astype(dtype)
    # Below the smallest normal number devices round to 0.
    if not np.isfinite(known) or (positive and known < np.finfo(dtype).tiny):
        valid = math.isfinite(value) and (value > 0 or not positive)
        fail(name, expected, f"{value}, which is {known} in {dtype.name}" if valid else value)
    return known


def positive(name: str, value: Any, dtype: Any = None) -> jax.Array:
    """A finite real scalar above 0, in `dtype`."""
    return real(name, value, dtype, positive=True)


def positive_float(name: str, value: Any) -> float:
    """A finite number above 0 that is known now, as a Python float, under jit too."""
    if is_traced(value):
        fail(name, "a number known beforehand", "a traced one", TypeError)
    positive(name, value)
    return float(value)


def positive_array(
    name: str, value: Any, dtype: Any, ndim: tuple[int, ...] | None = None, *, zero: bool = False
) -> jax.Array:
    """An array of numbers > 0 (or >= 0) in `dtype`; scalars of Python are taken too."""
    expected = "finite numbers >= 0" if zero else "finite numbers > 0"
    if value is None or isinstance(value, bool | str | bytes):
        fail(name, expected, repr(value), TypeError)
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError):
        fail(name, expected, type(value).__name__, TypeError)
    if not (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
        fail(name, expected, f"dtype {array.dtype}", TypeError)
    if ndim is not None and array.ndim not in ndim:
        dimensions = " or ".join(map(str, ndim))
        fail(name, f"{expected} in {dimensions} dimension(s)", f"shape {array.shape}")
    array = array.astype(dtype)
    if not is_traced(array):
        known = np.asarray(array)  # by NumPy: under jit what JAX makes of it would be traced
        bad = ~(np.isfinite(known) & ((known > 0) | (zero & (known == 0))))
        if bad.any():
            fail(name, expected, known[bad].ravel()[0])
    return array


def flag(name: str, value: Any) -> bool:
    """True or False, and not merely something that counts as such."""
    if not isinstance(value, bool):
        fail(name, "True or False", repr(value), TypeError)
    return value


def function(name: str, value: Any, expected: str = "a function") -> Any:
    """Something to call; a class is not meant."""
    if isinstance(value, type):
        fail(name, expected, f"the class {value.__name__}", TypeError)
    if not callable(value):
        fail(name, expected, repr(value), TypeError)
    return value


def compiled_function(name: str, value: Any, expected: str = "a function") -> Any:
    """A function that a compiled program is kept by: jax.jit finds it again by its hash."""
    function(name, value, expected)
    try:
        hash(value)
    except TypeError:
        fail(
            name,
            f"{expected} that can be hashed",
            f"an unhashable {type(value).__name__}",
            TypeError,
        )
    return value


def prng_key(name: str, value: Any) -> Any:
    """A key of jax.random, new or old style."""
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    new = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) and shape == ()
    if not new and not (dtype == jnp.uint32 and shape == (2,)):
        got = type(value).__name__ if shape is None else f"{dtype} of shape {shape}"
        fail(name, "a PRNG key such as jax.random.key(0)", got, TypeError)
    return value


def one_of(name: str, value: Any, options: Iterable[str]) -> str:
    """A name out of a list of names."""
    options = list(options)
    if not isinstance(value, str) or value not in options:
        fail(name, "one of " + ", ".join(map(repr, options)), repr(value))
    return value


def instance(name: str, value: Any, kind: type | tuple[type, ...], expected: str) -> Any:
    """An instance of `kind`, not the class itself."""
    if isinstance(value, kind):
        return value
    got = (
        f"the class {value.__name__}; call it" if isinstance(value, type) else type(value).__name__
    )
    fail(name, expected, got, TypeError)
