from functools import partial

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import X64
from systems import DTYPE, SYSTEMS, normal, reference

import ctrnn_jax as ct

TIGHT = 1e-9 if X64 else 2e-4


def largest_gap(a, b):
    return float(np.max(np.abs(np.asarray(a) - np.asarray(b))))


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.sampled(2)
def test_agrees_with_an_independent_integrator(name):
    rnn = SYSTEMS[name]
    x0 = normal(0, rnn.size)
    trajectory = ct.simulate(rnn, x0, dt=0.005, num_steps=2000, save_every=100)
    assert largest_gap(trajectory.xs, reference(rnn, x0, 0.5 * np.arange(21))) < TIGHT


EXPLICIT = [
    *(diffrax.Euler(), diffrax.Heun(), diffrax.Midpoint(), diffrax.Ralston(), diffrax.Bosh3()),
    *(diffrax.Tsit5(), diffrax.Dopri5(), diffrax.Dopri8(), diffrax.ReversibleHeun()),
    *(diffrax.LeapfrogMidpoint(), diffrax.HalfSolver(diffrax.Midpoint()), ct.RK4()),
]


@pytest.mark.parametrize("solver", EXPLICIT, ids=lambda s: type(s).__name__)
@pytest.mark.sampled(4)
def test_steps_are_those_of_diffrax(solver):
    rnn = SYSTEMS["rate arctan n=7 bias"]
    x0 = normal(1, 3, 7)
    ours = ct.simulate(rnn, x0, dt=0.125, num_steps=24, solver=solver).xs[:, -1]
    theirs = jax.vmap(
        lambda x: diffrax.diffeqsolve(
            diffrax.ODETerm(rnn), solver, 0.0, 3.0, 0.125, x, max_steps=64
        ).ys[0]
    )(x0)
    assert largest_gap(ours, theirs) < (1e-13 if X64 else 1e-5)


@pytest.mark.parametrize("solver", [diffrax.ImplicitEuler(), diffrax.Kvaerno3()])
def test_implicit_solvers_of_diffrax_treat_each_state_by_itself(solver):
    rnn = SYSTEMS["current tanh n=3"]
    x0 = normal(2, 5, 3)
    batch = ct.simulate(rnn, x0, dt=0.025, num_steps=80, solver=solver)
    single = ct.simulate(rnn, x0[3], dt=0.025, num_steps=80, solver=solver)
    # The root finder's tolerance, not rounding: its stopping test differs in the last bits.
    assert largest_gap(batch.xs[3], single.xs) < (1e-7 if X64 else 1e-3)
    error = largest_gap(single.xs[-1], reference(rnn, x0[3], [0.0, 2.0])[-1])
    assert error < (0.1 if isinstance(solver, diffrax.ImplicitEuler) else 1e-3)
    assert np.all(np.asarray(batch.unconverged_at) == -1)


def test_an_unsolved_implicit_step_is_reported_for_its_trajectory_alone():
    finder = diffrax.VeryChord(rtol=1e-6, atol=1e-6)
    solver = diffrax.ImplicitEuler(root_finder=finder)
    rnn = ct.CTRNN(ct.DenseWeights(jnp.array([[1.0]], DTYPE)), ct.Exp())
    x0 = jnp.array([[-5.0], [3.0]], DTYPE)  # from 3 the implicit equation has no solution
    trajectory = ct.simulate(rnn, x0, dt=1.0, num_steps=2, solver=solver, max_norm=1e6)
    assert np.asarray(trajectory.unconverged_at).tolist() == [-1, 1]


@pytest.mark.parametrize("order,solver", [(4, ct.RK4()), (1, diffrax.Euler())])
def test_measured_order(order, solver):
    rnn = SYSTEMS["rate sin n=4"]
    x0 = normal(3, 4)
    exact = reference(rnn, x0, [0.0, 4.0])[-1]
    # Small enough for the leading term, large enough to stand above rounding.
    steps = {(4, True): (128, 256), (4, False): (16, 32)}.get((order, X64), (512, 1024))
    errors = [
        largest_gap(ct.simulate(rnn, x0, dt=4 / n, num_steps=int(n), solver=solver).xs[-1], exact)
        for n in steps
    ]
    slope = np.log2(errors[0] / errors[1])
    assert abs(slope - order) < (0.15 if X64 or order == 1 else 0.5)


