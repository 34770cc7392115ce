"""Oscillators of given frequencies: thousands at once, on closed orbits."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._analysis.frequencies import orbit_frequency
from .._analysis.modes import half_spectrum, without_kernel
from .._analysis.period import period
from .._analysis.spectra import dominant_frequency
from .._network.activations import AbstractActivation, HardTanh, Linear, Tanh
from .._network.model import CTRNN
from .._network.weights import DenseSkew
from .._simulate.api import simulate
from .._util import checks
from .._util.types import Array, Float
from ..losses import frequency_loss
from ..solvers import RK4
from .arguments import Draft, checked_draft, checked_modes, checked_targets
from .closed_orbits import on_modes
from .ensembles import PER_PERIOD, for_targets
from .fit import fit
from .frequency_report import FrequencyReport, measure
from .oscillator import Oscillator, for_form

# All is done in units of the target's period, where one loss serves all targets, and with the
# pre-activations z = A x, in which both forms are z' = A σ(z).
_PERIODS = 12
_OPTIMIZER = optax.adam(0.01)
_AT_ONCE = 1024
_ORBITS_AT_ONCE = 64
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
    mode: int | Sequence[int] | None = None,
    energy: Any = None,
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

    With `mode` the orbit is one of that nonlinear mode at a given energy, as `nonlinear_modes`
    follows it from random weights, and stages 2 and 3 are Newton's method on the equations
    T(weights) = 1/f*, and |μ| = 1 for the largest Floquet multiplier of an orbit that is unstable,
    by their derivatives (implicit function theorem). Of several modes all orbits are of one
    network, which plays another of the frequencies from each of several states: notes of a chord,
    each without lines but its harmonics.

    Args:
        target_hz: f* in Hz, one number or (K,).
        neurons: n >= 2.
        activation: an odd one with a positive slope at 0.
        form: "rate" or "current".
        amplitude: root mean square of the output, one number or (K,).
        scale: root mean square of the pre-activations at the start: small is nearly linear.
        steps: of Adam, 0 leaves out stage 2; with `mode` the most of Newton's method, which ends
            where all is met, or nothing gets better.
        key: of weights, states and read-outs; `jax.random.key(0)` unless given.
        dtype: of the oscillators; JAX's default unless given.
        progress: whether to show a progress bar of stage 2.
        mode: which nonlinear mode: an index below neurons // 2, ascending by frequency; or K
            ascending indices for K ascending targets, of one network.
        energy: with `mode` that of the orbits, Σ Φ(z_i), one number > 0 or (K,); unless given
            neurons scale²/2, that of small oscillations of this scale.

    Returns:
        The oscillator, or for targets (K,) an ensemble with that leading axis (with several modes
        all of its weights are equal), and a `FrequencyReport`, measured anew with another
        integrator; with `mode` an `OrbitReport`, with residuals and multipliers, too.

    Raises:
        TypeError, ValueError: for a wrong kind, shape or value of an argument.

    Source:
        Closed orbits near the modes of small oscillations: Lyapunov's centre theorem.

    Example:
        >>> oscillator, report = ct.fit_frequency(3.2, neurons=8, key=jax.random.key(0))
        >>> y = oscillator.generate(0.01, 1000)
        >>> oscillator, report = ct.fit_frequency(3.2, neurons=12, mode=4, energy=1.5)
        >>> report.frequency, report.residual, report.stable
        >>> notes, report = ct.fit_frequency([261.6, 329.6, 392.0], mode=(0, 1, 3), energy=0.1)
        >>> jax.vmap(lambda note: note.generate(1e-4, 10_000))(notes).sum(axis=0)  # the chord
    """
    draft = checked_draft(neurons, activation, form, key, dtype)
    target, sizes = checked_targets(target_hz, amplitude, draft.dtype, (0, 1))
    scale = checks.positive_float("scale", scale)
    steps = checks.integer("steps", steps, 0)
    checks.flag("progress", progress)
    if mode is not None:
        return _on_modes(draft, target, sizes, mode, energy, scale, steps, progress)
    if energy is not None:
        checks.fail("energy", "none without mode", energy)

    def make(keys: Array, targets: Array, sizes: Array) -> tuple[Oscillator, FrequencyReport]:
        units = _random(keys, draft.activation, draft.neurons, scale, draft.dtype)
        units, losses = _descended(units, steps, progress)
        oscillators, closed = _tuned(units, targets, sizes, draft.form)
        report = measure(oscillators, targets[:, None], closed, losses)
        one_line = ("target_hz", "frequency", "error", "share")
        return oscillators, dataclasses.replace(
            report, **{name: getattr(report, name)[:, 0] for name in one_line}
        )

    targets = jnp.atleast_1d(target)
    return for_targets(make, _AT_ONCE, draft.key, targets, sizes, alone=target.ndim == 0)


