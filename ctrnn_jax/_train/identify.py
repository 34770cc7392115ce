"""Driven networks from inputs and outputs: `fit_signal` with inputs."""

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

from .._network.activations import AbstractActivation, Linear
from .._network.model import CTRNN
from .._network.products import product
from .._simulate.api import simulate
from .._util.types import Array
from .arguments import Draft
from .least_squares import levenberg_marquardt
from .linear_start import Modes, modes_of, read_out
from .oscillator import Oscillator
from .output_error import Model, in_pieces, normal_equations
from .signal_report import fifth, foreseen
from .waveform import upper_of_matrix, weights_of

_START = 0.3  # rms of the pre-activations of the linear network
# The same where training begins: where tanh is felt, and where it saturates. Each with steps damped
# alike and by influence, from the linear network as it began and as it was trained: which of these
# ends in a better minimum differs from signal to signal.
STARTS = 0.3, 1.0
KEPT = 2  # of them, trained three times as long
EVALUATIONS = 1 + 4 * len(STARTS) + 2 * KEPT + 1  # times `steps`, of all parts together
_TINY = 1e-5  # the same of a linear one: tanh is then linear to 1e-11
_STEP = 1.0  # rad, or decay times, in a step while fitting
_ANGLE = 0.5  # the same of what is generated
_ENOUGH = 1e-6  # relative gain of the last step


class Unknowns(NamedTuple):
    """What is trained; time is in units of 1/speed."""

    upper: Array  # (n (n - 1) / 2,) of A
    log_leak: Array  # (n,)
    drive: Array  # (n, m), input weights
    bias: Array  # (n,)
    x0: Array  # (n,)
    readout: Array  # (channels, n)
    offset: Array  # (channels,)


class Motion(eqx.Module):
    """How the network is integrated, in units of 1/speed."""

    activation: AbstractActivation
    form: str = eqx.field(static=True)
    step: Array
    every: int = eqx.field(static=True)

    def network(self, unknowns: Unknowns) -> CTRNN:
        weights = weights_of(unknowns.upper, unknowns.x0.size)
        return CTRNN(
            weights,
            self.activation,
            self.form,
            bias=unknowns.bias,
            leak=jnp.exp(unknowns.log_leak),
            input_weights=unknowns.drive,
        )

    def states(self, unknowns: Unknowns, x: Array, u: Array) -> Array:
        """(samples + 1, n) from x on, each of the inputs (samples, m) held for a sample."""
        xs = simulate(
            self.network(unknowns),
            x,
            dt=self.step,
            num_steps=len(u) * self.every,
            save_every=self.every,
            solver=diffrax.Dopri8(),
            inputs=jnp.repeat(u, self.every, axis=0),
            adjoint="direct",
        ).xs
        assert xs is not None
        return xs


class Task(NamedTuple):
    """What stays the same while y (S, channels) is fitted to u (S, m), both standardised."""

    y: np.ndarray
    u: np.ndarray
    dt: float
    draft: Draft
    steps: int


class Fitted(NamedTuple):
    """A network and the speed in 1/s that its time is in units of the inverse of."""

    unknowns: Unknowns
    motion: Motion
    speed: float

    def predict(self, u: np.ndarray) -> np.ndarray:
        """(S, channels) for inputs (S, m), the last of which comes too late."""
        return np.asarray(_outputs(self.unknowns, self.motion, u), float)


def num_parameters(n: int, m: int, channels: int) -> int:
    """Of a driven network: weights, leaks, input weights, bias, initial state, read-out, offset."""
    return n * (n - 1) // 2 + n + n * m + n + n + channels * (n + 1)


