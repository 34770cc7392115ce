"""What is compiled of a call of `simulate`: from initial states to saves.

The batch is shared by devices (`devices.py`), each of which steps block after block of it
(`blocks.py`), segment after segment (`segments.py`), by fixed steps (`fixed.py`), undone in reverse
mode (`reversible.py`), or adaptive ones (`adaptive.py`).
"""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import Any

import diffrax
import jax
import jax.numpy as jnp

from .._network.inputs import HELD
from .._network.model import one_network
from .._util import checks
from .._util.types import Array, Float, PyTree
from ..solvers._foreign import adapted
from ..solvers._noise import Noisy, keys_of_rows
from ..solvers.base import Declarations
from .adaptive import adaptive_segment_steps, adaptive_segments, needs_all
from .between import first_unsolved
from .blocks import over_blocks
from .devices import local_devices, over_devices
from .drive import Batch, Drive, continuous
from .event import Recurring
from .fixed import fixed_segments, within
from .located import ended
from .output import Ends, Saves, no_saves_yet, saves_of, write
from .problem import Plan, Problem, initial_fold
from .resume import Begun, Remembered, as_rows, batch_axes, fingerprint, from_rows
from .reversible import reversible_segment_steps, reversible_segments
from .save_at import at_events, at_times, until_events
from .segments import Advance, Carry, Progress, run_segments
from .size_rules import (
    block_size,
    kernels,
    spare_columns,
    steps_in_segment,
    steps_stored_every,
)
from .trajectory import Trajectory


def run(problem: Problem, each: Batch, plan: Plan) -> Trajectory:
    """The trajectory of each initial state; leaves of `each` lead with the axes of the batch."""
    one_network(problem.rnn)
    x0 = each.x0
    *batch, n = x0.shape
    marks = fingerprint_of(problem, each.keys)
    problem = problem._replace(rnn=problem.rnn.prepared())
    if callable(problem.inputs) or isinstance(problem.inputs, diffrax.AbstractPath):
        problem = problem._replace(inputs=continuous(problem.inputs, x0.dtype))
    rows = Batch(
        x0=x0.reshape(-1, n),
        inputs=None if each.inputs is None else each.inputs.reshape(-1, *each.inputs.shape[-2:]),
        keys=None if each.keys is None else keys_of_rows(each.keys, math.prod(batch)),
        save_at=None if each.save_at is None else each.save_at.reshape(-1, each.save_at.shape[-1]),
        begun=jax.tree.map(lambda a: a.reshape(-1, *a.shape[len(batch) :]), each.begun),
    )
    segment = _adaptive_segment(plan, problem, rows)
    plan = dataclasses.replace(plan, segment=segment)
    one_device = partial(_on_one_device, plan)
    if plan.mesh is None:
        saves, ends = one_device(problem, rows)
    else:
        adaptive = problem.tolerances is not None
        alone = adapted(problem.solver).works_alone and (plan.checkpoints or not adaptive)
        saves, ends = over_devices(
            one_device,
            problem,
            rows,
            mesh=plan.mesh,
            alone=alone,
            gradients_alone=not adaptive,
        )
    saves, ends = jax.tree.map(lambda a: a.reshape(*batch, *a.shape[1:]), (saves, ends))
    steps = plan.saved_steps
    if problem.start is not None:
        steps = problem.start + steps
    if segment is not None:
        saved, done, save_every = segment
        segment = saved, (done + len(steps) - 1) % saved, save_every
        if not segment[1]:  # the next segment begins with the last state
            ends = ends._replace(solver=[])
    ts = each.times(problem)
    if ts is None:
        ts = steps.astype(x0.dtype) * problem.dt
    if isinstance(plan.event, Recurring):
        ts, ends = ends.event_times, ends._replace(event_times=None)
    return Trajectory(
        ts=ts,
        xs=saves.xs,
        observed=saves.observed,
        folded=ends.folded,
        stopped_at=ends.stopped_at,
        unconverged_at=ends.unconverged_at,
        remembered=Remembered(ends.x, ends.solver, steps[-1], marks, segment),
        event_times=ends.event_times,
    )


def fingerprint_of(problem: Problem, key: Any) -> Array:
    """Of what has to be the same where the run goes on."""
    solver, tolerances = problem.solver, problem.tolerances
    return fingerprint(problem.rnn, problem.dt, solver, tolerances, (problem.noise, key))


