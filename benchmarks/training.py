"""Training: how often it succeeds and how long it takes, against what one would use instead.

    python benchmarks/training.py [--quick] [--out DIR] [--part frequencies|chords|signals]
    python benchmarks/training.py --part signals --signal FILE --dt 0.01

All in float64; times include compilation.

frequencies: 8 tanh neurons to one frequency, every network simulated anew by SciPy (DOP853, rtol
    1e-10, the equations in NumPy) over 50 periods of the target. `fit_frequency` from its own
    start; and from random networks whose fastest mode is off by a factor of 1/2 to 2: training by
    `frequency_loss`, the same without the constraint of skew symmetry, and by the mean squared
    error to a sine over 12 periods through diffrax with its default adjoint. All three take the
    same number of steps of Adam in `ct.fit`.
chords: `fit_spectrum` to three lines, log-uniform over a decade, 12 neurons.
signals: error over what follows the samples given, over their standard deviation, of `fit_signal`
    and of harmonic regression and autoregression.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("EQX_ON_ERROR", "nan")

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from measure import OURS, Report, parser
from scipy.integrate import solve_ivp

import ctrnn_jax as ct
from ctrnn_jax._files.signals import read_signal

PERIODS, PER_PERIOD = 12, 32  # trained on, in units of the target's period
SINE = np.sin(2 * np.pi * np.arange(PERIODS * PER_PERIOD + 1) / PER_PERIOD)
NEURONS = 16  # for signals
DT, SAMPLES = 0.01, 2000  # of the signals
SHAPES = {  # over the time t
    "amplitude modulation": lambda t: (1 + 0.6 * np.sin(0.74 * np.pi * t)) * np.sin(6 * np.pi * t),
    "sawtooth": lambda t: 2 * ((0.73 * t) % 1) - 1,
    "bursts": lambda t: np.exp(8 * (np.cos(0.62 * np.pi * t) - 1)) * np.sin(10.6 * np.pi * t),
}


class Size(NamedTuple):
    targets: int  # of fit_frequency
    starts: int  # off by a factor of 1/2 to 2
    steps: int  # of Adam
    chords: int
    checked: int  # chords simulated by SciPy
    sums: int  # of sinusoids
    shapes: tuple[str, ...]


FULL = Size(1000, 100, 300, 100, 10, 20, tuple(SHAPES))
QUICK = Size(100, 20, 100, 4, 2, 1, ())


def timed(call):
    start = time.perf_counter()
    result = jax.block_until_ready(call())
    return result, time.perf_counter() - start


def outputs(oscillators: ct.Oscillator, spans: np.ndarray, samples: int) -> np.ndarray:
    """First outputs (K, samples + 1) on a grid over each one's span (K,), by SciPy."""
    A = np.asarray(jax.vmap(lambda o: o.rnn.weights.as_matrix())(oscillators))
    x0, readout = np.asarray(oscillators.x0), np.asarray(oscillators.readout)[:, 0]
    current = oscillators.rnn.form == "current"

    def velocity(s, x):
        x = x.reshape(x0.shape)
        product = np.einsum("kij,kj->ki", A, np.tanh(x) if current else x)
        return (spans[:, None] * (product if current else np.tanh(product))).ravel()

    s = np.linspace(0, 1, samples + 1)
    run = solve_ivp(velocity, (0, 1), x0.ravel(), "DOP853", s, rtol=1e-10, atol=1e-12)
    return np.einsum("ki,kis->ks", readout, run.y.reshape(*x0.shape, -1))


def crossings(y: np.ndarray) -> float:
    """Upward passages of the mean in a sample, from the first to the last one."""
    y = y - y.mean()
    at = np.flatnonzero((y[:-1] < 0) & (y[1:] >= 0))
    if at.size < 2:
        return np.nan
    at = at - y[at] / (y[at + 1] - y[at])
    return (at.size - 1) / (at[-1] - at[0])


def strongest(y: np.ndarray, count: int = 1) -> np.ndarray:
    """Cycles a sample of the strongest lines: maxima of the Hann periodogram, with a parabola."""
    pad = 16 * y.size
    power = np.log(np.abs(np.fft.rfft(np.hanning(y.size) * (y - y.mean()), pad)) ** 2 + 1e-300)
    k = np.flatnonzero((power[1:-1] > power[:-2]) & (power[1:-1] >= power[2:])) + 1
    k = k[np.argsort(-power[k])[:count]]
    below, peak, above = power[k - 1], power[k], power[k + 1]
    return np.sort(k + 0.5 * (below - above) / (below - 2 * peak + above)) / pad


