"""Driven networks: inputs through every solver, adjoint and transformation, and their balance."""

from functools import partial

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import X64
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from systems import DTYPE, equation, normal

import ctrnn_jax as ct
from ctrnn_jax._simulate import run as run_module

EPS = float(jnp.finfo(DTYPE).eps)
float64_only = pytest.mark.skipif(not X64, reason="bounds of float64")


def smooth(t):
    return jnp.stack([jnp.sin(2 * t), 0.5 * jnp.cos(3 * t + 1)])


def numpy_smooth(t):
    return np.array([np.sin(2 * t), 0.5 * np.cos(3 * t + 1)])


def network(form="rate", activation=ct.Tanh(), n=4, m=2, weights=None, bias=True, leak=None):  # noqa: B008
    weights = ct.DenseSkew.init(jax.random.key(n), n, scale=1.5) if weights is None else weights
    # In the range of A: networks of odd size have an energy too.
    bias = weights.matvec(normal(1, n, scale=0.3)) if bias else None
    return ct.CTRNN(weights, activation, form, bias, leak, input_weights=normal(2, n, m))


def reference(rnn, x0, spans, max_step=np.inf):
    """The state after [(seconds, u(t from the start of all)), ...], by DOP853."""
    t, x = 0.0, np.asarray(x0, float)
    options = {"method": "DOP853", "rtol": 1e-12, "atol": 1e-13, "max_step": max_step}
    for seconds, u in spans:
        span = t, t + seconds
        x = solve_ivp(equation(rnn, u), span, x, **options).y[:, -1]
        t = span[1]
    return x