def _adaptive_segment(plan: Plan, problem: Problem, rows: Batch) -> tuple[int, int, int] | None:
    """Saves in a segment of adaptive steps, how many of the first are made, and steps between."""
    held = rows.inputs is not None or isinstance(problem.inputs, jax.Array)
    if problem.tolerances is None or held:  # held inputs: each step on the grid is solved alone
        return None
    steps = adaptive_segment_steps(plan, needs_all(problem, plan), rows.x0.size)
    if plan.save_every > steps:
        return None
    if plan.segment is not None and plan.segment[2] == plan.save_every:
        return plan.segment
    return steps // plan.save_every, 0, plan.save_every


def _on_one_device(plan: Plan, problem: Problem, rows: Batch) -> tuple[Saves, Ends]:
    """The share of one device, block after block."""
    solver, devices, x0 = adapted(problem.solver), local_devices(plan.mesh), rows.x0
    size = block_size(
        x0.shape[1], x0.dtype.itemsize, solver.arrays_per_step, plan.platform, devices
    )
    if not solver.works_alone and plan.platform == "cpu" and devices > 1:
        size = 1  # jaxlib's LU of a batch may wait for ever: see solvers/_implicit.py
    beside = rows.times(problem) is not None or plan.event is not None
    on_grid, given = plan, problem
    if beside:
        on_grid = dataclasses.replace(plan, keep_states=True, observe=None)
    if isinstance(plan.event, Recurring):
        start = 0 if problem.start is None else problem.start
        init, update = plan.event.recorder(problem.dt, start)
        on_grid, given = dataclasses.replace(on_grid, update=update), problem._replace(fold=init)
    saves, ends = over_blocks(
        partial(_run_block, on_grid, given),
        rows,
        empty=partial(no_saves_yet, on_grid, problem.dt, x0),
        meter=problem.meter,
        size=size,
    )
    return _beside(plan, problem, rows, saves.xs, ends) if beside else (saves, ends)


def _beside(plan: Plan, problem: Problem, rows: Batch, xs: Any, ends: Ends) -> tuple[Saves, Ends]:
    """What is found between the steps, given the states (batch, saves, n) at saves on the grid."""
    end = ended(problem, plan, rows, xs[:, -1], ends)
    ends = ends._replace(x=end.xs)
    if isinstance(plan.event, Recurring):
        ts, saves, failed = at_events(problem, plan, rows, xs, ends.folded[3])
        failed = first_unsolved(ends.unconverged_at, failed)
        return saves, ends._replace(folded=None, event_times=ts, unconverged_at=failed)
    if plan.event is not None:
        failed = first_unsolved(ends.unconverged_at, end.unconverged_at)
        ends = ends._replace(event_times=end.ts, unconverged_at=failed)
    if rows.times(problem) is not None:
        saves, failed = at_times(problem, plan, rows, xs, end)
        return saves, ends._replace(unconverged_at=first_unsolved(ends.unconverged_at, failed))
    start = 0 if problem.start is None else problem.start
    ts = (start + plan.saved_steps).astype(xs.dtype) * problem.dt
    return until_events(plan, ts, plan.saved_steps, xs, end), ends


def _run_block(
    plan: Plan, problem: Problem, rows: Batch, saves: Saves, first: Any, progress: Progress
) -> tuple[PyTree, Saves, Ends]:
    """The meter's state, the saves with those of these rows from `first` on, and their ends.

    The inputs are those of all rows: what is wanted of them is taken segment by segment.
    """
    columns = rows.x0.T
    drive = rows.drive(problem, first, len(rows.x0))
    begun = rows.begun
    advance, solver_state, segment_steps = _segments(plan, problem, columns, drive, rows.keys)
    axes = _batch_axes(problem, columns, drive, rows.keys)
    if begun is not None and (problem.tolerances is None or (plan.segment and plan.segment[1])):
        solver_state = from_rows(begun.solver, axes)

    def store(saves, index, steps, states):
        made = saves_of(plan, problem.dt, steps, states[..., : len(rows.x0)])
        return jax.tree.map(lambda whole, part: write(whole, part, first, index), saves, made)

    start = jnp.zeros((), jnp.int32) if problem.start is None else problem.start
    never = jnp.full(columns.shape[1:], -1, jnp.int32)
    carry = Carry(
        x=columns,
        solver=solver_state,
        fold=initial_fold(problem, plan, columns),
        step=start,
        stopped_at=jnp.where(within(columns, problem.max_norm), never, start),
        unconverged_at=never,
    )
    if begun is not None:
        carry = _going_on(carry, begun)
    carry, saves, meter_state = run_segments(
        advance,
        carry,
        store(saves, 0, start[None], columns[None]),
        store=lambda saves, index, steps, states: store(saves, index + 1, steps, states),
        num_steps=plan.num_steps,
        save_every=plan.save_every,
        segment_steps=segment_steps,
        progress=progress,
        saves_each=None if plan.segment is None else plan.segment[:2],
    )
    x = None if plan.keep_states else carry.x.T
    remembered = as_rows(carry.solver, axes, len(rows.x0))
    ends = Ends(carry.fold, carry.stopped_at, carry.unconverged_at, x, remembered)
    return meter_state, saves, ends


