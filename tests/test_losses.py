"""Losses against NumPy, quantiles and finite differences; and whether they lead to the target."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import X64
from systems import DTYPE

import ctrnn_jax as ct
from ctrnn_jax import losses

EPS = float(jnp.finfo(DTYPE).eps)
T = np.arange(600) * 0.01
TONES = np.stack([np.sin(2 * np.pi * 3.1 * T), 0.3 + np.cos(2 * np.pi * 7.0 * T + 1)])


def shares(y, dt):
    """The normalised Hann periodogram in plain NumPy."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(len(y)) / len(y))
    power = np.abs(np.fft.rfft((y - y.mean()) * window)) ** 2
    power[1:-1] *= 2  # one-sided: all but 0 Hz and the last, of an even number of samples
    return np.fft.rfftfreq(len(y), dt), power / power.sum()


@pytest.mark.long
def test_frequency_loss_is_its_formula():
    y = jnp.asarray(TONES, DTYPE)
    for target in (3.1, 5.0, [3.0, 8.0]):
        expected = []
        for row, f0 in zip(TONES, np.broadcast_to(target, 2), strict=True):
            f, p = shares(row, 0.01)
            expected.append(np.sum(p * (f / f0 - 1) ** 2))
        target = jnp.asarray(target, DTYPE) if isinstance(target, list) else target
        found = losses.frequency_loss(y, 0.01, target)
        np.testing.assert_allclose(found, np.mean(expected), rtol=1e-4 if not X64 else 1e-10)
    # A line is a line in spectrum_loss too, and silence is as wrong as 0 Hz.
    one = losses.spectrum_loss(y, 0.01, jnp.asarray([5.0]))
    np.testing.assert_allclose(one, losses.frequency_loss(y, 0.01, 5.0), rtol=1e3 * EPS)
    assert losses.frequency_loss(jnp.ones(64), 0.01, 5.0) == 1


@pytest.mark.long
def test_spectrum_loss_is_the_integral_over_quantiles():
    y = TONES[0] + 0.7 * TONES[1]
    f, p = shares(y, 0.01)
    g, q = np.array([2.0, 3.5, 9.0]), np.array([0.2, 0.5, 0.3])
    u = (np.arange(2_000_000) + 0.5) / 2_000_000
    at_f = f[np.minimum(np.searchsorted(np.cumsum(p), u), len(f) - 1)]
    at_g = g[np.searchsorted(np.cumsum(q)[:-1], u)]
    expected = np.mean((at_f - at_g) ** 2) / np.sum(q * g**2)
    arrays = [jnp.asarray(v, DTYPE) for v in (y, g, 5 * q)]
    found = losses.spectrum_loss(arrays[0], 0.01, *arrays[1:])
    np.testing.assert_allclose(found, expected, rtol=2e-5 if X64 else 1e-3)
    # A signal against its own spectrum.
    F, power = ct.power_spectrum(arrays[0], 0.01)
    assert losses.spectrum_loss(arrays[0], 0.01, F, power) < 1e3 * EPS


NET = ct.CTRNN(ct.BlockSkew(jnp.asarray([2.0])), ct.Arctan())
CASES = {
    "frequency": lambda y: losses.frequency_loss(y, 0.01, 4.0),
    "spectrum": lambda y: losses.spectrum_loss(y, 0.01, jnp.asarray([2.0, 5.0])),
    "waveform": lambda y: losses.waveform_loss(y, jnp.asarray(TONES, DTYPE)),
    "amplitude": lambda y: losses.amplitude_loss(y, 2.0),
    "norm": lambda y: losses.norm_loss(y, 3.0),
    "weights": lambda y: losses.weight_penalty({"a": y, "b": "text"}),
    "period": lambda y: losses.period_loss(NET, y[:, :2] + 1, 2.0),
    "orbit": lambda y: losses.orbit_frequency_loss(
        ct.CTRNN(NET.weights), y[:, :2] + 1, jnp.asarray([0.2, 0.4])
    ),
}


@pytest.mark.skipif(not X64, reason="finite differences")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.long
def test_gradients(name):
    rng = np.random.default_rng(1)
    y = jnp.asarray(TONES + 0.2 * rng.normal(size=TONES.shape))
    loss = jax.jit(CASES[name])
    gradient = jax.grad(loss)(y)
    for _ in range(2):
        d, h = jnp.asarray(rng.normal(size=y.shape)), 1e-5
        expected = (loss(y + h * d) - loss(y - h * d)) / (2 * h)
        scale = float(jnp.linalg.norm(gradient) * jnp.linalg.norm(d))
        assert scale > 0 and abs(jnp.sum(gradient * d) - expected) < 2e-6 * scale


