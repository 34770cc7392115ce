"""What is not finite comes out not finite; products are exact to rounding; loops end."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from systems import DTYPE, normal

import ctrnn_jax as ct

EPS = float(jnp.finfo(DTYPE).eps)
ACTIVATIONS = [
    ct.Tanh(), ct.HardTanh(), ct.Linear(), ct.Arctan(), ct.Erf(), ct.Sin(), ct.Sigmoid(),
    ct.ReLU(), ct.Exp(), ct.CustomActivation(lambda z: jnp.clip(z, -1, 1)),
]  # fmt: skip
BAD = st.sampled_from([np.nan, np.inf, -np.inf])
few = settings(derandomize=True, deadline=None, max_examples=12)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: type(a).__name__)
def test_nan_of_activations(activation):
    nan, one = jnp.asarray(jnp.nan), jnp.ones(())
    found = [activation(nan), activation.derivative(nan), activation.potential(nan)]
    found += [activation.mean(nan, one), activation.mean(one, nan)]
    found += [jax.grad(activation.potential)(nan)]
    if isinstance(activation, ct.HardTanh | ct.ReLU):
        found += [jax.grad(activation)(nan)]
    assert all(jnp.isnan(value) for value in found)


@few
@given(
    st.sampled_from(ACTIVATIONS), st.sampled_from(["rate", "current"]), BAD, st.integers(0, 3),
    st.sampled_from(["rms", "mean", "max"]),
)  # fmt: skip
@pytest.mark.long
def test_invariants_of_what_is_not_finite(activation, form, bad, where, kind):
    rnn = ct.CTRNN(ct.BlockSkew(jnp.asarray([1.0, 0.0])), activation, form)
    xs = normal(0, 3, 4)
    xs = xs.at[1, where].set(bad)
    for value in (ct.energy(rnn, xs), ct.casimirs(rnn, xs)[..., 0], ct.energy_drift(rnn, xs)):
        assert np.isfinite(value).tolist() == [True, False, True]
    assert jnp.isnan(ct.energy_drift(rnn, xs[1:])).all()
    loss, gradient = jax.value_and_grad(lambda xs: ct.drift_loss(rnn, xs, kind))(xs)
    assert not jnp.isfinite(loss) and not jnp.isfinite(gradient).all()


@few
@given(st.sampled_from(ACTIVATIONS[:3]), BAD, st.integers(0, 3))
@pytest.mark.long
def test_frequencies_of_what_is_not_finite(activation, bad, where):
    rnn, x = ct.CTRNN(ct.BlockSkew(jnp.asarray([1.0, 2.0])), activation), normal(1, 4)
    found = ct.orbit_frequency(rnn, x.at[where].set(bad))
    assert np.isfinite(found).tolist() == [where >= 2, where < 2]
    gradient = eqx.filter_grad(lambda r: ct.orbit_frequency(r, x.at[where].set(bad)).sum())(rnn)
    assert not jnp.isfinite(gradient.weights.omega).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("activation", [ct.Tanh(), ct.HardTanh()])
@pytest.mark.sampled(2)
def test_exponents_and_periods_of_what_is_not_finite(activation, bad):
    rnn = ct.CTRNN(ct.BlockSkew(jnp.asarray([1.0])), activation, "current")
    x0 = normal(2, 2, 2).at[0, 0].set(bad)
    found = ct.lyapunov_spectrum(rnn, x0, dt=0.1, num_steps=20)
    assert jnp.isnan(found[0]).all() and jnp.isfinite(found[1]).all()
    assert np.isfinite(ct.period(rnn, x0)).tolist() == [False, True]


def test_exponents_refuse_a_bias_for_which_there_is_no_energy():
    rnn = ct.CTRNN(ct.DenseSkew.init(jax.random.key(0), 3), form="current", bias=normal(2, 3))
    for solver in (ct.DiscreteGradient(), ct.Projected(ct.RK4())):
        with pytest.raises(ValueError, match="bias: expected a vector in the range of A"):
            ct.lyapunov_spectrum(rnn, normal(1, 3), dt=0.1, num_steps=1, solver=solver)


@pytest.mark.parametrize("solver", [ct.DiscreteGradient(), ct.ImplicitMidpoint()])
@pytest.mark.long
def test_a_lost_state_is_not_iterated(solver):
    calls = []

    def counted(z):
        jax.debug.callback(lambda: calls.append(None))
        return jnp.tanh(z)

    weights, x = ct.DenseSkew.init(jax.random.key(0), 20), normal(1, 16, 20)
    rnn = ct.CTRNN(weights, ct.CustomActivation(counted))

    def run(x):
        calls.clear()
        out = ct.simulate(rnn, x, dt=0.05, num_steps=20, save_every=20, solver=solver)
        jax.effects_barrier()
        return np.asarray(out.xs), len(calls)

    (xs, count), (others, lost) = run(x), run(x.at[3, 0].set(jnp.nan))
    np.testing.assert_allclose(others[4:], xs[4:], rtol=0, atol=1e3 * EPS)
    # The segment is run a second time, to find the step at which the state was lost.
    assert 0 < lost < 3 * count


@pytest.mark.parametrize("f", [0.1, 1.0, 10.0])
def test_a_rotation_stays_one(f):
    # 10 Hz turn in 10 steps of 0.01: rounding would lock float32 to that cycle.
    weights = ct.BlockSkew.from_hz(jnp.asarray([f], jnp.float32))
    rnn, x0 = ct.CTRNN(weights, ct.Linear()), jnp.asarray([[1.0, 0.3], [-0.2, 0.7]], jnp.float32)
    n = 100_000
    end = ct.simulate(rnn, x0, dt=0.01, num_steps=n, save_every=n, solver=ct.ExactLinear()).xs
    x, y = (np.asarray(a, float) @ [1, 1j] for a in (x0, end[:, -1]))
    turn = y / (x * np.exp(-1j * float(weights.omega[0]) * float(np.float32(0.01)) * n))
    assert np.max(np.abs(turn - 1)) < 5e-6


def dots(jaxpr):
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general" and jnp.issubdtype(
            eqn.outvars[0].aval.dtype, jnp.floating
        ):
            yield eqn
        for value in jax.tree.leaves(eqn.params, is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from dots(inner)


@pytest.mark.parametrize("form", ["rate", "current"])
@pytest.mark.parametrize(
    "solver",
    [ct.RK4(), ct.DiscreteGradient(), ct.ImplicitMidpoint(), ct.Projected(ct.RK4()),
     ct.PoissonSplitting(), ct.ExactLinear()],
    ids=lambda s: type(s).__name__,
)  # fmt: skip
@pytest.mark.sampled(4)
def test_every_product_of_a_run_has_full_precision(solver, form):
    activation = ct.Linear() if isinstance(solver, ct.ExactLinear) else ct.Tanh()
    weights = ct.DenseSkew.init(jax.random.key(0), 4)
    rnn = ct.CTRNN(weights, activation, form, weights.matvec(jnp.ones(4)))

    def run(rnn, x):
        xs = ct.simulate(rnn, x, dt=0.1, num_steps=2, solver=solver).xs
        osc = ct.Oscillator(rnn, x[0], jnp.ones((1, 4)))
        return ct.energy_drift(rnn, xs), ct.casimirs(rnn, xs), osc.read(xs)

    found = list(dots(jax.make_jaxpr(run)(rnn, normal(1, 3, 4)).jaxpr))
    assert found
    for eqn in found:
        assert eqn.params["precision"] is not None, eqn