@pytest.mark.long
def test_exact_linear_is_exact_at_any_step(key):
    weights = ct.DenseSkew.init(key, 6, scale=2.0)
    rnn = ct.CTRNN(weights, ct.Linear(), bias=normal(1, 6), leak=0.1)
    x0 = normal(2, 6)
    one = ct.simulate(rnn, x0, dt=8.0, num_steps=1, solver=ct.ExactLinear()).xs[-1]
    many = ct.simulate(rnn, x0, dt=0.01, num_steps=800, save_every=800).xs[-1]
    assert largest_gap(one, many) < (1e-10 if X64 else 1e-3)
    skew = ct.CTRNN(weights, ct.Linear())
    fold = (0.0, lambda c, t, x: jnp.maximum(c, jnp.abs(jnp.linalg.norm(x) - norm)))
    norm = jnp.linalg.norm(x0)
    run = ct.simulate(
        skew, x0, dt=0.7, num_steps=2000, save_every=2000, fold=fold, solver=ct.ExactLinear()
    )
    assert run.folded < (1e-11 if X64 else 5e-3)
    theirs = diffrax.diffeqsolve(
        diffrax.ODETerm(skew), ct.ExactLinear(), 0.0, 2.1, 0.7, x0,
        saveat=diffrax.SaveAt(ts=jnp.array([0.7, 1.4, 2.1], DTYPE)),
    )  # fmt: skip
    ours = ct.simulate(skew, x0, dt=0.7, num_steps=3, solver=ct.ExactLinear()).xs[1:]
    assert largest_gap(theirs.ys, ours) < (1e-13 if X64 else 1e-5)


@pytest.mark.parametrize(
    "num_steps,save_every", [(60, 1), (60, 20), (97, 1), (97, 97), (1200, 400), (1001, 143)]
)
@pytest.mark.parametrize("max_norm", [None, 1e3])
@pytest.mark.sampled(4)
def test_saves_observations_and_folds_agree_with_a_python_loop(num_steps, save_every, max_norm):
    rnn = SYSTEMS["current tanh n=3"]
    x0 = normal(4, 2, 3)
    dt = 1 / 64  # exact in binary: so are the times
    trajectory = ct.simulate(
        rnn,
        x0,
        dt=dt,
        num_steps=num_steps,
        solver=diffrax.Euler(),
        save_every=save_every,
        observe=lambda t, x: {"t": t, "sum": jnp.sum(x)},
        fold=(
            lambda x: (jnp.zeros((), jnp.int32), x[0]),
            lambda c, t, x: (c[0] + 1, c[1] + t * x[0]),
        ),
        max_norm=max_norm,
    )
    x, states, total = np.asarray(x0), [np.asarray(x0)], np.asarray(x0[:, 0])
    A = np.asarray(rnn.weights.as_matrix())
    for k in range(1, num_steps + 1):
        x = x + dt * np.tanh(x) @ A.T
        total = total + k * dt * x[:, 0]
        if k % save_every == 0:
            states.append(x)
    expected = np.stack(states, axis=1)
    tolerance = 1e-11 if X64 else 2e-2
    assert trajectory.xs.shape == (2, num_steps // save_every + 1, 3)
    assert largest_gap(trajectory.xs, expected) < tolerance
    assert np.array_equal(trajectory.ts, dt * save_every * np.arange(num_steps // save_every + 1))
    assert np.array_equal(
        trajectory.observed["t"], np.broadcast_to(trajectory.ts, (2, len(trajectory.ts)))
    )
    assert largest_gap(trajectory.observed["sum"], expected.sum(-1)) < tolerance
    assert np.asarray(trajectory.folded[0]).tolist() == [num_steps, num_steps]
    assert np.allclose(trajectory.folded[1], total, rtol=tolerance)


def test_keep_states_false_keeps_observations_only():
    run = ct.simulate(
        SYSTEMS["current tanh n=3"], normal(4, 2, 3), dt=0.1, num_steps=10,
        observe=lambda t, x: x[0], keep_states=False,
    )  # fmt: skip
    assert run.xs is None and run.observed.shape == (2, 11)


@pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 3), (4096,)])
@pytest.mark.parametrize("n", [2, 5, 129])
@pytest.mark.sampled(5)
def test_leading_axes_and_batch_equal_single_runs(batch, n, key):
    rnn = ct.CTRNN(ct.DenseSkew.init(key, n))
    x0 = normal(5, *batch, n)
    trajectory = ct.simulate(rnn, x0, dt=0.1, num_steps=4, save_every=2)
    assert trajectory.xs.shape == (*batch, 3, n) and trajectory.stopped_at.shape == batch
    last = (-1,) * len(batch)
    single = ct.simulate(rnn, x0[last], dt=0.1, num_steps=4, save_every=2)
    assert largest_gap(trajectory.xs[last], single.xs) < 1e3 * float(jnp.finfo(DTYPE).eps)


