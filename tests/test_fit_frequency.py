"""Oscillators of given frequencies, measured by SciPy on the equations written anew."""

import re
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import X64
from scipy.integrate import solve_ivp
from systems import DTYPE, equation

import ctrnn_jax as ct

KEY = jax.random.key(3)
# Log-uniform over the range that is promised; those of one call share a compilation.
TARGETS = np.exp(np.random.default_rng(1).uniform(np.log(0.1), np.log(50), 6))


def member(ensemble, i):
    return jax.tree.map(lambda leaf: leaf[i], ensemble)


def output(oscillator, span, samples):
    """The first channel by DOP853 in float64, at `samples` times."""
    x0 = np.asarray(oscillator.x0, float)
    t = np.linspace(0, span, samples)
    # Weights of the rate form are large where frequencies are, and states small.
    atol = 1e-11 * np.max(np.abs(x0))
    x = solve_ivp(
        equation(oscillator.rnn), (0, span), x0, "DOP853", t, rtol=1e-10, atol=atol,
        max_step=span / 2000,
    )  # fmt: skip
    return t, np.asarray(oscillator.readout, float)[0] @ x.y


def passages(t, y):
    """Frequency from the upward passages of 0, located by straight lines."""
    up = np.flatnonzero((y[:-1] < 0) & (y[1:] >= 0))
    when = t[up] - y[up] * (t[up + 1] - t[up]) / (y[up + 1] - y[up])
    return (len(when) - 1) / (when[-1] - when[0])


@pytest.mark.parametrize(
    ("neurons", "activation", "form", "tolerance"),
    [
        (2, ct.Tanh(), "rate", 1e-6),
        pytest.param(7, ct.Arctan(), "current", 1e-5, marks=pytest.mark.slow),
        pytest.param(5, ct.HardTanh(), "rate", 1e-4, marks=pytest.mark.slow),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, ct.Tanh | ct.HardTanh) else str(v),
)
@pytest.mark.long
@pytest.mark.sampled(3)
def test_targets_are_reached(neurons, activation, form, tolerance):
    ensemble, report = ct.fit_frequency(
        TARGETS, neurons=neurons, activation=activation, form=form, amplitude=2.0, steps=10, key=KEY
    )
    assert ensemble.x0.shape == (6, neurons) and report.frequency.shape == (6,)
    assert bool(jnp.all(report.reached())) and bool(jnp.all(report.share > 0.95))
    np.testing.assert_allclose(report.amplitude, 2, rtol=0.01)
    if not X64:
        tolerance = 1e-3
    for i in (0, 5):
        f = TARGETS[i]
        t, y = output(member(ensemble, i), 40 / f, 40_001)
        assert abs(passages(t, y) / f - 1) < tolerance


@pytest.mark.rare
def test_one_target_gives_one_oscillator(tmp_path):
    oscillator, report = ct.fit_frequency(3.2, key=KEY, steps=5)
    assert oscillator.x0.shape == (8,) and report.frequency.shape == ()
    y = oscillator.generate(0.05, 4000)[:, 0]  # steps are divided: 6 samples in a period
    assert abs(float(ct.dominant_frequency(y, 0.05)) / 3.2 - 1) < 1e-4
    assert report.losses.shape == (5,) and float(report.losses[-1]) < float(report.losses[0])
    assert "3.2 Hz" in str(report) and "closed orbits: 100%" in str(report)
    ct.save(tmp_path / "o", {"oscillator": oscillator, "report": report})
    back = ct.load(tmp_path / "o")["oscillator"]
    assert back.max_step == oscillator.max_step
    again, _ = ct.fit_frequency(3.2, key=KEY, steps=5)
    assert np.array_equal(again.x0, oscillator.x0)
    assert oscillator.x0.dtype == DTYPE


@pytest.mark.parametrize("form", ["rate", "current"])
@pytest.mark.rare
def test_chords(form):
    chords = np.array([[2.0, 3.1, 5.3], [261.6, 329.6, 392.0]])
    powers = np.array([[1.0, 1.0, 1.0], [4.0, 2.0, 1.0]])
    ensemble, report = ct.fit_spectrum(chords, powers, neurons=9, form=form, amplitude=0.5, key=KEY)
    assert bool(jnp.all(report.reached(1e-4)))
    np.testing.assert_allclose(report.share * 7, [[7 / 3] * 3, [4, 2, 1]], rtol=0.03)
    np.testing.assert_allclose(report.amplitude, 0.5, rtol=0.02)
    t, y = output(member(ensemble, 0), 60, 6001)
    found = ct.harmonic_regression(y, t[1], 3)
    np.testing.assert_allclose(np.sort(found.frequencies), chords[0], rtol=1e-4)
    one, report = ct.fit_spectrum(chords[1], key=KEY)
    assert one.x0.shape == (12,) and report.error.shape == (3,) and report.reached().shape == ()


