"""Closed orbits against SciPy's shooting, the exact frequencies of two neurons, and theory."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import X64
from scipy.integrate import solve_ivp
from scipy.special import erf
from systems import DTYPE, normal

import ctrnn_jax as ct

EPS = float(jnp.finfo(DTYPE).eps)
CLOSED = 1e-11 if X64 else 2e-5  # of the residuals
ENERGIES = jnp.array([1e-3, 0.3, 2.0], DTYPE)
float64 = pytest.mark.skipif(not X64, reason="as exact as float64 can be")


def weights(n, seed=0):
    return ct.DenseSkew.init(jax.random.key(100 * n + seed), n, scale=2.0)


def network(n=5, W=None, c=None, activation=ct.Tanh(), form="current"):  # noqa: B008
    """With the bias A c, so that there is an energy."""
    A = weights(n) if W is None else ct.DenseSkew(W)
    c = normal(9, n, scale=0.3) if c is None else c
    return ct.CTRNN(A, activation, form, bias=A.matvec(c))


SIGMA = {  # σ, σ' and Φ
    "Tanh": (np.tanh, lambda z: np.cosh(z) ** -2.0, lambda z: np.logaddexp(z, -z) - np.log(2)),
    "Arctan": (
        np.arctan,
        lambda z: 1 / (1 + z * z),
        lambda z: z * np.arctan(z) - np.log1p(z * z) / 2,
    ),
    "Erf": (
        erf,
        lambda z: 2 / np.sqrt(np.pi) * np.exp(-z * z),
        lambda z: z * erf(z) + np.expm1(-z * z) / np.sqrt(np.pi),
    ),
    "HardTanh": (
        lambda z: np.clip(z, -1, 1),
        lambda z: (np.abs(z) < 1) * 1.0,
        lambda z: np.where(np.abs(z) < 1, z * z / 2, np.abs(z) - 0.5),
    ),
}


def shooting(rnn, x, T, c):
    """An orbit near x with the energy and Casimirs of x: its period and its monodromy."""
    A, n, rate = np.asarray(rnn.weights.as_matrix(), float), rnn.size, rnn.form == "rate"
    x0 = x = np.asarray(x, float)
    sigma, slope, potential = SIGMA[type(rnn.activation).__name__]
    _, s, vh = np.linalg.svd(A)
    K = vh[s < 1e-10 * s[0]]

    def seen(x):
        return A @ (x + c) if rate else x

    def velocity(s):
        return s if rate else A @ (s + c)

    def energy(x):
        return potential(seen(x)).sum() + (0 if rate else c @ x)

    def both(t, y, piece):
        z = seen(y[:n])
        s, d = (sigma(z), slope(z)) if piece is None else (np.where(piece, piece, z), piece == 0)
        J = d[:, None] * A if rate else A * d
        return np.concatenate([velocity(s), (J @ y[n:].reshape(n, n)).ravel()])

    def kink(j):
        def passed(t, y, piece):
            beyond = np.abs(seen(y[:n])[j]) - 1
            return -beyond if piece[j] else beyond

        passed.terminal, passed.direction = True, 1
        return passed

    def around(x, T):
        """Of hard tanh from kink to kink: a step over one is too inexact for unstable orbits."""
        t, y, z = 0.0, np.concatenate([x, np.eye(n).ravel()]), seen(x)
        piece, kinks, step = None, None, np.inf
        if rnn.activation.kinks:
            step = abs(T) / 100  # where all are saturated, one step would go over two kinks
            piece, kinks = np.where(np.abs(z) > 1, np.sign(z), 0), [kink(j) for j in range(n)]
        while True:
            run = solve_ivp(
                both, (t, T), y, "DOP853", rtol=1e-13, atol=1e-15, events=kinks, args=(piece,),
                max_step=step,
            )  # fmt: skip
            t, y = run.t[-1], run.y[:, -1]
            if run.status == 0:
                return y
            j = next(j for j, times in enumerate(run.t_events) if times.size)
            piece[j] = 0 if piece[j] else np.sign(seen(y[:n])[j])

    for _ in range(6):
        end = around(x, T)
        y, M = end[:n], end[n:].reshape(n, n)
        flow = velocity(sigma(seen(x0)))
        flow = flow / np.linalg.norm(flow)
        left = [y - x, [flow @ (x - x0)], K @ (x - x0), [energy(x) - energy(x0)]]
        zero = np.zeros((1 + len(K), 1))
        rows = [[M - np.eye(n), velocity(sigma(seen(y)))[:, None]], [np.vstack([flow, K]), zero]]
        gradient = A.T @ sigma(seen(x)) if rate else sigma(x) + c
        rows = np.block([*rows, [gradient[None], np.zeros((1, 1))]])
        step = np.linalg.lstsq(rows, -np.concatenate(left), rcond=None)[0]
        x, T = x + step[:-1], T + step[-1]
        if np.abs(step).max() < 1e-13:
            break
    return T, M, 2 + len(K)


def match(a, b):
    """How far each of a is from the nearest of b, at most."""
    return np.abs(np.asarray(a)[:, None] - np.asarray(b)).min(axis=1, initial=np.inf).max(initial=0)


CASES = [
    (n, form, activation)
    for n in (5, 3, 4, 7, 8, 12)
    for activation in (ct.Tanh(), ct.Arctan(), ct.HardTanh(), ct.Erf())
    for form in ("current", "rate")
]


# Where the slowest mode turns back in a fold: that of n = 12 soon after it has touched the kink at
# 1.1055, while others turn 166 to 716 times.
ENDS = {
    (4, "current", ct.HardTanh()): 0.568,
    (5, "current", ct.Erf()): 0.7973,
    (12, "current", ct.HardTanh()): 1.1097,
}


@float64
@pytest.mark.parametrize(("n", "form", "activation"), CASES)
@pytest.mark.sampled(48)
@pytest.mark.by_default(0)
def test_periods_and_multipliers_are_those_of_shooting(n, form, activation):
    c = np.zeros(n) if n > 5 else 0.3 * np.asarray(normal(9, n))
    rnn = network(n, c=jnp.asarray(c), activation=activation, form=form)
    found = ct.nonlinear_modes(rnn, energies=ENERGIES, max_rounds=1000)
    assert found.periods.shape == (n // 2, 3) and found.multipliers.shape == (n // 2, 3, n)
    end = np.full((n // 2, 1), np.inf)
    if (n, form, activation) in ENDS:
        end[0] = ENDS[n, form, activation]
        np.testing.assert_allclose(found.reached[0], end[0, 0], rtol=2e-3)  # a part of a step
    there = np.asarray(ENERGIES) < end
    np.testing.assert_array_equal(np.isfinite(found.periods), there)
    assert found.residuals[there].max() < CLOSED
    rest = ct.energy(rnn, found.fixed_point)
    levels = np.broadcast_to(ENERGIES, found.periods.shape)[there]
    np.testing.assert_allclose(ct.energy(rnn, found.states)[there] - rest, levels, rtol=1e-9)
    for k, e in np.argwhere(there):
        T, M, ones = shooting(rnn, found.states[k, e], float(found.periods[k, e]), c)
        np.testing.assert_allclose(found.periods[k, e], T, rtol=1e-9)
        mu = np.asarray(found.multipliers[k, e])
        assert np.sum(np.abs(mu - 1) < 1e-12) == ones
        rest_of_mu = mu[np.argsort(np.abs(mu - 1))[ones:]]
        expected = np.linalg.eigvals(M)
        expected = expected[np.argsort(np.abs(expected - 1))[ones:]]
        assert max(match(rest_of_mu, expected), match(expected, rest_of_mu)) < 1e-6
        for value in rest_of_mu:
            assert np.min(np.abs(value * rest_of_mu - 1)) < 1e-6  # in pairs
        assert (found.words()[k, e] == "stable") == (np.abs(expected).max(initial=0) < 1 + 1e-4)


@float64
@pytest.mark.long
def test_a_family_that_touches_a_kink_beside_a_resonance_goes_on():
    """M turns as the root of the way beyond it, and so the curve: its steps become very short."""
    W = weights(7)
    omega, v = np.linalg.eigh(1j * np.asarray(W.as_matrix()))
    touch = 1 / np.max(2 * np.abs(v[:, 4])) ** 2  # the energy of the linear mode of |x| = 1
    rnn = ct.CTRNN(W, ct.HardTanh(), form="current")
    found = ct.nonlinear_modes(rnn, 0, energies=[0.99 * touch, 1.1 * touch])
    T = 2 * np.pi / omega[4]
    np.testing.assert_allclose(found.periods[0, 0], T, rtol=1e-12)
    beside = np.abs(found.multipliers[0, 0] - 1)
    assert beside.round(2).tolist().count(0.03) == 2
    assert found.periods[0, 1] > 1.001 * T and found.residuals[0, 1] < CLOSED


@float64
@pytest.mark.long
def test_a_family_is_not_left_for_what_nearly_closes_beside_another():
    """Where one that turns a whole number of times meets it, all between them misses by 1e-8."""
    rnn = network(8, c=jnp.zeros(8), activation=ct.Erf(), form="rate")
    found = ct.nonlinear_modes(rnn, 0, energies=ENERGIES)
    assert found.residuals.max() < CLOSED
    T, _, _ = shooting(rnn, found.states[0, 2], float(found.periods[0, 2]), 0)
    np.testing.assert_allclose(found.periods[0, 2], T, rtol=1e-9)
    assert abs(T - 83.1176) < 1e-4  # 85.45 is what nearly closes, 86.56 another family


@float64
@pytest.mark.long
def test_a_family_is_the_same_whatever_is_asked_of_it():
    """Beside it, from E = 1.5 on, is another: a step at which T would be 33.69 ends on that."""
    for form in ("current", "rate"):
        rnn = ct.CTRNN(ct.DenseSkew.init(jax.random.key(4015), 4, scale=2.0), form=form)
        for energies in ([4.0], jnp.geomspace(0.01, 4, 8)):
            found = ct.nonlinear_modes(rnn, 0, energies)
            np.testing.assert_allclose(found.periods[0, -1], 30.632625320635, rtol=1e-10)


@float64
@pytest.mark.long
def test_orbits_that_magnify_errors_end_no_family():
    """A thousandfold: parts of a turn bear it, whole turns only in float64."""
    rnn = network(9, c=jnp.zeros(9), form="rate")
    found = ct.nonlinear_modes(rnn, 0, energies=[27.0])
    assert found.residuals[0, 0] < CLOSED and jnp.abs(found.multipliers).max() > 1000
    T, _, _ = shooting(rnn, found.states[0, 0], float(found.periods[0, 0]), 0)
    np.testing.assert_allclose(found.periods[0, 0], T, rtol=1e-9)
    rnn = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), rnn)
    found = ct.nonlinear_modes(rnn, 0, energies=[24.0, 27.0])
    assert list(found.words()[0]) == 2 * ["not converged"] and np.isnan(found.periods).all()
    np.testing.assert_allclose(found.reached, 27, rtol=1e-4)


def flow(A, x, T, terms=26):
    """φ_T(x) of x' = A tanh(x), by Taylor series in 80 bits."""
    A, x, left = A.astype(np.longdouble), x.astype(np.longdouble), np.longdouble(T)
    while left > 0:
        X, S, P = (np.zeros((terms + 1, len(x)), np.longdouble) for _ in range(3))
        X[0], S[0] = x, np.tanh(x)
        for k in range(terms):
            X[k + 1] = A @ S[k] / (k + 1)
            P[k] = (k == 0) - np.sum(S[: k + 1] * S[k::-1], axis=0)
            weights = np.arange(1, k + 2, dtype=np.longdouble)[:, None]
            S[k + 1] = np.sum(P[k::-1] * weights * X[1 : k + 2], axis=0) / (k + 1)
        h = min(left, (1e-21 / np.max(np.abs(X[-1]))) ** (np.longdouble(1) / terms))
        x, left = h ** np.arange(terms + 1) @ X, left - h
    return x


