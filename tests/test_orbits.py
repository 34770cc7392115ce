"""Frequencies against NumPy's eigenvalues, SciPy's elliptic integral and located periods."""

from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import X64
from scipy import integrate, special

import ctrnn_jax as ct

FLOAT = jnp.result_type(float)
EPS = float(jnp.finfo(FLOAT).eps)
TWO_PI = 2 * np.pi


def log_cosh(z):
    z = np.abs(np.asarray(z, float))
    small = np.minimum(z, 1)
    near = np.log1p(2 * np.sinh(small / 2) ** 2)
    return np.where(z < 1, near, z + np.log1p(np.exp(-2 * z)) - np.log(2))


def elliptic(omega, x, b=(0.0, 0.0)):
    """1/T, T = (4/omega) K(1 - exp(-2 l)), rate form."""
    level = log_cosh(omega * x[1] + b[0]) + log_cosh(-omega * x[0] + b[1])
    return abs(omega) / (4 * special.ellipkm1(np.exp(-2 * level)))


def located(velocity, x, longest):
    """1/T from the first return of x_1 through its initial value in the initial direction."""

    def event(t, y):
        return y[1] - x[1]

    event.direction = np.sign(velocity(0.0, x)[1])
    run = integrate.solve_ivp(
        velocity, (0, longest), x, "DOP853", rtol=1e-12, atol=1e-14, events=event
    )
    returns = run.t_events[0]
    return 1 / returns[returns > 1e-9][0]


def hard_tanh_frequency(omega, x):
    """1/T, T = 4 ∫ du / (omega σ(v)) over a quarter of the level set, by quadrature."""
    z = omega * np.asarray(x, float)[::-1] * [1, -1]
    inside = np.clip(z, -1, 1)
    level = np.sum(inside * (z - inside / 2))
    top = np.sqrt(2 * level) if level <= 0.5 else level + 0.5
    # u = top - w² takes the root out of the integrand where the orbit turns.
    edges = sorted({0.0, top, *(e for e in (1.0, level) if 0 < e < top)})

    def rate(w):
        u = top - w * w
        rest = w * w if u > 1 else w * w * (top + u) / 2 if top <= 1 else level - u * u / 2
        v = np.sqrt(2 * rest) if rest <= 0.5 else rest + 0.5
        return 2 * w / min(v, 1) if w > 0 else 0.0

    pieces = np.sqrt(top - np.array(edges))[::-1]
    total = sum(integrate.quad(rate, a, b, epsabs=0, epsrel=1e-12)[0] for a, b in pairwise(pieces))
    return omega / (4 * total)


def oscillator(omega, **options):
    return ct.CTRNN(ct.BlockSkew(jnp.asarray([omega])), **options)


# From tiny to far beyond saturation.
STARTS = [(1e-4, 0.0), (0.03, -0.01), (0.3, 0.2), (-1.0, 2.0), (5.0, 3.0), (12.0, 0.1)]


@pytest.mark.parametrize("omega", [1.0, 10.0, 25.0, -3.0])
@pytest.mark.parametrize("start", STARTS)
def test_tanh_orbits_and_the_elliptic_integral(omega, start):
    x = jnp.asarray(start, FLOAT)
    expected = elliptic(omega, np.asarray(x, float))
    found = ct.orbit_frequency(oscillator(omega), x)
    assert found.shape == ()
    np.testing.assert_allclose(found, expected, rtol=32 * EPS)
    # The current form is the rate form in z = omega (x_1, -x_0).
    z = jnp.asarray([omega * start[1], -omega * start[0]], FLOAT)
    found = ct.orbit_frequency(oscillator(omega, form="current"), z)
    np.testing.assert_allclose(found, expected, rtol=32 * EPS)


