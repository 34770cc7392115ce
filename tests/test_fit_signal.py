"""Oscillators that go on with a signal: sums of sinusoids, and what is none."""

import re

import numpy as np
import pytest
from conftest import X64

import ctrnn_jax as ct
from ctrnn_jax._train.signal_report import verdict_on

RNG = np.random.default_rng(5)
DT = 0.01


def sinusoids(t, f, amplitude, phase):
    return np.sin(2 * np.pi * np.outer(t, f) + phase) @ amplitude


@pytest.mark.parametrize(("form", "lines"), [("rate", 8), ("current", 3)])
@pytest.mark.long
def test_sums_of_sinusoids_go_on_far_beyond_the_samples(form, lines):
    size = 2000
    f = np.sort(np.exp(RNG.uniform(np.log(0.1), np.log(35), lines)))
    t = DT * np.arange((11 if X64 else 2) * size)
    y = sinusoids(t, f, RNG.uniform(0.3, 1, lines), RNG.uniform(0, 6.28, lines)) + 3
    oscillator, report = ct.fit_signal(y[:size], DT, neurons=16, form=form)
    assert report.kind == "lines" and (report.training_samples, report.held_out_samples) == (
        1600,
        400,
    )
    assert float(report.held_out_nrmse[0]) < (1e-4 if X64 else 0.1)
    assert 0.9 < float(report.extrapolated_amplitude[0]) < 1.1
    generated = np.asarray(oscillator.generate(DT, len(t) - 1))[:, 0]
    error = np.sqrt(np.mean((generated - y)[size:] ** 2)) / np.std(y[:size])
    assert error < (1e-4 if X64 else 0.2)
    # The network's own equation, not one way of integrating it.
    fine = np.asarray(oscillator.generate(DT / 20, 20 * 200, save_every=20, solver=ct.RK4()))
    np.testing.assert_allclose(fine[:, 0], generated[:201], atol=1e-4 if X64 else 0.05)


@pytest.mark.long
def test_channels_share_a_network(tmp_path):
    t = DT * np.arange(300)
    y = np.stack([np.sin(9 * t), 1e3 + 50 * np.cos(9 * t) * np.sin(2 * t), 0 * t], axis=1)
    oscillator, report = ct.fit_signal(y, DT, neurons=6, hold_out=0.0, steps=0)
    assert oscillator.readout.shape == (3, 6) and np.all(np.isnan(report.held_out_nrmse))
    generated = np.asarray(oscillator.generate(DT, 299))
    np.testing.assert_allclose((generated - y) / [1, 50, 1], 0, atol=1e-4 if X64 else 2e-2)
    assert "No samples were held out" in str(report)
    ct.save(tmp_path / "o", {"oscillator": oscillator, "report": report})
    assert ct.load(tmp_path / "o")["report"].verdict == report.verdict


@pytest.mark.slow
@pytest.mark.skipif(not X64, reason="in float32 rounding may decide which candidate is better")
def test_a_sawtooth_is_learnt_beyond_its_lines():
    t = DT * np.arange(250)
    y = 2 * ((t * 1.7) % 1) - 1
    _, nearly_linear = ct.fit_signal(y, DT, neurons=6, steps=0)
    oscillator, report = ct.fit_signal(y, DT, neurons=6)
    assert report.kind == "nonlinear" and set(report.validation_nrmse) == {"lines", "nonlinear"}
    assert float(report.held_out_nrmse[0]) < 0.9 * float(nearly_linear.held_out_nrmse[0])
    assert np.all(np.diff(report.losses[-5:]) <= 0)
    assert report.harmonic_lines > 3
    # Beyond its samples it may be chaotic: bounded for ever, but the report tells how large.
    far = np.asarray(oscillator.generate(DT, 11 * 250 - 1))[250:]
    amplitude = float(report.extrapolated_amplitude[0])
    np.testing.assert_allclose(amplitude, np.std(far) / np.std(y[:200]), rtol=1e-6)
    xs = ct.simulate(oscillator.rnn, oscillator.x0, dt=DT / 4, num_steps=80_000, save_every=100).xs
    assert np.max(np.abs(xs @ oscillator.readout[0])) < 10


