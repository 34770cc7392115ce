"""What is conserved is, to rounding and for every network; what is not is not."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import X64
from jax.flatten_util import ravel_pytree

import ctrnn_jax as ct

FLOAT = jnp.result_type(float)
EPS = float(jnp.finfo(FLOAT).eps)
ACTIVATIONS = {
    "tanh": ct.Tanh(),
    "hard_tanh": ct.HardTanh(),
    "linear": ct.Linear(),
    "arctan": ct.Arctan(),
    "erf": ct.Erf(),
    "sin": ct.Sin(),
    "sigmoid": ct.Sigmoid(),
    "relu": ct.ReLU(),
    "exp": ct.Exp(),
    "custom": ct.CustomActivation(lambda z: jnp.sin(z) + z, odd=True),
}
FORMS = ("rate", "current")


def rate_of_change(rnn, x):
    """dE/dt along the vector field, and the size |∇E| |x'| that it cancels from."""

    @eqx.filter_jit
    def both(rnn, x):
        v = rnn(0.0, x)
        _, rate = jax.jvp(lambda x: ct.energy(rnn, x), (x,), (v,))
        return rate, jnp.linalg.norm(jax.grad(lambda x: ct.energy(rnn, x))(x)), jnp.linalg.norm(v)

    rate, slope, speed = both(rnn, x)
    return float(rate), float(slope * speed)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.sampled(13)
def test_energy_is_conserved(name, form, bias, key):
    n = 5  # odd: A is singular, and the bias is still in its range
    weights = ct.DenseSkew.init(key, n, scale=2.0)
    b = None
    if bias:
        b = weights.matvec(jax.random.normal(jax.random.key(1), (n,)))
    rnn = ct.CTRNN(weights, ACTIVATIONS[name], form, b)
    x = jax.random.normal(jax.random.key(2), (n,))
    rate, scale = rate_of_change(rnn, x)
    assert scale > 0.1
    assert abs(rate) < 200 * EPS * scale


@pytest.mark.parametrize("cls", [ct.BlockSkew, ct.BipartiteSkew, ct.LowRankSkew])
@pytest.mark.parametrize("form", FORMS)
def test_energy_is_conserved_by_every_structure(cls, form, key):
    rnn = ct.CTRNN(cls.init(key, 8), form=form)
    rate, scale = rate_of_change(rnn, jax.random.normal(key, (8,)))
    assert abs(rate) < 50 * EPS * scale


@pytest.mark.parametrize("form", FORMS)
def test_energy_changes_without_skew_symmetry_or_with_leak(form, key):
    x = jax.random.normal(key, (6,))
    dense = ct.CTRNN(ct.DenseWeights.init(key, 6), form=form)
    W = np.asarray(dense.weights.W, float)
    sigma = np.tanh(W @ np.asarray(x, float) if form == "rate" else np.asarray(x, float))
    rate, scale = rate_of_change(dense, x)
    assert abs(rate) > 1e-2 * scale
    np.testing.assert_allclose(rate, sigma @ W @ sigma, rtol=1e3 * EPS)

    leaky = ct.CTRNN(ct.DenseSkew.init(key, 6), form=form, leak=0.5)
    z = np.asarray(leaky.preactivation(x), float)
    rate, _ = rate_of_change(leaky, x)
    np.testing.assert_allclose(rate, -0.5 * np.tanh(z) @ z, rtol=1e3 * EPS)


def test_energy_by_hand():
    rnn = ct.CTRNN(ct.BlockSkew(jnp.asarray([2.0])), bias=jnp.asarray([0.1, -0.2]))
    x = jnp.asarray([[0.3, -0.4], [0.0, 1.5]])
    X = np.asarray(x, float)
    z = np.stack([2 * X[:, 1] + 0.1, -2 * X[:, 0] - 0.2], 1)
    np.testing.assert_allclose(ct.energy(rnn, x), np.log(np.cosh(z)).sum(1), rtol=16 * EPS)

    rnn = ct.CTRNN(rnn.weights, form="current", bias=rnn.bias)
    c = np.array([0.1, 0.05])  # [[0, 2], [-2, 0]] c = b
    expected = np.log(np.cosh(X)).sum(1) + X @ c
    np.testing.assert_allclose(ct.energy(rnn, x), expected, rtol=32 * EPS)
    assert ct.energy(rnn, x[0]).shape == ()
    assert ct.energy(rnn, jnp.zeros((3, 4, 2))).shape == (3, 4)