@pytest.mark.skipif(not X64, reason="in float32 lines so close are a few roundings apart")
@pytest.mark.rare
def test_close_lines_are_told_apart_in_any_order_and_unit():
    chords = np.array([[3, 3.0006, 5], [5, 3, 3.003], [0.002, 3.1, 3]])
    for unit in (1e-6, 1e3):
        _, report = ct.fit_spectrum(unit * chords, neurons=8, key=KEY)
        apart = np.diff(np.sort(chords, axis=1), axis=1).min(axis=1)
        missed = np.abs(report.frequency / unit - chords).max(axis=1) / apart
        assert np.all(missed < 0.1) and bool(jnp.all(report.reached()))


@pytest.mark.long
def test_a_tolerance_is_part_of_the_distance_of_lines():
    _, report = ct.fit_spectrum(np.array([3.0, 3.03, 5.0]), neurons=6, key=KEY)
    wrong = jnp.asarray([2.996, 3.03, 5.0], report.frequency.dtype)
    error = jnp.zeros(3, wrong.dtype)  # however small a part of the target
    off = eqx.tree_at(lambda r: (r.frequency, r.error), report, (wrong, error))
    assert bool(report.reached()) and not bool(off.reached()) and "NOT REACHED" not in str(report)
    far = jnp.asarray([2.99, 3.04, 5.0], wrong.dtype)
    far = eqx.tree_at(lambda r: (r.frequency, r.error), report, (far, abs(far / 3 - 1)))
    assert "NOT REACHED" in str(far) and "0.33 of the distance" in str(far)


def after_a_period(oscillator, f):
    """By DOP853 after 1/f: what is missing, as a share of the state, and how late it is, of 1/f."""
    field, x0 = equation(oscillator.rnn), np.asarray(oscillator.x0, float)
    tolerances = {"rtol": 1e-13, "atol": 1e-15 * np.max(np.abs(x0))}
    end = solve_ivp(field, (0, 1 / f), x0, "DOP853", **tolerances).y[:, -1]
    flow = field(0, x0)
    missing = end - x0
    return np.abs(missing).max() / np.abs(x0).max(), abs(missing @ flow / (flow @ flow)) * f


@pytest.mark.parametrize(
    ("neurons", "mode", "form", "activation"),
    [
        (3, 0, "rate", ct.Tanh()),
        pytest.param(4, 1, "current", ct.Arctan(), marks=pytest.mark.long),
        pytest.param(4, 0, "rate", ct.HardTanh(), marks=pytest.mark.long),
        pytest.param(8, 2, "rate", ct.Tanh(), marks=pytest.mark.long),
        pytest.param(20, 6, "current", ct.Tanh(), marks=pytest.mark.rare),
        pytest.param(20, 9, "rate", ct.Tanh(), marks=pytest.mark.rare),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, eqx.Module) else str(v),
)
@pytest.mark.sampled(6)
@pytest.mark.long
def test_an_orbit_of_a_mode(neurons, mode, form, activation):
    # Very slow and very fast: no result depends on the unit of time.
    targets, energies = np.array([1e-3, 1e4]), np.array([0.02, 0.2]) * neurons
    ensemble, report = ct.fit_frequency(
        targets, neurons=neurons, mode=mode, energy=energies, form=form, activation=activation,
        amplitude=3.0, key=KEY,
    )  # fmt: skip
    assert ensemble.x0.shape == (2, neurons) == report.multipliers.shape
    bound = 1e-9 if X64 else 1e-3
    assert report.error.max() < bound and report.residual.max() < bound
    assert bool(report.closed.all()) and bool(report.reached().all())
    np.testing.assert_allclose(report.amplitude, 3, rtol=1e-6)
    for i, f in enumerate(targets):
        oscillator = member(ensemble, i)
        assert max(after_a_period(oscillator, f)) < bound
        _, y = output(oscillator, 1 / f, 1001)
        np.testing.assert_allclose(y[1:].std(), 3, rtol=0.02)
        np.testing.assert_allclose(
            ct.energy(oscillator.rnn, oscillator.x0), energies[i], rtol=1e-9 if X64 else 1e-3
        )
        # The index of the mode is that of its frequency at rest, which saturation lowers; at the
        # lower energy nothing of HardTanh saturates.
        omega = ct.natural_frequencies(oscillator.rnn)
        linear = isinstance(activation, ct.HardTanh) and i == 0
        assert abs(omega[mode] / f - 1) < bound if linear else omega[mode] > f
        assert bool(report.stable[i]) == bool(
            jnp.abs(report.multipliers[i]).max() < 1 + float(jnp.finfo(DTYPE).eps) ** 0.3
        )


