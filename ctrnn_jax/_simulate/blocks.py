"""A batch in blocks that stay in the cache, one after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jax import lax

from .._util.types import Array, Float, PyTree
from .output import Ends, Saves
from .segments import Progress, near_divisor

Rows = Float[Array, "batch n"]


def over_blocks(
    run: Callable[[Rows, Saves, Any, Progress], tuple[PyTree, Saves, Ends]],
    rows: Rows,
    *,
    empty: Callable[[int], Saves],
    meter: diffrax.AbstractProgressMeter,
    size: int | None,
) -> tuple[Saves, Ends]:
    """`run(block, saves, first, progress)` for about `size` rows at a time, one after another.

    It writes the saves of the rows from `first` on into `saves`, which begin as `empty(batch)`,
    and returns the meter's state, the saves, and what is known of these rows at the end.
    """
    batch = rows.shape[0]
    size = near_divisor(batch, size or batch)
    blocks = -(-batch // size)
    rows = padded(rows, blocks)
    progress = Progress(meter, meter.init(), jnp.zeros((), rows.dtype), 1 / blocks)
    if blocks == 1:
        state, saves, ends = run(rows, empty(batch), 0, progress)
    else:
        size = rows.shape[0] // blocks
        first = size * jnp.arange(blocks, dtype=jnp.int32)
        starts = jnp.arange(blocks, dtype=rows.dtype) / blocks

        def block(carry, inputs):
            state, saves = carry
            rows, first, start = inputs
            here = progress._replace(state=state, start=start)
            state, saves, ends = run(rows, saves, first, here)
            return (state, saves), ends

        every = rows.reshape(blocks, size, -1), first, starts
        (state, saves), ends = lax.scan(block, (progress.state, empty(rows.shape[0])), every)
        ends = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), ends)
    meter.close(state)
    return without_padding(batch, (saves, ends))


def padded(rows: Rows, parts: int) -> Float[Array, "padded n"]:
    """The last row repeated until the number of rows is a multiple of `parts`."""
    missing = -rows.shape[0] % parts
    return rows if missing == 0 else jnp.concatenate([rows, jnp.repeat(rows[-1:], missing, axis=0)])


def without_padding(batch: int, out: PyTree) -> PyTree:
    """The first `batch` of what was made of padded rows."""
    return jax.tree.map(lambda leaf: leaf if leaf.shape[0] == batch else leaf[:batch], out)
