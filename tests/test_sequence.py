"""Sequence models: what they compute, gradients, training, files; read-outs and memory."""

import re

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import X64
from systems import DTYPE, normal

import ctrnn_jax as ct

EPS = float(jnp.finfo(DTYPE).eps)
KEY = jax.random.key(0)
SOLVERS = {"tsit5": diffrax.Tsit5(), "euler": diffrax.Euler(), "splitting": ct.PoissonSplitting()}


def network(n=6, m=2, form="rate", **options):
    weights = ct.BipartiteSkew.init(jax.random.key(1), n)
    return ct.CTRNN(weights, form=form, bias=normal(2, n), input_weights=normal(3, n, m), **options)


def model(readout=None, n=6, m=2, **options):
    readout = normal(4, 3, n) if readout is None else readout
    return ct.SequenceModel(network(n, m), readout, **{"dt": 0.3, "offset": normal(5, 3)} | options)


def plain(made, samples):
    """Euler's states of one sequence in NumPy."""
    rnn, h = made.rnn, made.dt / made.steps_per_sample
    A, B, b = (np.asarray(a, float) for a in (rnn.weights.as_matrix(), rnn.input_weights, rnn.bias))
    x = np.zeros(len(A)) if made.x0 is None else np.asarray(made.x0, float)
    states = []
    for u in np.asarray(samples, float):
        for _ in range(made.steps_per_sample):
            z = A @ x + B @ u + b if rnn.form == "rate" else A @ np.tanh(x) + B @ u + b
            x = x + h * (np.tanh(z) if rnn.form == "rate" else z)
        states.append(x)
    return np.stack(states)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("pool", [None, "last", "mean"])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("start", [False, True])
def test_answers_are_read_at_the_end_of_each_sample(pool, steps, start):
    x0 = normal(7, 6) if start else None
    made = model(x0=x0, pool=pool, steps_per_sample=steps, solver=diffrax.Euler())
    inputs = normal(8, 2, 4, 9, 2)
    xs = np.stack([[plain(made, one) for one in row] for row in inputs])
    y = xs @ np.asarray(made.readout, float).T + np.asarray(made.offset, float)
    expected = {None: y, "last": y[..., -1, :], "mean": y.mean(axis=-2)}[pool]
    y = made(inputs)
    assert y.shape == expected.shape and y.dtype == DTYPE
    np.testing.assert_allclose(y, expected, rtol=0, atol=400 * EPS)
    np.testing.assert_allclose(made(inputs[0, 0]), expected[0, 0], rtol=0, atol=400 * EPS)
    for other in (jax.vmap(made), jax.jit(lambda u: made(u)), jax.vmap(jax.jit(jax.vmap(made)))):
        np.testing.assert_allclose(other(inputs), expected, rtol=0, atol=400 * EPS)


@pytest.mark.parametrize("name", SOLVERS)
def test_the_same_as_a_simulation(name):
    made = model(solver=SOLVERS[name], steps_per_sample=2)
    inputs = normal(8, 7, 2)
    run = ct.simulate(
        made.rnn,
        jnp.zeros(6, DTYPE),
        dt=0.15,
        num_steps=14,
        save_every=2,
        solver=SOLVERS[name],
        inputs=jnp.repeat(inputs, 2, axis=0),
    )
    np.testing.assert_allclose(made.states(inputs), run.xs[1:], rtol=0, atol=100 * EPS)


def test_encoder_and_readout_may_be_functions():
    mlp = eqx.nn.MLP(6, 3, 5, 1, dtype=DTYPE, key=KEY)
    encoder = eqx.nn.Linear(4, 2, dtype=DTYPE, key=KEY)
    made = model(mlp, encoder=encoder, offset=None, pool="mean", solver=diffrax.Euler())
    inputs = normal(8, 5, 9, 4)
    encoded = np.asarray(inputs) @ np.asarray(encoder.weight).T + np.asarray(encoder.bias)
    xs = jnp.asarray(np.stack([plain(made, one) for one in encoded]), DTYPE)
    expected = jnp.mean(jax.vmap(jax.vmap(mlp))(xs), axis=1)
    np.testing.assert_allclose(made(inputs), expected, rtol=0, atol=400 * EPS)
    assert made(inputs[0]).shape == (3,)