@pytest.mark.parametrize("omega", [1.0, 10.0])
@pytest.mark.parametrize("start", [*STARTS, (0.9, 0.0), (1.0, 0.0), (0.9, -0.8), (1.2, 0.3)])
def test_hard_tanh_orbits_and_quadrature(omega, start):
    rnn = oscillator(omega, activation=ct.HardTanh())
    expected = hard_tanh_frequency(omega, np.asarray(jnp.asarray(start, FLOAT), float))
    found = ct.orbit_frequency(rnn, jnp.asarray(start, FLOAT))
    np.testing.assert_allclose(found, expected, rtol=1e-10 + 8 * EPS)


def test_hard_tanh_gradient_is_smooth_where_its_pieces_meet():
    def by_size(x):
        return 1 / ct.orbit_frequency(oscillator(1.0, activation=ct.HardTanh()), x)

    # An orbit from (u, 0): a circle up to u = 1, where it touches the kinks; saturated from 1.5 on.
    for u, expected in ((0.7, 0.0), (1.0, 0.0), (2.0, 4.0)):
        gradient = jax.grad(by_size)(jnp.asarray([u, 0.0]))
        np.testing.assert_allclose(gradient, [expected, 0], atol=8 * EPS)
    u = 1.3  # l = u - 1/2 = 0.8
    h = 1e-3
    slope = (by_size(jnp.asarray([u + h, 0.0])) - by_size(jnp.asarray([u - h, 0.0]))) / (2 * h)
    gradient = jax.grad(by_size)(jnp.asarray([u, 0.0]))[0]
    np.testing.assert_allclose(gradient, slope, rtol=1e-5 + 1e4 * EPS)


@pytest.mark.parametrize("omega", [1.0, 10.0, 25.0])
@pytest.mark.parametrize("start", [(0.02, 0.01), (0.3, -0.2), (2.0, 1.0)])
def test_tanh_orbits_and_located_periods(omega, start):
    b = np.asarray(jnp.asarray([0.4, -0.2], FLOAT), float)
    start = np.asarray(jnp.asarray(start, FLOAT), float)
    longest = 2 * max(TWO_PI / omega, 4 * np.abs(start).sum() + 4 / omega)
    x = jnp.asarray(start, FLOAT)

    def rate(t, x):
        return [np.tanh(omega * x[1] + b[0]), np.tanh(-omega * x[0] + b[1])]

    rnn = oscillator(omega, bias=jnp.asarray(b, FLOAT))
    expected = located(rate, start, longest)
    np.testing.assert_allclose(ct.orbit_frequency(rnn, x), expected, rtol=1e-10 + 32 * EPS)

    def current(t, x):
        return [omega * np.tanh(x[1]), -omega * np.tanh(x[0])]

    expected = located(current, start, 30 / omega)
    found = ct.orbit_frequency(oscillator(omega, form="current"), x)
    np.testing.assert_allclose(found, expected, rtol=1e-10 + 32 * EPS)


@pytest.mark.parametrize("omega", [1.0, 10.0, 25.0])
def test_limits(omega):
    rnn = oscillator(omega)
    x = jnp.asarray([[0.0, 0.0], [1e-9, 0.0]])
    np.testing.assert_allclose(ct.orbit_frequency(rnn, x), np.full(2, omega / TWO_PI), rtol=4 * EPS)
    # Saturated: a diamond run through at speeds ±1, whatever omega; float32 must not underflow.
    for size in (40.0, 1e3, 1e6):
        x = jnp.asarray([size, 0.7 * size])
        np.testing.assert_allclose(ct.orbit_frequency(rnn, x), 1 / (6.8 * size), rtol=16 * EPS)
    # Any amplitude for a linear network.
    linear = oscillator(omega, activation=ct.Linear())
    x = jnp.asarray([[1e-3, 0.0], [50.0, 3.0]])
    np.testing.assert_allclose(
        ct.orbit_frequency(linear, x), np.full(2, omega / TWO_PI), rtol=4 * EPS
    )


