"""Oscillators of given frequencies: thousands at once, on closed orbits."""

from __future__ import annotations

import dataclasses
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._analysis.frequencies import orbit_frequency
from .._analysis.period import period
from .._analysis.spectra import dominant_frequency
from .._network.activations import AbstractActivation, HardTanh, Linear, Tanh
from .._network.model import CTRNN, FORMS
from .._network.weights import DenseSkew
from .._simulate.api import simulate
from .._util import checks
from .._util.types import Array, Float
from ..losses import frequency_loss
from ..solvers import RK4
from .fit import fit
from .frequency_report import FrequencyReport, measure
from .modes import for_form, half_spectrum, in_parts, oscillating, without_kernel
from .oscillator import Oscillator

# All is done in units of the target's period, where one loss serves all targets, and with the
# pre-activations z = A x, in which both forms are z' = A σ(z).
_PERIODS, _PER_PERIOD = 12, 32
_OPTIMIZER = optax.adam(0.01)
_AT_ONCE = 1024
_NEWTON, _NEWTON_STEPS = 16, 512


def fit_frequency(
    target_hz: Any,
    *,
    neurons: int = 8,
    activation: AbstractActivation = Tanh(),  # noqa: B008 - frozen and stateless
    form: str = "rate",
    amplitude: Any = 1.0,
    scale: float = 0.5,
    steps: int = 60,
    key: Any = None,
    dtype: Any = None,
    progress: bool = False,
) -> tuple[Oscillator, FrequencyReport]:
    """Random oscillators, trained until they oscillate at given frequencies.

    1. Random weights, scaled so that the fastest mode of small oscillations has the target
       frequency, and a random state and read-out near that mode.
    2. Adam on `frequency_loss` of the output, through the simulation, by weights, state, read-out.
    3. Newton's method on the return φ_T(z) = z: the state moves onto a closed orbit nearby, whose
       period T is located to rounding. Time is scaled by f* T, which is exact in both forms
       (A → c A, x → x/c or x): the orbit has the target frequency as its frequency.

    Where the orbit can't be closed, the frequency of the strongest line is scaled instead; the
    report tells by its `closed`.

    Args:
        target_hz: f* in Hz, one number or (K,).
        neurons: n >= 2.
        activation: an odd one with a positive slope at 0.
        form: "rate" or "current".
        amplitude: root mean square of the output, one number or (K,).
        scale: root mean square of the pre-activations at the start: small is nearly linear.
        steps: of Adam; 0 leaves out stage 2.
        key: of weights, states and read-outs; `jax.random.key(0)` unless given.
        dtype: of the oscillators; JAX's default unless given.
        progress: whether to show a progress bar of stage 2.

    Returns:
        The oscillator, or for targets (K,) an ensemble with that leading axis, and a
        `FrequencyReport`, measured anew with another integrator.

    Raises:
        TypeError, ValueError: for a wrong kind, shape or value of an argument.

    Source:
        Closed orbits near the modes of small oscillations: Lyapunov's centre theorem.

    Example:
        >>> oscillator, report = ct.fit_frequency(3.2, neurons=8, key=jax.random.key(0))
        >>> y = oscillator.generate(0.01, 1000)
    """
    dtype = checks.float_dtype(dtype)
    target = checks.positive_array("target_hz", target_hz, dtype, (0, 1))
    if target.size == 0:
        checks.fail("target_hz", "at least one frequency", f"shape {target.shape}")
    neurons = checks.integer("neurons", neurons, 2)
    oscillating(activation)
    checks.one_of("form", form, FORMS)
    size = checks.positive_array("amplitude", amplitude, dtype, (0, 1))
    if size.ndim and size.shape != target.shape:
        checks.fail("amplitude", f"a scalar or shape {target.shape} as target_hz", size.shape)
    scale = checks.positive_float("scale", scale)
    steps = checks.integer("steps", steps, 0)
    key = checks.prng_key("key", jax.random.key(0) if key is None else key)

    targets = jnp.atleast_1d(target)
    sizes = jnp.broadcast_to(size, target.shape).reshape(-1)
    keys = jax.random.split(key, targets.size)
    options = (neurons, activation, form, scale, steps, progress)
    oscillators, report = in_parts(
        lambda keys, targets, sizes: _oscillators(keys, targets, sizes, options),
        _AT_ONCE,
        keys,
        targets,
        sizes,
    )
    if target.ndim == 0:
        oscillators, report = jax.tree.map(lambda leaf: leaf[0], (oscillators, report))
        # One has a time scale of its own, so that `generate` can look after its steps.
        step = 1 / (_PER_PERIOD * float(target))
        oscillators = dataclasses.replace(oscillators, max_step=step)
    return oscillators, report


def _oscillators(
    keys: Array, targets: Array, sizes: Array, options: tuple
) -> tuple[Oscillator, FrequencyReport]:
    """An ensemble of at most _AT_ONCE, and what it does."""
    neurons, activation, form, scale, steps, progress = options
    units = _random(keys, activation, neurons, scale, targets.dtype)
    losses = jnp.zeros((targets.size, 0), targets.dtype)
    if steps:
        units, history = fit(
            units,
            _distance_from_1,
            steps=steps,
            optimizer=_OPTIMIZER,
            ensemble=True,
            progress=progress,
        )
        # As many for each part of an ensemble, whenever it stopped.
        losses = np.full((targets.size, steps), np.nan)
        losses[:, : len(history.losses)] = history.losses.T
        losses = jnp.asarray(losses, targets.dtype)
    oscillators, closed = _tuned(units, targets, sizes, form)
    report = measure(oscillators, targets[:, None], closed, losses)
    flat = ("target_hz", "frequency", "error", "share")
    return oscillators, dataclasses.replace(
        report, **{name: getattr(report, name)[:, 0] for name in flat}
    )