def fitted(
    task: Task, size: int, advance: Callable[[int], Any]
) -> tuple[Fitted, str, dict[str, float], np.ndarray]:
    """Trained on the first `size` samples: the result, its kind, errors of the candidates, losses.

    What is better over the last fifth of them, trained on those before, is trained on all.
    """
    known = size - fifth(size)
    first = begun(task, known)
    linear, _ = trained(task, first, known, advance)

    def error(found: Fitted) -> float:
        return foreseen(found.predict(task.u)[known:size], task.y[known:size])

    tried, validation, scaled = {"linear": linear}, {"linear": error(linear)}, False
    motion = eqx.tree_at(lambda m: m.activation, linear.motion, task.draft.activation)
    found: list[tuple[float, Fitted, bool]] = []
    for begin in (first, linear) if task.steps else ():
        for start in STARTS:
            unknowns = _with_slope(_at_size(begin.unknowns, start / _START), task.draft)
            there = begin._replace(unknowns=unknowns, motion=motion)
            for damping in (False, True):
                reached, _ = trained(task, there, known, advance, damping)
                found.append((error(reached), reached, damping))
    more = task._replace(steps=2 * task.steps)
    for before, begin, damping in sorted(found, key=lambda one: one[0])[:KEPT]:
        reached, _ = trained(more, begin, known, advance, damping)
        reached, after = min((begin, before), (reached, error(reached)), key=lambda one: one[1])
        if after < validation.get("nonlinear", math.inf):
            tried["nonlinear"], validation["nonlinear"], scaled = reached, after, damping
    kind = min(validation, key=lambda kind: validation[kind])
    result, losses = trained(task, tried[kind], size, advance, scaled)
    # All samples are more to learn from, and another minimum to be caught in.
    before, after = (
        foreseen(r.predict(task.u)[:size], task.y[:size]) for r in (tried[kind], result)
    )
    return (tried[kind] if before < after else result), kind, validation, losses


def begun(task: Task, known: int) -> Fitted:
    """A linear network by the first samples; neurons that it does not need do a little."""
    n, (y, u) = task.draft.neurons, (task.y, task.u)
    early = known - fifth(known)
    errors: dict[int, float] = {}
    for order in range(1, n + 1):
        x = (modes := modes_of(y[:early], u[:early], task.dt, order)).states(u[:known], task.dt)
        C, d = read_out(x[:early], y[:early])
        errors[order] = foreseen(x[early:] @ C.T + d, y[early:known])
        if modes.neurons < order:
            break
    modes = modes_of(y[:known], u[:known], task.dt, min(errors, key=lambda k: errors[k]))
    speed = float(np.max(np.abs(modes.rates)))
    needed = modes.neurons
    modes = _with_idle(modes, n, speed, task.draft)
    A, leak = modes.matrices()
    x = modes.states(u[:known], task.dt)
    B = modes.parts(modes.gains)
    # So large that the pre-activations are of the size wanted; alike for a pair.
    seen = x if task.draft.form == "current" else (x @ A.T + u[:known] @ B.T) / speed
    power = np.mean(seen**2, axis=0)
    pairs = np.repeat(np.arange(len(modes.rates)), 1 + modes.is_pair)
    power = np.bincount(pairs, power)[pairs] / np.bincount(pairs)[pairs]
    scale = _START / np.sqrt(np.maximum(power, 1e-300))
    C, d = read_out(x * scale, y[:known])
    C[:, needed:] = 0
    every = math.ceil(1.25 * task.dt * speed / _STEP)
    dtype = task.draft.dtype
    # In the order of `Unknowns`.
    made = (
        upper_of_matrix(A / speed),
        np.log(leak / speed),
        scale[:, None] * B / speed,
        np.zeros(n),
        np.zeros(n),
        C,
        d,
    )
    step = jnp.asarray(task.dt * speed / every, dtype)
    motion = Motion(Linear(), task.draft.form, step, every)
    return Fitted(Unknowns(*(jnp.asarray(part, dtype) for part in made)), motion, speed)


def _with_idle(modes: Modes, n: int, speed: float, draft: Draft) -> Modes:
    """With pairs of random rates, and one neuron if one is left, up to n neurons."""
    random = np.random.default_rng(np.asarray(jax.random.key_data(draft.key)).ravel())
    missing = n - modes.neurons
    count = missing // 2 + missing % 2
    imaginary = speed * random.uniform(0.1, 1, count)
    imaginary[: missing % 2] = 0
    rates = -speed * random.uniform(0.1, 0.5, count) + 1j * imaginary
    gains = random.normal(size=(count, modes.gains.shape[1])) * speed
    return Modes(np.append(modes.rates, rates), np.vstack([modes.gains, gains]))


def _at_size(unknowns: Unknowns, size: float) -> Unknowns:
    """Unknowns of a linear network of the same output, its states so many times as large."""
    factor = jnp.asarray(size, unknowns.x0.dtype)
    return unknowns._replace(
        drive=unknowns.drive * factor,
        bias=unknowns.bias * factor,
        x0=unknowns.x0 * factor,
        readout=unknowns.readout / factor,
    )


