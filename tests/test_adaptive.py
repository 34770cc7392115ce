"""Adaptive steps that are many or small: they end, right or reported."""

import diffrax
import jax.numpy as jnp
import numpy as np
import pytest
from systems import DTYPE

import ctrnn_jax as ct


def oscillator(hz, dtype):
    return ct.CTRNN(ct.BlockSkew.from_hz(jnp.array([hz], dtype)), ct.Linear())


@pytest.mark.parametrize(("hz", "num_steps"), [(100.0, 1), (1e-4, 300)])
@pytest.mark.long
def test_steps_of_a_millionth_of_the_run_end(hz, num_steps):
    """In float32, steps of some ten spacings of time: diffrax alone would not return."""
    x0 = jnp.array([1.0, 0.0], jnp.float32)
    dt = 3e4 / hz / num_steps
    run = ct.simulate(
        oscillator(hz, jnp.float32), x0, dt=dt, num_steps=num_steps, rtol=1e-5, atol=1e-5
    )
    assert int(run.stopped_at) == int(run.unconverged_at) == -1
    assert abs(float(jnp.linalg.norm(run.xs[-1])) - 1) < 0.15


@pytest.mark.parametrize("save_every", [1, 4])
@pytest.mark.long
def test_what_the_grid_is_too_coarse_for_is_reported(save_every):
    x0 = jnp.array([[1.0, 0.0], [0.0, 0.0]], jnp.float32)  # the second is at rest
    settings = {"dt": 1e7, "num_steps": 4, "save_every": save_every, "rtol": 1e-5, "atol": 1e-5}
    run = ct.simulate(oscillator(100.0, jnp.float32), x0, **settings)
    np.testing.assert_array_equal(run.stopped_at, [1, -1])
    np.testing.assert_array_equal(run.unconverged_at, [1, -1])
    np.testing.assert_array_equal(run.xs[:, -1], x0)


@pytest.mark.parametrize("adjoint", ["direct", "checkpointed"])
@pytest.mark.long
def test_more_than_65536_steps_are_made(adjoint):
    rnn = ct.CTRNN(ct.BlockSkew(jnp.array([1.0], DTYPE)), ct.Linear())
    tolerance = 1e-8 if jnp.dtype(DTYPE).itemsize == 8 else 1e-7
    settings = {"rtol": tolerance, "atol": tolerance, "adjoint": adjoint}
    x0, solver = jnp.array([1.0, 0.0], DTYPE), diffrax.Heun()
    run = ct.simulate(rnn, x0, dt=400.0, num_steps=1, solver=solver, **settings)
    assert int(run.stopped_at) == -1
    expected = [np.cos(400.0), -np.sin(400.0)]
    np.testing.assert_allclose(run.xs[-1], expected, atol=1e4 * tolerance)
