"""Bad calls and the one line that each must give."""

import diffrax
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import ctrnn_jax as ct

F = jnp.result_type(float)
KEY = jax.random.key(0)


def ones(*shape):
    return jnp.ones(shape, F)


def net(n=4, **kwargs):
    return ct.CTRNN(ct.DenseSkew.init(KEY, n), **kwargs)


def sim(x0=None, rnn=None, **kwargs):
    x0 = ones(3, 4) if x0 is None else x0
    return ct.simulate(rnn or net(), x0, **{"dt": 0.1, "num_steps": 4, **kwargs})


NAN = float("nan")
CALLS = [
    (lambda: ct.DenseSkew(ones(2, 3)), "W: expected a square matrix"),
    (lambda: ct.DenseSkew(ones(2)), "W: expected shape (n, n), got (2,)"),
    (lambda: ct.DenseSkew(np.eye(2, dtype=int)), "W: expected a floating-point array"),
    (lambda: ct.DenseSkew("A"), "W: expected a floating-point array of shape (n, n), got str"),
    (lambda: ct.DenseSkew(ones(1, 1)), "W: expected at least 2 neurons"),
    (lambda: ct.DenseSkew(NAN * ones(2, 2)), "W: expected finite values, got 4 non-finite of 4"),
    (lambda: ct.DenseSkew.init(KEY, 1), "n: expected an integer >= 2, got 1"),
    (lambda: ct.DenseSkew.init(KEY, 2.5), "n: expected an integer >= 2, got 2.5"),
    (lambda: ct.DenseSkew.init(KEY, 4, scale=-1.0), "scale: expected a finite number > 0"),
    (lambda: ct.DenseSkew.init(KEY, 4, dtype=int), "dtype: expected a floating-point dtype"),
    (lambda: ct.BlockSkew.init(KEY, 5), "n: expected an even number of neurons, got 5"),
    (lambda: ct.BlockSkew(ones(0)), "omega: expected at least one angular frequency"),
    (lambda: ct.BlockSkew(ones(2, 2)), "omega: expected shape (n/2,), got (2, 2)"),
    (lambda: ct.BipartiteSkew(ones(0, 2)), "B: expected at least one neuron in each group"),
    (lambda: ct.BipartiteSkew.init(KEY, 4, p=4), "p: expected a group smaller than n = 4, got 4"),
    (lambda: ct.LowRankSkew(ones(4, 1), ones(4, 2)), "V: expected the shape of U, (4, 1)"),
    (lambda: ct.LowRankSkew.init(KEY, 4, rank=0), "rank: expected an integer >= 1, got 0"),
    (lambda: ct.CustomActivation(3), "fn: expected a function of an array, got 3"),
    (lambda: ct.CustomActivation(jnp.tanh, 3), "potential: expected a function"),
    (lambda: ct.CTRNN(ones(2, 2)), "weights: expected weights such as DenseSkew(W)"),
    (lambda: net(activation=ct.Tanh), "activation: expected an activation such as Tanh()"),
    (lambda: net(form="spiking"), "form: expected one of 'rate', 'current', got 'spiking'"),
    (lambda: net(bias=ones(3)), "bias: expected shape (4,), got (3,)"),
    (lambda: net(bias=NAN * ones(4)), "bias: expected finite values"),
    (lambda: net(leak=-0.5), "leak: expected values >= 0, got -0.5"),
    (lambda: sim(rnn=jnp.tanh), "rnn: expected a CTRNN"),
    (lambda: sim(ones(3, 5)), "x0: expected shape (..., 4), one value per neuron, got (3, 5)"),
    (lambda: sim(ones(0, 4)), "x0: expected at least one initial state, got shape (0, 4)"),
    (lambda: sim(jnp.ones((3, 4), int)), "x0: expected a floating-point array"),
    (lambda: sim(jnp.ones(4, jnp.float16)), "x0: expected the dtype of the network"),
    (lambda: sim("x"), "x0: expected a floating-point array of shape (..., 4), got str"),
    (lambda: sim(1.0), "x0: expected shape (..., 4), got ()"),
    (lambda: sim(dt=0), "dt: expected a finite number > 0, got 0"),
    (lambda: sim(dt=-0.1), "dt: expected a finite number > 0, got -0.1"),
    (lambda: sim(dt=NAN), "dt: expected a finite number > 0, got nan"),
    (lambda: sim(dt="1"), "dt: expected a finite number > 0, got '1'"),
    (lambda: sim(dt=ones(2)), "dt: expected a finite number > 0, got shape (2,)"),
    (lambda: sim(num_steps=0), "num_steps: expected an integer >= 1, got 0"),
    (lambda: sim(num_steps=4.0), "num_steps: expected an integer >= 1, got 4.0"),
    (lambda: sim(save_every=3), "num_steps: expected a multiple of save_every = 3, got 4"),
    (lambda: sim(save_every=0), "save_every: expected an integer >= 1, got 0"),
    (lambda: sim(solver="euler"), "solver: expected a diffrax solver"),
    (lambda: sim(solver=diffrax.Euler), "the class Euler; call it"),
    (lambda: sim(solver=diffrax.KenCarp3()), "solver: expected a solver of ordinary"),
    (lambda: sim(solver=diffrax.Euler(), rtol=1e-3), "solver: expected an adaptive solver"),
    (lambda: sim(rtol=-1.0), "rtol: expected a finite number > 0, got -1.0"),
    (lambda: sim(adjoint="none"), "adjoint: expected one of"),
    (lambda: sim(observe=3), "observe: expected a function, got 3"),
    (lambda: sim(fold=jnp.add), "fold: expected a pair (init, update)"),
    (lambda: sim(fold=(0.0, 1)), "fold: expected a function, got 1"),
    (lambda: sim(keep_states=1), "keep_states: expected True or False, got 1"),
    (lambda: sim(max_norm=0.0), "max_norm: expected a finite number > 0, got 0.0"),
    (lambda: sim(progress="yes"), "progress: expected True, False or a diffrax progress meter"),
    (lambda: sim(solver=ct.ExactLinear()), "activation Linear() for ExactLinear, got Tanh"),
    (lambda: ct.energy(net(), ones(3)), "x: expected shape (..., 4), one value per neuron"),
    (lambda: ct.energy_drift(net(), ones(4)), "xs: expected trajectories of shape"),
    (lambda: ct.drift_loss(net(), ones(3, 4), "l1"), "kind: expected one of 'rms'"),
    (
        lambda: ct.energy(net(3, form="current", bias=ones(3)), ones(3)),
        "bias: expected a vector in the range of A",
    ),
    (
        lambda: ct.natural_frequencies(ct.CTRNN(ct.DenseWeights(ones(2, 2)))),
        "rnn: expected skew-symmetric weights, got DenseWeights",
    ),
    (lambda: ct.orbit_frequency(net(), ones(4)), "rnn: expected two neurons"),
    (lambda: ct.orbit_frequency(net(2, leak=0.1), ones(2)), "rnn: expected no leak"),
    (lambda: ct.power_spectrum(ones(3), 0.1), "y: expected at least 4 samples"),
    (lambda: ct.dominant_frequency(ones(9), 0.0), "dt: expected a finite number > 0"),
    (lambda: ct.spectrogram(ones(9), 0.1, window_length=10), "window_length: expected at most"),
    (lambda: ct.spectrogram(ones(9), 0.1, window_length=4, overlap=4), "overlap: expected less"),
]


@pytest.fixture
def unchecked():
    """Our own checks speak, not the type checker that the tests switch on."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("call,message", CALLS, ids=[message[:40] for _, message in CALLS])
def test_bad_call(call, message, unchecked):
    with pytest.raises((ValueError, TypeError)) as error:
        call()
    assert message in str(error.value) and "\n" not in str(error.value)