@pytest.mark.sampled(3)
@pytest.mark.skipif(not X64, reason="finite differences")
@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.by_default(0)
def test_gradients(name):
    inputs = normal(8, 3, 9, 2)
    # As a sequence, which a model with a solver that undoes its steps can be, too.
    adjoints = ["checkpointed", "direct"] + ["reversible"] * (name == "splitting")
    found = []
    for adjoint in adjoints:
        made = model(x0=normal(7, 6), pool="last", solver=SOLVERS[name], adjoint=adjoint)

        def f(made, inputs=inputs):
            return jnp.sum(made(inputs) ** 2)

        found.append(eqx.filter_grad(f)(made))
    leaves = [jax.tree.leaves(gradient) for gradient in found]
    assert len(leaves[0]) == 6  # B of the weights, bias, input weights, x0, readout, offset
    for other in leaves[1:]:
        for a, b in zip(leaves[0], other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)
    flat, unravel = jax.flatten_util.ravel_pytree(eqx.filter(made, eqx.is_array))
    direction = normal(9, *flat.shape)

    def along(s):
        return float(f(eqx.combine(unravel(flat + s * direction), made)))

    slope = float(jax.flatten_util.ravel_pytree(found[0])[0] @ direction)
    np.testing.assert_allclose((along(1e-5) - along(-1e-5)) / 2e-5, slope, rtol=1e-6)


@pytest.mark.parametrize(
    "frozen", [(), ("weights", "input_weights", "bias", "x0"), ("readout", "encoder")]
)
def test_frozen_parts_are_not_trainable(frozen):
    encoder = eqx.nn.Linear(4, 2, dtype=DTYPE, key=KEY)
    made = model(encoder=encoder, x0=normal(7, 6), frozen=frozen)
    free, _ = eqx.partition(made, made.trainable)
    parts = {name: getattr(free.rnn, name) for name in ("weights", "bias", "input_weights")}
    parts |= {name: getattr(free, name) for name in ("encoder", "x0", "readout", "offset")}
    assert {name for name, part in parts.items() if not jax.tree.leaves(part)} == set(frozen)


def test_init_spreads_the_modes():
    made = ct.SequenceModel.init(KEY, 200, num_inputs=3, num_outputs=2, dt=0.5, period=10.0)
    fastest = np.linalg.norm(np.asarray(made.rnn.weights.as_matrix()), 2)
    np.testing.assert_allclose(fastest * 0.5, 2 * np.pi / 10, rtol=0.1)
    assert made(normal(1, 4, 5, 3)).shape == (4, 5, 2) and made.x0 is None
    current = ct.SequenceModel.init(KEY, 4, num_inputs=1, num_outputs=1, form="current")
    assert current.rnn.form == "current" and current.rnn.weights.is_skew


def digits(key, count):
    """Which of two frequencies a noisy sequence has."""
    keys = jax.random.split(key, 3)
    labels = jax.random.randint(keys[0], (count,), 0, 2)
    phase = jax.random.uniform(keys[1], (count, 1), DTYPE, 0.0, 2 * np.pi)
    omega = jnp.where(labels == 0, 0.4, 0.7).astype(DTYPE)[:, None]
    signal = jnp.sin(omega * jnp.arange(20, dtype=DTYPE)[None] + phase)
    return (signal + 0.1 * jax.random.normal(keys[2], signal.shape, DTYPE))[..., None], labels


def entropy(made, batch):
    return ct.losses.cross_entropy_loss(made(batch[0]), batch[1])


def test_fit_trains_a_classifier_by_mini_batches():
    settings = {"num_inputs": 1, "num_outputs": 2, "pool": "last", "dtype": DTYPE}
    made = ct.SequenceModel.init(KEY, 16, solver=diffrax.Euler(), **settings)
    data, unseen = digits(jax.random.key(1), 256), digits(jax.random.key(2), 256)
    trained, history = ct.fit(
        made, entropy, steps=150, data=data, batch_size=32, key=KEY, optimizer=optax.adam(1e-2)
    )
    # 1 before, as it must be; a linear classifier of these sequences, of any phase, stays at 1/2.
    assert history.losses[0] > 0.5
    assert np.mean(np.argmax(trained(unseen[0]), axis=-1) == unseen[1]) > 0.95
    assert type(trained.rnn.weights) is ct.DenseSkew


def test_files(tmp_path):
    for i, solver in enumerate((*SOLVERS.values(), ct.Projected(ct.RK4()))):
        made = model(solver=solver, pool="last", x0=normal(7, 6), frozen=["x0"])
        ct.save(tmp_path / "model", {"model": made})
        same = ct.load(tmp_path / "model")["model"]
        assert jax.tree.structure(same) == jax.tree.structure(made)
        if i < 3:
            inputs = normal(8, 9, 2)
            np.testing.assert_array_equal(same(inputs), made(inputs))
    with pytest.raises(TypeError, match=r"obj\.readout: .* eqx\.tree_serialise_leaves"):
        ct.save(tmp_path / "model", model(eqx.nn.MLP(6, 3, 5, 1, key=KEY), offset=None))


