"""Activations against quadrature, differences and NumPy."""

import itertools
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special

import ctrnn_jax as ct
from ctrnn_jax._network.activations import AbstractActivation

FLOAT = jnp.result_type(float)
EPS = float(jnp.finfo(FLOAT).eps)

# Name: the activation, σ in NumPy, kinks.
ACTIVATIONS = {
    "tanh": (ct.Tanh(), np.tanh, ()),
    "hard_tanh": (ct.HardTanh(), lambda z: np.clip(z, -1, 1), (-1, 1)),
    "linear": (ct.Linear(), lambda z: 1.0 * z, ()),
    "arctan": (ct.Arctan(), np.arctan, ()),
    "erf": (ct.Erf(), special.erf, ()),
    "sin": (ct.Sin(), np.sin, ()),
    "sigmoid": (ct.Sigmoid(), special.expit, ()),
    "relu": (ct.ReLU(), lambda z: np.maximum(z, 0.0), (0,)),
    "exp": (ct.Exp(), np.exp, ()),
    "custom": (
        ct.CustomActivation(lambda z: jnp.tanh(z) + 0.1 * z, odd=True),
        lambda z: np.tanh(z) + 0.1 * z,
        (),
    ),
    "softsign": (
        ct.CustomActivation(
            lambda z: z / (1 + jnp.abs(z)),
            lambda z: jnp.abs(z) - jnp.log1p(jnp.abs(z)),
            odd=True,
            bounded=True,
        ),
        lambda z: z / (1 + np.abs(z)),
        (),
    ),
}

# Both sides of every kink and of every switch between branches; none a zero of 1 - cos.
POINTS = np.array([-20, -3.7, -1.01, -0.99, -0.3, -1e-2, 0, 1e-2, 0.4, 0.98, 1.02, 2.5, 9, 20.5])

each = pytest.mark.parametrize("name", ACTIVATIONS)


def integral(sigma, z, kinks=()):
    inner = [p for p in kinks if min(z, 0) < p < max(z, 0)]
    edges = [0.0, *sorted(inner, key=abs), float(z)]
    pieces = itertools.pairwise(edges)
    return sum(integrate.quad(sigma, a, b, epsabs=1e-14, epsrel=1e-12)[0] for a, b in pieces)


@each
def test_value_and_potential(name):
    activation, sigma, kinks = ACTIVATIONS[name]
    z = jnp.asarray(POINTS, FLOAT)
    exact = np.asarray(z, float)
    np.testing.assert_allclose(activation(z), sigma(exact), rtol=16 * EPS, atol=EPS)
    expected = [integral(sigma, v, kinks) for v in exact]
    # 20.5 is rounded to a period of the sine: a relative error of 20 eps is the input's own.
    np.testing.assert_allclose(activation.potential(z), expected, rtol=64 * EPS, atol=1e-13)
    assert activation(z).dtype == activation.potential(z).dtype == z.dtype
    assert activation.derivative(z).dtype == z.dtype
    assert activation.potential(z.reshape(2, 7)).shape == (2, 7)


@each
def test_gradient_of_potential_is_activation(name):
    activation, *_ = ACTIVATIONS[name]
    # The kinks themselves included.
    z = jnp.concatenate([jnp.asarray(POINTS, FLOAT), jnp.asarray([-1.0, 1.0], FLOAT)])
    gradient = jax.vmap(jax.grad(activation.potential))(z)
    np.testing.assert_allclose(gradient, activation(z), rtol=64 * EPS, atol=4 * EPS)
    _, tangent = jax.jvp(activation.potential, (z,), (jnp.ones_like(z),))
    np.testing.assert_allclose(tangent, activation(z), rtol=64 * EPS, atol=4 * EPS)


@each
def test_derivative(name):
    activation, sigma, _ = ACTIVATIONS[name]
    z = np.asarray(jnp.asarray(POINTS, FLOAT), float)
    z = z[z != 0]  # a kink of ReLU
    h = 1e-5
    expected = (sigma(z + h) - sigma(z - h)) / (2 * h)
    scale = np.maximum(1, np.abs(sigma(z)))
    error = np.abs(activation.derivative(jnp.asarray(z, FLOAT)) - expected) / scale
    assert error.max() < 1e-8 + 32 * EPS
    autodiff = jax.vmap(jax.grad(lambda v: activation(v)))(jnp.asarray(z, FLOAT))
    error = np.abs(activation.derivative(jnp.asarray(z, FLOAT)) - autodiff) / scale
    assert error.max() < 64 * EPS


@each
@pytest.mark.parametrize("z", [-1e4, 1e4])
@pytest.mark.sampled(7)
def test_finite_far_away_in_float32(name, z):
    activation, sigma, kinks = ACTIVATIONS[name]
    if name == "exp" and z > 0:
        assert jnp.isposinf(activation(jnp.float32(z)))
        return
    z = jnp.asarray([z], jnp.float32)
    second = jax.vmap(jax.grad(jax.grad(activation.potential)))(z)
    for value in (activation(z), activation.derivative(z), activation.potential(z), second):
        assert value.dtype == jnp.float32
        assert jnp.isfinite(value).all()
    gradient = jax.vmap(jax.grad(activation.potential))(z)
    np.testing.assert_allclose(gradient, sigma(np.asarray(z, float)), rtol=1e-4, atol=1e-30)
    if name != "sin":
        # Split where the action is: a single panel of 10⁴ would miss it.
        edge = np.sign(float(z[0])) * 30
        expected = integral(sigma, edge, kinks) + integrate.quad(sigma, edge, float(z[0]))[0]
        np.testing.assert_allclose(activation.potential(z), expected, rtol=1e-5)