def test_one_unconstrained_neuron():
    rnn = ct.CTRNN(ct.DenseWeights(jnp.array([[-1.0]], DTYPE)), ct.Linear())
    xs = ct.simulate(rnn, jnp.ones(1, DTYPE), dt=0.1, num_steps=10).xs
    assert abs(float(xs[-1, 0]) - np.exp(-1)) < 1e-6


@pytest.mark.long
def test_ensemble_of_networks_is_vmap_over_the_model(key):
    x0 = normal(6, 3, 5)

    def run(rnn):
        return ct.simulate(rnn, x0, dt=0.1, num_steps=30, save_every=10)

    networks = eqx.filter_vmap(lambda k: ct.CTRNN(ct.DenseSkew.init(k, 5)))(
        jax.random.split(key, 4)
    )
    ensemble = jax.vmap(run)(networks)
    one = run(jax.tree.map(lambda leaf: leaf[2], networks))
    assert ensemble.xs.shape == (4, 3, 4, 5)
    assert largest_gap(ensemble.xs[2], one.xs) < 100 * float(jnp.finfo(DTYPE).eps)


def test_float32_time_step_stays_exact_over_long_runs():
    # (k+1)·dt - k·dt is off by 1 % here in float32; the step must not be.
    rnn = ct.CTRNN(
        ct.DenseWeights(jnp.zeros((1, 1), jnp.float32)), bias=jnp.full(1, 20.0, jnp.float32)
    )
    run = ct.simulate(
        rnn,
        jnp.zeros(1, jnp.float32),
        dt=0.125,
        num_steps=2**18,
        save_every=2**18,
        solver=diffrax.Euler(),
    )
    assert float(run.xs[-1, 0]) == 2**15  # slope tanh 20 = 1; sums of 1/8 are exact


