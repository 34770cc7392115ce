"""What estimates promise: an error within the documented one or nan, in any unit, nan for nan."""

import warnings

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import X64
from hypothesis import strategies as st
from scipy import optimize

import ctrnn_jax as ct
from ctrnn_jax import losses

FLOAT = jnp.result_type(float)
EPS = float(jnp.finfo(FLOAT).eps)
METHODS = ("periodogram", "autocorrelation", "zero_crossings")
ROUGH = {"periodogram": 0.0, "autocorrelation": 0.03, "zero_crossings": 0.005}
few = hypothesis.settings(derandomize=True, deadline=None, max_examples=15, database=None)


def tau(size):
    return (np.arange(size) + 0.5) / size - 0.5


def fitted(y, cycles):
    """Cycles of the sinusoid beside a straight line that fits the samples best, in float64."""
    x = tau(len(y))
    z = np.asarray(y, float) - np.mean(np.asarray(y, float))
    z /= np.abs(z).max()

    def model(x, f, a, b, c, d):
        return a * np.cos(2 * np.pi * f * x) + b * np.sin(2 * np.pi * f * x) + c + d * x

    columns = [model(x, cycles, *row) for row in np.eye(4)]
    start = np.linalg.lstsq(np.stack(columns, axis=1), z, rcond=None)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optimize.OptimizeWarning)  # the covariance, of no noise
        return optimize.curve_fit(model, x, z, [cycles, *start], ftol=1e-13, xtol=1e-13)[0][0]


@pytest.mark.parametrize("size", [64, 4096])
@pytest.mark.long
def test_tones_are_within_the_documented_error(size):
    rng = np.random.default_rng(size)
    count = 72
    cycles = np.exp(rng.uniform(np.log(0.7), np.log(min(400, 0.49 * size)), count))
    noise = rng.choice([0, 0.01, 0.1, 0.2], count)
    offset, trend = rng.choice([0, 1, -30, 1e3, 1e6], count), rng.choice([0, 0, 1, -100], count)
    cycles[:8], noise[:24] = 2, 0
    cycles[8:24] = np.exp(rng.uniform(np.log(2), np.log(size / 3), 16))
    offset[:24] = 0
    scale = 10.0 ** rng.uniform(-30, 30, count)
    phase = rng.uniform(0, 2 * np.pi, count)
    y = np.sin(2 * np.pi * cycles[:, None] * tau(size) + phase[:, None])
    y = y + noise[:, None] * rng.normal(size=y.shape)
    y = y + offset[:, None] + trend[:, None] * tau(size)
    y = jnp.asarray(y * scale[:, None], FLOAT)
    s = noise + EPS * np.max(np.abs(np.asarray(y, float)), axis=1) / scale
    exact = np.array([fitted(row, c) for row, c in zip(np.asarray(y), cycles, strict=True)])
    for method in METHODS:
        found = np.asarray(ct.dominant_frequency(y, 1 / size, method=method), float)
        answered = np.isfinite(found)
        error = np.abs(found - exact)[answered]
        bound = ROUGH[method] + 8 * s / np.sqrt(size) + 8 * EPS * cycles
        assert np.all(error <= bound[answered])
        assert answered[:24].all()
        assert not answered[cycles < 1.5].any()
        carried = (cycles > 2) & (cycles < 0.3 * size) & (noise < 0.05) & (offset < 1e6)
        assert answered[carried].mean() > 0.9


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.long
def test_waveforms_that_are_no_sinusoids(method):
    rng = np.random.default_rng(3)
    cycles, phase = rng.uniform(3, 40, (40, 1)), rng.uniform(0, 2 * np.pi, (40, 1))
    turn = 2 * np.pi * cycles * tau(1000) + phase
    waves = (
        np.tanh(8 * np.sin(turn)),
        2 * (turn / (2 * np.pi) % 1) - 1,
        np.sin(turn) + 0.3 * np.sin(2.618 * turn),
        np.exp(-2 * tau(1000)) * np.sin(turn),
    )
    for y in waves:
        found = ct.dominant_frequency(jnp.asarray(y, FLOAT), 1e-3, method=method)
        assert np.all(np.abs(found - cycles[:, 0]) < 0.15)
    noise = jnp.asarray(rng.normal(size=(300, 1000)), FLOAT)
    assert jnp.all(jnp.isnan(ct.dominant_frequency(noise, 1e-3, method=method)))


SPECTRAL = {
    **{m: lambda y, m=m: ct.dominant_frequency(y, 0.01, method=m) for m in METHODS},
    "frequency_loss": lambda y: losses.frequency_loss(y, 0.01, 4.0),
    "spectrum_loss": lambda y: losses.spectrum_loss(y, 0.01, jnp.asarray([2.0, 5.0])),
}
SLOPES = {name: jax.jit(jax.value_and_grad(f)) for name, f in SPECTRAL.items()}
WAVE = np.sin(2 * np.pi * 5.3 * tau(200) + 0.4) + 0.2 * np.sin(2 * np.pi * 17.1 * tau(200))