@pytest.mark.skipif(not X64, reason="a random network of another dtype is another one")
@pytest.mark.long
@pytest.mark.rare
def test_an_unstable_orbit_is_made_stable(tmp_path):
    options = {"mode": 1, "energy": 6.0, "form": "current"}
    _, before = ct.fit_frequency(440.0, steps=0, **options)
    assert float(before.error) < 1e-9 and not bool(before.stable)
    assert "UNSTABLE with multipliers up to 1.9" in str(before)
    oscillator, report = ct.fit_frequency(440.0, **options)
    assert float(report.error) < 1e-9 and bool(report.stable)
    assert max(after_a_period(oscillator, 440.0)) < 1e-9
    again = ct.floquet_multipliers(oscillator.rnn, oscillator.x0, 1 / 440.0)
    np.testing.assert_allclose(np.abs(again), np.ones(8), atol=1e-6)
    assert "stable, multipliers on the unit circle" in str(report)
    ct.save(tmp_path / "r", report)
    assert np.array_equal(ct.load(tmp_path / "r").multipliers, report.multipliers)


@pytest.mark.rare
def test_a_chord_of_modes_is_one_network():
    chord, energies = np.array([261.6, 329.6, 392.0]), np.array([0.1, 0.3, 0.2])
    notes, report = ct.fit_frequency(chord, mode=(0, 1, 3), energy=energies, key=KEY)
    W, A = notes.rnn.weights.W, np.asarray(member(notes, 0).rnn.weights.as_matrix())
    assert np.array_equal(W[0], W[1]) and np.array_equal(W[0], W[2])
    bound = 1e-9 if X64 else 1e-3
    assert report.error.max() < bound and bool(report.stable.all()) and bool(report.closed.all())
    for i, f in enumerate(chord):
        assert max(after_a_period(member(notes, i), f)) < bound
    levels = np.logaddexp(z := A @ np.asarray(notes.x0).T, -z).sum(axis=0) - 8 * np.log(2)
    np.testing.assert_allclose(levels, energies, rtol=1e-9 if X64 else 1e-3)
    assert "all stable" in str(report)


FIT, CHORD = partial(ct.fit_frequency, steps=0), ct.fit_spectrum
BAD = [
    (FIT, (0.0,), {}, "target_hz: expected finite numbers > 0, got 0.0"),
    (FIT, ("3",), {}, "target_hz: expected finite numbers > 0, got '3'"),
    (FIT, (np.ones((2, 2)),), {}, "target_hz: expected finite numbers > 0 in 0 or 1 dimension(s)"),
    (FIT, (np.zeros(0),), {}, "target_hz: expected at least one frequency, got shape (0,)"),
    (FIT, (1.0,), {"neurons": 1}, "neurons: expected an integer >= 2, got 1"),
    (FIT, (1.0,), {"activation": ct.ReLU()}, "activation: expected an odd one that rises at 0"),
    (FIT, (1.0,), {"form": "x"}, "form: expected one of 'rate', 'current', got 'x'"),
    (FIT, (1.0,), {"amplitude": np.ones(2)}, "amplitude: expected a scalar or shape ()"),
    (FIT, (1.0,), {"scale": -1.0}, "scale: expected a finite number > 0, got -1.0"),
    (FIT, (1.0,), {"key": 3}, "key: expected a PRNG key"),
    (FIT, (np.nan,), {}, "target_hz: expected finite numbers > 0, got nan"),
    (FIT, (1.0,), {"dtype": "int32"}, "dtype: expected a floating-point dtype, got int32"),
    (FIT, (1.0,), {"energy": 1.0}, "energy: expected none without mode, got 1.0"),
    (FIT, (1.0,), {"mode": 4}, "mode: expected below the number of modes, 4, got 4"),
    (FIT, (1.0,), {"mode": -1}, "mode: expected an integer >= 0, got -1"),
    (FIT, (1.0,), {"mode": (0, 1)}, "target_hz: expected shape (2,), one for each mode, got ()"),
    (FIT, ([2.0, 1.0],), {"mode": (0, 1)}, "target_hz: expected ascending values"),
    (FIT, ([1.0, 2.0],), {"mode": (1, 0)}, "mode: expected ascending values"),
    (FIT, (1.0,), {"mode": 0, "energy": 0.0}, "energy: expected finite numbers > 0, got 0.0"),
    (FIT, (1.0,), {"mode": 0, "energy": np.ones(2)}, "energy: expected a scalar or shape ()"),
    (CHORD, (1.0,), {}, "target_hz: expected finite numbers > 0 in 1 or 2 dimension(s)"),
    (CHORD, (np.ones(2),), {}, "target_hz: expected lines 0.0001 of the highest apart"),
    (CHORD, (np.arange(1.0, 8),), {}, "target_hz: expected at most neurons // 2 = 6 lines, got 7"),
    (CHORD, (np.array([1.0, 2]), np.ones(3)), {}, "target_power: expected shape (2,)"),
]


@pytest.mark.parametrize(("call", "arguments", "options", "message"), BAD)
def test_bad_calls(call, arguments, options, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        call(*arguments, **options)
