"""Paths chosen by size or structure against a plain loop, through the transformations of JAX."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from systems import normal

import ctrnn_jax as ct
from ctrnn_jax._analysis.for_each import for_each
from ctrnn_jax._network.weights import _NEURONS_PER_RANK
from ctrnn_jax._simulate import size_rules

FLOAT = jnp.result_type(float)
EPS = float(jnp.finfo(FLOAT).eps)
STEPS, DT = 2, 0.1
BETWEEN_LOOKS = size_rules._STEPS_BETWEEN_LOOKS
ONE_BY_ONE = size_rules._NEURONS_ONE_BY_ONE
SEARCHED = size_rules._NEURONS_SEARCHED_ONE_BY_ONE


def networks():
    """Weights of every kind, on both sides of what decides how they are multiplied."""
    cases = {("DenseWeights", 1): ct.DenseWeights(normal(0, 1, 1))}
    for cls, sizes in (
        (ct.DenseSkew, (2, 15)),
        (ct.BipartiteSkew, (2, 15)),
        (ct.BlockSkew, (2, 6)),
    ):
        for n in sizes:
            cases[cls.__name__, n] = cls.init(jax.random.key(n), n)
    for rank in (1, 3):
        for n in (_NEURONS_PER_RANK * rank - 1, _NEURONS_PER_RANK * rank):
            cases["LowRankSkew", n] = ct.LowRankSkew.init(jax.random.key(n), n, rank=rank)
    return cases


NETWORKS = networks()


def simulated(solver, adjoint):
    def run(rnn, x):
        settings = {"dt": DT, "num_steps": STEPS, "save_every": STEPS}
        return ct.simulate(rnn, x, solver=solver, adjoint=adjoint, **settings).xs[..., -1, :]

    return run


def euler(rnn, x):
    A = rnn.weights.as_matrix()
    for _ in range(STEPS):
        x = x + DT * jnp.tanh(jnp.matmul(x, A.T, precision="highest"))
    return x


def swept(rnn, x):
    """Half a sweep forward and half a sweep back, neuron by neuron."""
    A, n = rnn.weights.as_matrix(), rnn.size
    order = jnp.tile(jnp.array([*range(n), *reversed(range(n))]), STEPS)

    def neuron(x, i):
        move = DT / 2 * jnp.tanh(jnp.matmul(x, A[i], precision="highest"))
        return x.at[..., i].add(move), None

    return jax.lax.scan(neuron, x, order)[0]


def all_of(run, rnn, X, reverse_only):
    """Values and derivatives of a batch X, of its rows under vmap, and of an ensemble."""
    arrays, static = jax.tree.flatten(rnn)
    ds = [normal(7, *a.shape) / 8 for a in arrays]
    few, dX = X[:3], normal(8, *X.shape)

    def states(arrays, x):
        return run(jax.tree.unflatten(static, arrays), x)

    def each(arrays, X):
        return jax.vmap(lambda x: states(arrays, x))(X)

    def loss(f):
        return lambda arrays, x: jnp.sum(jnp.sin(f(arrays, x)))

    def along(s):
        return states([a + s * d for a, d in zip(arrays, ds, strict=True)], X)

    gradient = jax.grad(loss(states), (0, 1))
    two = [jnp.stack([a, a + d]) for a, d in zip(arrays, ds, strict=True)]
    out = {
        "value": states(arrays, X),
        "vmap": each(arrays, X),
        "grad": gradient(arrays, X),
        "value_and_grad of vmap": jax.value_and_grad(loss(each), (0, 1))(arrays, X),
        "vmap of grad": jax.vmap(gradient, (None, 0))(arrays, few),
        "vmap of grad by networks": jax.vmap(gradient, (0, None))(two, few),
        "grad of vmap by networks": jax.grad(
            lambda two: jnp.sum(jnp.sin(jax.vmap(states, (0, None))(two, few)))
        )(two),
    }
    if not reverse_only:
        out |= {
            "jvp": jax.jvp(states, (arrays, X), (ds, dX))[1],
            "jvp of vmap": jax.jvp(each, (arrays, X), (ds, dX))[1],
            "jacfwd": jax.jacfwd(along)(jnp.zeros((), FLOAT)),
            "forward over reverse": jax.jvp(gradient, (arrays, X), (ds, dX))[1],
            "reverse over reverse": jax.grad(
                lambda arrays: sum(
                    jnp.vdot(g, d)
                    for g, d in zip(jax.grad(loss(each))(arrays, few), ds, strict=True)
                )
            )(arrays),
        }
    return out


def agree(run, plain, rnn, X, reverse_only=False):
    found = jax.jit(lambda rnn, X: all_of(run, rnn, X, reverse_only))(rnn, X)
    expected = jax.jit(lambda rnn, X: all_of(plain, rnn, X, reverse_only))(rnn, X)
    for name, value in expected.items():
        for a, b in zip(jax.tree.leaves(found[name]), jax.tree.leaves(value), strict=True):
            assert a.shape == b.shape and np.isfinite(a).all(), name
            bound = 256 * EPS * max(1, float(np.abs(b).max()))
            np.testing.assert_allclose(a, b, rtol=0, atol=bound, err_msg=name)


@pytest.mark.parametrize("case", NETWORKS, ids=lambda case: " ".join(map(str, case)))
@pytest.mark.long
@pytest.mark.sampled(3)
def test_every_branch_agrees_with_a_plain_loop(case):
    weights = NETWORKS[case]
    n = weights.size
    rnn = ct.CTRNN(weights)
    # A square batch: what is transposed by mistake keeps its shape.
    agree(simulated(diffrax.Euler(), "checkpointed"), euler, rnn, normal(n + 1, n, n))


@pytest.mark.parametrize("adjoint", ["checkpointed", "reversible"])
@pytest.mark.parametrize(("kind", "n"), [("DenseSkew", 5), ("BipartiteSkew", 5), ("BlockSkew", 4)])
@pytest.mark.rare
def test_splitting_by_structure_agrees_with_single_neurons(kind, n, adjoint):
    rnn = ct.CTRNN(getattr(ct, kind).init(jax.random.key(2), n))
    run = simulated(ct.PoissonSplitting(), adjoint)
    agree(run, swept, rnn, normal(3, n, n), reverse_only=adjoint == "reversible")


@pytest.mark.parametrize("n", [2, 63, 300])
@pytest.mark.long
def test_batches_around_a_block(n):
    size = size_rules.block_size(n, FLOAT.itemsize, 4, "cpu", devices=1)
    rnn = ct.CTRNN(ct.DenseSkew.init(jax.random.key(n), n))
    run = simulated(diffrax.Euler(), "checkpointed")
    for batch in (size, size + 1):
        X = normal(4, batch, n)

        def loss(f, X=X):
            return lambda rnn: jnp.mean(jnp.sin(f(rnn, X)))

        (value, slope), (expected, plain_slope) = (
            jax.value_and_grad(loss(f))(rnn) for f in (run, euler)
        )
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e3 * EPS)
        atol = 1e3 * EPS * float(jnp.abs(plain_slope.weights.W).max())
        np.testing.assert_allclose(slope.weights.W, plain_slope.weights.W, rtol=0, atol=atol)


@pytest.mark.parametrize("inputs", ["none", "held", "continuous"])
@pytest.mark.parametrize("adjoint", ["checkpointed", "direct"])
@pytest.mark.parametrize(
    "save_every", [BETWEEN_LOOKS + d for d in (-1, 0, 1)] + [1, 7, 2 * BETWEEN_LOOKS + 17]
)
@pytest.mark.sampled(12)
@pytest.mark.by_default(1)
def test_segments_of_all_lengths_agree_with_a_plain_loop(save_every, adjoint, inputs):
    """Two trajectories of three diverge, one of them between two looks."""
    num_steps = 3 * save_every if save_every > 7 else 70 * save_every
    growth, dt = normal(1, 3, 3) / 8 + jnp.eye(3), 0.02
    rnn = ct.CTRNN(ct.DenseWeights(growth), ct.Linear(), input_weights=normal(2, 3, 1))
    top = float(jnp.finfo(FLOAT).max)
    x0 = normal(3, 3, 3) * jnp.array([[1.0], [top * 1e-3], [top / 8]], FLOAT)
    u = {
        "none": None,
        "held": jnp.cos(0.1 * jnp.arange(num_steps, dtype=FLOAT))[:, None],
        "continuous": lambda t: jnp.cos(t)[None],
    }[inputs]

    def run(rnn, x0):
        options = {"dt": dt, "num_steps": num_steps, "save_every": save_every, "inputs": u}
        return ct.simulate(rnn, x0, solver=diffrax.Euler(), adjoint=adjoint, **options)

    def plainly(rnn, x0):
        A, B = rnn.weights.W, rnn.input_weights

        def step(carry, k):
            x, stopped_at = carry
            drive = 0.0 if u is None else u[k] if inputs == "held" else u(k.astype(FLOAT) * dt)
            new = x + dt * (x @ A.T + (B @ jnp.broadcast_to(drive, (1,)))[None])
            fine = (stopped_at < 0) & jnp.isfinite(new).all(1)
            stopped_at = jnp.where((stopped_at < 0) & ~fine, k + 1, stopped_at)
            x = jnp.where(fine[:, None], new, x)
            return (x, stopped_at), x

        never = jnp.full(3, -1)
        (_, stopped_at), xs = jax.lax.scan(step, (x0, never), jnp.arange(num_steps))
        return jnp.concatenate(
            [x0[:, None], xs[save_every - 1 :: save_every].swapaxes(0, 1)], 1
        ), stopped_at

    def loss(xs):
        return jnp.sum(jnp.sin(xs / (1 + jnp.abs(xs))))

    found, (xs, stopped_at) = run(rnn, x0), plainly(rnn, x0)
    np.testing.assert_array_equal(found.stopped_at, stopped_at)
    assert list(stopped_at >= 0) == [False, True, True] or save_every <= 7
    np.testing.assert_allclose(found.xs, xs, rtol=1e4 * EPS)
    slope, expected = (
        jax.grad(lambda *args, f=f: loss(f(*args)), (0, 1))(rnn, normal(3, 3, 3))
        for f in (lambda rnn, x0: run(rnn, x0).xs, lambda rnn, x0: plainly(rnn, x0)[0])
    )
    for a, b in zip(jax.tree.leaves(slope), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e4 * EPS * float(jnp.abs(b).max()))


@pytest.mark.parametrize("until", [False, True])
@pytest.mark.parametrize(
    ("n", "searched"),
    [(ONE_BY_ONE - 1, False), (ONE_BY_ONE, False), (SEARCHED - 1, True), (SEARCHED, True)],
)
@pytest.mark.by_default(2)
def test_orbits_one_after_another_are_those_in_lockstep(n, searched, until):
    """Of a Newton iteration of as many rounds as each needs, or of as many as all."""

    def root(a, x):
        def better(y):
            return y - (jnp.sum(y**3) - a * jnp.sum(y)) / jnp.sum(3 * y**2 - a)

        if not until:
            return jax.lax.fori_loop(0, 8, lambda _, y: better(y), x)
        return jax.lax.while_loop(lambda y: jnp.sum(y) > 1.01 * jnp.sqrt(a) * n, better, x)

    def both(a, x):
        return root(a, x), a

    a, x = jnp.linspace(1.0, 2.0, 3, dtype=FLOAT), 4 + jnp.abs(normal(0, 3, n))
    ways = (
        lambda a, x: for_each(both, a, x, n=n, searched=searched),
        lambda a, x: jax.vmap(both)(a, x),
    )
    told = [str(jax.make_jaxpr(way)(a, x)) for way in ways]
    assert (told[0] == told[1]) == (n < (SEARCHED if searched else ONE_BY_ONE))
    several = jnp.stack([a, 3 * a]), jnp.stack([x, 2 * x])
    maps = [
        lambda f: f(a, x),
        lambda f: jax.jit(f)(a, x),
        lambda f: jax.jit(jax.vmap(f))(*several),
        lambda f: jax.vmap(f, (None, 0))(a, several[1]),
        lambda f: jax.jvp(f, (a, x), (a, x)),
        lambda f: jax.vmap(lambda a, x: jax.jvp(f, (a, x), (a, x)))(*several),
        lambda f: f(a.at[1].set(jnp.nan), x),
    ]
    if not until:
        slope = jax.grad(lambda f, a, x: jnp.sum(jnp.sin(f(a, x)[0])), (1, 2))
        maps += [
            lambda f: slope(f, a, x),
            lambda f: jax.jit(jax.vmap(slope, (None, 0, 0)), static_argnums=0)(f, *several),
            lambda f: jax.jvp(lambda a, x: slope(f, a, x), (a, x), (a, x)),
            lambda f: slope(lambda a, x: jax.jvp(f, (a, x), (a, x))[1], a, x),
        ]
    for of in maps:
        for found, expected in zip(*map(jax.tree.leaves, map(of, ways)), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e4 * EPS, atol=1e3 * EPS)