@float64
@pytest.mark.long
@pytest.mark.skipif(np.finfo(np.longdouble).eps > 1e-18, reason="no 80 bits here")
def test_an_orbit_whose_errors_grow_a_thousandfold_closes():
    W = np.random.default_rng(3584034901).normal(size=(6, 6)) / 3**0.5
    rnn = ct.CTRNN(ct.DenseSkew(jnp.asarray(W)), form="current")
    found = ct.nonlinear_modes(rnn, 0, energies=[1e-4, 0.6, 10.0])
    x, T = np.asarray(found.states[0, 2]), float(found.periods[0, 2])
    assert np.linalg.norm(ct.monodromy(rnn, x, T)) > 1000
    missed = np.max(np.abs(flow(W - W.T, x, T) - x)) / np.linalg.norm(x)
    assert missed < 3e-13  # 3e-12 were the steps' roundings not kept


@float64
@pytest.mark.parametrize("amplitude", [1e-5, 1e-2])
def test_tangents_beside_a_saturated_fixed_point_keep_volume(amplitude):
    """det M = 1: rounding of the state, which is large beside the way, is none of theirs."""
    W, rest = np.asarray(normal(3, 4, 4)), 3 * np.array([1.0, -1.0, -1.0, 1.0])
    bias = -(W - W.T) @ np.arctan(rest)
    rnn = ct.CTRNN(
        ct.DenseSkew(jnp.asarray(W)), ct.Arctan(), form="current", bias=jnp.asarray(bias)
    )
    M = ct.monodromy(rnn, rest + amplitude * normal(4, 4), 300.0)
    assert abs(np.linalg.det(M) - 1) < 1e-8