def test_gradient_of_energy_with_bias(key):
    """With respect to weights and bias, through the pseudo-inverse."""
    rnn = ct.CTRNN(ct.DenseSkew.init(key, 4), form="current", bias=jnp.ones(4))
    x = np.array([0.3, -1.0, 0.4, 0.2])
    gradient = eqx.filter_grad(ct.energy)(rnn, jnp.asarray(x, FLOAT))

    def by_hand(W, b):
        return np.log(np.cosh(x)).sum() + np.linalg.solve(W - W.T, b) @ x

    W, b = np.asarray(rnn.weights.W, float), np.ones(4)
    h = 1e-6
    for i, j in ((0, 1), (3, 2)):
        d = np.zeros((4, 4))
        d[i, j] = h
        expected = (by_hand(W + d, b) - by_hand(W - d, b)) / (2 * h)
        np.testing.assert_allclose(gradient.weights.W[i, j], expected, rtol=1e-7 + 1e3 * EPS)
    d = np.array([0, h, 0, 0])
    expected = (by_hand(W, b + d) - by_hand(W, b - d)) / (2 * h)
    np.testing.assert_allclose(gradient.bias[1], expected, rtol=1e-7 + 1e3 * EPS)


def test_bias_outside_the_range_of_A(key):
    weights = ct.DenseSkew.init(key, 3)
    A = np.asarray(weights.as_matrix(), float)
    kernel = np.array([A[1, 2], -A[0, 2], A[0, 1]])
    rnn = ct.CTRNN(weights, form="current", bias=jnp.asarray(kernel, FLOAT))
    x = jnp.ones(3)
    with pytest.raises(ValueError, match=r"bias.*range of A"):
        ct.energy(rnn, x)
    assert jnp.isnan(eqx.filter_jit(ct.energy)(rnn, x))
    # The rate form takes any bias.
    assert jnp.isfinite(ct.energy(ct.CTRNN(weights, bias=rnn.bias), x))


CASIMIRS = [
    (ct.DenseSkew, {}, 2, 0),
    (ct.DenseSkew, {}, 3, 1),
    (ct.DenseSkew, {}, 9, 1),
    (ct.BipartiteSkew, {"p": 2}, 7, 3),
    (ct.LowRankSkew, {"rank": 2}, 8, 4),
    (ct.LowRankSkew, {"rank": 2}, 5, 1),
    (ct.BlockSkew, {}, 6, 0),
]


@pytest.mark.parametrize(("cls", "options", "n", "count"), CASIMIRS)
@pytest.mark.sampled(2)
def test_casimirs(cls, options, n, count, key):
    rnn = ct.CTRNN(cls.init(key, n, **options), form="current")
    x = jax.random.normal(jax.random.key(1), (n,))
    K = jax.jacobian(lambda x: ct.casimirs(rnn, x))(x)
    assert K.shape == (count, n)
    np.testing.assert_allclose(K @ K.T, np.eye(count), atol=32 * EPS)
    np.testing.assert_allclose(rnn.weights.as_matrix() @ K.T, np.zeros((n, count)), atol=64 * EPS)
    np.testing.assert_allclose(ct.casimirs(rnn, x), K @ x, atol=32 * EPS)
    _, rate = jax.jvp(lambda x: ct.casimirs(rnn, x), (x,), (rnn(0.0, x),))
    np.testing.assert_allclose(rate, np.zeros(count), atol=64 * EPS)
    # As many where only the kind of weights is known.
    assert eqx.filter_jit(ct.casimirs)(rnn, jnp.ones((4, 3, n))).shape == (4, 3, count)


@pytest.mark.skipif(not X64, reason="finite differences")
@pytest.mark.parametrize(("cls", "options", "n", "count"), CASIMIRS[1:-1])
@pytest.mark.sampled(2)
@pytest.mark.by_default(0)
def test_casimirs_turn_with_the_weights(cls, options, n, count, key):
    """|K x|² does not hang on which basis; of more vectors than one its second derivative would."""
    x = jax.random.normal(jax.random.key(1), (n,))
    weights, build = ravel_pytree(cls.init(key, n, **options))
    way, h = jax.random.normal(jax.random.key(2), weights.shape), 2e-5

    def size(t):
        return jnp.sum(ct.casimirs(ct.CTRNN(build(weights + t * way), form="current"), x) ** 2)

    slope = jax.grad(size)
    for t in (0.0, 0.1):
        np.testing.assert_allclose(slope(t), (size(t + h) - size(t - h)) / (2 * h), rtol=1e-6)
    np.testing.assert_allclose(jax.jit(slope)(0.1), slope(0.1), rtol=1e-10)
    if count == 1:
        twice = (slope(h) - slope(-h)) / (2 * h)
        np.testing.assert_allclose(jax.hessian(size)(0.0), twice, rtol=1e-6)


