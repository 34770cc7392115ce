"""Training: how often it succeeds, its time and its memory, against what one would use instead.

    python benchmarks/training.py [--quick] [--part frequencies|chords|gradient|signals]
    python benchmarks/training.py --part signals --signal FILE --dt 0.01

All in float64; times include compilation unless they are ratios.

frequencies: 8 tanh neurons to one frequency, every network simulated anew by SciPy (DOP853, rtol
    1e-10, the equations in NumPy) over 50 periods of the target. `fit_frequency` from its own
    start; and from random networks whose fastest mode is off by a factor of 1/2 to 2: training by
    `frequency_loss`, the same without the constraint of skew symmetry, and by the mean squared
    error to a sine over 12 periods through diffrax with its default adjoint. All three take the
    same number of steps of Adam in `ct.fit`.
chords: `fit_spectrum` to three lines, log-uniform over a decade, 12 neurons.
gradient: value and gradient, by weights and states, of a loss of the last state; 20 neurons, the
    same matrix as `BipartiteSkew` (splitting) and `DenseSkew` (the others), against diffrax's
    default adjoint, called as its FAQ advises for fixed steps (StepTo, max_steps, throw=False,
    EQX_ON_ERROR=nan), in what was found to be its fastest form: tanh(A x) written out, and the
    batch as one state of shape (n, batch) instead of vmap. Memory is the peak of a process that
    evaluates one gradient once, Python, JAX and compiler included.
signals: error over what follows the samples given, over their standard deviation, of `fit_signal`
    and of harmonic regression and autoregression.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("EQX_ON_ERROR", "nan")

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.integrate import solve_ivp
from simulate_speed import interleaved, peak_memory, ratio

import ctrnn_jax as ct
from ctrnn_jax.signals import read_signal

PERIODS, PER_PERIOD = 12, 32  # trained on, in units of the target's period
SINE = np.sin(2 * np.pi * np.arange(PERIODS * PER_PERIOD + 1) / PER_PERIOD)
NEURONS = 16  # for signals


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


def frequencies(quick: bool, options: argparse.Namespace) -> None:
    def row(label: str, oscillators, targets, seconds: float) -> None:
        size, errors = 50 * 64, []
        for i in range(0, len(targets), 250):
            part = jax.tree.map(lambda leaf, i=i: leaf[i : i + 250], oscillators)
            for y in outputs(part, 50 / targets[i : i + 250], size):
                errors.append(np.abs(64 * np.array([strongest(y)[0], crossings(y)]) - 1))
        line, crossing = np.array(errors).T
        rates = [100 * np.mean(line < e) for e in (1e-3, 1e-2, 1e-1)]
        print(
            f"  {label:34s} {len(targets):4d} {seconds:6.1f} s   "
            + "  ".join(f"{r:5.1f} %" for r in rates)
            + f"   {np.median(line):.1e}   {100 * np.mean(crossing < 1e-3):5.1f} %",
            flush=True,
        )

    members, fewer, steps = (100, 20, 150) if quick else (1000, 100, 300)
    print(
        "Frequencies: share with the strongest line within 0.1 %, 1 %, 10 % of the target, median"
        "\nerror, and share with the mean rate of zero crossings within 0.1 %"
    )
    targets = 10 ** np.random.default_rng(0).uniform(-1, np.log10(50), members)
    (tuned, _), seconds = timed(lambda: ct.fit_frequency(targets, key=jax.random.key(0)))
    row("fit_frequency", tuned, targets, seconds)
    print(f"  from starts off by a factor of 1/2 to 2, {steps} steps of Adam")
    ones = np.ones(fewer)
    for label, weights, loss in (
        ("untrained", "skew", None),
        ("fit, frequency_loss", "skew", spectral),
        ("fit, frequency_loss, unconstrained", "any", spectral),
        ("fit, sine error through diffrax", "skew", waveform),
    ):
        unit, seconds = off_start(jax.random.key(1), fewer, weights), 0.0
        if loss is not None:
            settings = {"steps": steps, "optimizer": optax.adam(1e-2), "ensemble": True}
            (unit, _), seconds = timed(lambda u=unit, f=loss, s=settings: ct.fit(u, f, **s))
        row(label, unit, ones, seconds)


def chords(quick: bool, options: argparse.Namespace) -> None:
    members, checked = (10, 3) if quick else (100, 10)
    targets = np.sort(10 ** np.random.default_rng(0).uniform(0, 1, (members, 3)), axis=1)
    (oscillators, report), seconds = timed(lambda: ct.fit_spectrum(targets, key=jax.random.key(0)))
    rate, worst = 100 * np.mean(report.reached(5e-3)), np.nanmax(report.error)
    print(f"Chords: {members} in {seconds:.1f} s, report included")
    print(
        f"  all three lines within 0.5 %, by the report: {rate:.0f} % (largest error {worst:.1e})"
    )
    errors = []
    for k in range(checked):  # long enough to tell the lines apart
        span = max(64 / targets[k, 0], 16 / np.diff(targets[k]).min())
        size = int(16 * targets[k, -1] * span)
        one = jax.tree.map(lambda leaf, k=k: leaf[k : k + 1], oscillators)
        found = strongest(outputs(one, np.array([span]), size)[0], 3) * size / span
        errors.append(np.abs(found / targets[k] - 1).max())
    rate = 100 * np.mean(np.array(errors) < 5e-3)
    print(f"  the first {checked} by SciPy: {rate:.0f} % (largest error {max(errors):.1e})")


def gradients(batch: int, num_steps: int) -> dict:
    bipartite = ct.BipartiteSkew.init(jax.random.key(0), 20)
    dense = ct.DenseSkew(jnp.triu(bipartite.as_matrix()))  # the same matrix
    # Small states do not move chaotically: gradients over so long a time agree.
    x0, dt = 0.1 * jax.random.normal(jax.random.key(1), (batch, 20)), 0.02

    def ours(solver, adjoint):
        def loss(point):
            run = ct.simulate(
                *point, dt=dt, num_steps=num_steps, save_every=num_steps, solver=solver,
                adjoint=adjoint,
            )  # fmt: skip
            return jnp.sum(run.xs[:, -1] ** 2)

        return loss

    def theirs(solver):
        def loss(point):
            A, ts = point[0].weights.as_matrix(), dt * jnp.arange(num_steps + 1)
            run = diffrax.diffeqsolve(
                diffrax.ODETerm(lambda t, x, args: jnp.tanh(A @ x)),
                solver, 0.0, ts[-1], None, point[1].T,
                stepsize_controller=diffrax.StepTo(ts=ts), saveat=diffrax.SaveAt(t1=True),
                max_steps=num_steps, throw=False,
            )  # fmt: skip
            return jnp.sum(run.ys[0] ** 2)

        return loss

    splitting = ct.PoissonSplitting(2)
    candidates = {
        "diffrax Tsit5": (dense, theirs(diffrax.Tsit5())),
        "diffrax RK4": (dense, theirs(ct.RK4())),
        "Tsit5 checkpointed": (dense, ours(diffrax.Tsit5(), "checkpointed")),
        "RK4 checkpointed": (dense, ours(ct.RK4(), "checkpointed")),
        "splitting checkpointed": (bipartite, ours(splitting, "checkpointed")),
        "splitting reversible": (bipartite, ours(splitting, "reversible")),
    }

    def call(weights, loss):
        made, point = jax.jit(jax.value_and_grad(loss)), (ct.CTRNN(weights), x0)
        return lambda: made(point)

    return {name: call(*pair) for name, pair in candidates.items()}


def gradient_child(name: str, batch: str, num_steps: str) -> None:
    jax.block_until_ready(gradients(int(batch), int(num_steps))[name]())
    print(peak_memory())


def gradient(quick: bool, options: argparse.Namespace) -> None:
    num_steps, rounds = (10**4, 3) if quick else (10**5, 3)
    for batch in (1, 64):
        made, values = gradients(batch, num_steps), {}

        def kept(name, made=made, values=values):
            values[name] = made[name]()
            return values[name]

        times = interleaved({name: lambda n=name, f=kept: f(n) for name in made}, rounds)
        apart = max(
            float(jnp.abs(a - b).max() / jnp.abs(b).max())
            for order in ("Tsit5", "RK4")
            for a, b in zip(
                jax.tree.leaves(values[f"{order} checkpointed"][1]),
                jax.tree.leaves(values[f"diffrax {order}"][1]),
                strict=True,
            )
        )
        print(f"Gradient through {num_steps} steps, batch {batch}; median [10 %, 90 %]")
        print(f"  gradients of ours and of diffrax apart by {apart:.0e} of the largest entry")
        for name in made:
            command = [sys.executable, __file__, "--child", name, str(batch), str(num_steps)]
            out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            tsit5, rk4 = (ratio(times[f"diffrax {s}"], times[name]) for s in ("Tsit5", "RK4"))
            print(
                f"  {name:23s} {np.median(times[name]):7.3f} s, process {float(out):5.0f} MiB   "
                f"diffrax Tsit5 / this {tsit5}   diffrax RK4 / this {rk4}",
                flush=True,
            )


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
        "fit_signal": ours,
        f"{lines} lines": lambda: ct.harmonic_regression(given, dt, lines).predict(t[known:]),
        "lines chosen": lambda: ct.harmonic_regression(given, dt).predict(t[known:]),
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


def signals(quick: bool, options: argparse.Namespace) -> None:
    dt, size, count = 0.01, 2000, 4 if quick else 20

    def table(label: str, found: dict) -> None:
        cells = [f"{n} {e:.2g} ({s:.1f} s)" for n, (e, s) in found.items()]
        print(f"  {label}: " + ", ".join(cells), flush=True)

    print(f"Signals: normalised RMSE (seconds) of {NEURONS} neurons and of the others")
    if options.signal is not None:
        y, interval = read_signal("--signal", options.signal)
        y, interval = y.reshape(len(y), -1)[:, 0], options.dt or interval
        if interval is None:
            sys.exit("--dt: expected the sampling interval in seconds, as the file has none")
        table(options.signal.name, contest(y, len(y) - round(0.2 * len(y)), interval))
        return
    rng, t = np.random.default_rng(0), dt * np.arange(size)
    long = dt * np.arange(11 * size)
    all_found = [contest(sinusoids(rng, long), size, dt) for _ in range(count)]
    print(f" {count} sums of 8 sinusoids, {size} samples, over ten times as many beyond")
    for name in all_found[0]:
        errors, seconds = np.array([found[name] for found in all_found]).T
        low, middle, high = np.quantile(errors, [0.1, 0.5, 0.9])
        print(
            f"  {name:14s} {middle:.1e}  [{low:.1e}, {high:.1e}], largest {errors.max():.1e}, "
            f"{100 * np.mean(errors <= 1e-2):3.0f} % within 1e-2   {np.median(seconds):.2f} s"
        )
    print(f" {size} samples, over the last 20 %")
    bursts = np.exp(8 * (np.cos(2 * np.pi * 0.31 * t) - 1)) * np.sin(2 * np.pi * 5.3 * t)
    for label, y in {
        "sawtooth": 2 * ((0.73 * t) % 1) - 1,
        "amplitude modulation": (1 + 0.6 * np.sin(2 * np.pi * 0.37 * t)) * np.sin(6 * np.pi * t),
        "bursts": bursts,
    }.items():
        table(label, contest(y, size - size // 5, dt))


def main() -> None:
    parts = {f.__name__: f for f in (frequencies, chords, gradient, signals)}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer members, 10^4 steps")
    parser.add_argument("--part", choices=parts, help="only this one")
    parser.add_argument("--signal", type=Path, help="a .npy, .csv or .wav file for part signals")
    parser.add_argument("--dt", type=float, help="its sampling interval in seconds")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    if options.child:
        gradient_child(*options.child)
        return
    for name, part in parts.items():
        if options.part in (None, name):
            part(options.quick, options)


if __name__ == "__main__":
    main()