@pytest.mark.parametrize("activation", [ct.Tanh(), ct.HardTanh()], ids=["tanh", "hard_tanh"])
@pytest.mark.parametrize("form", ["rate", "current"])
@pytest.mark.sampled(4)
def test_two_neurons_have_the_exact_frequency(activation, form):
    energies = jnp.array([1e-4, 0.3, 0.7, 2.0, 20.0], DTYPE)
    rnn = ct.CTRNN(ct.BlockSkew(jnp.array([-7.0])), activation, form)
    found = ct.nonlinear_modes(rnn, energies=energies)
    exact = ct.orbit_frequency(rnn, found.states)
    np.testing.assert_allclose(found.frequencies, exact, rtol=1e-12 if X64 else 2e-5)
    np.testing.assert_allclose(ct.energy(rnn, found.states[0]), energies, rtol=1e-10 + 64 * EPS)
    np.testing.assert_array_equal(found.words(), np.full((1, 5), "stable"))


@pytest.mark.by_default(0)
def test_a_bias_of_the_rate_form_moves_orbits_and_nothing_else():
    one = ct.nonlinear_modes(network(c=jnp.zeros(5, DTYPE), form="rate"), energies=ENERGIES)
    for scale in (0.3, 0.7, 10.0):
        c = normal(9, 5, scale=scale)
        other = ct.nonlinear_modes(network(c=c, form="rate"), energies=ENERGIES)
        np.testing.assert_allclose(other.periods, one.periods, rtol=1e-11 + 1e3 * EPS)
        np.testing.assert_array_equal(other.status, one.status)
        # It moves them by -c, but for what of c lies in the kernel of A.
        kernel = np.linalg.svd(np.asarray(weights(5).as_matrix(), float))[2][-1]
        moved = np.asarray(c, float) - kernel * (kernel @ np.asarray(c, float))
        atol = 1e-8 + 50 * EPS**0.72 + 50 * EPS * scale
        np.testing.assert_allclose(other.states, np.asarray(one.states) - moved, rtol=0, atol=atol)
        np.testing.assert_allclose(other.fixed_point, -moved, rtol=0, atol=200 * EPS * scale)


