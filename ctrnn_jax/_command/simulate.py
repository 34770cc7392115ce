"""`ctrnn simulate`: files in, a simulation, files out."""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._analysis.balance import EnergyBalance
from .._files.models import save
from .._files.record import record
from .._files.recordings import Recording, open_recording
from .._files.writing import appearing_together, write_json
from .._network.model import CTRNN
from .._simulate.api import simulate
from .._simulate.arguments import MAX_STEPS
from .._simulate.trajectory import Trajectory
from .._util import checks
from ..solvers._foreign import adapted
from ..solvers._names import solver_named
from .drive import Drive, Inputs, read_inputs
from .info import environment
from .options import make_devices, mesh_of, prepared
from .recorded import RECORDING, begin, is_recorded, resumed
from .simulate_network import (
    MEMORY,
    drive_of,
    driven_by,
    event_of,
    network_and_states,
    times_of,
)
from .simulate_options import Settings
from .simulate_results import Part, Run, animation, measure, pictures, table, write_event_times


def simulate_to_folder(settings: Settings) -> None:
    """Simulate many initial states of one network; leave states, summary and plots in --out.

    Without options: 4096 random initial states of a random 20-neuron tanh network, small enough
    for quasi-periodic motion; --amplitude 1 is chaotic. With --inputs or --noise energy is
    exchanged: instead of its drift the energy balance is told, where that can be.
    """
    if settings.resume:
        settings = resumed(settings)
    make_devices(settings.devices)
    with prepared(settings.out, settings.dtype, settings.device):
        _simulate_to_folder(settings)


def _simulate_to_folder(settings: Settings) -> None:
    dtype = jnp.dtype(settings.dtype)
    given, read = settings, None
    if settings.inputs is not None:
        read = read_inputs(settings.inputs, each=True)
    dt = settings.dt if read is None else read.interval(settings.dt, None)
    solver = settings.solver or ("tsit5" if settings.noise is None else "euler")
    settings = dataclasses.replace(settings, dt=0.05 if dt is None else dt, solver=solver)
    solver = solver_named(solver)
    times = times_of(settings)
    settings = _without_recording(settings)
    asked, steps, save_every = _steps(settings, read, times)
    saves = 1 + steps // save_every if times is None else len(times)
    rnn, x0 = network_and_states(settings, dtype, saves, read)
    event = event_of(settings, rnn.size)
    saved = x0.nbytes * saves
    recorded = is_recorded(settings.record, MEMORY * saved, saved, settings.out)
    drive = drive_of(settings, read, len(x0), dtype)
    options = {
        "dt": settings.dt,
        "solver": solver,
        "rtol": settings.rtol,
        "atol": settings.atol,
        "max_norm": settings.max_norm,
    }
    adapted(solver).check(rnn, x0[:1])  # a bias without energy, which is not seen when traced
    mesh = mesh_of(settings.devices, settings.device, x0, solver)
    many = {"num_steps": steps, "save_every": save_every, "mesh": mesh}
    if times is not None:
        many |= {"save_every": 1, "save_at": times}
    if event is not None:
        options["until"] = event
    many |= {"progress": settings.progress, **options}
    if recorded:
        begin(given)
        many |= drive.options()
        trajectory, seconds, share = _recorded(settings.out, rnn, x0, many)
        compilation = None
    else:
        share = 1
        trajectory, seconds, compilation = _in_memory(rnn, x0, drive, many)
    run = Run(rnn, trajectory, x0, steps, None if times is not None else save_every, options, drive)
    measured, part, balance = measure(run)
    results = {
        "states": x0.shape[0],
        "neurons": rnn.size,
        "steps": steps,
        "steps_asked_for": asked,
        "dt": settings.dt,
        "save_every": run.save_every,
        "saves": saves,
        "until": given.until,
        "solver": type(solver).__name__,
        "driven_by": driven_by(given, read),
        "devices": 1 if mesh is None else mesh.size,
        "recording": RECORDING if recorded else None,
        "wall_time_s": seconds,
        "compile_time_s": compilation,
        "state_steps_per_s": x0.shape[0] * steps * share / seconds if share else None,
        **measured,
    }
    with appearing_together(given.out) as workplace:
        save(workplace / "network.ctrnn", rnn)
        if not recorded:
            save(workplace / "trajectory.ctrnn", trajectory)
        if event is not None:
            write_event_times(workplace / "event_times.csv", trajectory)
        summary = {"results": results, "settings": given, "environment": environment()}
        write_json(workplace / "summary.json", summary)
        _draw(workplace, run, part, balance, animate=given.animate)
    print(table(results))
    print(f"results in {given.out}")


