"""Driven networks from inputs and outputs: known ones, linear ones, and what is reported."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import X64
from scipy.signal import cont2discrete, lfilter

import ctrnn_jax as ct
from ctrnn_jax._analysis.arx import fit_arx, markov_parameters
from ctrnn_jax._train import identify
from ctrnn_jax._train.linear_start import modes_of

DT = 0.1
FLOAT = jnp.result_type(float)


def known_network(form, size, n=4):
    """Inputs (size,) and outputs (size,) of a network with leaks and a bias, well beyond linear."""
    keys = jax.random.split(jax.random.key(3), 6)
    rnn = ct.CTRNN(
        ct.DenseSkew.init(keys[0], n, scale=1.0),
        form=form,
        leak=0.1 + 0.3 * jax.random.uniform(keys[1], (n,)),
        input_weights=jax.random.normal(keys[2], (n, 1)),
        bias=0.2 * jax.random.normal(keys[5], (n,)),
    )
    u = jnp.repeat(jax.random.normal(keys[3], (size // 5, 1)), 5, axis=0)
    x0 = jnp.full((n,), 0.1, FLOAT)
    xs = ct.simulate(rnn, x0, dt=DT, num_steps=size - 1, inputs=u[:-1]).xs
    return np.asarray(u[:, 0]), np.asarray(xs[:, 0])


@pytest.mark.skipif(not X64, reason="normal equations in float32 end at some percent")
@pytest.mark.rare
def test_a_known_network_is_found_again_from_noisy_samples():
    """2 % of noise: the held-out output is as good as the noise lets anything be."""
    u, clean = known_network("rate", 1000)
    y = clean + 0.02 * clean.std() * np.random.default_rng(0).normal(size=clean.size)
    driven, report = ct.fit_signal(y, DT, inputs=u, neurons=4)
    assert report.kind == "nonlinear" and report.training_samples == 800
    assert float(report.held_out_nrmse[0]) < 0.03
    assert float(report.arx_held_out_nrmse[0]) > 5 * float(report.held_out_nrmse[0])
    assert "better than ARX" in report.verdict and report.arx_parameters <= report.num_parameters
    assert float(report.arx_one_step_nrmse[0]) < float(report.arx_held_out_nrmse[0])
    # It is the network that answers, by its own equation, and not its samples that are repeated.
    given = jnp.asarray(u[:-1, None])
    made = driven.generate(DT, len(u) - 1, inputs=given)[:, 0]
    assert np.sqrt(np.mean((made - clean)[800:] ** 2)) < 0.02 * clean.std()
    rnn = driven.rnn
    assert np.all(rnn.leak > 0) and rnn.input_weights.shape == (4, 1)
    fine = ct.simulate(rnn, driven.x0, dt=DT / 16, num_steps=16 * 300, save_every=16,
                       inputs=jnp.repeat(given[:300], 16, axis=0), solver=ct.RK4()).xs  # fmt: skip
    np.testing.assert_allclose(driven.read(fine)[:, 0], made[:301], atol=1e-5)


def resonances(size, rng):
    """Two inputs, two outputs, two damped resonances: exact samples of held inputs."""
    A = np.zeros((4, 4))
    for k, (omega, leak) in enumerate([(2.0, 0.15), (5.0, 0.4)]):
        A[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] = [[-leak, omega], [-omega, -leak]]
    B, C = rng.normal(size=(4, 2)), rng.normal(size=(2, 4))
    F, G, *_ = cont2discrete((A, B, C, np.zeros((2, 2))), DT)
    u, x = rng.normal(size=(size, 2)), np.zeros((size, 4))
    for k in range(size - 1):
        x[k + 1] = F @ x[k] + G @ u[k]
    return 3.0 * u + 1, 20 * x @ C.T - 7, A


@pytest.mark.parametrize(("form", "noise"), [("rate", 0.0), ("current", 0.1)])
@pytest.mark.rare
def test_a_linear_system_is_foreseen_no_worse_than_by_arx(form, noise):
    rng = np.random.default_rng(1)
    u, y, _ = resonances(600, rng)
    y = y + noise * y.std(axis=0) * rng.normal(size=y.shape)
    _, report = ct.fit_signal(y, DT, inputs=u, neurons=4, form=form, steps=15)
    ours, arx = np.mean(report.held_out_nrmse), np.mean(report.arx_held_out_nrmse)
    if noise:
        assert ours < 1.01 * arx and ours < 1.15 * noise
    else:
        assert report.kind == "linear" and ours < (1e-5 if X64 else 0.02)


def test_pulse_responses_of_a_linear_system_give_its_modes():
    """The eigenvalues of A itself; then states, read out, are the output."""
    u, y, A = resonances(500, np.random.default_rng(2))
    u, y = u - 1, y + 7
    modes = modes_of(y, u, DT, 4)
    expected = np.linalg.eigvals(A)
    expected = np.sort_complex(expected[expected.imag > 0])
    np.testing.assert_allclose(np.sort_complex(modes.rates), expected, atol=1e-6)
    W, leak = modes.matrices()
    assert np.array_equal(W, -W.T) and modes.neurons == 4
    np.testing.assert_allclose(
        np.sort_complex(np.linalg.eigvals(W - np.diag(leak))),
        np.sort_complex(np.linalg.eigvals(A)),
        atol=1e-6,
    )
    x = modes.states(u, DT)
    C = np.linalg.lstsq(x, y, rcond=None)[0]
    np.testing.assert_allclose(x @ C, y, atol=1e-6 * y.std())
    pulses = markov_parameters(y, u, 10, 3)
    impulse = np.zeros((4, 2))
    impulse[0, 1] = 1
    np.testing.assert_allclose(pulses[:, :, 1], modes.states(impulse, DT)[1:] @ C, atol=1e-6)


def test_arx_is_exact_on_what_obeys_it():
    rng = np.random.default_rng(4)
    u = rng.normal(size=(300, 2))
    b = u[:, 0] + np.concatenate([[0], 0.5 * u[:-1, 1]])
    y = lfilter([1.0], [1.0, -1.2, 0.5], b + 0.3)[:, None]
    model = fit_arx(y[:200], u[:200], 2, 2, 0)
    np.testing.assert_allclose(model.past[:, 0], [1.2, -0.5], atol=1e-9)
    np.testing.assert_allclose(model.driven[:, :, 0], [[1, 0], [0, 0.5]], atol=1e-9)
    np.testing.assert_allclose(model.constant, [0.3], atol=1e-9)
    assert model.num_parameters == 7 and model.memory == 2
    np.testing.assert_allclose(model.simulated(y, u, 200), y[200:], atol=1e-9)
    np.testing.assert_allclose(model.one_step(y, u, 200), y[200:], atol=1e-9)
    # Where it sees too little, an error goes into each step once, and grows where it is simulated.
    poor = fit_arx(y[:200], u[:200], 2, 1, 1)
    miss = [np.std(made - y[200:]) for made in (poor.one_step(y, u, 200),
                                                poor.simulated(y, u, 200))]  # fmt: skip
    assert 0.5 < miss[0] < miss[1]


@pytest.mark.parametrize("form", ["rate", "current"])
@pytest.mark.rare
def test_the_normal_equations_are_those_of_the_simulated_output(form, key):
    n, m, channels, size = 3, 2, 2, 21
    shapes = [(3,), (n,), (n, m), (n,), (n,), (channels, n), (channels,)]
    keys = jax.random.split(key, len(shapes) + 2)
    parts = [0.5 * jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=False)]
    unknowns = identify.Unknowns(*parts)
    motion = identify.Motion(ct.Tanh(), form, jnp.asarray(0.3, FLOAT), 2)
    u = jax.random.normal(keys[-1], (2, 12, m))
    y = jax.random.normal(keys[-2], (2, 12, channels))
    error, slope, normal = identify._normal(unknowns, motion, y, u, jnp.asarray(size, jnp.int32))

    def residuals(unknowns):
        made = identify._outputs(unknowns, motion, u.reshape(-1, m))
        return ((made - y.reshape(-1, channels))[:size] / (size * channels) ** 0.5).ravel()

    r, J = jax.jit(lambda u: (residuals(u), jax.jacfwd(residuals)(u)))(unknowns)
    J = jnp.concatenate([leaf.reshape(r.size, -1) for leaf in J], axis=1)
    tolerance = {"rtol": 1e-7, "atol": 1e-9} if X64 else {"rtol": 1e-3, "atol": 1e-4}
    np.testing.assert_allclose(error, r @ r, **tolerance)
    np.testing.assert_allclose(slope, J.T @ r, **tolerance)
    np.testing.assert_allclose(normal, J.T @ J, **tolerance)


@pytest.mark.by_default(0)
def test_a_driven_oscillator_generates_and_is_stored(tmp_path):
    rnn = ct.CTRNN(
        ct.BlockSkew(jnp.array([2.0])), ct.Linear(), leak=0.5, input_weights=jnp.ones((2, 1))
    )
    driven = ct.Oscillator(rnn, jnp.zeros(2), jnp.eye(2), max_step=0.05)
    u = jnp.ones((40, 1))
    y = driven.generate(0.2, 40, inputs=u)
    F, G, *_ = cont2discrete((np.array([[-0.5, 2.0], [-2.0, -0.5]]), np.ones((2, 1)), np.eye(2),
                              np.zeros((2, 1))), 0.2)  # fmt: skip
    exact = [np.zeros(2)]
    for _ in range(40):
        exact.append(F @ exact[-1] + G[:, 0])
    np.testing.assert_allclose(y, exact, atol=1e-9 if X64 else 1e-5)
    smooth = driven.generate(0.2, 40, inputs=lambda t: jnp.ones(1, t.dtype))
    np.testing.assert_allclose(smooth, exact, atol=1e-7 if X64 else 1e-5)
    some = driven.generate(0.2, 40, inputs=u, save_every=10)
    np.testing.assert_allclose(some, y[::10], atol=1e-9 if X64 else 1e-5)
    assert driven.trainable.rnn.input_weights is True
    frozen = ct.Oscillator(rnn, jnp.zeros(2), jnp.eye(2), ["input_weights"])
    assert frozen.trainable.rnn.input_weights is False
    ct.save(tmp_path / "driven", driven)
    again = ct.load(tmp_path / "driven")
    assert np.array_equal(again.rnn.input_weights, rnn.input_weights)
    with pytest.raises(ValueError, match=re.escape("inputs: expected shape (41, 1), one for each")):
        driven.generate(0.2, 41, inputs=u)


GOOD = np.sin(np.arange(100.0))
BAD = [
    (np.arange(99.0), "inputs: expected 100 samples, as many as the signal has, got shape (99,)"),
    (np.ones((100, 1)), "inputs: expected inputs that vary where they are trained on, got a const"),
    (np.append(GOOD[:-1], np.nan), "inputs: expected finite values, got 1 non-finite of 100"),
    (np.arange(100), "inputs: expected a floating-point array of shape (S,) or (S, m), got dtype"),
    (np.zeros((100, 0)), "inputs: expected 100 samples, as many as the signal has, got shape"),
    ("u", "inputs: expected a floating-point array"),
]


@pytest.mark.parametrize(("inputs", "message"), BAD)
def test_bad_inputs(inputs, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        ct.fit_signal(GOOD, DT, inputs=inputs)


@pytest.mark.long
def test_a_report_is_told_and_stored(tmp_path):
    u, y = known_network("current", 300)
    _, report = ct.fit_signal(y, DT, inputs=u, neurons=3, steps=0, hold_out=0.0)
    assert report.kind == "linear" and np.all(np.isnan(report.held_out_nrmse))
    assert "No samples were held out" in str(report) and report.losses.size == 0
    ct.save(tmp_path / "r", report)
    assert ct.load(tmp_path / "r").verdict == report.verdict