@pytest.mark.long
def test_no_result_depends_on_the_unit_of_time():
    for form in ("current", "rate"):
        one = ct.nonlinear_modes(network(form=form), energies=ENERGIES)
        for unit in (1e-6, 1e6):
            c = normal(9, 5, scale=0.3 if form == "current" else 0.3 / unit)
            rnn = network(W=weights(5).W * unit, c=c, form=form)
            other = ct.nonlinear_modes(rnn, energies=ENERGIES)
            np.testing.assert_allclose(other.periods * unit, one.periods, rtol=1e-11 + 1e3 * EPS)
            np.testing.assert_array_equal(other.status, one.status)
            scaled = other.states if form == "current" else other.states * unit
            # States are known as well as their turns close, to eps^0.72.
            np.testing.assert_allclose(scaled, one.states, rtol=0, atol=1e-8 + 50 * EPS**0.72)


@float64
@pytest.mark.parametrize("form", ["current", "rate"])
@pytest.mark.long
@pytest.mark.sampled(2)
def test_derivatives_by_the_implicit_function_theorem(form):
    weight = jnp.array([[1.0, -2.0, 3.0], [0.5, 1.5, -1.0]])

    def loss(W, c, energies):
        rnn = network(W=W, c=c, form=form)
        found = ct.nonlinear_modes(rnn, energies=energies)
        return jnp.sum(weight * found.periods), found

    W, c = weights(5).W, normal(9, 5, scale=0.3)
    gradient = jax.grad(loss, (0, 1, 2), has_aux=True)(W, c, ENERGIES)[0]
    rng = np.random.default_rng(1)
    for size in (1, 0, 0), (0, 1, 0), (0, 0, 0.1):
        ways = [
            s * rng.normal(size=a.shape) * np.abs(a)
            for s, a in zip(size, (W, c, ENERGIES), strict=True)
        ]
        at, h = {}, 1e-4
        for k in (-2, -1, 1, 2):
            moved = [a + k * h * w for a, w in zip((W, c, ENERGIES), ways, strict=True)]
            at[k] = float(loss(*moved)[0])
        expected = (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * h)
        found = sum(np.sum(g * w) for g, w in zip(gradient, ways, strict=True))
        # In the rate form c moves the fixed point, and no period: 0 but for rounding.
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