def _with_slope(unknowns: Unknowns, draft: Draft) -> Unknowns:
    """Unknowns of a linear network for an activation of another slope at 0."""
    slope = draft.activation.derivative(jnp.zeros((), draft.dtype))
    unknowns = unknowns._replace(upper=unknowns.upper / slope)
    if draft.form == "rate":
        unknowns = unknowns._replace(drive=unknowns.drive / slope, bias=unknowns.bias / slope)
    return unknowns


def trained(
    task: Task, begin: Fitted, used: int, advance: Callable[[int], Any], scaled: bool = False
) -> tuple[Fitted, np.ndarray]:
    """By the error of the first `used` samples, simulated; also the loss after each step."""
    values, unflatten = ravel_pytree(begin.unknowns)
    dtype = values.dtype
    y, u = (in_pieces(a, task.draft.neurons, values.size, dtype) for a in (task.y, task.u))
    count = jnp.asarray(used, jnp.int32)

    def equations(values: np.ndarray) -> list[np.ndarray]:
        unknowns = unflatten(jnp.asarray(values, dtype))
        return [np.asarray(a, float) for a in _normal(unknowns, begin.motion, y, u, count)]

    if not task.steps:
        return begin, np.zeros(0)
    found, losses = levenberg_marquardt(
        np.asarray(values, float), equations, task.steps, advance, scaled=scaled, enough=_ENOUGH
    )
    return begin._replace(unknowns=unflatten(jnp.asarray(found, dtype))), np.asarray(losses)


@eqx.filter_jit
def _outputs(unknowns: Unknowns, motion: Motion, u: Any) -> Array:
    inputs = jnp.asarray(u[:-1], unknowns.x0.dtype)
    xs = motion.states(unknowns, unknowns.x0, inputs)
    return product(xs, unknowns.readout.T) + unknowns.offset[None]


@eqx.filter_jit
def _normal(
    unknowns: Unknowns, motion: Motion, y: Array, u: Array, used: Array
) -> tuple[Array, ...]:
    x0, readout, offset = unknowns.x0, unknowns.readout, unknowns.offset
    inner, unravel = ravel_pytree(unknowns[:4])

    def next_sample(x: Array, inner: Array, u: Array) -> Array:
        upper, log_leak, drive, bias = unravel(inner)
        there = Unknowns(upper, log_leak, drive, bias, x, readout, offset)
        return motion.states(there, x, u[None])[-1]

    return normal_equations(next_sample, Model(inner, x0, readout, offset), y, u, used)


def oscillator_of(
    found: Fitted,
    draft: Draft,
    of_signal: tuple[np.ndarray, np.ndarray],
    of_inputs: tuple[np.ndarray, np.ndarray],
) -> Oscillator:
    """In the units of signal and inputs, of which mean and deviation are given."""
    unknowns = found.unknowns
    if isinstance(found.motion.activation, Linear) and not isinstance(draft.activation, Linear):
        unknowns = _with_slope(_at_size(unknowns, _TINY / _START), draft)
    (mean, unit), (zero, spread) = (
        tuple(jnp.asarray(a, draft.dtype) for a in pair) for pair in (of_signal, of_inputs)
    )
    speed = jnp.asarray(found.speed, draft.dtype)
    A = weights_of(unknowns.upper, draft.neurons).as_matrix() * speed
    leak = jnp.exp(unknowns.log_leak) * speed
    drive = unknowns.drive / spread[None]
    bias = unknowns.bias - product(drive, zero)
    x0, readout = unknowns.x0, unknowns.readout
    if draft.form == "rate":  # x' = speed σ(A' x + ...) is X' = σ(A X + ...) for X = x / speed
        x0, readout = x0 / speed, readout * speed
    else:
        drive, bias = drive * speed, bias * speed
    rnn = CTRNN(
        weights_of(jnp.asarray(upper_of_matrix(A)), draft.neurons),
        draft.activation,
        draft.form,
        bias=bias,
        leak=leak,
        input_weights=drive,
    )
    slope = float(draft.activation.derivative(jnp.zeros(())))
    fastest = float(jnp.linalg.norm(A, 2)) * slope + float(jnp.max(leak))
    return Oscillator(
        rnn,
        x0,
        readout * unit[:, None],
        offset=unknowns.offset * unit + mean,
        max_step=_ANGLE / fastest,
    )