def off_start(key: jax.Array, members: int, weights: str) -> ct.Oscillator:
    """As `fit_frequency` begins, in units of the target, but the fastest mode at 1/2 to 2."""

    def one(key):
        key_weights, key_factor, key_state, key_readout = jax.random.split(key, 4)
        W = ct.DenseSkew.init(key_weights, 8).W
        A = W - W.T
        omega, modes = jnp.linalg.eigh(1j * A)
        factor = 2 ** jax.random.uniform(key_factor, minval=-1, maxval=1)
        c = 2 * np.pi * factor / omega[-1]
        mode = 4 * modes[:, -1]
        z = jnp.real(mode) + 0.3 * jax.random.normal(key_state, (8,))
        z = 0.5 * z / jnp.sqrt(jnp.mean(z**2))
        readout = (jnp.imag(mode) + 0.3 * jax.random.normal(key_readout, (8,))) / 8
        matrix = ct.DenseSkew(c * W) if weights == "skew" else ct.DenseWeights(c * A)
        return ct.Oscillator(ct.CTRNN(matrix, form="current"), z, readout[None])

    return jax.jit(jax.vmap(one))(jax.random.split(key, members))


def spectral(unit: ct.Oscillator) -> jax.Array:
    y = unit.generate(1 / PER_PERIOD, PERIODS * PER_PERIOD, solver=ct.RK4())[:, 0]
    return ct.losses.frequency_loss(y, 1 / PER_PERIOD, 1.0)


def waveform(unit: ct.Oscillator) -> jax.Array:
    ts = jnp.arange(SINE.size) / PER_PERIOD
    run = diffrax.diffeqsolve(
        diffrax.ODETerm(unit.rnn), diffrax.Tsit5(), 0.0, ts[-1], None, unit.x0,
        stepsize_controller=diffrax.StepTo(ts=ts), saveat=diffrax.SaveAt(t0=True, steps=True),
        max_steps=SINE.size - 1, throw=False,
    )  # fmt: skip
    return jnp.mean((unit.read(run.ys)[:, 0] - SINE) ** 2)


OBJECTIVES = {  # from starts off by a factor of 1/2 to 2: weights, loss
    "untrained": ("skew", None),
    f"{OURS} frequency_loss": ("skew", spectral),
    f"{OURS} frequency_loss, unconstrained": ("any", spectral),
    "diffrax, error to a sine": ("skew", waveform),
}
WITHIN = {"within 0.1 %": 1e-3, "within 1 %": 1e-2, "within 10 %": 1e-1}


def percent(condition: np.ndarray) -> float:
    return 100 * float(np.mean(condition))


def frequency_row(
    report: Report, case: str, name: str, oscillators, targets, seconds: float, **told: Any
) -> None:
    size, errors = 50 * 64, []
    for i in range(0, len(targets), 250):
        part = jax.tree.map(lambda leaf, i=i: leaf[i : i + 250], oscillators)
        for y in outputs(part, 50 / targets[i : i + 250], size):
            errors.append(np.abs(64 * np.array([strongest(y)[0], crossings(y)]) - 1))
    line, crossing = np.array(errors).T
    shares = {name: (percent(line < e), "%") for name, e in WITHIN.items()}
    quantities = {
        "time": (seconds, "s"),
        **shares,
        "median error": (np.median(line), ""),
        "zero crossings within 0.1 %": (percent(crossing < 1e-3), "%"),
    }
    parameters = {"n": 8, "networks": len(targets), "dtype": "float64", **told}
    report.values(case, name, quantities, parameters=parameters)


def frequencies(report: Report, size: Size, options: argparse.Namespace) -> None:
    targets = 10 ** np.random.default_rng(0).uniform(-1, np.log10(50), size.targets)
    (tuned, _), seconds = timed(lambda: ct.fit_frequency(targets, key=jax.random.key(0)))
    case = f"{size.targets} frequencies, 0.1 to 50 Hz"
    frequency_row(report, case, f"{OURS} fit_frequency", tuned, targets, seconds)
    case = f"{size.starts} starts off by a factor of 1/2 to 2, {size.steps} steps of Adam"
    for name, (weights, loss) in OBJECTIVES.items():
        unit, seconds = off_start(jax.random.key(1), size.starts, weights), 0.0
        if loss is not None:
            settings = {"steps": size.steps, "optimizer": optax.adam(1e-2), "ensemble": True}
            (unit, _), seconds = timed(lambda u=unit, f=loss, s=settings: ct.fit(u, f, **s))
        ones = np.ones(size.starts)
        frequency_row(report, case, name, unit, ones, seconds, weights=weights, steps=size.steps)