# The last but one start is where the formula for large l takes over (l = 22).
@pytest.mark.parametrize(
    "start", [(1e-3, 2e-3), (0.3, -0.2), (2.0, 1.0), (10.0, 1.69), (30.0, 2.0)]
)
def test_gradients(start):
    omega, b = 2.0, np.array([0.1, -0.3])
    x = np.array(start)
    rnn = oscillator(omega, bias=jnp.asarray(b, FLOAT))
    by_rnn, by_x = eqx.filter_grad(lambda a: ct.orbit_frequency(*a))((rnn, jnp.asarray(x, FLOAT)))
    found = np.concatenate([by_rnn.weights.omega, by_rnn.bias, by_x])
    p = np.array([omega, *b, *x])

    def f(p):
        return elliptic(p[0], p[3:], p[1:3])

    expected = []
    for d in np.eye(5):
        h = 1e-4
        low, high = ((f(p + k * h * d) - f(p - k * h * d)) / (2 * k * h) for k in (2, 1))
        expected.append((4 * high - low) / 3)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=(1e-9 + 64 * EPS) * scale)


def test_gradient_at_rest_is_finite():
    gradient = jax.grad(lambda x: ct.orbit_frequency(oscillator(1.0), x))(jnp.zeros(2))
    np.testing.assert_array_equal(gradient, np.zeros(2))


@pytest.mark.long
def test_shapes(key):
    omega = [1.0, 10.0, 25.0]
    rnn = ct.CTRNN(ct.BlockSkew(jnp.asarray(omega)))
    x = jax.random.normal(key, (4, 2, 6))
    found = ct.orbit_frequency(rnn, x)
    assert found.shape == (4, 2, 3)
    assert ct.orbit_frequency(rnn, x[0, 0]).shape == (3,)
    pairs = np.asarray(x, float).reshape(4, 2, 3, 2)
    for k, w in enumerate(omega):
        expected = elliptic(w, np.moveaxis(pairs[:, :, k], -1, 0))
        np.testing.assert_allclose(found[..., k], expected, rtol=32 * EPS)
        alone = ct.orbit_frequency(oscillator(w), x[..., 2 * k : 2 * k + 2])
        np.testing.assert_allclose(found[..., k], alone, rtol=8 * EPS)
    linear = ct.CTRNN(rnn.weights, ct.Linear())
    assert ct.orbit_frequency(linear, x).shape == (4, 2, 3)
    # Two neurons, however the weights are given.
    for weights in (
        ct.DenseSkew(jnp.asarray([[0.3, 1.5], [-1.0, 0.0]])),
        ct.BipartiteSkew(jnp.asarray([[2.5]])),
        ct.LowRankSkew(jnp.asarray([[1.0], [0.0]]), jnp.asarray([[0.0], [2.5]])),
    ):
        found = ct.orbit_frequency(ct.CTRNN(weights), x[0, :, :2])
        expected = elliptic(2.5, np.asarray(x, float)[0, :, :2].T)
        np.testing.assert_allclose(found, expected, rtol=32 * EPS)


@pytest.mark.long
def test_float32_keeps_its_digits():
    x = np.float32(np.random.default_rng(0).normal(size=(200, 2))) * np.float32(3)
    rnn = ct.CTRNN(ct.BlockSkew(jnp.asarray([5.0], jnp.float32)))
    found = ct.orbit_frequency(rnn, jnp.asarray(x))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, elliptic(5.0, x.T.astype(float)), rtol=1e-6)


NETWORKS = [
    (cls, n)
    for cls in (ct.DenseSkew, ct.BlockSkew, ct.BipartiteSkew, ct.LowRankSkew)
    for n in (2, 7, 12)
    if n % 2 == 0 or cls is not ct.BlockSkew
]


