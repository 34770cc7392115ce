"""What models with a read-out y = C x + d share: its checks, its product, what is trained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._network.model import CTRNN
from .._util import checks
from .._util.types import Array, ArrayLike, Float, matmul_precision

OF_NETWORK = ("weights", "activation", "bias", "leak", "input_weights")


def checked_readout(
    readout: Any, offset: Any, rnn: CTRNN, rows: str, otherwise: str = ""
) -> tuple[Array, Array | None]:
    """C (rows, n) and d (rows,) or None, refused where they do not belong to the network."""
    n = rnn.size
    readout = checks.float_array("readout", readout, f"({rows}, {n}){otherwise}", (2,))
    if readout.shape[1] != n or readout.shape[0] < 1:
        checks.fail("readout", f"shape ({rows}, {n})", readout.shape)
    checks.same_dtype("readout", readout, rnn.dtype, "the network")
    if offset is None:
        return readout, None
    offset = checks.float_array("offset", offset, f"({rows},)", (1,))
    if offset.shape != readout.shape[:1]:
        checks.fail("offset", f"shape {readout.shape[:1]}", offset.shape)
    checks.same_dtype("offset", offset, rnn.dtype, "the network")
    return readout, offset


def read(xs: ArrayLike, readout: Array, offset: Array | None) -> Float[Array, "*batch rows"]:
    """C x + d at states xs (..., n)."""
    y = jnp.matmul(jnp.asarray(xs), readout.T, precision=matmul_precision())
    return y if offset is None else y + offset.reshape((1,) * (y.ndim - 1) + (-1,))


def checked_frozen(frozen: Iterable[str], parts: tuple[str, ...]) -> tuple[str, ...]:
    """Names of parts that training leaves alone."""
    if isinstance(frozen, str):
        checks.fail("frozen", "a list of names", repr(frozen), TypeError)
    return tuple(checks.one_of("frozen", name, parts) for name in frozen)


def trainable_but(model: Any, frozen: tuple[str, ...]) -> Any:
    """For `equinox.partition`: True at the floating-point arrays of all other parts of a model."""
    marks = jax.tree.map(eqx.is_inexact_array, model)
    for name in frozen:

        def part(model: Any, name: str = name) -> Any:
            return getattr(model.rnn if name in OF_NETWORK else model, name)

        if jax.tree.leaves(part(model)):
            marks = eqx.tree_at(part, marks, jax.tree.map(lambda _: False, part(model)))
    return marks
