"""Oscillators that generate a given signal, and go on with it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from . import _checks
from ._modes import for_form, half_spectrum, mode_frequencies, oscillating, with_spectrum
from ._types import Array
from .activations import AbstractActivation, Tanh
from .harmonics import Harmonics, harmonic_regression, signal_samples
from .model import CTRNN, FORMS
from .oscillator import Oscillator
from .signal_report import SignalReport, measure_signal, nrmse
from .simulate import simulate
from .train import progress_bar
from .weights import DenseSkew

_TINY = 1e-5  # rms of the pre-activations where tanh is linear to 1e-11
_LARGE = 0.5
_ANGLE = 0.5  # rad that the fastest mode turns in a step: Dopri8 is then exact to 1e-11 of it
_ENOUGH = 1e-3  # normalised RMSE that lines alone may leave
_MOST_BEYOND = 100_000
_MOST_ENTRIES = 2e7  # of the derivative of all samples by all unknowns


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
    2. They become the modes of a network: of small amplitude, where it is nearly linear, and,
       unless they leave less than 0.1 %, of one at which it is nonlinear. There weights, state,
       read-out and offset are trained by the error of the waveform, as least squares
       (`scipy.optimize.least_squares`) with derivatives through the simulation, over a quarter, a
       half and all of the samples.
    3. The one that foresees the last fifth better is trained on all training samples.

    Args:
        signal: (S,) or (S, channels) samples, S >= 32, finite, not constant.
        dt: sampling interval in seconds.
        neurons: n >= 2.
        activation: an odd one with a positive slope at 0.
        form: "rate" or "current".
        hold_out: share of the samples, the last ones, that only the report sees; 0 to 0.9.
        steps: of least squares, for each horizon; 0 leaves the network nearly linear.
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
    """
    samples = signal_samples("signal", signal, "(S,) or (S, channels)", (1, 2), 32)
    samples = samples.reshape(len(samples), -1)
    interval = _checks.positive_float("dt", dt)
    n = _checks.integer("neurons", neurons, 2)
    oscillating(activation)
    _checks.one_of("form", form, FORMS)
    hold_out = float(_checks.real("hold_out", hold_out))
    if not 0 <= hold_out <= 0.9:
        _checks.fail("hold_out", "a share from 0 to 0.9", hold_out)
    steps = _checks.integer("steps", steps, 0)
    key = _checks.prng_key("key", jax.random.key(0) if key is None else key)
    dtype = _checks.float_dtype(dtype)
    size = len(samples) - round(hold_out * len(samples))
    if size < 24:
        _checks.fail("hold_out", "at least 24 samples left to train on", f"{size}")
    mean, deviation = samples[:size].mean(axis=0), samples[:size].std(axis=0)
    if not np.any(deviation > 1e-12 * np.abs(samples).max(axis=0)):
        _checks.fail("signal", "samples that vary", "constant ones")
    deviation = np.where(deviation > 0, deviation, 1)
    y = (samples - mean) / deviation
    task = _Task(interval, n, activation, steps, key, dtype, progress)

    # What is chosen is chosen by what it foresees, from two points of time.
    known = size - max(size // 5, 1)
    t = interval * np.arange(size)
    early = known - max(size // 5, 1)
    counts = range(1, min(n // 2, (early - 1) // 3) + 1)
    errors = []
    for count in counts:
        sooner = harmonic_regression(y[:early], interval, count).predict(t[:known])
        later = harmonic_regression(y[:known], interval, count).predict(t)
        errors.append((_foreseen(sooner, y, early), _foreseen(later, y, known)))
    best = int(np.argmin([a**2 + b**2 for a, b in errors]))
    validation, kind, losses = {"lines": errors[best][1]}, "lines", np.zeros(0)
    found = harmonic_regression(y[:size], interval, counts[best])
    if steps and np.max(nrmse(found.predict(t), y[:size])) > _ENOUGH:
        begun = harmonic_regression(y[:known], interval, counts[-1])
        trained, first = task.waveform(y[:size], known, begun)
        validation["nonlinear"] = _foreseen(task.predict(trained, size), y, known)
        if validation["nonlinear"] < validation["lines"]:
            kind = "nonlinear"
            # All samples are more to learn from, and another minimum to be caught in.
            result, second = task.waveform(y[:size], size, trained)
            losses = np.concatenate([first, second])
            before, after = (_foreseen(task.predict(r, size), y, 0) for r in (trained, result))
            result = trained if before < after else result
    if kind == "lines":
        result = task.start(found, _TINY)
    oscillator = task.oscillator(result, form, mean, deviation)
    beyond = min(10 * len(y), _MOST_BEYOND)
    generated = np.asarray(oscillator.generate(interval, len(y) + beyond - 1), float)
    generated = (generated - mean) / deviation
    report = measure_signal(generated, y, size, interval, oscillator, kind, validation, losses)
    return oscillator, report


def _foreseen(y: np.ndarray, target: np.ndarray, known: int) -> float:
    """Error over the samples after `known`; infinite where something is not finite."""
    error = float(np.sqrt(np.mean((y[known:] - target[known : len(y)]) ** 2)))
    return error if np.isfinite(error) else math.inf


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
    progress: bool

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
            omega = _retuned(omega, modes, z, f.size, self.motion(speed, 1, size))
        upper = with_spectrum(omega, modes).as_matrix()[np.triu_indices(self.n, 1)]
        offset = jnp.asarray(found.offset, self.dtype)
        return _Result(_Unknowns(upper, z, readout, offset), speed)

    def waveform(
        self, y: np.ndarray, known: int, begin: Harmonics | _Result
    ) -> tuple[_Result, np.ndarray]:
        """Trained by the error of the first `known` samples; also the loss after each step."""
        horizons = (known // 4, known // 2, known) if isinstance(begin, Harmonics) else (known,)
        if isinstance(begin, Harmonics):
            begin = self.start(begin, _LARGE, len(y))
        start, speed = begin
        count = sum(leaf.size for leaf in start)
        stride = max(1, math.ceil(y.size * count / _MOST_ENTRIES))
        motion = self.motion(speed, stride, len(y))
        target = jnp.asarray(y[::stride], self.dtype)
        losses: list[float] = []
        with progress_bar(self.progress, len(horizons) * self.steps) as bar:

            def watch(total: float) -> None:
                losses.append(total)
                if bar is not None:
                    bar.set_postfix_str(f"nrmse {total**0.5:.3g}", refresh=False)
                    bar.update()

            for horizon in horizons:
                used = -(-horizon // stride)
                weights = (np.arange(len(target)) < used) / np.sqrt(used * y.shape[1])
                weights = jnp.asarray(weights, self.dtype)[:, None]
                start = _least_squares(start, (motion, target, weights), self.steps, watch)
        return _Result(start, speed), np.asarray(losses)

    def motion(self, speed: float, stride: int, size: int) -> _Motion:
        # A quarter is left to what training adds to the fastest mode.
        parts = math.ceil(1.25 * self.dt * speed / _ANGLE)
        step = jnp.asarray(self.dt * speed / parts, self.dtype)
        samples = (size - 1) // stride
        return _Motion(self.activation, self.n, step, parts * stride, samples)

    def predict(self, result: _Result, size: int) -> np.ndarray:
        unknowns, speed = result
        return np.asarray(_outputs(unknowns, self.motion(speed, 1, size)), float)

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


def _least_squares(start: _Unknowns, args: Any, steps: int, watch: Any) -> _Unknowns:
    """Unknowns of a smaller Σ r² after at most `steps` evaluations; `watch` sees the least yet."""
    from scipy.optimize import least_squares  # its import takes a fifth of a second

    values, unflatten = ravel_pytree(start)
    least = math.inf

    def residual(values: np.ndarray) -> np.ndarray:
        nonlocal least
        r = np.asarray(_residual(jnp.asarray(values, dtype), unflatten, args), float)
        least = float(np.fmin(least, r @ r))
        watch(least)
        return r

    def slope(values: np.ndarray) -> np.ndarray:
        return np.asarray(_slope(jnp.asarray(values, dtype), unflatten, args), float)

    dtype, values = values.dtype, np.asarray(values, float)
    if not np.all(np.isfinite(_residual(jnp.asarray(values, dtype), unflatten, args))):
        return start
    # Unscaled unknowns: they are of order 1, and some change nothing, such as turning all modes.
    tolerances: dict[str, Any] = {"ftol": 1e-4, "xtol": 1e-9, "gtol": None}
    found = least_squares(residual, values, slope, max_nfev=steps, **tolerances)  # pyright: ignore[reportArgumentType]
    return unflatten(jnp.asarray(found.x, dtype))


@eqx.filter_jit
def _residual(values: Array, unflatten: Any, args: Any) -> Array:
    motion, target, weights = args
    return jnp.ravel(weights * (_outputs(unflatten(values), motion) - target))


@eqx.filter_jit
def _slope(values: Array, unflatten: Any, args: Any) -> Array:
    return jax.jacfwd(lambda values: _residual(values, unflatten, args))(values)


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
