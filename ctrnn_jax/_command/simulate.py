"""`ctrnn simulate`: files in, a simulation, files out."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from typer import Option

from .._files.arrays import read_array
from .._files.models import load, save
from .._files.writing import appearing_together, write_json
from .._network.model import CTRNN
from .._network.products import AbstractWeights
from .._network.weights import DenseSkew, DenseWeights
from .._simulate.api import MAX_STEPS, simulate
from .._simulate.trajectory import Trajectory
from .._train.oscillator import Oscillator
from .._util import checks
from .._util.classes import listed
from ..solvers._foreign import adapted
from ..solvers._names import described, solver_named
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
from .simulate_results import measure, pictures, table


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
    solver: Annotated[str, Option(help=f"{described()}.")] = "tsit5"
    dt: Annotated[float, Option(help="Time step in seconds.")] = 0.05
    steps: Annotated[int | None, Option(help="Number of steps.", show_default="2000")] = None
    duration: Annotated[
        float | None, Option(help="Simulated time in seconds, instead of --steps.")
    ] = None
    save_every: Annotated[
        int | None,
        Option(
            help="Steps between saves, a divisor of --steps. Unless given, about 100 saves, for"
            " which --steps may be rounded up.",
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


def simulate_to_folder(settings: Settings) -> None:
    """Simulate many initial states of one network; leave states, summary and plots in --out.

    Without options: 4096 random initial states of a random 20-neuron tanh network, small enough
    for quasi-periodic motion; --amplitude 1 is chaotic.
    """
    make_devices(settings.devices)
    with prepared(settings.out, settings.dtype, settings.device):
        _simulate_to_folder(settings)


def _simulate_to_folder(settings: Settings) -> None:
    dtype = jnp.dtype(settings.dtype)
    solver = solver_named(settings.solver)
    asked, steps, save_every = _steps(settings)
    rnn, x0 = _network_and_states(settings, dtype, 1 + steps // save_every)
    options = {
        "dt": settings.dt,
        "solver": solver,
        "rtol": settings.rtol,
        "atol": settings.atol,
        "max_norm": settings.max_norm,
    }
    adapted(solver).check(rnn, x0[:1])  # a bias without energy, which is not seen when traced
    mesh = mesh_of(settings.devices, settings.device, x0, solver)
    arrays, static = eqx.partition(rnn, eqx.is_array)

    def run(arrays: Any, x0: jax.Array) -> Trajectory:
        many = {"num_steps": steps, "save_every": save_every, "mesh": mesh}
        return simulate(
            eqx.combine(arrays, static), x0, **options, **many, progress=settings.progress
        )

    start = time.perf_counter()
    compiled = jax.jit(run).lower(arrays, x0).compile()
    compiled_at = time.perf_counter()
    trajectory = jax.block_until_ready(compiled(arrays, x0))
    seconds = time.perf_counter() - compiled_at
    measured, part = measure(rnn, trajectory, steps, save_every, options)
    results = {
        "states": x0.shape[0],
        "neurons": rnn.size,
        "steps": steps,
        "steps_asked_for": asked,
        "dt": settings.dt,
        "save_every": save_every,
        "solver": type(solver).__name__,
        "devices": 1 if mesh is None else mesh.size,
        "wall_time_s": seconds,
        "compile_time_s": compiled_at - start,
        "state_steps_per_s": x0.shape[0] * steps / seconds,
        **measured,
    }
    summary = {
        "results": results,
        "settings": settings,
        "environment": environment(),
    }
    from ..plot._files import draw  # loads matplotlib, which help and bad options need not

    with appearing_together(settings.out) as workplace:
        save(workplace / "network.ctrnn", rnn)
        save(workplace / "trajectory.ctrnn", trajectory)
        write_json(workplace / "summary.json", summary)
        draw(workplace, pictures(rnn, trajectory, part))
    print(table(results))
    print(f"results in {settings.out}")


def _steps(settings: Settings) -> tuple[int, int, int]:
    """Steps that were asked for, steps that are made, and steps between two saves."""
    steps, dt = settings.steps, settings.dt
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
    steps = checks.integer("--steps", 2000 if steps is None else steps, 1)
    if steps > MAX_STEPS:
        checks.fail("--steps", f"at most {MAX_STEPS}", steps)
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
    # Weights and their products; the saved states, and their energies to draw the drift.
    fits(what, 4 * n**2 * size + 5 * saved, n**2 * size + saved, settings.out)


def _network_and_states(settings: Settings, dtype: Any, saves: int) -> tuple[CTRNN, jax.Array]:
    key_weights, key_states = jax.random.split(jax.random.key(seed_of(settings.seed)))
    checks.positive("--amplitude", settings.amplitude, dtype)
    checks.positive("--scale", settings.scale, dtype)
    states = checks.integer("--states", 4096 if settings.states is None else settings.states, 1)
    if settings.weights is None:
        if settings.skew_part or settings.unconstrained:
            option = "--skew-part" if settings.skew_part else "--unconstrained"
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
        bias = _finite("--bias", bias, dtype)
    leak = None if settings.leak is None else jnp.asarray(settings.leak, dtype)
    activation = activation_named(settings.activation)
    rnn = CTRNN(weights, activation, settings.form, bias=bias, leak=leak)

    if settings.initial_states is None:
        _check_size(settings, n, states, saves)
        return rnn, settings.amplitude * jax.random.normal(key_states, (states, n), dtype)
    x0 = np.atleast_2d(_read("--initial-states", settings.initial_states, _states_of))
    if x0.ndim != 2 or x0.shape[1] != n:
        checks.fail("--initial-states", f"shape (states, {n})", x0.shape)
    if settings.states not in (None, len(x0)):
        checks.fail("--states", f"the {len(x0)} states of --initial-states", settings.states)
    _check_size(settings, n, len(x0), saves)
    return rnn, _finite("--initial-states", x0, dtype)


def _weights(settings: Settings, dtype: Any) -> AbstractWeights:
    assert settings.weights is not None
    A = _read("--weights", settings.weights, _matrix_of)
    if A.ndim != 2 or A.shape[0] != A.shape[1]:
        checks.fail("--weights", "a square matrix", f"shape {A.shape}")
    checks.finite("--weights", A)
    if settings.unconstrained:
        if settings.skew_part:
            checks.fail("--unconstrained", "either --skew-part or --unconstrained", "both")
        return DenseWeights(_finite("--weights", A, dtype))
    symmetric = np.max(np.abs(A + A.T), initial=0) / 2
    if not settings.skew_part and symmetric > 16 * np.finfo(A.dtype).eps * np.max(np.abs(A)):
        got = (
            f"a symmetric part of size {symmetric:.3g} beside weights of size {np.abs(A).max():.3g}"
        )
        hint = "a skew-symmetric matrix (or the option --skew-part or --unconstrained)"
        checks.fail("--weights", hint, got)
    return DenseSkew(_finite("--weights", A / 2, dtype))


def _finite(option: str, array: np.ndarray, dtype: Any) -> jax.Array:
    """The array in `dtype`, in which it must be finite."""
    with np.errstate(over="ignore"):
        array = array.astype(dtype)
    checks.finite(option, array)
    return jnp.asarray(array)


def _read(option: str, path: Path, part: Callable[[Any], Any]) -> np.ndarray:
    """An array out of a file of numbers, or the part of a file of this library that is meant."""
    if path.suffix.lower() != ".ctrnn":
        return read_array(option, path)
    if not path.is_file():
        checks.fail(option, "an existing file", str(path))
    before = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    try:
        jax.config.update("jax_enable_x64", True)  # or files of float64 could not be loaded
        found = load(path)
        array = part(found)
        if array is None:
            expected = "weights, a network or an oscillator"
            if part is _states_of:
                expected = "a trajectory with states, an oscillator or an array"
            checks.fail(option, f"a file with {expected}", type(found).__name__)
        return np.asarray(array)
    finally:
        jax.config.update("jax_enable_x64", before)


def _matrix_of(found: Any) -> Any:
    found = found.rnn if isinstance(found, Oscillator) else found
    found = found.weights if isinstance(found, CTRNN) else found
    if isinstance(found, AbstractWeights):
        parameters = [leaf.ndim for leaf in jax.tree.leaves(found)]
        return found.as_matrix() if max(parameters) < 3 else None
    return found if isinstance(found, jax.Array) else None


def _states_of(found: Any) -> Any:
    """The last states of a trajectory, whatever its leading axes; an oscillator's initial one."""
    if isinstance(found, Trajectory):
        return None if found.xs is None else found.xs[..., -1, :].reshape(-1, found.xs.shape[-1])
    return (
        found.x0
        if isinstance(found, Oscillator)
        else (found if isinstance(found, jax.Array) else None)
    )
