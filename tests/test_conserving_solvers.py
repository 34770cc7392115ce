"""The implicit solvers and the projection: what they keep, how accurate they are, how they fail."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import X64
from scipy.linalg import expm, solve
from systems import DTYPE, SYSTEMS, normal, reference

import ctrnn_jax as ct

EPS = float(jnp.finfo(DTYPE).eps)
KEEPING = {
    "discrete gradient": ct.DiscreteGradient(),
    "discrete gradient 4": ct.DiscreteGradient(order=4),
    "projected RK4": ct.Projected(ct.RK4()),
    "projected Tsit5": ct.Projected(diffrax.Tsit5()),
    "projected leapfrog": ct.Projected(ct.PoissonSplitting(2)),
}
SOLVERS = {**KEEPING, "implicit midpoint": ct.ImplicitMidpoint()}
ACTIVATIONS = [ct.Tanh(), ct.Arctan(), ct.HardTanh(), ct.ReLU(), ct.Sigmoid()]


@pytest.mark.parametrize("form", ["rate", "current"])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("name", KEEPING)
@pytest.mark.sampled(17)
@pytest.mark.by_default(1)
def test_energy_to_rounding_at_large_steps(name, activation, form):
    rnn = ct.CTRNN(ct.DenseSkew.init(jax.random.key(1), 6), activation, form)
    x0 = normal(2, 5, 6)
    run = ct.simulate(rnn, x0, dt=0.3, num_steps=400, save_every=4, solver=KEEPING[name])
    drift = np.abs(np.asarray(ct.energy(rnn, run.xs) - ct.energy(rnn, x0)[:, None]))
    size = np.sum(np.abs(rnn.activation.potential(jax.vmap(rnn.preactivation)(x0))), axis=-1)
    assert np.all(np.asarray(run.unconverged_at) == -1)
    # ReLU states grow, and their rounding with them.
    growth = 1 + np.max(np.abs(np.asarray(run.xs)), axis=(1, 2))
    assert np.all(drift <= 30 * EPS * (size * growth)[:, None])
    assert np.max(np.abs(np.asarray(run.xs - run.xs[:, :1]))) > 0.1


@pytest.mark.long
def test_bias_and_casimirs_of_the_current_form():
    weights = ct.DenseSkew.init(jax.random.key(3), 5)
    bias = weights.matvec(normal(4, 5, scale=0.3))  # within the range of A: there is an energy
    rnn = ct.CTRNN(weights, form="current", bias=bias)
    x0 = normal(5, 3, 5)
    for solver in KEEPING.values():
        run = ct.simulate(rnn, x0, dt=0.2, num_steps=1000, save_every=10, solver=solver)
        assert np.max(np.abs(np.asarray(ct.energy_drift(rnn, run.xs)))) < 100 * EPS
    run = ct.simulate(rnn, x0, dt=0.2, num_steps=1000, save_every=10, solver=ct.DiscreteGradient())
    casimirs = np.asarray(ct.casimirs(rnn, run.xs))
    assert casimirs.shape[-1] == 1 and np.max(np.abs(casimirs - casimirs[:, :1])) < 500 * EPS


@pytest.mark.parametrize("name,order", [*zip(SOLVERS, (2, 4, 4, 5, 2, 2), strict=True)])
@pytest.mark.long
@pytest.mark.sampled(2)
def test_measured_order(name, order):
    if not X64 and order > 2:
        pytest.skip("float32 rounding hides the error")
    rnn = SYSTEMS["current tanh n=3"] if name == "projected Tsit5" else SYSTEMS["rate tanh n=20"]
    x0 = normal(7, rnn.size)
    exact = reference(rnn, x0, [0.0, 2.0])[-1]
    errors = [
        np.linalg.norm(
            ct.simulate(rnn, x0, dt=2 / n, num_steps=n, solver=SOLVERS[name]).xs[-1] - exact
        )
        for n in ((64, 128) if X64 else (16, 32))
    ]
    assert abs(np.log2(errors[0] / errors[1]) - order) < 0.15


@pytest.mark.long
def test_midpoint_of_a_linear_network_is_the_cayley_transform():
    weights = ct.DenseSkew.init(jax.random.key(3), 5, scale=3.0)
    x0 = normal(5, 3, 5)
    A = np.asarray(weights.as_matrix(), float)
    for form in ("rate", "current"):
        rnn = ct.CTRNN(weights, ct.Linear(), form)
        for h in (0.05, 2.0):  # by contraction, by Newton
            run = ct.simulate(rnn, x0, dt=h, num_steps=1, solver=ct.ImplicitMidpoint())
            cayley = solve(np.eye(5) - h / 2 * A, np.eye(5) + h / 2 * A)
            assert np.max(np.abs(run.xs[:, 1] - np.asarray(x0) @ cayley.T)) < 40 * EPS
            assert np.all(np.asarray(run.unconverged_at) == -1)
    assert np.max(np.abs(cayley - expm(h * A))) > 0.1


@pytest.mark.parametrize("solver", [ct.DiscreteGradient(), ct.ImplicitMidpoint()])
@pytest.mark.long
@pytest.mark.optimised
def test_newton_takes_over_and_failure_is_told_of_each_trajectory(solver):
    rnn = ct.CTRNN(ct.BlockSkew(jnp.full(2, 1.0, DTYPE)))
    x0 = normal(6, 4, 4)
    run = ct.simulate(rnn, x0, dt=4.0, num_steps=5, solver=solver)  # h|A|/2 = 2
    assert np.all(np.asarray(run.unconverged_at) == -1)
    # A trajectory at rest is solved at once; the others are not, in one iteration without Newton.
    strict = type(solver)(tol=1e-30, max_iterations=1)
    run = ct.simulate(rnn, x0.at[2].set(0.0), dt=0.1, num_steps=3, solver=strict)
    assert np.asarray(run.unconverged_at).tolist() == [1, 1, -1, 1]


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.long
@pytest.mark.sampled(2)
def test_in_plain_diffrax_and_alone_it_gives_the_same_numbers(name):
    rnn = SYSTEMS["rate arctan n=7 bias"]
    x0 = normal(8, 3, 7)
    ours = ct.simulate(rnn, x0, dt=0.125, num_steps=16, save_every=4, solver=SOLVERS[name]).xs
    theirs = jax.vmap(
        lambda x: diffrax.diffeqsolve(
            diffrax.ODETerm(rnn), SOLVERS[name], 0.0, 2.0, 0.125, x,
            saveat=diffrax.SaveAt(ts=jnp.linspace(0, 2, 5, dtype=DTYPE)),
        ).ys
    )(x0)  # fmt: skip
    assert np.max(np.abs(theirs - ours)) < 200 * EPS


@pytest.mark.parametrize("name", ["discrete gradient", "implicit midpoint", "projected RK4"])
@pytest.mark.long
def test_gradient_against_finite_differences(name):
    rnn, x0 = SYSTEMS["rate arctan n=7 bias"], normal(12, 2, 7)
    direction = jax.tree.map(lambda leaf: normal(13, *leaf.shape), rnn)

    def loss(s):
        moved = jax.tree.map(lambda a, b: a + s * b, rnn, direction)
        run = ct.simulate(moved, x0 + s, dt=0.1 + 0.1 * s, num_steps=20, solver=SOLVERS[name])
        return jnp.sum(run.xs[:, -1] ** 3)

    h = 1e-4 if X64 else 1e-2
    value = jax.jit(loss)
    slope = (8 * (value(h) - value(-h)) - (value(2 * h) - value(-2 * h))) / (12 * h)
    zero = jnp.zeros((), DTYPE)
    backward, forward = jax.jit(jax.grad(loss))(zero), jax.jvp(loss, (zero,), (zero + 1,))[1]
    assert abs(float(backward - slope)) < (1e-8 if X64 else 2e-2) * abs(float(slope))
    assert abs(float(forward - backward)) < 1e4 * EPS * abs(float(slope))


@pytest.mark.long
def test_gradient_where_only_newton_solves():
    rnn, x0 = ct.CTRNN(ct.BlockSkew(jnp.full(1, 1.0, DTYPE))), normal(6, 3, 2)

    def loss(s):
        run = ct.simulate(rnn, x0 * s, dt=4.0, num_steps=3, solver=ct.ImplicitMidpoint())
        return jnp.sum(run.xs[:, -1] ** 2)

    h, one = (1e-4 if X64 else 1e-2), jnp.ones((), DTYPE)
    slope = (8 * (loss(1 + h) - loss(1 - h)) - (loss(1 + 2 * h) - loss(1 - 2 * h))) / (12 * h)
    assert abs(float(jax.grad(loss)(one) - slope)) < (1e-7 if X64 else 2e-2) * abs(float(slope))


@pytest.mark.long
def test_projected_adaptive_steps_keep_the_energy():
    rnn, x0 = SYSTEMS["rate tanh n=20"], normal(9, 2, 20)
    solver = ct.Projected(diffrax.Dopri5())
    run = ct.simulate(
        rnn, x0, dt=0.1, num_steps=100, save_every=100, rtol=1e-4, atol=1e-4, solver=solver
    )
    assert np.max(np.abs(np.asarray(ct.energy_drift(rnn, run.xs)))) < 30 * EPS


@pytest.mark.parametrize("name", ["discrete gradient", "implicit midpoint", "projected RK4"])
@pytest.mark.by_default(1)
def test_lowers_for_cuda(name):
    def loss(x):
        xs = ct.simulate(SYSTEMS["rate tanh n=20"], x, dt=0.1, num_steps=2, solver=SOLVERS[name]).xs
        return jnp.sum(xs)

    jax.jit(jax.grad(loss)).trace(normal(1, 3, 20)).lower(lowering_platforms=("cuda",))


@pytest.mark.parametrize(
    "inner",
    [
        diffrax.HalfSolver(diffrax.ImplicitEuler()),
        diffrax.HalfSolver(diffrax.Euler()),
        diffrax.Kvaerno3(),
    ],
)
@pytest.mark.by_default(1)
def test_projection_of_wrapped_and_implicit_solvers_in_plain_diffrax(inner):
    rnn, x0 = SYSTEMS["rate tanh n=20"], normal(10, 20)
    tolerance = 1e-5 if X64 else 1e-4
    end = diffrax.diffeqsolve(
        diffrax.ODETerm(rnn), ct.Projected(inner), 0.0, 0.5, 0.01, x0, max_steps=10_000,
        stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
    ).ys[-1]  # fmt: skip
    assert np.linalg.norm(end - reference(rnn, x0, [0.0, 0.5])[-1]) < 300 * tolerance
    assert abs(float(ct.energy(rnn, end) / ct.energy(rnn, x0)) - 1) < 30 * EPS


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.sampled(2)
def test_refuses_what_conserves_nothing(name):
    leaky = ct.CTRNN(ct.BlockSkew(jnp.ones(2, DTYPE)), leak=0.1)
    with pytest.raises(ValueError, match="expected skew-symmetric weights and no leak for"):
        ct.simulate(leaky, normal(1, 4), dt=0.1, num_steps=1, solver=SOLVERS[name])
    odd = ct.CTRNN(ct.DenseSkew.init(jax.random.key(0), 3), form="current", bias=normal(2, 3))
    if name in ("discrete gradient", "projected RK4"):
        with pytest.raises(ValueError, match="bias: expected a vector in the range of A"):
            ct.simulate(odd, normal(1, 3), dt=0.1, num_steps=1, solver=SOLVERS[name])