@float64
@pytest.mark.rare
def test_derivatives_of_states_and_of_the_fixed_point():
    # The state moves across the flow: what is looked at is a function on orbits, here the mean
    # of x² along them, of which the state's share is the gradient by x0 of the integral.
    def along(rnn, x0, T):
        run = ct.simulate(rnn, x0, dt=T / 4000, num_steps=4000, solver=ct.RK4(), save_every=20)
        return jnp.mean(run.xs[:-1] ** 2)

    def loss(W):
        rnn = network(W=W)
        found = ct.nonlinear_modes(rnn, 1, ENERGIES[1:2])
        return along(rnn, found.states[0, 0], found.periods[0, 0]) + found.fixed_point[0]

    W = weights(5).W
    way = np.random.default_rng(2).normal(size=W.shape)
    h = 1e-3
    at = {k: float(loss(W + k * h * way)) for k in (-2, -1, 1, 2)}
    expected = (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * h)
    np.testing.assert_allclose(np.sum(jax.grad(loss)(W) * way), expected, rtol=1e-6)


@pytest.mark.rare
def test_an_ensemble_is_its_networks():
    Ws = jnp.stack([weights(5, seed).W for seed in range(3)])
    c = jnp.zeros(5)

    def periods(W):
        return ct.nonlinear_modes(network(W=W, c=c), energies=ENERGIES).periods

    together = jax.jit(jax.vmap(periods))(Ws)
    alone = jnp.stack([periods(W) for W in Ws])
    np.testing.assert_allclose(together, alone, rtol=1e-11 + 1e3 * EPS)
    gradients = jax.vmap(jax.grad(lambda W: periods(W).sum()))(Ws)
    expected = jax.grad(lambda W: periods(W).sum())(Ws[1])
    np.testing.assert_allclose(gradients[1], expected, rtol=1e-6, atol=1e-6 + 1e4 * EPS)


