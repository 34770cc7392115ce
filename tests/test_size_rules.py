"""Paths chosen by size or structure against a plain loop, through the transformations of JAX."""

import ast
import inspect

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ctrnn_jax as ct
from ctrnn_jax._network import size_rules as of_products
from ctrnn_jax._simulate import size_rules as of_blocks

FLOAT = jnp.result_type(float)
EPS = float(jnp.finfo(FLOAT).eps)
STEPS, DT = 2, 0.1
PAYS_FROM = of_products.NEURONS[0]
NEURONS = of_products.NEURONS + of_blocks.NEURONS


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape, FLOAT)


def networks():
    """Weights of every kind on both sides of what decides how they are multiplied."""
    cases = {("DenseWeights", 1): ct.DenseWeights(normal(0, 1, 1))}
    for n in (2, PAYS_FROM - 1, PAYS_FROM):
        for cls in (ct.DenseSkew, ct.BipartiteSkew, ct.LowRankSkew, ct.BlockSkew):
            if not (cls is ct.BlockSkew and n % 2):
                cases[cls.__name__, n] = cls.init(jax.random.key(n), n)
    wide = 1 + PAYS_FROM // 8  # a rank for which the structure does not pay
    cases["wide LowRankSkew", PAYS_FROM] = ct.LowRankSkew.init(jax.random.key(1), 64, rank=wide)
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
def test_every_branch_agrees_with_a_plain_loop(case):
    weights = NETWORKS[case]
    n = weights.size
    rnn = ct.CTRNN(weights)
    # A square batch: what is transposed by mistake keeps its shape.
    batch = n if n <= PAYS_FROM else 5
    agree(simulated(diffrax.Euler(), "checkpointed"), euler, rnn, normal(n + 1, batch, n))


@pytest.mark.parametrize("adjoint", ["checkpointed", "reversible"])
@pytest.mark.parametrize(("kind", "n"), [("DenseSkew", 5), ("BipartiteSkew", 5), ("BlockSkew", 4)])
@pytest.mark.long
def test_splitting_by_structure_agrees_with_single_neurons(kind, n, adjoint):
    rnn = ct.CTRNN(getattr(ct, kind).init(jax.random.key(2), n))
    run = simulated(ct.PoissonSplitting(), adjoint)
    agree(run, swept, rnn, normal(3, n, n), reverse_only=adjoint == "reversible")


@pytest.mark.parametrize("n", [2, *(t + d for t in NEURONS for d in (-1, 0))])
@pytest.mark.long
def test_batches_around_a_block(n):
    size = of_blocks.block_size(n, FLOAT.itemsize, 4, "cpu", devices=1)
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


@pytest.mark.parametrize("rules", [of_products, of_blocks], ids=["products", "blocks"])
def test_rules_compare_neurons_with_the_listed_numbers_alone(rules):
    tree = ast.parse(inspect.getsource(rules))
    listed = {name for name in vars(rules) if name.endswith("_FROM")}
    assert {getattr(rules, name) for name in listed} == set(rules.NEURONS)
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and "n" in {ast.unparse(node.left)}:
            assert {ast.unparse(side) for side in node.comparators} <= listed, ast.unparse(node)
