"""Aliases for the arrays that cross module borders, and how products and branches are made."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Inexact, Int, PRNGKeyArray

if TYPE_CHECKING:
    PyTree: TypeAlias = Any  # jaxtyping's own is unknown to type checkers
else:
    from jaxtyping import PyTree

__all__ = [
    "Array",
    "ArrayLike",
    "Bool",
    "Float",
    "Inexact",
    "Int",
    "PRNGKeyArray",
    "PyTree",
    "Scalar",
    "State",
    "Vector",
    "any_at_all",
    "finite_or_nan",
    "matmul_precision",
    "precise_products",
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


def precise_products() -> AbstractContextManager[Any]:
    """In which the products of others' code have this precision, too, where they ask for none."""
    if matmul_precision() is None:
        return nullcontext()
    return jax.default_matmul_precision("highest")


def finite_or_nan(x: Float[Array, "*shape"], axis: int) -> Float[Array, "*rest"]:
    """1 where x is finite along the axis, else nan.

    A factor of what is computed of x: that comes out as nan where a formula in its limits, or a
    choice by a comparison, would not tell; and so do its derivatives.
    """
    return jnp.where(jnp.all(jnp.isfinite(x), axis=axis), 1, jnp.nan).astype(x.dtype)


@jax.custom_batching.custom_vmap
def any_at_all(flags: Bool[Array, " batch"]) -> Bool[Array, ""]:
    """Whether any flag is set, over vmapped axes too: a branch on it stays a branch under vmap."""
    return jnp.any(flags)


@any_at_all.def_vmap
def _any_at_all_vmap(axis_size, in_batched, flags):
    del axis_size, in_batched
    return any_at_all(flags.reshape(-1)), False
