"""`ctrnn simulate`: files in, a simulation, files out."""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import Annotated, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from typer import Option

from .._files.arrays import read_array
from .._files.models import save
from .._files.record import record
from .._files.recordings import Recording, open_recording
from .._files.writing import appearing_together, write_json
from .._network.model import CTRNN
from .._network.products import AbstractWeights
from .._network.weights import DenseSkew, DenseWeights, not_skew
from .._simulate.api import MAX_STEPS, simulate
from .._simulate.trajectory import Trajectory
from .._util import checks
from .._util.classes import listed
from ..solvers._foreign import adapted
from ..solvers._names import described, solver_named
from .drive import Drive, Inputs, read_inputs
from .info import environment
from .options import (
    ACTIVATIONS,
    ARRAY,
    Device,
    Dtype,
    Form,
    Out,
    Progress,
    Seed,
    activation_named,
    fits,
    make_devices,
    mesh_of,
    prepared,
    seed_of,
)
from .parts import finite_array, input_weights_of, matrix_of, read_part, states_of
from .recorded import RECORDING, begin, is_recorded, resumed
from .simulate_results import Run, measure, pictures, table

_MEMORY = 5.0  # times the saved states: these, and their energies to draw the drift


@dataclasses.dataclass(frozen=True)
class Settings:
    """The options of `ctrnn simulate`; None where one is left out."""

    out: Out = Path("runs/simulate")
    weights: Annotated[
        Path | None,
        Option(
            help=f"Skew-symmetric matrix A (n, n) in 1/s: {ARRAY},"
            " or a .ctrnn file: the weights of its network."
        ),
    ] = None
    array: Annotated[
        str | None, Option(help="Name of the array in a file of --weights that has several.")
    ] = None
    skew_part: Annotated[
        bool, Option("--skew-part", help="Use (A - A^T)/2 of a matrix that is not skew.")
    ] = False
    unconstrained: Annotated[
        bool, Option("--unconstrained", help="Use the matrix as it is, skew or not.")
    ] = False
    initial_states: Annotated[
        Path | None,
        Option(
            help=f"Initial states (states, n) or one state (n,): {ARRAY},"
            " or a .ctrnn file: the last states of its trajectory."
        ),
    ] = None
    neurons: Annotated[
        int | None, Option(help="Neurons of a random network.", show_default="20")
    ] = None
    scale: Annotated[
        float, Option(help="Size of random weights: largest omega near 2 scale, in rad/s.")
    ] = 2.0
    states: Annotated[
        int | None, Option(help="Number of random initial states.", show_default="4096")
    ] = None
    amplitude: Annotated[float, Option(help="Standard deviation of random initial states.")] = 0.1
    seed: Seed = 0
    activation: Annotated[str, Option(help=f"{listed(ACTIVATIONS)}.")] = "tanh"
    form: Form = "rate"
    bias: Annotated[str | None, Option(help=f"b: one number for all neurons, or {ARRAY}.")] = None
    leak: Annotated[float | None, Option(help="Leak rate in 1/s; breaks every invariant.")] = None
    inputs: Annotated[
        Path | None,
        Option(
            help=f"Inputs u (steps, inputs), shared, or (states, steps, inputs): {ARRAY}. Each is"
            " held through its step; a column of times of a .csv file gives --dt."
        ),
    ] = None
    input_weights: Annotated[
        Path | None,
        Option(
            help=f"B (n, inputs): {ARRAY}, or a .ctrnn file: that of its network.",
            show_default="random",
        ),
    ] = None
    input_scale: Annotated[
        float | None,
        Option(help="Standard deviation of random input weights.", show_default="1"),
    ] = None
    noise: Annotated[
        float | None,
        Option(
            help="Intensity of white noise, in units of a state over the root of a second,"
            " independent for each neuron; its paths follow from --seed."
        ),
    ] = None
    solver: Annotated[
        str | None,
        Option(
            help=f"{described()}. With --noise one of stochastic equations: euler, heun, ...",
            show_default="tsit5; euler with --noise",
        ),
    ] = None
    dt: Annotated[
        float | None,
        Option(help="Time step in seconds.", show_default="that of --inputs, else 0.05"),
    ] = None
    steps: Annotated[
        int | None,
        Option(help="Number of steps.", show_default="as many as --inputs, else 2000"),
    ] = None
    duration: Annotated[
        float | None, Option(help="Simulated time in seconds, instead of --steps.")
    ] = None
    save_every: Annotated[
        int | None,
        Option(
            help="Steps between saves, a divisor of --steps. Unless given, about 100 saves, for"
            " which --steps may be rounded up; with --inputs at least 80, if need be all.",
            show_default="about 100 saves",
        ),
    ] = None
    rtol: Annotated[float | None, Option(help="Relative tolerance: adaptive steps.")] = None
    atol: Annotated[float | None, Option(help="Absolute tolerance: adaptive steps.")] = None
    max_norm: Annotated[float | None, Option(help="Stop a trajectory whose norm passes this.")] = (
        None
    )
    dtype: Dtype = "float32"
    device: Device = None
    devices: Annotated[
        int | None,
        Option(
            help="Devices that share the states; a CPU becomes as many as asked for.",
            show_default="all cores, where it is faster",
        ),
    ] = None
    progress: Progress = True
    record: Annotated[
        bool | None,
        Option(
            help="Write the states to recording.zarr in --out while they are computed, whatever"
            " their size, instead of trajectory.ctrnn.",
            show_default="where they would take half of the memory",
        ),
    ] = None
    resume: Annotated[
        bool,
        Option("--resume", help="Go on with the recording in --out, with the options it had."),
    ] = False


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
    asked, steps, save_every = _steps(settings, read)
    rnn, x0 = _network_and_states(settings, dtype, 1 + steps // save_every, read)
    saved = x0.nbytes * (1 + steps // save_every)
    recorded = is_recorded(settings.record, _MEMORY * saved, saved, settings.out)
    drive = _drive(settings, read, len(x0), dtype)
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
    many |= {"progress": settings.progress, **options}
    if recorded:
        begin(given)
        many |= drive.options()
        trajectory, seconds, share = _recorded(settings.out, rnn, x0, many)
        compilation = None
    else:
        share = 1
        trajectory, seconds, compilation = _in_memory(rnn, x0, drive, many)
    measured, part, balance = measure(Run(rnn, trajectory, steps, save_every, options, drive))
    results = {
        "states": x0.shape[0],
        "neurons": rnn.size,
        "steps": steps,
        "steps_asked_for": asked,
        "dt": settings.dt,
        "save_every": save_every,
        "solver": type(solver).__name__,
        "driven_by": _driven_by(given, read),
        "devices": 1 if mesh is None else mesh.size,
        "recording": RECORDING if recorded else None,
        "wall_time_s": seconds,
        "compile_time_s": compilation,
        "state_steps_per_s": x0.shape[0] * steps * share / seconds if share else None,
        **measured,
    }
    settings = given
    summary = {
        "results": results,
        "settings": settings,
        "environment": environment(),
    }
    from ..plot._files import draw  # loads matplotlib, which help and bad options need not

    with appearing_together(settings.out) as workplace:
        save(workplace / "network.ctrnn", rnn)
        if not recorded:
            save(workplace / "trajectory.ctrnn", trajectory)
        write_json(workplace / "summary.json", summary)
        draw(workplace, pictures(rnn, trajectory, part, balance))
    print(table(results))
    print(f"results in {settings.out}")


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


def _steps(settings: Settings, inputs: Inputs | None = None) -> tuple[int, int, int]:
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
    if steps is None:
        steps = 2000 if inputs is None else inputs.steps
    steps = checks.integer("--steps", steps, 1)
    if steps > MAX_STEPS:
        checks.fail("--steps", f"at most {MAX_STEPS}", steps)
    if inputs is not None and steps != inputs.steps:
        option = "--steps" if settings.duration is None else "--duration"
        checks.fail(option, f"{inputs.steps} steps, as many as {inputs.name} has inputs", steps)
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


def _check_size(settings: Settings, n: int, states: int, saves: int) -> None:
    """Refuse a network, states and saves for which there is no room."""
    size = jnp.dtype(settings.dtype).itemsize
    saved = states * saves * n * size
    what = f"{states} states of {n} neurons, each saved {saves} times (see --save-every)"
    # Weights and their products; what is not recorded is in memory.
    memory = 4 * n**2 * size + (_MEMORY * saved if settings.record is False else 0)
    fits(what, memory, n**2 * size + saved, settings.out)


def _drive(settings: Settings, read: Inputs | None, states: int, dtype: Any) -> Drive:
    """Inputs and noise for so many states."""
    inputs, noise, key = None, None, None
    if read is not None:
        if read.values.ndim == 3 and len(read.values) != states:
            expected = f"inputs shared or of {states} states, ({states}, steps, inputs)"
            checks.fail("--inputs", expected, f"shape {read.values.shape}")
        inputs = finite_array("--inputs", read.values, dtype)
    if settings.noise is not None:
        checks.positive("--noise", settings.noise, dtype)
        noise, key = settings.noise, jax.random.fold_in(jax.random.key(settings.seed), 1)
    return Drive(inputs, noise, key)


def _driven_by(settings: Settings, read: Inputs | None) -> dict[str, Any] | None:
    """What the summary says of inputs and noise."""
    told: dict[str, Any] = {}
    if read is not None:
        scale = 1.0 if settings.input_scale is None else settings.input_scale
        told["inputs"] = read.count
        told["inputs_file"] = read.name
        told["inputs_shared"] = read.values.ndim == 2
        told["input_weights"] = (
            f"random, standard deviation {scale:g}"
            if settings.input_weights is None
            else settings.input_weights.name
        )
    if settings.noise is not None:
        told["noise"] = settings.noise
    return told or None


def _input_weights(settings: Settings, read: Inputs | None, n: int, dtype: Any) -> Any:
    """B (n, inputs), from a file or random; None without inputs."""
    for option in ("input_weights", "input_scale"):
        value = getattr(settings, option)
        if read is None and value is not None:
            checks.fail(f"--{option.replace('_', '-')}", "none without --inputs", value)
    if read is None:
        return None
    if settings.input_weights is None:
        scale = 1.0 if settings.input_scale is None else settings.input_scale
        checks.positive("--input-scale", scale, dtype)
        key = jax.random.fold_in(jax.random.key(settings.seed), 0)
        return scale * jax.random.normal(key, (n, read.count), dtype)
    if settings.input_scale is not None:
        got = "both"
        checks.fail("--input-scale", "either --input-weights or --input-scale", got)
    B = read_part("--input-weights", settings.input_weights, input_weights_of)
    B = B[:, None] if B.ndim == 1 else B
    if B.shape != (n, read.count):
        expected = f"shape {(n, read.count)}, neurons and inputs of {read.name}"
        checks.fail("--input-weights", expected, B.shape)
    return finite_array("--input-weights", B, dtype)


def _network_and_states(
    settings: Settings, dtype: Any, saves: int, read: Inputs | None = None
) -> tuple[CTRNN, jax.Array]:
    key_weights, key_states = jax.random.split(jax.random.key(seed_of(settings.seed)))
    checks.positive("--amplitude", settings.amplitude, dtype)
    checks.positive("--scale", settings.scale, dtype)
    states = settings.states
    if states is None:
        states = 4096 if read is None or read.values.ndim == 2 else len(read.values)
    states = checks.integer("--states", states, 1)
    if settings.weights is None:
        for option in ("array", "skew_part", "unconstrained"):
            if getattr(settings, option):
                option = f"--{option.replace('_', '-')}"
                checks.fail(option, "a matrix in --weights", "none")
        n = checks.integer("--neurons", 20 if settings.neurons is None else settings.neurons, 2)
        _check_size(settings, n, states, saves)
        weights = DenseSkew.init(key_weights, n, scale=settings.scale, dtype=dtype)
    else:
        weights = _weights(settings, dtype)
        n = weights.size
        if settings.neurons not in (None, n):
            checks.fail("--neurons", f"the size {n} of --weights", settings.neurons)
    bias = None
    if settings.bias is not None:
        try:
            bias = np.full(n, float(settings.bias))
        except ValueError:
            bias = read_array("--bias", Path(settings.bias))
            bias = bias.ravel() if bias.ndim == 2 and 1 in bias.shape else bias
        bias = finite_array("--bias", bias, dtype)
    leak = None
    if settings.leak is not None:
        leak = finite_array("--leak", np.asarray(settings.leak), dtype)
    activation = activation_named(settings.activation)
    B = _input_weights(settings, read, n, dtype)
    rnn = CTRNN(weights, activation, settings.form, bias=bias, leak=leak, input_weights=B)

    if settings.initial_states is None:
        _check_size(settings, n, states, saves)
        return rnn, settings.amplitude * jax.random.normal(key_states, (states, n), dtype)
    x0 = np.atleast_2d(read_part("--initial-states", settings.initial_states, states_of))
    if x0.ndim != 2 or x0.shape[1] != n:
        checks.fail("--initial-states", f"shape (states, {n})", x0.shape)
    if settings.states not in (None, len(x0)):
        checks.fail("--states", f"the {len(x0)} states of --initial-states", settings.states)
    _check_size(settings, n, len(x0), saves)
    return rnn, finite_array("--initial-states", x0, dtype)


def _weights(settings: Settings, dtype: Any) -> AbstractWeights:
    assert settings.weights is not None
    A = read_part("--weights", settings.weights, matrix_of, settings.array, selects=True)
    if A.ndim != 2 or A.shape[0] != A.shape[1]:
        checks.fail("--weights", "a square matrix", f"shape {A.shape}")
    checks.finite("--weights", A)
    if settings.unconstrained:
        if settings.skew_part:
            checks.fail("--unconstrained", "either --skew-part or --unconstrained", "both")
        return DenseWeights(finite_array("--weights", A, dtype))
    got = None if settings.skew_part else not_skew(A)  # at the precision of the file
    if got is not None:
        hint = "a skew-symmetric matrix (or the option --skew-part or --unconstrained)"
        checks.fail("--weights", hint, got)
    return DenseSkew.from_matrix(finite_array("--weights", A, dtype), skew_part=True)
