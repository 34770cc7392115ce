"""Where a run ended: all that its next step needs, so that it can go on to the same bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from .._network.model import CTRNN
from .._util import checks
from .._util.types import Array, Float, Int, PyTree

# What a fingerprint is made of, by the arguments of `simulate`.
_PARTS = ("rnn", "dt", "solver", "rtol, atol", "noise, key")


class End(eqx.Module):
    """The end of a run, from which `simulate(rnn, end, ...)` goes on; see `Trajectory.end`.

    Leading axes ``...`` are those of the initial states.

    Attributes:
        x: (..., n) the last states.
        solver: what the solver remembers from step to step, arrays (..., ...).
        folded: the carry of `fold`, or None.
        stopped_at, unconverged_at: (...,), as in `Trajectory`.
        step: steps made since time 0.
        fingerprint: (5,) checksums of network, dt, solver, tolerances, and noise with its key.
        made_with: solver and network as text, their values left out.
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
    made_with: tuple[str, str] = eqx.field(static=True)
    segment: tuple[int, int, int] | None = eqx.field(static=True)

    def check(self, rnn: CTRNN, solver: Any, fingerprint: Callable[[], Array]) -> None:
        """Refuse to go on with another network, solver, dt, tolerances or noise."""
        for name, now, then in zip(
            ("solver", "rnn"), made_with(rnn, solver), self.made_with, strict=True
        ):
            if now != then:
                checks.fail(name, f"that of the run that goes on, {_short(then)}", _short(now))
        found = fingerprint()
        if checks.is_traced(found) or checks.is_traced(self.fingerprint):
            return
        if self.fingerprint.shape != found.shape:
            checks.fail("x0", "the end of one run; map over several by jax.vmap", "several")
        for name, now, then in zip(_PARTS, found, self.fingerprint, strict=True):
            if now != then:
                checks.fail(name, "what the run that goes on was made with", "other values")


class Remembered(eqx.Module):
    """What a trajectory needs besides what it tells, for its end; fields as in `End`."""

    x: Float[Array, "*batch n"] | None  # where the states are not kept
    solver: list[Array]
    step: Int[Array, ""]
    fingerprint: Array
    made_with: tuple[str, str] = eqx.field(static=True)
    segment: tuple[int, int, int] | None = eqx.field(static=True)


class Begun(NamedTuple):
    """What is known of each trajectory of a run that goes on; leaves (batch, ...)."""

    solver: list[Array]
    folded: PyTree
    stopped_at: Int[Array, " batch"]
    unconverged_at: Int[Array, " batch"]


def made_with(rnn: CTRNN, solver: Any) -> tuple[str, str]:
    """Solver and network as text, without values."""
    rnn, solver = jax.tree.map(
        lambda leaf: leaf, (rnn, solver)
    )  # as traced ones: no field left out
    return eqx.tree_pformat(solver), eqx.tree_pformat(rnn)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) < 80 else text[:77] + "..."


def fingerprint(*parts: PyTree) -> Array:
    """A checksum of the bits of each part, and of where they are."""

    def checksum(part: PyTree) -> Array:
        total = jnp.zeros((), jnp.uint32)
        for i, leaf in enumerate(jax.tree.leaves(eqx.filter(part, eqx.is_array_like))):
            bits = _bits(leaf)
            place = jnp.arange(bits.size, dtype=jnp.uint32) * jnp.uint32(2654435761)
            total += jnp.sum(bits * (place + jnp.uint32(2 * i + 1)), dtype=jnp.uint32)
        return total

    return jnp.stack([checksum(part) for part in parts])


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
