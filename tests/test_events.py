"""Events: when they happen and where, against SciPy, through all that a run may have."""

from functools import partial
from operator import attrgetter

import diffrax
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import X64
from scipy.integrate import solve_ivp
from systems import DTYPE, normal

import ctrnn_jax as ct
from ctrnn_jax._simulate.located import _bracket

EPS = float(jnp.finfo(DTYPE).eps)
END, STEPS = 16.0, 1600
SOLVE = {"dt": END / STEPS, "num_steps": STEPS}


def network(form="rate", n=4, **options):
    weights = ct.BipartiteSkew.init(jax.random.key(n), n, dtype=DTYPE)
    bias = weights.matvec(normal(1, n, scale=0.3))
    return ct.CTRNN(weights, form=form, bias=bias, **options)


def smooth(t):
    return jnp.stack([jnp.sin(2 * t)])


def level(t, x):
    return x[0] - 0.2


def moving(t, x):
    return x[1] + 0.1 * jnp.sin(t)


def product(t, x):
    return x[0] * x[1] - 0.05


def scipy_events(rnn, x0, event, push=None):
    """(times, states) of each trajectory."""
    A, b = np.asarray(rnn.weights.as_matrix(), float), np.asarray(rnn.bias, float)
    B = None if push is None else np.asarray(rnn.input_weights, float)
    leak = 0.0 if rnn.leak is None else float(rnn.leak)

    def field(t, x):
        u = b if push is None else b + B @ push(t)
        return (np.tanh(A @ x + u) if rnn.form == "rate" else A @ np.tanh(x) + u) - leak * x

    by_numpy = {level: lambda t, x: x[0] - 0.2, moving: lambda t, x: x[1] + 0.1 * np.sin(t),
                product: lambda t, x: x[0] * x[1] - 0.05}  # fmt: skip

    def g(t, x):
        return by_numpy[event.fn](t, x)

    g.direction = event.direction
    options = {"method": "DOP853", "rtol": 1e-13, "atol": 1e-13, "max_step": 0.1}
    found = [solve_ivp(field, (0, END), np.asarray(x, float), events=g, **options) for x in x0]
    return [(s.t_events[0], s.y_events[0].reshape(-1, rnn.size)) for s in found]


SYSTEMS = {
    "rate": (network(), None),
    "current": (network("current"), None),
    "leak": (network(leak=0.05), None),
    "driven": (network(input_weights=normal(2, 4, 1)), smooth),
    "six": (network("current", 6), None),
}
TSIT5, SPLITTING = {"solver": diffrax.Tsit5()}, {"solver": ct.PoissonSplitting(6)}
ADAPTIVE = {"solver": diffrax.Dopri8(), "rtol": 1e-12 if X64 else 1e-6}