def test_lowers_for_cuda():
    made = model(pool="last", steps_per_sample=2)

    def f(inputs):
        return jax.grad(lambda u: jnp.sum(made(u)))(inputs)

    jax.jit(f).trace(normal(1, 3, 5, 2)).lower(lowering_platforms=("cuda",))


def test_cross_entropy():
    scores, labels = normal(1, 4, 5, 3), jnp.asarray(np.arange(20).reshape(4, 5) % 3)
    p = np.exp(np.asarray(scores, float))
    p = np.take_along_axis(p / p.sum(-1, keepdims=True), np.asarray(labels)[..., None], -1)
    found = ct.losses.cross_entropy_loss(scores, labels)
    np.testing.assert_allclose(found, -np.log(p).mean() / np.log(3), rtol=20 * EPS)
    even = ct.losses.cross_entropy_loss(jnp.zeros((7, 10), DTYPE), jnp.arange(7))
    np.testing.assert_allclose(even, 1, rtol=4 * EPS)
    assert jnp.isnan(ct.losses.cross_entropy_loss(scores, labels + 1))
    far = ct.losses.cross_entropy_loss(jnp.asarray([[1e4, 0.0]], DTYPE), jnp.asarray([0]))
    assert float(far) == 0


# Read-outs in closed form


def teacher(**options):
    """A model, sequences, and the answers of another read-out."""
    made = model(**options)
    inputs = normal(8, 5, 60, 2)
    best = eqx.tree_at(lambda m: (m.readout, m.offset), made, (normal(10, 2, 6), normal(11, 2)))
    return made, inputs, best


@pytest.mark.parametrize("pool", [None, "last", "mean"])
def test_a_linear_readout_is_found(pool):
    made, inputs, best = teacher(pool=pool)
    inputs = jnp.concatenate([inputs, 2 * inputs, -inputs])
    found = ct.fit_readout(made, inputs, best(inputs), ridge=0.0)
    tolerance = 1e-9 if X64 else 2e-2
    np.testing.assert_allclose(found(inputs), best(inputs), rtol=0, atol=tolerance)
    assert found.readout.shape == (2, 6) and found.offset.shape == (2,)
    assert found.readout.dtype == found.offset.dtype == DTYPE
    # What the model had is replaced, also where it had no offset.
    other = ct.fit_readout(model(pool=pool, offset=None), inputs, best(inputs), ridge=0.0)
    np.testing.assert_allclose(other.offset, found.offset, rtol=0, atol=tolerance)


@pytest.mark.parametrize("ridge", [1e-3, 10.0])
def test_ridge_and_washout_are_those_of_the_equation(ridge):
    made, inputs, best = teacher()
    targets = best(inputs) + normal(12, 5, 60, 2)
    found = ct.fit_readout(made, inputs, targets, ridge=ridge, washout=20)
    X = np.asarray(made.states(inputs), float)[:, 20:].reshape(-1, 6)
    Y = np.asarray(targets, float)[:, 20:].reshape(-1, 2)
    C, d = np.asarray(found.readout, float), np.asarray(found.offset, float)
    left = Y - X @ C.T - d
    # The gradient of what is minimised, by C and by d.
    scale = np.abs(X).sum(0).max() * np.abs(Y).max()
    assert np.abs(-left.T @ X + ridge * C).max() < (1e-13 if X64 else 1e-6) * scale
    assert np.abs(left.sum(axis=0)).max() < (1e-13 if X64 else 1e-6) * scale


@pytest.mark.skipif(not X64, reason="digits of float64")
def test_digits_that_normal_equations_lose_are_kept():
    from ctrnn_jax._analysis.ridge import ridge_regression

    rng = np.random.default_rng(0)
    U = np.linalg.qr(rng.normal(size=(400, 8)) - 1)[0]
    X = (U - U.mean(0)) * 10.0 ** -np.arange(0, 12, 1.5)  # condition 1e10 or more
    C = rng.normal(size=(3, 8))
    found, d = ridge_regression(X, X @ C.T + 5, 0.0)
    np.testing.assert_allclose(X @ found.T + d, X @ C.T + 5, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found, C, rtol=1e-3, atol=1e-3)


# Memory


def linear(leak, n=50, m=1, scale=1.4):
    B = jax.random.normal(jax.random.key(1), (n, m), DTYPE)
    weights = ct.DenseSkew.init(jax.random.key(0), n, scale=scale)
    return ct.CTRNN(weights, ct.Linear(), leak=leak, input_weights=B)


