"""Bad calls, the exception and the one line that each must give; traced values pass."""

import re
from functools import partial

import diffrax
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import ctrnn_jax as ct

F = jnp.result_type(float)
OTHER = jnp.dtype(jnp.float32 if jnp.float64 == F else jnp.float16)
HALF = "expected dtype float32 or float64, got"
INT = jnp.result_type(int)
KEY = jax.random.key(0)
EXPONENTS = {"dt": 0.1, "num_steps": 5}
NAN, INF = float("nan"), float("inf")


def ones(*shape):
    return jnp.ones(shape, F)


def net(n=4, *args, **kwargs):
    return ct.CTRNN(ct.DenseSkew(np.triu(np.ones((n, n), F), 1)), *args, **kwargs)


def dense(n):
    return ct.CTRNN(ct.DenseWeights(ones(n, n)))


def sim(x0=None, rnn=None, **kwargs):
    x0 = ones(3, 4) if x0 is None else x0
    return ct.simulate(net() if rnn is None else rnn, x0, **{"dt": 0.1, "num_steps": 4, **kwargs})


def driven(m=2, **kwargs):
    return net(input_weights=ones(4, m), **kwargs)


def push(inputs, x0=None, rnn=None, **kwargs):
    return sim(x0, driven() if rnn is None else rnn, inputs=inputs, **kwargs)


def noisy(**kwargs):
    return sim(**{"solver": diffrax.Euler(), "noise": 0.1, "key": KEY, **kwargs})


def balance(xs=None, inputs=None, rnn=None, **kwargs):
    xs = ones(3, 5, 4) if xs is None else xs
    return ct.energy_balance(driven() if rnn is None else rnn, xs, inputs, **{"dt": 0.1, **kwargs})


def damped(gamma):
    return ct.Damped(ct.BlockSkew(ones(2)), gamma)


def keep(carry, t, x):
    return carry


def array_of(shape, got):
    return f"expected a floating-point array of shape {shape}, got {got}"


def other_than(of):
    # In float32 there is no second dtype that is supported.
    if jnp.float16 == OTHER:
        return f"{HALF} float16"
    return f"expected the dtype of {of}, {F}, got float32"


def number(got):
    return f"expected a finite number > 0, got {got}"


def whole(minimum, got):
    return f"expected an integer >= {minimum}, got {got}"


SKEW = "expected two neurons with skew-symmetric weights, or BlockSkew, got"
SOLVER = "expected a diffrax solver such as diffrax.Tsit5(), got"
STOCHASTIC = (
    "expected one of stochastic equations, such as diffrax.Euler(), where noise is given, got"
)
TERMS = "solver: expected a solver of ordinary differential equations, got"
ADAPTIVE = "solver: expected an adaptive solver where rtol or atol is given, got"
MESH = "mesh: expected a jax.sharding.Mesh such as batch_mesh(), got"
METER = "progress: expected True, False or a diffrax progress meter, got"
FORM = "form: expected one of 'rate', 'current', got"
WEIGHTS = "expected weights such as DenseSkew(W), got "
TINY = "a 1 x 1 skew-symmetric matrix is zero, got"

