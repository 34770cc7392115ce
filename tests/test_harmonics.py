"""Harmonic regression and autoregression against sums of sinusoids known exactly."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lombscargle

from ctrnn_jax._analysis.autoregression import autoregression
from ctrnn_jax._analysis.harmonics import _on_grid, harmonic_regression

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


def uneven(kind, seed, size=S):
    """Times of samples, and arguments by which they are told: of a grid with gaps, or random."""
    rng = np.random.default_rng(seed)
    if kind == "random":
        t = np.sort(rng.uniform(0, size * DT, size))
        return t - t[0], {"times": t + 1e3}
    kept = np.sort(rng.permutation(np.arange(1, size))[: size * 7 // 10])
    t = DT * np.append(0, kept[(kept < size // 3) | (kept > size // 2)])
    return t, {"times": t - 3} if kind == "gaps" else {"dt": DT}


def with_missing(y, t, told, size=S):
    """Samples at t, as they are told."""
    if "times" in told:
        return y
    filled = np.full((size, *y.shape[1:]), np.nan)
    filled[np.rint(t / DT).astype(int)] = y
    return filled


@pytest.mark.parametrize("kind", ["gaps", "nan", "random"])
@pytest.mark.parametrize("seed", range(3))
def test_exact_sinusoids_at_uneven_times(kind, seed):
    f, a, phase = random_tones([seed, 3], 3)
    t, told = uneven(kind, seed)
    y = 0.7 + tones(f, a, phase, t)
    fit = harmonic_regression(with_missing(y, t, told), lines=3, **told)
    order = np.argsort(-a)
    np.testing.assert_allclose(fit.frequencies, f[order], rtol=1e-8)
    np.testing.assert_allclose(fit.cosines[:, 0], (a * np.cos(phase))[order], atol=1e-8)
    ahead = np.arange(2 * S) * DT  # in the gaps and beyond
    np.testing.assert_allclose(fit.predict(ahead), 0.7 + tones(f, a, phase, ahead), atol=1e-6)
    chosen = harmonic_regression(with_missing(y, t, told), **told)
    assert chosen.frequencies.size == 3


def test_of_the_lines_that_gaps_make_alike_the_right_one_is_found():
    t = np.concatenate([np.arange(40) * DT + 50.0 * k for k in range(6)])  # 0.02 Hz apart
    for f in (1.4324, 12.11, 15.123):
        fit = harmonic_regression(np.sin(2 * np.pi * f * t), times=t, lines=1)
        np.testing.assert_allclose(fit.frequencies, [f], rtol=1e-9)


def test_channels_may_miss_other_samples():
    f, t = [1.3, 4.1, 9.7], np.arange(S) * DT
    y = np.stack([tones(f, [1, 0.2, 0], 0.3, t), 2 + tones(f, [0, 0.9, 0.4], 1, t), 0 * t], 1)
    gappy = y.copy()
    gappy[300:900, 0] = gappy[1:9, :] = gappy[::7, 1] = np.nan
    fit = harmonic_regression(gappy, DT, 3)
    np.testing.assert_allclose(fit.frequencies, f, rtol=1e-10)
    np.testing.assert_allclose(fit.predict(t), y, atol=1e-9)


def test_even_times_are_an_interval_and_no_unit_of_time_counts():
    rng, t = np.random.default_rng(2), np.arange(300) * DT
    y = tones([3.1, 11.3], [1, 0.5], 0.4, t) + 0.1 * rng.normal(size=300)
    fit = harmonic_regression(y, DT)
    for times in (t, np.cumsum(np.full(300, DT)), t.astype(np.float32), t + 1e4):
        again = harmonic_regression(y, times=times)
        np.testing.assert_allclose(again.frequencies, fit.frequencies, rtol=1e-6)
        np.testing.assert_allclose(again.cosines, fit.cosines, atol=1e-9)
    t, _ = uneven("random", 4, 300)
    y = tones([3.1, 11.3], [1, 0.5], 0.4, t) + 0.1 * rng.normal(size=300)
    fit = harmonic_regression(y, times=t)
    for unit in (1e-9, 1e7):
        again = harmonic_regression(1e20 * y, times=unit * t)
        np.testing.assert_allclose(again.frequencies * unit, fit.frequencies, rtol=1e-7)
        np.testing.assert_allclose(again.predict(unit * t) / 1e20, fit.predict(t), atol=1e-7)


@pytest.mark.parametrize("kind", ["gaps", "random"])
def test_in_noise_uneven_samples_are_as_good_as_even_ones(kind):
    errors, grid = [], np.arange(300) * DT
    for seed in range(20):
        f, a, phase = random_tones([seed, 2], 2)
        rng = np.random.default_rng(seed)
        t, told = uneven(kind, seed, 300)
        truth = tones(f, a, phase, grid)
        noisy = [tones(f, a, phase, t) + 0.3 * rng.normal(size=len(t)) for t in (grid, t)]
        fits = harmonic_regression(noisy[0], DT, 2), harmonic_regression(noisy[1], lines=2, **told)
        errors.append([np.std(fit.predict(grid) - truth) for fit in fits])
    even, other = np.sqrt(np.mean(np.square(errors), axis=0))
    assert other < 2 * even < 0.3, (even, other)


@pytest.mark.parametrize(("kind", "tolerance"), [("gaps", 0.04), ("random", 0.08)])
def test_the_periodogram_is_that_of_lomb_and_scargle(kind, tolerance):
    t, _ = uneven(kind, 7, 500)
    y = np.random.default_rng(7).normal(size=(len(t), 1)) + tones([7.3], [2], 1, t)[:, None]
    at = np.rint(t / DT) if kind == "gaps" else t / DT
    length = int(np.ceil(at[-1])) + 1
    filled, finer = _on_grid(y, at, length)
    power = np.abs(np.fft.rfft(filled[:, 0], 4 * finer * length)) ** 2
    k = np.arange(20, 2 * length - 20)
    exact = lombscargle(at, y[:, 0], 2 * np.pi * k / (4 * length)) * len(t)
    # Only where there is power: near a zero of it cosine and sine weigh unlike.
    assert np.max(np.abs(power[k] - exact)) < tolerance * exact.max()


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


Y, T20 = np.sin(np.arange(20.0)), np.arange(1.0, 21.0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: harmonic_regression(Y[:3], DT, 1), ValueError, "y: expected at least 4 samples"),
        (lambda: harmonic_regression(np.ones((5, 0)), DT, 1), ValueError, "y: expected at least"),
        (lambda: harmonic_regression(np.ones((5, 1, 1)), DT, 1), ValueError, "y: expected shape"),
        (lambda: harmonic_regression(np.append(Y, np.inf), DT, 1), ValueError, "1 non-finite"),
        (lambda: harmonic_regression(np.arange(9), DT, 1), TypeError, "got dtype int64"),
        (lambda: harmonic_regression(Y, 0.0, 1), ValueError, "dt: expected a finite number > 0"),
        (
            lambda: harmonic_regression(Y),
            ValueError,
            "dt: expected either dt or times, got neither",
        ),
        (lambda: harmonic_regression(Y, DT, times=T20), ValueError, "dt or times, got both"),
        (lambda: harmonic_regression(Y, times=T20[:-1]), ValueError, "times: expected shape (20,)"),
        (lambda: harmonic_regression(Y, times=T20 // 2), ValueError, "increasing times, got 1 af"),
        (lambda: harmonic_regression(Y, times=T20 * np.inf), ValueError, "times: expected finite"),
        (
            lambda: harmonic_regression(Y, times=np.array(["a"] * 20)),
            TypeError,
            "times: expected an array of",
        ),
        (lambda: harmonic_regression(np.nan * Y, DT), ValueError, "y: expected samples, got none"),
        (
            lambda: harmonic_regression(np.where(T20 < 4, Y, np.nan), DT),
            ValueError,
            "missing, got 3",
        ),
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
