"""Additive noise: its law, its order, and what it depends on."""

from functools import partial

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm
from systems import DTYPE, normal
from test_inputs import EPS, float64_only, network, traced_of

import ctrnn_jax as ct
from ctrnn_jax._simulate import run as run_module


@pytest.mark.by_default(0)
def test_ornstein_uhlenbeck_paths_have_their_mean_and_variance():
    leak, s, T, steps, paths = 0.5, 0.3, 2.0, 200, 4096
    rnn = network(activation=ct.Linear(), bias=False, leak=leak)
    x0 = jnp.broadcast_to(normal(3, 4), (paths, 4))
    run = ct.simulate(rnn, x0, dt=T / steps, num_steps=steps, save_every=steps,
                      solver=diffrax.ShARK(), noise=s, key=jax.random.key(0))  # fmt: skip
    x = np.asarray(run.xs[:, -1], float)
    A = np.asarray(rnn.weights.as_matrix(), float)
    mean = expm((A - leak * np.eye(4)) * T) @ np.asarray(x0[0], float)
    variance = s**2 * (1 - np.exp(-2 * leak * T)) / (2 * leak)
    covariance = np.cov(x.T)
    assert np.all(np.abs(x.mean(0) - mean) <= 3 * np.sqrt(variance / paths))
    assert np.all(np.abs(np.diag(covariance) - variance) <= 3 * variance * np.sqrt(2 / paths))
    assert np.all(
        np.abs(covariance - np.diag(np.diag(covariance))) <= 4 * variance / np.sqrt(paths)
    )


@float64_only
@pytest.mark.long
def test_euler_maruyama_has_strong_order_one():
    # Its own increments, from a network at rest, summed for longer steps of the same path.
    rnn, x0, paths, fine = network("current"), normal(3, 4), 64, 512
    key, sigma = jax.random.key(5), 0.4 * normal(6, 4, 3)
    still = ct.CTRNN(ct.DenseSkew(jnp.zeros((4, 4), DTYPE)), ct.Linear())
    solve = partial(
        ct.simulate, dt=1 / fine, num_steps=fine, solver=diffrax.Euler(), noise=sigma, key=key
    )
    moves = np.diff(np.asarray(solve(still, jnp.zeros((paths, 4), DTYPE)).xs), axis=1)
    f = jax.vmap(lambda x: rnn(0.0, x))

    def path(steps):
        x = jnp.broadcast_to(x0, (paths, 4))
        for k in range(steps):
            each = fine // steps
            x = x + f(x) / steps + moves[:, k * each : (k + 1) * each].sum(1)
        return x

    np.testing.assert_allclose(
        solve(rnn, jnp.broadcast_to(x0, (paths, 4))).xs[:, -1], path(fine), atol=1e-12
    )
    # What halving the steps changes is of the order of the error itself.
    counts = [16, 32, 64, 128]
    errors = [float(jnp.mean(jnp.linalg.norm(path(k) - path(2 * k), axis=1))) for k in counts]
    slope = -np.polyfit(np.log2(counts), np.log2(errors), 1)[0]
    assert abs(slope - 1) < 0.1


NOISY = [diffrax.Euler(), diffrax.Heun(), diffrax.SEA(), diffrax.ShARK(), diffrax.EulerHeun()]


@pytest.mark.sampled(5)
@pytest.mark.parametrize("solver", NOISY, ids=lambda s: type(s).__name__)
@pytest.mark.by_default(0)
def test_noise_depends_on_key_trajectory_and_step_alone(solver, monkeypatch):
    rnn, x0, sigma = network(), normal(3, 8, 4), 0.3 * normal(6, 4, 2)
    solve = partial(ct.simulate, rnn, dt=0.05, num_steps=24, solver=solver, noise=sigma,
                    key=jax.random.key(1), inputs=normal(4, 24, 2))  # fmt: skip
    whole = solve(x0)
    spread = np.asarray(
        whole.xs[:, -1]
        - ct.simulate(rnn, x0, dt=0.05, num_steps=24, inputs=normal(4, 24, 2)).xs[:, -1]
    )
    assert np.all(np.std(spread, axis=0) > 0.05) and len(np.unique(spread)) == spread.size
    same = [
        (solve(x0[:3]).xs, whole.xs[:3]),
        (solve(x0, save_every=6).xs, whole.xs[:, ::6]),
        (solve(x0, mesh=ct.batch_mesh(jax.devices()[:2])).xs, whole.xs),
        (solve(x0[0]).xs, whole.xs[0]),
        (solve(x0.reshape(2, 4, 4)).xs.reshape(8, -1, 4), whole.xs),
    ]
    monkeypatch.setattr(run_module, "block_size", lambda *_: 2)
    same.append((jax.jit(solve)(x0[:7]).xs, whole.xs[:7]))
    for a, b in same:
        np.testing.assert_allclose(a, b, atol=100 * EPS)
    other = ct.simulate(
        rnn, x0, dt=0.05, num_steps=24, solver=solver, noise=sigma, key=jax.random.key(2)
    )
    assert jnp.max(jnp.abs(other.xs - whole.xs)) > 0.1


@float64_only
@pytest.mark.sampled(3)
@pytest.mark.parametrize("solver", NOISY[:3], ids=lambda s: type(s).__name__)
@pytest.mark.by_default(0)
def test_gradients_with_noise_are_those_of_finite_differences(solver):
    traced, static = traced_of(network(), "shared")
    traced["noise"] = 0.3 * normal(6, 4)

    def f(traced):
        run = ct.simulate(
            eqx.combine(traced["rnn"], static), traced["x0"], dt=traced["dt"], num_steps=24,
            solver=solver, inputs=traced["u"], noise=traced["noise"], key=jax.random.key(1),
        )  # fmt: skip
        return jnp.sum(jnp.sin(run.xs) ** 2)

    direction = jax.tree.map(lambda a: normal(11, *a.shape), traced)
    gradient = jax.tree.leaves(jax.grad(f)(traced))
    found = sum(jnp.sum(a * b) for a, b in zip(gradient, jax.tree.leaves(direction), strict=True))
    h, f = 1e-6, jax.jit(f)
    ahead, behind = (jax.tree.map(lambda a, d, s=s: a + s * d, traced, direction) for s in (h, -h))
    assert abs((f(ahead) - f(behind)) / (2 * h) - found) <= 1e-6 * abs(found)