@pytest.mark.skipif(not X64, reason="one compilation is enough")
@pytest.mark.parametrize("leak", [0.01, 0.3])  # with the second deviations are 1 to 3e-9
@pytest.mark.by_default(1)
def test_measured_memory_is_the_exact_one(leak):
    found = ct.memory_capacity(linear(leak), 1.0, key=KEY, max_delay=300)
    assert found.exact_total == 50 and (leak < 0.1 or abs(found.exact.sum() - 50) < 1e-6)
    assert abs(found.total / found.exact.sum() - 1) < 0.02
    assert found.total > 0.9 * 50
    np.testing.assert_allclose(found.capacities, found.exact, rtol=0, atol=0.03)
    assert f"{found.total:.4g} over delays 0 to 300" in repr(found)


@pytest.mark.skipif(not X64, reason="digits of float64")
def test_exact_memory_is_that_of_its_definition():
    """b_j of the flow by eigenvectors, P as the sum itself, and capacities that sum to n."""
    rnn = linear(0.2, n=4, m=2, scale=1.0)
    found = ct.memory_capacity(rnn, 0.7, key=KEY, max_delay=200, num_steps=500)
    M = np.asarray(rnn.weights.as_matrix()) - 0.2 * np.eye(4)
    values, vectors = np.linalg.eig(M)
    F = (vectors * np.exp(0.7 * values) @ np.linalg.inv(vectors)).real
    G = np.linalg.solve(M, (F - np.eye(4)) @ np.asarray(rnn.input_weights))
    b = [np.linalg.matrix_power(F, j) @ G for j in range(400)]
    P = sum(x @ x.T for x in b)
    exact = [np.trace(x.T @ np.linalg.solve(P, x)) for x in b[:201]]
    np.testing.assert_allclose(found.exact, exact, rtol=1e-8, atol=1e-12)
    assert found.exact_total == 4 and abs(found.exact.sum() - 4) < 1e-10


@pytest.mark.parametrize("distribution", ["uniform", "normal"])
@pytest.mark.by_default(1)
def test_memory_of_networks_without_a_formula(distribution):
    settings = {"key": KEY, "num_steps": 3000, "max_delay": 60, "distribution": distribution}
    weights = ct.DenseSkew.init(KEY, 10)
    B = normal(1, 10, 1)
    damped = ct.CTRNN(ct.Damped(weights, 0.3), leak=0.1, input_weights=B, form="current")
    small = ct.memory_capacity(damped, 1.0, amplitude=0.01, steps_per_sample=2, **settings)
    assert small.exact is None and "exactly" not in repr(small)
    assert 5 < small.total < 10.5
    # Saturated neurons remember less.
    assert ct.memory_capacity(damped, 1.0, amplitude=20.0, **settings).total < 0.8 * small.total
    # What forgets nothing has no stationary state.
    assert ct.memory_capacity(linear(None, n=4), 0.1, **settings).exact is None


# Bad calls


@pytest.fixture
def unchecked():
    """Our own checks speak, not the type checker that the tests switch on."""
    import jaxtyping

    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


def ones(*shape):
    return jnp.ones(shape, DTYPE)


def readout(pool=None, **given):
    settings = {"inputs": ones(2, 9, 2), "targets": ones(2, 9, 1)} | given
    return ct.fit_readout(settings.pop("model", model(pool=pool)), **settings)


def capacity(rnn=None, dt=1.0, **given):
    return ct.memory_capacity(linear(0.1, n=4) if rnn is None else rnn, dt, **{"key": KEY} | given)


