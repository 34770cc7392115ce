"""Solvers of diffrax that wrap others or solve equations; networks with their own equation."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import X64
from scipy.integrate import solve_ivp
from systems import DTYPE, SYSTEMS, normal, reference

import ctrnn_jax as ct

EULER = diffrax.ImplicitEuler()
WRAPPED = {
    "half": diffrax.HalfSolver(EULER),
    "half Kvaerno3": diffrax.HalfSolver(diffrax.Kvaerno3()),
    "projected half": ct.Projected(diffrax.HalfSolver(EULER)),
    "projected Kvaerno3": ct.Projected(diffrax.Kvaerno3()),
    "half projected": diffrax.HalfSolver(ct.Projected(diffrax.Heun())),
    "half ours": diffrax.HalfSolver(ct.DiscreteGradient()),
}


BOTH_LOOPS = [
    *((name, None) for name in WRAPPED),
    *((name, 1e-5) for name in ("half", "projected half", "projected Kvaerno3")),
]


@pytest.mark.parametrize(("name", "tolerance"), BOTH_LOOPS)
@pytest.mark.sampled(9)
def test_wrapped_solvers(name, tolerance):
    rnn, x0 = SYSTEMS["current tanh n=3"], normal(0, 4, 3)
    settings = {"rtol": tolerance} if tolerance else {}
    run = ct.simulate(rnn, x0, dt=0.02, num_steps=50, solver=WRAPPED[name], **settings)
    exact = np.stack([reference(rnn, x, [0.0, 1.0])[-1] for x in x0])
    np.testing.assert_allclose(run.xs[:, -1], exact, atol=0.05)
    assert (np.asarray(run.unconverged_at) == -1).all()
    if "projected" in name.split()[0] and tolerance is None:
        assert float(jnp.abs(ct.energy_drift(rnn, run.xs)).max()) < 1e3 * float(
            jnp.finfo(DTYPE).eps
        )


IN_STAGES = {
    "Kvaerno3": (diffrax.Kvaerno3(), {}),
    "half Tsit5": (diffrax.HalfSolver(diffrax.Tsit5()), {}),
    "projected Kvaerno3": (ct.Projected(diffrax.Kvaerno3()), {}),
    "SEA": (diffrax.SEA(), {"noise": 0.3, "key": jax.random.key(1)}),
}


@pytest.mark.parametrize("name", IN_STAGES)
@pytest.mark.sampled(4)
@pytest.mark.by_default(0)
def test_both_modes_go_through_stages(name):
    solver, noise = IN_STAGES[name]
    rnn, x0 = SYSTEMS["current tanh n=3"], normal(0, 2, 3)

    def end(x):
        return ct.simulate(rnn, x, dt=0.1, num_steps=5, solver=solver, **noise).xs[-1]

    forward, reverse = (jax.jit(jax.vmap(of(end)))(x0) for of in (jax.jacfwd, jax.jacrev))
    assert jnp.abs(forward).min() > 0
    np.testing.assert_allclose(forward, reverse, rtol=0, atol=100 * float(jnp.finfo(DTYPE).eps))


class OneState(diffrax.AbstractSolver):
    """Heun's method as a user may write it: for one state (n,), with a norm and a memory of it."""

    term_structure = diffrax.ODETerm
    interpolation_cls = diffrax.LocalLinearInterpolation

    def order(self, terms):
        return 2

    def init(self, terms, t0, t1, y0, args):
        return jnp.zeros((), y0.dtype)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        assert y0.ndim == 1
        h = terms.contr(t0, t1)
        k1 = terms.vf_prod(t0, y0, args, h)
        k2 = terms.vf_prod(t1, y0 + k1, args, h)
        y1 = y0 + (k1 + k2) / 2
        longest = jnp.maximum(solver_state, jnp.linalg.norm(y1))
        good = diffrax.RESULTS.successful
        result = diffrax.RESULTS.where(longest < 3, good, diffrax.RESULTS.nonlinear_divergence)
        return y1, None, {"y0": y0, "y1": y1}, longest, result

    def func(self, terms, t0, y0, args):
        return terms.vf(t0, y0, args)


@pytest.mark.parametrize("wrap", [lambda s: s, diffrax.HalfSolver, ct.Projected])
def test_a_solver_of_ones_own_sees_one_state_at_a_time(wrap):
    rnn, x0 = SYSTEMS["current tanh n=3"], (normal(0, 5, 3) / 3).at[2].set(2.0)
    settings = {"dt": 0.02, "num_steps": 50, "save_every": 50}
    run = ct.simulate(rnn, x0, solver=wrap(OneState()), **settings)
    exact = np.stack([reference(rnn, x, [0.0, 1.0])[-1] for x in x0])
    np.testing.assert_allclose(run.xs[:, -1], exact, atol=2e-3)
    if wrap is not ct.Projected:  # it takes the success of its own step for what counts
        np.testing.assert_array_equal(run.unconverged_at >= 0, np.arange(5) == 2)
    plain = ct.simulate(rnn, x0[:2], solver=wrap(OneState()), **settings).xs
    if X64:
        np.testing.assert_array_equal(run.xs[:2], plain)