@few
@hypothesis.given(name=st.sampled_from(list(SPECTRAL)), power=st.integers(-90, 90))
@pytest.mark.long
def test_the_unit_does_not_matter(name, power):
    power = power * (10 if X64 else 1)
    unit = 2.0**power
    y = jnp.asarray(WAVE, FLOAT)
    value, gradient = SLOPES[name](y)
    scaled, scaled_gradient = SLOPES[name](y * unit)
    assert jnp.isfinite(value) and jnp.any(gradient != 0)
    np.testing.assert_allclose(scaled, value, rtol=64 * EPS)
    gradient, scaled_gradient = np.asarray(gradient), np.asarray(scaled_gradient) * unit
    np.testing.assert_allclose(scaled_gradient, gradient, rtol=0, atol=1e-6 * abs(gradient).max())


@few
@hypothesis.given(
    name=st.sampled_from(list(SPECTRAL)), offset=st.floats(-4096, 4096), slope=st.floats(-1, 1)
)
@pytest.mark.long
def test_an_offset_and_a_trend_do_not_matter(name, offset, slope):
    slope = slope if name in METHODS else 0
    value, _ = SLOPES[name](jnp.asarray(WAVE, FLOAT))
    moved, _ = SLOPES[name](jnp.asarray(WAVE + slope * tau(200) + offset, FLOAT))
    np.testing.assert_allclose(moved, value, rtol=1e-10 if X64 else 5e-3)


STAYS = {
    **SPECTRAL,
    "power_spectrum": lambda y: ct.power_spectrum(y, 0.01)[1],
    "spectrogram": lambda y: jnp.mean(ct.spectrogram(y, 0.01)[2]),
    "waveform": lambda y: losses.waveform_loss(y, jnp.asarray(WAVE, FLOAT)),
    "amplitude": lambda y: losses.amplitude_loss(y, 1.0),
    "norm": lambda y: losses.norm_loss(y, 100.0),
    "weights": losses.weight_penalty,
}


@pytest.mark.parametrize("name", STAYS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.sampled(10)
def test_what_is_not_finite_stays_so(name, bad):
    for at in (0, 57, 199):
        y = jnp.asarray(WAVE, FLOAT).at[at].set(bad)
        assert not jnp.any(jnp.isfinite(STAYS[name](y)))


@pytest.mark.parametrize("unit", [1e-30, 1e30])
@pytest.mark.long
def test_losses_in_any_unit(unit):
    y, s = jnp.asarray(2 * WAVE, FLOAT), jnp.asarray(WAVE, FLOAT)
    pairs = (
        (losses.waveform_loss, (y, s), (y * unit, s * unit)),
        (losses.amplitude_loss, (y, 1.0), (y * unit, unit)),
        (losses.norm_loss, (y, 2.0), (y * unit, 2 * unit)),
        (losses.frequency_loss, (y, 0.01, 4.0), (y, 0.01 * unit, 4 / unit)),
        (losses.spectrum_loss, (y, 0.01, s[:1] * 0 + 4), (y, 0.01 * unit, s[:1] * 0 + 4 / unit)),
    )
    for loss, one, other in pairs:
        np.testing.assert_allclose(loss(*other), loss(*one), rtol=1e-4 if not X64 else 1e-10)
        gradient, scaled = jax.grad(loss)(*one), jax.grad(loss)(*other)
        scaled = scaled * (unit if loss(*one) is not None and other[0] is not y else 1)
        limit = 1e-4 * float(jnp.max(jnp.abs(gradient)))
        assert limit > 0
        np.testing.assert_allclose(scaled, gradient, rtol=0, atol=limit)


def test_waveform_loss_refuses_what_is_not_finite():
    y = jnp.asarray(WAVE, FLOAT)
    with pytest.raises(ValueError, match="target: expected finite values, got 1 non-finite"):
        losses.waveform_loss(y, y.at[3].set(jnp.nan))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.long
@pytest.mark.sampled(3)
def test_estimates_under_vmap_and_their_gradients(method):
    def find(y):
        return ct.dominant_frequency(y, 0.01, method=method)

    y = jnp.asarray(np.stack([WAVE, WAVE[::-1] + 3, np.ones(200)]), FLOAT)
    np.testing.assert_allclose(jax.jit(jax.vmap(find))(y), find(y), rtol=64 * EPS)
    if X64:
        gradient = jax.jit(jax.grad(lambda y: find(y)[0]))(y)
        direction = jnp.asarray(np.random.default_rng(1).normal(size=y.shape))
        h = 1e-6
        expected = (find(y + h * direction)[0] - find(y - h * direction)[0]) / (2 * h)
        np.testing.assert_allclose(jnp.sum(gradient * direction), expected, rtol=2e-4, atol=1e-6)
