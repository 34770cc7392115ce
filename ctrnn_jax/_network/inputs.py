"""Inputs u(t) of a network: what they are at a time, and their product with the input weights."""

from __future__ import annotations

from typing import Any

import diffrax

from .._util.types import Array, Float
from .products import product

# With so few inputs B u is written out, and so becomes a part of the loop that adds it.
_WRITTEN_OUT = 1


def input_at(inputs: Any, t: Any) -> Array:
    """u(t) of a function or a diffrax path."""
    if isinstance(inputs, diffrax.AbstractPath):
        return inputs.evaluate(t)
    return inputs(t)


def input_product(
    B: Float[Array, "n m"], u: Float[Array, " m *batch"]
) -> Float[Array, " n *batch"]:
    """B u of one input, or of inputs as columns."""
    m = B.shape[1]
    if u.ndim == 1 or m > _WRITTEN_OUT:
        return product(B, u)
    columns = B[:, :, None]
    terms = [columns[:, i] * u[i][None] for i in range(m)]
    return sum(terms[1:], start=terms[0])