def chords(report: Report, size: Size, options: argparse.Namespace) -> None:
    targets = np.sort(10 ** np.random.default_rng(0).uniform(0, 1, (size.chords, 3)), axis=1)
    (oscillators, fitted), seconds = timed(lambda: ct.fit_spectrum(targets, key=jax.random.key(0)))
    errors = []
    for k in range(size.checked):  # long enough to tell the lines apart
        span = max(64 / targets[k, 0], 16 / np.diff(targets[k]).min())
        samples = int(16 * targets[k, -1] * span)
        one = jax.tree.map(lambda leaf, k=k: leaf[k : k + 1], oscillators)
        found = strongest(outputs(one, np.array([span]), samples)[0], 3) * samples / span
        errors.append(np.abs(found / targets[k] - 1).max())
    by_scipy = f"of the first {size.checked} by SciPy"
    report.values(
        f"{size.chords} chords of three lines, 12 neurons", f"{OURS} fit_spectrum",
        {
            "time": (seconds, "s"),
            "all lines within 0.5 %": (percent(fitted.reached(5e-3)), "%"),
            "largest error": (np.nanmax(fitted.error), ""),
            f"all lines within 0.5 % {by_scipy}": (percent(np.array(errors) < 5e-3), "%"),
            f"largest error {by_scipy}": (max(errors), ""),
        },
        parameters={"n": 12, "networks": size.chords, "dtype": "float64"},
    )  # fmt: skip


def sinusoids(rng: np.random.Generator, t: np.ndarray) -> np.ndarray:
    """Eight, of 0.5 to 20 Hz, amplitudes 0.3 to 1, at least 0.05 Hz (1 / 20 s) apart."""
    f = np.zeros(8)
    while np.diff(np.sort(f)).min() < 0.05:
        f = 10 ** rng.uniform(np.log10(0.5), np.log10(20), 8)
    phase = 2 * np.pi * (np.outer(t, f) + rng.uniform(size=8))
    return np.cos(phase) @ rng.uniform(0.3, 1, 8)


