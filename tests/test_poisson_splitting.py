"""Coordinate splitting against sweeps in plain NumPy, and what it promises."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import X64
from systems import DTYPE, SYSTEMS, equation, normal, reference

import ctrnn_jax as ct

EPS = float(jnp.finfo(DTYPE).eps)
FORMS = ["rate", "current"]
WEIGHTS = {
    "dense": ct.DenseSkew.init(jax.random.key(1), 7, scale=1.5),
    "block": ct.BlockSkew.init(jax.random.key(2), 6),
    "bipartite": ct.BipartiteSkew.init(jax.random.key(3), 5, p=2, scale=1.5),
    "low rank": ct.LowRankSkew.init(jax.random.key(4), 9),
}


def network(weights, form="rate", biased=True, activation=None):
    bias = normal(5, weights.size, scale=0.3) if biased else None
    return ct.CTRNN(weights, activation or ct.Tanh(), form, bias=bias)


def by_hand(rnn, x, h, order, first=None):
    """One step, neuron after neuron, from the definition of the flows.

    The first `first` neurons and the others are two groups without coupling inside a group: in
    the current form a group's bias is then part of the flow that moves the group. For other
    weights it is a flow of its own.
    """
    A = np.asarray(rnn.weights.as_matrix(), float)
    b = np.zeros(rnn.size) if rnn.bias is None else np.asarray(rnn.bias, float)
    x = np.array(x, float)

    def flow(i, h):
        if rnn.form == "rate":
            x[i] += h * np.tanh(A[i] @ x + b[i])
        else:
            x[:] += h * A[:, i] * np.tanh(x[i])

    def drift(members, h):
        if rnn.form == "current":
            x[members] += h * b[members]

    everyone = list(range(rnn.size))
    groups = [everyone] if first is None else [everyone[:first], everyone[first:]]

    def sweep(h, reverse=False):
        for group in groups[::-1] if reverse else groups:
            drift([i for i in everyone if i not in group], h)
            for i in group[::-1] if reverse else group:
                flow(i, h)

    whole = everyone if first is None else []
    if order == 1:
        drift(whole, h)
        sweep(h)
        return x
    drift(whole, h / 2)
    sweep(h / 2)
    sweep(h / 2, reverse=True)
    drift(whole, h / 2)
    return x


@pytest.mark.parametrize("compensated", [False, True])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.sampled(10)
@pytest.mark.by_default(2)
def test_a_step_is_the_sweep_over_neurons(name, form, order, compensated):
    rnn = network(WEIGHTS[name], form)
    x0 = normal(6, 3, rnn.size)
    solver = ct.PoissonSplitting(order, compensated)
    step = ct.simulate(rnn, x0, dt=0.3, num_steps=1, solver=solver).xs[:, 1]
    # The two groups move at once: the same as one after another.
    perm = np.arange(rnn.size)
    if name == "block":
        perm = np.concatenate([perm[::2], perm[1::2]])
    first = {"block": 3, "bipartite": 2}.get(name)
    hand = ct.CTRNN(
        ct.DenseSkew(jnp.triu(rnn.weights.as_matrix()[perm][:, perm])),
        form=form,
        bias=rnn.bias[perm],
    )
    expected = np.stack([by_hand(hand, x[perm], 0.3, order, first)[np.argsort(perm)] for x in x0])
    assert np.max(np.abs(np.asarray(step) - expected)) < 40 * EPS


@pytest.mark.parametrize("order", [1, 2, 4, 6])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["dense", "bipartite"])
@pytest.mark.long
@pytest.mark.sampled(3)
def test_measured_order(name, form, order):
    if not X64:
        order = min(order, 2)  # above, float32 rounding hides the error
    rnn = network(WEIGHTS[name], form)
    x0 = normal(7, rnn.size)
    exact = reference(rnn, x0, [0.0, 2.0])[-1]
    steps = {1: (256, 512), 2: (64, 128), 4: (32, 64), 6: (16, 32)}[order]
    solver = ct.PoissonSplitting(order)
    errors = [
        float(
            np.linalg.norm(
                ct.simulate(rnn, x0, dt=2 / n, num_steps=n, solver=solver).xs[-1] - exact
            )
        )
        for n in steps
    ]
    assert abs(np.log2(errors[0] / errors[1]) - order) < 0.15


@pytest.mark.parametrize("order", [1, 2, 4, 6])
@pytest.mark.sampled(2)
@pytest.mark.by_default(1)
def test_energy_error_stays_bounded(order):
    rnn = SYSTEMS["rate tanh n=20"]
    x0 = normal(8, 4, 20)
    solver = ct.PoissonSplitting(order, compensated=not X64)

    def largest(carry, t, x):
        start, first, second = carry
        drift = jnp.abs(ct.energy(rnn, x) / start - 1)
        early = t < 500
        first = jnp.where(early, jnp.maximum(first, drift), first)
        return start, first, jnp.where(early, second, jnp.maximum(second, drift))

    zero = jnp.zeros((), DTYPE)
    fold = (lambda x: (ct.energy(rnn, x), zero, zero), largest)
    run = ct.simulate(
        rnn, x0, dt=0.05, num_steps=20_000, save_every=20_000, solver=solver, fold=fold
    )
    _, first, second = map(np.asarray, run.folded)
    assert np.max(second) <= 1.5 * np.max(first) + 20 * EPS
    assert np.max(second) < {1: 0.2, 2: 2e-2, 4: 1e-3, 6: 1e-3}[order]


@pytest.mark.parametrize("order", [2, 4, 6])
@pytest.mark.parametrize("name", ["dense", "block", "bipartite"])
@pytest.mark.sampled(3)
def test_backward_in_time_it_retraces_itself(name, order):
    rnn = network(WEIGHTS[name], "current")
    x0 = normal(9, rnn.size)
    term, solver = diffrax.ODETerm(rnn), ct.PoissonSplitting(order)

    def walk(x, t0, t1):
        return diffrax.diffeqsolve(term, solver, t0, t1, 0.1 if t1 > t0 else -0.1, x).ys[-1]

    there = walk(x0, 0.0, 5.0)
    assert np.max(np.abs(walk(there, 5.0, 0.0) - x0)) < 2e3 * EPS
    assert np.max(np.abs(there - x0)) > 0.1


@pytest.mark.parametrize("order", [2, 4])
def test_the_rate_form_seen_through_z_is_the_current_form(order):
    weights = WEIGHTS["dense"]
    rate = ct.CTRNN(weights, bias=normal(5, 7))
    current = ct.CTRNN(weights, form="current")
    x0 = normal(10, 7)
    solver = ct.PoissonSplitting(order)
    xs = ct.simulate(rate, x0, dt=0.1, num_steps=100, solver=solver).xs
    z0 = rate.preactivation(x0)
    zs = ct.simulate(current, z0, dt=0.1, num_steps=100, solver=solver).xs
    assert np.max(np.abs(jax.vmap(rate.preactivation)(xs) - zs)) < 1e4 * EPS


@pytest.mark.long
def test_in_plain_diffrax_it_gives_the_same_numbers():
    rnn = network(WEIGHTS["dense"])
    x0 = normal(11, 3, 7)
    solver = ct.PoissonSplitting(4)
    ours = ct.simulate(rnn, x0, dt=0.125, num_steps=16, save_every=4, solver=solver).xs
    theirs = jax.vmap(
        lambda x: diffrax.diffeqsolve(
            diffrax.ODETerm(rnn), solver, 0.0, 2.0, 0.125, x,
            saveat=diffrax.SaveAt(ts=jnp.linspace(0, 2, 5, dtype=DTYPE)),
        ).ys
    )(x0)  # fmt: skip
    assert np.max(np.abs(theirs - ours)) < 100 * EPS


@pytest.mark.long
@pytest.mark.optimised
def test_compensation_stops_the_growth_of_rounding():
    # Float32 whatever the default, against the same steps in the widest precision at hand.
    weights = ct.BipartiteSkew.init(jax.random.key(1), 20, scale=1.0, dtype=jnp.float32)
    rnn = ct.CTRNN(weights)
    x0 = jax.random.normal(jax.random.key(2), (16, 20), jnp.float32)
    kwargs = {"dt": 0.02, "num_steps": 100_000, "save_every": 10_000}
    drift = {}
    for compensated in (False, True):
        solver = ct.PoissonSplitting(2, compensated)
        xs = ct.simulate(rnn, x0, solver=solver, **kwargs).xs
        drift[compensated] = np.median(np.max(np.abs(ct.energy_drift(rnn, xs)), axis=-1))
    assert drift[True] < 5e-5 and drift[True] < 0.8 * drift[False]


@pytest.mark.parametrize("name", ["dense", "bipartite"])
@pytest.mark.long
def test_gradient_against_finite_differences(name):
    rnn, x0 = network(WEIGHTS[name]), normal(12, 2, WEIGHTS[name].size)
    direction = jax.tree.map(lambda leaf: normal(13, *leaf.shape), rnn)

    def loss(s):
        moved = jax.tree.map(lambda a, b: a + s * b, rnn, direction)
        run = ct.simulate(moved, x0, dt=0.1, num_steps=30, solver=ct.PoissonSplitting())
        return jnp.sum(run.xs[:, -1] ** 2)

    h = 1e-4 if X64 else 1e-2
    slope = (8 * (loss(h) - loss(-h)) - (loss(2 * h) - loss(-2 * h))) / (12 * h)
    exact = jax.grad(loss)(jnp.zeros((), DTYPE))
    assert abs(float(exact - slope)) < (1e-8 if X64 else 1e-2) * abs(float(slope))


def test_lowers_for_cuda_and_compile_does_not_grow():
    def program(n):
        rnn = ct.CTRNN(ct.DenseSkew(jnp.ones((n, n), DTYPE)))

        def run(x):
            return ct.simulate(rnn, x, dt=0.1, num_steps=2, solver=ct.PoissonSplitting(6)).xs

        lowered = jax.jit(run).trace(jnp.ones((3, n), DTYPE)).lower(lowering_platforms=("cuda",))
        return lowered.as_text().count("\n")

    assert program(512) < 1.1 * program(32)


@pytest.mark.parametrize("bad", ["leak", "unconstrained"])
def test_refuses_what_conserves_nothing(bad):
    rnn = (
        ct.CTRNN(WEIGHTS["dense"], leak=0.1)
        if bad == "leak"
        else ct.CTRNN(ct.DenseWeights(jnp.ones((7, 7), DTYPE)))
    )
    with pytest.raises(
        ValueError, match="rnn: expected skew-symmetric weights and no leak for Poiss"
    ):
        ct.simulate(rnn, normal(1, 7), dt=0.1, num_steps=1, solver=ct.PoissonSplitting())


def test_equation_oracle_knows_the_networks():
    rnn = network(WEIGHTS["dense"], "current")
    x = normal(1, 7)
    assert np.allclose(equation(rnn)(0, np.asarray(x)), rnn(0, x), rtol=1e-5)