NONLINEAR = {
    "rate tanh": network(),
    "current tanh leak": network("current", leak=0.2),
    "rate arctan n=7 leaks": network(activation=ct.Arctan(), n=7, leak=normal(5, 7) ** 2),
    "current erf n=6": network(
        "current", ct.Erf(), 6, weights=ct.BipartiteSkew.init(jax.random.key(9), 6)
    ),
    "rate sigmoid n=5": network(activation=ct.Sigmoid(), n=5),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", ["continuous", "held", "held by each", "adaptive"])
@pytest.mark.parametrize("name", NONLINEAR)
@float64_only
@pytest.mark.by_default(3)
def test_states_are_those_of_an_independent_integrator(name, kind):
    rnn, steps, every = NONLINEAR[name], 2000, 400
    x0 = normal(3, 2, rnn.size)
    held = np.asarray(normal(4, 2, steps // every, 2))
    each = jnp.asarray(np.repeat(held, every, axis=1))
    inputs = {"continuous": smooth, "held": each[0], "held by each": each, "adaptive": smooth}[kind]
    options = {"rtol": 1e-12, "atol": 1e-13} if kind == "adaptive" else {}
    run = ct.simulate(
        rnn, x0, dt=0.005, num_steps=steps, save_every=steps, inputs=inputs, **options
    )
    for row, x in enumerate(x0):
        spans = [(10.0, numpy_smooth)]
        if kind.startswith("held"):
            values = held[row if "each" in kind else 0]
            spans = [(every * 0.005, lambda t, value=value: value) for value in values]
        np.testing.assert_allclose(run.xs[row, -1], reference(rnn, x, spans), atol=1e-9)


@pytest.mark.parametrize("W", [0.7, 2.0])
def test_forced_linear_pair_follows_its_closed_form(W):
    # x'' + w² x = -W sin(Wt) F, x(0) = y(0) = 0: at W = w the amplitude grows like t/2.
    w, steps = 2.0, 400
    rnn = ct.CTRNN(
        ct.BlockSkew(jnp.asarray([w], DTYPE)), ct.Linear(), input_weights=jnp.eye(2, dtype=DTYPE)
    )
    run = ct.simulate(
        rnn, jnp.zeros(2, DTYPE), dt=0.05, num_steps=steps,
        inputs=lambda t: jnp.stack([jnp.cos(W * t), jnp.zeros_like(t)]),
    )  # fmt: skip
    t = np.asarray(run.ts, float)
    if w == W:
        x, y = (np.sin(w * t) + w * t * np.cos(w * t)) / (2 * w), -t * np.sin(w * t) / 2
    else:
        x = (w * np.sin(w * t) - W * np.sin(W * t)) / (w**2 - W**2)
        y = w * (np.cos(w * t) - np.cos(W * t)) / (w**2 - W**2)
    np.testing.assert_allclose(run.xs, np.stack([x, y], 1), atol=1e-6 if X64 else 1e-4)


CONSERVING = [
    ct.PoissonSplitting(1), ct.PoissonSplitting(2), ct.PoissonSplitting(4),
    ct.PoissonSplitting(2, compensated=True), ct.ImplicitMidpoint(), ct.DiscreteGradient(),
    ct.DiscreteGradient(order=4),
]  # fmt: skip
OTHERS = [
    diffrax.Euler(), diffrax.Heun(), diffrax.Tsit5(), ct.RK4(), diffrax.ReversibleHeun(),
    diffrax.LeapfrogMidpoint(), diffrax.Kvaerno3(), diffrax.HalfSolver(diffrax.Euler()),
]  # fmt: skip
ORDERS = {
    "PoissonSplitting 1": 1, "PoissonSplitting 2": 2, "PoissonSplitting 4": 4,
    "PoissonSplitting compensated": 2, "ImplicitMidpoint": 2, "DiscreteGradient 2": 2,
    "DiscreteGradient 4": 4, "Euler": 1, "Heun": 2, "Tsit5": 5, "RK4": 4, "ReversibleHeun": 2,
    "LeapfrogMidpoint": 2, "Kvaerno3": 3, "HalfSolver": 1,
}  # fmt: skip
SOLVERS = dict(zip(ORDERS, CONSERVING + OTHERS, strict=True))
WEIGHTS = {
    "dense": ct.DenseSkew.init(jax.random.key(4), 4, scale=1.5),
    "bipartite": ct.BipartiteSkew.init(jax.random.key(5), 4),
}


@pytest.mark.sampled(7)
@pytest.mark.parametrize("form", ["rate", "current"])
@pytest.mark.parametrize("name", SOLVERS)
@float64_only
@pytest.mark.by_default(2)
def test_order_with_a_smooth_input(name, form):
    # Weights that are slow beside the input: what a step leaves out is then mostly its first term,
    # of Tsit5 as well. In one network that may vanish by chance, so there are eight.
    kind = ct.BipartiteSkew if "Splitting" in name else ct.DenseSkew
    keys = jax.random.split(jax.random.key(0), 8)
    networks = [network(form, weights=kind.init(key, 4, scale=0.5)) for key in keys]
    x0 = normal(3, 4, 4)
    span = [(2.0, lambda t: numpy_smooth(2 * t))]
    exact = np.array([[reference(rnn, x, span, max_step=0.02) for x in x0] for rnn in networks])
    ensemble = jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks)
    errors = []
    for k in (80, 160):
        solve = partial(
            ct.simulate, dt=2 / k, num_steps=k, save_every=k, solver=SOLVERS[name],
            inputs=lambda t: smooth(2 * t),
        )  # fmt: skip
        found = jax.vmap(lambda rnn, solve=solve: solve(rnn, x0).xs[:, -1])(ensemble)
        errors.append(np.linalg.norm(found - exact))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(ORDERS[name], abs=0.15)


@pytest.mark.parametrize("leak", [None, 0.3])
@pytest.mark.parametrize("form", ["rate", "current"])
@pytest.mark.by_default(2)
def test_exact_linear_is_a_matrix_exponential_with_held_inputs(form, leak):
    rnn, steps, h = network(form, ct.Linear(), leak=leak), 50, 0.4
    inputs, x0 = 30 * normal(6, 3, steps, 2), normal(3, 3, 4)
    run = ct.simulate(rnn, x0, dt=h, num_steps=steps, solver=ct.ExactLinear(), inputs=inputs)
    A, B = (np.asarray(a, float) for a in (rnn.weights.as_matrix(), rnn.input_weights))
    M = np.zeros((7, 7))
    M[:4, :4], M[:4, 4:6], M[:4, 6] = A - (leak or 0) * np.eye(4), B, rnn.bias
    flow, x = expm(h * M), np.asarray(x0, float)
    for k in range(steps):
        ones = np.ones((3, 1))
        x = (np.hstack([x, np.asarray(inputs[:, k], float), ones]) @ flow.T)[:, :4]
    np.testing.assert_allclose(run.xs[:, -1], x, rtol=0, atol=1e-12 if X64 else 1e-2)


# The balance


BALANCES = [
    (2, "rate", 2, True), (20, "rate", 2, False), (20, "rate", 4, False), (2, "rate", 4, True),
    (20, "current", 2, True), (2, "current", 2, False), (20, "current", 4, False),
]  # fmt: skip


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("n", "form", "order", "held"), BALANCES)
@pytest.mark.by_default(1)
def test_discrete_gradient_closes_the_balance(n, form, order, held):
    rnn, steps = network(form, n=n), 1000
    solver = ct.DiscreteGradient(order=order)
    inputs = normal(4, 2, steps, 2) if held else smooth
    run = ct.simulate(rnn, normal(3, 2, n), dt=0.1, num_steps=steps, solver=solver, inputs=inputs)
    balance = ct.energy_balance(rnn, run.xs, inputs, dt=0.1, solver=solver)
    missing = jnp.max(jnp.abs(balance.missing), axis=1)
    assert jnp.all(missing <= (1e-12 if X64 else 1e-4) * balance.exchanged[:, -1])
    assert jnp.all(balance.exchanged[:, -1] > 5)
    supplied = ct.supplied_energy(rnn, run.xs, inputs, dt=0.1, solver=solver)
    np.testing.assert_array_equal(supplied, balance.supplied)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("form", ["rate", "current"])
@pytest.mark.parametrize("kind", ["held", "smooth", None])
@pytest.mark.parametrize("leak", [None, 0.3, "each", "weights"])
@pytest.mark.by_default(4)
def test_the_balance_by_quadrature(leak, kind, form):
    skew = ct.DenseSkew.init(jax.random.key(4), 4, scale=1.5)
    if leak == "weights":  # a leak inside A
        A = skew.as_matrix() - 0.3 * jnp.eye(4, dtype=DTYPE)
        rnn = ct.CTRNN(ct.DenseWeights(A), form=form, input_weights=normal(2, 4, 2))
    else:
        leak = normal(5, 4) ** 2 if leak == "each" else leak
        rnn = network(form, leak=leak)
    inputs = {"held": normal(4, 3, 400, 2), "smooth": smooth, None: None}[kind]
    run = ct.simulate(rnn, normal(3, 3, 4), dt=0.05, num_steps=400, inputs=inputs)
    balance = ct.energy_balance(rnn, run.xs, inputs, dt=0.05)
    assert jnp.all((balance.dissipated[:, -1] > 0.1) == (leak is not None))
    assert jnp.all((balance.supplied[:, -1] == 0) == (kind is None))
    assert jnp.all(jnp.abs(balance.missing) <= 1e-5 * (1 + balance.exchanged))


def test_energy_sees_the_input_in_the_rate_form_alone():
    x, u = normal(3, 5, 4), normal(4, 5, 2)
    rate, current = network(), network("current")
    z = x @ rate.weights.as_matrix().T + u @ rate.input_weights.T + rate.bias[None]
    np.testing.assert_allclose(ct.energy(rate, x, u), jnp.sum(jnp.log(jnp.cosh(z)), 1), rtol=1e-5)
    np.testing.assert_allclose(ct.energy(rate, x, u[0])[0], ct.energy(rate, x, u)[0], rtol=1e-6)
    np.testing.assert_array_equal(ct.energy(current, x, u), ct.energy(current, x))
    assert ct.energy(rate, x[0], u[0]).shape == ()


# Derivatives


def loss(traced, static, solver, kind, adjoint, tolerances=None):
    rnn = eqx.combine(traced["rnn"], static)
    u = traced["u"]
    inputs = (lambda t: u[0] * jnp.sin(2 * t) + u[1]) if kind == "continuous" else u
    options = {} if tolerances is None else {"rtol": tolerances, "atol": tolerances}
    run = ct.simulate(
        rnn, traced["x0"], dt=traced["dt"], num_steps=24, save_every=3, solver=solver,
        inputs=inputs, adjoint=adjoint, **options,
    )  # fmt: skip
    return jnp.sum(jnp.sin(run.xs) ** 2)


def traced_of(rnn, kind):
    traced, static = eqx.partition(rnn, eqx.is_inexact_array)
    shape = {"shared": (24, 2), "each": (3, 24, 2), "continuous": (2, 2)}[kind]
    dt = jnp.asarray(0.07, DTYPE)
    return {
        "rnn": traced,
        "u": normal(8, *shape, scale=0.5),
        "x0": normal(3, 3, 4),
        "dt": dt,
    }, static


KINDS = ["shared", "each", "continuous"]


def undone_cases():
    """Each solver in both forms, with the weights that it treats differently; kinds in turn."""
    cases = []
    for name, solver in list(SOLVERS.items())[: len(CONSERVING)]:
        for weights in list(WEIGHTS)[: 2 if "Splitting" in name else 1]:
            for form in ("rate", "current"):
                kind = KINDS[len(cases) % 3]
                label = f"{name}-{weights}-{form}-{kind}"
                cases.append(pytest.param(solver, weights, form, kind, id=label))
    return cases


@pytest.mark.sampled(8)  # no multiple of 3, or kinds would be left out by default
@pytest.mark.parametrize(("solver", "weights", "form", "kind"), undone_cases())
@pytest.mark.by_default(0)
def test_reversible_gradients_are_those_of_stored_steps(solver, weights, form, kind):
    traced, static = traced_of(network(form, weights=WEIGHTS[weights]), kind)
    gradient = jax.jit(jax.grad(loss), static_argnums=(1, 2, 3, 4))
    direct, other, reversible = (
        gradient(traced, static, solver, kind, a) for a in ("direct", "checkpointed", "reversible")
    )
    for a, b, c in zip(*map(jax.tree.leaves, (direct, other, reversible)), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-12 if X64 else 1e-4, atol=1e3 * EPS)
        np.testing.assert_allclose(c, a, rtol=1e-8 if X64 else 1e-2, atol=1e-8 if X64 else 1e-3)


@pytest.mark.sampled(7)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "solver", [None, diffrax.Tsit5(), ct.PoissonSplitting(), ct.DiscreteGradient()]
)
@float64_only
@pytest.mark.by_default(0)
def test_gradients_are_those_of_finite_differences(solver, kind):
    traced, static = traced_of(network("rate" if kind == "each" else "current"), kind)
    tolerances = 1e-10 if solver is None else None
    solver = diffrax.Tsit5() if solver is None else solver
    f = jax.jit(partial(loss, static=static, solver=solver, kind=kind, adjoint="checkpointed",
                        tolerances=tolerances))  # fmt: skip
    direction = jax.tree.map(lambda a: normal(11, *a.shape), traced)
    found = sum(
        jnp.sum(a * b) for a, b in zip(
            jax.tree.leaves(jax.grad(f)(traced)), jax.tree.leaves(direction), strict=True
        )
    )  # fmt: skip
    h = 1e-5 if tolerances is None else 1e-3
    ahead, behind = (jax.tree.map(lambda a, d, s=s: a + s * d, traced, direction) for s in (h, -h))
    bound = 1e-6 if tolerances is None else 1e-4
    assert abs((f(ahead) - f(behind)) / (2 * h) - found) <= bound * abs(found)


