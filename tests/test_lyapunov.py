"""Lyapunov exponents against the variational equations in SciPy, and what symmetry demands."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import X64
from scipy.integrate import solve_ivp
from systems import DTYPE, SYSTEMS, normal

import ctrnn_jax as ct

EPS = float(jnp.finfo(DTYPE).eps)


def network(n, seed=4, **options):
    return ct.CTRNN(
        ct.DenseSkew.init(jax.random.key(seed), n, scale=2.0), form="current", **options
    )


@pytest.mark.skipif(not X64, reason="the orbits would part")
@pytest.mark.parametrize(
    "solver", [diffrax.Tsit5(), ct.PoissonSplitting(6), ct.RK4(), diffrax.Kvaerno5()]
)
def test_finite_time_exponents_are_those_of_the_variational_equations(solver):
    # Without any orthonormalisation on the way: the R of one factorisation at the end.
    n, k, t = 5, 3, 20.0
    rnn, x0 = network(n), normal(1, 2, n, scale=2.0)
    A = np.asarray(rnn.weights.as_matrix())
    frame = np.linalg.qr(np.asarray(jax.random.normal(jax.random.key(0), (n, k), DTYPE)))[0]

    def velocity(t, y):
        x, V = y[:n], y[n:].reshape(n, k)
        return np.concatenate([A @ np.tanh(x), (A @ (V / np.cosh(x)[:, None] ** 2)).ravel()])

    found = ct.lyapunov_spectrum(rnn, x0, dt=0.01, num_steps=2000, k=k, solver=solver, qr_every=7)
    assert found.shape == (2, k)
    for x, exponents in zip(np.asarray(x0), found, strict=True):
        end = solve_ivp(
            velocity, (0, t), np.concatenate([x, frame.ravel()]), "DOP853", rtol=1e-12, atol=1e-12
        ).y[:, -1]
        expected = np.log(np.abs(np.diag(np.linalg.qr(end[n:].reshape(n, k))[1]))) / t
        np.testing.assert_allclose(exponents, -np.sort(-expected), atol=2e-5)


@pytest.mark.long
def test_symmetries_of_a_chaotic_network():
    rnn, x0 = network(8), normal(2, 4, 8, scale=3.0)
    found = np.asarray(
        ct.lyapunov_spectrum(rnn, x0, dt=0.1, num_steps=20_000, solver=ct.PoissonSplitting())
    )
    assert found[:, 0].min() > 0.02
    # Steps that keep volume, and a pair for each exponent, up to log(t)/t.
    np.testing.assert_allclose(found.sum(axis=1), np.zeros(4), atol=100 * EPS)
    np.testing.assert_allclose(found, -found[:, ::-1], atol=0.012)
    assert np.all(np.diff(found) <= 0)


@pytest.mark.parametrize(
    "rnn",
    [
        ct.CTRNN(ct.BlockSkew(jnp.asarray([2.0]))),
        network(3),
        ct.CTRNN(network(9).weights, ct.Linear()),
        ct.CTRNN(ct.BlockSkew(jnp.asarray([1.0, 3.0]))),
    ],
    ids=["two", "three", "linear", "blocks"],
)
@pytest.mark.sampled(4)
def test_what_is_integrable_has_no_exponents(rnn):
    x0 = normal(3, 3, rnn.size, scale=2.0)
    found = ct.lyapunov_spectrum(rnn, x0, dt=0.1, num_steps=20_000, transient=100)
    linear = isinstance(rnn.activation, ct.Linear)
    assert jnp.max(jnp.abs(found)) < (1e-4 if linear else 0.008)


def test_a_leak_is_the_exponent_of_a_network_at_rest():
    # x' = A x - γ x: all exponents are -γ.
    rnn = ct.CTRNN(network(4).weights, ct.Linear(), leak=jnp.asarray(0.3))
    found = ct.lyapunov_spectrum(rnn, normal(0, 4), dt=0.05, num_steps=1003, qr_every=10)
    np.testing.assert_allclose(found, np.full(4, -0.3), rtol=1e-5 + 200 * EPS)


@pytest.mark.long
def test_shapes_batches_and_lost_orbits():
    rnn, x0 = network(6), normal(5, 2, 3, 6)
    options = {"dt": 0.1, "num_steps": 25}
    found = ct.lyapunov_spectrum(rnn, x0, k=2, **options)
    assert found.shape == (2, 3, 2) and found.dtype == DTYPE
    alone = ct.lyapunov_spectrum(rnn, x0[1, 2], k=2, **options)
    np.testing.assert_allclose(alone, found[1, 2], rtol=0, atol=1e3 * EPS)
    assert ct.lyapunov_spectrum(rnn, x0[:0], **options).shape == (0, 3, 6)
    lost = ct.lyapunov_spectrum(rnn, x0.at[0, 0, 0].set(jnp.nan), **options)
    assert jnp.isnan(lost[0, 0]).all() and jnp.isfinite(lost[0, 1:]).all()
    # Networks vmapped are networks one by one.
    weights = jnp.stack([network(6, seed).weights.W for seed in (1, 2)])

    def largest(W):
        return ct.lyapunov_spectrum(ct.CTRNN(ct.DenseSkew(W)), x0[0, 0], k=1, **options)

    each = jnp.stack([largest(W) for W in weights])
    np.testing.assert_allclose(jax.vmap(largest)(weights), each, rtol=0, atol=1e3 * EPS)


def test_lowers_for_cuda():
    def spectrum(rnn, x0):
        return ct.lyapunov_spectrum(rnn, x0, dt=0.1, num_steps=25, transient=5)

    rnn = SYSTEMS["rate tanh n=20"]
    jax.jit(spectrum).trace(rnn, normal(0, 3, 20)).lower(lowering_platforms=("cuda",))
