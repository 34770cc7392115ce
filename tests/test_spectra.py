"""Spectra against SciPy, and the dominant frequency against an optimiser on the exact sum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, signal

import ctrnn_jax as ct

FLOAT = jnp.result_type(float)
EPS = float(jnp.finfo(FLOAT).eps)


def noise(*shape):
    rng = np.random.default_rng(7)
    return np.asarray(jnp.asarray(5 + rng.normal(size=shape), FLOAT), float)


@pytest.mark.parametrize("shape", [(4,), (101,), (2, 3, 256)])
def test_power_spectrum(shape):
    y = noise(*shape)
    f, power = ct.power_spectrum(jnp.asarray(y, FLOAT), 0.02)
    f_expected, expected = signal.periodogram(y, 50.0, window="hann", detrend="constant")
    np.testing.assert_allclose(f, f_expected, rtol=8 * EPS)
    # Removing a mean of 5 leaves rounding of that size in the bin at 0.
    np.testing.assert_allclose(power, expected, rtol=0, atol=200 * EPS * expected.max())
    assert f.dtype == power.dtype == FLOAT


def test_power_spectrum_integrates_to_the_variance():
    t = np.arange(2000) * 0.01
    y = 0.7 * np.sin(2 * np.pi * 3 * t) + 2
    f, power = ct.power_spectrum(jnp.asarray(y, FLOAT), 0.01)
    np.testing.assert_allclose(jnp.sum(power) * f[1], 0.7**2 / 2, rtol=1e-5)
    assert f[jnp.argmax(power)] == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("window_length", "overlap"), [(None, None), (64, None), (50, 0), (33, 20), (300, 10)]
)
@pytest.mark.parametrize("shape", [(300,), (2, 300)])
@pytest.mark.sampled(3)
def test_spectrogram(window_length, overlap, shape):
    y = noise(*shape)
    found = ct.spectrogram(
        jnp.asarray(y, FLOAT), 0.02, window_length=window_length, overlap=overlap
    )
    length = window_length or 300 // 8
    shared = 3 * length // 4 if overlap is None else overlap
    expected = signal.spectrogram(
        y, 50.0, window="hann", nperseg=length, noverlap=shared, detrend="constant"
    )
    scale = expected[2].max()
    for a, b, atol in zip(found, expected, (EPS, EPS, 200 * EPS * scale), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=8 * EPS, atol=atol)


def peak(y, dt, near):
    """The sinusoid beside a straight line that fits with Hann weights, by SciPy in float64."""
    size = len(y)
    tau = (np.arange(size) + 0.5) / size - 0.5
    root = np.cos(np.pi * tau)

    # The root of the slope of the squares is found to more digits than their minimum.
    def slope(cycles):
        turn = 2 * np.pi * cycles * tau
        A = np.stack([np.ones(size), tau, np.cos(turn), np.sin(turn)], axis=1) * root[:, None]
        c = np.linalg.lstsq(A, root * y, rcond=None)[0]
        return (root * y - A @ c) @ (root * tau * (c[3] * np.cos(turn) - c[2] * np.sin(turn)))

    near *= size * dt
    return optimize.brentq(slope, near - 0.3, near + 0.3, xtol=1e-15, rtol=1e-14) / (size * dt)


@pytest.mark.parametrize("bins", [10.0, 10.5, 17.27, 123.77, 480.4])
@pytest.mark.parametrize("phase", [0.0, 1.1])
def test_dominant_frequency_of_a_tone(bins, phase):
    size, dt = 1000, 0.004
    y = 3 + 0.2 * np.cos(2 * np.pi * bins * np.arange(size) / size + phase)
    y = jnp.asarray(y, FLOAT)
    found = float(ct.dominant_frequency(y, dt)) * size * dt
    assert abs(found - bins) < 256 * EPS * bins
    exact = peak(np.asarray(y, float), dt, bins / (size * dt)) * size * dt
    assert abs(found - exact) < 1e-9 + 256 * EPS * bins


def test_dominant_frequency_of_batches_and_short_or_weak_signals():
    t = np.arange(400) * 0.01
    y = np.sin(2 * np.pi * np.array([[[3.3], [7.9]], [[20.1], [45.0]]]) * t)
    y = jnp.asarray(y * np.array([[[1e-6], [1.0]], [[1.0], [1e6]]]), FLOAT)
    found = ct.dominant_frequency(y, 0.01)
    np.testing.assert_allclose(found, [[3.3, 7.9], [20.1, 45.0]], rtol=1e-4)
    assert jnp.isnan(ct.dominant_frequency(jnp.asarray([0.0, 1.0, 0.0, -1.0]), 1.0))
    # The stronger of two lines, with harmonics and a mean far above both.
    y = 100 + np.sin(2 * np.pi * 5 * t) + 0.8 * np.sin(2 * np.pi * 11 * t)
    np.testing.assert_allclose(ct.dominant_frequency(jnp.asarray(y, FLOAT), 0.01), 5.0, rtol=1e-3)


@pytest.mark.long
def test_gradient_of_dominant_frequency():
    rng = np.random.default_rng(0)
    dt, size = 0.01, 500
    t = np.arange(size) * dt
    y = np.sin(2 * np.pi * 4.13 * t) + 0.3 * np.sin(2 * np.pi * 9.4 * t)
    y += 0.05 * rng.normal(size=size)
    gradient = np.asarray(jax.grad(ct.dominant_frequency)(jnp.asarray(y, FLOAT), dt), float)
    for d in (rng.normal(size=size), t * np.cos(2 * np.pi * 4.13 * t)):
        h = 1e-5
        expected = (peak(y + h * d, dt, 4.13) - peak(y - h * d, dt, 4.13)) / (2 * h)
        scale = np.linalg.norm(gradient) * np.linalg.norm(d)
        assert abs(gradient @ d - expected) < 1e-6 * scale + 100 * EPS * scale
        assert abs(expected) > 1e-3 * scale
    # With respect to the sampling interval: f ∝ 1 / dt.
    slope = jax.grad(ct.dominant_frequency, 1)(jnp.asarray(y, FLOAT), jnp.asarray(dt, FLOAT))
    np.testing.assert_allclose(slope, -peak(y, dt, 4.13) / dt, rtol=1e-9 + 32 * EPS)


@pytest.mark.long
def test_signals_without_a_line():
    tone = np.sin(np.arange(64.0))
    y = np.stack([np.zeros(64), np.full(64, 0.1), tone, np.full(64, np.nan), tone])
    y[4, 3] = np.inf
    y = jnp.asarray(y, FLOAT)
    found = ct.dominant_frequency(y, 1.0)
    np.testing.assert_array_equal(jnp.isnan(found), [True, True, False, True, True])
    # What has no line must not spoil the gradient of what has.
    gradient = jax.grad(lambda y: jnp.nansum(ct.dominant_frequency(y, 1.0)))(y[:3])
    assert jnp.isfinite(gradient).all()
    assert jnp.any(gradient[2] != 0)


@pytest.mark.parametrize("method", ["periodogram", "autocorrelation", "zero_crossings"])
@pytest.mark.long
@pytest.mark.sampled(3)
def test_three_methods_agree_on_what_is_periodic(method):
    t = np.arange(2000) * 0.01
    phase = 2 * np.pi * 1.37 * t
    y = np.stack(
        [np.sin(phase + 0.4), np.sin(phase) ** 3 + 0.2 * np.cos(phase), np.tanh(4 * np.sin(phase))]
    )

    def find(y):
        return ct.dominant_frequency(jnp.asarray(y + 7.0, FLOAT), 0.01, method=method)

    # Lags are compared over a part of the signal only, whole periods or not.
    rough = method == "autocorrelation"
    np.testing.assert_allclose(find(y), np.full(3, 1.37), rtol=2e-3 if rough else 2e-4)
    # The gradient of the location found, along a change of frequency: y(a t) has a times as much.
    d = 1.37 * 2 * np.pi * t * np.cos(phase + 0.4)
    gradient = jax.grad(lambda y: find(y))(jnp.asarray(y[0], FLOAT))
    np.testing.assert_allclose(np.asarray(gradient, float) @ d, 1.37, rtol=0.1 if rough else 0.02)
    # No line, no peak, no passages.
    ramp = np.linspace(0.0, 1.0, 2000)
    found = find(np.stack([np.zeros(2000), np.full(2000, 0.1), np.full(2000, np.nan), y[0]]))
    np.testing.assert_array_equal(jnp.isnan(found), [True, True, True, False])
    assert jnp.isnan(find(ramp))


@pytest.mark.long
def test_three_methods_tell_what_they_see():
    t = np.arange(4000) * 0.01
    # The second harmonic is stronger; the waveform repeats with the first; both cross zero.
    y = np.sin(2 * np.pi * t) + 1.5 * np.sin(4 * np.pi * t)

    def find(method):
        return ct.dominant_frequency(jnp.asarray(y, FLOAT), 0.01, method=method)

    np.testing.assert_allclose(find("periodogram"), 2.0, rtol=1e-3)
    np.testing.assert_allclose(find("autocorrelation"), 1.0, rtol=1e-3)
    np.testing.assert_allclose(find("zero_crossings"), 2.0, rtol=2e-2)


@pytest.mark.parametrize("size,bins", [(2**18, 100_000.37), (2**20, 524_200.37)])
@pytest.mark.long
def test_long_float32_signal(size, bins):
    y = np.cos(2 * np.pi * np.fmod(bins * np.arange(size) / size, 1.0)) + 1
    # 2^-10 s: exact in binary, as are the frequencies of the bins.
    found = ct.dominant_frequency(jnp.asarray(y, jnp.float32), 2.0**-10)
    assert found.dtype == jnp.float32
    # A few units in the last place of the answer.
    np.testing.assert_allclose(float(found) * size / 1024, bins, rtol=2.0**-22)
    f, power = ct.power_spectrum(jnp.asarray(y, jnp.float32), 2.0**-10)
    assert int(jnp.argmax(power)) == int(bins)
    assert f.dtype == jnp.float32
    variance = float(jnp.sum(power) * f[1])
    np.testing.assert_allclose(variance, 0.5, rtol=1e-4)


@pytest.mark.parametrize(
    "f",
    [
        ct.power_spectrum,
        ct.spectrogram,
        ct.dominant_frequency,
        lambda y, dt: ct.dominant_frequency(y, dt, method="autocorrelation"),
        lambda y, dt: ct.dominant_frequency(y, dt, method="zero_crossings"),
        lambda y, dt: jax.grad(lambda y: ct.dominant_frequency(y, dt))(y[0]),
        lambda y, dt: jax.grad(lambda y: jnp.sum(ct.spectrogram(y, dt)[2]))(y),
    ],
    ids=["power", "spectrogram", "line", "autocorrelation", "crossings", "gradient", "both"],
)
def test_lowers_for_cuda(f):
    y, dt = jnp.ones((2, 64)), jnp.asarray(0.1)
    jax.jit(f).trace(y, dt).lower(lowering_platforms=("cuda",))
