"""Oscillators that generate a given signal, and go on with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._analysis.harmonics import Harmonics, lines_in
from .._analysis.modes import half_spectrum, mode_frequencies, with_spectrum
from .._analysis.samples import Record, recorded, signal_samples, standardised
from .._network.activations import AbstractActivation, Tanh
from .._network.model import CTRNN
from .._network.products import product
from .._network.weights import DenseSkew
from .._util import checks
from .._util.types import Array
from . import identify
from .arguments import Draft, checked_draft
from .fit import progress_bar
from .input_report import IdentificationReport, measure_inputs
from .oscillator import Oscillator, for_form
from .signal_report import (
    Baselines,
    SignalReport,
    fifth,
    foreseen,
    measure_signal,
    nrmse,
    num_parameters,
)
from .waveform import (
    Motion,
    Unknowns,
    least_squares,
    outputs,
    steps_between,
    upper_of,
    weights_of,
)

_TINY = 1e-5  # rms of the pre-activations where tanh is linear to 1e-11
_LARGE = 0.5
_ANGLE = 0.5  # rad that the fastest mode turns in a step: Dopri8 is then exact to 1e-11 of it
_COARSE = 1.0  # the same while fitting: to 3e-9
_ENOUGH = 1e-3  # normalised RMSE that lines alone may leave
_MOST_BEYOND = 100_000
_LONGEST = 1000  # intervals for each sample: all of them are integrated


def fit_signal(
    signal: Any,
    dt: Any = None,
    *,
    times: Any = None,
    neurons: int = 16,
    activation: AbstractActivation = Tanh(),  # noqa: B008 - frozen and stateless
    form: str = "rate",
    hold_out: float = 0.2,
    steps: int = 30,
    key: Any = None,
    dtype: Any = None,
    progress: bool = False,
    inputs: Any = None,
) -> tuple[Oscillator, SignalReport | IdentificationReport]:
    """An oscillator that generates a sampled signal and goes on with it; or answers inputs so.

    Samples may be at any times, and some may be missing: all that follows is the least squares of
    those that there are.

    1. The last samples are held out. Sinusoids in the others are found by `harmonic_regression`: as
       many, up to n // 2, as best foresee the last two fifths of them, each from those before.
    2. They become the modes of a network of small amplitude, where it is nearly linear. Where they
       leave more than 0.1 %, and more than n // 2 lines foresee better, another one begins with
       these modes at an amplitude at which it is nonlinear. There weights, state, read-out and
       offset are trained by the squared error of the waveform (Levenberg-Marquardt) with
       derivatives through the simulation: first over the first quarter of the samples, then over
       the first half, then over all.
    3. The one that foresees the last fifth better is trained on all training samples.

    With `inputs` u it is a driven network, x' = f(A x + B u + b) - γ x or A f(x) + B u + b - γ x,
    y = C x + d, with a leak γ > 0 for each neuron, lest the initial state be remembered for ever:

    1. The answers to pulses, by a long linear regression, are reduced to a linear state space, of
       the order up to n that foresees best. Any such system is a linear network of pairs of
       neurons with equal leaks. It is trained by the squared error of its simulated output.
    2. From it, before and after its training, others begin at two amplitudes at which the network
       is nonlinear; the two best go on for twice as many steps. Not all end in the same minimum.
    3. The one that foresees the last fifth better is trained on all training samples.

    Args:
        signal: (S,) or (S, channels) samples, at least 32 of each channel, not constant; nan is a
            missing one.
        dt: sampling interval in seconds.
        times: (S,) in seconds, increasing, instead of dt. They count from the first one. What
            oscillates faster than half a cycle an interval, the spacing of their grid or else their
            median step, is not looked for.
        neurons: n >= 2.
        activation: an odd one with a positive slope at 0.
        form: "rate" or "current".
        hold_out: share of the samples, the last ones, that only the report sees; 0 to 0.9. Samples
            are counted, not time.
        steps: of least squares, for each of these parts; 0 leaves the network nearly linear.
        key: of the weights; `jax.random.key(0)` unless given.
        dtype: of the oscillator; JAX's default unless given.
        progress: whether to show a progress bar.
        inputs: u (S,) or (S, m), finite, not constant, in any units: sample k is held from k dt to
            (k + 1) dt, and seen by the signal from sample k + 1 on. None for an oscillator alone.
            With inputs no sample may be missing, and none be at uneven times.

    Returns:
        The oscillator, whose `generate(dt, num_steps)` begins with the first sample (also where
        that is missing), and the report; `generate(dt, save_at=times - times[0])` has what is to be
        compared with uneven samples. With inputs `generate(dt, S - 1, inputs=u[:-1])` has the S
        samples, and the report compares with an ARX model of at most as many parameters.

    Raises:
        TypeError, ValueError: for a wrong kind, shape or value of an argument.

    Example:
        >>> oscillator, report = ct.fit_signal(y, dt=0.01, neurons=16)
        >>> oscillator.generate(0.01, 10 * len(y))  # far beyond the samples
        >>> oscillator, report = ct.fit_signal(y, times=times)  # uneven, y nan where missing
        >>> oscillator.generate(0.01, save_at=times - times[0])  # what it has for these samples
        >>> driven, report = ct.fit_signal(y, dt=0.01, inputs=u, neurons=6)
        >>> driven.generate(0.01, len(other), inputs=other)  # the answer to other inputs

    Source:
        Lines first because the error of a waveform misleads unless frequencies are right already.
        Levenberg-Marquardt with Nielsen's damping: Madsen, Nielsen and Tingleff 2004, Methods for
        Non-Linear Least Squares Problems, section 3.2. State space from pulses: Juang and Pappa
        1985; ARX: Ljung 1999, System Identification, section 4.2.
    """
    samples = signal_samples("signal", signal, "(S,) or (S, channels)", (1, 2), 32, gaps=True)
    samples = samples.reshape(len(samples), -1)
    record = recorded("signal", samples, dt, times)
    interval = record.interval
    if record.fewest < 32:
        checks.fail("signal", "at least 32 samples that are not missing", record.fewest)
    if record.length > _LONGEST * len(record.y):
        got = f"{record.length} of {interval:.6g} s for {len(record.y)} samples"
        checks.fail("times", f"at most {_LONGEST} intervals, median steps, for each sample", got)
    draft = checked_draft(neurons, activation, form, key, dtype)
    hold_out = float(checks.real("hold_out", hold_out))
    if not 0 <= hold_out <= 0.9:
        checks.fail("hold_out", "a share from 0 to 0.9", hold_out)
    steps = checks.integer("steps", steps, 0)
    checks.flag("progress", progress)
    size = len(record.y) - round(hold_out * len(record.y))
    if (left := record.first(size).fewest) < 24:
        checks.fail("hold_out", "at least 24 samples left to train on", f"{left}")
    known, mean, deviation, _ = standardised(record.y[:size], np.asarray(signal).dtype)
    if not np.any(np.nan_to_num(known)):
        checks.fail("signal", "samples that vary", "constant ones")
    y = np.concatenate([known, (record.y[size:] - mean) / deviation])
    if inputs is not None:
        if np.isnan(samples).any() or not record.is_even:
            checks.fail("inputs", "none where samples are uneven or missing", "some")
        u = _inputs(inputs, len(samples))
        return _driven(y, u, interval, draft, steps, size, mean, deviation, progress)
    record = record._replace(y=y)
    task, n = _Task(interval, draft, steps), draft.neurons
    baselines = Baselines(record.first(size), _most_lines(n, y.shape[1]))
    with progress_bar(progress, baselines.candidates(n // 2) + 4 * steps) as bar:
        advance = _nothing if bar is None else bar.update
        baselines.choose(n // 2, advance)
        result, kind, validation, losses = _fitted(task, baselines, advance)
        if bar is not None:  # what was not needed counts as done
            bar.update(bar.total - bar.n)
    oscillator = task.oscillator(result, mean, deviation)
    generated = (_generated(oscillator, record) - mean) / deviation
    report = measure_signal(generated, record, oscillator, kind, validation, losses, baselines)
    return oscillator, report


def _generated(oscillator: Oscillator, record: Record) -> np.ndarray:
    """At the samples, and then ten times as long beyond them."""
    interval, length = record.interval, record.length
    end = length + min(10 * length, _MOST_BEYOND)
    if record.on_grid:
        generated = np.asarray(oscillator.generate(interval, end - 1), float)
        return np.concatenate([generated[record.at.astype(int)], generated[length:]])
    ts = interval * np.concatenate([record.at, np.arange(length, end)])
    ts = jnp.asarray(ts, oscillator.x0.dtype)
    return np.asarray(oscillator.generate(interval, save_at=ts), float)


def _inputs(inputs: Any, size: int) -> np.ndarray:
    """(S, m)."""
    u = signal_samples("inputs", inputs, "(S,) or (S, m)", (1, 2), 0)
    if len(u) != size or u.size == 0:
        checks.fail("inputs", f"{size} samples, as many as the signal has", f"shape {u.shape}")
    return u.reshape(size, -1)


def _driven(
    y: np.ndarray,
    inputs: np.ndarray,
    dt: float,
    draft: Draft,
    steps: int,
    size: int,
    mean: np.ndarray,
    deviation: np.ndarray,
    progress: bool,
) -> tuple[Oscillator, IdentificationReport]:
    """The driven network for y, which has a mean of 0 and a deviation of 1, and its report."""
    known, zero, spread, _ = standardised(inputs[:size])
    if not np.all(np.any(known, axis=0)):
        checks.fail("inputs", "inputs that vary where they are trained on", "a constant one")
    u = (inputs - zero) / spread
    task = identify.Task(y, u, dt, draft, steps)
    with progress_bar(progress, identify.EVALUATIONS * steps) as bar:
        advance = _nothing if bar is None else bar.update
        found, kind, validation, losses = identify.fitted(task, size, advance)
        if bar is not None:
            bar.update(bar.total - bar.n)
    oscillator = identify.oscillator_of(found, draft, (mean, deviation), (zero, spread))
    given = jnp.asarray(inputs[:-1], draft.dtype)
    generated = np.asarray(oscillator.generate(dt, len(y) - 1, inputs=given), float)
    generated = (generated - mean) / deviation
    parameters = identify.num_parameters(draft.neurons, u.shape[1], y.shape[1])
    report = measure_inputs(generated, y, u, size, oscillator, parameters, kind, validation, losses)
    return oscillator, report


def _fitted(task: _Task, baselines: Baselines, advance: Callable[[int], Any]):
    """What is best by what it foresees of the samples: the result, its kind, errors, losses."""
    record = baselines.record
    y, size, known = record.y, len(record.y), len(record.y) - fifth(len(record.y))
    kind, losses = "lines", np.zeros(0)
    count, validation = baselines.in_modes, {"lines": baselines.error(baselines.in_modes)}
    found = lines_in(record, count)
    left = np.max(nrmse(found.predict(record.t), y))
    if task.steps and left > _ENOUGH and baselines.lines > task.draft.neurons // 2:
        first = record.first(known)
        begun = lines_in(first, min(task.draft.neurons // 2, (first.each - 1) // 3))
        trained, before = task.waveform(record, known, begun, advance)
        predicted = task.predict(trained, record)
        validation["nonlinear"] = foreseen(predicted[known:], y[known:])
        if validation["nonlinear"] < validation["lines"]:
            kind = "nonlinear"
            # All samples are more to learn from, and another minimum to be caught in.
            result, after = task.waveform(record, size, trained, advance)
            losses = np.concatenate([before, after])
            better = foreseen(task.predict(result, record), y) <= foreseen(predicted, y)
            return result if better else trained, kind, validation, losses
    return task.start(found, _TINY), kind, validation, losses


def _most_lines(n: int, channels: int) -> int:
    """Sinusoids with as many parameters as the oscillator."""
    parameters = num_parameters(n, channels)
    return (parameters - channels) // (1 + 2 * channels)


def _nothing(_: int) -> None:
    pass


class _Result(NamedTuple):
    unknowns: Unknowns
    speed: float  # rad/s


class _Task(NamedTuple):
    """What stays the same while a signal is fitted."""

    dt: float
    draft: Draft
    steps: int

    def start(self, found: Harmonics, scale: float, length: int | None = None) -> _Result:
        """The network whose modes are the lines; exactly those where `scale` is small.

        With a `length` the modes are tuned to the lines along the nonlinear motion.
        """
        f = found.frequencies
        speed = 2 * np.pi * float(f.max()) if f.size else 1 / self.dt
        slope = float(self.draft.activation.derivative(jnp.zeros(())))
        weights = DenseSkew.init(self.draft.key, self.draft.neurons, dtype=self.draft.dtype)
        omega, modes = half_spectrum(weights.as_matrix())
        lines, idle = modes[:, : f.size], modes[:, f.size :]
        # Modes without a line are slower than the fastest, and at rest.
        turning = jnp.asarray(2 * np.pi * f / (speed * slope), self.draft.dtype)
        omega = jnp.concatenate([turning, omega[: idle.shape[1]] / (omega[-1] * slope)])
        power = np.sum(found.cosines**2 + found.sines**2, axis=1)
        amplitude = power**0.25  # between equal, as weak lines have them best, and their own
        amplitude *= scale * np.sqrt(2 * self.draft.neurons / max(np.sum(amplitude**2), 1e-300))
        amplitude = jnp.asarray(amplitude, self.draft.dtype)
        # z = Σ_k a_k Re(v_k exp(-iω_k t)), so exp(-iω_k t) = 2 v_kᴴ z / a_k.
        z = product(jnp.real(lines), amplitude)
        asked = jnp.asarray(found.cosines + 1j * found.sines, lines.dtype)
        asked = asked / amplitude.astype(asked.dtype)[:, None]
        readout = jnp.real(product(asked.T, 2 * lines.conj().T))
        if length is not None:
            omega = _retuned(omega, modes, z, f.size, self.motion(speed, length))
        upper = upper_of(with_spectrum(omega, modes))
        offset = jnp.asarray(found.offset, self.draft.dtype)
        return _Result(Unknowns(upper, z, readout, offset), speed)

    def waveform(
        self, record: Record, known: int, begin: Harmonics | _Result, advance: Callable[[int], Any]
    ) -> tuple[_Result, np.ndarray]:
        """Trained by the error of the first `known` samples; also the loss after each step."""
        horizons = (known,)
        if isinstance(begin, Harmonics):
            horizons = (known // 4, known // 2, known)
            begin = self.start(begin, _LARGE, record.length)
        unknowns, speed = begin
        motion, given = self.motion(speed, record.length), steps_between(record)
        losses: list[float] = []
        for horizon in horizons:
            unknowns, more = least_squares(unknowns, motion, given, horizon, self.steps, advance)
            losses += more
        return _Result(unknowns, speed), np.asarray(losses)

    def motion(self, speed: float, length: int) -> Motion:
        # A quarter is left to what training adds to the fastest mode.
        substeps = math.ceil(1.25 * self.dt * speed / _COARSE)
        step = jnp.asarray(self.dt * speed / substeps, self.draft.dtype)
        return Motion(self.draft.activation, self.draft.neurons, step, substeps, length - 1)

    def predict(self, result: _Result, record: Record) -> np.ndarray:
        unknowns, speed = result
        return outputs(unknowns, self.motion(speed, record.length), record)

    def oscillator(self, result: _Result, mean: np.ndarray, deviation: np.ndarray) -> Oscillator:
        """In the units of the signal."""
        (upper, z, readout, offset), speed = result
        weights = weights_of(upper, self.draft.neurons)
        rnn = CTRNN(weights, self.draft.activation, "current")
        unit = jnp.asarray(deviation, self.draft.dtype)
        made = for_form(
            rnn, z, readout * unit[:, None], jnp.asarray(speed, self.draft.dtype), self.draft.form
        )
        slope = float(self.draft.activation.derivative(jnp.zeros(())))
        fastest = float(jnp.linalg.norm(weights.as_matrix(), 2)) * speed * slope
        return Oscillator(
            made.rnn,
            made.x0,
            made.readout,
            offset=offset * unit + jnp.asarray(mean, self.draft.dtype),
            max_step=_ANGLE / fastest,
        )


@eqx.filter_jit
def _retuned(omega: Array, modes: Array, z: Array, lines: int, motion: Motion) -> Array:
    """Eigenvalues with which the first modes turn in z's motion as `omega` says.

    At its amplitude they are slower, by several turns over the samples: too far for the error of
    the waveform to find back.
    """
    wanted = omega[:lines]
    slope = motion.activation.derivative(jnp.zeros((), z.dtype))

    def tune(omega: Array, _: None) -> tuple[Array, None]:
        upper = upper_of(with_spectrum(omega, modes))
        zs = motion.observed(upper, z, lambda z: z)
        turns = 2 * np.pi * mode_frequencies(zs, modes[:, :lines], motion.step * motion.every)
        ratio = jnp.clip(wanted * slope / turns, 0.5, 2)
        return omega.at[:lines].multiply(jnp.where(jnp.isfinite(ratio), ratio, 1)), None

    return jax.lax.scan(tune, omega, length=4)[0]
