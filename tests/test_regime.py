"""What kind of motion: known cases, and what must not decide."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import X64

import ctrnn_jax as ct
from ctrnn_jax._analysis import torus

GOLDEN, SILVER = 0.6180339887, 0.4142135624
STATES = jax.random.normal(jax.random.key(5), (3, 8))


def linear(*hz):
    return ct.CTRNN(ct.BlockSkew.from_hz(jnp.array(hz)), ct.Linear())


def dense(n, form="current", seed=1):
    return ct.CTRNN(ct.DenseSkew.init(jax.random.key(seed), n), form=form)


@pytest.mark.parametrize(
    ("hz", "word", "count"),
    [
        ((1.0,), "periodic", 1),
        ((1.0, GOLDEN), "quasi-periodic", 2),
        ((1.0, GOLDEN, SILVER), "quasi-periodic", 3),
        ((3.0, 2.0), "periodic", 1),
    ],
)
@pytest.mark.sampled(2)
@pytest.mark.by_default(1)
def test_of_linear_oscillators_the_frequencies_are_counted(hz, word, count):
    found = ct.regime(linear(*hz), STATES[:, : 2 * len(hz)])
    assert set(found.words()) == {word}
    assert set(np.asarray(found.num_frequencies)) == {count}
    assert np.all(np.asarray(found.share) > 0.999)
    if word == "periodic":
        whole = 1 / np.gcd.reduce(np.array(hz, int))
        np.testing.assert_allclose(found.period, whole, rtol=1e-6 if hz[0] < 2 else 1e-5)
    else:
        shown = np.sort(np.asarray(found.frequencies), axis=-1)
        np.testing.assert_allclose(shown, np.sort(hz)[None].repeat(3, 0), rtol=1e-5)


@pytest.mark.by_default(0)
def test_a_period_of_many_turns_is_found_though_no_line_has_it():
    found = ct.regime(linear(7.0, 11.0), STATES[:1, :4])
    assert found.words().tolist() == ["periodic"]
    np.testing.assert_allclose(found.period, 1.0, rtol=1e-4)


@pytest.mark.parametrize("form", ["rate", "current"])
@pytest.mark.by_default(1)
def test_small_random_states_have_a_frequency_for_every_two_neurons(form):
    rnn = dense(8, form)
    x0 = 0.1 * jax.random.normal(jax.random.key(2), (8, 8))
    found = ct.regime(rnn, x0)
    assert set(found.words()) == {"quasi-periodic"}
    count = np.asarray(found.num_frequencies)
    assert np.mean(count == 4) >= 0.85 and count.max() == 4
    hz = np.sort(np.asarray(found.frequencies)[count == 4], axis=1)
    # The frequencies of small motions, bent by its amplitude.
    expected = np.asarray(ct.natural_frequencies(rnn))
    np.testing.assert_allclose(hz, expected[None].repeat(len(hz), 0), rtol=0.03)


@pytest.mark.by_default(0)
def test_large_states_are_chaotic_as_their_exponents_say():
    rnn = dense(8, "rate")
    x0 = 3 * jax.random.normal(jax.random.key(2), (8, 8))
    found = ct.regime(rnn, x0)
    assert set(found.words()) == {"chaotic"} and not np.any(found.num_frequencies)
    rate = np.linalg.norm(np.asarray(rnn.weights.as_matrix()), 2)
    known = ct.lyapunov_spectrum(
        rnn, x0, dt=2 * np.pi / rate / 32, num_steps=2**13, transient=2**13, k=1
    )
    # Of chaotic orbits, which rounding tells apart in the end.
    np.testing.assert_allclose(found.exponent, known[:, 0], rtol=1e-4 if X64 else 0.6)
    assert np.all(np.asarray(found.exponent) > 5 * float(found.bound))
    assert np.all(np.asarray(found.drift) < 1e-3)


@pytest.mark.long
def test_states_on_nonlinear_modes_are_periodic_unstable_ones_too():
    rnn = ct.CTRNN(ct.DenseSkew.init(jax.random.key(0), 8, scale=2.0), form="current")
    modes = ct.nonlinear_modes(rnn, 1, energies=[0.01, 0.3])
    if X64:  # by 1e-3, which float32 does not tell from 1
        assert modes.words().tolist() == [["stable", "unstable"]]
    found = ct.regime(rnn, modes.states)
    assert found.words().tolist() == [["periodic", "periodic"]]
    np.testing.assert_allclose(found.period, modes.periods, rtol=1e-5)
    assert np.all(np.asarray(found.distance) < 2e-3)


@pytest.mark.long
def test_rest_two_neurons_and_what_is_not_finite():
    rnn = dense(5)
    kernel = np.linalg.svd(np.asarray(rnn.weights.as_matrix()))[2][-1]
    bad = jnp.full(5, jnp.nan)
    still = jnp.asarray(np.arctanh(0.5 * kernel), rnn.dtype)  # A tanh(x) = 0
    found = ct.regime(rnn, jnp.stack([still, jnp.zeros(5), bad]))
    assert found.words().tolist() == ["equilibrium", "equilibrium", "diverged"]
    along = ct.regime(eqx.tree_at(lambda r: r.weights, dense(5, "rate"), rnn.weights), still)
    # In the rate form still is no state at rest; a multiple of the kernel is.
    assert along.words() == "quasi-periodic"
    found = ct.regime(dense(5, "rate"), jnp.asarray(3 * kernel, rnn.dtype))
    assert found.words() == "equilibrium" and np.isnan(found.share)
    found = ct.regime(dense(2), jnp.array([[1.0, 2.0], [0.1, 0.0]]))
    assert found.words().tolist() == ["periodic"] * 2
    one = ct.CTRNN(ct.DenseWeights(jnp.array([[0.0]])))
    assert ct.regime(one, jnp.array([1.0])).words() == "equilibrium"
    assert ct.regime(rnn, jnp.zeros((0, 5))).status.shape == (0,)


def test_damped_motion_comes_to_rest():
    rnn = ct.CTRNN(ct.DenseSkew.init(jax.random.key(0), 4), leak=0.1)
    found = ct.regime(rnn, jnp.ones(4))
    assert found.words() == "equilibrium" and np.isnan(found.drift)
    np.testing.assert_allclose(found.exponent, -0.1, rtol=0.01)


@pytest.mark.parametrize("form", ["rate", "current"])
@pytest.mark.by_default(0)
def test_no_answer_hangs_on_the_unit_of_time(form):
    rnn = dense(4, form)
    x0 = jnp.array([0.1, 1.0, 3.0])[:, None] * STATES[:, :4]
    faster = ct.CTRNN(ct.DenseSkew.from_matrix(1024 * rnn.weights.as_matrix()), form=form)
    ms = x0 if form == "current" else x0 / 1024
    a, b = ct.regime(rnn, x0), ct.regime(faster, ms)
    assert np.array_equal(a.status, b.status)
    assert np.array_equal(a.num_frequencies, b.num_frequencies)
    np.testing.assert_allclose(b.frequencies / 1024, a.frequencies, rtol=1e-4)


@pytest.mark.by_default(0)
def test_a_short_run_or_too_long_a_step_decides_nothing():
    rnn, x0 = dense(8), 0.1 * STATES
    assert set(ct.regime(rnn, x0, num_steps=256).words()) == {"undecided"}
    long = ct.regime(rnn, x0, dt=float(1 / ct.natural_frequencies(rnn)[-1] / 6))
    assert set(long.words()) == {"undecided"} and np.all(np.asarray(long.drift) > 0.01)


@pytest.mark.by_default(0)
def test_transients_go_first():
    # x' = tanh(A x) of a weakly unstable focus: a limit cycle.
    A = jnp.array([[1.5, 1.0], [-1.0, 1.5]])
    rnn = ct.CTRNN(ct.DenseWeights(A), form="current", leak=1.0)
    found = ct.regime(rnn, jnp.array([0.1, 0.0]), transient=2000, num_steps=2**13, dt=0.05)
    assert found.words() == "periodic"


def test_lines_and_their_relations():
    t = np.arange(8192) / 16
    f, g = 1.0, GOLDEN
    lines = {f: 1.0, g: 0.5, 2 * f - g: 0.1, f + 2 * g: 0.03, (f + g) / 2: 0.02}
    y = np.sum([a * np.cos(2 * np.pi * k * t + 7 * k) for k, a in lines.items()], axis=0)
    found = torus.torus(torus.spectrum(y[:, None] * 1e200 + 3), 4)
    np.testing.assert_allclose(np.sort(found.basis) / 512, [g, f], rtol=1e-6)
    assert found.share > 0.9999
    noise = np.random.default_rng(0).normal(size=(8192, 1))
    assert torus.torus(torus.spectrum(noise), 4).share < 0.5
    assert torus.torus(torus.spectrum(np.zeros((64, 2))), 4).share == 0


def test_relations_begin_with_the_simplest_and_have_no_double():
    qs, ks = torus.relations(2)
    order = qs + np.abs(ks).sum(axis=1)
    assert np.all(np.diff(order) >= 0) and order[0] == 2
    rows = {(q, *k) for q, k in zip(qs, ks, strict=True)}
    assert len(rows) == len(qs) and (2, 1, -1) in rows and (1, 3, 2) in rows
    assert not any((q, *-k) in rows for q, k in zip(qs, ks, strict=True))


@pytest.mark.parametrize("wrong", ["jit", "vmap"])
def test_traced_values_are_refused(wrong):
    def of(x):
        return ct.regime(dense(2), x).status

    run = jax.jit(of) if wrong == "jit" else jax.vmap(of)
    with pytest.raises(ValueError, match="regime: expected values known beforehand"):
        run(jnp.ones((1, 2)))