def blocks(*omega):
    """Weights W (5, 5) of blocks of these frequencies, and one neuron alone."""
    return jnp.zeros((5, 5)).at[jnp.array([0, 2]), jnp.array([1, 3])].set(jnp.asarray(omega))


@pytest.mark.by_default(0)
def test_what_is_not_simple(key):
    zero = jnp.zeros(5)
    # Equal frequencies, one that is a multiple of the other: the blocks' own orbits are there.
    for omega in (1.0, 1.0), (1.0, 3.0):
        rnn = network(W=blocks(*omega), c=zero)
        found = ct.nonlinear_modes(rnn, energies=ENERGIES)
        assert found.residuals.max() < CLOSED
        np.testing.assert_allclose(
            ct.energy(rnn, found.states), np.stack([ENERGIES, ENERGIES]), rtol=1e-9 + 1e3 * EPS
        )
    found = ct.nonlinear_modes(network(W=blocks(0.0, 3.0), c=zero), energies=ENERGIES)
    np.testing.assert_array_equal(found.words()[0], np.full(3, "no mode"))
    assert jnp.isnan(found.periods[0]).all() and jnp.isnan(found.reached[0])
    assert jnp.isfinite(found.periods[1]).all()
    found = ct.nonlinear_modes(network(W=blocks(0.0, 0.0), c=zero), energies=ENERGIES)
    np.testing.assert_array_equal(found.words(), np.full((2, 3), "no mode"))
    # What is not finite stays so; here it cannot be refused, as its value is traced.
    found = jax.jit(lambda W: ct.nonlinear_modes(network(W=W, c=zero), energies=ENERGIES))(
        blocks(jnp.nan, 1.0)
    )
    assert jnp.isnan(found.periods).all() and jnp.isnan(found.multipliers).all()


@pytest.mark.rare
def test_no_fixed_point_no_mode_and_a_family_that_turns_back():
    for activation in (ct.Sigmoid(), ct.ReLU()):
        found = ct.nonlinear_modes(ct.CTRNN(weights(5), activation), energies=ENERGIES)
        assert np.all(found.words() == "no mode") and jnp.isnan(found.periods).all()
    if X64:  # a random network of another dtype is another one
        rnn = network(4, activation=ct.HardTanh())
        found = ct.nonlinear_modes(rnn, 0, [0.2, 0.5, 0.6, 2.0])
        np.testing.assert_array_equal(found.words()[0, 2:], "turned back")
        assert jnp.isnan(found.periods[0, 2:]).all() and jnp.isfinite(found.periods[0, :2]).all()
        assert found.energies[1] <= found.reached[0] < found.energies[2]
        by_energy = jax.grad(lambda e: ct.nonlinear_modes(rnn, 0, e).periods.sum())(found.energies)
        assert jnp.isnan(by_energy[2:]).all()