# Not softsign, whose potential is this file's own and cancels.
@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "softsign"])
@pytest.mark.parametrize("z", [-1e-4, 1e-4])
@pytest.mark.parametrize("dtype", [jnp.float32, FLOAT])
@pytest.mark.sampled(9)
def test_potential_near_zero_keeps_its_digits(name, z, dtype):
    activation, sigma, _ = ACTIVATIONS[name]
    z = jnp.asarray(z, dtype)
    at = float(z)
    # 12-point Gauss-Legendre over so short an interval is exact to rounding.
    nodes, weights = np.polynomial.legendre.leggauss(12)
    expected = 0.5 * at * np.sum(weights * sigma(0.5 * at * (nodes + 1)))
    rtol = 16 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(activation.potential(z), expected, rtol=rtol, atol=0)


@each
def test_flags(name):
    activation, sigma, _ = ACTIVATIONS[name]
    z = np.linspace(-60, 60, 601)
    odd = np.allclose(sigma(-z), -sigma(z))
    bounded = np.abs(sigma(z)).max() <= 2
    assert activation.odd is bool(odd)
    assert activation.bounded is bool(bounded)


class Shaped(eqx.Module):
    height: jax.Array
    gain: jax.Array

    def __call__(self, z):
        return self.height * jnp.tanh(self.gain * z)


def test_custom_activation_parameters_have_gradients():
    height, gain, z = 1.3, 0.7, 2.1
    activation = ct.CustomActivation(Shaped(jnp.asarray(height), jnp.asarray(gain)))

    def phi(height, gain):
        return height / gain * np.log(np.cosh(gain * z))

    h = 1e-5
    expected = (
        (phi(height + h, gain) - phi(height - h, gain)) / (2 * h),
        (phi(height, gain + h) - phi(height, gain - h)) / (2 * h),
    )
    gradient = eqx.filter_grad(lambda a: a.potential(jnp.asarray(z)))(activation)
    found = (gradient.fn.height, gradient.fn.gain)
    np.testing.assert_allclose(found, expected, rtol=1e-8 + 32 * EPS)
    # And through the energy of a network that uses it.
    rnn = ct.CTRNN(ct.BlockSkew(jnp.asarray([1.0])), activation)
    gradient = eqx.filter_grad(ct.energy)(rnn, jnp.asarray([z, 0.0]))
    np.testing.assert_allclose(
        gradient.activation.fn.gain, expected[1], rtol=1e-8 + 32 * EPS, atol=0
    )


@pytest.mark.parametrize("arguments", [(1.0,), (jnp.tanh, 1.0)])
def test_custom_activation_wants_functions(arguments):
    with pytest.raises(TypeError, match="function of an array"):
        ct.CustomActivation(*arguments)


@each
def test_lowers_for_cuda(name):
    activation, *_ = ACTIVATIONS[name]

    def f(z):
        return jnp.sum(activation.potential(z)), activation(z), activation.derivative(z)

    z = jnp.ones(3)
    jax.jit(f).trace(z).lower(lowering_platforms=("cuda",))
    jax.jit(jax.grad(lambda z: f(z)[0])).trace(z).lower(lowering_platforms=("cuda",))


class Steeper(AbstractActivation):
    """tanh(k z) with an array k, of whole numbers or not."""

    odd: ClassVar[bool] = True
    bounded: ClassVar[bool] = True
    k: jax.Array

    def __call__(self, z):
        return jnp.tanh(self.k.astype(z.dtype) * z)

    def derivative(self, z):
        return self.k.astype(z.dtype) * (1 - self(z) ** 2)

    def potential(self, z):
        k = self.k.astype(z.dtype)
        return ct.Tanh().potential(k * z) / k


def undone(solver):
    def loss(rnn, x):
        run = ct.simulate(rnn, x, dt=0.1, num_steps=6, solver=solver, adjoint="reversible")
        return jnp.sum(run.xs**2)

    return loss


@pytest.mark.parametrize(
    "loss",
    [undone(ct.PoissonSplitting()),
     pytest.param(undone(ct.DiscreteGradient()), marks=pytest.mark.rare),
     lambda rnn, x: jnp.sum(ct.period(rnn, x))],
    ids=["splitting", "discrete gradient", "period"],
)  # fmt: skip
@pytest.mark.by_default(0)
def test_arrays_of_whole_numbers_are_traced_as_others(loss):
    W, x = jnp.array([[0.0, 1.0], [0.0, 0.0]]), jnp.array([[0.5, 0.2], [1.0, 1.0]])

    def slope(k):
        return jax.grad(lambda W: loss(ct.CTRNN(ct.DenseSkew(W), Steeper(k)), x))(W)

    expected, whole = slope(jnp.asarray(2.0)), jnp.asarray(2)
    for found in (slope(whole), jax.jit(slope)(whole)):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e3 * EPS)
    # Several at once: each its own.
    both = jax.vmap(slope)(jnp.array([1, 2]))
    np.testing.assert_allclose(both[1], expected, rtol=1e-5, atol=1e3 * EPS)
    assert np.abs(both[0] - expected).max() > 0.01