def _going_on(carry: Carry, begun: Begun) -> Carry:
    """The carry where it begins anew, with what is known of each trajectory."""
    fold = carry.fold
    if begun.folded is not None and fold is not None:
        shapes, known = (
            jax.tree.map(lambda a: (a.shape, a.dtype), tree) for tree in (fold, begun.folded)
        )
        if shapes != known:
            checks.fail("fold", "the carry of the run that goes on", "another")
        fold = begun.folded
    stopped = begun.stopped_at
    return carry._replace(
        fold=fold,
        stopped_at=jnp.where(stopped >= 0, stopped, carry.stopped_at),
        unconverged_at=begun.unconverged_at,
    )


def _batch_axes(problem: Problem, columns: Array, drive: Drive, keys: Any) -> PyTree:
    """Of what the solver hands on from step to step."""
    u = drive.at_start(problem.dt)

    def of_one(fraction: Any) -> Array:  # as the number of trajectories differs
        assert u is not None
        return u(fraction).reshape(u(fraction).shape[0], -1)[:, 0]

    def begin(batch: int) -> PyTree:
        x = jnp.zeros((columns.shape[0], batch), columns.dtype)
        some = None if keys is None else jnp.repeat(keys[:1], batch)
        return _solver(problem, some).begin(problem.rnn, problem.dt, x, u and of_one)[0]

    if problem.tolerances is not None:
        return None if drive.kind == HELD else 1
    return batch_axes(begin)


def _solver(problem: Problem, keys: Any) -> Declarations:
    solver = adapted(problem.solver)
    return solver if problem.noise is None else Noisy(problem.solver, problem.noise, keys)


def _segments(
    plan: Plan, problem: Problem, columns: Float[Array, "n batch"], drive: Drive, keys: Any
) -> tuple[Advance, PyTree, int]:
    """How a segment is run, what the solver remembers before the first, and steps in each."""
    if problem.tolerances is not None:
        origin = None if drive.kind == HELD else columns
        steps = adaptive_segment_steps(plan, needs_all(problem, plan), columns.size)
        return adaptive_segments(problem, plan, drive), origin, steps
    solver = _solver(problem, keys).on(plan.platform)
    at_start = drive.at_start(problem.dt)
    remembered, step = solver.begin(problem.rnn, problem.dt, columns, at_start)
    looks = plan.update is not None or problem.max_norm is not None or plan.stops_at is not None
    if plan.adjoint == "reversible" and not looks:
        advance = reversible_segments(solver, problem.rnn, problem.dt, drive)
        return advance, remembered, reversible_segment_steps(plan.num_steps)
    n, size = columns.shape
    segment_steps = stored_every = steps_stored_every(plan.num_steps, plan.platform)
    advance = fixed_segments(
        step,
        problem.dt,
        drive,
        update=plan.update,
        max_norm=problem.max_norm,
        event=plan.stops_at,
        stored_every=stored_every if plan.checkpoints else None,
        check_each_step=solver.checks_each_step,
        spare=spare_columns(size, columns.dtype.itemsize, plan.platform),
        kernels=kernels(
            n,
            solver.products_of_rows(problem.rnn),
            solver.arrays_per_step,
            plan.platform,
            solver.unrolls,
        ),
    )
    if drive.each is None:  # else of each segment's inputs there is a copy
        segment_steps = steps_in_segment(stored_every, plan.save_every)
    return advance, remembered, segment_steps