class TestDivergence:
    """A trajectory that diverges is stopped alone and leaves the others as they are."""

    @pytest.mark.parametrize("max_norm", [None, 50.0])
    @pytest.mark.parametrize("solver", [diffrax.Euler(), diffrax.Tsit5(), ct.RK4()])
    @pytest.mark.parametrize("activation", [ct.Linear(), ct.ReLU()])
    def test_others_are_bit_identical(self, activation, solver, max_norm):
        rnn = ct.CTRNN(ct.DenseWeights(jnp.full((4, 4), 0.5, DTYPE)), activation)  # growth e^2t
        harmless = jnp.abs(normal(7, 6, 4, scale=1e-13))
        top = float(jnp.finfo(DTYPE).max) / 64 if max_norm is None else 1.0
        wild = harmless.at[1].set(top).at[4, 2].set(jnp.nan)
        kwargs = {
            "dt": 0.5,
            "num_steps": 20,
            "save_every": 4,
            "solver": solver,
            "max_norm": max_norm,
        }
        kwargs["fold"] = (0.0, lambda c, t, x: jnp.maximum(c, jnp.max(jnp.abs(x))))
        a, b = ct.simulate(rnn, harmless, **kwargs), ct.simulate(rnn, wild, **kwargs)
        others = np.array([0, 2, 3, 5])
        assert np.array_equal(a.xs[others], b.xs[others])
        assert np.array_equal(a.folded[others], b.folded[others])
        assert np.all(np.asarray(b.stopped_at)[others] == -1)
        assert int(b.stopped_at[4]) == 0 and int(b.stopped_at[1]) > 0
        assert np.all(np.isfinite(b.xs[1])) and np.isfinite(b.folded[1])

    @pytest.mark.parametrize("max_norm", [None, 1e20])
    @pytest.mark.parametrize("save_every", [1, 50, 1000])
    def test_step_and_state_of_the_stop(self, max_norm, save_every):
        rnn = ct.CTRNN(ct.BlockSkew(jnp.ones(1, DTYPE)), ct.Linear())
        x0 = np.array([1.0, 0.0], DTYPE)
        dt = 2.0  # Euler multiplies the norm by √5 a step
        run = ct.simulate(
            rnn, x0, dt=dt, num_steps=1000, save_every=save_every, solver=diffrax.Euler(),
            max_norm=max_norm, fold=(0, lambda c, t, x: c + 1),
        )  # fmt: skip
        x, kept, stop = x0, x0, None
        for k in range(1, 1001):
            with np.errstate(all="ignore"):
                x = (x + np.array(dt, DTYPE) * np.array([x[1], -x[0]])).astype(DTYPE)
            if not np.all(np.isfinite(x)):
                stop = k
                break
            kept = x
            if max_norm and np.hypot(*x) > max_norm:
                stop = k
                break
        assert (int(run.stopped_at), largest_gap(run.xs[-1] / kept, 1) < 1e-5) == (stop or -1, True)
        assert int(run.folded) == (1000 if stop is None else stop - (max_norm is None))

    def test_gradients_ignore_stopped_trajectories(self):
        largest = float(jnp.finfo(DTYPE).max)

        def loss(omega, x0):
            rnn = ct.CTRNN(ct.BlockSkew(omega), ct.Linear())
            run = ct.simulate(
                rnn, x0, dt=1.0, num_steps=20, solver=diffrax.Euler(), max_norm=largest / 100
            )
            return jnp.sum(run.xs[0] ** 2), run.stopped_at

        # Euler multiplies the norm by 1.8 a step: without its stop the second would overflow.
        gradient = jax.grad(loss, has_aux=True)
        x0 = jnp.array([[1e-3, 0.0], [largest / 1000, 0.0]], DTYPE)
        together, stopped_at = gradient(jnp.array([1.5], DTYPE), x0)
        alone, _ = gradient(jnp.array([1.5], DTYPE), x0[:1])
        assert list(stopped_at) == [-1, 4]
        assert np.isfinite(together).all() and np.allclose(together, alone, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "solver,kwargs",
    [
        (diffrax.Tsit5(), {}),
        (diffrax.Euler(), {"num_steps": 300, "save_every": 150}),
        (ct.RK4(), {"max_norm": 30.0}),
        (diffrax.Dopri5(), {"rtol": 1e-10, "atol": 1e-10}),
        (ct.ExactLinear(), {}),
    ],
    ids=["Tsit5", "Euler", "RK4 max_norm", "adaptive", "ExactLinear"],
)
@pytest.mark.sampled(3)
def test_gradients(solver, kwargs):
    n = 5
    activation = ct.Linear() if isinstance(solver, ct.ExactLinear) else ct.Tanh()
    weights = ct.DenseSkew.init(jax.random.key(1), n, scale=2.0)
    point = (
        ct.CTRNN(weights, activation, bias=normal(2, n)),
        normal(3, 2, n),
        jnp.asarray(0.05, DTYPE),
    )
    kwargs = {"num_steps": 60, "save_every": 6, **kwargs}
    if not X64 and "rtol" in kwargs:
        kwargs |= {"rtol": 1e-5, "atol": 1e-5}

    def loss(point, adjoint):
        rnn, x0, dt = point
        run = ct.simulate(
            rnn, x0, dt=dt, solver=solver, adjoint=adjoint,
            fold=(0.0, lambda c, t, x: c + t * jnp.sum(x**2)),
            observe=lambda t, x: t * x[0], **kwargs,
        )  # fmt: skip
        scale = 1 / kwargs["num_steps"]
        return jnp.sum(run.xs[:, 1:] ** 3) + scale * jnp.sum(run.folded) + jnp.sum(run.observed)

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    checkpointed, direct = gradient(point, "checkpointed"), gradient(point, "direct")
    for a, b in zip(jax.tree.leaves(checkpointed), jax.tree.leaves(direct), strict=True):
        assert largest_gap(a, b) <= 50 * float(jnp.finfo(DTYPE).eps) * float(jnp.max(jnp.abs(b)))

    leaves, tree = jax.tree.flatten(point)
    direction = [normal(10 + i, *leaf.shape) for i, leaf in enumerate(leaves)]
    h = 1e-5 if X64 else 2e-3
    value = jax.jit(partial(loss, adjoint="direct"))  # whose functions would be new ones each time

    def along(s):
        moved = [leaf + s * d * 0.1 for leaf, d in zip(leaves, direction, strict=True)]
        return float(value(tree.unflatten(moved)))

    # Fourth-order central difference: its own error is far below the bound.
    slope = (8 * (along(h) - along(-h)) - (along(2 * h) - along(-2 * h))) / (12 * h)
    exact = 0.1 * sum(
        float(jnp.vdot(g, d)) for g, d in zip(jax.tree.leaves(checkpointed), direction, strict=True)
    )
    assert abs(exact - slope) < (1e-6 if X64 else 3e-2) * abs(slope)


