"""Weight matrices and the network's equation against NumPy."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ctrnn_jax as ct

FLOAT = jnp.result_type(float)
EPS = float(jnp.finfo(FLOAT).eps)
SKEW = (ct.DenseSkew, ct.BlockSkew, ct.BipartiteSkew, ct.LowRankSkew)
SIZES = [
    (cls, n)
    for cls in (*SKEW, ct.DenseWeights, ct.Damped)
    for n in (2, 7, 20, 64, 130)
    if n % 2 == 0 or cls is not ct.BlockSkew
]

each = pytest.mark.parametrize(("cls", "n"), SIZES)


def matrix(weights):
    """A from the parameters, entry by entry where it matters, in float64 NumPy."""
    if isinstance(weights, ct.Damped):
        return matrix(weights.weights) - float(weights.gamma) * np.eye(weights.size)
    p = {name: np.asarray(value, float) for name, value in vars(weights).items()}
    if isinstance(weights, ct.DenseWeights):
        return p["W"]
    if isinstance(weights, ct.DenseSkew):
        return p["W"] - p["W"].T
    if isinstance(weights, ct.LowRankSkew):
        return p["U"] @ p["V"].T - p["V"] @ p["U"].T
    A = np.zeros((weights.size, weights.size))
    if isinstance(weights, ct.BlockSkew):
        for k, omega in enumerate(p["omega"]):
            A[2 * k, 2 * k + 1], A[2 * k + 1, 2 * k] = omega, -omega
        return A
    rows = p["B"].shape[0]
    A[:rows, rows:], A[rows:, :rows] = p["B"], -p["B"].T
    return A


@each
@pytest.mark.sampled(12)
def test_products_agree_with_the_matrix(cls, n, key):
    weights = cls.init(key, n)
    A = matrix(weights)
    assert weights.size == n
    assert weights.as_matrix().shape == (n, n)
    np.testing.assert_allclose(weights.as_matrix(), A, rtol=0, atol=8 * EPS * np.abs(A).max())
    for shape in ((n,), (n, 1), (n, 5), (n, n)):
        x = jax.random.normal(jax.random.key(1), shape)
        y = A @ np.asarray(x, float)
        for w in (weights, weights.prepared()):
            np.testing.assert_allclose(w.matvec(x), y, rtol=0, atol=64 * EPS * np.abs(y).max())
            assert w.matvec(x).shape == shape
            slope = jax.grad(lambda x, w=w: jnp.vdot(w.matvec(x), x**2))(x)
            expected = A.T @ np.asarray(x, float) ** 2 + 2 * np.asarray(x, float) * y
            bound = 128 * EPS * np.abs(expected).max()
            np.testing.assert_allclose(slope, expected, rtol=0, atol=bound)
    assert weights.is_skew is (cls in SKEW)
    if weights.is_skew:
        # To the bit, zero diagonal included.
        for a in (weights.as_matrix(), weights.prepared().as_matrix()):
            np.testing.assert_array_equal(a, -a.T)
        rank = np.linalg.matrix_rank(A, tol=n * EPS * np.linalg.norm(A, 2))
        assert weights.nullity == weights.prepared().nullity == n - rank


@pytest.mark.parametrize("p", [1, 3, 6])
def test_bipartite_groups(p, key):
    weights = ct.BipartiteSkew.init(key, 7, p=p)
    assert weights.B.shape == (p, 7 - p)
    x = jax.random.normal(key, (7,))
    expected = matrix(weights) @ np.asarray(x, float)
    np.testing.assert_allclose(weights.matvec(x), expected, rtol=0, atol=32 * EPS)
    assert weights.nullity == abs(7 - 2 * p)


@each
@pytest.mark.parametrize("dtype", [None, jnp.float32])
@pytest.mark.sampled(10)
def test_dtype(cls, n, dtype, key):
    weights = cls.init(key, n, dtype=dtype)
    expected = FLOAT if dtype is None else dtype
    assert weights.dtype == weights.as_matrix().dtype == expected
    assert weights.matvec(jnp.ones(n, expected)).dtype == expected
    with pytest.raises(TypeError, match="dtype"):
        cls.init(key, n, dtype=jnp.int32)


@pytest.mark.parametrize("cls", [ct.DenseSkew, ct.LowRankSkew, ct.BipartiteSkew, ct.DenseWeights])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_init_statistics(cls, scale, key):
    n = 400
    A = np.asarray(cls.init(key, n, scale=scale).as_matrix(), float)
    off_diagonal = A[~np.eye(n, dtype=bool)]
    # Half of the bipartite matrix is empty, which its larger entries make up for.
    np.testing.assert_allclose(off_diagonal.std(), scale / np.sqrt(n), rtol=0.03)
    assert abs(off_diagonal.mean()) < 0.02 * scale / np.sqrt(n)
    if cls in (ct.DenseSkew, ct.BipartiteSkew):
        np.testing.assert_allclose(np.linalg.norm(A, 2), 2 * scale, rtol=0.05)
    if cls is ct.DenseWeights:
        radius = np.abs(np.linalg.eigvals(A)).max()
        np.testing.assert_allclose(radius, scale, rtol=0.2)
    if cls is ct.LowRankSkew:
        assert np.linalg.matrix_rank(A, tol=1e-4) == 2 * (n // 8)


def test_block_init_and_hertz(key):
    omega = ct.BlockSkew.init(key, 2000, low=2.0, high=5.0).omega
    assert omega.shape == (1000,)
    assert 2.0 <= float(omega.min()) < 2.05
    assert 4.95 < float(omega.max()) < 5.0
    f = jnp.asarray([0.5, 2.0, 7.0])
    weights = ct.BlockSkew.from_hz(f)
    np.testing.assert_allclose(weights.omega, 2 * np.pi * np.asarray(f, float), rtol=2 * EPS)
    np.testing.assert_allclose(ct.natural_frequencies(ct.CTRNN(weights)), f, rtol=4 * EPS)
    # One block turns its plane at omega: the spectrum of the matrix is ±i omega.
    eigenvalues = np.linalg.eigvals(matrix(ct.BlockSkew.from_hz(f[:1])))
    np.testing.assert_allclose(np.sort(eigenvalues.imag), [-np.pi, np.pi], rtol=1e-6)


@pytest.mark.parametrize(
    ("weights", "share"),
    [
        (lambda key: ct.LowRankSkew.init(key, 256, rank=8), 4 * 8 / 256),
        (lambda key: ct.BipartiteSkew.init(key, 256), 0.5),
        (lambda key: ct.BlockSkew.init(key, 256), 2 / 256),
    ],
    ids=["low_rank", "bipartite", "block"],
)
def test_structure_saves_work(weights, share, key):
    def flops(w):
        x = jnp.ones((256, 4))
        return jax.jit(lambda w, x: w.matvec(x)).lower(w, x).compile().cost_analysis()["flops"]

    assert flops(weights(key)) < 1.05 * share * flops(ct.DenseWeights.init(key, 256))


@pytest.mark.parametrize("form", ["rate", "current"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("leak", [None, 0.3, "vector"])
def test_equation(form, bias, leak, key):
    n = 5
    rng = np.random.default_rng(3)
    b = rng.normal(size=n) if bias else np.zeros(n)
    gamma = rng.uniform(0.1, 1, n) if leak == "vector" else np.full(n, leak or 0.0)
    weights = ct.DenseSkew.init(key, n)
    rnn = ct.CTRNN(
        weights,
        ct.Sigmoid(),
        form,
        jnp.asarray(b, FLOAT) if bias else None,
        jnp.asarray(gamma, FLOAT) if leak == "vector" else leak,
    )
    assert (rnn.size, rnn.dtype, rnn.is_conservative) == (n, FLOAT, leak is None)
    A = matrix(weights)
    X = rng.normal(size=(n, 4))

    def sigma(z):
        return 1 / (1 + np.exp(-z))

    columns = []
    for x in X.T:
        v = sigma(A @ x + b) if form == "rate" else A @ sigma(x) + b
        columns.append(v - gamma * x)
    for network in (rnn, rnn.prepared()):
        found = network(0.0, jnp.asarray(X, FLOAT), None)
        np.testing.assert_allclose(found, np.stack(columns, 1), rtol=0, atol=64 * EPS)
        one = network(0.0, jnp.asarray(X[:, 2], FLOAT))
        np.testing.assert_allclose(one, columns[2], rtol=0, atol=64 * EPS)
        z = A @ X + b[:, None] if form == "rate" else X
        found = network.preactivation(jnp.asarray(X, FLOAT))
        np.testing.assert_allclose(found, z, rtol=0, atol=64 * EPS)


def test_defaults_and_conservative_flag(key):
    rnn = ct.CTRNN(ct.DenseSkew.init(key, 3))
    assert rnn.form == "rate"
    assert isinstance(rnn.activation, ct.Tanh)
    assert rnn.bias is None
    assert rnn.leak is None
    assert rnn.is_conservative
    assert not ct.CTRNN(ct.DenseWeights.init(key, 3)).is_conservative


@pytest.mark.parametrize("inner", (*SKEW, ct.DenseWeights, ct.Damped))
def test_damping_moves_the_spectrum_of_any_weights(inner, key):
    weights = ct.Damped(inner.init(key, 6), 0.7)
    before, after = (np.linalg.eigvals(matrix(w)) for w in (weights.weights, weights))
    np.testing.assert_allclose(np.sort(after.real), np.sort(before.real) - 0.7, atol=1e3 * EPS)
    np.testing.assert_allclose(weights.as_matrix(), matrix(weights), rtol=0, atol=8 * EPS)
    assert weights.nullity == weights.prepared().nullity == 0
    assert not ct.CTRNN(weights).is_conservative


def test_euler_steps_of_a_damped_network_are_those_of_the_antisymmetric_one(key):
    """Chang et al. 2019, equation 10: h_t = h_{t-1} + ε tanh((W - Wᵀ - γ I) h_{t-1} + V u + b)."""
    rng, eps, gamma = np.random.default_rng(0), 0.3, 0.2
    W, V, b, u = (rng.normal(size=s) for s in ((5, 5), (5, 2), 5, (9, 2)))
    states = [np.zeros(5)]
    for sample in u:
        h = states[-1]
        states.append(h + eps * np.tanh((W - W.T - gamma * np.eye(5)) @ h + V @ sample + b))
    W, V, b, u = (jnp.asarray(a, FLOAT) for a in (W, V, b, u))
    rnn = ct.CTRNN(ct.Damped(ct.DenseSkew(W), gamma), bias=b, input_weights=V)
    settings = {"dt": eps, "num_steps": 9, "solver": diffrax.Euler(), "inputs": u}
    run = ct.simulate(rnn, jnp.zeros(5, FLOAT), **settings)
    np.testing.assert_allclose(run.xs, states, rtol=0, atol=200 * EPS)


def test_damping_may_be_traced_and_is_differentiated(key):
    W, x = jax.random.normal(key, (4, 4)), jnp.arange(1.0, 5)

    def f(gamma):
        rnn = ct.CTRNN(ct.Damped(ct.DenseSkew(W), gamma), ct.Linear())
        return jnp.sum(rnn.prepared()(0.0, x) ** 2)

    A, gamma = np.asarray(W - W.T, float), jnp.asarray(0.3)
    z = (A - 0.3 * np.eye(4)) @ np.arange(1.0, 5)
    slope = jax.jit(jax.grad(f))(gamma)
    np.testing.assert_allclose(slope, -2 * z @ np.arange(1.0, 5), rtol=100 * EPS)
    (only,) = jax.tree.leaves(eqx.filter_vmap(lambda g: f(g))(gamma[None]))
    np.testing.assert_allclose(only[0], z @ z, rtol=100 * EPS)


@pytest.mark.parametrize("cls", (*SKEW, ct.DenseWeights, ct.Damped))
@pytest.mark.parametrize("form", ["rate", "current"])
@pytest.mark.sampled(3)
def test_lowers_for_cuda(cls, form, key):
    rnn = ct.CTRNN(cls.init(key, 6), form=form, bias=jnp.ones(6), leak=0.1)

    def f(rnn, x):
        return rnn.prepared()(0.0, x), rnn(0.0, x), rnn.weights.as_matrix()

    jax.jit(f).trace(rnn, jnp.ones((6, 2))).lower(lowering_platforms=("cuda",))


def test_weights_of_a_matrix(key):
    """A skew-symmetric A comes back to the bit, anything else as its skew part, if at all."""
    general = jax.random.normal(key, (5, 5))
    A = general - general.T
    np.testing.assert_array_equal(ct.DenseSkew.from_matrix(A).as_matrix(), A)
    rounded = A.at[0, 1].multiply(1 + 2 * EPS)
    assert ct.DenseSkew.from_matrix(rounded).size == 5
    off = A.at[0, 1].add(1e-3)
    with pytest.raises(ValueError, match=r"^A: expected a skew-symmetric matrix, or skew_part"):
        ct.DenseSkew.from_matrix(off)
    part = (general - general.T) / 2
    for weights, expected in (
        (ct.DenseSkew.from_matrix(off, tolerance=1e-2), (off - off.T) / 2),
        (ct.DenseSkew.from_matrix(general, skew_part=True), part),
        (jax.jit(ct.DenseSkew.from_matrix)(general), part),
        (jax.jit(lambda A: ct.DenseSkew.from_matrix(A, tolerance=1e-2))(general), part),
    ):
        np.testing.assert_allclose(weights.as_matrix(), expected, rtol=0, atol=4 * EPS)
    batch = jnp.stack([A, 2 * A])
    mapped = jax.vmap(lambda A: ct.DenseSkew.from_matrix(A).as_matrix())(batch)
    np.testing.assert_array_equal(mapped, batch)
    slope = jax.grad(lambda A: jnp.vdot(ct.DenseSkew.from_matrix(A).as_matrix(), general))(A)
    np.testing.assert_allclose(slope, part, rtol=0, atol=4 * EPS)
