"""What the pictures of `ctrnn explore` show: from its controls to numbers, without a page."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from .._analysis.frequencies import natural_frequencies, orbit_frequency
from .._analysis.spectra import dominant_frequency, power_spectrum, spectrogram
from .._files.signals import write_signal
from .._network.invariants import energy_drift
from .._network.model import CTRNN
from .._simulate.api import simulate
from .._util import checks
from ..plot._style import POWER_RANGE, highest_frequency
from ..solvers._foreign import adapted
from ..solvers._names import solver_named
from .explore_network import MAX_NORM, STEPS, Controls, code, network

_MOST_ROWS = 8  # of frequencies
_RATE, _SECONDS, _PITCH = 44100, 2, 220.0  # of the sound; Hz
_DECIBELS = 50
_WINDOW = {"window_length": STEPS // 4, "overlap": STEPS // 4 - STEPS // 64}


class Row(NamedTuple):
    """Frequencies in Hz of a block, a mode or a neuron; None where there is none to tell."""

    name: str
    small: float | None = None
    exact: float | None = None
    measured: float | None = None


class Pictures(NamedTuple):
    """ts (S,), xs (S, n), |drift| (S,) or None, up to a stop; f (F,), power (2, F) of those shown.

    decibels (G, T) of the first at bands (G,) and windows (T,); `limit` is the highest frequency
    worth showing. Of a run that stopped, and of a neuron at rest, power is 0. `told` says in one
    line what else there is to know, "" for nothing.
    """

    ts: np.ndarray
    xs: np.ndarray
    drift: np.ndarray | None
    f: np.ndarray
    power: np.ndarray
    bands: np.ndarray
    windows: np.ndarray
    decibels: np.ndarray
    limit: float
    rows: list[Row]
    code: str
    told: str


def pictures(controls: Controls) -> Pictures:
    """The run that the controls mean, and what is measured of it.

    Raises:
        TypeError, ValueError, OSError: where they mean none, in one line.
    """
    rnn, x0 = network(controls), jnp.array(controls.x0)
    dt, solver = controls.dt, solver_named(controls.solver)
    checks.positive("dt", dt)
    adapted(solver).check(rnn, x0[None])
    run = simulate(rnn, x0, dt=dt, num_steps=STEPS, solver=solver, max_norm=MAX_NORM)
    assert run.xs is not None
    stopped, told = int(run.stopped_at), ""
    saves = slice(None if stopped < 0 else max(stopped, 2))  # it only stays where it was from then
    if stopped >= 0:
        told = f"stopped after {stopped * dt:.4g} s: its norm passed {MAX_NORM:g}"
    elif int(run.unconverged_at) >= 0:
        told = f"an implicit step was not solved, at {int(run.unconverged_at) * dt:.4g} s"
    try:
        drift = np.abs(np.asarray(energy_drift(rnn, run.xs)))[saves]
    except ValueError:  # such as weights that conserve none
        drift = None
    if drift is None or stopped in (0, 1) or not np.isfinite(drift).all():
        drift, told = None, told or "no energy to compare with"

    signals, shown = run.xs.T, np.array(controls.shown)
    f, power = (np.asarray(a) for a in power_spectrum(signals, dt))
    bands, windows, local = (np.asarray(a) for a in spectrogram(signals[shown[0]], dt, **_WINDOW))
    f, power, bands, local = f[1:], power[shown, 1:], bands[1:], local[1:]  # 0 Hz is the mean
    xs = np.asarray(run.xs)
    spectra = stopped < 0 and np.ptp(xs[:, shown[0]]) > 0
    if not spectra:
        power, local = 0 * power, 0 * local
    decibels = 10 * np.log10(np.maximum(local, max(local.max() / POWER_RANGE, 1e-30)))
    decibels = np.maximum(decibels, decibels.max() - _DECIBELS)
    rows, exact = _frequencies(controls, rnn, x0, np.asarray(dominant_frequency(signals, dt)))
    return Pictures(
        np.asarray(run.ts)[saves],
        xs[saves],
        drift,
        f,
        power,
        bands,
        windows,
        decibels,
        highest_frequency(None, f, power),
        rows,
        code(controls, energy=drift is not None, exact=exact, spectra=bool(spectra)),
        told,
    )


def _frequencies(
    controls: Controls, rnn: CTRNN, x0: Any, measured: np.ndarray
) -> tuple[list[Row], bool]:
    """Side by side what is exact and what is measured; whether the exact ones are known."""
    small = np.asarray(natural_frequencies(rnn)) if rnn.weights.is_skew else np.full(0, np.nan)
    try:
        exact = np.atleast_1d(np.asarray(orbit_frequency(rnn, x0)))
    except ValueError:  # not known but for pairs of neurons and some activations
        exact = None
    n = rnn.size
    if exact is not None:
        # In the order of the blocks: the slope of the activation is the same for all.
        omega = np.asarray(rnn.weights.as_matrix())[range(0, n, 2), range(1, n, 2)]
        small = np.sort(small)[np.argsort(np.argsort(np.abs(omega)))]
        names = [f"x{2 * k}, x{2 * k + 1}" for k in range(n // 2)]
        known = zip(names, small, exact, measured[::2], strict=True)
        rows = [Row(name, *map(_number, values)) for name, *values in known]
        return rows[:_MOST_ROWS], True
    rows = [Row(f"neuron x{k}", measured=_number(measured[k])) for k in controls.shown]
    few = small[::-1][: _MOST_ROWS - len(rows)]
    modes = [Row(f"mode {k}", _number(value)) for k, value in enumerate(few)]
    return rows + modes, False


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def sound(controls: Controls) -> tuple[bytes, str]:
    """The first neuron shown as two seconds of a .wav file, so fast that it sounds at 220 Hz.

    Raises:
        ValueError: where it does not oscillate.
    """
    rnn, x0 = network(controls), jnp.array(controls.x0)
    solver, k = solver_named(controls.solver), controls.shown[0]
    options = {"solver": solver, "max_norm": MAX_NORM}
    run = simulate(rnn, x0, dt=controls.dt, num_steps=STEPS, **options)
    assert run.xs is not None
    f = float(dominant_frequency(run.xs[:, k], controls.dt))
    if not np.isfinite(f) or int(run.stopped_at) >= 0:
        checks.fail("sound", f"a neuron x{k} that oscillates", "one that does not")
    faster = _PITCH / f
    options |= {"keep_states": False, "observe": _neuron(k)}
    run = simulate(rnn, x0, dt=faster / _RATE, num_steps=_RATE * _SECONDS, **options)
    y = np.asarray(run.observed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sound.wav"
        write_signal(path, y[:, None], 1 / _RATE)
        return path.read_bytes(), f"x{k} at {f:.4g} Hz, {faster:.3g} times as fast: {_PITCH:g} Hz"


@functools.cache
def _neuron(k: int) -> Callable[[Any, Any], Any]:
    """The same function each time, or the run would be compiled anew."""
    return lambda t, x: x[k]
