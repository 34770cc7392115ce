"""Ensembles, layouts and dtypes that are refused, each in one line that tells what to do."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import X64

import ctrnn_jax as ct

KEYS = jax.random.split(jax.random.key(0), 4)
WEIGHTS = {
    "DenseSkew": lambda key: ct.DenseSkew.init(key, 4),
    "BlockSkew": lambda key: ct.BlockSkew.init(key, 4),
    "BipartiteSkew": lambda key: ct.BipartiteSkew.init(key, 4, p=2),
    "LowRankSkew": lambda key: ct.LowRankSkew.init(key, 4, rank=2),
    "DenseWeights": lambda key: ct.DenseWeights.init(key, 4),
    "Damped": lambda key: ct.Damped.init(key, 4),
    "damped by several": lambda key: ct.Damped(
        ct.BlockSkew(jnp.ones(2)), jax.random.uniform(key, ())
    ),
}
STATE = jnp.ones(4)
CALLS = {
    "field": lambda rnn, x: rnn(0.0, x),
    "simulate": lambda rnn, x: ct.simulate(rnn, x, dt=0.1, num_steps=2).xs,
    "energy": lambda rnn, x: ct.energy(rnn, x),
    "energy_drift": lambda rnn, x: ct.energy_drift(rnn, jnp.stack([x, x])),
    "drift_loss": lambda rnn, x: ct.drift_loss(rnn, jnp.stack([x, x])),
    "casimirs": lambda rnn, x: ct.casimirs(rnn, x),
    "period": lambda rnn, x: ct.period(rnn, x),
    "lyapunov_spectrum": lambda rnn, x: ct.lyapunov_spectrum(rnn, x, dt=0.1, num_steps=2),
    "natural_frequencies": lambda rnn, x: ct.natural_frequencies(rnn),
    "orbit_frequency": lambda rnn, x: ct.orbit_frequency(rnn, x),
    "Oscillator": lambda rnn, x: ct.Oscillator(rnn, x, jnp.ones((1, 4))).x0,
    "level_sets": lambda rnn, x: ct.plot.level_sets(rnn),
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@pytest.fixture(autouse=True)
def unchecked():
    """Our own checks speak, not the type checker that the tests switch on."""
    import jaxtyping

    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


def ensemble(make, **options):
    return eqx.filter_vmap(lambda key: ct.CTRNN(make(key), **options))(KEYS)


@each_call
@pytest.mark.parametrize("make", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.sampled(13)
def test_an_ensemble_is_told_of_vmap(call, make):
    expected = "one network; map over an ensemble by eqx.filter_vmap or jax.vmap, got"
    with pytest.raises(ValueError, match=f"^rnn: expected {expected} .*leading axes") as error:
        call(ensemble(make), STATE)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["bias", "leak"])
def test_an_ensemble_of_biases_or_leaks_is_one_too(name):
    weights = WEIGHTS["DenseSkew"](KEYS[0])
    values = jnp.ones((3, 4))
    rnn = eqx.filter_vmap(lambda v: ct.CTRNN(weights, **{name: v}), out_axes=eqx.if_array(0))(
        values
    )
    shared = eqx.tree_at(lambda rnn: rnn.weights, rnn, weights)
    with pytest.raises(ValueError, match="rnn: expected one network; map over an ensemble"):
        ct.energy(shared, STATE)


@pytest.mark.long
def test_under_vmap_an_ensemble_passes():
    x = jax.random.normal(KEYS[0], (4, 4))
    xs = eqx.filter_vmap(CALLS["simulate"])(ensemble(WEIGHTS["DenseSkew"]), x)
    alone = CALLS["simulate"](ct.CTRNN(WEIGHTS["DenseSkew"](KEYS[2])), x[2])
    np.testing.assert_allclose(xs[2], alone, rtol=1e-5)


def test_the_field_takes_columns_and_says_so():
    rnn = ct.CTRNN(WEIGHTS["DenseSkew"](KEYS[0]))
    rows = jax.random.normal(KEYS[1], (3, 4))
    columns = rnn(0.0, rows.T)
    np.testing.assert_allclose(columns[:, 1], rnn(0.0, rows[1]), rtol=1e-5)
    for wrong in (rows, jnp.ones(())):
        states = "one state (4,) or a state in each column, (4, batch); of rows pass x.T"
        with pytest.raises(
            ValueError, match=re.escape(f"x: expected {states}, got shape {wrong.shape}")
        ):
            rnn(0.0, wrong)


SMALL_DTYPES = [jnp.float16, jnp.bfloat16, jnp.float8_e4m3fn, jnp.float8_e5m2]
NAMED = {
    "W": lambda a, dtype: ct.DenseSkew(a(4, 4)),
    "omega": lambda a, dtype: ct.BlockSkew(a(2)),
    "f": lambda a, dtype: ct.BlockSkew.from_hz(a(2)),
    "B": lambda a, dtype: ct.BipartiteSkew(a(2, 2)),
    "U": lambda a, dtype: ct.LowRankSkew(a(4, 1), a(4, 1)),
    "gamma": lambda a, dtype: ct.Damped(WEIGHTS["DenseSkew"](KEYS[0]), a()),
    "dtype": lambda a, dtype: ct.BlockSkew.init(KEYS[0], 4, dtype=dtype),
    "bias": lambda a, dtype: ct.CTRNN(WEIGHTS["DenseSkew"](KEYS[0]), bias=a(4)),
    "leak": lambda a, dtype: ct.CTRNN(WEIGHTS["DenseSkew"](KEYS[0]), leak=a()),
    "x0": lambda a, dtype: CALLS["simulate"](ct.CTRNN(WEIGHTS["DenseSkew"](KEYS[0])), a(4)),
    "x": lambda a, dtype: ct.energy(ct.CTRNN(WEIGHTS["DenseSkew"](KEYS[0])), a(4)),
    "y": lambda a, dtype: ct.dominant_frequency(a(16), 0.1),
    "target": lambda a, dtype: ct.losses.waveform_loss(jnp.ones(16), a(16)),
}


@pytest.mark.parametrize("dtype", SMALL_DTYPES, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("name", NAMED)
def test_less_than_single_precision_is_refused(name, dtype):
    def array(*shape):
        return jnp.ones(shape).astype(dtype)

    line = f"{name}: expected dtype float32 or float64, got {jnp.dtype(dtype)}"
    with pytest.raises(TypeError, match=f"^{line}$"):
        NAMED[name](array, dtype)


@pytest.fixture
def from_float64():
    """A network and a state of float64 after jax_enable_x64 was switched off."""
    made = ct.CTRNN(WEIGHTS["BlockSkew"](KEYS[0])), jnp.ones(4)
    jax.config.update("jax_enable_x64", False)
    yield made
    jax.config.update("jax_enable_x64", True)


@pytest.mark.skipif(not X64, reason="there is no float64 to begin with")
@each_call
def test_float64_is_refused_where_jax_has_none(call, from_float64):
    rnn, x = from_float64
    line = "expected dtype float32, as jax_enable_x64 is off, got float64"
    with pytest.raises(TypeError, match=f"^rnn: {line}$"):
        call(rnn, jnp.ones(4))
    for name, refused in (
        ("x0", lambda: ct.simulate(ct.CTRNN(ct.BlockSkew(np.ones(2))), x, dt=0.1, num_steps=2)),
        ("y", lambda: ct.power_spectrum(x, 0.1)),
        ("omega", lambda: ct.BlockSkew(rnn.weights.omega)),
    ):
        with pytest.raises(TypeError, match=f"^{name}: {line}$"):
            refused()
    # Of NumPy's float64 JAX makes float32, as ever.
    assert CALLS["simulate"](ct.CTRNN(ct.BlockSkew(np.ones(2))), np.ones(4)).dtype == jnp.float32
