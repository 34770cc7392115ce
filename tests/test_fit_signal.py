"""Oscillators that go on with a signal: sums of sinusoids, and what is none."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import X64
from jax.flatten_util import ravel_pytree

import ctrnn_jax as ct
from ctrnn_jax._analysis.samples import recorded
from ctrnn_jax._train import waveform
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


def _uneven(kind, size, seed=0):
    """Samples' times and which of a grid there are, or random times."""
    rng = np.random.default_rng(seed)
    if kind == "random":
        return np.append(0, np.sort(rng.uniform(0, size * DT, size - 1))), None
    kept = np.append(0, np.sort(rng.permutation(np.arange(1, size))[: size * 7 // 10]))
    return DT * kept, kept


@pytest.mark.parametrize("kind", ["nan", "random"])
@pytest.mark.sampled(2)
@pytest.mark.long
def test_uneven_samples_of_sinusoids_are_gone_on_with(kind):
    size, f = 300, np.array([2.1, 5.3])
    t, kept = _uneven(kind, size)
    clean = lambda t: np.stack([sinusoids(t, f, [1, 0.5], [0.3, 2]), 5 - np.sin(21 * t)], 1)  # noqa: E731
    y = clean(t)
    y[20:60, 1] = np.nan  # one channel only
    told = {"times": 7 + t}
    if kind == "nan":
        y, told = np.full((size, 2), np.nan), {"dt": DT}
        y[kept] = clean(t)
        y[20:60, 1] = np.nan
    oscillator, report = ct.fit_signal(y, neurons=6, steps=0, **told)
    assert report.training_samples + report.held_out_samples == len(t)
    grid = DT * np.arange(2 * size)
    generated = np.asarray(oscillator.generate(DT, 2 * size - 1))
    np.testing.assert_allclose(generated, clean(grid), atol=1e-5 if X64 else 0.1)
    tolerance = 1e-5 if X64 else 0.02
    for error in (report.nrmse, report.held_out_nrmse, report.harmonic_held_out_nrmse):
        assert np.all(np.asarray(error) < tolerance), error
    # On a grid that lines fill it foresees them too, then between the points of the grid.
    assert np.all(np.asarray(report.autoregression_held_out_nrmse) < 0.05)
    at = jnp.asarray(t, oscillator.x0.dtype)
    there = oscillator.generate(DT, save_at=at)
    np.testing.assert_allclose(there, clean(t), atol=1e-5 if X64 else 0.1)


@pytest.mark.long
def test_a_channel_may_begin_late_or_end_early():
    t = DT * np.arange(400)
    clean = np.stack([np.sin(9 * t), 2 + np.cos(9 * t), np.sin(9 * t + 1)], axis=1)
    y = clean.copy()
    y[:250, 1] = y[300:, 2] = y[:10] = np.nan
    oscillator, report = ct.fit_signal(y, DT, neurons=4, steps=0)
    tolerance = 1e-5 if X64 else 0.05
    np.testing.assert_allclose(oscillator.generate(DT, 399), clean, atol=tolerance)
    assert np.all(np.asarray(report.held_out_nrmse)[:2] < tolerance)
    assert np.isnan(report.held_out_nrmse[2]) and "worse" not in report.verdict


@pytest.mark.skipif(not X64, reason="finite differences")
@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", ["nan", "late", "random"])
@pytest.mark.by_default(1)
def test_the_waveform_is_compared_where_there_are_samples(kind, key):
    """Error and gradient of the steps from sample to sample, by whole runs and differences."""
    t, kept = _uneven(kind, 40)
    y = np.stack([np.sin(9 * t), np.cos(4 * t)], 1)
    y[3:9, 0] = np.nan
    told = {"times": t}
    if kind != "random":
        y, told = np.full((40, 2), np.nan), {"dt": DT}
        y[kept, 0], y[kept[4:], 1] = np.sin(9 * DT * kept), np.cos(4 * DT * kept[4:])
    if kind == "late":  # nothing is known where the motion begins
        y[:5] = np.nan
    record = recorded("signal", y, told.get("dt"), told.get("times"))
    motion = waveform.Motion(ct.Tanh(), 4, jnp.asarray(0.15), 2, record.length - 1)
    keys = jax.random.split(key, 4)
    shapes = (6,), (4,), (2, 4), (2,)
    unknowns = waveform.Unknowns(
        *(0.7 * jax.random.normal(k, shape) for k, shape in zip(keys, shapes, strict=True))
    )
    used = len(record.y) - 5
    given = waveform.steps_between(record)
    values, unflatten = ravel_pytree(unknowns)
    pieces = (waveform.in_pieces(a, 4, values.size, values.dtype) for a in (given.y, given.shares))
    count = jnp.asarray(given.points[used - 1], jnp.int32)
    error, slope, _ = waveform._normal(unknowns, motion, *pieces, count)

    def mean_square(values):
        made = waveform.outputs(unflatten(values), motion, record)
        return np.nanmean(((made - record.y)[:used]) ** 2)

    np.testing.assert_allclose(error, mean_square(values), rtol=1e-6)
    for k in (0, 7, 12, 19):
        moved = [mean_square(values.at[k].add(h)) for h in (1e-4, -1e-4)]
        np.testing.assert_allclose(2 * slope[k], (moved[0] - moved[1]) / 2e-4, rtol=1e-5, atol=1e-7)


@pytest.mark.long
@pytest.mark.skipif(not X64, reason="in float32 rounding may decide which candidate is better")
def test_even_times_are_an_interval():
    t = DT * np.arange(200)
    y = 2 * ((t * 1.7) % 1) - 1
    options = {"neurons": 4, "steps": 4}
    (one, report), (other, again) = (
        ct.fit_signal(y, DT, **options),
        ct.fit_signal(1e-6 * y, times=50 + t, **options),
    )
    assert report.kind == again.kind
    made = (np.asarray(o.generate(DT, 400)) for o in (one, other))
    np.testing.assert_allclose(next(made), 1e6 * next(made), atol=1e-5)
    np.testing.assert_allclose(report.held_out_nrmse, again.held_out_nrmse, rtol=1e-5)


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
        ((4.6e-8, 3.3e-8, 1.0, 1.0), "as far as rounding allows (4.6e-08), as well as h", "(1)."),
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
    ((GOOD,), {}, "dt: expected either dt or times, got neither"),
    ((GOOD, DT), {"times": DT * np.arange(100)}, "dt: expected either dt or times, got both"),
    ((GOOD,), {"times": np.arange(99)}, "times: expected shape (100,), one for each sample, got"),
    ((GOOD,), {"times": np.arange(100) // 2}, "times: expected increasing times, got 0 after 0"),
    ((GOOD,), {"times": np.append(np.arange(99), 1e9)}, "times: expected at most 1000 intervals"),
    ((np.full(100, np.nan), DT), {}, "signal: expected samples, got none that is not missing"),
    ((np.where(np.arange(100) % 4, np.nan, GOOD), DT), {}, "samples that are not missing, got 25"),
    (
        (np.where(np.arange(100) < 70, np.nan, 1.0)[:, None] * [[1.0, 0.0]] + GOOD[:, None], DT),
        {},
        "samples that are not missing, got 30",
    ),
    (
        (np.where(np.arange(100) == 5, np.nan, GOOD), DT),
        {"inputs": GOOD},
        "inputs: expected none w",
    ),
    ((GOOD,), {"times": np.arange(100) ** 1.1, "inputs": GOOD}, "inputs: expected none where samp"),
    ((np.where(np.arange(100) < 60, np.nan, GOOD), DT), {"hold_out": 0.5}, "24 samples left to"),
    ((GOOD, DT), {"hold_out": 1.0}, "hold_out: expected a share from 0 to 0.9, got 1.0"),
    ((GOOD, DT), {"neurons": 1}, "neurons: expected an integer >= 2, got 1"),
    ((GOOD, DT), {"activation": ct.Sigmoid()}, "activation: expected an odd one that rises at 0"),
    ((GOOD, DT), {"steps": -1}, "steps: expected an integer >= 0, got -1"),
]


@pytest.mark.parametrize(("arguments", "options", "message"), BAD)
def test_bad_calls(arguments, options, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        ct.fit_signal(*arguments, **options)
