"""Oscillators with several spectral lines at given frequencies: chords."""

from __future__ import annotations

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._analysis.modes import half_spectrum, mode_frequencies, with_spectrum
from .._analysis.samples import hann
from .._network.activations import AbstractActivation, Tanh
from .._network.model import CTRNN
from .._network.products import product
from .._network.weights import DenseSkew
from .._simulate.api import simulate
from .._util import checks
from .._util.types import Array
from .arguments import Draft, checked_draft, checked_targets
from .ensembles import PER_PERIOD, for_targets
from .frequency_report import FrequencyReport, measure
from .oscillator import Oscillator, for_form

_ROUNDS = 6
_PERIODS = 256
_AT_ONCE = 128
_CLOSEST = 1e-4  # of the highest line


def fit_spectrum(
    target_hz: Any,
    target_power: Any = None,
    *,
    neurons: int = 12,
    activation: AbstractActivation = Tanh(),  # noqa: B008 - frozen and stateless
    form: str = "rate",
    amplitude: Any = 1.0,
    scale: float = 0.05,
    key: Any = None,
    dtype: Any = None,
) -> tuple[Oscillator, FrequencyReport]:
    """Random oscillators, tuned until their output has spectral lines at given frequencies.

    1. Random weights; as many of their modes as there are lines get the targets as frequencies, and
       each of these modes is excited alike.
    2. The frequency f_k of each mode is measured along the simulated, nonlinear motion, and the
       mode's eigenvalue multiplied by f*_k/f_k: Newton's method with the derivative that small
       oscillations have. Repeated six times.
    3. The read-out is the smallest one that gives each line its power.

    The motion is quasi-periodic: besides the lines there are weak combinations of them, the weaker
    the smaller `scale`.

    Args:
        target_hz: (lines,) frequencies in Hz, in any order, or (K, lines); at most n // 2 lines,
            each 1e-4 of the highest from its neighbours and from 0, or more.
        target_power: of the same shape: their powers, in any unit; equal unless given.
        neurons: n.
        activation: an odd one with a positive slope at 0.
        form: "rate" or "current".
        amplitude: root mean square of the output, one number or (K,).
        scale: root mean square of the pre-activations; less where lines are close, at most
            0.3 √(their smallest distance / highest line), lest they exchange their energy.
        key: of weights, states and phases; `jax.random.key(0)` unless given.
        dtype: of the oscillators; JAX's default unless given.

    Returns:
        The oscillator, or for (K, lines) an ensemble with that leading axis, and a
        `FrequencyReport`, measured anew with another integrator and estimator.

    Raises:
        TypeError, ValueError: for a wrong kind, shape or value of an argument.

    Example:
        >>> chord = jnp.array([261.6, 329.6, 392.0])
        >>> oscillator, report = ct.fit_spectrum(chord, key=jax.random.key(0))
    """
    draft = checked_draft(neurons, activation, form, key, dtype)
    target, sizes = checked_targets(target_hz, amplitude, draft.dtype, (1, 2))
    lines = target.shape[-1]
    if lines > draft.neurons // 2:
        checks.fail("target_hz", f"at most neurons // 2 = {draft.neurons // 2} lines", lines)
    # Of the highest line; the first is the lowest line's distance from 0 Hz, the constant.
    ascending = np.sort(np.asarray(target, float), axis=-1)
    apart = np.diff(ascending / ascending[..., -1:], prepend=0, axis=-1)
    if np.any(apart < _CLOSEST):
        got = f"{target.tolist()} with {apart.min():.2g}"
        checks.fail(
            "target_hz", f"lines {_CLOSEST:g} of the highest apart and from 0, or more", got
        )
    powers = jnp.ones_like(target)
    if target_power is not None:
        powers = checks.positive_array("target_power", target_power, draft.dtype)
        if powers.shape != target.shape:
            checks.fail("target_power", f"shape {target.shape}, as target_hz", powers.shape)
    scale = checks.positive_float("scale", scale)

    def make(keys: Array, targets: Array, powers: Array, sizes: Array):
        oscillators = _tuned(keys, targets, powers, sizes, draft, scale)
        members = len(targets)
        closed, losses = jnp.zeros(members, bool), jnp.zeros((members, 0), draft.dtype)
        return oscillators, measure(oscillators, targets, closed, losses)

    rows = target.reshape(-1, lines), powers.reshape(-1, lines)
    return for_targets(make, _AT_ONCE, draft.key, *rows, sizes, alone=target.ndim == 1)


@eqx.filter_jit
def _tuned(
    keys: Array, targets: Array, powers: Array, sizes: Array, draft: Draft, scale: float
) -> Oscillator:
    n, activation = draft.neurons, draft.activation
    lines, dtype = targets.shape[1], targets.dtype
    slope = activation.derivative(jnp.zeros((), dtype))
    dt, num_steps = 1 / PER_PERIOD, _PERIODS * PER_PERIOD
    half = n // 2
    root = jnp.sqrt(jnp.asarray(hann(num_steps), dtype))[:, None]

    def one(key, target, power, size):
        # Time in periods of the highest line; pre-activations, in which both forms are alike.
        highest = jnp.max(target)
        wanted = target / highest
        key_weights, key_state, key_readout = jax.random.split(key, 3)
        W = DenseSkew.init(key_weights, n, dtype=dtype).W
        omega, modes = half_spectrum(W - W.T)
        # The fastest become the lines, whatever their order; the others stay slower than them.
        omega = omega * (2 * np.pi / (omega[-1] * slope))
        omega = omega.at[half - lines :].set(2 * np.pi * wanted / slope)
        chosen = modes[:, half - lines :]
        phases = 2 * np.pi * jax.random.uniform(key_state, (lines,), dtype)
        unit = np.sqrt(2 * n / lines).item()
        closest = jnp.min(jnp.diff(jnp.sort(wanted), prepend=0))
        z0 = (
            jnp.minimum(scale, 0.3 * jnp.sqrt(closest))
            * unit
            * jnp.real(product(chosen, jax.lax.complex(jnp.cos(phases), jnp.sin(phases))))
        )

        def network(omega):
            return CTRNN(with_spectrum(omega, modes), activation, "current")

        def motion(omega):
            xs = simulate(network(omega), z0, dt=dt, num_steps=num_steps, solver=diffrax.Tsit5()).xs
            assert xs is not None
            return xs

        def tune(omega, _):
            f = mode_frequencies(motion(omega), chosen, dt)
            return omega.at[half - lines :].multiply(wanted / f), None

        omega, _ = jax.lax.scan(tune, omega, length=_ROUNDS)
        xs = motion(omega)[:-1]
        t = dt * jnp.arange(num_steps, dtype=dtype)
        phase = 2 * np.pi * jnp.outer(t, wanted)
        waves = jnp.concatenate([jnp.cos(phase), jnp.sin(phase)], axis=1)
        equations = jnp.linalg.lstsq(root * waves, root * xs)[0]  # (2 lines, n) of z
        phases = 2 * np.pi * jax.random.uniform(key_readout, (lines,), dtype)
        asked = jnp.sqrt(2 * power / jnp.sum(power)) * size
        asked = jnp.concatenate([asked * jnp.cos(phases), asked * jnp.sin(phases)])
        readout = jnp.linalg.lstsq(equations, asked)[0]
        return for_form(network(omega), z0, readout[None], highest, draft.form)

    return jax.vmap(one)(keys, targets, powers, sizes)