@pytest.mark.parametrize("form", ["current", "rate"])
@pytest.mark.by_default(0)
def test_fixed_points_and_their_spectra(form, key):
    # Rate form: A x + b = 0; current form: σ(x) = -c. Of 5 neurons, on the leaf of the start.
    for n in (4, 5):
        rnn = network(n, form=form, c=normal(3, n, scale=0.3))
        A, b = (np.asarray(a, float) for a in (rnn.weights.as_matrix(), rnn.bias))
        starts = normal(4, 2, n, scale=0.2)
        found = ct.fixed_points(rnn, starts)
        assert found.xs.shape == found.eigenvalues.shape == (2, n)
        for x, start, values in zip(*(np.asarray(a) for a in (found.xs, starts, found.eigenvalues)),
                                    strict=True):  # fmt: skip
            kernel = np.linalg.svd(A)[2][n - n % 2 :]
            np.testing.assert_allclose(kernel @ (x - start), np.zeros(n % 2), atol=1e-11 + 64 * EPS)
            rest = np.tanh(A @ x + b) if form == "rate" else A @ np.tanh(x) + b
            np.testing.assert_allclose(rest, np.zeros(n), atol=64 * EPS)
            slope = 1 / np.cosh(A @ x + b if form == "rate" else x) ** 2
            J = slope[:, None] * A if form == "rate" else A * slope
            assert match(values, np.linalg.eigvals(J)) < 1e-8 + 1e3 * EPS
            np.testing.assert_allclose(values.real, np.zeros(n), atol=1e3 * EPS)
            assert np.all(np.diff(values.imag) >= -1e3 * EPS)
    gradient = jax.jacrev(lambda c: ct.fixed_points(network(4, c=c, form=form)).xs)(normal(3, 4))
    if form == "current":
        expected = -np.diag(1 / (1 - np.asarray(normal(3, 4)) ** 2))  # x = artanh(-c)
    else:
        expected = -np.eye(4)
    if np.abs(normal(3, 4)).max() < 1 or form == "rate":
        np.testing.assert_allclose(gradient, expected, rtol=1e-9 + 1e4 * EPS, atol=1e4 * EPS)


@pytest.mark.long
def test_what_has_no_fixed_point_and_what_has_many():
    for activation, form in ((ct.Sigmoid(), "rate"), (ct.Exp(), "rate"), (ct.Exp(), "current")):
        found = ct.fixed_points(ct.CTRNN(weights(4), activation, form))
        assert jnp.isnan(found.xs).all() and jnp.isnan(found.eigenvalues).all()
    # c beyond what σ reaches, and a bias outside the range of A.
    rnn = network(4, c=jnp.full(4, 1.2))
    assert jnp.isnan(ct.fixed_points(rnn).xs).all()
    rnn = ct.CTRNN(weights(5), form="current", bias=jnp.ones(5))
    assert jnp.isnan(ct.fixed_points(rnn).xs).all()
    # No constraint: x = W tanh x with three of them, and a leak; starts that are not finite.
    rnn = ct.CTRNN(ct.DenseWeights(jnp.array([[2.0]])), form="current", leak=1.0)
    found = ct.fixed_points(rnn, jnp.array([[0.1], [3.0], [-3.0], [jnp.nan]]))
    root = 1.9150080481545
    np.testing.assert_allclose(found.xs[1:3, 0], [root, -root], rtol=1e-10 + 8 * EPS)
    values = 2 / np.cosh(root) ** 2 - 1
    np.testing.assert_allclose(found.eigenvalues[1:3, 0].real, [values] * 2, rtol=1e-9 + 64 * EPS)
    assert jnp.isnan(found.xs[3]).all()


@pytest.mark.by_default(0)
def test_monodromy_and_multipliers_of_a_given_orbit():
    rnn = ct.CTRNN(ct.BlockSkew(jnp.array([2.0])), ct.Tanh())
    x0 = jnp.array([[0.4, -0.3], [2.0, 0.5]])
    T = 1 / ct.orbit_frequency(rnn, x0)
    M = ct.monodromy(rnn, x0, T)
    # Of two neurons: M = 1 - f(x0) ∇T, as an orbit beside it comes back to it later.
    slopes = jax.vmap(jax.grad(lambda x: 1 / ct.orbit_frequency(rnn, x)))(x0)
    flow = jnp.tanh(x0 @ np.array([[0.0, -2.0], [2.0, 0.0]], dtype=DTYPE))
    expected = np.eye(2) - np.asarray(flow)[:, :, None] * np.asarray(slopes)[:, None]
    np.testing.assert_allclose(M, expected, rtol=1e-8, atol=1e-9 + 1e3 * EPS)
    np.testing.assert_allclose(ct.floquet_multipliers(rnn, x0, T), np.ones((2, 2)), atol=64 * EPS)
    # Not closed, at rest, not finite.
    x0, T = jnp.array([[0.4, 0.3], [0.0, 0.0], [jnp.nan, 1.0]]), jnp.array([1.0, 1.0, 1.0])
    assert jnp.isnan(ct.floquet_multipliers(rnn, x0, T)).all()