def test_a_lost_way_back_is_found_again_with_inputs():
    # Chaotic, and more steps than a segment undoes: the states on the way are known then.
    rnn = network("current", n=8, weights=ct.DenseSkew.init(jax.random.key(1), 8, scale=6.0))
    x0, held = 3 * normal(3, 2, 8), normal(4, 600, 2)

    def loss(held, adjoint):
        run = ct.simulate(rnn, x0, dt=0.1, num_steps=600, save_every=200, inputs=held,
                          solver=ct.PoissonSplitting(), adjoint=adjoint)  # fmt: skip
        return jnp.sum(jnp.tanh(run.xs[:, :2]))

    direct, reversible = (jax.grad(loss)(held, adjoint) for adjoint in ("direct", "reversible"))
    scale = jnp.max(jnp.abs(direct))
    np.testing.assert_allclose(reversible, direct, atol=(1e-7 if X64 else 3e-2) * scale)


# Every way through simulate


@pytest.mark.sampled(8)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {"solver": diffrax.Euler()},
        {"solver": ct.PoissonSplitting(4)},
        {"solver": ct.DiscreteGradient()},
        {"solver": diffrax.Kvaerno3()},
        {"solver": diffrax.HalfSolver(diffrax.Euler())},
        {"rtol": 1e-9, "atol": 1e-9},
        {"solver": ct.PoissonSplitting(), "adjoint": "reversible"},
    ],
    ids=lambda o: "-".join(str(v).partition("(")[0] for v in o.values()),
)
@pytest.mark.by_default(1)
def test_batches_blocks_meshes_and_vmap_agree(options, kind, monkeypatch):
    rnn, steps, x0 = network(), 24, normal(3, 7, 4)
    each = normal(8, 7, steps, 2)
    inputs = {"shared": each[0], "each": each, "continuous": smooth}[kind]
    solve = partial(
        ct.simulate, rnn, dt=0.1, num_steps=steps, save_every=6, **options,
        observe=lambda t, x: t + x[0], fold=(0.0, lambda c, t, x: c + t * x[1]),
    )  # fmt: skip
    if options.get("adjoint"):
        solve.keywords.pop("fold")
    whole = solve(x0, inputs=inputs)
    one = [solve(x, inputs=each[i] if kind == "each" else inputs) for i, x in enumerate(x0)]
    ends = [whole, solve(x0, inputs=inputs, mesh=ct.batch_mesh(jax.devices()[:2]))]
    if kind == "each":
        ends.append(jax.vmap(lambda x, u: solve(x, inputs=u))(x0, each))
        two = solve(x0[:6].reshape(2, 3, 4), inputs=each[:6].reshape(2, 3, steps, 2))
        np.testing.assert_allclose(two.xs.reshape(6, -1, 4), whole.xs[:6], atol=1e4 * EPS)
    else:
        ends.append(jax.vmap(lambda x: solve(x, inputs=inputs))(x0))
    monkeypatch.setattr(run_module, "block_size", lambda *_: 2)
    ends.append(jax.jit(lambda x: solve(x, inputs=inputs))(x0))
    for end in ends:
        np.testing.assert_allclose(end.xs, np.stack([o.xs for o in one]), atol=1e4 * EPS)
        np.testing.assert_allclose(
            end.observed, np.stack([o.observed for o in one]), atol=1e4 * EPS
        )
        if whole.folded is not None:
            np.testing.assert_allclose(end.folded, [o.folded for o in one], rtol=1e5 * EPS)
        assert np.all(np.asarray(end.stopped_at) == -1)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("solver", [diffrax.Tsit5(), ct.PoissonSplitting(4), ct.ImplicitMidpoint()])