V, T = ValueError, TypeError
BAD = [
    (lambda: ct.SequenceModel(3, ones(1, 6), dt=1.0), T, "rnn: expected a CTRNN, got int"),
    (
        lambda: ct.SequenceModel(ct.CTRNN(ct.DenseSkew.init(KEY, 4)), ones(1, 4), dt=1.0),
        V,
        "rnn: expected a network with input_weights, got one without",
    ),
    (lambda: model(ones(3, 5)), V, "readout: expected shape (k, 6), got (3, 5)"),
    (lambda: model(ones(3)), V, "readout: expected shape (k, 6), or a function, got (3,)"),
    (
        lambda: model("mean"),
        T,
        "readout: expected a floating-point array of shape (k, 6), or a function, got str",
    ),
    (lambda: model(offset=ones(2)), V, "offset: expected shape (3,), got (2,)"),
    (
        lambda: model(lambda x: x),
        V,
        "offset: expected none, as the read-out is a function, got one",
    ),
    (lambda: model(dt=0.0), V, "dt: expected a finite number > 0, got 0.0"),
    (lambda: model(encoder=3), T, "encoder: expected a function, got 3"),
    (lambda: model(x0=ones(2, 6)), V, "x0: expected one initial state, shape (6,), got (2, 6)"),
    (lambda: model(x0=ones(5)), V, "x0: expected shape (..., 6), one value per neuron, got (5,)"),
    (lambda: model(pool="max"), V, "pool: expected one of 'last', 'mean', got 'max'"),
    (
        lambda: model(solver="euler"),
        T,
        "solver: expected a diffrax solver such as diffrax.Tsit5(), got str",
    ),
    (lambda: model(steps_per_sample=0), V, "steps_per_sample: expected an integer >= 1, got 0"),
    (
        lambda: model(adjoint="all"),
        V,
        "adjoint: expected one of 'checkpointed', 'direct', 'reversible', got 'all'",
    ),
    (lambda: model(frozen="x0"), T, "frozen: expected a list of names, got 'x0'"),
    (lambda: model()(ones(9)), V, "inputs: expected shape (..., T, m), none of them 0, got (9,)"),
    (
        lambda: model()(ones(0, 2)),
        V,
        "inputs: expected shape (..., T, m), none of them 0, got (0, 2)",
    ),
    (lambda: model()(ones(9, 3)), V, "inputs: expected 2 inputs of the network, got 3"),
    (
        lambda: model(encoder=lambda u: u[:1])(ones(9, 3)),
        V,
        "encoder: expected 2 inputs of the network, got 1",
    ),
    (
        lambda: ct.SequenceModel.init(KEY, 1, num_inputs=1, num_outputs=1),
        V,
        "n: expected an integer >= 2, got 1",
    ),
    (
        lambda: ct.SequenceModel.init(KEY, 4, num_inputs=0, num_outputs=1),
        V,
        "num_inputs: expected an integer >= 1, got 0",
    ),
    (lambda: readout(model=3), T, "model: expected a SequenceModel, got int"),
    (
        lambda: readout(model=model(jnp.tanh, offset=None)),
        T,
        "model: expected one whose readout is an array (k, n), got a function",
    ),
    (lambda: readout(ridge=-1.0), V, "ridge: expected a number >= 0, got -1.0"),
    (lambda: readout(washout=9), V, "washout: expected less than the 9 samples, got 9"),
    (
        lambda: readout("last", targets=ones(2, 1), washout=1),
        V,
        "washout: expected 0, as the model pools by 'last', got 1",
    ),
    (lambda: readout(targets=ones(2, 8, 1)), V, "targets: expected shape (2, 9, k), got (2, 8, 1)"),
    (lambda: readout("last"), V, "targets: expected shape (2, k), got (2, 9, 1)"),
    (
        lambda: readout(targets=ones(2, 9, 1) / 0),
        V,
        "targets: expected finite values, got 18 non-finite of 18",
    ),
    (
        lambda: readout(inputs=ones(2, 9, 2) * jnp.inf),
        V,
        "inputs: expected such that all states are finite, got some that are not",
    ),
    (
        lambda: capacity(ct.CTRNN(ct.DenseSkew.init(KEY, 4))),
        V,
        "rnn: expected a network with input_weights, got one without",
    ),
    (lambda: capacity(dt=-1.0), V, "dt: expected a finite number > 0, got -1.0"),
    (lambda: capacity(key=3), T, "key: expected a PRNG key such as jax.random.key(0), got int"),
    (lambda: capacity(washout=3), V, "washout: expected at least the longest delay, 16, got 3"),
    (lambda: capacity(num_steps=9), V, "num_steps: expected at least 2 n + 2 = 10 samples, got 9"),
    (lambda: capacity(amplitude=0), V, "amplitude: expected a finite number > 0, got 0"),
    (
        lambda: capacity(distribution="binary"),
        V,
        "distribution: expected one of 'uniform', 'normal', got 'binary'",
    ),
    (
        lambda: ct.losses.cross_entropy_loss(ones(3, 1), jnp.zeros(3, int)),
        V,
        "scores: expected at least two classes, shape (..., k), got (3, 1)",
    ),
    (
        lambda: ct.losses.cross_entropy_loss(ones(3, 2), jnp.zeros(2, int)),
        V,
        "labels: expected shape (3,), one a row of scores, got (2,)",
    ),
]


@pytest.mark.parametrize(("call", "error", "line"), BAD, ids=[line[:40] for *_, line in BAD])
def test_bad_calls_are_one_line(call, error, line, unchecked):
    with pytest.raises(error, match=f"^{re.escape(line)}$"):
        call()
