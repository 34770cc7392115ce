"""States at any times: to the order of the solver, differentiable by them."""

import itertools
import re
from functools import partial

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
from ctrnn_jax._simulate import located as located_module

EPS = float(jnp.finfo(DTYPE).eps)
END, DT = 5.0, 0.05
RTOL = 1e-10 if X64 else 1e-5


def times(*shape, seed=0):
    """Increasing times up to END; some on the grid of 0.05 s, the first and the last among them."""
    found = np.random.default_rng(seed).uniform(0, END, shape)
    found[..., 0], found[..., 1], found[..., 2] = 0.0, 2.0, END
    return jnp.asarray(np.sort(found, axis=-1), DTYPE)


def at(ts):
    return jnp.asarray(ts, DTYPE)


def network(form="rate", n=4, seed=4, **options):
    weights = ct.BipartiteSkew.init(jax.random.key(seed), n, dtype=DTYPE)
    bias = weights.matvec(normal(1, n, scale=0.3))
    return ct.CTRNN(weights, form=form, bias=bias, **options)


class Model:
    """The equations in NumPy, by SciPy; `held` (steps, m) are inputs through steps of `DT`."""

    def __init__(self, rnn, push=None, held=None):
        self.A, self.b = np.asarray(rnn.weights.as_matrix(), float), np.asarray(rnn.bias, float)
        self.rate, self.push, self.held = rnn.form == "rate", push, held
        self.B = None if rnn.input_weights is None else np.asarray(rnn.input_weights, float)

    def __call__(self, t, x):
        b = self.b if self.push is None else self.b + self.B @ self.push(t)
        return np.tanh(self.A @ x + b) if self.rate else self.A @ np.tanh(x) + b

    def at(self, x, ts):
        """(times, n), integrated from jump to jump of a held input."""
        x, ts = np.asarray(x, float), np.asarray(ts, float)
        found = np.zeros((len(ts), len(x)))
        edges = [0.0, END] if self.held is None else DT * np.arange(len(self.held) + 1)
        for k, (begin, end) in enumerate(itertools.pairwise(edges)):
            if self.held is not None:
                self.push = lambda t, k=k: self.held[k]
            here = (ts > begin - 1e-6) & (ts < end + 1e-6)  # at a jump from both sides the same
            grid = np.unique([*np.clip(ts[here], begin, end), end])
            solved = solve_ivp(self, (begin, end), x, "DOP853", grid, rtol=1e-12, atol=1e-12)
            found[here] = solved.y.T[np.searchsorted(grid, np.clip(ts[here], begin, end))]
            x = solved.y[:, -1]
        return found


SOLVERS = {
    "Euler": (diffrax.Euler(), 1), "Heun": (diffrax.Heun(), 2), "Tsit5": (diffrax.Tsit5(), 5),
    "RK4": (ct.RK4(), 4), "splitting": (ct.PoissonSplitting(), 2),
    "splitting 1": (ct.PoissonSplitting(1), 1), "splitting 4": (ct.PoissonSplitting(4), 4),
    "compensated": (ct.PoissonSplitting(2, compensated=True), 2),
    "discrete gradient": (ct.DiscreteGradient(), 2), "midpoint": (ct.ImplicitMidpoint(), 2),
    "discrete gradient 4": (ct.DiscreteGradient(order=4), 4),
    "projected": (ct.Projected(diffrax.Heun()), 2), "Kvaerno3": (diffrax.Kvaerno3(), 3),
    "leapfrog": (diffrax.LeapfrogMidpoint(), 2), "reversible": (diffrax.ReversibleHeun(), 2),
    "half": (diffrax.HalfSolver(diffrax.Euler()), 1),
}  # fmt: skip


@pytest.mark.sampled(15)
@pytest.mark.skipif(not X64, reason="orders are seen in float64")
@pytest.mark.parametrize("each", [False, True], ids=["shared", "each"])
@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.by_default(1)
def test_the_order_of_the_solver_is_kept(name, each):
    solver, order = SOLVERS[name]
    x0, ts = normal(3, 8, 4), times(8, 9) if each else times(9)
    # Where the first term rules; leapfrog's error also alternates from step to step.
    steps = (100, 200) if order > 1 and name != "leapfrog" else (400, 800)
    squares = np.zeros(2)
    # Over several networks: in one of them the coefficients of an order may partly cancel.
    for rnn in (network(form, seed=seed) for form in ("rate", "current") for seed in (4, 5)):
        expected = np.stack([Model(rnn).at(x, ts[i] if each else ts) for i, x in enumerate(x0)])
        for k, count in enumerate(steps):
            run = ct.simulate(rnn, x0, dt=END / count, save_at=ts, solver=solver)
            assert run.xs.shape == expected.shape and run.ts.shape == ts.shape
            squares[k] += np.mean((np.asarray(run.xs) - expected) ** 2)
    assert np.log2(squares[0] / squares[1]) / 2 == pytest.approx(order, abs=0.15)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("steps", [100, 101, 1000])
