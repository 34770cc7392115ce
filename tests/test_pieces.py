"""Steps from kink to kink against adaptive ones across them."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import X64
from scipy.linalg import expm
from systems import DTYPE, normal

import ctrnn_jax as ct
from ctrnn_jax._analysis.beside import Beside
from ctrnn_jax._analysis.floquet import once_around
from ctrnn_jax._analysis.pieces import once_around_exactly

EPS = float(jnp.finfo(DTYPE).eps)


class Stairs(ct.HardTanh):
    """Three kinks, and slopes 0.5, 1, 2 and 0 between them."""

    kinks = (-0.5, 0.25, 1.0)

    def __call__(self, z):
        low, high = jnp.minimum(z + 0.5, 0), jnp.clip(z - 0.25, 0, 0.75)
        return 0.5 * low + jnp.clip(z, -0.5, 0.25) + 2 * high

    def derivative(self, z):
        slope = jnp.where(z < -0.5, 0.5, jnp.where(z < 0.25, 1, jnp.where(z < 1, 2, 0)))
        return jnp.where(jnp.isnan(z), z, slope)


class Smooth(ct.HardTanh):
    def __call__(self, z):
        return jnp.tanh(z)


def test_kinks_are_those_of_the_class_that_has_the_formula():
    class Named(ct.HardTanh):
        pass

    kinks = [a.kinks for a in (ct.Tanh(), ct.HardTanh(), ct.ReLU(), Stairs(), Smooth(), Named())]
    assert kinks == [(), (-1.0, 1.0), (0.0,), (-0.5, 0.25, 1.0), (), (-1.0, 1.0)]


def ways(rnn, x0):
    here, size = Beside(rnn.prepared(), x0), jnp.ones((), DTYPE)

    def generally(y, T):
        moved, M = once_around(here, y[None], T[None], size, diffrax.ForwardMode())
        return moved[0], M[0]

    return jax.jit(lambda y, T: once_around_exactly(here, y, T, size)), jax.jit(generally)


def same(found, expected, size=1.0):
    moved, M = (float(jnp.max(jnp.abs(a))) for a in expected)
    atol = 1e-11 if X64 else 1e-4
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=atol * max(size, moved))
    np.testing.assert_allclose(found[1], expected[1], rtol=0, atol=(1e-6 if X64 else 5e-3) * M)


@pytest.mark.parametrize("activation", [ct.HardTanh(), ct.ReLU(), Stairs()], ids=type)
@pytest.mark.parametrize("form", ["rate", "current"])
@pytest.mark.parametrize("n", [2, 3, 12])
@pytest.mark.sampled(7)
@pytest.mark.by_default(1)
def test_steps_from_kink_to_kink(n, form, activation):
    rnn = ct.CTRNN(ct.DenseSkew.init(jax.random.key(n), n, scale=2.0), activation, form)
    exactly, generally = ways(rnn, normal(1, n, scale=0.3))
    y, T = normal(2, n, scale=1.2), jnp.array(6.0, DTYPE)
    same(exactly(y, T), generally(y, T))
    several = jnp.stack([y, 2 * y, 0.01 * y]), jnp.array([6.0, 3.0, 0.0], DTYPE)
    for a, b in zip(
        zip(*jax.vmap(exactly)(*several), strict=True),
        map(generally, *several),
        strict=True,
    ):
        same(a, b)
    # In another unit of time; in the rate form of states, too.
    for unit in (1e-6, 1e6):
        other = ct.CTRNN(ct.DenseSkew(rnn.weights.W * unit), activation, form)
        by = 1 / unit if form == "rate" else 1.0
        exactly_there, _ = ways(other, normal(1, n, scale=0.3) * by)
        moved, M = exactly_there(y * by, T / unit)
        same((moved / by, M), exactly(y, T))
    assert jnp.isnan(exactly(y.at[0].set(jnp.nan), T)[0]).any()
    assert jnp.isnan(exactly(y, T * jnp.nan)[0]).all()


def test_kinks_that_come_together_and_states_that_begin_at_one():
    rnn = ct.CTRNN(ct.BlockSkew(jnp.array([2.0, 2.0])), ct.HardTanh(), "current")
    exactly, generally = ways(rnn, jnp.zeros(4, DTYPE))
    T = jnp.array(5.0, DTYPE)
    for x in ([1.5, 0.2, 1.5, 0.2], [1.0, 0.0, -1.0, 1.0], [0.6, 0.8, 0.8, 0.6]):
        y = jnp.array(x, DTYPE)
        same(exactly(y, T), generally(y, T))


@pytest.mark.skipif(not X64, reason="as short as float64 can tell")
@pytest.mark.parametrize("beyond", [1e-9, -1e-9])
def test_kinks_that_are_only_touched(beyond):
    """By a circle of radius 1 + beyond, each for τ = 2 √(2 beyond)/ω: M to first order in τ."""
    omega, T = 2.0, 5.0
    rnn = ct.CTRNN(ct.BlockSkew(jnp.array([omega])), ct.HardTanh(), "current")
    x = (1 + beyond) * jnp.array([0.6, 0.8])
    _, M = ways(rnn, jnp.zeros(2))[0](x, jnp.array(T))
    A = np.asarray(rnn.weights.as_matrix())
    to_axis = np.arctan2(0.8, 0.6) * np.sign(A[1, 0])
    times = (np.arange(-20, 20) * np.pi / 2 - to_axis) / omega
    expected = expm(A * T)
    for t in times[(times > 0) & (times < T)]:
        at_kink = np.abs(expm(A * t) @ np.asarray(x)) > 0.9
        tau = 2 * np.sqrt(2 * max(beyond, 0)) / omega
        expected -= tau * expm(A * (T - t)) @ (A * at_kink) @ expm(A * t)
    np.testing.assert_allclose(M, expected, rtol=0, atol=1e-7)