@pytest.mark.long
def test_adaptive_steps_reach_the_tolerance_and_bring_stops_and_folds():
    rnn = SYSTEMS["rate tanh n=20"]
    x0 = normal(8, 3, 20)
    fold = (0.0, lambda c, t, x: jnp.maximum(c, jnp.linalg.norm(x)))
    tolerance = 1e-11 if X64 else 1e-6
    kwargs = dict(dt=0.05, num_steps=200, save_every=20, rtol=tolerance, atol=tolerance)
    plain = ct.simulate(rnn, x0, solver=diffrax.Dopri8(), **kwargs)
    bounded = ct.simulate(rnn, x0, solver=diffrax.Dopri8(), fold=fold, max_norm=1e3, **kwargs)
    exact = np.stack([reference(rnn, x, plain.ts) for x in x0])
    bound = 1e-8 if X64 else 1e-3
    assert largest_gap(plain.xs, exact) < bound and largest_gap(bounded.xs, exact) < bound
    fine = ct.simulate(rnn, x0, dt=0.05, num_steps=200, save_every=1, fold=fold)
    assert np.allclose(bounded.folded, fine.folded, rtol=1e-5)
    norms = np.linalg.norm(np.asarray(fine.xs[1]), axis=-1)
    limit = float(norms[60])
    stop = int(np.argmax(norms > limit * 1.0001))
    stopped = ct.simulate(rnn, x0, max_norm=limit * 1.0001, **kwargs, solver=diffrax.Dopri8())
    assert int(stopped.stopped_at[1]) == (stop or -1)


@pytest.mark.parametrize("save_every", [1, 64])
def test_adaptive_blow_up_stops_alone(save_every):
    # x' = exp x from x0 reaches infinity at t = exp(-x0).
    rnn = ct.CTRNN(ct.DenseWeights(jnp.ones((1, 1), DTYPE)), ct.Exp())
    x0 = jnp.array([[0.0], [-3.0]], DTYPE)
    run = ct.simulate(
        rnn, x0, dt=0.03125, num_steps=64, save_every=save_every, rtol=1e-6, atol=1e-6
    )
    assert np.asarray(run.stopped_at).tolist() == [32, -1] or int(run.stopped_at[0]) == 33
    assert np.all(np.isfinite(run.xs))
    exact = -np.log(np.exp(3.0) - 2.0)
    assert abs(float(run.xs[1, -1, 0]) - exact) < 1e-4


class _Counting(eqx.Module):
    def __call__(self, z):
        _Counting.traces += 1
        return jnp.tanh(z)


def test_repeated_calls_compile_once(key):
    def run(seed, dt, max_norm):
        rnn = ct.CTRNN(ct.DenseSkew.init(jax.random.key(seed), 4), ct.CustomActivation(_Counting()))
        return ct.simulate(rnn, normal(seed, 3, 4), dt=dt, num_steps=10, max_norm=max_norm)

    _Counting.traces = 0
    run(0, 0.1, 5.0)
    first = _Counting.traces
    for seed, dt in ((1, 0.2), (2, 0.3), (3, 0.05)):
        run(seed, dt, 1.0 + dt)
    assert first > 0 and _Counting.traces == first


@pytest.mark.parametrize("adjoint", ["checkpointed", "direct"])
def test_lowers_for_cuda(adjoint):
    rnn = SYSTEMS["rate tanh n=20"]

    def loss(rnn, x0):
        return jnp.sum(
            ct.simulate(rnn, x0, dt=0.1, num_steps=30, save_every=10, adjoint=adjoint).xs
        )

    for function in (loss, jax.grad(loss)):
        jax.jit(function).trace(rnn, normal(0, 4, 20)).lower(lowering_platforms=("cuda",))


def test_memory_does_not_grow_with_the_steps_between_saves():
    rnn = SYSTEMS["current tanh n=3"]

    def temporary(num_steps):
        def run(x0):
            return ct.simulate(rnn, x0, dt=0.01, num_steps=num_steps, save_every=num_steps // 10).xs

        analysis = jax.jit(run).lower(normal(0, 64, 3)).compile().memory_analysis()
        return analysis.temp_size_in_bytes

    assert temporary(10**6) <= 1.1 * temporary(10**3)


def test_progress_bar_reaches_the_end(capfd):
    ct.simulate(SYSTEMS["current tanh n=3"], normal(0, 3), dt=0.1, num_steps=1000, progress=True)
    jax.effects_barrier()
    assert "100.00%" in capfd.readouterr().err


def test_a_number_as_initial_fold_takes_the_dtype_of_the_update():
    rnn = SYSTEMS["current tanh n=3"]
    x0 = normal(4, 2, 3)
    run = ct.simulate(rnn, x0, dt=0.1, num_steps=20, fold=(0, lambda c, t, x: c + x[0]))
    assert run.folded.dtype == DTYPE
    assert np.allclose(run.folded, np.asarray(run.xs)[:, 1:, 0].sum(-1), rtol=1e-5)
