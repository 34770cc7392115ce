"""What the command line does: files in, a simulation, files out."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from . import _checks, solvers
from ._arrays import read_array
from ._options import activation_named, environment, mesh_of, named, prepared
from ._output import appearing_together, draw, interruptible, write_json
from ._products import AbstractWeights
from ._segments import near_divisor
from .experiments import report
from .invariants import energy, energy_drift
from .io import load, save
from .model import CTRNN
from .oscillator import Oscillator
from .simulate import simulate
from .spectra import dominant_frequency
from .trajectory import Trajectory
from .weights import DenseSkew, DenseWeights


@dataclasses.dataclass(frozen=True)
class Settings:
    """The options of `ctrnn simulate`, as its help describes them."""

    out: Path
    weights: Path | None
    skew_part: bool
    unconstrained: bool
    initial_states: Path | None
    neurons: int | None
    scale: float
    states: int | None
    amplitude: float
    seed: int
    activation: str
    form: str
    bias: str | None
    leak: float | None
    solver: str
    dt: float
    steps: int | None
    duration: float | None
    save_every: int | None
    rtol: float | None
    atol: float | None
    max_norm: float | None
    dtype: str
    device: str | None
    devices: int | None
    progress: bool


def simulate_to_folder(settings: Settings) -> None:
    """Run `ctrnn simulate`: all files appear in the folder together, or none does."""
    mesh = None if settings.devices is None else mesh_of(settings.devices, settings.device)
    with prepared(settings.out, settings.dtype, settings.device):
        _simulate_to_folder(settings, mesh)


def reproduce_to_folder(
    out: Path, figures: list[str] | None, changes: list[str], progress: bool
) -> int:
    """Run `ctrnn reproduce`; 1 where a verdict fails, else 0."""
    for change in changes:
        if "=" not in change:
            _checks.fail("--set", "KEY=VALUE", repr(change))
    import matplotlib

    jax.config.update("jax_enable_x64", True)
    pairs = dict(change.split("=", 1) for change in changes)
    start = time.perf_counter()
    matplotlib.use("Agg")
    with interruptible():
        results = report.compute(out, figures, pairs, progress)
    report.write(out, results)
    verdicts = [verdict for result in results.values() for verdict in result.verdicts]
    for verdict in verdicts:
        print(
            f"{verdict.status:<15}  {verdict.value:.3g} {verdict.relation} {verdict.threshold:g}"
            f"  {verdict.claim}"
        )
    failed = sum(verdict.status == "fail" for verdict in verdicts)
    print(f"{len(verdicts)} verdicts, {failed} failed, in {time.perf_counter() - start:.0f} s")
    print(f"report in {out / 'report.html'}")
    return 1 if failed else 0


def _simulate_to_folder(settings: Settings, mesh: Mesh | None) -> None:
    dtype = jnp.dtype(settings.dtype)
    solver = _solver(settings.solver)
    steps, save_every = _steps(settings)
    rnn, x0 = _network_and_states(settings, dtype)

    compiling = _Stopwatch()
    jax.monitoring.register_event_duration_secs_listener(compiling)
    start = time.perf_counter()
    with interruptible():
        trajectory = jax.block_until_ready(
            simulate(
                rnn,
                x0,
                dt=settings.dt,
                num_steps=steps,
                solver=solver,
                save_every=save_every,
                rtol=settings.rtol,
                atol=settings.atol,
                max_norm=settings.max_norm,
                progress=settings.progress,
                mesh=mesh,
            )
        )
    seconds = max(time.perf_counter() - start - compiling.total, 1e-9)
    results = {
        "states": x0.shape[0],
        "neurons": rnn.size,
        "steps": steps,
        "dt": settings.dt,
        "save_every": save_every,
        "solver": type(solver).__name__,
        "devices": 1 if mesh is None else mesh.size,
        "wall_time_s": seconds,
        "compile_time_s": compiling.total,
        "state_steps_per_s": x0.shape[0] * steps / seconds,
        **_measure(rnn, trajectory, settings.dt * save_every),
    }
    summary = {
        "results": results,
        "settings": settings,
        "environment": environment(),
    }
    _write(settings.out, rnn, trajectory, summary)
    print(_table(results))
    print(f"results in {settings.out}")


class _Stopwatch:
    """Adds up what JAX reports of tracing and compiling, to keep it out of the wall time."""

    total = 0.0

    def __call__(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event.startswith("/jax/core/compile/"):
            self.total += duration_secs


def _solver(name: str) -> diffrax.AbstractSolver:
    """A solver by name; after a colon the order, or what is projected: projected:rk4."""
    name, colon, argument = name.partition(":")
    if name.lower() == "projected":
        return solvers.Projected(_solver(argument or "tsit5"))
    solver = named("--solver", name, _solvers())
    if not colon:
        return solver
    if not isinstance(solver, solvers.PoissonSplitting | solvers.DiscreteGradient):
        _checks.fail("--solver", f"no order for {type(solver).__name__}", repr(argument))
    try:
        order = int(argument)
    except ValueError:
        _checks.fail("--solver", "a number after the colon", repr(argument))
    return type(solver)(order=order)


def _solvers() -> dict[str, Callable[[], diffrax.AbstractSolver]]:
    """Ours, and every solver of ordinary differential equations that diffrax exports."""
    names = "Bosh3 Dopri5 Dopri8 Euler Heun ImplicitEuler Kvaerno3 Kvaerno4 Kvaerno5"
    names += " LeapfrogMidpoint Midpoint Ralston ReversibleHeun Tsit5"
    ours = {name: getattr(solvers, name) for name in solvers.__all__ if name != "Projected"}
    return {name: getattr(diffrax, name) for name in names.split()} | ours


def _steps(settings: Settings) -> tuple[int, int]:
    steps, dt = settings.steps, settings.dt
    _checks.positive("--dt", dt)
    if settings.duration is not None:
        if steps is not None:
            _checks.fail("--duration", "either --steps or --duration", "both")
        _checks.positive("--duration", settings.duration)
        steps = max(1, round(settings.duration / dt))
        if not math.isclose(steps * dt, settings.duration, rel_tol=1e-6):
            got = f"{settings.duration} with --dt {dt}"
            _checks.fail("--duration", "a whole number of time steps", got)
    steps = _checks.integer("--steps", 1000 if steps is None else steps, 1)
    save_every = settings.save_every
    if save_every is None:
        save_every = near_divisor(steps, max(1, steps // 100))
        save_every = save_every if steps % save_every == 0 else 1
    return steps, _checks.integer("--save-every", save_every, 1)


def _network_and_states(settings: Settings, dtype: Any) -> tuple[CTRNN, jax.Array]:
    key_weights, key_states = jax.random.split(jax.random.key(settings.seed))
    if settings.weights is None:
        if settings.skew_part or settings.unconstrained:
            option = "--skew-part" if settings.skew_part else "--unconstrained"
            _checks.fail(option, "a matrix in --weights", "none")
        n = _checks.integer("--neurons", 20 if settings.neurons is None else settings.neurons, 2)
        weights = DenseSkew.init(key_weights, n, scale=settings.scale, dtype=dtype)
    else:
        weights = _weights(settings, dtype)
        n = weights.size
        if settings.neurons not in (None, n):
            _checks.fail("--neurons", f"the size {n} of --weights", settings.neurons)
    bias = None
    if settings.bias is not None:
        try:
            bias = np.full(n, float(settings.bias))
        except ValueError:
            bias = read_array("--bias", Path(settings.bias))
            bias = bias.ravel() if bias.ndim == 2 and 1 in bias.shape else bias
        bias = jnp.asarray(bias, dtype)
    leak = None if settings.leak is None else jnp.asarray(settings.leak, dtype)
    activation = activation_named(settings.activation)
    rnn = CTRNN(weights, activation, settings.form, bias=bias, leak=leak)

    if settings.initial_states is None:
        states = _checks.integer(
            "--states", 4096 if settings.states is None else settings.states, 1
        )
        _checks.positive("--amplitude", settings.amplitude)
        return rnn, settings.amplitude * jax.random.normal(key_states, (states, n), dtype)
    x0 = np.atleast_2d(_read("--initial-states", settings.initial_states, _states_of))
    if x0.ndim != 2 or x0.shape[1] != n:
        _checks.fail("--initial-states", f"shape (states, {n})", x0.shape)
    if settings.states not in (None, len(x0)):
        _checks.fail("--states", f"the {len(x0)} states of --initial-states", settings.states)
    return rnn, jnp.asarray(x0, dtype)


def _weights(settings: Settings, dtype: Any) -> AbstractWeights:
    assert settings.weights is not None
    A = _read("--weights", settings.weights, _matrix_of)
    if A.ndim != 2 or A.shape[0] != A.shape[1]:
        _checks.fail("--weights", "a square matrix", f"shape {A.shape}")
    _checks.finite("--weights", A)
    if settings.unconstrained:
        if settings.skew_part:
            _checks.fail("--unconstrained", "either --skew-part or --unconstrained", "both")
        return DenseWeights(jnp.asarray(A, dtype))
    symmetric = np.max(np.abs(A + A.T), initial=0) / 2
    if not settings.skew_part and symmetric > 16 * np.finfo(A.dtype).eps * np.max(np.abs(A)):
        got = (
            f"a symmetric part of size {symmetric:.3g} beside weights of size {np.abs(A).max():.3g}"
        )
        hint = "a skew-symmetric matrix (or the option --skew-part or --unconstrained)"
        _checks.fail("--weights", hint, got)
    return DenseSkew(jnp.asarray(A / 2, dtype))


def _read(option: str, path: Path, part: Callable[[Any], Any]) -> np.ndarray:
    """An array out of a file of numbers, or the part of a file of this library that is meant."""
    if path.suffix.lower() != ".ctrnn":
        return read_array(option, path)
    if not path.is_file():
        _checks.fail(option, "an existing file", str(path))
    before = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    try:
        jax.config.update("jax_enable_x64", True)  # or files of float64 could not be loaded
        found = load(path)
        array = part(found)
        if array is None:
            expected = "weights, a network or an oscillator"
            if part is _states_of:
                expected = "a trajectory with states, an oscillator or an array"
            _checks.fail(option, f"a file with {expected}", type(found).__name__)
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


def _measure(rnn: CTRNN, trajectory: Trajectory, interval: float) -> dict[str, Any]:
    """Drift over the trajectories that ran to the end, and what else the table shows."""
    running = np.asarray(trajectory.stopped_at) < 0
    assert trajectory.xs is not None  # they are kept
    xs = trajectory.xs[running]
    median = largest = frequency = None
    if running.any():
        try:
            worst = np.max(np.abs(np.asarray(energy_drift(rnn, xs))), axis=-1)
            median, largest = float(np.median(worst)), float(np.max(worst))
        except ValueError:  # a bias outside the range of A: there is no energy to drift
            pass
        if xs.shape[-2] >= 4:
            lines = np.asarray(dominant_frequency(xs[..., 0], interval))
            frequency = float(np.nanmedian(lines)) if np.isfinite(lines).any() else None
    return {
        "median_relative_energy_drift": median,
        "max_relative_energy_drift": largest,
        "stopped": int((~running).sum()),
        "unconverged": int((np.asarray(trajectory.unconverged_at) >= 0).sum()),
        "dominant_frequency_hz": frequency,
    }


def _table(results: dict[str, Any]) -> str:
    def number(value, unit=""):
        return "none" if value is None else f"{value:.3g}{unit}"

    rows = {
        "states": f"{results['states']} of {results['neurons']} neurons",
        "steps": f"{results['steps']} of {results['dt']:g} s, every {results['save_every']} saved",
        "solver": f"{results['solver']}, on {results['devices']} device(s)",
        "wall time": f"{number(results['wall_time_s'], ' s')}, after"
        f" {number(results['compile_time_s'], ' s')} of compilation",
        "speed": number(results["state_steps_per_s"], " state-steps/s"),
        "median drift": f"{number(results['median_relative_energy_drift'])} of the energy",
        "max drift": f"{number(results['max_relative_energy_drift'])} of the energy",
        "stopped": f"{results['stopped']} trajectories",
        "frequency": f"{number(results['dominant_frequency_hz'], ' Hz')}"
        " (neuron 0, median over states)",
    }
    if results["unconverged"]:
        rows["unconverged"] = f"{results['unconverged']} trajectories had an unsolved implicit step"
    return "\n".join(f"{name:<14}{value}" for name, value in rows.items())


def _write(out: Path, rnn: CTRNN, trajectory: Trajectory, summary: dict[str, Any]) -> None:
    with appearing_together(out) as workplace:
        save(workplace / "network.ctrnn", rnn)
        save(workplace / "trajectory.ctrnn", trajectory)
        write_json(workplace / "summary.json", summary)
        draw(workplace, _pictures(rnn, trajectory))


def _pictures(rnn: CTRNN, trajectory: Trajectory) -> dict[str, Callable[[Any], Any]]:
    from . import plot

    running = bool((np.asarray(trajectory.stopped_at) < 0).any())
    saves = trajectory.ts.shape[0]
    pictures: dict[str, Callable[[Any], Any]] = {
        "time_series": lambda figure: plot.time_series(trajectory, ax=figure.subplots()),
    }
    if rnn.size > 1:
        pictures["phase_portrait"] = lambda figure: plot.phase_portrait(
            trajectory, max_trajectories=16 if rnn.size == 2 else 1, ax=figure.subplots()
        )
    if _has_energy(rnn, trajectory):
        pictures["energy_drift"] = lambda figure: plot.energy_drift(
            rnn, trajectory, ax=figure.subplots()
        )
    if saves >= 32 and running:
        pictures["spectrum"] = lambda figure: plot.spectrum(trajectory, ax=figure.subplots())
        pictures["spectrogram"] = lambda figure: plot.spectrogram(trajectory, ax=figure.subplots())
    return pictures


def _has_energy(rnn: CTRNN, trajectory: Trajectory) -> bool:
    """Whether the energy is defined: not for every bias in the current form."""
    try:
        energy(rnn, jnp.zeros(rnn.size, rnn.dtype))
    except ValueError:
        return False
    return bool((np.asarray(trajectory.stopped_at) != 0).any())
