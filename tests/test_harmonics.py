"""Harmonic regression and autoregression against sums of sinusoids known exactly."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctrnn_jax._analysis.autoregression import autoregression
from ctrnn_jax._analysis.harmonics import harmonic_regression

DT, S = 0.01, 2000
T = S * DT


def tones(f, amplitude, phase, t):
    return np.cos(2 * np.pi * np.outer(t, f) + phase) @ amplitude


def random_tones(seed, lines, gap=1.0):
    """Log-uniform frequencies at least `gap` / T apart, amplitudes, phases."""
    rng = np.random.default_rng(seed)
    f = np.zeros(2)
    while np.min(np.diff(np.sort(f)), initial=np.inf) < gap / T:
        f = np.exp(rng.uniform(np.log(2 / T), np.log(0.4 / DT), lines))
    return f, rng.uniform(0.3, 1, lines), rng.uniform(0, 2 * np.pi, lines)


@pytest.mark.parametrize("lines", range(1, 9))
@pytest.mark.parametrize("seed", range(5))
def test_exact_sinusoids(lines, seed):
    f, a, phase = random_tones([seed, lines], lines)
    t = np.arange(11 * S) * DT
    y = 0.7 + tones(f, a, phase, t)
    fit = harmonic_regression(y[:S], DT, lines)
    order = np.argsort(-a)
    np.testing.assert_allclose(fit.frequencies, f[order], rtol=1e-9)
    np.testing.assert_allclose(fit.cosines[:, 0], (a * np.cos(phase))[order], atol=1e-9)
    np.testing.assert_allclose(fit.sines[:, 0], -(a * np.sin(phase))[order], atol=1e-9)
    np.testing.assert_allclose(fit.offset, [0.7], atol=1e-9)
    error = fit.predict(t[S:]) - y[S:]
    assert error.shape == (10 * S,)
    assert np.std(error) < 1e-6 * np.std(y)
    # More lines than there are, or as many as the signal asks for: the residual is rounding.
    assert harmonic_regression(y[:S], DT, lines + 3).frequencies.size == lines
    assert harmonic_regression(y[:S], DT).frequencies.size == lines


def test_channels_share_frequencies():
    t = np.arange(3 * S) * DT
    y = np.stack([tones([1.3, 4.1], [1, 0.2], 0.3, t), 2 + tones([4.1, 9.7], [0.9, 0.4], 1, t)], 1)
    fit = harmonic_regression(y[:S], DT, 3)
    np.testing.assert_allclose(fit.frequencies, [1.3, 4.1, 9.7], rtol=1e-10)
    np.testing.assert_allclose(fit.predict(t), y, atol=1e-9)
    np.testing.assert_allclose(fit.offset, [0, 2], atol=1e-10)
    assert fit.num_parameters == 3 + 7 * 2
    assert fit.cosines.shape == fit.sines.shape == (3, 2)


@pytest.mark.parametrize(
    "cycles",
    [[40, 41], [40, 40.5, 41.2], [40, 40.2], [0.3], [0.4, 7.3], [999.6, 80], [1000.0]],
    ids=["one", "three", "below one", "trend", "trend and line", "fast", "nyquist"],
)
def test_close_slow_and_fast_lines(cycles):
    f = np.array(cycles) / T
    t = np.arange(2 * S) * DT
    y = tones(f, 1 - 0.2 * np.arange(f.size), 0.5 + np.arange(f.size), t)
    fit = harmonic_regression(y[:S], DT, f.size)
    np.testing.assert_allclose(np.sort(fit.frequencies), np.sort(f), rtol=1e-8)
    np.testing.assert_allclose(fit.predict(t), y, atol=1e-6)


def test_noise_near_the_cramer_rao_bound():
    # var f >= 6 sigma^2 / (pi^2 A^2 dt^2 S (S^2 - 1)) for A cos(2 pi f t + phase) in white noise.
    rng = np.random.default_rng(3)
    sigma, a, size, t = 0.5, np.array([1.0, 0.6]), 500, np.arange(500) * DT
    bound = np.sqrt(6 * sigma**2 / (np.pi**2 * a**2 * DT**2 * size * (size**2 - 1)))
    f = np.array([3.21, 11.87])
    clean = tones(f, a, [0.4, 2.0], t)
    noisy = [clean + sigma * rng.normal(size=size) for _ in range(60)]
    errors = np.array([harmonic_regression(y, DT, 2).frequencies - f for y in noisy])
    ratio = np.sqrt(np.mean(errors**2, axis=0)) / bound
    assert np.all((ratio > 0.7) & (ratio < 1.4)), ratio
    # The criterion finds both, and none in noise alone.
    chosen = [harmonic_regression(y, DT).frequencies.size for y in noisy[:20]]
    assert chosen == [2] * 20
    assert harmonic_regression(noisy[0] - clean, DT).frequencies.size == 0


def test_sawtooth_has_harmonics():
    t = np.arange(S) * DT
    fit = harmonic_regression(2 * np.mod(0.73 * t, 1.0) - 1, DT, 8)
    np.testing.assert_allclose(fit.frequencies, 0.73 * np.arange(1, 9), rtol=1e-3)
    amplitudes = np.hypot(fit.cosines, fit.sines)[:, 0]
    np.testing.assert_allclose(amplitudes, 2 / (np.pi * np.arange(1, 9)), rtol=0.02)


def test_nothing_explodes_in_what_is_no_sum_of_lines():
    y = np.random.default_rng(1).normal(size=(600, 1)).cumsum(axis=0)
    fit = harmonic_regression(y, DT, 20)
    assert 0 < fit.frequencies.size <= 20
    assert np.all(np.diff(np.sort(fit.frequencies)) >= 0.0199 / (600 * DT))
    assert np.all((fit.frequencies > 0) & (fit.frequencies <= 0.5 / DT))
    deviation = np.max(np.abs(y - np.mean(y)))
    assert np.all(np.hypot(fit.cosines, fit.sines) <= 10 * deviation)
    assert fit.predict(np.arange(3) * DT).shape == (3, 1)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e6])
def test_constant_has_no_lines(value):
    for lines in (None, 0, 3):
        fit = harmonic_regression(np.full(50, value), DT, lines)
        assert fit.frequencies.size == 0
        assert fit.num_parameters == 1
        np.testing.assert_allclose(fit.predict(np.arange(5.0)), np.full(5, value), rtol=1e-15)


def test_float32_samples():
    t = np.arange(S) * DT
    y = tones([1.37, 5.2], [1, 0.5], 0.2, t)
    fit = harmonic_regression(jnp.asarray(y, jnp.float32), DT, 2)
    assert fit.frequencies.dtype == np.float64
    np.testing.assert_allclose(fit.frequencies, [1.37, 5.2], rtol=1e-8)


def test_autoregression_forecasts_sinusoids():
    t = np.arange(2 * S) * DT
    y = 3 + np.stack([tones([1.3, 7.1], [1, 0.5], 0.3, t), tones([2.0, 30.0], [1, 1], 1, t)], 1)
    model = autoregression(y[:S], 4)
    assert model.coefficients.shape == (4, 2)
    assert model.num_parameters == 10
    np.testing.assert_allclose(model.forecast(S), y[S:], atol=1e-5)
    one = autoregression(y[:S, 0], 4)
    np.testing.assert_allclose(one.forecast(S), model.forecast(S)[:, 0], atol=1e-6)
    # y_j = 1 + 0.5 y_{j-1}, from its definition.
    decay = autoregression(2 + 0.5 ** np.arange(10.0), 1)
    np.testing.assert_allclose([decay.intercept[0], decay.coefficients[0, 0]], [1, 0.5])


def test_more_lines_describe_a_decay_better():
    t = np.arange(500) * DT
    y = np.exp(-t) * np.sin(2 * np.pi * 3 * t)
    fits = [harmonic_regression(y, DT, lines) for lines in (1, 2, 3, 4)]
    assert [fit.frequencies.size for fit in fits] == [1, 2, 3, 4]
    errors = np.array([np.std(fit.predict(t) - y) for fit in fits]) / np.std(y)
    assert np.all(errors[1:] < 0.7 * errors[:-1])


@settings(derandomize=True, deadline=None, max_examples=12)
@given(
    scale=st.floats(-30, 30),
    offset=st.sampled_from([0.0, 1.0, -1e6]),
    negative=st.booleans(),
    dtype=st.sampled_from([np.float64, np.float32]),
)
def test_no_unit_and_no_offset_counts(scale, offset, negative, dtype):
    rng = np.random.default_rng(4)
    t = np.arange(200) * DT
    y = tones([3.1, 11.3], [1, 0.5], 0.4, t) + 0.1 * rng.normal(size=200)
    y = np.stack([y, y[::-1]], axis=1)
    unit = (-1.0 if negative else 1.0) * 10.0**scale
    # What is rounded away is no longer in the samples.
    bits = np.finfo(dtype).eps * max(abs(offset), 1)
    moved = (unit * (y + offset)).astype(dtype)
    tolerance = max(1e-7, 20 * bits)
    ahead = 2 + t[:20]
    for predict in (
        lambda y: harmonic_regression(y, DT).predict(ahead),
        lambda y: autoregression(y, 6).forecast(20),
    ):
        if bits > 1e-3:  # an offset of 10⁶ leaves float32 four steps in the whole signal
            assert np.all(np.isfinite(predict(moved)))
            continue
        back = predict(moved) / unit - offset
        np.testing.assert_allclose(back, predict(y), atol=max(tolerance, 1e-9 * abs(offset)))


Y = np.sin(np.arange(20.0))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: harmonic_regression(Y[:3], DT, 1), ValueError, "y: expected at least 4 samples"),
        (lambda: harmonic_regression(np.ones((5, 0)), DT, 1), ValueError, "y: expected at least"),
        (lambda: harmonic_regression(np.ones((5, 1, 1)), DT, 1), ValueError, "y: expected shape"),
        (lambda: harmonic_regression(np.append(Y, np.inf), DT, 1), ValueError, "1 non-finite"),
        (lambda: harmonic_regression(np.arange(9), DT, 1), TypeError, "got dtype int64"),
        (lambda: harmonic_regression(Y, 0.0, 1), ValueError, "dt: expected a finite number > 0"),
        (lambda: harmonic_regression(Y, DT, -1), ValueError, "lines: expected an integer >= 0"),
        (lambda: harmonic_regression(Y, DT, 7), ValueError, "(S - 1) // 3 = 6, got 7"),
        (lambda: harmonic_regression(Y, DT, 1).predict(np.ones((1, 1))), ValueError, "t: expected"),
        (lambda: autoregression(Y, 0), ValueError, "order: expected an integer >= 1, got 0"),
        (lambda: autoregression(Y, 10), ValueError, "(S - 1) // 2 = 9, got 10"),
        (lambda: autoregression(Y, 2).forecast(-1), ValueError, "num_steps: expected an integer"),
    ],
)
def test_bad_calls(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()
