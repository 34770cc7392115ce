"""Oscillators that generate a given signal, and go on with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from .._analysis.harmonics import Harmonics, harmonic_regression
from .._analysis.samples import signal_samples, standardised
from .._network.activations import AbstractActivation, Tanh
from .._network.model import CTRNN, FORMS
from .._network.weights import DenseSkew
from .._simulate.api import simulate
from .._util import checks
from .._util.types import Array
from .fit import progress_bar
from .modes import for_form, half_spectrum, mode_frequencies, oscillating, with_spectrum
from .oscillator import Oscillator
from .signal_report import (
    Baselines,
    SignalReport,
    fifth,
    foreseen,
    measure_signal,
    nrmse,
    num_parameters,
)

_TINY = 1e-5  # rms of the pre-activations where tanh is linear to 1e-11
_LARGE = 0.5
_ANGLE = 0.5  # rad that the fastest mode turns in a step: Dopri8 is then exact to 1e-11 of it
_COARSE = 1.0  # the same while fitting: to 3e-9
_ENOUGH = 1e-3  # normalised RMSE that lines alone may leave
_MOST_BEYOND = 100_000
_MOST_ENTRIES = 4e6  # of the derivatives of a block of samples by all unknowns


class _Unknowns(NamedTuple):
    """What is trained; time is in units of 1/speed, in which the fastest mode turns 1 rad."""

    upper: Array  # (n (n - 1) / 2,) of A
    z: Array  # (n,) initial pre-activations
    readout: Array  # (channels, n)
    offset: Array  # (channels,)


def fit_signal(
    signal: Any,
    dt: Any,
    *,
    neurons: int = 16,
    activation: AbstractActivation = Tanh(),  # noqa: B008 - frozen and stateless
    form: str = "rate",
    hold_out: float = 0.2,
    steps: int = 30,
    key: Any = None,
    dtype: Any = None,
    progress: bool = False,
) -> tuple[Oscillator, SignalReport]:
    """An oscillator that generates a sampled signal and goes on with it.

    1. The last samples are held out. Sinusoids in the others are found by `harmonic_regression`: as
       many, up to n // 2, as best foresee the last two fifths of them, each from those before.
    2. They become the modes of a network of small amplitude, where it is nearly linear. Where they
       leave more than 0.1 %, and more than n // 2 lines foresee better, another one begins with
       these modes at an amplitude at which it is nonlinear. There weights, state, read-out and
       offset are trained by the squared error of the waveform (Levenberg-Marquardt) with
       derivatives through the simulation: first over the first quarter of the samples, then over
       the first half, then over all.
    3. The one that foresees the last fifth better is trained on all training samples.

    Args:
        signal: (S,) or (S, channels) samples, S >= 32, finite, not constant.
        dt: sampling interval in seconds.
        neurons: n >= 2.
        activation: an odd one with a positive slope at 0.
        form: "rate" or "current".
        hold_out: share of the samples, the last ones, that only the report sees; 0 to 0.9.
        steps: of least squares, for each of these parts; 0 leaves the network nearly linear.
        key: of the weights; `jax.random.key(0)` unless given.
        dtype: of the oscillator; JAX's default unless given.
        progress: whether to show a progress bar.

    Returns:
        The oscillator, whose `generate(dt, num_steps)` begins with the first sample, and the
        report.

    Raises:
        TypeError, ValueError: for a wrong kind, shape or value of an argument.

    Example:
        >>> oscillator, report = ct.fit_signal(y, dt=0.01, neurons=16)
        >>> oscillator.generate(0.01, 10 * len(y))  # far beyond the samples

    Source:
        Lines first because the error of a waveform misleads unless frequencies are right already.
        Levenberg-Marquardt with Nielsen's damping: Madsen, Nielsen and Tingleff 2004, Methods for
        Non-Linear Least Squares Problems, section 3.2.
    """
    samples = signal_samples("signal", signal, "(S,) or (S, channels)", (1, 2), 32)
    samples = samples.reshape(len(samples), -1)
    interval = checks.positive_float("dt", dt)
    n = checks.integer("neurons", neurons, 2)
    oscillating(activation)
    checks.one_of("form", form, FORMS)
    hold_out = float(checks.real("hold_out", hold_out))
    if not 0 <= hold_out <= 0.9:
        checks.fail("hold_out", "a share from 0 to 0.9", hold_out)
    steps = checks.integer("steps", steps, 0)
    key = checks.prng_key("key", jax.random.key(0) if key is None else key)
    dtype = checks.float_dtype(dtype)
    size = len(samples) - round(hold_out * len(samples))
    if size < 24:
        checks.fail("hold_out", "at least 24 samples left to train on", f"{size}")
    known, mean, deviation, _ = standardised(samples[:size], np.asarray(signal).dtype)
    if not np.any(known):
        checks.fail("signal", "samples that vary", "constant ones")
    y = np.concatenate([known, (samples[size:] - mean) / deviation])
    task = _Task(interval, n, activation, steps, key, dtype)
    baselines = Baselines(y[:size], interval, _most_lines(n, y.shape[1]))
    with progress_bar(progress, baselines.candidates(n // 2) + 4 * steps) as bar:
        advance = _nothing if bar is None else bar.update
        baselines.choose(n // 2, advance)
        result, kind, validation, losses = _fitted(task, y[:size], baselines, advance)
        if bar is not None:  # what was not needed counts as done
            bar.update(bar.total - bar.n)
    oscillator = task.oscillator(result, form, mean, deviation)
    beyond = min(10 * len(y), _MOST_BEYOND)
    generated = np.asarray(oscillator.generate(interval, len(y) + beyond - 1), float)
    generated = (generated - mean) / deviation
    return oscillator, measure_signal(generated, y, oscillator, kind, validation, losses, baselines)


def _fitted(task: _Task, y: np.ndarray, baselines: Baselines, advance: Callable[[int], Any]):
    """What is best by what it foresees of y (S, channels): the result, its kind, errors, losses."""
    size, known = len(y), len(y) - fifth(len(y))
    kind, losses = "lines", np.zeros(0)
    count, validation = baselines.in_modes, {"lines": baselines.error(baselines.in_modes)}
    found = harmonic_regression(y, task.dt, count)
    left = np.max(nrmse(found.predict(task.dt * np.arange(size)), y))
    if task.steps and left > _ENOUGH and baselines.lines > task.n // 2:
        begun = harmonic_regression(y[:known], task.dt, min(task.n // 2, (known - 1) // 3))
        trained, first = task.waveform(y, known, begun, advance)
        validation["nonlinear"] = foreseen(task.predict(trained, size)[known:], y[known:])
        if validation["nonlinear"] < validation["lines"]:
            kind = "nonlinear"
            # All samples are more to learn from, and another minimum to be caught in.
            result, second = task.waveform(y, size, trained, advance)
            losses = np.concatenate([first, second])
            before, after = (foreseen(task.predict(r, size), y) for r in (trained, result))
            return trained if before < after else result, kind, validation, losses
    return task.start(found, _TINY), kind, validation, losses


def _most_lines(n: int, channels: int) -> int:
    """Sinusoids with as many parameters as the oscillator."""
    parameters = num_parameters(n, channels)
    return (parameters - channels) // (1 + 2 * channels)


def _nothing(_: int) -> None:
    pass


class _Result(NamedTuple):
    unknowns: _Unknowns
    speed: float  # rad/s


class _Task(NamedTuple):
    """What stays the same while a signal is fitted."""

    dt: float
    n: int
    activation: AbstractActivation
    steps: int
    key: Any
    dtype: Any

    def start(self, found: Harmonics, scale: float, size: int | None = None) -> _Result:
        """The network whose modes are the lines; exactly those where `scale` is small.

        With a `size` the modes are tuned to the lines along the nonlinear motion.
        """
        f = found.frequencies
        speed = 2 * np.pi * float(f.max()) if f.size else 1 / self.dt
        slope = float(self.activation.derivative(jnp.zeros(())))
        weights = DenseSkew.init(self.key, self.n, dtype=self.dtype)
        omega, modes = half_spectrum(weights.as_matrix())
        lines, idle = modes[:, : f.size], modes[:, f.size :]
        # Modes without a line are slower than the fastest, and at rest.
        turning = jnp.asarray(2 * np.pi * f / (speed * slope), self.dtype)
        omega = jnp.concatenate([turning, omega[: idle.shape[1]] / (omega[-1] * slope)])
        power = np.sum(found.cosines**2 + found.sines**2, axis=1)
        amplitude = power**0.25  # between equal, as weak lines have them best, and their own
        amplitude *= scale * np.sqrt(2 * self.n / max(np.sum(amplitude**2), 1e-300))
        amplitude = jnp.asarray(amplitude, self.dtype)
        # z = Σ_k a_k Re(v_k exp(-iω_k t)), so exp(-iω_k t) = 2 v_kᴴ z / a_k.
        z = jnp.real(lines) @ amplitude
        asked = jnp.asarray(found.cosines + 1j * found.sines, lines.dtype)
        asked = asked / amplitude.astype(asked.dtype)[:, None]
        readout = jnp.real(asked.T @ (2 * lines.conj().T))
        if size is not None:
            omega = _retuned(omega, modes, z, f.size, self.motion(speed, size))
        upper = with_spectrum(omega, modes).as_matrix()[np.triu_indices(self.n, 1)]
        offset = jnp.asarray(found.offset, self.dtype)
        return _Result(_Unknowns(upper, z, readout, offset), speed)

    def waveform(
        self, y: np.ndarray, known: int, begin: Harmonics | _Result, advance: Callable[[int], Any]
    ) -> tuple[_Result, np.ndarray]:
        """Trained by the error of the first `known` samples; also the loss after each step."""
        horizons = (known,)
        if isinstance(begin, Harmonics):
            horizons = (known // 4, known // 2, known)
            begin = self.start(begin, _LARGE, len(y))
        unknowns, speed = begin
        motion = self.motion(speed, len(y))
        losses: list[float] = []
        for horizon in horizons:
            unknowns, more = _least_squares(unknowns, motion, y, horizon, self.steps, advance)
            losses += more
        return _Result(unknowns, speed), np.asarray(losses)

    def motion(self, speed: float, size: int) -> _Motion:
        # A quarter is left to what training adds to the fastest mode.
        parts = math.ceil(1.25 * self.dt * speed / _COARSE)
        step = jnp.asarray(self.dt * speed / parts, self.dtype)
        return _Motion(self.activation, self.n, step, parts, size - 1)

    def predict(self, result: _Result, size: int) -> np.ndarray:
        unknowns, speed = result
        return np.asarray(_outputs(unknowns, self.motion(speed, size)), float)

    def oscillator(
        self, result: _Result, form: str, mean: np.ndarray, deviation: np.ndarray
    ) -> Oscillator:
        """In the units of the signal."""
        (upper, z, readout, offset), speed = result
        weights = _weights(upper, self.n)
        rnn = CTRNN(weights, self.activation, "current")
        unit = jnp.asarray(deviation, self.dtype)
        made = for_form(rnn, z, readout * unit[:, None], jnp.asarray(speed, self.dtype), form)
        slope = float(self.activation.derivative(jnp.zeros(())))
        fastest = float(jnp.linalg.norm(weights.as_matrix(), 2)) * speed * slope
        return Oscillator(
            made.rnn,
            made.x0,
            made.readout,
            offset=offset * unit + jnp.asarray(mean, self.dtype),
            max_step=_ANGLE / fastest,
        )


class _Motion(eqx.Module):
    """How the network is integrated, in units of 1/speed."""

    activation: AbstractActivation
    n: int = eqx.field(static=True)
    step: Array
    every: int = eqx.field(static=True)
    samples: int = eqx.field(static=True)

    def next_sample(self, z: Array, upper: Array) -> Array:
        """The pre-activations one sample later."""
        xs = simulate(
            CTRNN(_weights(upper, self.n), self.activation, "current"),
            z,
            dt=self.step,
            num_steps=self.every,
            save_every=self.every,
            solver=diffrax.Dopri8(),
            adjoint="direct",
        ).xs
        assert xs is not None
        return xs[-1]

    def observed(self, upper: Array, z: Array, observe: Any) -> Array:
        """What `observe` says of the pre-activations at every sample, from the first on."""
        return simulate(
            CTRNN(_weights(upper, self.n), self.activation, "current"),
            z,
            dt=self.step,
            num_steps=self.samples * self.every,
            save_every=self.every,
            solver=diffrax.Dopri8(),
            keep_states=False,
            observe=lambda t, z: observe(z),
        ).observed


def _weights(upper: Array, n: int) -> DenseSkew:
    return DenseSkew(jnp.zeros((n, n), upper.dtype).at[np.triu_indices(n, 1)].set(upper))


@eqx.filter_jit
def _outputs(unknowns: _Unknowns, motion: _Motion) -> Array:
    upper, z, readout, offset = unknowns
    return motion.observed(upper, z, lambda z: readout @ z + offset)


def _least_squares(
    start: _Unknowns,
    motion: _Motion,
    y: np.ndarray,
    used: int,
    steps: int,
    advance: Callable[[int], Any],
) -> tuple[_Unknowns, list[float]]:
    """Unknowns of a smaller mean square error of the first `used` samples, and the least so far.

    Levenberg-Marquardt on the normal equations: these are as small as the unknowns are few,
    whatever the number of samples. Unscaled, as the unknowns are of order 1, and some change
    nothing, such as turning all modes.
    """
    values, unflatten = ravel_pytree(start)
    dtype = values.dtype
    block = int(np.clip(_MOST_ENTRIES / (motion.n * values.size), 1, 256))
    padded = np.zeros((-(-len(y) // block) * block, y.shape[1]), dtype)
    padded[: len(y)] = y
    target = jnp.asarray(padded.reshape(-1, block, y.shape[1]))
    first = jnp.asarray(used, jnp.int32)  # an array: another number compiles nothing anew

    def equations(values: np.ndarray) -> list[np.ndarray]:
        unknowns = unflatten(jnp.asarray(values, dtype))
        return [np.asarray(part, float) for part in _normal(unknowns, motion, target, first)]

    values = np.asarray(values, float)
    error, slope, normal = equations(values)
    damping, growth = 1e-2 * float(np.max(np.diag(normal))), 2.0
    losses = [float(error)]
    advance(1)
    while len(losses) < steps and np.isfinite(error) and damping < 1e15:
        step = np.linalg.solve(normal + damping * np.eye(values.size), -slope)
        expected = 0.5 * step @ (damping * step - slope)
        error_there, *there = equations(values + step)
        advance(1)
        ratio = (error - error_there) / (2 * max(expected, 1e-300))
        if not ratio > 0:
            damping, growth = damping * growth, growth * 2
            losses.append(losses[-1])
            continue
        settled = error - error_there < 1e-4 * error and ratio > 0.25
        values, error, (slope, normal) = values + step, error_there, there
        losses.append(float(error))
        damping, growth = damping * max(1 / 3, 1 - (2 * ratio - 1) ** 3), 2.0
        if settled:
            break
    advance(steps - len(losses))
    return unflatten(jnp.asarray(values, dtype)), losses


@eqx.filter_jit
def _normal(unknowns: _Unknowns, motion: _Motion, target: Array, used: Array) -> tuple[Array, ...]:
    """Σ r², Jᵀr and JᵀJ of the errors r of the first `used` samples, over √(used channels).

    The state after a sample depends on the unknowns through the state before it and directly:
    dz_{k+1} = ∂F/∂z dz_k + ∂F/∂A dA. These derivatives of single samples are taken side by side,
    and backwards, as there are fewer neurons than weights; then dz_k follows by small products.
    """
    upper, z, readout, offset = unknowns
    _, block, channels = target.shape
    count = upper.size + z.size
    share = jax.lax.rsqrt((used * channels).astype(z.dtype))
    after = jax.vmap(jax.jacrev(motion.next_sample, (0, 1)), (0, None))

    def sensitive(S: Array, parts: tuple[Array, Array]) -> tuple[Array, Array]:
        by_z, by_upper = parts
        return by_z @ S + jnp.pad(by_upper, ((0, 0), (0, z.size))), S

    def add(i: Any, sums: tuple[Array, ...]) -> tuple[Array, ...]:
        z, S, error, slope, normal = sums
        z, zs = jax.lax.scan(lambda z, _: (motion.next_sample(z, upper), z), z, length=block)
        S, Ss = jax.lax.scan(sensitive, S, after(zs, upper))
        weight = jnp.where(i * block + jnp.arange(block, dtype=used.dtype) < used, share, 0)[
            :, None
        ]
        r = weight * (zs @ readout.T + offset[None] - target[i])
        eye = jnp.eye(channels, dtype=z.dtype)
        by_readout = (eye[None, :, :, None] * zs[:, None, None, :]).reshape(block, channels, -1)
        by_offset = jnp.broadcast_to(eye, (block, channels, channels))
        J = jnp.concatenate([jnp.einsum("cn,bnp->bcp", readout, Ss), by_readout, by_offset], axis=2)
        J = (weight[:, :, None] * J).reshape(block * channels, -1)
        r = r.ravel()
        return z, S, error + r @ r, slope + J.T @ r, normal + J.T @ J

    size = count + readout.size + channels
    S = jnp.concatenate(
        [jnp.zeros((z.size, upper.size), z.dtype), jnp.eye(z.size, dtype=z.dtype)], 1
    )
    zero = jnp.zeros((), z.dtype)
    start = (z, S, zero, jnp.zeros(size, z.dtype), jnp.zeros((size, size), z.dtype))
    return jax.lax.fori_loop(0, -(-used // block), add, start)[2:]


@eqx.filter_jit
def _retuned(omega: Array, modes: Array, z: Array, lines: int, motion: _Motion) -> Array:
    """Eigenvalues with which the first modes turn in z's motion as `omega` says.

    At its amplitude they are slower, by several turns over the samples: too far for the error of
    the waveform to find back.
    """
    wanted = omega[:lines]
    slope = motion.activation.derivative(jnp.zeros((), z.dtype))

    def tune(omega: Array, _: None) -> tuple[Array, None]:
        upper = with_spectrum(omega, modes).as_matrix()[np.triu_indices(motion.n, 1)]
        zs = motion.observed(upper, z, lambda z: z)
        turns = 2 * np.pi * mode_frequencies(zs, modes[:, :lines], motion.step * motion.every)
        ratio = jnp.clip(wanted * slope / turns, 0.5, 2)
        return omega.at[:lines].multiply(jnp.where(jnp.isfinite(ratio), ratio, 1)), None

    return jax.lax.scan(tune, omega, length=4)[0]