def contest(y: np.ndarray, known: int, dt: float) -> dict[str, tuple[float, float]]:
    """Normalised error beyond the first `known` samples, and seconds, of each method."""
    given, t = y[:known], dt * np.arange(len(y))
    parameters = NEURONS * (NEURONS - 1) // 2 + 2 * NEURONS + 1
    lines = min((parameters - 1) // 3, (known - 1) // 3)
    beyond = len(y) - known

    def ours():
        oscillator, _ = ct.fit_signal(given, dt, neurons=NEURONS, hold_out=0.0)
        return np.asarray(oscillator.generate(dt, len(y) - 1))[known:, 0]

    methods = {
        f"{OURS} fit_signal": ours,
        f"{lines} sinusoids": lambda: ct.harmonic_regression(given, dt, lines).predict(t[known:]),
        "sinusoids chosen": lambda: ct.harmonic_regression(given, dt).predict(t[known:]),
        "AR(10)": lambda: ct.autoregression(given, 10).forecast(beyond),
        "AR(50)": lambda: ct.autoregression(given, 50).forecast(beyond),
    }
    found = {}
    for name, method in methods.items():
        with np.errstate(over="ignore", invalid="ignore"):
            predicted, seconds = timed(method)
            error = np.sqrt(np.mean((predicted - y[known:]) ** 2)) / given.std()
        found[name] = float(np.nan_to_num(error, nan=np.inf)), seconds
    return found


def signal_rows(report: Report, case: str, contests: list[dict], known: int) -> None:
    for name in contests[0]:
        errors, seconds = np.array([found[name] for found in contests]).T
        quantities = {"time": (seconds, "s"), "error": (errors, "")}
        if len(contests) > 1:
            quantities["largest error"] = errors.max(), ""
            quantities["error within 1e-2"] = percent(errors <= 1e-2), "%"
        parameters = {"n": NEURONS, "samples": known, "signals": len(contests), "dtype": "float64"}
        report.values(case, name, quantities, parameters=parameters)


def signals(report: Report, size: Size, options: argparse.Namespace) -> None:
    known = SAMPLES - SAMPLES // 5
    if options.signal is not None:
        read = read_signal(options.signal, name="--signal")
        y, dt = read.samples.reshape(len(read.samples), -1)[:, 0], options.dt or read.dt
        if dt is None:
            sys.exit("--dt: expected the sampling interval in seconds, got a file that has none")
        known = len(y) - round(0.2 * len(y))
        signal_rows(report, options.signal.name, [contest(y, known, dt)], known)
        return
    rng, long = np.random.default_rng(0), DT * np.arange(11 * SAMPLES)
    contests = [contest(sinusoids(rng, long), SAMPLES, DT) for _ in range(size.sums)]
    case = (
        f"sums of 8 sinusoids, {size.sums} tried, {SAMPLES} samples, over the next {10 * SAMPLES}"
    )
    signal_rows(report, case, contests, SAMPLES)
    for shape in size.shapes:
        y = SHAPES[shape](DT * np.arange(SAMPLES))
        case = f"{shape}, {known} samples, over the next {SAMPLES - known}"
        signal_rows(report, case, [contest(y, known, DT)], known)


def draw_frequencies(rows: list[dict], figure: Any) -> None:
    """Success rate and time of each objective."""
    names = list(dict.fromkeys(row["candidate"] for row in rows))
    value = {(row["candidate"], row["quantity"]): row["median"] for row in rows}
    share, duration = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
    at = np.arange(len(names))
    fills = (("#0072b2", None), ("#e69f00", "//"), ("#dddddd", ".."))
    for i, (within, (colour, hatch)) in enumerate(zip(WITHIN, fills, strict=True)):
        shares, look = [value[name, within] for name in names], {"color": colour, "hatch": hatch}
        share.barh(at + 0.27 * (i - 1), shares, 0.25, edgecolor="black", label=within, **look)
    seconds = duration.barh(at, [value[name, "time"] for name in names], 0.5, color="#0072b2")
    duration.bar_label(seconds, fmt="%.1f", padding=3)
    duration.margins(x=0.3)
    share.set_yticks(at, [name.replace(", ", ",\n") for name in names])
    share.invert_yaxis()
    share.set(xlabel="networks so near the target (%)", xlim=(0, 100))
    duration.set_xlabel("time (s),\ncompilation included")
    figure.legend(loc="outside upper center", ncols=3)


def draw_signals(rows: list[dict], figure: Any) -> None:
    """Error of each method: median, and 10 to 90 % where a row is of several signals."""
    rows = [row for row in rows if row["quantity"] == "error" and np.isfinite(row["high"])]
    names, cases = (list(dict.fromkeys(row[key] for row in rows)) for key in ("candidate", "case"))
    ax = figure.subplots()
    looks = zip(cases, "osD^", ("#0072b2", "#d55e00", "#009e73", "#000000"), strict=False)
    for i, (case, marker, colour) in enumerate(looks):
        own = [row for row in rows if row["case"] == case]
        at = [names.index(row["candidate"]) + 0.13 * i - 0.2 for row in own]
        low, middle, high = (np.array([row[k] for row in own]) for k in ("low", "median", "high"))
        ax.errorbar(
            middle, at, xerr=[middle - low, high - middle], fmt=marker, color=colour, capsize=3,
            label=case,
        )  # fmt: skip
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set(xscale="log", xlabel="error beyond the samples, over their standard deviation")
    ax.grid(color="0.93")
    figure.legend(loc="outside upper center")


def main() -> None:
    parts = {f.__name__: f for f in (frequencies, chords, signals)}
    pictures = {"frequencies": draw_frequencies, "signals": draw_signals}
    options = parser(__doc__, "training")
    options.add_argument("--part", choices=parts, help="only this one")
    options.add_argument("--signal", type=Path, help="a .npy, .csv or .wav file for part signals")
    options.add_argument("--dt", type=float, help="its sampling interval in seconds")
    options = options.parse_args()
    jax.config.update("jax_enable_x64", True)
    report, drawn = Report("training"), {}
    for name, part in parts.items():
        if options.part in (None, name):
            begin = len(report.rows)
            part(report, QUICK if options.quick else FULL, options)
            if name in pictures:
                picture, rows = pictures[name], report.rows[begin:]
                drawn[f"training-{name}"] = partial(picture, rows)
    report.write(options.out)
    from ctrnn_jax.plot._files import draw  # loads matplotlib

    draw(options.out, drawn)


if __name__ == "__main__":
    main()