@pytest.mark.by_default(0)
def test_functions_paths_and_held_values_say_the_same(solver):
    rnn, x0, steps = network(), normal(3, 3, 4), 50
    held = jnp.broadcast_to(normal(4, 2), (steps, 2))
    solve = partial(ct.simulate, rnn, x0, dt=0.1, num_steps=steps, solver=solver)
    constant = solve(inputs=lambda t: held[0]).xs
    np.testing.assert_allclose(solve(inputs=held).xs, constant, atol=1e3 * EPS)
    ts = jnp.arange(steps + 1, dtype=DTYPE) / 10
    path = diffrax.LinearInterpolation(ts, normal(5, steps + 1, 2))
    np.testing.assert_allclose(
        solve(inputs=path).xs, solve(inputs=lambda t: path.evaluate(t)).xs, atol=1e3 * EPS
    )
    # What is closed over, or is a leaf of the path, has derivatives.
    gradients = [
        jax.grad(lambda ys, make=make: jnp.sum(solve(inputs=make(ys)).xs ** 2))(path.ys)
        for make in (
            lambda ys: diffrax.LinearInterpolation(ts, ys),
            lambda ys: lambda t: diffrax.LinearInterpolation(ts, ys).evaluate(t),
        )
    ]
    np.testing.assert_allclose(*gradients, rtol=1e5 * EPS, atol=1e4 * EPS)
    assert jnp.all(jnp.abs(gradients[0]) > 0)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("solver", [diffrax.Tsit5(), *CONSERVING, ct.ExactLinear()], ids=str)
