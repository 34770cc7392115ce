"""A batch in blocks that stay in the cache, one after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jax import lax

from .._util.types import PyTree
from .drive import Batch
from .output import Ends, Saves
from .segments import Progress, near_divisor


def over_blocks(
    run: Callable[[Batch, Saves, Any, Progress], tuple[PyTree, Saves, Ends]],
    rows: Batch,
    *,
    empty: Callable[[int], Saves],
    meter: diffrax.AbstractProgressMeter,
    size: int | None,
) -> tuple[Saves, Ends]:
    """`run(block, saves, first, progress)` for about `size` rows at a time, one after another.

    It writes the saves of the rows from `first` on into `saves`, which begin as `empty(batch)`,
    and returns the meter's state, the saves, and what is known of these rows at the end. A block
    has its own initial states and keys, but the inputs of all: to cut them would be to copy them.
    """
    batch, dtype = len(rows.x0), rows.x0.dtype
    size = near_divisor(batch, size or batch)
    blocks = -(-batch // size)
    rows = padded(rows, blocks)
    progress = Progress(meter, meter.init(), jnp.zeros((), dtype), 1 / blocks)
    if blocks == 1:
        state, saves, ends = run(rows, empty(batch), 0, progress)
    else:
        total = len(rows.x0)
        size = total // blocks
        first = size * jnp.arange(blocks, dtype=jnp.int32)
        starts = jnp.arange(blocks, dtype=dtype) / blocks
        cut = rows._replace(inputs=None)

        def block(carry, inputs):
            state, saves = carry
            each, first, start = inputs
            here = progress._replace(state=state, start=start)
            state, saves, ends = run(each._replace(inputs=rows.inputs), saves, first, here)
            return (state, saves), ends

        every = jax.tree.map(lambda a: a.reshape(blocks, size, *a.shape[1:]), cut), first, starts
        (state, saves), ends = lax.scan(block, (progress.state, empty(total)), every)
        ends = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), ends)
    meter.close(state)
    return without_padding(batch, (saves, ends))


def padded(rows: Batch, parts: int) -> Batch:
    """The last row repeated until the number of rows is a multiple of `parts`."""
    missing = -len(rows.x0) % parts
    if missing == 0:
        return rows
    return jax.tree.map(lambda a: jnp.concatenate([a, jnp.repeat(a[-1:], missing, axis=0)]), rows)


def without_padding(batch: int, out: PyTree) -> PyTree:
    """The first `batch` of what was made of padded rows."""
    return jax.tree.map(lambda leaf: leaf if leaf.shape[0] == batch else leaf[:batch], out)