# <any> stands for any text; all else is the whole line, letter by letter.
V, T = ValueError, TypeError
CALLS = {
    "DenseSkew": [
        (lambda: ct.DenseSkew(ones(2)), V, "W: expected shape (n, n), got (2,)"),
        (lambda: ct.DenseSkew(ones(2, 2, 2)), V, "W: expected shape (n, n), got (2, 2, 2)"),
        (
            lambda: ct.DenseSkew(ones(2, 3)),
            V,
            "W: expected a square matrix of shape (n, n), got shape (2, 3)",
        ),
        (lambda: ct.DenseSkew(ones(1, 1)), V, f"W: expected at least 2 neurons: {TINY} (1, 1)"),
        (lambda: ct.DenseSkew(ones(0, 0)), V, f"W: expected at least 2 neurons: {TINY} (0, 0)"),
        (lambda: ct.DenseSkew(np.eye(2, dtype=INT)), T, f"W: {array_of('(n, n)', f'dtype {INT}')}"),
        (lambda: ct.DenseSkew(np.eye(2) > 0), T, f"W: {array_of('(n, n)', 'dtype bool')}"),
        (
            lambda: ct.DenseSkew(1j * np.eye(2)),
            T,
            f"W: {array_of('(n, n)', 'dtype complex<any>')}",
        ),
        (lambda: ct.DenseSkew("A"), T, f"W: {array_of('(n, n)', 'str')}"),
        (lambda: ct.DenseSkew(None), T, f"W: {array_of('(n, n)', 'NoneType')}"),
        (lambda: ct.DenseSkew([[0.0, 1.0], [0.0]]), T, f"W: {array_of('(n, n)', 'list')}"),
        (lambda: ct.DenseSkew(object()), T, f"W: {array_of('(n, n)', 'object')}"),
        (
            lambda: ct.DenseSkew(NAN * ones(2, 2)),
            V,
            "W: expected finite values, got 4 non-finite of 4",
        ),
        (
            lambda: ct.DenseSkew(ones(2, 2).at[0, 1].set(INF)),
            V,
            "W: expected finite values, got 1 non-finite of 4",
        ),
        (
            lambda: ct.DenseSkew.from_matrix(ones(2, 2).at[0, 1].set(-4.0)),
            V,
            "A: expected a skew-symmetric matrix, or skew_part=True, which takes (A - Aᵀ)/2, got a"
            " symmetric part of size 1.5 beside weights of size 4",
        ),
        (
            lambda: ct.DenseSkew.from_matrix(ones(2, 3)),
            V,
            "A: expected a square matrix of shape (n, n), got shape (2, 3)",
        ),
        (
            lambda: ct.DenseSkew.from_matrix(NAN * ones(2, 2), skew_part=True),
            V,
            "A: expected finite values, got 4 non-finite of 4",
        ),
        (
            lambda: ct.DenseSkew.from_matrix(ones(2, 2), tolerance=-1.0),
            V,
            f"tolerance: {number(-1.0)}",
        ),
        (
            lambda: ct.DenseSkew.from_matrix(ones(2, 2), skew_part=1),
            T,
            "skew_part: expected True or False, got 1",
        ),
        (lambda: ct.DenseSkew.init(KEY, 1), V, f"n: {whole(2, 1)}"),
        (lambda: ct.DenseSkew.init(KEY, 2.5), T, f"n: {whole(2, 2.5)}"),
        (lambda: ct.DenseSkew.init(KEY, True), T, f"n: {whole(2, True)}"),
        (lambda: ct.DenseSkew.init(KEY, "4"), T, f"n: {whole(2, repr('4'))}"),
        (lambda: ct.DenseSkew.init(KEY, 4, scale=-1.0), V, f"scale: {number(-1.0)}"),
        (lambda: ct.DenseSkew.init(KEY, 4, scale=NAN), V, f"scale: {number('nan')}"),
        (lambda: ct.DenseSkew.init(KEY, 4, scale=0), V, f"scale: {number(0)}"),
        (lambda: ct.DenseSkew.init(KEY, 4, scale="1"), T, f"scale: {number(repr('1'))}"),
        (lambda: ct.DenseSkew.init(KEY, 4, scale=ones(2)), V, f"scale: {number('shape (2,)')}"),
        (
            lambda: ct.DenseSkew.init(KEY, 4, dtype=int),
            T,
            "dtype: expected a floating-point dtype, got int64",
        ),
        (
            lambda: ct.DenseSkew.init(KEY, 4, dtype="complex64"),
            T,
            "dtype: expected a floating-point dtype, got complex64",
        ),
    ],
    "DenseWeights": [
        (lambda: ct.DenseWeights(ones(0, 0)), V, "W: expected at least 1 neuron, got (0, 0)"),
        (
            lambda: ct.DenseWeights(ones(2, 3)),
            V,
            "W: expected a square matrix of shape (n, n), got shape (2, 3)",
        ),
        (lambda: ct.DenseWeights.init(KEY, 0), V, f"n: {whole(1, 0)}"),
        (lambda: ct.DenseWeights.init(KEY, 4, scale=INF), V, f"scale: {number('inf')}"),
    ],
    "Damped": [
        (lambda: ct.Damped(ones(2, 2), 0.1), T, f"weights: {WEIGHTS}<any>"),
        (
            lambda: ct.Damped(ct.DenseSkew, 0.1),
            T,
            f"weights: {WEIGHTS}the class DenseSkew; call it",
        ),
        (lambda: damped(-0.1), V, "gamma: expected a number >= 0, got -<any>"),
        (lambda: damped(NAN), V, "gamma: expected a finite number, got nan"),
        (lambda: damped(NAN * ones()), V, "gamma: expected finite values, got 1 non-finite of 1"),
        (lambda: damped(ones(2)), V, "gamma: expected shape (), got (2,)"),
        (lambda: damped(None), T, f"gamma: {array_of('()', 'NoneType')}"),
        (lambda: damped("1"), T, f"gamma: {array_of('()', 'str')}"),
        (lambda: damped(True), T, f"gamma: {array_of('()', 'dtype bool')}"),
        (lambda: damped(jnp.ones((), OTHER)), T, f"gamma: {other_than('weights')}"),
        (lambda: ct.Damped.init(KEY, 1), V, f"n: {whole(2, 1)}"),
        (lambda: ct.Damped.init(KEY, 4, gamma=-1), V, "gamma: expected a number >= 0, got -1.0"),
    ],
    "BlockSkew": [
        (
            lambda: ct.BlockSkew(ones(0)),
            V,
            "omega: expected at least one angular frequency, got shape (0,)",
        ),
        (lambda: ct.BlockSkew(ones(2, 2)), V, "omega: expected shape (n/2,), got (2, 2)"),
        (lambda: ct.BlockSkew(1.0), V, "omega: expected shape (n/2,), got ()"),
        (lambda: ct.BlockSkew(np.ones(2, INT)), T, f"omega: {array_of('(n/2,)', f'dtype {INT}')}"),
        (lambda: ct.BlockSkew("1"), T, f"omega: {array_of('(n/2,)', 'str')}"),
        (
            lambda: ct.BlockSkew(ones(2) * INF),
            V,
            "omega: expected finite values, got 2 non-finite of 2",
        ),
        (lambda: ct.BlockSkew.from_hz("1"), T, f"f: {array_of('(n/2,)', 'str')}"),
        (lambda: ct.BlockSkew.from_hz(1.0), V, "f: expected shape (n/2,), got ()"),
        (
            lambda: ct.BlockSkew.init(KEY, 5),
            V,
            "n: expected an even number of neurons, got 5",
        ),
        (lambda: ct.BlockSkew.init(KEY, 1), V, f"n: {whole(2, 1)}"),
        (
            lambda: ct.BlockSkew.init(KEY, 4, low=2.0, high=1.0),
            V,
            "high: expected a number above low = 2.0, got 1.0",
        ),
    ],
    "BipartiteSkew": [
        (
            lambda: ct.BipartiteSkew(ones(0, 2)),
            V,
            "B: expected at least one neuron in each group, got shape (0, 2)",
        ),
        (lambda: ct.BipartiteSkew(ones(2)), V, "B: expected shape (p, q), got (2,)"),
        (
            lambda: ct.BipartiteSkew(np.eye(2, dtype=INT)),
            T,
            f"B: {array_of('(p, q)', f'dtype {INT}')}",
        ),
        (
            lambda: ct.BipartiteSkew(NAN * ones(1, 2)),
            V,
            "B: expected finite values, got 2 non-finite of 2",
        ),
        (
            lambda: ct.BipartiteSkew.init(KEY, 4, p=4),
            V,
            "p: expected a group smaller than n = 4, got 4",
        ),
        (lambda: ct.BipartiteSkew.init(KEY, 4, p=0), V, f"p: {whole(1, 0)}"),
        (lambda: ct.BipartiteSkew.init(KEY, 4, p=1.5), T, f"p: {whole(1, 1.5)}"),
        (lambda: ct.BipartiteSkew.init(KEY, 4, scale=-1), V, f"scale: {number(-1)}"),
    ],
    "LowRankSkew": [
        (
            lambda: ct.LowRankSkew(ones(4, 1), ones(4, 2)),
            V,
            "V: expected the shape of U, (4, 1), got (4, 2)",
        ),
        (
            lambda: ct.LowRankSkew(ones(4, 1), jnp.ones((4, 1), OTHER)),
            T,
            f"V: {other_than('U')}",
        ),
        (lambda: ct.LowRankSkew(ones(4), ones(4)), V, "U: expected shape (n, r), got (4,)"),
        (
            lambda: ct.LowRankSkew(ones(4, 0), ones(4, 0)),
            V,
            "U: expected at least 2 neurons and rank 1, got shape (4, 0)",
        ),
        (
            lambda: ct.LowRankSkew(ones(1, 1), ones(1, 1)),
            V,
            "U: expected at least 2 neurons and rank 1, got shape (1, 1)",
        ),
        (lambda: ct.LowRankSkew(ones(4, 1), None), T, f"V: {array_of('(n, r)', 'NoneType')}"),
        (
            lambda: ct.LowRankSkew(ones(4, 1), NAN * ones(4, 1)),
            V,
            "V: expected finite values, got 4 non-finite of 4",
        ),
        (lambda: ct.LowRankSkew.init(KEY, 4, rank=0), V, f"rank: {whole(1, 0)}"),
        (lambda: ct.LowRankSkew.init(KEY, 4, rank=1.0), T, f"rank: {whole(1, 1.0)}"),
        (lambda: ct.LowRankSkew.init(KEY, 4, scale=-1), V, f"scale: {number(-1)}"),
    ],
    "CustomActivation": [
        (lambda: ct.CustomActivation(3), T, "fn: expected a function of an array, got 3"),
        (lambda: ct.CustomActivation("tanh"), T, "fn: expected a function of an array, got 'tanh'"),
        (
            lambda: ct.CustomActivation(jnp.tanh, potential=3),
            T,
            "potential: expected a function of an array or None, got 3",
        ),
    ],
    "CTRNN": [
        (
            lambda: ct.CTRNN(ones(2, 2)),
            T,
            "weights: expected weights such as DenseSkew(W), got ArrayImpl",
        ),
        (
            lambda: ct.CTRNN(ct.DenseSkew),
            T,
            "weights: expected weights such as DenseSkew(W), got the class DenseSkew; call it",
        ),
        (
            lambda: net(4, ct.Tanh),
            T,
            "activation: expected an activation such as Tanh(), got the class Tanh; call it",
        ),
        (lambda: net(4, "tanh"), T, "activation: expected an activation such as Tanh(), got str"),
        (
            lambda: net(4, np.tanh),
            T,
            "activation: expected an activation such as Tanh(), got ufunc",
        ),
        (lambda: net(form="spiking"), V, f"{FORM} 'spiking'"),
        (lambda: net(form=None), V, f"{FORM} None"),
        (lambda: net(bias=ones(3)), V, "bias: expected shape (4,), got (3,)"),
        (lambda: net(bias=ones(4, 1)), V, "bias: expected shape (4,), got (4, 1)"),
        (lambda: net(bias=1.0), V, "bias: expected shape (4,), got ()"),
        (lambda: net(bias=np.ones(4, INT)), T, f"bias: {array_of('(4,)', f'dtype {INT}')}"),
        (
            lambda: net(bias=jnp.ones(4, OTHER)),
            T,
            f"bias: {other_than('weights')}",
        ),
        (
            lambda: net(bias=NAN * ones(4)),
            V,
            "bias: expected finite values, got 4 non-finite of 4",
        ),
        (lambda: net(bias="b"), T, f"bias: {array_of('(4,)', 'str')}"),
        (lambda: net(leak=-0.5), V, "leak: expected values >= 0, got -0.5"),
        (lambda: net(leak=-ones(4)), V, "leak: expected values >= 0, got -1.0"),
        (lambda: net(leak=ones(3)), V, "leak: expected shape () or (4,), got (3,)"),
        (lambda: net(leak=ones(4, 1)), V, "leak: expected shape () or (4,), got (4, 1)"),
        (lambda: net(leak=NAN), V, "leak: expected finite values, got 1 non-finite of 1"),
        (lambda: net(leak=True), T, f"leak: {array_of('() or (4,)', 'dtype bool')}"),
        (
            lambda: net(leak=jnp.ones((), OTHER)),
            T,
            f"leak: {other_than('weights')}",
        ),
    ],
    "simulate rnn, x0": [
        (lambda: sim(rnn=jnp.tanh), T, "rnn: expected a CTRNN, got <any>"),
        (lambda: sim(rnn=ct.CTRNN), T, "rnn: expected a CTRNN, got the class CTRNN; call it"),
        (lambda: sim(rnn=net().weights), T, "rnn: expected a CTRNN, got DenseSkew"),
        (
            lambda: sim(ones(3, 5)),
            V,
            "x0: expected shape (..., 4), one value per neuron, got (3, 5)",
        ),
        (lambda: sim(1.0), V, "x0: expected shape (..., 4), got ()"),
        (lambda: sim(ones(0, 4)), V, "x0: expected at least one initial state, got shape (0, 4)"),
        (lambda: sim(np.ones((3, 4), INT)), T, f"x0: {array_of('(..., 4)', f'dtype {INT}')}"),
        (
            lambda: sim(jnp.ones(4, jnp.float16)),
            T,
            f"x0: {HALF} float16",
        ),
        (lambda: sim("x"), T, f"x0: {array_of('(..., 4)', 'str')}"),
        (
            lambda: ct.simulate(net(), None, dt=0.1, num_steps=4),
            T,
            f"x0: {array_of('(..., 4)', 'NoneType')}",
        ),
    ],
    "simulate dt": [
        (lambda: sim(dt=0), V, f"dt: {number(0)}"),
        (lambda: sim(dt=-0.1), V, f"dt: {number(-0.1)}"),
        (lambda: sim(dt=NAN), V, f"dt: {number('nan')}"),
        (lambda: sim(dt=INF), V, f"dt: {number('inf')}"),
        (lambda: sim(dt="0.1"), T, f"dt: {number(repr('0.1'))}"),
        (lambda: sim(dt=ones(2)), V, f"dt: {number('shape (2,)')}"),
        (lambda: sim(dt=None), T, f"dt: {number(None)}"),
        (lambda: sim(dt=True), T, f"dt: {number(True)}"),
        (lambda: sim(dt=1j), T, f"dt: {number('dtype <any>')}"),
    ],
    "implicit solvers, Projected": [
        (lambda: ct.DiscreteGradient(order=3), V, "order: expected 2 or 4, got 3"),
        (lambda: ct.DiscreteGradient(tol=0.0), V, "tol: expected a finite number > 0, got 0.0"),
        (
            lambda: ct.ImplicitMidpoint(max_iterations=0),
            V,
            "max_iterations: expected an integer >= 1, got 0",
        ),
        (lambda: ct.Projected("rk4"), T, f"solver: {SOLVER} str"),
        (
            lambda: ct.Projected(diffrax.LeapfrogMidpoint()),
            V,
            "solver: expected a one-step method, not projected yet, got LeapfrogMidpoint",
        ),
        (lambda: sim(solver=ct.Projected(ct.RK4()), rtol=1e-3), V, f"{ADAPTIVE} Projected"),
        (
            lambda: sim(adjoint="reversible"),
            V,
            "solver: expected one that can undo steps, such as PoissonSplitting, for"
            " adjoint='reversible', got Tsit5",
        ),
    ],
    "PoissonSplitting": [
        (lambda: ct.PoissonSplitting(3), V, "order: expected 1, 2, 4 or 6, got 3"),
        (lambda: ct.PoissonSplitting(2, 1), T, "compensated: expected True or False, got 1"),
    ],
    "what only looks like a number": [
        (lambda: sim(dt=np.array(True)), T, f"dt: {number('dtype bool')}"),
        (lambda: sim(max_norm=jnp.array(True)), T, f"max_norm: {number('dtype bool')}"),
        (lambda: sim(dt=1e-320), V, f"dt: {number('<any>')}"),
        (lambda: sim(rtol=1e-3, atol=10**400), V, "atol: expected a finite number, got <any>"),
        (lambda: jax.jit(lambda v: sim(dt=v))(jnp.array(True)), T, f"dt: {number('dtype bool')}"),
        (lambda: net(bias=[[1.0], [2.0, 3.0]]), T, "bias: expected <any>, got list"),
        (lambda: net(form=np.array(["rate"])), V, "form: expected one of <any>, got array(<any>"),
        (
            lambda: ct.power_spectrum(jnp.ones(9, jnp.float16), 0.1),
            T,
            f"y: {HALF} float16",
        ),
        (
            lambda: ct.DenseSkew.init(0, 4),
            T,
            "key: expected a PRNG key such as jax.random.key(0), got int",
        ),
        (
            lambda: ct.DenseSkew.init(KEY, 4, dtype="foo"),
            T,
            "dtype: expected a floating-point dtype, got 'foo'",
        ),
        (
            lambda: ct.BlockSkew.init(KEY, 4, low=None),
            T,
            "low: expected a finite number, got None",
        ),
        (
            lambda: ct.BlockSkew.init(KEY, 4, low=NAN),
            V,
            "low: expected a finite number, got nan",
        ),
        (lambda: ct.BlockSkew.from_hz(ones(2) * NAN), V, "f: expected finite values, got <any>"),
        (
            lambda: ct.CustomActivation(ct.Tanh),
            T,
            "fn: expected a function of an array, got the class Tanh",
        ),
        (
            lambda: ct.CustomActivation(jnp.tanh, odd="no"),
            T,
            "odd: expected True or False, got 'no'",
        ),
        (
            lambda: ct.drift_loss(net(), ones(0, 3, 4), "max"),
            V,
            "xs: expected at least one trajectory, got shape (0, 3, 4)",
        ),
    ],
    "simulate num_steps, save_every": [
        (lambda: sim(num_steps=0), V, f"num_steps: {whole(1, 0)}"),
        (lambda: sim(num_steps=-1), V, f"num_steps: {whole(1, -1)}"),
        (lambda: sim(num_steps=4.0), T, f"num_steps: {whole(1, 4.0)}"),
        (lambda: sim(num_steps=True), T, f"num_steps: {whole(1, True)}"),
        (lambda: sim(num_steps=None), T, f"num_steps: {whole(1, None)}"),
        (lambda: sim(num_steps=2**31), V, "num_steps: expected at most 2147483646, got 2147483648"),
        (
            lambda: jax.jit(lambda k: sim(num_steps=k).xs)(4),
            T,
            "num_steps: expected an integer >= 1 known beforehand, got a traced one",
        ),
        (
            lambda: sim(save_every=3),
            V,
            "num_steps: expected a multiple of save_every = 3, got 4",
        ),
        (lambda: sim(save_every=0), V, f"save_every: {whole(1, 0)}"),
        (lambda: sim(save_every=2.0), T, f"save_every: {whole(1, 2.0)}"),
    ],
    "simulate solver, tolerances": [
        (lambda: sim(solver="euler"), T, f"solver: {SOLVER} str"),
        (lambda: sim(solver=None), T, f"solver: {SOLVER} NoneType"),
        (lambda: sim(solver=diffrax.Euler), T, f"solver: {SOLVER} the class Euler; call it"),
        (
            lambda: sim(solver=diffrax.SemiImplicitEuler()),
            V,
            f"{TERMS} SemiImplicitEuler, which needs several terms",
        ),
        (
            lambda: sim(solver=diffrax.KenCarp3()),
            V,
            f"{TERMS} KenCarp3, which needs several terms",
        ),
        (
            lambda: sim(solver=ct.ExactLinear()),
            V,
            "solver: expected activation Linear() for ExactLinear, got Tanh",
        ),
        (lambda: sim(solver=diffrax.Euler(), rtol=1e-3), V, f"{ADAPTIVE} Euler"),
        (lambda: sim(solver=ct.RK4(), atol=1e-3), V, f"{ADAPTIVE} RK4"),
        (lambda: sim(rtol=-1.0), V, "rtol: expected a finite number >= 0, got -1.0"),
        (lambda: sim(rtol=0.0), V, "rtol: expected a number > 0 where atol is 0, got 0 for both"),
        (lambda: sim(rtol="1e-3"), T, "rtol: expected a finite number, got '1e-3'"),
        (lambda: sim(rtol=ones(3)), V, "rtol: expected a finite number, got shape (3,)"),
        (lambda: sim(atol=NAN), V, "atol: expected a finite number, got nan"),
    ],
    "input_weights": [
        (
            lambda: net(input_weights=ones(4)),
            V,
            "input_weights: expected shape (4, m), m inputs, got (4,)",
        ),
        (
            lambda: net(input_weights=ones(3, 2)),
            V,
            "input_weights: expected shape (4, m), m inputs, got (3, 2)",
        ),
        (
            lambda: net(input_weights=ones(4, 0)),
            V,
            "input_weights: expected shape (4, m), m inputs, got (4, 0)",
        ),
        (
            lambda: net(input_weights=1.0),
            V,
            "input_weights: expected shape (4, m), m inputs, got ()",
        ),
        (
            lambda: net(input_weights="B"),
            T,
            f"input_weights: {array_of('(4, m), m inputs', 'str')}",
        ),
        (
            lambda: net(input_weights=NAN * ones(4, 1)),
            V,
            "input_weights: expected finite values, got 4 non-finite of 4",
        ),
        (
            lambda: net(input_weights=jnp.ones((4, 1), INT)),
            T,
            f"input_weights: {array_of('(4, m), m inputs', f'dtype {INT}')}",
        ),
        (
            lambda: net(input_weights=jnp.ones((4, 1), OTHER)),
            T,
            f"input_weights: {other_than('weights')}",
        ),
        (
            lambda: driven()(0.0, ones(4), lambda t: ones(3)),
            V,
            "args: expected an input of shape (2,), got shape (3,)",
        ),
        (
            lambda: net()(0.0, ones(4), lambda t: ones(3)),
            V,
            "args: expected no input, as the network has no input_weights, got one",
        ),
    ],
    "simulate inputs": [
        (
            lambda: sim(inputs=ones(4, 2)),
            V,
            "inputs: expected none, as the network has no input_weights, got some",
        ),
        (
            lambda: sim(inputs=lambda t: ones(2)),
            V,
            "inputs: expected none, as the network has no input_weights, got some",
        ),
        (lambda: push(ones(5, 2)), V, "inputs: expected shape (4, 2) or (3, 4, 2), got (5, 2)"),
        (lambda: push(ones(4)), V, "inputs: expected shape (4, 2) or (3, 4, 2), got (4,)"),
        (lambda: push(ones(4, 3)), V, "inputs: expected shape (4, 2) or (3, 4, 2), got (4, 3)"),
        (
            lambda: push(ones(2, 4, 2)),
            V,
            "inputs: expected shape (4, 2) or (3, 4, 2), got (2, 4, 2)",
        ),
        (
            lambda: push(ones(3, 4, 1)),
            V,
            "inputs: expected shape (4, 2) or (3, 4, 2), got (3, 4, 1)",
        ),
        (
            lambda: push(ones(3, 4, 2), x0=ones(4)),
            V,
            "inputs: expected shape (4, 2), got (3, 4, 2)",
        ),
        (
            lambda: push(ones(4, 2), x0=ones(2, 3, 4), num_steps=2),
            V,
            "inputs: expected shape (2, 2) or (2, 3, 2, 2), got (4, 2)",
        ),
        (lambda: push("u"), T, f"inputs: {array_of('(4, 2) or (3, 4, 2)', 'str')}"),
        (lambda: push(3), T, f"inputs: {array_of('(4, 2) or (3, 4, 2)', f'dtype {INT}')}"),
        (lambda: push(jnp.ones((4, 2), OTHER)), T, f"inputs: {other_than('the network')}"),
        (
            lambda: push(lambda t: ones(3)),
            V,
            "inputs: expected a function of shape (2,), got one of shape (3,)",
        ),
        (
            lambda: push(lambda t: ones(1, 2)),
            V,
            "inputs: expected a function of shape (2,), got one of shape (1, 2)",
        ),
        (
            lambda: push(lambda t: t),
            V,
            "inputs: expected a function of shape (2,), got one of shape ()",
        ),
        (
            lambda: push(lambda t: {"u": ones(2)}),
            V,
            "inputs: expected a function of shape (2,), got dict",
        ),
        (
            lambda: push(lambda t: jnp.ones(2, OTHER)),
            T,
            "inputs: expected the dtype of the network<any>",
        ),
        (
            lambda: push(diffrax.LinearInterpolation),
            T,
            "inputs: expected a function u(t), got the class LinearInterpolation",
        ),
        (
            lambda: push(ones(4, 2), solver=ct.Projected(ct.RK4())),
            V,
            "solver: expected one that takes held inputs, got Projected",
        ),
        (
            lambda: push(lambda t: ones(2), solver=ct.Projected(ct.RK4())),
            V,
            "solver: expected one that takes continuous inputs, got Projected",
        ),
        (
            lambda: push(ones(4, 2), solver=diffrax.LeapfrogMidpoint()),
            V,
            "solver: expected one that takes held inputs, got LeapfrogMidpoint",
        ),
    ],
    "simulate noise": [
        (
            lambda: noisy(key=None),
            V,
            "key: expected a PRNG key such as jax.random.key(0) where noise is given, got None",
        ),
        (
            lambda: noisy(noise=None),
            V,
            "noise: expected an intensity where a key is given, got None",
        ),
        (lambda: noisy(key=3), T, "key: expected a PRNG key such as jax.random.key(0), got int"),
        (
            lambda: noisy(solver=diffrax.Tsit5()),
            V,
            f"solver: {STOCHASTIC} Tsit5",
        ),
        (
            lambda: noisy(solver=ct.PoissonSplitting()),
            V,
            f"solver: {STOCHASTIC} PoissonSplitting",
        ),
        (
            lambda: noisy(rtol=1e-3, solver=diffrax.Heun()),
            V,
            "noise: expected no tolerances: steps of dt where noise is given, got rtol or atol",
        ),
        (lambda: noisy(noise=ones(3)), V, "noise: expected shape (), (4,) or (4, k), got (3,)"),
        (
            lambda: noisy(noise=ones(4, 0)),
            V,
            "noise: expected shape (), (4,) or (4, k), got (4, 0)",
        ),
        (
            lambda: noisy(noise=ones(3, 4, 2)),
            V,
            "noise: expected shape (), (4,) or (4, k), got (3, 4, 2)",
        ),
        (lambda: noisy(noise="0.1"), T, f"noise: {array_of('(), (4,) or (4, k)', 'str')}"),
        (lambda: noisy(noise=NAN), V, "noise: expected a finite number, got nan"),
        (lambda: noisy(noise=jnp.ones((), OTHER)), T, f"noise: {other_than('the network')}"),
        (
            lambda: noisy(adjoint="reversible"),
            V,
            "solver: expected one that can undo steps<any>, got Euler",
        ),
    ],
    "energy_balance": [
        (
            lambda: balance(ones(4)),
            V,
            "xs: expected at least two states, (..., S, 4), got shape (4,)",
        ),
        (
            lambda: balance(ones(3, 1, 4)),
            V,
            "xs: expected at least two states, (..., S, 4), got shape (3, 1, 4)",
        ),
        (
            lambda: balance(inputs=ones(5, 2)),
            V,
            "inputs: expected shape (4, 2) or (3, 4, 2), got (5, 2)",
        ),
        (
            lambda: balance(inputs=ones(4, 2), rnn=net()),
            V,
            "inputs: expected none, as the network has no input_weights, got some",
        ),
        (lambda: balance(dt=0), V, f"dt: {number(0)}"),
        (lambda: balance(solver="tsit5"), T, f"solver: {SOLVER} str"),
        (
            lambda: ct.energy(driven(), ones(3, 4), ones(3)),
            V,
            "u: expected an input of shape (2,), got shape (3,)",
        ),
        (
            lambda: ct.energy(driven(), ones(3, 4), ones(5, 2)),
            V,
            "u: expected shape (2,) or (3, 2), got (5, 2)",
        ),
        (
            lambda: ct.energy(net(), ones(3, 4), ones(2)),
            V,
            "u: expected no input, as the network has no input_weights, got one",
        ),
    ],
    "simulate, the rest": [
        (
            lambda: sim(adjoint="none"),
            V,
            "adjoint: expected one of 'checkpointed', 'direct', 'reversible', got 'none'",
        ),
        (lambda: sim(observe=3), T, "observe: expected a function, got 3"),
        (lambda: sim(fold=jnp.add), T, "fold: expected a pair (init, update), got <any>"),
        (lambda: sim(fold=(0.0,)), T, "fold: expected a pair (init, update), got tuple"),
        (lambda: sim(fold=[0.0, keep]), T, "fold: expected a pair (init, update), got list"),
        (
            lambda: sim(fold=(0.0, 1)),
            T,
            "fold: expected a function update(carry, t, x) as its second part, got 1",
        ),
        (
            lambda: sim(fold=(0.0, None)),
            T,
            "fold: expected a function update(carry, t, x) as its second part, got None",
        ),
        (lambda: sim(fold=ones(2)), T, "fold: expected a pair (init, update), got <any>"),
        (
            lambda: sim(fold=(ones(2), lambda c, t, x: c[:1])),
            V,
            "fold: expected an update that keeps <any> of shape (2,), got <any> of shape (1,)",
        ),
        (
            lambda: sim(fold=(ones(2), lambda c, t, x: (c, t))),
            V,
            "fold: expected an update that returns a carry of the structure of init, got <any>",
        ),
        (
            lambda: sim(fold=(jnp.zeros((), jnp.int32), lambda c, t, x: t)),
            V,
            "fold: expected an update that keeps int32 of shape (), got <any> of shape ()",
        ),
        (lambda: sim(keep_states=1), T, "keep_states: expected True or False, got 1"),
        (lambda: sim(keep_states=None), T, "keep_states: expected True or False, got None"),
        (lambda: sim(max_norm=0.0), V, f"max_norm: {number(0.0)}"),
        (lambda: sim(max_norm=-1.0), V, f"max_norm: {number(-1.0)}"),
        (lambda: sim(max_norm=NAN), V, f"max_norm: {number('nan')}"),
        (lambda: sim(max_norm=ones(3)), V, f"max_norm: {number('shape (3,)')}"),
        (lambda: sim(progress="yes"), T, f"{METER} 'yes'"),
        (lambda: sim(progress=diffrax.TqdmProgressMeter), T, f"{METER} <any>"),
        (lambda: sim(mesh=2), T, f"{MESH} int"),
        (lambda: sim(mesh=jax.devices()), T, f"{MESH} list"),
        (lambda: ct.batch_mesh([]), V, "devices: expected at least one device, got none"),
        (
            lambda: ct.batch_mesh(["cpu:0"]),
            T,
            "devices: expected devices as jax.devices() has them, got str",
        ),
    ],
    "invariants": [
        (
            lambda: ct.energy(net(), ones(3)),
            V,
            "x: expected shape (..., 4), one value per neuron, got (3,)",
        ),
        (lambda: ct.energy(net(), 1.0), V, "x: expected shape (..., 4), got ()"),
        (lambda: ct.energy(net(), "x"), T, f"x: {array_of('(..., 4)', 'str')}"),
        (
            lambda: ct.energy(net(), jnp.ones(4, OTHER)),
            T,
            f"x: {other_than('the network')}",
        ),
        (lambda: ct.energy(net().weights, ones(4)), T, "rnn: expected a CTRNN, got DenseSkew"),
        (
            lambda: ct.energy(net(3, form="current", bias=ones(3)), ones(3)),
            V,
            "bias: expected a vector in the range of A: otherwise the current form conserves "
            "no energy, got a distance of <any> from it",
        ),
        (
            lambda: ct.casimirs(net(), ones(3)),
            V,
            "x: expected shape (..., 4), one value per neuron, got (3,)",
        ),
        (
            lambda: ct.casimirs(dense(4), ones(4)),
            V,
            "rnn: expected skew-symmetric weights, got DenseWeights",
        ),
        (
            lambda: ct.energy_drift(net(), ones(4)),
            V,
            "xs: expected trajectories of shape (..., S, 4), got (4,)",
        ),
        (
            lambda: ct.energy_drift(net(), ones(0, 4)),
            V,
            "xs: expected trajectories of shape (..., S, 4), got (0, 4)",
        ),
        (
            lambda: ct.drift_loss(net(), ones(4)),
            V,
            "xs: expected trajectories of shape (..., S, 4), got (4,)",
        ),
        (
            lambda: ct.drift_loss(net(), ones(3, 4), "l1"),
            V,
            "kind: expected one of 'rms', 'mean', 'max', got 'l1'",
        ),
    ],
    "orbits": [
        (
            lambda: ct.natural_frequencies(dense(2)),
            V,
            "rnn: expected skew-symmetric weights, got DenseWeights",
        ),
        (lambda: ct.natural_frequencies(ones(2, 2)), T, "rnn: expected a CTRNN, got ArrayImpl"),
        (lambda: ct.orbit_frequency(net(), ones(4)), V, f"rnn: {SKEW} DenseSkew of size 4"),
        (lambda: ct.orbit_frequency(net(3), ones(3)), V, f"rnn: {SKEW} DenseSkew of size 3"),
        (
            lambda: ct.orbit_frequency(dense(2), ones(2)),
            V,
            f"rnn: {SKEW} DenseWeights of size 2",
        ),
        (
            lambda: ct.orbit_frequency(dense(1), ones(1)),
            V,
            f"rnn: {SKEW} DenseWeights of size 1",
        ),
        (
            lambda: ct.orbit_frequency(net(2, ct.ReLU()), ones(2)),
            V,
            "rnn: expected activation Tanh(), HardTanh() or Linear(), got ReLU",
        ),
        (
            lambda: ct.orbit_frequency(net(2, leak=0.1), ones(2)),
            V,
            "rnn: expected no leak: damped orbits do not close, got a leak",
        ),
        (
            lambda: ct.orbit_frequency(net(2, form="current", bias=ones(2)), ones(2)),
            V,
            "rnn: expected no bias in the current form, got a bias",
        ),
        (
            lambda: ct.orbit_frequency(net(2), ones(3)),
            V,
            "x0: expected shape (..., 2), one value per neuron, got (3,)",
        ),
        (
            lambda: ct.orbit_frequency(net(2), np.ones(2, INT)),
            T,
            f"x0: {array_of('(..., 2)', f'dtype {INT}')}",
        ),
        (
            lambda: ct.orbit_frequency(net(2), jnp.ones(2, OTHER)),
            T,
            f"x0: {other_than('the network')}",
        ),
    ],
    "period, exponents": [
        *(
            row
            for f in (ct.period, ct.regime, partial(ct.lyapunov_spectrum, dt=0.1, num_steps=5))
            for row in (
                (lambda f=f: f(None, ones(2)), T, "rnn: expected a CTRNN, got NoneType"),
                (
                    lambda f=f: f(net(2), ones(3)),
                    V,
                    "x0: expected shape (..., 2), one value per neuron, got (3,)",
                ),
                (
                    lambda f=f: f(net(2), np.ones(2, INT)),
                    T,
                    f"x0: {array_of('(..., 2)', f'dtype {INT}')}",
                ),
                (
                    lambda f=f: f(net(2), jnp.ones(2, OTHER)),
                    T,
                    f"x0: {other_than('the network')}",
                ),
            )
        ),
        (lambda: ct.period(net(2), ones(2), max_time=0.0), V, f"max_time: {number(0.0)}"),
        (lambda: ct.period(net(2), ones(2), tolerance=-1.0), V, f"tolerance: {number(-1.0)}"),
        (lambda: ct.period(net(2), ones(2), rtol=NAN), V, f"rtol: {number(NAN)}"),
        *(
            (lambda o=o: ct.lyapunov_spectrum(net(2), ones(2), **EXPONENTS | o), error, line)
            for o, error, line in (
                ({"dt": 0.0}, V, f"dt: {number(0.0)}"),
                ({"num_steps": 0}, V, f"num_steps: {whole(1, 0)}"),
                ({"num_steps": 2.0}, T, f"num_steps: {whole(1, 2.0)}"),
                ({"transient": -1}, V, f"transient: {whole(0, -1)}"),
                ({"qr_every": 0}, V, f"qr_every: {whole(1, 0)}"),
                ({"k": 0}, V, f"k: {whole(1, 0)}"),
                ({"k": 3}, V, "k: expected at most the 2 neurons, got 3"),
                ({"solver": "rk4"}, T, f"solver: {SOLVER} str"),
            )
        ),
        *(
            (lambda o=o: ct.regime(net(2), ones(2), **o), error, line)
            for o, error, line in (
                ({"dt": -1.0}, V, f"dt: {number(-1.0)}"),
                ({"num_steps": 63}, V, f"num_steps: {whole(64, 63)}"),
                ({"transient": -1}, V, f"transient: {whole(0, -1)}"),
                ({"solver": "rk4"}, T, f"solver: {SOLVER} str"),
            )
        ),
        (
            lambda: ct.analyse(net(2, leak=1.0)),
            V,
            "rnn: expected no leak: damped motion dies out, got a leak",
        ),
        (
            lambda: ct.analyse(ct.CTRNN(ct.DenseWeights(ones(2, 2)))),
            V,
            "rnn: expected skew-symmetric weights, got DenseWeights",
        ),
        (
            lambda: ct.analyse(net(2), x0=ones(1, 2)),
            V,
            "x0: expected one state of shape (2,), got (1, 2)",
        ),
    ],
    "spectra": [
        (
            lambda: ct.dominant_frequency(ones(9), 0.1, method="fft"),
            V,
            "method: expected one of 'periodogram', 'autocorrelation', 'zero_crossings', got 'fft'",
        ),
        *(
            row
            for f in (ct.power_spectrum, ct.spectrogram, ct.dominant_frequency)
            for row in (
                (
                    lambda f=f: f(ones(2, 3), 0.1),
                    V,
                    "y: expected at least 4 samples on the last axis, got shape (2, 3)",
                ),
                (
                    lambda f=f: f(np.ones(9, INT), 0.1),
                    T,
                    f"y: {array_of('(..., S)', f'dtype {INT}')}",
                ),
                (lambda f=f: f("y", 0.1), T, f"y: {array_of('(..., S)', 'str')}"),
                (lambda f=f: f(1.0, 0.1), V, "y: expected shape (..., S), got ()"),
                (lambda f=f: f(ones(9), 0.0), V, f"dt: {number(0.0)}"),
                (lambda f=f: f(ones(9), -0.1), V, f"dt: {number(-0.1)}"),
                (lambda f=f: f(ones(9), ones(9)), V, f"dt: {number('shape (9,)')}"),
            )
        ),
        (
            lambda: ct.spectrogram(ones(9), 0.1, window_length=10),
            V,
            "window_length: expected at most the 9 samples of y, got 10",
        ),
        (
            lambda: ct.spectrogram(ones(9), 0.1, window_length=3),
            V,
            f"window_length: {whole(4, 3)}",
        ),
        (
            lambda: ct.spectrogram(ones(9), 0.1, window_length=4.0),
            T,
            f"window_length: {whole(4, 4.0)}",
        ),
        (
            lambda: ct.spectrogram(ones(9), 0.1, window_length=4, overlap=4),
            V,
            "overlap: expected less than window_length = 4, got 4",
        ),
        (lambda: ct.spectrogram(ones(9), 0.1, overlap=-1), V, f"overlap: {whole(0, -1)}"),
        (lambda: ct.spectrogram(ones(9), 0.1, overlap=1.5), T, f"overlap: {whole(0, 1.5)}"),
    ],
    "animations": [
        (lambda o=o: ct.plot.animate(sim(), **o), error, line)
        for o, error, line in (
            ({"kind": "states"}, V, "kind: expected one of <any>, got 'states'"),
            ({"kind": 1}, V, "kind: expected one of 'state', 'spectrum', 'readout', got 1"),
            ({"neurons": (0, 4)}, V, "neurons: expected an index below 4, got 4"),
            ({"neurons": (0,)}, V, "neurons: expected two indices, got [0]"),
            ({"kind": "readout", "neurons": ()}, V, "neurons: expected at least one index, got []"),
            ({"readout": ones(1, 4)}, V, 'readout: expected none for kind "state", got one'),
            (
                {"kind": "readout", "readout": ones(4)},
                V,
                "readout: expected shape (channels, 4), got (4,)",
            ),
            (
                {"kind": "spectrum", "readout": ones(1, 4), "neurons": (0,)},
                V,
                "readout: expected either neurons or readout, got both",
            ),
            (
                {"kind": "readout", "readout": ones(1, 4) * NAN},
                V,
                "readout: expected <any>, got <any>",
            ),
            ({"index": 3}, V, "index: expected an index below 3, got 3"),
            ({"duration": 0}, V, f"duration: {number(0)}"),
            ({"max_frames": 1}, V, f"max_frames: {whole(2, 1)}"),
            ({"max_frames": 9.5}, T, f"max_frames: {whole(2, 9.5)}"),
            ({"fps": -1}, V, f"fps: {number(-1)}"),
            ({"path": "a.png"}, V, "path: expected a .gif or .mp4 file, got a.png"),
            ({"ax": 1}, T, "ax: expected one matplotlib Axes, or None, got int"),
        )
    ],
}
TABLE = [
    pytest.param(*row, id=f"{where} {i}")
    for where, rows in CALLS.items()
    for i, row in enumerate(rows)
]