@pytest.mark.parametrize("wrap", [lambda s: s, diffrax.HalfSolver, ct.Projected])
@pytest.mark.optimised
def test_what_becomes_of_a_state_hangs_on_no_other(wrap):
    rnn, x0 = SYSTEMS["current tanh n=3"], (normal(0, 5, 3) / 3).at[2].set(2.0)
    settings = {"dt": 0.02, "num_steps": 50, "save_every": 50, "solver": wrap(OneState())}
    run, plain = (ct.simulate(rnn, x, **settings).xs for x in (x0, x0[:2]))
    np.testing.assert_array_equal(run[:2], plain)


KVAERNO = [diffrax.Kvaerno3(), diffrax.Kvaerno4(), diffrax.Kvaerno5(), EULER]


@pytest.mark.parametrize("unit", [1e-20, 1.0, 1e15])
@pytest.mark.parametrize("solver", KVAERNO, ids=lambda s: type(s).__name__)
@pytest.mark.sampled(4)
def test_implicit_steps_that_are_right_are_not_reported(solver, unit):
    rnn = ct.CTRNN(ct.BlockSkew(jnp.array([1.0], DTYPE)), ct.Tanh() if unit == 1 else ct.Linear())
    x0 = unit * normal(1, 32, 2)
    run = ct.simulate(rnn, x0, dt=0.1, num_steps=10, solver=solver)
    exact = np.stack([reference(rnn, x, [0.0, 1.0])[-1] for x in np.asarray(x0) / unit])
    error = 0.2 if solver is EULER else 1e-3
    np.testing.assert_allclose(run.xs[:, -1] / unit, exact, atol=error)
    assert (np.asarray(run.unconverged_at) == -1).all()


class Driven(ct.CTRNN):
    """The rate form with an input (cos 3t, 0)."""

    def __call__(self, t, x, args=None):
        velocity = super().__call__(t, x, args)
        return velocity.at[0].add(jnp.cos(3 * jnp.asarray(t, x.dtype)))


KNOW_THE_TIME = [
    *(diffrax.Euler(), diffrax.Tsit5(), diffrax.Bosh3(), diffrax.Dopri8(), ct.RK4()),
    *(diffrax.ReversibleHeun(), diffrax.LeapfrogMidpoint(), diffrax.Kvaerno3()),
    diffrax.HalfSolver(diffrax.Midpoint()),
]


@pytest.mark.parametrize("solver", KNOW_THE_TIME, ids=lambda s: type(s).__name__)
@pytest.mark.sampled(3)
def test_an_equation_that_knows_the_time_is_given_it(solver):
    rnn = Driven(ct.BlockSkew(jnp.array([1.0, 2.0], DTYPE)))
    x0, A = normal(2, 3, 4), np.asarray(rnn.weights.as_matrix())

    def field(t, x):
        return np.tanh(A @ x) + np.cos(3 * t) * np.eye(4)[0]

    exact = [solve_ivp(field, (0, 4), x, "DOP853", rtol=1e-12, atol=1e-12).y[:, -1] for x in x0]
    settings = {"dt": 0.01, "num_steps": 400, "save_every": 400, "solver": solver}
    found = ct.simulate(rnn, x0, **settings).xs[:, -1]
    order = 1 if isinstance(solver, diffrax.Euler) else 2
    np.testing.assert_allclose(found, np.stack(exact), atol=5 * 0.01**order)
    if isinstance(solver, diffrax.Tsit5 | diffrax.Kvaerno3):
        # More than one segment of adaptive steps, each of which counts time anew.
        fine = {**settings, "dt": 4 / 2048, "num_steps": 2048, "save_every": 8}
        found = ct.simulate(rnn, x0, **fine, rtol=1e-5).xs[:, -1]
        np.testing.assert_allclose(found, np.stack(exact), atol=1e-3)


OF_THEIR_OWN = [
    *(ct.PoissonSplitting(), ct.DiscreteGradient(), ct.ImplicitMidpoint(), ct.ExactLinear()),
    ct.Projected(diffrax.Tsit5()),
]


@pytest.mark.parametrize("solver", OF_THEIR_OWN, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("overridden", ["__call__", "preactivation"])
def test_an_equation_that_a_solver_cannot_honour_is_refused(solver, overridden):
    method = {overridden: lambda self, *arguments: arguments[-1]}
    Own = type("Own", (ct.CTRNN,), method)
    rnn = Own(ct.BlockSkew(jnp.array([1.0], DTYPE)), ct.Linear())
    with pytest.raises(
        ValueError, match=r"^rnn: expected the equation of CTRNN for .*, got .* Own"
    ):
        ct.simulate(rnn, jnp.ones(2, DTYPE), dt=0.1, num_steps=2, solver=solver)