@pytest.mark.long
def test_values_that_are_known():
    y = jnp.asarray(TONES, DTYPE)
    assert losses.waveform_loss(y, y) == 0
    np.testing.assert_allclose(losses.waveform_loss(y * 0 + 0.3, y), 1.05, atol=0.06)
    np.testing.assert_allclose(losses.amplitude_loss(y, 1 / np.sqrt(2)), 0, atol=1e-4)
    np.testing.assert_allclose(losses.norm_loss(jnp.asarray([[3.0, 4.0], [0.0, 0.0]]), 2.5), 0.5)
    assert losses.weight_penalty(ct.CTRNN(ct.BlockSkew(jnp.asarray([3.0, 1.0])))) == 5
    f = ct.orbit_frequency(ct.CTRNN(NET.weights), jnp.ones(2))
    assert losses.orbit_frequency_loss(ct.CTRNN(NET.weights), jnp.ones(2), f) == 0
    for quiet in (lambda y: losses.norm_loss(y, 1.0), lambda y: losses.amplitude_loss(y, 1.0)):
        assert not jnp.any(jax.grad(quiet)(jnp.zeros((2, 8))))
    silent = jax.grad(lambda y: losses.frequency_loss(y, 0.1, 1.0))(jnp.zeros((2, 8)))
    assert jnp.all(jnp.isfinite(silent))


@pytest.mark.long
def test_frequency_loss_leads_to_the_target_from_far_away():
    # Four times too slow at the beginning, where the error of the waveform would not help.
    weights = ct.DenseSkew(jnp.asarray([[0.0, 3.0], [0.0, 0.0]]))
    x0 = jnp.asarray([0.05, 0.02])

    def loss(W):
        run = ct.simulate(ct.CTRNN(ct.DenseSkew(W)), x0, dt=0.02, num_steps=400)
        return losses.frequency_loss(run.xs[:, 0], 0.02, 2.0)

    optimizer = optax.adam(0.1)

    @jax.jit
    def step(W, state):
        value, gradient = jax.value_and_grad(loss)(W)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(W, updates), state, value

    with jax.numpy_dtype_promotion("standard"):  # optax multiplies floats with its count of steps
        W, state = weights.W, optimizer.init(weights.W)
        W, state, first = step(W, state)
        for _ in range(200):
            W, state, last = step(W, state)
    assert last < 0.02 * first
    run = ct.simulate(ct.CTRNN(ct.DenseSkew(W)), x0, dt=0.02, num_steps=400)
    np.testing.assert_allclose(ct.dominant_frequency(run.xs[:, 0], 0.02), 2.0, rtol=0.03)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda y: losses.frequency_loss(y, 0.1, -1.0), ValueError, "target_hz: expected finite"),
        (
            lambda y: losses.frequency_loss(y, 0.1, jnp.ones(3)),
            ValueError,
            "target_hz: expected a scalar or shape (2,) as the signals, got (3,)",
        ),
        (
            lambda y: losses.spectrum_loss(y, 0.1, jnp.asarray([2.0, 1.0])),
            ValueError,
            "target_hz: expected ascending frequencies",
        ),
        (
            lambda y: losses.spectrum_loss(y, 0.1, jnp.asarray([1.0, 2.0]), jnp.zeros(2)),
            ValueError,
            "target_power: expected finite numbers >= 0 with a sum > 0",
        ),
        (
            lambda y: losses.waveform_loss(y, y[0]),
            ValueError,
            "target: expected shape (2, 600), as y, got (600,)",
        ),
        (
            lambda y: losses.waveform_loss(y, jnp.ones((2, 600))),
            ValueError,
            "target: expected signals that vary, got a constant one",
        ),
        (
            lambda y: losses.period_loss(NET, jnp.ones((3, 2)), jnp.ones(2)),
            ValueError,
            "target_period: expected a scalar or a shape that broadcasts to (3,), got (2,)",
        ),
        (lambda y: losses.norm_loss(y, 0.0), ValueError, "max_norm: expected a finite number > 0"),
        (lambda y: losses.weight_penalty("W"), TypeError, "model: expected floating-point arrays"),
    ],
)
def test_bad_calls(call, error, message):
    with pytest.raises(error) as caught:
        call(jnp.asarray(TONES, DTYPE))
    assert str(caught.value).startswith(message)


def test_lowers_for_cuda():
    def loss(y):
        return losses.spectrum_loss(y, 0.1, jnp.asarray([1.0, 2.0])) + losses.frequency_loss(
            y, 0.1, 1.0
        )

    jax.jit(jax.grad(loss)).trace(jnp.ones((2, 64))).lower(lowering_platforms=("cuda",))
