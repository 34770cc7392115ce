"""Where a run ended: all that its next step needs, so that it can go on to the same bits."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from .._network.model import CTRNN
from .._util import checks
from .._util.types import Array, Float, Int, PyTree

# What a fingerprint is made of, by the arguments of `simulate`, and what it tells of others.
_PARTS = (
    ("solver", "another"),
    ("rnn", "another"),
    ("rnn", "other values"),
    ("dt", "another"),
    ("solver", "other values"),
    ("rtol, atol", "others"),
    ("noise, key", "others"),
)


class End(eqx.Module):
    """The end of a run, from which `simulate(rnn, end, ...)` goes on; see `Trajectory.end`.

    Leading axes ``...`` are those of the initial states.

    Attributes:
        x: (..., n) the last states.
        solver: what the solver remembers from step to step, arrays (..., ...).
        folded: the carry of `fold`, or None.
        stopped_at, unconverged_at: (...,), as in `Trajectory`.
        step: steps made since time 0.
        fingerprint: (7,) checksums of solver, network, dt, tolerances, and noise with its key.
        segment: of adaptive steps: saves of a segment, how many of the last one are made, and steps
            between saves; else None.
    """

    x: Float[Array, "*batch n"]
    solver: list[Array]
    folded: PyTree
    stopped_at: Int[Array, "*batch"]
    unconverged_at: Int[Array, "*batch"]
    step: Int[Array, ""]
    fingerprint: Array
    segment: tuple[int, int, int] | None = eqx.field(static=True)

    @property
    def begun(self) -> Begun:
        """What is known of each trajectory."""
        return Begun(self.solver, self.folded, self.stopped_at, self.unconverged_at)

    def check(self, found: Array) -> None:
        """Refuse to go on with another network, solver, dt, tolerances or noise."""
        if checks.is_traced(found) or checks.is_traced(self.fingerprint):
            return
        if self.fingerprint.shape != found.shape:
            checks.fail("x0", "the end of one run; map over several by jax.vmap", "several")
        for (name, got), now, then in zip(_PARTS, found, self.fingerprint, strict=True):
            if now != then:
                checks.fail(name, "what the run that goes on was made with", got)


class Remembered(eqx.Module):
    """What a trajectory needs besides what it tells, for its end; fields as in `End`."""

    x: Float[Array, "*batch n"] | None  # where it is not the last state that is kept
    solver: list[Array]
    step: Int[Array, ""]
    fingerprint: Array
    segment: tuple[int, int, int] | None = eqx.field(static=True)


class Begun(NamedTuple):
    """What is known of each trajectory of a run that goes on; leaves (batch, ...)."""

    solver: list[Array]
    folded: PyTree
    stopped_at: Int[Array, " batch"]
    unconverged_at: Int[Array, " batch"]


def fingerprint(rnn: CTRNN, dt: Any, solver: Any, tolerances: Any, noise: Any) -> Array:
    """Checksums of what solver and network are, and of the bits of all values."""
    # Flattened once, as those that are traced: what is left out as a default is the same then.
    parts = jax.tree.map(lambda leaf: leaf, (solver, rnn))
    texts = [zlib.crc32(eqx.tree_pformat(part).encode()) for part in parts]
    # Two sums, one of the largest part: each is compiled.
    bits = [_all_bits(part) for part in (dt, solver, tolerances, noise)]
    longest = max(b.size for b in bits)
    rows = jnp.stack([jnp.pad(b, (0, longest - b.size)) for b in bits])
    sums = [jnp.asarray(texts, jnp.uint32), _checksum(_all_bits(rnn)[None]), _checksum(rows)]
    return jnp.concatenate(sums)


def _checksum(bits: Array) -> Array:
    place = jnp.arange(bits.shape[1], dtype=jnp.uint32) * jnp.uint32(2654435761) + jnp.uint32(1)
    return jnp.sum(bits * (place | jnp.uint32(1))[None], axis=1, dtype=jnp.uint32)


def _all_bits(part: PyTree) -> Array:
    leaves = jax.tree.leaves(eqx.filter(part, eqx.is_array_like))
    return jnp.concatenate([jnp.zeros(1, jnp.uint32), *map(_bits, leaves)])


def _bits(leaf: Any) -> Array:
    if eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    leaf = lax.stop_gradient(jnp.asarray(leaf))
    if jnp.issubdtype(leaf.dtype, jnp.floating):
        leaf = lax.bitcast_convert_type(leaf, jnp.uint32)
    return leaf.astype(jnp.uint32).ravel()


def batch_axes(begin: Callable[[int], PyTree]) -> PyTree:
    """Which axis of each leaf of `begin(batch)` is the batch; -1 where none is."""
    one, other = (jax.eval_shape(lambda size=size: begin(size)) for size in (2, 3))

    def axis(a: Any, b: Any) -> int:
        differs = [i for i, (p, q) in enumerate(zip(a.shape, b.shape, strict=True)) if p != q]
        return differs[0] if differs else -1

    return jax.tree.map(axis, one, other)


def as_rows(state: PyTree, axes: PyTree, batch: int) -> list[Array]:
    """What a solver remembers, each leaf (batch, ...)."""

    def rows(leaf: Array, axis: int) -> Array:
        if axis < 0:
            return jnp.broadcast_to(leaf[None], (batch, *leaf.shape))
        return jnp.moveaxis(leaf, axis, 0)

    return jax.tree.leaves(jax.tree.map(rows, state, axes))


def from_rows(rows: list[Array], axes: PyTree) -> PyTree:
    """What a solver remembers, as it wants it."""
    axes, structure = jax.tree.flatten(axes)
    leaves = [
        leaf[0] if axis < 0 else jnp.moveaxis(leaf, 0, axis)
        for leaf, axis in zip(rows, axes, strict=True)
    ]
    return structure.unflatten(leaves)