def _on_modes(
    draft: Draft, target: Array, sizes: Array, mode: Any, energy: Any, scale: float, steps: int,
    progress: bool,
) -> tuple[Oscillator, FrequencyReport]:  # fmt: skip
    """`fit_frequency` with modes: K networks with an orbit each, or one with K."""
    modes = checked_modes(mode, draft.neurons, target)
    energy = draft.neurons * scale**2 / 2 if energy is None else energy
    energies = checks.positive_array("energy", energy, draft.dtype, (0, 1))
    if energies.ndim and energies.shape != target.shape:
        checks.fail(
            "energy", f"a scalar or shape {target.shape}, one of each orbit", energies.shape
        )
    one_network = isinstance(mode, Sequence)
    rows = [
        jnp.broadcast_to(array, target.shape).reshape((1, -1) if one_network else (-1, 1))
        for array in (target, energies, sizes.reshape(target.shape))
    ]

    def make(keys: Array, targets: Array, energies: Array, sizes: Array):
        return on_modes(keys, targets, energies, sizes, draft, modes, steps, progress)

    return for_targets(make, _ORBITS_AT_ONCE, draft.key, *rows, alone=target.ndim == 0)


def _descended(units: Oscillator, steps: int, progress: bool) -> tuple[Oscillator, Array]:
    """The units after stage 2, and their losses (members, steps)."""
    members, dtype = len(units.x0), units.x0.dtype
    if not steps:
        return units, jnp.zeros((members, 0), dtype)
    units, history = fit(
        units,
        _distance_from_1,
        steps=steps,
        optimizer=_OPTIMIZER,
        ensemble=True,
        progress=progress,
    )
    # As many in every group, whenever it stopped.
    losses = np.full((members, steps), np.nan)
    losses[:, : len(history.losses)] = history.losses.T
    return units, jnp.asarray(losses, dtype)


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
    dt = 1 / PER_PERIOD
    y = unit.generate(dt, PER_PERIOD * _PERIODS, solver=RK4())
    return frequency_loss(y[:, 0], dt, 1.0)


@eqx.filter_jit
def _tuned(units: Oscillator, targets: Array, sizes: Array, form: str):
    """Oscillators at their targets (stage 3), and whether their orbits are closed."""

    def one(unit, target, size):
        z, T, closed = _closed_orbit(unit)
        unit = dataclasses.replace(unit, x0=z)
        y = unit.generate(T / 128, 128, solver=diffrax.Tsit5())[:, 0]
        readout = unit.readout * (size / jnp.std(y[:-1]))
        return for_form(unit.rnn, z, readout, T * target, form), closed

    return eqx.filter_vmap(one)(units, targets, sizes)


def _closed_orbit(unit: Oscillator) -> tuple[Array, Array, Array]:
    """A state on a closed orbit near the unit's, its period, and whether there is one.

    Newton's method on φ_T(z) - z by z and T together, each step the smallest that solves the
    linear equation: along the orbit and across its family nothing is determined.
    """
    z0, eps = unit.x0, float(jnp.finfo(unit.x0.dtype).eps)
    size = jnp.linalg.norm(z0)
    y = unit.generate(1 / PER_PERIOD, 48 * PER_PERIOD, solver=RK4())[:, 0]
    line = dominant_frequency(y, 1 / PER_PERIOD)
    T0 = 1 / jnp.where(jnp.isfinite(line), line, 1)

    def gap(unknown):  # and again, for jacfwd to return it beside the slope
        z, T = unknown[:-1] * size, unknown[-1]
        trajectory = simulate(
            unit.rnn,
            z,
            dt=T / _NEWTON_STEPS,
            num_steps=_NEWTON_STEPS,
            save_every=_NEWTON_STEPS,
            solver=diffrax.Tsit5(),
        )
        assert trajectory.xs is not None
        missing = (trajectory.xs[-1] - z) / size
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
