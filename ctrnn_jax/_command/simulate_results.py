"""What `ctrnn simulate` tells of a run: numbers, a table, pictures."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._analysis.balance import EnergyBalance, energy_balance
from .._analysis.spectra import dominant_frequency
from .._files.recordings import Recording
from .._network.invariants import energy, energy_drift
from .._network.model import CTRNN
from .._simulate.api import simulate
from .._simulate.trajectory import Trajectory
from .._util.stored import Stored
from .drive import Drive

_PER_PERIOD = 20  # least saves in the fastest period of small oscillations, to draw curves
_PERIODS_DRAWN = 20, 8  # of curves, at least: of the fastest, of the dominant oscillation
_MOST_SAVES = 4001
_MOST_VALUES = 2**22
_MOST_STATES = 64


class Part(NamedTuple):
    """Some trajectories from the start on, saved so densely that curves can be drawn.

    `rows` are their places among all of them, `total`; `excerpt` are the saves of some periods.
    `cycles` are those of the first in a save, by its dominant frequency; nan where there is none.
    """

    trajectory: Trajectory
    rows: np.ndarray
    total: int
    excerpt: int
    driven: bool
    cycles: float = math.nan

    @property
    def seconds(self) -> float:
        return float(np.asarray(self.trajectory.ts)[-1])

    @property
    def interval(self) -> float:
        return float(np.asarray(self.trajectory.ts)[1])


class Run(NamedTuple):
    """A run that was made: `options` are those of `simulate`, what drives the network apart.

    `save_every` is None for saves at times of their own.
    """

    rnn: CTRNN
    trajectory: Trajectory | Recording
    x0: jax.Array
    steps: int
    save_every: int | None
    options: dict[str, Any]
    drive: Drive


def measure(run: Run) -> tuple[dict[str, Any], Part, EnergyBalance | None]:
    """Drift over the trajectories that ran to the end, frequencies, and what to draw.

    A driven network has an energy balance, if any, instead of a drift.
    """
    rnn, trajectory, drive = run.rnn, run.trajectory, run.drive
    stopped, happened = np.asarray(trajectory.stopped_at) >= 0, _event_times(trajectory)
    running = ~stopped | np.isfinite(happened)  # up to its event
    median = largest = None
    if running.any() and _has_energy(rnn) and not drive:
        worst = _largest_drifts(rnn, trajectory, np.flatnonzero(running))
        median, largest = float(np.median(worst)), float(np.max(worst))
    balance = _balance(run) if drive else None
    part = _densely_saved(run)
    drawn, lines = part.trajectory, np.full(0, np.nan)
    ran = np.asarray(drawn.stopped_at) < 0
    assert drawn.xs is not None  # they are kept
    if ran.any() and drawn.xs.shape[-2] >= 4:
        # Of all that are drawn, whose spectrum asks for as many: one program.
        signals = np.asarray(drawn.xs)[..., 0]
        lines = np.asarray(dominant_frequency(signals, part.interval))[ran]
        if ran[0]:
            part = part._replace(cycles=float(lines[0]) * part.interval)
    found = lines[np.isfinite(lines)]
    frequency = float(np.median(found)) if found.size else None
    if frequency is not None:
        longest = _PERIODS_DRAWN[1] / (frequency * part.interval)
        part = part._replace(excerpt=max(part.excerpt, 1 + math.ceil(longest)))
    numbers = {
        "median_relative_energy_drift": median,
        "max_relative_energy_drift": largest,
        "energy_balance": None if balance is None else _balance_numbers(balance),
        "stopped": int((~running).sum()),
        "events": None if "until" not in run.options else int(np.isfinite(happened).sum()),
        "median_event_time_s": float(np.nanmedian(happened))
        if np.isfinite(happened).any()
        else None,
        "unconverged": int((np.asarray(trajectory.unconverged_at) >= 0).sum()),
        "dominant_frequency_hz": frequency,
        "dominant_frequency_states": [found.size, lines.size],
        "dominant_frequency_span_s": part.seconds,
    }
    return numbers, part, balance


def _event_times(trajectory: Trajectory | Recording) -> np.ndarray:
    """(states,) in seconds, nan where there was none."""
    found = getattr(trajectory, "event_times", None)
    return np.full(len(trajectory.stopped_at), np.nan) if found is None else np.asarray(found)


def write_event_times(path: Path, trajectory: Trajectory | Recording) -> None:
    """A line for each state: when its event happened, nothing where it did not."""
    lines = [f"{k},{'' if np.isnan(t) else str(t)}" for k, t in enumerate(_event_times(trajectory))]
    path.write_text("\n".join(["state,time", *lines, ""]), encoding="utf-8")


def _largest_drifts(rnn: CTRNN, trajectory: Trajectory | Recording, rows: np.ndarray) -> np.ndarray:
    """Of these trajectories: of blocks of them, or of a recording chunk after chunk."""

    def largest(xs: np.ndarray) -> np.ndarray:
        return np.abs(np.asarray(energy_drift(rnn, xs))).max(axis=-1)

    if isinstance(trajectory.xs, Stored):
        first = trajectory.xs[rows, :1]
        with_first = (np.concatenate([first, part[rows]], 1) for part in trajectory.xs.parts())
        return np.max([largest(xs) for xs in with_first], axis=0)
    xs = np.asarray(trajectory.xs)
    at_once = max(1, _MOST_VALUES // xs[0].size)
    blocks = np.array_split(rows, math.ceil(len(rows) / at_once))
    return np.concatenate([largest(xs[block]) for block in blocks])


def _balance(run: Run) -> EnergyBalance | None:
    """Of some trajectories that ran to the end; None where noise takes part, or is no room."""
    rnn, trajectory, x0, steps, save_every, options, drive = run
    running = np.flatnonzero(np.asarray(trajectory.stopped_at) < 0)
    rows = running[: min(_MOST_STATES, _MOST_VALUES // ((steps + 1) * rnn.size))]
    if drive.noise is not None or not rows.size or not _has_energy(rnn):
        return None
    assert trajectory.xs is not None
    xs, driven = trajectory.xs[rows], drive.options(rows=rows)
    if save_every != 1:
        xs = simulate(rnn, x0[rows], **options, **driven, num_steps=steps).xs
    assert xs is not None
    xs = jnp.asarray(np.asarray(xs))  # of a mesh
    return energy_balance(rnn, xs, driven["inputs"], dt=options["dt"], solver=options["solver"])


def _balance_numbers(balance: EnergyBalance) -> dict[str, Any]:
    """Medians over the states, and the largest of what is missing."""
    supplied, dissipated, exchanged = (
        np.asarray(a)[:, -1] for a in (balance.supplied, balance.dissipated, balance.exchanged)
    )
    missing = np.abs(np.asarray(balance.missing)).max(axis=1)
    return {
        "states": len(supplied),
        "median_supplied": float(np.median(supplied)),
        "median_dissipated": float(np.median(dissipated)),
        "median_exchanged": float(np.median(exchanged)),
        "max_missing": float(missing.max()),
        "max_missing_of_exchanged": float(np.max(missing / np.maximum(exchanged, 1e-30))),
    }


def _densely_saved(run: Run) -> Part:
    rnn, trajectory, x0, steps, save_every, options, drive = run
    assert trajectory.xs is not None
    total, _, n = trajectory.xs.shape
    stopped = np.asarray(trajectory.stopped_at) >= 0
    first = np.argsort(stopped, kind="stable")  # those that ran to the end come first
    period = 2 * np.pi / max(_norm(np.asarray(rnn.weights.as_matrix(), float)), 1e-300)
    each = max(1, math.floor(min(period / (_PER_PERIOD * options["dt"]), steps)))
    saves = min(steps // each, _MOST_SAVES - 1)
    count = max(1, min(_MOST_STATES, _MOST_VALUES // (saves * n)))
    # Noise goes by the number of a state: that of the first ones is the same when they are alone.
    rows = np.sort(first[:count]) if drive.noise is None else np.arange(min(count, total))
    if save_every is not None and each >= save_every:
        part, each = _taken(trajectory, rows, _MOST_SAVES), save_every
    else:
        driven = drive.options(saves * each, rows)
        part = simulate(rnn, x0[rows], **options, **driven, num_steps=saves * each, save_every=each)
    excerpt = 1 + math.ceil(min(_PERIODS_DRAWN[0] * period / (each * options["dt"]), saves))
    return Part(part, rows, total, excerpt, bool(drive))


def _norm(A: np.ndarray) -> float:
    """The largest singular value, for skew A the largest angular frequency, nearly: by powers."""
    v, norm = np.random.default_rng(0).normal(size=len(A)), 0.0
    for _ in range(50):
        v = A.T @ (A @ v)
        size = float(np.linalg.norm(v))
        if not size > 0 or not math.isfinite(size):
            break
        norm, v = math.sqrt(size), v / size
    return norm


def table(results: dict[str, Any]) -> str:
    """The results, a line each."""

    def number(value, unit=""):
        return f"{value:.3g}{unit}"

    ran = results["states"] - results["stopped"]

    def drift(value):
        if value is None:
            reason = "all trajectories were stopped" if not ran else "the network has no energy"
            return f"not measured: {reason}"
        return f"{number(value)} of the energy, over the {ran} that ran to the end"

    steps = f"{results['steps']} of {results['dt']:g} s, every {results['save_every']} saved"
    if results["save_every"] is None:
        one = results["saves"] == 1
        steps = f"{results['steps']} of {results['dt']:g} s, saved at {results['saves']} times"
        steps = steps[: -len("s")] if one else steps
    steps = steps.replace("every 1 saved", "each saved")
    if results["steps"] != results["steps_asked_for"]:
        steps += f"; {results['steps_asked_for']} rounded up to even saves"
    found, of = results["dominant_frequency_states"]
    span = f"first {results['dominant_frequency_span_s']:.4g} s"
    if found:
        frequency = (
            f"{number(results['dominant_frequency_hz'], ' Hz')}: neuron 0, {span}, median of"
        )
        frequency += f" {found} of {of} states, as drawn"
    elif of:
        frequency = f"not measured: none of {of} states oscillates enough in the {span}"
    else:
        reason = "too few saves" if ran else "all trajectories were stopped"
        frequency = f"not measured: {reason}"
    driven = results["driven_by"]
    energies = {
        "median drift": drift(results["median_relative_energy_drift"]),
        "max drift": drift(results["max_relative_energy_drift"]),
    }
    if driven:
        energies = _energies(results, ran)
    rows = {
        "states": f"{results['states']} of {results['neurons']} neurons",
        "steps": steps,
        **({"driven by": _driven_by(driven)} if driven else {}),
        "solver": f"{results['solver']}, on {results['devices']} device(s)",
        "wall time": f"{number(results['wall_time_s'], ' s')}, "
        + (
            f"after {number(results['compile_time_s'], ' s')} of compilation"
            if results["recording"] is None
            else "compilation and writing included"
        ),
        "speed": "not measured: recorded before"
        if results["state_steps_per_s"] is None
        else number(results["state_steps_per_s"], " state-steps/s"),
        **energies,
        **({} if results["until"] is None else {"until": _until(results)}),
        "stopped": f"{results['stopped']} trajectories",
        "frequency": frequency,
    }
    if results["unconverged"]:
        rows["unconverged"] = f"{results['unconverged']} trajectories had an unsolved implicit step"
    return "\n".join(f"{name:<14}{value}" for name, value in rows.items())


def _until(results: dict[str, Any]) -> str:
    """Whether and when the event happened."""
    found = f"{results['until']}, passed by {results['events']} of {results['states']} states"
    if results["events"]:
        found += f", median after {results['median_event_time_s']:.4g} s"
    return found


def _driven_by(driven: dict[str, Any]) -> str:
    told = []
    if "inputs" in driven:
        shared = "shared" if driven["inputs_shared"] else "one for each state"
        one = driven["inputs"] == 1
        told.append(
            f"{driven['inputs']} input{'s' * (not one)} of {driven['inputs_file']}, {shared}"
        )
        told.append(f"input weights: {driven['input_weights']}")
    if "noise" in driven:
        told.append(f"white noise of {driven['noise']:g} a root second")
    return "; ".join(told)


def _energies(results: dict[str, Any], ran: int) -> dict[str, str]:
    """What is told of the energy of a driven network, which may well change."""
    found = results["energy_balance"]
    if found is None:
        reason = "all trajectories were stopped"
        if "noise" in results["driven_by"]:
            reason = "noise exchanges energy, and its change is no error"
        elif ran:
            reason = "the network has no energy, or the run is too long to keep all steps"
        return {"energy": f"no balance: {reason}"}
    of = f"median of {found['states']} of {results['states']} states"
    return {
        "supplied": f"{found['median_supplied']:.3g} of energy, {of}",
        "dissipated": f"{found['median_dissipated']:.3g}, likewise",
        "missing": f"at most {found['max_missing']:.3g},"
        f" {found['max_missing_of_exchanged']:.3g} of the energy exchanged",
    }


def pictures(
    rnn: CTRNN, trajectory: Trajectory | Recording, part: Part, balance: EnergyBalance | None
) -> dict[str, Callable[[Any], Any]]:
    """Functions that draw into an empty figure: the drift of all, the motion of a part."""
    from .. import plot
    from ..plot._spectra import window_for

    drawn = part.trajectory
    alone, start = _taken(drawn, slice(1)), _taken(drawn, slice(16), part.excerpt)

    def titled(title: str, picture: Callable[..., Any], *arguments: Any, **options: Any):
        def into(figure: Any) -> None:
            ax = figure.subplots()
            ax.set_title(title, fontsize="medium")
            try:
                picture(*arguments, **options, ax=ax)
            except ValueError as error:  # such as a constant signal: the numbers stand all the same
                ax.set_axis_off()
                ax.text(0.5, 0.5, f"nothing to draw\n{error}", ha="center", va="center", wrap=True)

        return into

    first = _taken(start, slice(1))
    one = _title(part, first)
    found: dict[str, Callable[[Any], Any]] = {
        "time_series": titled(one, plot.time_series, first, neurons=range(min(3, rnn.size)))
    }
    if rnn.size == 2:
        found["phase_portrait"] = titled(_title(part, start), plot.phase_portrait, start)
    elif rnn.size > 1:
        found["phase_portrait"] = titled(one, plot.phase_portrait, first)
    if balance is not None:
        found["energy_balance"] = titled(
            f"{len(balance.energy)} of {part.total} states, to the end, bands: 10 to 90 %",
            plot.energy_balance,
            balance,
        )
    elif not part.driven and _has_energy(rnn) and (np.asarray(trajectory.stopped_at) != 0).any():
        found["energy_drift"] = titled(
            f"{part.total} states, to the end", plot.energy_drift, rnn, trajectory
        )
    if drawn.ts.shape[0] >= 32 and (np.asarray(drawn.stopped_at) < 0).any():
        found["spectrum"] = titled(_title(part, drawn), plot.spectrum, drawn)
        # As it would choose it, of the frequency that is known: one program less.
        ran = np.asarray(drawn.stopped_at)[0] < 0
        window = {"window_length": window_for(len(drawn.ts), part.cycles)} if ran else {}
        found["spectrogram"] = titled(_title(part, alone), plot.spectrogram, alone, **window)
    return found


def _title(part: Part, which: Trajectory) -> str:
    """Which states of how many are drawn, and up to when."""
    count = len(which.stopped_at)
    one = f"state {part.rows[0]} of {part.total}" if part.total > 1 else "the only state"
    states = f"{count} of {part.total} states" if count > 1 else one
    return f"{states}, first {float(np.asarray(which.ts)[-1]):.4g} s"


def animation(path: Path, part: Part) -> None:
    """The motion of the states that the phase portrait shows, of a single neuron its curve."""
    import matplotlib.pyplot as plt

    from .. import plot

    assert part.trajectory.xs is not None
    n = part.trajectory.xs.shape[-1]
    shown = _taken(part.trajectory, slice(16 if n == 2 else 1), part.excerpt)
    figure, ax = plt.subplots(layout="compressed")
    ax.set_title(_title(part, shown))
    try:
        plot.animate(shown, "state" if n > 1 else "readout", path=path, ax=ax)
    except ValueError as error:  # such as runs that stopped at once: the numbers stand all the same
        print(f"no animation: {error}")
    finally:
        plt.close(figure)


def _states(trajectory: Trajectory | Recording) -> Any:
    """To be indexed by NumPy: JAX would compile each of these; those on disk as they are."""
    xs = trajectory.xs
    return xs if isinstance(xs, Stored) else np.asarray(xs)


def _taken(trajectory: Trajectory | Recording, rows: Any, saves: int | None = None) -> Trajectory:
    """Some trajectories, up to some save."""
    ts, *ends = map(np.asarray, (trajectory.ts, trajectory.stopped_at, trajectory.unconverged_at))
    stopped_at, unconverged_at = (jnp.asarray(end[rows]) for end in ends)
    xs = jnp.asarray(_states(trajectory)[rows, :saves])
    return Trajectory(jnp.asarray(ts[:saves]), xs, None, None, stopped_at, unconverged_at)


def _has_energy(rnn: CTRNN) -> bool:
    """Whether the energy is defined: not for every bias in the current form."""
    try:
        energy(rnn, jnp.zeros(rnn.size, rnn.dtype))
    except ValueError:
        return False
    return True