@pytest.mark.by_default(1)
def test_plain_diffrax_takes_the_input_as_args(solver):
    linear = isinstance(solver, ct.ExactLinear)
    rnn, x0 = network(activation=ct.Linear() if linear else ct.Tanh()), normal(3, 4)
    found = diffrax.diffeqsolve(
        diffrax.ODETerm(rnn), solver, jnp.zeros((), DTYPE), jnp.asarray(2.0, DTYPE),
        jnp.asarray(0.1, DTYPE), x0, smooth, max_steps=64,
    ).ys[-1]  # fmt: skip
    ours = ct.simulate(rnn, x0, dt=0.1, num_steps=20, solver=solver, inputs=smooth).xs[-1]
    np.testing.assert_allclose(found, ours, atol=1e4 * EPS)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(
    "options", [{}, {"solver": ct.DiscreteGradient()}, {"rtol": 1e-6}], ids=str
)
@pytest.mark.by_default(2)
def test_an_input_that_is_not_finite_stops_its_trajectory_alone(options, bad):
    rnn, held = network("current"), normal(8, 3, 40, 2).at[1, 17, 0].set(bad)
    run = ct.simulate(rnn, normal(3, 3, 4), dt=0.1, num_steps=40, inputs=held, **options)
    np.testing.assert_array_equal(run.stopped_at, [-1, 18, -1])
    good = ct.simulate(rnn, normal(3, 3, 4)[::2], dt=0.1, num_steps=40, inputs=held[::2], **options)
    np.testing.assert_allclose(run.xs[::2], good.xs, atol=1e3 * EPS)