@pytest.mark.parametrize(("cls", "n"), NETWORKS)
@pytest.mark.sampled(3)
def test_natural_frequencies(cls, n, key):
    rnn = ct.CTRNN(cls.init(key, n))
    eigenvalues = np.linalg.eigvals(np.asarray(rnn.weights.as_matrix(), float))
    expected = np.sort(eigenvalues.imag)[(n + 1) // 2 :] / TWO_PI
    found = ct.natural_frequencies(rnn)
    assert found.shape == (n // 2,)
    np.testing.assert_allclose(found, expected, rtol=0, atol=32 * EPS * expected.max())
    # σ'(0): of the sigmoid 1/4.
    slow = ct.natural_frequencies(ct.CTRNN(rnn.weights, ct.Sigmoid()))
    np.testing.assert_allclose(slow, found / 4, rtol=4 * EPS)


@pytest.mark.parametrize("n", [4, 5])
def test_gradient_of_natural_frequencies(n, key):
    rnn = ct.CTRNN(ct.DenseSkew.init(key, n))
    W = np.asarray(rnn.weights.W, float)
    D = np.random.default_rng(1).normal(size=(n, n))

    def by_numpy(W):
        return np.sort(np.linalg.eigvals(W - W.T).imag)[(n + 1) // 2 :] / TWO_PI

    h = 1e-5
    expected = (by_numpy(W + h * D) - by_numpy(W - h * D)) / (2 * h)
    jacobian = eqx.filter_jacrev(ct.natural_frequencies)(rnn).weights.W
    found = np.tensordot(np.asarray(jacobian, float), D, 2)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8 + 200 * EPS)

    blocks = ct.CTRNN(ct.BlockSkew(jnp.asarray([3.0, -1.0])))
    jacobian = eqx.filter_jacrev(ct.natural_frequencies)(blocks).weights.omega
    np.testing.assert_allclose(jacobian * TWO_PI, [[0, -1], [1, 0]], atol=4 * EPS)


@pytest.mark.parametrize("activation", [ct.Tanh(), ct.Linear()])
@pytest.mark.long
def test_lowers_for_cuda(activation, key):
    rnn = oscillator(2.0, activation=activation, bias=jnp.ones(2))

    def orbit(rnn, x):
        return eqx.filter_value_and_grad(ct.orbit_frequency)(rnn, x)

    jax.jit(orbit).trace(rnn, jnp.ones(2)).lower(lowering_platforms=("cuda",))

    def natural(rnn):
        return eqx.filter_value_and_grad(lambda r: jnp.sum(ct.natural_frequencies(r) ** 2))(rnn)

    def returns(rnn, x):
        return eqx.filter_value_and_grad(lambda rnn: jnp.sum(ct.period(rnn, x)))(rnn)

    jax.jit(returns).trace(rnn, jnp.ones((2, 2))).lower(lowering_platforms=("cuda",))

    rnn = ct.CTRNN(ct.DenseSkew.init(key, 5), activation)
    jax.jit(natural).trace(rnn).lower(lowering_platforms=("cuda",))


PERIODIC = [ct.Tanh(), ct.HardTanh(), ct.Linear()]


@pytest.mark.parametrize("activation", PERIODIC, ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("form", ["rate", "current"])
@pytest.mark.sampled(3)
def test_period_is_the_exact_one(activation, form):
    for omega in (1.0, 10.0, -25.0):
        rnn = oscillator(omega, activation=activation, form=form)
        x = jnp.asarray([*STARTS, (1e-12, 0.0), (1e4, 1e3)], FLOAT)
        found = ct.period(rnn, x)
        # At kinks the error of the steps is what the tolerances allow.
        tolerance = 1e-9 if X64 else 2e-4
        np.testing.assert_allclose(found * ct.orbit_frequency(rnn, x), np.ones(8), rtol=tolerance)


@pytest.mark.skipif(not X64, reason="as exact as float64 can be")
@pytest.mark.parametrize("start", [(1e-3, 0.0), (0.3, 0.2), (-1.0, 2.0), (5.0, 3.0)])
def test_period_of_arctan_by_scipy(start):
    omega = 10.0
    rnn = oscillator(omega, activation=ct.Arctan())

    def velocity(t, x):
        return [np.arctan(omega * x[1]), np.arctan(-omega * x[0])]

    longest = 2 * (TWO_PI / omega + 4 * np.abs(start).sum())
    expected = 1 / located(velocity, np.array(start), longest)
    np.testing.assert_allclose(ct.period(rnn, jnp.asarray(start)), expected, rtol=1e-10)


@pytest.mark.skipif(not X64, reason="as exact as float64 can be")
@pytest.mark.parametrize("amplitude", [0.1, 1.0, 4.0])
def test_period_of_three_neurons_by_scipy(amplitude, key):
    rnn = ct.CTRNN(ct.DenseSkew.init(key, 3, scale=2.0), form="current")
    A = np.asarray(rnn.weights.as_matrix())
    states = amplitude * np.random.default_rng(3).normal(size=(4, 3))
    found = ct.period(rnn, jnp.asarray(states))
    for x, T in zip(states, found, strict=True):
        # Here the return is where the distance from the start is least after a way out.
        run = integrate.solve_ivp(
            lambda t, x: A @ np.tanh(x), (0, 1.1 * T), x, "DOP853", rtol=1e-13, atol=1e-14,
            events=lambda t, y, x=x: (y - x) @ (A @ np.tanh(y)),
        )  # fmt: skip
        distance = np.linalg.norm(run.y_events[0] - x, axis=1)
        later = run.t_events[0] > 1e-6
        closest = np.argmin(distance[later])
        assert distance[later][closest] < 1e-9
        np.testing.assert_allclose(T, run.t_events[0][later][closest], rtol=1e-9)


@pytest.mark.skipif(not X64, reason="finite differences")
@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("activation", [ct.Arctan(), ct.HardTanh()], ids=["arctan", "hard_tanh"])
@pytest.mark.long
def test_gradient_of_period(n, activation, key):
    weights = ct.DenseSkew.init(key, n, scale=2.0)
    x = jnp.asarray([[0.8, -0.3, 0.4][:n], [2.0, 1.3, -1.5][:n]])

    def total(W, x):
        return jnp.sum(ct.period(ct.CTRNN(ct.DenseSkew(W), activation, "current"), x))

    by_W, by_x = jax.grad(total, (0, 1))(weights.W, x)
    rng = np.random.default_rng(0)
    for _ in range(3):
        dW, dx, h = rng.normal(size=(n, n)), rng.normal(size=(2, n)), 1e-4
        ends = [total(weights.W + s * h * dW, x + s * h * dx) for s in (-2, -1, 1, 2)]
        expected = (8 * (ends[2] - ends[1]) - (ends[3] - ends[0])) / (12 * h)
        found = np.sum(by_W * dW) + np.sum(by_x * dx)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("form", ["rate", "current"])
@pytest.mark.sampled(2)
def test_gradients_by_what_opens_an_orbit_are_nan(form, key):
    # Where all nearby orbits close everything is finite: kinks and saturation, small and large.
    x = jnp.outer(jnp.asarray([1e-6, 0.3, 3, 20], FLOAT), jnp.asarray([0.8, -0.3, 0.5], FLOAT))

    def total(W, x):
        return jnp.sum(ct.period(ct.CTRNN(ct.DenseSkew(W), ct.HardTanh(), form), x))

    W = ct.DenseSkew.init(key, 3, scale=2.0).W
    assert all(jnp.isfinite(bar).all() for bar in jax.grad(total, (0, 1))(W, x))

    # Four neurons: through a state there is a closed orbit for this network alone.
    W = jnp.asarray([[0, 3, 1, 0], [0, 0, 0.5, 0.8], [0, 0, 0, 5], [0, 0, 0, 0]], FLOAT)
    found = ct.nonlinear_modes(ct.CTRNN(ct.DenseSkew(W), form=form), 1, jnp.asarray([0.4], FLOAT))

    def one(W, x):
        return ct.period(ct.CTRNN(ct.DenseSkew(W), form=form), x)

    T, (by_W, by_x) = jax.jit(jax.value_and_grad(one, (0, 1)))(W, found.states[0, 0])
    np.testing.assert_allclose(T, found.periods[0, 0], rtol=1e-9 if X64 else 1e-5)
    off = ~np.eye(4, dtype=bool)
    assert jnp.isnan(by_W[off]).all() and jnp.isnan(by_x).all()

    # A block alone: its own frequency and state change the period, another's state would open it.
    rnn = ct.CTRNN(
        ct.BlockSkew(jnp.asarray([3.0, 5.0], FLOAT)), form=form, leak=jnp.zeros((), FLOAT)
    )
    x = jnp.asarray([0.5, 0.2, 0, 0], FLOAT)
    by_rnn, by_x = jax.grad(ct.period, (0, 1))(rnn, x)
    alone = ct.CTRNN(ct.BlockSkew(jnp.asarray([3.0], FLOAT)), form=form)
    own, own_x = jax.grad(lambda rnn, x: 1 / ct.orbit_frequency(rnn, x), (0, 1))(alone, x[:2])
    tolerance = {"rtol": 1e-8 if X64 else 1e-4}
    np.testing.assert_allclose(by_rnn.weights.omega, [own.weights.omega[0], 0], **tolerance)
    np.testing.assert_allclose(by_x[:2], own_x, **tolerance)
    assert jnp.isnan(by_x[2:]).all() and jnp.isnan(by_rnn.leak)


@pytest.mark.long
def test_what_has_no_period(key):
    rnn = oscillator(3.0)
    x = jnp.asarray([[0.0, 0.0], [jnp.nan, 1.0], [jnp.inf, 0.0], [0.1, 0.0]])
    np.testing.assert_array_equal(jnp.isfinite(ct.period(rnn, x)), [False, False, False, True])
    assert jnp.isnan(ct.period(rnn, x[3], max_time=2.0))  # it takes 2.1 s
    gradient = jax.grad(lambda x: ct.period(rnn, x).sum())(x)
    assert jnp.isfinite(gradient[3]).all() and jnp.isnan(gradient[:3]).all()
    # Left out of the loss, they leave its gradient finite.
    gradient = eqx.filter_grad(lambda rnn: jnp.nansum(ct.period(rnn, x)))(rnn)
    assert jnp.isfinite(gradient.weights.omega).all()
    # Not odd: no return. More than three neurons: quasi-periodic or chaotic, nearly returning.
    for activation in (ct.Sigmoid(), ct.ReLU()):
        assert jnp.isnan(ct.period(oscillator(3.0, activation=activation), x[3]))
    dense = ct.CTRNN(ct.DenseSkew.init(key, 4), form="current")
    y = jax.random.normal(key, (3, 4))
    assert jnp.all(jnp.isnan(ct.period(dense, y)))
    assert jnp.all(jnp.isfinite(ct.period(dense, y, tolerance=0.5)))
    # Blocks return together, if ever: frequencies 2 : 1.
    blocks = ct.CTRNN(ct.BlockSkew(jnp.asarray([3.0, 1.5])), ct.Linear())
    np.testing.assert_allclose(ct.period(blocks, y), np.full(3, TWO_PI / 1.5), rtol=1e-5)


def around(form, activation, size):
    """A network of two or three neurons, an equilibrium, and the period of small orbits there."""
    if size == 3:  # the kernel of A
        W = np.random.default_rng(0).normal(size=(3, 3))
        A = W - W.T
        kernel = np.array([A[1, 2], -A[0, 2], A[0, 1]])
        omega = np.linalg.norm(kernel)
        weights = ct.DenseSkew(jnp.asarray(W, FLOAT))
        return ct.CTRNN(weights, activation), kernel / omega, TWO_PI / omega
    weights = ct.BlockSkew(jnp.asarray([3.0]))
    if form == "rate":  # A x = -b
        rnn = ct.CTRNN(weights, activation, bias=jnp.asarray([0.4, -0.2]))
        return rnn, np.array([-0.2, -0.4]) / 3, TWO_PI / 3
    if isinstance(activation, ct.Sin):  # the top of the energy
        return ct.CTRNN(weights, activation, form), np.full(2, np.pi), TWO_PI / 3
    c = np.array([0.3, -0.2])
    rnn = ct.CTRNN(weights, activation, form, jnp.asarray([3 * c[1], -3 * c[0]], FLOAT))
    return rnn, -np.arctanh(c), TWO_PI / (3 * np.sqrt(np.prod(1 - c**2)))


EQUILIBRIA = [("rate", ct.Tanh(), 3), ("rate", ct.Tanh(), 2)]
EQUILIBRIA += [("current", ct.Tanh(), 2), ("current", ct.Sin(), 2)]


@pytest.mark.parametrize(("form", "activation", "size"), EQUILIBRIA)
def test_period_at_and_beside_equilibria(form, activation, size):
    rnn, rest, expected = around(form, activation, size)
    aside = np.array([1.0, 0.5, -0.3])[:size]
    amplitudes = [1e-9, 1e-5] if X64 else [1e-3]
    x = jnp.asarray([rest, *(rest + a * aside for a in amplitudes)], FLOAT)
    found = ct.period(rnn, x)
    assert jnp.isnan(found[0])
    np.testing.assert_allclose(found[1:], expected, rtol=1e-6 if X64 else 5e-3)


def test_period_of_the_smallest_orbits():
    x = jnp.asarray([1e-150 if X64 else 1e-30, 0.0])
    np.testing.assert_allclose(ct.period(oscillator(3.0), x), TWO_PI / 3, rtol=100 * EPS)


@pytest.mark.long
def test_the_search_for_a_return_ends(key):
    # Beside an equilibrium of four neurons, and with a leak: nearly for ever, but for max_steps.
    weights = ct.DenseSkew.init(key, 4)
    rest = -np.linalg.solve(np.asarray(weights.as_matrix(), float), np.ones(4))
    x = jnp.asarray(rest + 1e-4 * np.arange(4), FLOAT)
    rnn = ct.CTRNN(weights, bias=jnp.ones(4))
    if X64:  # in float32 rounding closes what nearly does
        assert jnp.isnan(ct.period(rnn, x, max_time=1e30, max_steps=300))
    assert jnp.isnan(
        ct.period(
            eqx.tree_at(lambda r: r.leak, rnn, jnp.asarray(0.1), is_leaf=lambda a: a is None),
            x,
            max_steps=2000,
        )
    )
    # A return that takes about 40 steps, and 10 too few.
    x = jnp.asarray([0.3, 0.2])
    assert jnp.isfinite(ct.period(oscillator(3.0), x, max_steps=200))
    assert jnp.isnan(ct.period(oscillator(3.0), x, max_steps=10))
    with pytest.raises(ValueError, match="max_steps: expected an integer >= 1, got 0"):
        ct.period(oscillator(3.0), x, max_steps=0)


@pytest.mark.long
def test_period_keeps_shapes_and_compiles_once(key):
    rnn = oscillator(2.0)
    x = jax.random.normal(key, (3, 2, 2))
    found = ct.period(rnn, x)
    assert found.shape == (3, 2) and ct.period(rnn, x[:0]).shape == (0, 2)
    np.testing.assert_allclose(ct.period(rnn, x[1, 1]), found[1, 1], rtol=100 * EPS)
    np.testing.assert_allclose(jax.jit(jax.vmap(lambda x: ct.period(rnn, x)))(x), found, rtol=1e-5)
    traces = []

    def seen(z):
        traces.append(z)
        return jnp.tanh(z)

    activation = ct.CustomActivation(seen)
    ct.period(oscillator(2.0, activation=activation), x)
    first = len(traces)
    ct.period(oscillator(3.0, activation=activation), x + 1)
    assert len(traces) == first > 0