@eqx.filter_jit
def _random(keys: Array, activation: AbstractActivation, n: int, scale: float, dtype: Any):
    """Oscillators in units of the period of their fastest mode, in the current form."""

    def one(key):
        key_weights, key_state, key_readout = jax.random.split(key, 3)
        W = DenseSkew.init(key_weights, n, dtype=dtype).W
        omega, modes = half_spectrum(W - W.T)
        slope = activation.derivative(jnp.zeros((), dtype))
        W = W * (2 * np.pi / (omega[-1] * slope))
        mode = modes[:, -1] * np.sqrt(2 * n).item()
        noise = jax.random.normal(key_state, (n,), dtype)
        z = without_kernel(W - W.T, jnp.real(mode) + 0.3 * noise)
        z = z * (scale / jnp.sqrt(jnp.mean(z**2)))
        noise = jax.random.normal(key_readout, (n,), dtype)
        readout = (jnp.imag(mode) + 0.3 * noise) / n
        return Oscillator(CTRNN(DenseSkew(W), activation, "current"), z, readout[None])

    return jax.vmap(one)(keys)


def _distance_from_1(unit: Oscillator) -> Float[Array, ""]:
    dt = 1 / _PER_PERIOD
    y = unit.generate(dt, _PER_PERIOD * _PERIODS, solver=RK4())
    return frequency_loss(y[:, 0], dt, 1.0)


@eqx.filter_jit
def _tuned(units: Oscillator, targets: Array, sizes: Array, form: str):
    """Oscillators at their targets (stage 3), and whether their orbits are closed."""
    arrays, static = eqx.partition(units, eqx.is_array)

    def one(arrays, target, size):
        unit = eqx.combine(arrays, static)
        z, T, closed = _closed_orbit(unit)
        unit = dataclasses.replace(unit, x0=z)
        y = unit.generate(T / 128, 128, solver=diffrax.Tsit5())[:, 0]
        readout = unit.readout * (size / jnp.std(y[:-1]))
        return for_form(unit.rnn, z, readout, T * target, form), closed

    return jax.vmap(one)(arrays, targets, sizes)


def _closed_orbit(unit: Oscillator) -> tuple[Array, Array, Array]:
    """A state on a closed orbit near the unit's, its period, and whether there is one.

    Newton's method on φ_T(z) - z by z and T together, each step the smallest that solves the
    linear equation: along the orbit and across its family nothing is determined.
    """
    z0, eps = unit.x0, float(jnp.finfo(unit.x0.dtype).eps)
    size = jnp.linalg.norm(z0)
    y = unit.generate(1 / _PER_PERIOD, 48 * _PER_PERIOD, solver=RK4())[:, 0]
    line = dominant_frequency(y, 1 / _PER_PERIOD)
    T0 = 1 / jnp.where(jnp.isfinite(line), line, 1)

    def gap(unknown):  # and again, for jacfwd to return it beside the slope
        z, T = unknown[:-1] * size, unknown[-1]
        run = simulate(
            unit.rnn,
            z,
            dt=T / _NEWTON_STEPS,
            num_steps=_NEWTON_STEPS,
            save_every=_NEWTON_STEPS,
            solver=diffrax.Tsit5(),
        )
        assert run.xs is not None
        missing = (run.xs[-1] - z) / size
        return missing, missing

    def newton(state, _):
        unknown, best, least = state
        slope, missing = jax.jacfwd(gap, has_aux=True)(unknown)
        error = jnp.linalg.norm(missing)
        # Rest returns at once, and after two periods every orbit has returned, too.
        near = jnp.abs(jnp.log2(unknown[-1] / T0)) < 0.5
        better = (error < least) & near & (jnp.linalg.norm(unknown[:-1]) > 0.3)
        best, least = jnp.where(better, unknown, best), jnp.where(better, error, least)
        change = jnp.linalg.lstsq(slope, -missing, rcond=eps**0.4)[0]
        change = change * jnp.minimum(1, 0.2 / jnp.linalg.norm(change))
        unknown = unknown + change
        z = without_kernel(unit.rnn.weights.as_matrix(), unknown[:-1])
        return (jnp.concatenate([z, unknown[-1:]]), best, least), None

    start = jnp.concatenate([z0 / size, T0[None]])
    (_, best, _), _ = jax.lax.scan(
        newton, (start, start, jnp.full_like(T0, jnp.inf)), length=_NEWTON
    )
    z, T = best[:-1] * size, best[-1]
    # At kinks of σ the steps of `gap` are less accurate than those of `period`.
    if z.size == 2 and isinstance(unit.rnn.activation, Tanh | HardTanh | Linear):
        located = 1 / orbit_frequency(unit.rnn, z)
    else:
        located = period(unit.rnn, z, max_time=2 * T, tolerance=max(1e-4, eps**0.4))
    found = jnp.isfinite(located)
    return jnp.where(found, z, z0), jnp.where(found, located, T0), found