@pytest.fixture
def unchecked():
    """Our own checks speak, not the type checker that the tests switch on."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


def check_bad_call(call, error, line, capfd):
    with pytest.raises((ValueError, TypeError)) as raised:
        call()
    message = str(raised.value)
    assert raised.type is error, message
    assert re.fullmatch(r"\w+: expected .+, got .+", message), message
    assert re.fullmatch(re.escape(line).replace("<any>", ".+"), message), message
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("call,error,line", TABLE)
def test_bad_call(call, error, line, unchecked, capfd):
    check_bad_call(call, error, line, capfd)


def xs(x0=None, rnn=None, **kwargs):
    return sim(x0, rnn, solver=kwargs.pop("solver", diffrax.Euler()), **kwargs).xs


TRACED = {
    "dt": (lambda v: xs(dt=v), ()),
    "x0": (xs, (4,)),
    "max_norm": (lambda v: xs(max_norm=v), ()),
    "tolerances": (lambda v: xs(rtol=v, atol=v, solver=diffrax.Heun()), ()),
    "DenseSkew": (lambda v: xs(rnn=ct.CTRNN(ct.DenseSkew(v))), (4, 4)),
    "DenseWeights": (lambda v: xs(rnn=ct.CTRNN(ct.DenseWeights(v))), (4, 4)),
    "BlockSkew": (lambda v: xs(rnn=ct.CTRNN(ct.BlockSkew(v))), (2,)),
    "BipartiteSkew": (lambda v: xs(rnn=ct.CTRNN(ct.BipartiteSkew(v))), (2, 2)),
    "LowRankSkew": (lambda v: xs(rnn=ct.CTRNN(ct.LowRankSkew(v, v))), (4, 1)),
    "bias": (lambda v: xs(rnn=net(bias=v)), (4,)),
    "leak": (lambda v: xs(rnn=net(leak=v)), ()),
    "power_spectrum": (lambda v: ct.power_spectrum(ones(9), v), ()),
    "spectrogram": (lambda v: ct.spectrogram(ones(9), v), ()),
    "dominant_frequency": (lambda v: ct.dominant_frequency(ones(9), v), ()),
    "period": (lambda v: ct.period(net(4), ones(4), max_time=v), ()),
    "exponents": (lambda v: ct.lyapunov_spectrum(net(4), ones(4), dt=v, num_steps=3), ()),
}


@pytest.mark.parametrize("name", TRACED)
def test_traced_arguments_pass(name, capfd):
    f, shape = TRACED[name]
    jax.eval_shape(f, jax.ShapeDtypeStruct(shape, F))  # traced only: nothing is compiled
    assert capfd.readouterr() == ("", "")


def test_jit_over_dt_x0_and_weights(capfd):
    def f(dt, x0, W):
        return xs(x0, ct.CTRNN(ct.DenseSkew(W)), dt=dt)

    dt, x0 = jnp.asarray(0.1, F), jnp.array([0.3, 0.1, -0.2, 0.4], F)
    W = jax.random.normal(KEY, (4, 4), F)
    jitted = jax.jit(f)
    x, A = np.asarray(x0, float), np.asarray(W - W.T, float)
    states = [x]
    for _ in range(4):
        states.append(states[-1] + 0.1 * np.tanh(A @ states[-1]))
    np.testing.assert_allclose(jitted(dt, x0, W), states, rtol=0, atol=20 * jnp.finfo(F).eps)
    # Refused where they are known; here they are not.
    jax.block_until_ready([jitted(-dt, x0, W), jitted(dt, NAN * x0, W), jitted(dt, x0, NAN * W)])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "call,error,line",
    [
        (
            lambda: jax.jit(lambda v: xs(dt=v))(ones(2)),
            V,
            "dt: expected a finite number > 0, got shape (2,)",
        ),
        (
            lambda: jax.jit(xs)(ones(5)),
            V,
            "x0: expected shape (..., 4), one value per neuron, got (5,)",
        ),
        (
            lambda: jax.jit(xs)(np.ones(4, INT)),
            T,
            f"x0: {array_of('(..., 4)', f'dtype {INT}')}",
        ),
        (
            lambda: jax.jit(ct.DenseSkew)(ones(2, 3)),
            V,
            "W: expected a square matrix of shape (n, n), got shape (2, 3)",
        ),
    ],
    ids=["dt shape", "x0 shape", "x0 dtype", "W shape"],
)
def test_shape_and_dtype_are_checked_when_traced(call, error, line, unchecked, capfd):
    check_bad_call(call, error, line, capfd)
