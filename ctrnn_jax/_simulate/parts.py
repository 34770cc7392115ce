"""A batch cut into parts: one for each device of a mesh, and blocks that stay in the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .._util import checks
from .._util.types import Array, Float, PyTree
from .segments import Progress, near_divisor

Rows = Float[Array, "batch n"]


def batch_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of devices for `simulate(..., mesh=...)`, with the one axis "batch".

    Args:
        devices: all devices of all processes, unless given. A CPU counts as one device until
            `jax.config.update("jax_num_cpu_devices", cores)` is called, before JAX is first used.

    Raises:
        TypeError, ValueError: where `devices` is not a sequence of devices, or is empty.

    Example:
        >>> ct.simulate(rnn, x0, dt=0.05, num_steps=1000, mesh=ct.batch_mesh()).xs.sharding
    """
    found = jax.devices() if devices is None else list(devices)
    if not found:
        checks.fail("devices", "at least one device", "none")
    for device in found:
        checks.instance("devices", device, jax.Device, "devices as jax.devices() has them")
    return Mesh(np.array(found), ("batch",))


def over_devices(
    run: Callable[[PyTree, Rows, diffrax.AbstractProgressMeter], PyTree],
    mesh: Mesh,
    alone: bool,
    gradients_alone: bool,
    values: PyTree,
    rows: Rows,
    meter: diffrax.AbstractProgressMeter,
) -> PyTree:
    """`run(values, rows, meter)` with an equal share of the rows on each device of the mesh.

    The leaves of what it returns have the batch as their first axis. `alone`: each device runs its
    part by itself, faster than as the compiler divides the work. diffrax's implicit solvers ask
    for the latter, and so do reverse-mode derivatives of its own loops (`gradients_alone`).
    """
    # jax.make_mesh makes axes whose sharding is part of the types of all arrays; not so here.
    mesh, shared = Mesh(mesh.devices, mesh.axis_names), PartitionSpec(mesh.axis_names)
    batch, rows = rows.shape[0], _padded(rows, mesh.size)
    arrays, static = eqx.partition(values, eqx.is_array)

    def by_compiler(arrays, rows):
        distributed = NamedSharding(mesh, shared)
        rows = lax.with_sharding_constraint(rows, distributed)
        out = run(eqx.combine(arrays, static), rows, meter)
        return jax.tree.map(lambda leaf: lax.with_sharding_constraint(leaf, distributed), out)

    def one_share(arrays, rows):
        own = meter
        if not isinstance(meter, diffrax.NoProgressMeter):
            own = _OnFirstDevice(meter, mesh.axis_names)
        return run(eqx.combine(arrays, static), rows, own)

    # No two trajectories meet, so nothing is communicated. check_vma is about collectives, and
    # refuses custom derivatives without need.
    each = jax.shard_map(
        one_share,
        mesh=mesh,
        in_specs=(PartitionSpec(), shared),
        out_specs=shared,
        check_vma=False,
    )
    if not alone:
        each = by_compiler
    elif not gradients_alone:
        each = partial(_differentiated_as, by_compiler, each)
    return _first(batch, each(arrays, rows))


def over_blocks(
    run: Callable[[Rows, PyTree, Any, Progress], tuple[PyTree, dict, dict]],
    rows: Rows,
    empty: Callable[[int], dict],
    meter: diffrax.AbstractProgressMeter,
    size: int | None,
) -> dict:
    """`run(part, out, first, progress)` for about `size` rows at a time, one block after another.

    It writes what it makes of the rows from `first` on into `out`, which begins as `empty(batch)`,
    and returns the meter's state, `out` and more leaves, with the rows as their first axis.
    """
    batch = rows.shape[0]
    size = near_divisor(batch, size or batch)
    blocks = -(-batch // size)
    rows = _padded(rows, blocks)
    progress = Progress(meter, meter.init(), jnp.zeros((), rows.dtype), 1 / blocks)
    if blocks == 1:
        state, out, rest = run(rows, empty(batch), 0, progress)
    else:
        size = rows.shape[0] // blocks
        first = size * jnp.arange(blocks, dtype=jnp.int32)
        starts = jnp.arange(blocks, dtype=rows.dtype) / blocks

        def block(carry, inputs):
            state, out = carry
            part, first, start = inputs
            state, out, rest = run(part, out, first, progress._replace(state=state, start=start))
            return (state, out), rest

        parts = rows.reshape(blocks, size, -1), first, starts
        (state, out), rest = lax.scan(block, (progress.state, empty(rows.shape[0])), parts)
        rest = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), rest)
    meter.close(state)
    return _first(batch, out | rest)


def _differentiated_as(other: Callable, run: Callable, *args: PyTree) -> PyTree:
    """`run(*args)` with the reverse-mode derivatives of `other(*args)`.

    Also by what they close over, such as the parameters of a function that observes.
    """
    run, values = jax.closure_convert(run, *args)
    other, other_values = jax.closure_convert(other, *args)

    @jax.custom_vjp
    def either(args, values, other_values):
        return run(*args, *values)

    def forward(args, values, other_values):
        out, pull = jax.vjp(lambda args, more: other(*args, *more), args, other_values)
        return out, (pull, values)

    def backward(residuals, bars):
        pull, values = residuals
        args_bar, other_bar = pull(bars)
        return args_bar, jax.tree.map(jnp.zeros_like, values), other_bar

    either.defvjp(forward, backward)
    return either(args, values, other_values)


class _OnFirstDevice(diffrax.AbstractProgressMeter):
    """A meter that the first device of a mesh moves; the shares are equal."""

    meter: diffrax.AbstractProgressMeter
    axis_names: tuple[str, ...] = eqx.field(static=True)

    def _there(self, act: Callable, elsewhere: Callable) -> Any:
        return lax.cond(lax.axis_index(self.axis_names) == 0, act, elsewhere)

    def init(self):
        shapes = jax.eval_shape(self.meter.init)
        return self._there(
            self.meter.init, lambda: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        )

    def step(self, state, progress):
        return self._there(lambda: self.meter.step(state, progress), lambda: state)

    def close(self, state):
        self._there(lambda: self.meter.close(state), lambda: None)


def _padded(rows: Rows, parts: int) -> Float[Array, "padded n"]:
    """The last row repeated until the number of rows is a multiple of `parts`."""
    missing = -rows.shape[0] % parts
    return rows if missing == 0 else jnp.concatenate([rows, jnp.repeat(rows[-1:], missing, axis=0)])


def _first(batch: int, out: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf if leaf.shape[0] == batch else leaf[:batch], out)
