"""A batch over the devices of a mesh."""

from __future__ import annotations

import contextlib
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
from .._util.types import Array, PyTree
from .blocks import padded, without_padding
from .drive import Batch
from .problem import Problem
from .size_rules import cpu_cores


def batch_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of devices for `simulate(..., mesh=...)`, with the one axis "batch".

    Args:
        devices: all devices of all processes, unless given. A CPU counts as one device, unless
            `use_cpu_cores` was called.

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


def platform_of(x: Array, mesh: Mesh | None = None) -> str:
    """What a program is for: where the mesh is, or the array, or where JAX would put it."""
    if mesh is not None:
        return mesh.devices.flat[0].platform
    if not checks.is_traced(x):
        return next(iter(x.devices())).platform
    default = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    return getattr(default, "platform", default) or jax.default_backend()


def use_cpu_cores(count: int | None = None) -> Mesh:
    """Make the CPU as many devices as it has cores, and a mesh of them for `simulate(mesh=...)`.

    To be called before anything else of JAX: what JAX finds when it is first used is for good.
    Calling it again with the same count is allowed.

    Args:
        count: devices; as many as this process may use cores, unless given.

    Returns:
        `batch_mesh` of these devices.

    Raises:
        TypeError, ValueError: for what is no count.
        RuntimeError: when it is too late.

    Example:
        >>> mesh = ct.use_cpu_cores()
        >>> run = ct.simulate(rnn, x0, dt=0.05, num_steps=1000, mesh=mesh)
    """
    count = cpu_cores() if count is None else checks.integer("count", count, 1)
    with contextlib.suppress(RuntimeError):  # JAX has begun: it has the devices that it has
        jax.config.update("jax_num_cpu_devices", count)
    found = jax.local_devices(backend="cpu")
    if len(found) < count:
        expected = f"to be called before JAX is first used, to make the CPU {count} devices"
        checks.fail("use_cpu_cores", expected, f"a CPU of {len(found)} already", RuntimeError)
    return batch_mesh(found[:count])


def over_devices(
    run: Callable[[Problem, Batch], PyTree],
    problem: Problem,
    rows: Batch,
    *,
    mesh: Mesh,
    alone: bool,
    gradients_alone: bool,
) -> PyTree:
    """`run(problem, rows)` with an equal share of the rows on each device of the mesh.

    The leaves of what it returns have the batch as their first axis. `alone`: each device runs its
    share by itself, faster than as the compiler divides the work. diffrax's implicit solvers ask
    for the latter, and so do reverse-mode derivatives of its own loops (`gradients_alone`).
    """
    # jax.make_mesh makes axes whose sharding is part of the types of all arrays; not so here.
    mesh, shared = Mesh(mesh.devices, mesh.axis_names), PartitionSpec(mesh.axis_names)
    batch, rows = len(rows.x0), padded(rows, mesh.size)
    arrays, static = eqx.partition(problem, eqx.is_array)

    def by_compiler(arrays, rows):
        distributed = NamedSharding(mesh, shared)
        rows = lax.with_sharding_constraint(rows, distributed)
        out = run(eqx.combine(arrays, static), rows)
        return jax.tree.map(lambda leaf: lax.with_sharding_constraint(leaf, distributed), out)

    def one_share(arrays, rows):
        problem = eqx.combine(arrays, static)
        if not isinstance(problem.meter, diffrax.NoProgressMeter):
            meter = _OnFirstDevice(problem.meter, mesh.axis_names)
            problem = problem._replace(meter=meter)
        return run(problem, rows)

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
    return without_padding(batch, each(arrays, rows))


def local_devices(mesh: Mesh | None) -> int:
    """On how many devices this process works."""
    if mesh is None:
        return 1
    return sum(d.process_index == jax.process_index() for d in mesh.devices.flat)


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