def test_casimirs_of_special_weights_and_of_the_rate_form(key):
    idle = ct.CTRNN(ct.BlockSkew(jnp.asarray([1.0, 0.0])), form="current")
    assert ct.casimirs(idle, jnp.ones(4)).shape == (2,)
    b = jnp.asarray([1.0, 2.0, 3.0])
    rnn = ct.CTRNN(ct.DenseSkew.init(key, 3), bias=b)
    x = jax.random.normal(key, (5, 3))
    np.testing.assert_allclose(
        ct.casimirs(rnn, x), np.broadcast_to(ct.casimirs(rnn, 0 * x[0]), (5, 1)), atol=64 * EPS
    )
    with pytest.raises(ValueError, match="skew-symmetric"):
        ct.casimirs(ct.CTRNN(ct.DenseWeights.init(key, 3)), x)


@pytest.mark.long
def test_energy_drift(key):
    rnn = ct.CTRNN(ct.DenseSkew.init(key, 4))
    xs = jax.random.normal(key, (3, 6, 4))
    E = np.asarray(ct.energy(rnn, xs), float)
    drift = ct.energy_drift(rnn, xs)
    np.testing.assert_allclose(drift, (E - E[:, :1]) / E[:, :1], rtol=32 * EPS, atol=32 * EPS)
    np.testing.assert_array_equal(drift[:, 0], np.zeros(3))
    assert (np.asarray(drift) < 0).any()
    assert (np.asarray(drift) > 0).any()
    # E(0) = 0: no division.
    xs = jnp.stack([jnp.zeros(4), jnp.ones(4)])
    np.testing.assert_allclose(ct.energy_drift(rnn, xs), ct.energy(rnn, xs), rtol=4 * EPS)
    # A negative first energy: the sign is that of the change.
    rnn = ct.CTRNN(ct.BlockSkew(jnp.asarray([1.0])), ct.Sigmoid())
    xs = jnp.stack([jnp.asarray([1.0, -1.0]), jnp.zeros(2)])
    assert ct.energy(rnn, xs[0]) < 0
    np.testing.assert_allclose(ct.energy_drift(rnn, xs)[1], 1.0, rtol=4 * EPS)


@pytest.mark.parametrize(
    ("kind", "reduce"),
    [
        ("rms", lambda d: np.sqrt(np.mean(d**2))),
        ("mean", lambda d: np.mean(np.abs(d))),
        ("max", lambda d: np.max(np.abs(d))),
    ],
)
def test_drift_loss(kind, reduce, key):
    rnn = ct.CTRNN(ct.DenseSkew.init(key, 4))
    xs = jax.random.normal(key, (3, 6, 4))
    drift = np.asarray(ct.energy_drift(rnn, xs), float)
    np.testing.assert_allclose(ct.drift_loss(rnn, xs, kind), reduce(drift), rtol=16 * EPS)

    still = jnp.broadcast_to(xs[:, :1], xs.shape)
    value, gradient = eqx.filter_value_and_grad(lambda a: ct.drift_loss(*a, kind))((rnn, still))
    assert value == 0
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))

    gradient = jax.grad(lambda xs: ct.drift_loss(rnn, xs, kind))(xs)
    d = jax.random.normal(jax.random.key(5), xs.shape)
    h = EPS ** (1 / 3)
    up, down = (float(ct.drift_loss(rnn, xs + s * h * d, kind)) for s in (1, -1))
    np.testing.assert_allclose(
        jnp.sum(gradient * d), (up - down) / (2 * h), rtol=300 * EPS ** (2 / 3)
    )
    with pytest.raises(ValueError, match="kind"):
        ct.drift_loss(rnn, xs, "median")


@pytest.mark.parametrize("form", FORMS)
def test_lowers_for_cuda(form, key):
    weights = ct.DenseSkew.init(key, 5)
    rnn = ct.CTRNN(weights, form=form, bias=weights.matvec(jnp.ones(5)))

    def f(rnn, xs):
        loss, gradient = eqx.filter_value_and_grad(ct.drift_loss)(rnn, xs)
        return loss, gradient, ct.casimirs(rnn, xs), ct.energy(rnn, xs), ct.energy_drift(rnn, xs)

    jax.jit(f).trace(rnn, jnp.ones((3, 5))).lower(lowering_platforms=("cuda",))