@pytest.mark.parametrize(
    ("after", "error", "mean_is_better"), [(1.0, 0.0, False), (-1.0, 2.0, True), (3.0, 2.0, False)]
)
def test_what_cannot_be_foreseen_is_said_so(after, error, mean_is_better):
    t = DT * np.arange(500)
    y = np.sin(2 * np.pi * 1.25 * t) * np.where(
        t < 4, 1.0, after
    )  # five periods, then one and more
    _, report = ct.fit_signal(y, DT, neurons=2, steps=0)
    assert abs(float(report.held_out_nrmse[0]) - error) < 0.05
    assert ("than their mean (" in report.verdict) == mean_is_better
    assert ("worse than their mean" in report.verdict[:70]) == mean_is_better


@pytest.mark.parametrize(
    ("errors", "start", "end"),
    [
        ((0.35, 0.40, 0.50, 1.0), "better than harmonic regression (0.4) and auto", "(0.5)."),
        ((0.35, 0.351, 0.30, 1.0), "worse than autoregression (0.3), as well as", "(0.351)."),
        ((0.908493, 0.908494, 2.0, 1.0), "as well as harmonic", "better than autoregression (2)."),
        ((4.6e-8, 3.3e-8, 1.0, 1.0), "to rounding (4.6e-08), as well as harmonic", "(1)."),
        ((1.2, 1.3, 1.4, 1.0), "worse than their mean (1)", "phase."),
        ((1.2, 0.9, 1.4, 1.0), "worse than their mean (1)", "(0.9) would do better."),
        ((1.005, 1.3, np.inf, 1.0), "no better than their mean (1)", "phase."),
    ],
)  # fmt: skip
def test_a_verdict_opens_with_what_matters_most(errors, start, end):
    ours, *others = errors
    names = "harmonic regression", "autoregression", "their mean"
    verdict = verdict_on(ours, dict(zip(names, others, strict=True)), 2.2e-16)
    opening = "Foresees the held-out samples "
    assert verdict.startswith((opening + start, f"{opening}({ours:.3g}) {start}"))
    assert verdict.endswith(end)


@pytest.mark.long
def test_of_noise_the_best_number_of_lines_is_compared_and_nothing_is_trained():
    t = DT * np.arange(300)
    y = np.sin(2 * np.pi * 2.3 * t) + 0.4 * RNG.normal(size=300)
    _, report = ct.fit_signal(1e30 * y, DT, neurons=4)
    assert report.kind == "lines" and report.harmonic_lines <= 2 and report.losses.size == 0
    assert "as well as harmonic regression" in report.verdict
    errors = report.held_out_nrmse, report.harmonic_held_out_nrmse
    np.testing.assert_allclose(*errors, rtol=0.01 if X64 else 1)


GOOD = np.sin(np.arange(100.0))
BAD = [
    ((GOOD[:20], DT), {}, "signal: expected at least 32 samples"),
    ((np.append(GOOD, np.inf), DT), {}, "signal: expected finite values, got 1 non-finite of 101"),
    ((np.ones(100), DT), {}, "signal: expected samples that vary, got constant ones"),
    ((np.arange(100), DT), {}, "signal: expected a floating-point array"),
    ((GOOD, 0.0), {}, "dt: expected a finite number > 0, got 0.0"),
    ((GOOD, DT), {"hold_out": 1.0}, "hold_out: expected a share from 0 to 0.9, got 1.0"),
    ((GOOD, DT), {"neurons": 1}, "neurons: expected an integer >= 2, got 1"),
    ((GOOD, DT), {"activation": ct.Sigmoid()}, "activation: expected an odd one that rises at 0"),
    ((GOOD, DT), {"steps": -1}, "steps: expected an integer >= 0, got -1"),
]


@pytest.mark.parametrize(("arguments", "options", "message"), BAD)
def test_bad_calls(arguments, options, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        ct.fit_signal(*arguments, **options)
