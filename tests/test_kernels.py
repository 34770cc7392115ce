"""The forms that steps have off CPUs, run on one, against those that they have there."""

import math

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from systems import DTYPE, normal
from test_size_rules import agree, euler, simulated, swept

import ctrnn_jax as ct
from ctrnn_jax._simulate import api
from ctrnn_jax._simulate.size_rules import _WRITTEN_OUT_IN_KERNEL, ONE_BY_ONE, kernels
from ctrnn_jax.solvers._foreign import adapted
from ctrnn_jax.solvers._sweep_rows import _TOGETHER

SOLVERS = {
    "Euler": diffrax.Euler(),
    "RK4": ct.RK4(),
    "Tsit5": diffrax.Tsit5(),
    "Heun": diffrax.Heun(),
    "splitting 1": ct.PoissonSplitting(1),
    "splitting 2": ct.PoissonSplitting(),
    "splitting 4": ct.PoissonSplitting(4),
    "compensated": ct.PoissonSplitting(compensated=True),
}
PRODUCTS = {"Euler": 1, "RK4": 4, "Tsit5": 6, "Heun": 2} | {
    "splitting 1": 1, "splitting 2": 2, "splitting 4": 10, "compensated": 0
}  # fmt: skip


def sizes(name):
    """On both sides of what decides the form of a step."""
    p = PRODUCTS[name]
    last = math.isqrt(_WRITTEN_OUT_IN_KERNEL // p) if p else 2
    found = {2, 3, last, last + 1}
    return sorted(found | {_TOGETHER, _TOGETHER + 1, 2 * _TOGETHER + 1} if p != 1 else found)


CASES = [(name, n) for name in SOLVERS for n in sizes(name)]


@pytest.fixture
def elsewhere(monkeypatch):
    monkeypatch.setattr(api, "platform_of", lambda x0, mesh: "gpu")


def network(n, form="rate", cls=ct.DenseSkew, m=0, **options):
    weights = cls.init(jax.random.key(n), n)
    options = {"bias": weights.matvec(normal(1, n, scale=0.3))} | options
    drive = normal(2, n, m) if m else None
    return ct.CTRNN(weights, form=form, input_weights=drive, **options)


def both(monkeypatch, rnn, x0, **options):
    options = {"dt": 0.1, "num_steps": 14} | options
    here = ct.simulate(rnn, x0, **options)
    with monkeypatch.context() as patch:
        patch.setattr(api, "platform_of", lambda x0, mesh: "gpu")
        there = ct.simulate(rnn, x0, **options)
    return here, there


def close(a, b, times=64):
    eps = float(jnp.finfo(DTYPE).eps)
    np.testing.assert_allclose(a, b, rtol=0, atol=times * eps * float(np.nanmax(np.abs(b))))


@pytest.mark.parametrize("name", SOLVERS)
def test_sizes_are_on_both_sides(name):
    solver = adapted(SOLVERS[name]).on("gpu")

    def form(n):
        products = solver.products_of_rows(network(n))
        return kernels(n, products, solver.arrays_per_step, "gpu", solver.unrolls).rows

    assert {form(n) for n in sizes(name)} == ({False} if name == "compensated" else {True, False})
    assert kernels(2, 1, 7, "cpu", True) == ONE_BY_ONE


@pytest.mark.parametrize("inputs", [(), (14,), (3, 14)], ids=["alone", "shared", "each"])
@pytest.mark.parametrize("form", ["rate", "current"])
@pytest.mark.parametrize(("name", "n"), CASES)
@pytest.mark.sampled(34)
@pytest.mark.by_default(4)
def test_states_are_the_same(name, n, form, inputs, monkeypatch):
    options = {"solver": SOLVERS[name], "save_every": 7}
    options["inputs"] = normal(4, *inputs, 2) if inputs else None
    here, there = both(monkeypatch, network(n, form, m=2), normal(3, 3, n), **options)
    close(there.xs, here.xs)


@pytest.mark.parametrize("name", ["Euler", "Heun", "splitting 2"])
@pytest.mark.sampled(3)
@pytest.mark.by_default(0)
def test_all_that_a_run_may_have(name, monkeypatch):
    leaks = name != "splitting 2"
    rnn = network(3, leak=jnp.asarray([0.1, 0.0, 0.2], DTYPE) if leaks else None, bias=None)
    x0 = normal(3, 5, 3) * jnp.array([1, 1, 1, jnp.nan, 1], DTYPE)[:, None]
    options = {
        "solver": SOLVERS[name], "save_every": 7,
        "fold": (0.0, lambda c, t, x: c + t * x[0]), "observe": lambda t, x: x[1],
    }  # fmt: skip
    for more in ({}, {"max_norm": 1.5}, {"until": ct.Event(lambda t, x: x[0])}):
        here, there = both(monkeypatch, rnn, x0, **options, **more)
        assert jax.tree.structure(here) == jax.tree.structure(there)
        np.testing.assert_array_equal(there.stopped_at, here.stopped_at)
        for a, b in zip(jax.tree.leaves(there), jax.tree.leaves(here), strict=True):
            if jnp.issubdtype(a.dtype, jnp.floating):
                close(a, b)
    first = ct.simulate(rnn, x0, dt=0.1, num_steps=7, **options)
    assert first.stopped_at[3] == 0
    # In two runs as in one, to the bit.
    monkeypatch.setattr(api, "platform_of", lambda x0, mesh: "gpu")
    run = {"dt": 0.1, "save_every": 7, "solver": SOLVERS[name]}
    whole = ct.simulate(rnn, x0, num_steps=14, **run)
    half = ct.simulate(rnn, x0, num_steps=7, **run)
    again = ct.simulate(rnn, half.end, num_steps=7, **run)
    np.testing.assert_array_equal(again.xs[:, 1], whole.xs[:, 2])


def gained(z):
    return jnp.tanh(jnp.array([[1.0], [0.5], [2.0]], DTYPE) * z)


@pytest.mark.parametrize("name", ["Euler", "Tsit5"])
@pytest.mark.parametrize("kind", ["a gain for each", "own equation", "weights", "blocks", "damped"])
@pytest.mark.sampled(3)
def test_what_a_network_may_be(name, kind, monkeypatch):
    class Own(ct.CTRNN):
        def __call__(self, t, x, args=None):
            return -jnp.flip(x, 0) * jnp.cos(t)

    dense = ct.DenseSkew.init(jax.random.key(0), 3)
    rnn = {
        "a gain for each": lambda: ct.CTRNN(dense, ct.CustomActivation(gained)),
        "own equation": lambda: Own(dense),
        "weights": lambda: ct.CTRNN(ct.DenseWeights(normal(2, 3, 3) / 2)),
        "blocks": lambda: ct.CTRNN(ct.BlockSkew(jnp.array([1.0, 2.0], DTYPE))),
        "damped": lambda: ct.CTRNN(ct.Damped(dense, 0.1)),
    }[kind]()
    here, there = both(monkeypatch, rnn, normal(3, 4, rnn.size), solver=SOLVERS[name])
    close(there.xs, here.xs)


@pytest.mark.parametrize("n", [sizes("Euler")[-2], sizes("Euler")[-1]])
@pytest.mark.rare
def test_derivatives_of_explicit_steps(n, elsewhere):
    rnn = ct.CTRNN(ct.DenseSkew.init(jax.random.key(n), n))
    agree(simulated(diffrax.Euler(), "checkpointed"), euler, rnn, normal(n + 1, n, n))


@pytest.mark.parametrize(
    "n",
    [*(pytest.param(n, marks=pytest.mark.long) for n in (2, _TOGETHER + 1)),
     *(pytest.param(n, marks=pytest.mark.rare) for n in (5, 6))],
)  # fmt: skip
@pytest.mark.rare
def test_derivatives_of_sweeps(n, elsewhere):
    rnn = ct.CTRNN(ct.DenseSkew.init(jax.random.key(n), n))
    agree(simulated(ct.PoissonSplitting(), "checkpointed"), swept, rnn, normal(n + 1, n, n))


@pytest.mark.parametrize(
    ("name", "form", "n"),
    [("Euler", "rate", 2), ("Heun", "current", 3), ("splitting 2", "current", 3),
     ("splitting 2", "rate", 9), ("splitting 1", "rate", 2)],
)  # fmt: skip
@pytest.mark.sampled(5)
def test_gradients_by_all_parameters(name, form, n, monkeypatch):
    rnn, x0 = network(n, form, m=1), normal(3, 4, n)
    options = {"dt": 0.1, "num_steps": 14, "save_every": 7, "solver": SOLVERS[name]}

    def loss(arguments):
        rnn, x0, dt, u = arguments
        run = ct.simulate(rnn, x0, inputs=u, **options | {"dt": dt})
        return jnp.sum(jnp.sin(run.xs))

    arguments = rnn, x0, jnp.asarray(0.1, DTYPE), normal(5, 14, 1)
    here = jax.grad(loss)(arguments)
    monkeypatch.setattr(api, "platform_of", lambda x0, mesh: "gpu")
    there = jax.grad(loss)(arguments)
    for a, b in zip(jax.tree.leaves(there), jax.tree.leaves(here), strict=True):
        close(a, b, 1024)