def _draw(
    workplace: Path, run: Run, part: Part, balance: EnergyBalance | None, *, animate: bool
) -> None:
    from ..plot._files import draw  # loads matplotlib, which help and bad options need not

    draw(workplace, pictures(run.rnn, run.trajectory, part, balance))
    if animate:
        animation(workplace / "animation.gif", part)


def _without_recording(settings: Settings) -> Settings:
    """Refuse to record what is not saved along the way."""
    for option in ("save_at", "until"):
        value = getattr(settings, option)
        if value is not None and settings.record:
            checks.fail("--record", f"none with --{option.replace('_', '-')}", "it")
        if value is not None:
            settings = dataclasses.replace(settings, record=False)
    return settings


def _in_memory(
    rnn: CTRNN, x0: jax.Array, drive: Drive, options: dict[str, Any]
) -> tuple[Trajectory, float, float]:
    """The run, the seconds it took, and those of its compilation."""
    arrays, static = eqx.partition((rnn, drive), eqx.is_array)

    def run(arrays: Any, x0: jax.Array) -> Trajectory:
        rnn, drive = eqx.combine(arrays, static)
        return simulate(rnn, x0, **options, **drive.options())

    start = time.perf_counter()
    compiled = jax.jit(run).lower(arrays, x0).compile()
    compiled_at = time.perf_counter()
    trajectory = jax.block_until_ready(compiled(arrays, x0))
    return trajectory, time.perf_counter() - compiled_at, compiled_at - start


def _recorded(
    out: Path, rnn: CTRNN, x0: jax.Array, options: dict[str, Any]
) -> tuple[Recording, float, float]:
    """The run, the seconds for what was not there already, and which share of it that was."""
    path, before = out / RECORDING, 0
    if path.exists():
        before = open_recording(path).num_saves
    start = time.perf_counter()
    found = record(path, rnn, x0, **options)
    return found, time.perf_counter() - start, 1 - before / found.num_saves


def _steps(
    settings: Settings, inputs: Inputs | None = None, times: np.ndarray | None = None
) -> tuple[int, int, int]:
    """Steps that were asked for, steps that are made, and steps between two saves."""
    steps, dt = settings.steps, 0.05 if settings.dt is None else settings.dt
    checks.positive("--dt", dt, settings.dtype)
    if settings.duration is not None:
        if steps is not None:
            checks.fail("--duration", "either --steps or --duration", "both")
        checks.positive("--duration", settings.duration)
        if not settings.duration / dt < MAX_STEPS:
            got = f"{settings.duration} with --dt {dt}"
            checks.fail("--duration", f"at most {MAX_STEPS} time steps", got)
        steps = max(1, round(settings.duration / dt))
        if not math.isclose(steps * dt, settings.duration, rel_tol=1e-6):
            got = f"{settings.duration} with --dt {dt}"
            checks.fail("--duration", "a whole number of time steps", got)
    if steps is None and inputs is None and times is not None:
        last = float(times.max()) / dt * (1 - 8 * float(np.finfo(times.dtype).eps))
        if not last < MAX_STEPS:
            checks.fail("--save-at", f"times within {MAX_STEPS} steps of {dt} s", times.max())
        steps = max(1, math.ceil(last))
    if steps is None:
        steps = 2000 if inputs is None else inputs.steps
    steps = checks.integer("--steps", steps, 1)
    if steps > MAX_STEPS:
        checks.fail("--steps", f"at most {MAX_STEPS}", steps)
    if inputs is not None and steps != inputs.steps:
        option = "--steps" if settings.duration is None else "--duration"
        checks.fail(option, f"{inputs.steps} steps, as many as {inputs.name} has inputs", steps)
    if times is not None:
        if (last := float(times.max())) > steps * dt * (1 + 8 * float(np.finfo(times.dtype).eps)):
            checks.fail("--save-at", f"times up to {steps * dt:.6g} s, {steps} steps", last)
        return steps, steps, steps
    if settings.save_every is None and inputs is not None:
        # Of the divisors the largest that leaves 80 saves: no step without an input is added.
        each = next(d for d in range(max(1, steps // 80), 0, -1) if steps % d == 0)
        return steps, steps, each
    if settings.save_every is None:
        # Saves are evenly spaced: of about 100 so many that the fewest steps are added.
        each = np.arange(max(1, steps // 125), max(1, steps // 80) + 1)
        added = -steps % each
        best = np.lexsort((np.abs(steps / each - 100), added))[0]
        return steps, steps + int(added[best]), int(each[best])
    save_every = checks.integer("--save-every", settings.save_every, 1)
    if steps % save_every:
        checks.fail("--steps", f"a multiple of --save-every {save_every}", steps)
    return steps, steps, save_every
