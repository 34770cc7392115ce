"""Systems that every solver is tested on, with an independent integrator as the oracle."""

import math
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp

import ctrnn_jax as ct

DTYPE = jnp.result_type(float)


@lru_cache
def _drawn(seed, thousands):
    with jax.ensure_compile_time_eval():  # the first that asks may be traced
        return np.asarray(jax.random.normal(jax.random.key(seed), (1000 * thousands,), DTYPE))


def normal(seed, *shape, scale=1.0):
    """The numbers of `jax.random.normal` for this shape, without a program for each shape."""
    size = math.prod(shape)
    drawn = _drawn(seed, 1 + size // 1000)[:size]
    return jnp.asarray((scale * drawn).astype(DTYPE).reshape(shape))


def _dense(n, seed):
    return ct.DenseSkew.init(jax.random.key(seed), n, scale=1.5)


# Both forms, six activations, n = 3 to 20, odd and even, with and without bias.
SYSTEMS = {
    "rate tanh n=20": ct.CTRNN(_dense(20, 1)),
    "rate arctan n=7 bias": ct.CTRNN(_dense(7, 2), ct.Arctan(), bias=normal(12, 7, scale=0.3)),
    "rate sin n=4": ct.CTRNN(ct.BlockSkew.init(jax.random.key(3), 4), ct.Sin()),
    "rate sigmoid n=10 bias": ct.CTRNN(
        ct.BipartiteSkew.init(jax.random.key(4), 10, p=4), ct.Sigmoid(), bias=normal(14, 10)
    ),
    "current tanh n=3": ct.CTRNN(_dense(3, 5), form="current"),
    "current erf n=16 bias": ct.CTRNN(
        ct.LowRankSkew.init(jax.random.key(6), 16), ct.Erf(), "current", bias=normal(16, 16)
    ),
    "current linear n=8": ct.CTRNN(_dense(8, 7), ct.Linear(), "current"),
}


def equation(rnn, u=None):
    """x' in plain NumPy, written from the definition and not from the package's; inputs u(t)."""
    A = np.asarray(rnn.weights.as_matrix(), float)
    b = np.zeros(rnn.size) if rnn.bias is None else np.asarray(rnn.bias, float)
    g = 0.0 if rnn.leak is None else np.asarray(rnn.leak, float)
    B = None if u is None else np.asarray(rnn.input_weights, float)
    from scipy.special import erf, expit

    sigma = {
        "Tanh": np.tanh,
        "HardTanh": lambda z: np.clip(z, -1, 1),
        "Arctan": np.arctan,
        "Sin": np.sin,
        "Sigmoid": expit,
        "Erf": erf,
        "Linear": lambda z: z,
    }[type(rnn.activation).__name__]

    def bias(t):
        return b if u is None else b + B @ u(t)

    if rnn.form == "rate":
        return lambda t, x: sigma(A @ x + bias(t)) - g * x
    return lambda t, x: A @ sigma(x) + bias(t) - g * x


def reference(rnn, x0, ts):
    """States (S, n) at ts by DOP853 at tight tolerances."""
    ts = np.asarray(ts, float)
    solution = solve_ivp(
        equation(rnn), (0, ts[-1]), np.asarray(x0, float), "DOP853", ts, rtol=1e-13, atol=1e-13
    )
    return solution.y.T