@pytest.mark.parametrize("name", ["Tsit5", "splitting", "compensated", "discrete gradient"])
@pytest.mark.by_default(2)
def test_times_on_the_grid_are_those_of_the_grid(name, steps):
    """Whatever lies between the saves that the steps are made again from."""
    rnn, x0, solver = network(), normal(3, 3, 4), SOLVERS[name][0]
    grid = ct.simulate(rnn, x0, dt=0.05, num_steps=steps, solver=solver)
    some = jnp.array([0, 1, 7, 50, 51, 99, 100])
    run = ct.simulate(rnn, x0, dt=0.05, num_steps=steps, solver=solver, save_at=grid.ts[some])
    tolerance = 1e4 * EPS
    np.testing.assert_allclose(run.xs, grid.xs[:, some], rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(run.end.x, grid.xs[:, -1], rtol=tolerance, atol=tolerance)
    assert int(run.end.step) == steps


def smooth(t):
    return jnp.stack([jnp.sin(2 * t), jnp.cos(t)])


@pytest.mark.sampled(4)
@pytest.mark.parametrize("each", [False, True], ids=["shared", "each"])
@pytest.mark.parametrize(
    "tolerances", [{}, {"rtol": 1e-10 if X64 else 1e-5}], ids=["fixed", "adaptive"]
)
@pytest.mark.parametrize("kind", ["none", "function", "shared", "each"])
def test_adaptive_steps_and_inputs(kind, tolerances, each):
    rnn, x0 = network(input_weights=normal(2, 4, 2)), normal(3, 3, 4)
    ts, steps = times(3, 9) if each else times(9), 100
    held = np.asarray(normal(5, 3, steps, 2), float)
    inputs = {"none": None, "function": smooth, "shared": held[0], "each": held}[kind]
    expected = []
    for row in range(3):
        model = Model(
            rnn,
            (lambda t: np.array([np.sin(2 * t), np.cos(t)])) if kind == "function" else None,
            {"shared": held[0], "each": held[row]}.get(kind),
        )
        expected.append(model.at(x0[row], ts[row] if each else ts))
    if inputs is not None and kind != "function":
        inputs = jnp.asarray(inputs, DTYPE)
    run = ct.simulate(rnn, x0, dt=0.05, num_steps=steps, save_at=ts, inputs=inputs, **tolerances)
    tolerance = 1e-7 if X64 else 2e-4
    np.testing.assert_allclose(run.xs, np.stack(expected), rtol=tolerance, atol=tolerance)


@pytest.mark.sampled(3)
@pytest.mark.skipif(not X64, reason="against finite differences")
@pytest.mark.parametrize("adjoint", ["checkpointed", "direct", "reversible"])
@pytest.mark.parametrize("each", [False, True], ids=["shared", "each"])
@pytest.mark.by_default(0)
def test_gradients_are_those_of_finite_differences(adjoint, each):
    rnn, x0 = network("current"), normal(3, 3, 4)
    ts = (times(3, 5) if each else times(5))[..., 1:-1] + 1e-3

    def loss(rnn, x0, ts, dt):
        run = ct.simulate(rnn, x0, dt=dt, num_steps=200, save_at=ts, adjoint=adjoint,
                          solver=ct.PoissonSplitting())  # fmt: skip
        return jnp.einsum("...sn,...s->", jnp.sin(run.xs), run.ts)

    point = rnn, x0, ts, jnp.asarray(0.05, DTYPE)
    gradient = jax.jit(jax.grad(loss, (0, 1, 2, 3)))(*point)
    for part in range(4):
        leaves, structure = jax.tree.flatten(point[part])
        ways = [normal(7 + i, *leaf.shape) for i, leaf in enumerate(leaves)]

        def along(h, part=part, leaves=leaves, structure=structure, ways=ways):
            moved = [leaf + h * way for leaf, way in zip(leaves, ways, strict=True)]
            changed = list(point)
            changed[part] = structure.unflatten(moved)
            return loss(*changed)

        h = 2e-6  # no time passes a step, where the slope of the result jumps a little
        expected = (8 * (along(h) - along(-h)) - along(2 * h) + along(-2 * h)) / (12 * h)
        pairs = zip(jax.tree.leaves(gradient[part]), ways, strict=True)
        found = sum(jnp.sum(g * way) for g, way in pairs)
        assert float(found) == pytest.approx(float(expected), rel=1e-6, abs=1e-7)


def test_the_slope_by_a_time_is_that_of_the_equation():
    rnn, x0 = network(), normal(3, 4)
    state = lambda t: ct.simulate(rnn, x0, dt=0.01, num_steps=300, save_at=t[None]).xs[0]  # noqa: E731
    for t in (0.0, 1.0, 1.2345, 3.0):  # on the grid, too
        t = jnp.asarray(t, DTYPE)
        slope = jax.jacfwd(state)(t)
        np.testing.assert_allclose(slope, rnn(t, state(t)), rtol=1e-4, atol=1e-6 if X64 else 1e-3)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("each", [False, True], ids=["shared", "each"])
@pytest.mark.by_default(0)
def test_all_that_a_run_may_have(each, monkeypatch):
    rnn, x0 = network(), normal(3, 6, 4)
    ts = times(6, 7) if each else times(7)
    solve = partial(ct.simulate, dt=0.05, num_steps=100, solver=ct.PoissonSplitting())
    run = solve(rnn, x0, save_at=ts)
    fold = (0.0, lambda c, t, x: c + x[0])
    observed = solve(rnn, x0, save_at=ts, observe=lambda t, x: {"t": t, "y": x[:2]}, fold=fold,
                     keep_states=False)  # fmt: skip
    assert observed.xs is None
    np.testing.assert_array_equal(observed.observed["t"], jnp.broadcast_to(ts, (6, 7)))
    np.testing.assert_allclose(observed.observed["y"], run.xs[..., :2], atol=100 * EPS)
    np.testing.assert_allclose(observed.folded, solve(rnn, x0, fold=fold).folded, atol=100 * EPS)
    same = partial(np.testing.assert_allclose, desired=run.xs, rtol=0, atol=1e3 * EPS)
    same(solve(rnn, x0, save_at=ts, mesh=ct.batch_mesh(jax.devices()[:3])).xs)
    same(jax.jit(lambda ts: solve(rnn, x0, save_at=ts).xs)(ts))
    same(jax.vmap(lambda x, t: solve(rnn, x, save_at=t).xs, (0, 0 if each else None))(x0, ts))
    monkeypatch.setattr(located_module, "_NUMBERS_AT_ONCE", 30)
    same(jax.jit(lambda x0: solve(rnn, x0, save_at=ts).xs)(x0))
    for batch in ((), (2, 3)):
        shape = x0.reshape(*batch, -1, 4)[0, 0] if batch == () else x0.reshape(2, 3, 4)
        own = ts if not each else (ts[0] if batch == () else ts.reshape(2, 3, 7))
        found = solve(rnn, x0[0] if batch == () else shape, save_at=own).xs
        np.testing.assert_allclose(found, run.xs[0] if batch == () else run.xs.reshape(2, 3, 7, 4),
                                   rtol=0, atol=1e3 * EPS)  # fmt: skip


def test_it_goes_on_from_an_end():
    rnn, x0 = network(), normal(3, 3, 4)
    ts = times(9)
    whole = ct.simulate(rnn, x0, dt=0.05, save_at=ts)
    half = ct.simulate(rnn, x0, dt=0.05, num_steps=40, save_at=ts[ts <= 2.0])
    then = ct.simulate(rnn, half.end, dt=0.05, save_at=ts[ts > 2.0])
    parts = jnp.concatenate([half.xs, then.xs], axis=1)
    np.testing.assert_allclose(parts, whole.xs, rtol=0, atol=1e3 * EPS)


@pytest.mark.by_default(0)
def test_long_adaptive_runs_end():
    """300 s of 100 Hz, in float32 too: no single solve may be longer than a segment."""
    rnn = ct.CTRNN(ct.BlockSkew.from_hz(jnp.array([100.0], DTYPE)), ct.Linear())
    ts = jnp.asarray([1.0003, 299.9971], DTYPE)
    run = ct.simulate(rnn, jnp.array([1.0, 0.0], DTYPE), dt=0.01, num_steps=30_000, save_at=ts,
                      rtol=1e-5)  # fmt: skip
    assert run.end.segment[2] <= 512  # steps on the grid between two saves
    angle = 2 * np.pi * 100 * np.asarray(ts, float)
    sizes = np.linalg.norm(run.xs, axis=-1)
    assert np.abs(sizes - 1).max() < 0.5 and run.unconverged_at == -1
    assert np.abs(run.xs[0] - np.array([np.cos(angle[0]), -np.sin(angle[0])])).max() < 0.05


def test_an_equation_that_knows_the_time():
    class Swing(ct.CTRNN):
        def __call__(self, t, x, args=None):
            return jnp.cos(t) * jnp.ones_like(x)

    rnn, x0 = Swing(network().weights), jnp.zeros((2, 4), DTYPE)
    for ts in (times(9), times(2, 9)):
        run = ct.simulate(rnn, x0, dt=0.05, num_steps=1000, save_at=ts)
        expected = np.broadcast_to(np.sin(ts), (2, 9))[..., None] * np.ones(4)
        np.testing.assert_allclose(run.xs, expected, atol=1e-8 if X64 else 1e-5)


def test_stopped_trajectories_keep_their_state():
    relu = ct.CTRNN(ct.BlockSkew(jnp.array([1.0], DTYPE)), ct.ReLU())
    states = jnp.array([[-0.5, 0.2], [-1.0, 0.6], [1.0, -1.0]], DTYPE)
    options = {"dt": 0.01, "num_steps": 1300, "max_norm": 8.0}
    grid = ct.simulate(relu, states, **options)
    assert grid.num_stopped > 0
    ends = 0.01 * np.asarray(grid.stopped_at)[np.asarray(grid.stopped_at) >= 0]
    ts = jnp.asarray(np.sort([*np.linspace(0, 12.9, 40), *ends + 0.002, *ends - 0.002]), DTYPE)
    run = ct.simulate(relu, states, **options, save_at=ts)
    np.testing.assert_array_equal(run.stopped_at, grid.stopped_at)
    stopped_at = np.asarray(grid.stopped_at)[:, None]
    after = (stopped_at >= 0) & (np.asarray(ts) > 0.01 * stopped_at)
    last = np.broadcast_to(grid.xs[:, -1:], run.xs.shape)
    np.testing.assert_array_equal(np.asarray(run.xs)[after], last[after])
    assert np.isfinite(run.xs).all()


def test_times_that_turn_out_beyond_the_run_are_not_numbers():
    run = jax.jit(
        lambda ts: ct.simulate(network(), normal(3, 4), dt=0.05, num_steps=10, save_at=ts)
    )
    xs = run(jnp.array([-0.01, 0.2, 0.5, 0.51], DTYPE)).xs
    np.testing.assert_array_equal(np.isnan(xs[:, 0]), [True, False, False, True])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"save_at": at([1.0, 0.5])}, ValueError, "save_at: expected increasing times"),
        ({"save_at": at([0.5, 0.5])}, ValueError, "save_at: expected increasing times"),
        ({"save_at": at([-0.5, 0.5])}, ValueError, "save_at: expected times within 0 a"),
        ({"save_at": at([0.5, 5.01])}, ValueError, "save_at: expected times within 0 a"),
        ({"save_at": at([0.5, np.nan])}, ValueError, "save_at: expected finite values"),
        ({"save_at": jnp.zeros((2, 1), DTYPE)}, ValueError, "save_at: expected shape (S,) or ("),
        ({"save_at": jnp.zeros(0, DTYPE)}, ValueError, "save_at: expected shape (S,) or ("),
        ({"save_at": jnp.arange(3)}, TypeError, "save_at: expected a floating-point arr"),
        ({"save_at": jnp.zeros(1, jnp.float16)}, TypeError, "save_at: expected dtype float32 or"),
        ({"save_every": 5}, ValueError, "save_every: expected 1 where save_at is given, got 5"),
        ({"noise": 0.1, "key": jax.random.key(0), "solver": diffrax.Euler()}, ValueError,
         "save_at: expected none where noise is given"),
        ({"num_steps": None, "save_at": None}, TypeError, "num_steps: expected an integer >= 1"),
    ],
)  # fmt: skip
def test_bad_calls(changes, error, message):
    given = {"dt": 0.05, "num_steps": 100, "save_at": times(4)} | changes

    def run(x0):
        return ct.simulate(network(), x0, **given).xs

    for call in (run, jax.jit(run)):  # what is known is looked at while tracing, too
        with pytest.raises(error) as refused:
            call(normal(3, 3, 4))
        assert str(refused.value).startswith(message)
    given["save_at"] = np.asarray(given["save_at"]) if given["save_at"] is not None else None
    with pytest.raises(error, match=re.escape(message)):
        jax.jit(run)(normal(3, 3, 4))


def test_the_number_of_steps_has_to_be_known():
    with pytest.raises(ValueError, match=r"^num_steps: expected a number of steps where save_at"):
        jax.jit(lambda ts: ct.simulate(network(), normal(3, 4), dt=0.05, save_at=ts).xs)(times(4))


def test_pictures_of_uneven_times():
    rnn, x0 = network(), normal(3, 3, 4)
    run = ct.simulate(rnn, x0, dt=0.05, save_at=times(9))
    np.testing.assert_array_equal(ct.plot.time_series(run).lines[0].get_xdata(), run.ts)
    for picture in (ct.plot.spectrum, ct.plot.spectrogram):
        with pytest.raises(ValueError, match=r"^trajectory.ts: expected evenly spaced times, got"):
            picture(run)
    own = ct.simulate(rnn, x0, dt=0.05, save_at=times(3, 9))
    with pytest.raises(ValueError, match=r"^trajectory.ts: expected the same times for all"):
        ct.plot.time_series(own)
    plt.close("all")
    dataset = own.to_xarray()
    np.testing.assert_array_equal(dataset.time, own.ts)