@pytest.mark.rare
def test_multipliers_of_modes_again_and_their_derivatives():
    rnn = network(4)
    found = ct.nonlinear_modes(rnn, energies=ENERGIES)
    again = ct.floquet_multipliers(rnn, found.states, found.periods)
    for a, b in zip(again.reshape(-1, 4), found.multipliers.reshape(-1, 4), strict=True):
        assert match(a, b) < 1e-7 + 1e5 * EPS
    # A limit cycle that is none of a conservative network has plain ones: here a linear centre.
    linear = ct.CTRNN(ct.DenseWeights(jnp.array([[0.0, 1.0], [-4.0, 0.0]])), ct.Linear())
    values = ct.floquet_multipliers(linear, jnp.array([1.0, 0.0]), jnp.pi)
    np.testing.assert_allclose(values, np.ones(2), atol=1e-5 + 1e4 * EPS)
    if not X64:
        return

    def loss(W):
        rnn = network(W=W, n=4)
        found = ct.nonlinear_modes(rnn, 0, ENERGIES[1:2])
        M = ct.monodromy(rnn, found.states[0, 0], found.periods[0, 0])
        return jnp.trace(M)  # the sum of the multipliers, whatever the phase

    W = weights(4).W
    way = np.random.default_rng(0).normal(size=W.shape)
    h = 1e-4
    at = {k: float(loss(W + k * h * way)) for k in (-2, -1, 1, 2)}
    expected = (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * h)
    np.testing.assert_allclose(np.sum(jax.grad(loss)(W) * way), expected, rtol=1e-5)


class Timed(ct.CTRNN):
    def __call__(self, t, x, args=None):
        return -x


REFUSED = [
    (lambda r: ct.nonlinear_modes(ct.CTRNN(ct.DenseWeights(jnp.ones((1, 1))))), "skew-symmetric"),
    (lambda r: ct.nonlinear_modes(ct.CTRNN(weights(4), leak=0.1)), "no leak"),
    (lambda r: ct.nonlinear_modes(Timed(weights(4))), "equation of CTRNN"),
    (lambda r: ct.nonlinear_modes(r, 2), "mode: expected below the number of modes, 2, got 2"),
    (lambda r: ct.nonlinear_modes(r, -1), "mode: expected an integer >= 0"),
    (lambda r: ct.nonlinear_modes(r, energies=[0.2, 0.1]), "ascending"),
    (lambda r: ct.nonlinear_modes(r, energies=[0.0, 0.1]), "energies: expected finite numbers > 0"),
    (lambda r: ct.nonlinear_modes(r, energies=jnp.zeros(0)), "at least one number"),
    (lambda r: ct.nonlinear_modes(r, around=jnp.zeros((2, 5))), "around: expected one state"),
    (lambda r: ct.nonlinear_modes(r, max_rounds=0), "max_rounds"),
    (lambda r: ct.fixed_points(r, jnp.zeros(4)), "x0: expected shape"),
    (lambda r: ct.monodromy(r, jnp.zeros((3, 5)), jnp.ones(2)), "period: expected"),
    (lambda r: ct.floquet_multipliers(r, jnp.zeros(5), jnp.array(1)), "period: expected"),
    (lambda r: ct.floquet_multipliers(
        ct.CTRNN(weights(5), form="current", bias=jnp.ones(5)), jnp.zeros(5), 1.0), "range of A"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_what_is_refused(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call(network())


@pytest.mark.long
def test_lowers_for_cuda():
    def loss(rnn):
        return eqx.filter_value_and_grad(
            lambda rnn: ct.nonlinear_modes(rnn, energies=ENERGIES).periods.sum()
        )(rnn)

    jax.jit(loss).trace(network()).lower(lowering_platforms=("cuda",))