def test_max_norm_and_a_pulse():
    rnn = network("current", ct.Linear(), bias=False)
    held = jnp.zeros((3, 30, 2), DTYPE).at[1, 10].set(1e3)
    run = ct.simulate(rnn, normal(3, 3, 4), dt=0.1, num_steps=30, inputs=held, max_norm=50.0)
    np.testing.assert_array_equal(run.stopped_at, [-1, 11, -1])


def test_inputs_of_late_steps_are_taken_at_the_right_time():
    # In float32 t = k dt has a spacing of 100 steps here: held inputs know their step all the same.
    n, steps = 2, 2**18
    held = jnp.zeros((steps, 1), jnp.float32).at[steps - 3].set(1.0)
    rnn = ct.CTRNN(
        ct.BlockSkew(jnp.asarray([1e-6], jnp.float32)), ct.Linear(),
        input_weights=jnp.ones((n, 1), jnp.float32),
    )  # fmt: skip
    run = ct.simulate(
        rnn, jnp.zeros(n, jnp.float32), dt=1.0, num_steps=steps, save_every=2,
        solver=diffrax.Euler(), inputs=held, keep_states=False, observe=lambda t, x: x[0],
    )  # fmt: skip
    np.testing.assert_array_equal(np.flatnonzero(run.observed), [steps // 2 - 1, steps // 2])
    late = ct.simulate(
        rnn, jnp.zeros(n, jnp.float32), dt=0.01, num_steps=steps, save_every=steps,
        solver=diffrax.Euler(), inputs=lambda t: jnp.astype(t > 2621, t.dtype)[None],
    )  # fmt: skip
    expected = 0.01 * (steps - 262100)  # steps at t > 2621, but for a few spacings of 2.4e-4
    assert abs(float(late.xs[-1, 0]) - expected) <= 0.02


@pytest.mark.by_default(0)
def test_an_equation_of_its_own_is_given_the_input():
    class Own(ct.CTRNN):
        def __call__(self, t, x, args=None):
            return args(t)[0] * x

    rnn, steps = Own(ct.BlockSkew(jnp.asarray([1.0], DTYPE)), ct.Linear()), 100
    held = -(jnp.arange(steps, dtype=DTYPE) + 0.5)[:, None] / steps
    for inputs in (lambda t: jnp.stack([-t]), held):
        for options in ({}, {"rtol": 1e-9, "atol": 1e-9}):
            run = ct.simulate(
                rnn, jnp.ones(2, DTYPE), dt=1 / steps, num_steps=steps, inputs=inputs, **options
            )
            np.testing.assert_allclose(run.xs[-1], np.exp(-0.5), rtol=1e-5)


# Memory


@pytest.mark.parametrize("kind", ["shared", "each"])
def test_no_more_than_a_segment_of_the_inputs_is_copied(kind):
    rnn, batch, steps = network(n=8, bias=False), 256, 4096
    x0 = jax.ShapeDtypeStruct((batch, 8), DTYPE)
    inputs = jax.ShapeDtypeStruct((steps, 2) if kind == "shared" else (batch, steps, 2), DTYPE)

    def run(x0, inputs):
        return ct.simulate(rnn, x0, dt=0.1, num_steps=steps, save_every=256, inputs=inputs).xs

    memory = jax.jit(run).lower(x0, inputs).compile().memory_analysis()
    whole = memory.argument_size_in_bytes + memory.output_size_in_bytes
    assert memory.temp_size_in_bytes <= 0.2 * whole + 2**20