@pytest.mark.sampled(9)
@pytest.mark.parametrize("direction", [1, -1, 0])
@pytest.mark.parametrize("fn", [level, moving, product], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.by_default(1)
def test_crossings_are_those_of_scipy(name, fn, direction):
    rnn, inputs = SYSTEMS[name]
    event, x0, count = ct.Event(fn, direction), normal(3, 5, rnn.size), 4
    push = None if inputs is None else lambda t: np.array([np.sin(2 * t)])
    ways = [TSIT5]
    if direction == 1 and fn is moving:
        ways += [ADAPTIVE] if rnn.leak is not None else [ADAPTIVE, SPLITTING]
    for way in ways:
        section = ct.crossings(rnn, x0, event, count=count, inputs=inputs, **SOLVE, **way)
        run = ct.simulate(rnn, x0, until=event, save_every=100, inputs=inputs, **SOLVE, **way)
        assert section.ts.shape == (5, count) and section.xs.shape == (5, count, rnn.size)
        for i, (t, x) in enumerate(scipy_events(rnn, x0, event, push)):
            some = min(count, len(t))
            close = {"rtol": 0, "atol": 1e-9 if X64 else 3e-4}
            np.testing.assert_allclose(section.ts[i, :some], t[:some], **close)
            np.testing.assert_allclose(section.xs[i, :some], x[:some], **close)
            assert np.isnan(section.ts[i, some:]).all() and np.isnan(section.xs[i, some:]).all()
            if len(t):
                np.testing.assert_allclose(run.event_times[i], t[0], **close)
                np.testing.assert_allclose(run.xs[i, -1], x[0], **close)
                assert int(run.stopped_at[i]) == np.ceil(float(run.event_times[i]) * 100 - 1e-3)
            else:
                assert np.isnan(run.event_times[i]) and run.stopped_at[i] == -1


SOLVERS = {
    "Euler": diffrax.Euler(), "RK4": ct.RK4(), "compensated": ct.PoissonSplitting(compensated=True),
    "discrete gradient": ct.DiscreteGradient(), "midpoint": ct.ImplicitMidpoint(),
    "projected": ct.Projected(diffrax.Heun()), "Kvaerno3": diffrax.Kvaerno3(),
    "leapfrog": diffrax.LeapfrogMidpoint(), "half": diffrax.HalfSolver(diffrax.Euler()),
}  # fmt: skip


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.by_default(1)
def test_every_solver_lands_on_the_event(name):
    rnn, x0, solver = network("current"), normal(3, 4, 4), SOLVERS[name]
    solve = {"dt": 0.05, "num_steps": 200, "solver": solver}
    event = ct.Event(level, 1)
    run, free = ct.simulate(rnn, x0, until=event, **solve), ct.simulate(rnn, x0, **solve)
    section = ct.crossings(rnn, x0, event, count=1, **solve)
    happened = np.isfinite(run.event_times)
    assert happened.any()
    # Crossings begin leapfrog's pair of steps anew.
    tolerance = 1e-3 if name == "leapfrog" else 1e3 * EPS
    np.testing.assert_allclose(section.ts[:, 0], run.event_times, rtol=0, atol=tolerance)
    ended = np.asarray(run.xs)[happened, -1]
    np.testing.assert_allclose(ended[:, 0], 0.2, atol=20 * EPS)
    # Before, they are the states of the run; from there on the one of the event.
    for i in np.flatnonzero(happened):
        k = int(run.stopped_at[i])
        np.testing.assert_allclose(run.xs[i, :k], free.xs[i, :k], rtol=0, atol=1e3 * EPS)
        assert (np.asarray(run.xs)[i, k:] == np.asarray(run.xs)[i, -1]).all()
        assert 0.05 * (k - 1) <= run.event_times[i] * (1 + EPS) <= 0.05 * k * (1 + 4 * EPS)
    for i in np.flatnonzero(~happened):
        np.testing.assert_allclose(run.xs[i], free.xs[i], rtol=0, atol=1e3 * EPS)


@pytest.mark.long
def test_held_inputs_and_adaptive_steps():
    rnn, x0 = network(input_weights=normal(2, 4, 1)), normal(3, 3, 4)
    event, solve = ct.Event(level, 1), partial(ct.crossings, count=3, dt=0.05, num_steps=200)
    inputs = normal(5, 3, 200, 1)
    fixed = solve(rnn, x0, event, inputs=inputs, solver=diffrax.Dopri8())
    adaptive = solve(
        rnn, x0, event, inputs=inputs, solver=diffrax.Dopri8(), rtol=1e-11 if X64 else 1e-6
    )
    tolerance = 1e-8 if X64 else 1e-4
    np.testing.assert_allclose(adaptive.ts, fixed.ts, rtol=0, atol=tolerance)
    np.testing.assert_allclose(adaptive.xs, fixed.xs, rtol=0, atol=tolerance)
    run = ct.simulate(rnn, x0, until=event, inputs=inputs, dt=0.05, num_steps=200)
    np.testing.assert_allclose(run.event_times, fixed.ts[:, 0], rtol=0, atol=tolerance)


@pytest.mark.skipif(not X64, reason="against finite differences")
@pytest.mark.parametrize(
    "way",
    [
        TSIT5,
        {"solver": ct.PoissonSplitting()},
        {"rtol": 1e-10},
    ],
)
@pytest.mark.parametrize("kind", ["until", "crossings"])
@pytest.mark.sampled(4)
@pytest.mark.by_default(0)
def test_gradients_are_those_of_finite_differences(kind, way):
    rnn, x0, solve = network("current"), normal(3, 3, 4), {"dt": 0.05, "num_steps": 200} | way
    event = ct.Event(moving, 1)

    def outcome(rnn, x0):
        if kind == "until":
            run = ct.simulate(rnn, x0, until=event, save_every=200, **solve)
            t, x = run.event_times[:, None], run.xs[:, 1:]
        else:
            section = ct.crossings(rnn, x0, event, count=2, **solve)
            t, x = section.ts, section.xs
        return jnp.where(jnp.isnan(t), 0, jnp.sin(t)), jnp.where(jnp.isnan(x), 0, jnp.cos(x))

    def loss(rnn, x0):
        t, x = outcome(rnn, x0)
        return jnp.sum(t) + jnp.sum(x @ jnp.arange(1, 5, dtype=x.dtype))

    by = jax.jit(jax.grad(loss, (0, 1)))(rnn, x0)
    for part, gradient in enumerate(by):
        leaves, structure = jax.tree.flatten((rnn, x0)[part])
        ways = [normal(7 + i, *leaf.shape) for i, leaf in enumerate(leaves)]

        def along(h, part=part, leaves=leaves, structure=structure, ways=ways):
            moved = structure.unflatten([a + h * b for a, b in zip(leaves, ways, strict=True)])
            return loss(*((moved, x0) if part == 0 else (rnn, moved)))

        h = (
            1e-4 if "rtol" in way else 1e-6
        )  # no event passes a step: there the slope jumps a little
        expected = (8 * (along(h) - along(-h)) - along(2 * h) + along(-2 * h)) / (12 * h)
        pairs = zip(jax.tree.leaves(gradient), ways, strict=True)
        found = sum(jnp.sum(g * b) for g, b in pairs)
        assert float(found) == pytest.approx(
            float(expected), rel=1e-5 if "rtol" in way else 1e-6, abs=1e-7
        )


def test_a_period_is_the_time_between_two_crossings():
    rnn = ct.CTRNN(ct.BlockSkew.from_hz(jnp.array([1.0], DTYPE)))
    x0 = jnp.array([0.1, 0.0], DTYPE)
    section = ct.crossings(rnn, x0, ct.Event(lambda t, x: x[1], 1), count=3, dt=0.01, num_steps=400)
    np.testing.assert_allclose(np.diff(section.ts), ct.period(rnn, x0), rtol=1e-9 if X64 else 1e-4)

    def frequency(x0):
        run = ct.simulate(rnn, x0, dt=0.01, num_steps=200, until=ct.Event(lambda t, x: x[1], -1))
        return run.event_times

    # From (0.1, 0) the second neuron falls first and rises through 0 half a period later.
    assert jnp.isfinite(frequency(x0))


@pytest.mark.parametrize("count", [None, pytest.param(3, marks=pytest.mark.long)])
@pytest.mark.by_default(0)
def test_all_that_a_run_may_have(count):
    rnn, x0, event = network(), normal(3, 6, 4), ct.Event(level, 1)
    if count is None:
        solve = partial(ct.simulate, until=event, dt=0.05, num_steps=200)
        times = attrgetter("event_times")
    else:
        solve = partial(ct.crossings, event=event, count=count, dt=0.05, num_steps=200)
        times = attrgetter("ts")
    run = solve(rnn, x0)
    assert np.isfinite(times(run)).any()

    def same(other, batch=(6,)):
        for a, b in ((times(other), times(run)), (other.xs, run.xs)):
            b = b[0] if batch == () else b.reshape(*batch, *b.shape[1:])
            np.testing.assert_allclose(a, b, rtol=0, atol=1e4 * EPS)

    same(solve(rnn, x0, mesh=ct.batch_mesh(jax.devices()[:3])))
    same(jax.jit(lambda x: solve(rnn, x))(x0))
    same(jax.vmap(lambda x: solve(rnn, x))(x0))
    same(solve(rnn, x0[0]), ())
    same(solve(rnn, x0.reshape(2, 3, 4)), (2, 3))
    observed = solve(rnn, x0, observe=lambda t, x: x[:2], keep_states=False)
    assert observed.xs is None
    np.testing.assert_allclose(observed.observed, run.xs[..., :2], rtol=0, atol=1e4 * EPS)
    reversible = solve(rnn, x0, solver=ct.PoissonSplitting(), adjoint="reversible")
    plain = solve(rnn, x0, solver=ct.PoissonSplitting())
    np.testing.assert_allclose(reversible.xs, plain.xs, rtol=0, atol=1e4 * EPS)


@pytest.mark.by_default(0)
def test_with_times_folds_bounds_and_ends():
    rnn, x0, event = network(), normal(3, 6, 4), ct.Event(level, 1)
    solve = partial(ct.simulate, rnn, dt=0.05, until=event)
    run = solve(x0, num_steps=200)
    happened = np.isfinite(run.event_times)
    assert happened.any()
    ts = jnp.asarray(np.sort(np.random.default_rng(0).uniform(0, 10, 12)), DTYPE)
    saved = solve(x0, num_steps=200, save_at=ts)
    free = ct.simulate(rnn, x0, dt=0.05, num_steps=200, save_at=ts)
    over = np.asarray(ts) >= np.asarray(run.event_times)[:, None]  # not of nan
    expected = np.where(over[..., None], np.asarray(run.xs)[:, -1:], free.xs)
    np.testing.assert_allclose(saved.xs, expected, rtol=0, atol=1e4 * EPS)

    # A fold sees the steps before the event.
    counted = solve(x0, num_steps=200, fold=(0, lambda c, t, x: c + 1)).folded
    steps = np.where(happened, np.asarray(run.stopped_at) - 1, 200)
    np.testing.assert_array_equal(counted, steps)

    # Whatever comes first stops.
    norms = np.linalg.norm(np.asarray(ct.simulate(rnn, x0, dt=0.05, num_steps=200).xs), axis=-1)
    bound = float(np.median(norms.max(axis=1)))
    both = solve(x0, num_steps=200, max_norm=bound)
    first = np.argmax(norms > bound, axis=1)
    beyond = (norms > bound).any(axis=1) & ~(happened & (np.asarray(run.stopped_at) <= first))
    assert beyond.any() and not beyond.all()
    np.testing.assert_array_equal(np.isfinite(both.event_times), happened & ~beyond)
    np.testing.assert_array_equal(np.asarray(both.stopped_at)[beyond], first[beyond])

    # Gone on with, those that had their event rest, and the others come to theirs; one of them had
    # it in the last step of the first run.
    first = int(np.median(np.asarray(run.stopped_at)[happened]))
    first = int(np.min(np.asarray(run.stopped_at)[np.asarray(run.stopped_at) >= first]))
    half = solve(x0, num_steps=first)
    assert (half.stopped_at == first).any()
    then = solve(half.end, num_steps=200 - first)
    early = np.isfinite(half.event_times)
    assert early.any() and not (early == happened).all()
    np.testing.assert_array_equal(np.isfinite(then.event_times), happened & ~early)
    np.testing.assert_allclose(then.xs[:, -1], run.xs[:, -1], rtol=0, atol=1e4 * EPS)
    np.testing.assert_array_equal(then.stopped_at, run.stopped_at)


class OfWholeSteps(ct.ImplicitMidpoint):
    """Says of steps of any other length than 0.1 that they are not solved."""

    def advance(self, rnn, x, h, biases=None, level=None):
        x, converged = super().advance(rnn, x, h, biases, level)
        return x, converged & (jnp.abs(h - 0.1) < 1e-6)


@pytest.mark.long
def test_steps_to_the_side_that_are_not_solved_are_told_of():
    rnn, x0, event = network(), normal(3, 6, 4), ct.Event(level, 1)
    solve = partial(ct.simulate, rnn, x0, dt=0.1, num_steps=80, solver=OfWholeSteps())
    assert np.all(np.asarray(solve().unconverged_at) == -1)
    ts = jnp.asarray([0.25, 0.72], DTYPE)
    assert np.all(np.asarray(solve(save_at=ts).unconverged_at) == 3)
    each = jnp.asarray(np.array([0.25, 0.72]) + np.arange(6)[:, None], DTYPE)
    np.testing.assert_array_equal(solve(save_at=each).unconverged_at, 3 + 10 * np.arange(6))
    run = solve(until=event)
    happened = np.isfinite(run.event_times)
    assert happened.any()
    expected = np.where(happened, run.stopped_at, -1)
    np.testing.assert_array_equal(run.unconverged_at, expected)
    late = solve(until=event, save_at=ts[:1] + 7)
    first = np.where(happened, np.minimum(run.stopped_at, 73), 73)
    np.testing.assert_array_equal(late.unconverged_at, first)
    found = ct.crossings(rnn, x0, event, count=2, dt=0.1, num_steps=80, solver=OfWholeSteps())
    first = np.floor(np.nan_to_num(found.ts[:, 0], nan=-0.2) / 0.1).astype(int) + 1
    np.testing.assert_array_equal(found.unconverged_at, first)


def test_what_diverges_has_no_event():
    relu = ct.CTRNN(ct.DenseWeights(3 * jnp.eye(2, dtype=DTYPE)), ct.ReLU())
    x0 = jnp.array([[1.0, 1.0], [-1.0, -1.0]], DTYPE)
    event = ct.Event(lambda t, x: x[0] + 2, -1)  # never
    run = ct.simulate(relu, x0, dt=0.5, num_steps=2000, until=event)
    assert np.isnan(run.event_times).all() and run.stopped_at[0] > 0 and run.stopped_at[1] == -1


@pytest.mark.parametrize(("last", "whole"), [(0.01, False), (1e-9, True), (np.inf, False)])
def test_a_step_that_may_have_overflowed_in_the_run_has_no_event(last, whole):
    def after(fraction):
        y = jnp.asarray(fraction * last * np.finfo(DTYPE).max, DTYPE)
        return y - 1, y[None, None], None

    assert _bracket(after, DTYPE)[1] == whole


@pytest.mark.by_default(0)
def test_a_start_on_the_section_has_not_passed_it():
    rnn = ct.CTRNN(ct.BlockSkew(jnp.array([1.0], DTYPE)))
    x0 = jnp.array([0.0, -0.3], DTYPE)
    for direction in (1, -1, 0):
        event = ct.Event(lambda t, x: x[0], direction)
        section = ct.crossings(rnn, x0, event, count=2, dt=0.05, num_steps=400)
        assert (section.ts > 1).all()


@pytest.mark.parametrize("direction", [1, -1, 0])
@pytest.mark.parametrize("steps", [40, 41, 64])  # in a turn
@pytest.mark.rare
def test_crossings_on_the_grid_are_found_once(direction, steps):
    """Where g is 0 to rounding, before and after it the steps are made once more."""
    rnn = ct.CTRNN(ct.BlockSkew.from_hz(jnp.array([1.0], DTYPE)), ct.Linear())
    angle = 2 * np.pi * np.arange(steps) / steps
    x0 = jnp.asarray(0.3 * np.stack([np.sin(angle), np.cos(angle)], 1), DTYPE)
    event, way = ct.Event(lambda t, x: x[0], direction), {"solver": ct.ExactLinear()}
    section = ct.crossings(rnn, x0, event, count=4, dt=1 / steps, num_steps=5 * steps, **way)
    half = 0.5 if direction == 0 else 1.0
    close = {"rtol": 0, "atol": 1e-12 if X64 else 2e-6}
    # But for those that begin on it, which may be on either side of it.
    inner = [k for k in range(steps) if abs(np.sin(angle[k])) > 1e-3]
    np.testing.assert_allclose(np.diff(section.ts)[inner], half, **close)
    np.testing.assert_allclose(np.asarray(section.xs)[inner, :, 0], 0, **close)
    run = ct.simulate(rnn, x0, dt=1 / steps, num_steps=5 * steps, until=event, **way)
    times, first = np.asarray(run.event_times), np.asarray(section.ts)[:, 0]
    np.testing.assert_allclose(times[inner], first[inner], **close)


def test_section_data_for_other_programs():
    rnn, x0 = network(), normal(3, 5, 4)
    section = ct.crossings(rnn, x0, ct.Event(level, 1), count=3, dt=0.05, num_steps=100)
    np.testing.assert_array_equal(section.to_xarray().x, section.xs)
    run = ct.simulate(rnn, x0, dt=0.05, num_steps=100, until=ct.Event(level, 1))
    np.testing.assert_array_equal(run.to_xarray().event_times, run.event_times)


def test_a_picture_of_a_section():
    rnn, x0 = network(), normal(3, 5, 4)
    found = ct.crossings(rnn, x0, ct.Event(level, 1), count=3, dt=0.05, num_steps=100)
    ax = ct.plot.section(found, neurons=(1, 3))
    points = np.asarray(found.xs)[np.isfinite(found.ts)][:, [1, 3]]
    np.testing.assert_array_equal(ax.collections[0].get_offsets(), points)
    assert ax.get_title() == f"{len(points)} crossings of 5 trajectories"
    plt.close("all")
    none = ct.crossings(rnn, x0, ct.Event(lambda t, x: x[0] - 99), count=1, dt=0.05, num_steps=9)
    for bad, message in ((none, "crossings.xs: expected at least one crossing, got none"),):
        with pytest.raises(ValueError, match=f"^{message}"):
            ct.plot.section(bad)
    assert not plt.get_fignums()


NOISE = {"noise": 0.1, "key": jax.random.key(0), "solver": diffrax.Euler()}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ct.Event(level, 2), ValueError, "direction: expected 1 (rising), -1 (falling)"),
        (lambda: run(lambda t, x: x), ValueError, "event: expected a function that gives a scalar"),
        (lambda: run(lambda t, x: (t, t)), ValueError, "event: expected a function that gives a"),
        (lambda: run(lambda t, x: x[0] > 0), TypeError, "event: expected the dtype of the states"),
        (lambda: run(level, **NOISE), ValueError, "until: expected none where noise is given"),
        (lambda: section(count=0), ValueError, "count: expected an integer >= 1"),
        (lambda: section(save_every=10), TypeError, "save_every: expected none: what is saved are"),
    ],
)
def test_bad_calls(call, error, message):
    with pytest.raises(error) as refused:
        call()
    assert str(refused.value).startswith(message) and "\n" not in str(refused.value)


def run(fn, **options):
    given = {"dt": 0.1, "num_steps": 10, "until": ct.Event(fn)} | options
    return ct.simulate(network(), normal(3, 4), **given)


def section(**options):
    given = {"dt": 0.1, "num_steps": 10, "event": ct.Event(level), "count": 2} | options
    return ct.crossings(network(), normal(3, 4), **given)
