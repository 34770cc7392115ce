"""Aliases for the arrays that cross module borders, and the precision of products."""

from __future__ import annotations

from typing import Any, TypeAlias

import jax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

__all__ = [
    "Array",
    "ArrayLike",
    "Bool",
    "Float",
    "Int",
    "PRNGKeyArray",
    "PyTree",
    "Scalar",
    "State",
    "Vector",
    "matmul_precision",
]

State: TypeAlias = Float[Array, " n *batch"]
Vector: TypeAlias = Float[Array, " n"]
Scalar: TypeAlias = Float[Array, ""]


def matmul_precision() -> Any:
    """Precision of the matrix products inside a step: the highest, unless the caller chose one.

    GPUs round float32 products to TF32 by default, which breaks conservation laws in the
    fourth digit. `jax.default_matmul_precision(...)` set by the caller is respected.
    """
    if jax.config.jax_default_matmul_precision is None:  # pyright: ignore[reportAttributeAccessIssue]
        return jax.lax.Precision.HIGHEST
    return None
