"""What the suite `memory` trains: models of one layer, of as many parameters, from their equations.

Each is made by a key, the inputs m, answers k and samples T of a task, how answers are pooled, and
its width; called with (batch, T, m) it gives (batch, k) or (batch, T, k). None is told more of a
task than T: ours take their frequencies from it, see `ours`, the oscillators theirs, and the gates
of "GRU, slow gates" their biases.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from measure import OURS

import ctrnn_jax as ct


class Shape(NamedTuple):
    m: int
    k: int
    T: int
    pool: str | None


def affine(key: jax.Array, n: int, k: int, scale: float = 1.0) -> tuple[jax.Array, jax.Array]:
    return scale * jax.random.normal(key, (k, n)) / math.sqrt(n), jnp.zeros(k)


def ours(key: jax.Array, shape: Shape, n: int, form: str, kind: str) -> ct.SequenceModel:
    """A sample is held for 1 s.

    Leapfrog steps keep amplitudes at any frequency below 2 rad/s: the fastest mode has 1 rad/s.
    Those of Euler grow by ω²/2 a step: √(2/T) rad/s, e in all; "damped" takes that off again.
    """
    keys = jax.random.split(key, 3)
    fastest, solver = math.sqrt(2 / shape.T), diffrax.Euler()
    weights: Any = ct.DenseSkew.init(keys[0], n, scale=fastest / 2)
    leak = None
    if kind == "leapfrog":
        weights, solver = ct.BipartiteSkew.init(keys[0], n, scale=0.5), ct.PoissonSplitting()
    elif kind == "damped":
        weights = ct.Damped(weights, 1 / shape.T)
    elif kind == "unconstrained":
        weights, leak = ct.DenseWeights.init(keys[0], n, scale=0.9), jnp.asarray(1.0)
    size = min(1.0, 3 / math.sqrt(shape.T)) / math.sqrt(shape.m)
    rnn = ct.CTRNN(
        weights,
        form=form,
        bias=jnp.zeros(n),
        leak=leak,
        input_weights=size * jax.random.normal(keys[1], (n, shape.m)),
    )
    C, d = affine(keys[2], n, shape.k)
    return ct.SequenceModel(rnn, C, offset=d, dt=1.0, pool=shape.pool, solver=solver)


class Cell(eqx.Module):
    """x_k, y_k = cell(x_{k-1}, u_k) by `lax.scan`; answers are read from y."""

    cell: Any
    readout: tuple[jax.Array, jax.Array]
    x0: Any
    pool: str | None = eqx.field(static=True)

    @property
    def trainable(self):
        marks = jax.tree.map(eqx.is_inexact_array, self)
        return eqx.tree_at(lambda m: m.x0, marks, jax.tree.map(lambda _: False, self.x0))

    def __call__(self, inputs):
        C, d = self.readout
        x0 = jax.tree.map(lax.stop_gradient, self.x0)

        def one(samples):
            if self.pool == "last":
                x = lax.scan(lambda x, u: (self.cell(x, u), None), x0, samples)[0]
                return C @ self.cell.output(x) + d

            def step(x, u):
                x = self.cell(x, u)
                return x, self.cell.output(x)

            y = lax.scan(step, x0, samples)[1]
            return C @ y.mean(axis=0) + d if self.pool == "mean" else y @ C.T + d

        return jax.vmap(one)(inputs)


class Gru(eqx.Module):
    gru: eqx.nn.GRUCell

    def __call__(self, x, u):
        return self.gru(u, x)

    def output(self, x):
        return x


class Lstm(eqx.Module):
    lstm: eqx.nn.LSTMCell

    def __call__(self, x, u):
        return self.lstm(u, x)

    def output(self, x):
        return x[0]


class CoRnn(eqx.Module):
    """y'' = tanh(W y + Z y' + V u + b) - γ y - ε y', implicit in the damping.

    Rusch and Mishra, "Coupled Oscillatory Recurrent Neural Network (coRNN)", ICLR 2021, equation 3;
    γ and ε trained, one of each neuron.
    """

    W: jax.Array
    Z: jax.Array
    V: jax.Array
    b: jax.Array
    gamma: jax.Array
    epsilon: jax.Array

    def __call__(self, x, u):
        y, z = x
        force = jnp.tanh(self.W @ y + self.Z @ z + self.V @ u + self.b) - jnp.exp(self.gamma) * y
        z = (z + force) / (1 + jnp.exp(self.epsilon))
        return y + z, z

    def output(self, x):
        return x[0]


class LinearOscillators(eqx.Module):
    """y'' = -a y + B u, one step of 1 s implicit, read through gelu(C y + D u + b).

    Rusch and Rus, "Oscillatory State-Space Models", ICLR 2025, the scheme LinOSS-IM, through a
    scan from sample to sample as all else here; a and the step of each neuron trained.
    """

    a: jax.Array
    h: jax.Array
    B: jax.Array
    C: jax.Array
    b: jax.Array

    def __call__(self, x, u):
        y, z = x
        a, h = jax.nn.relu(self.a), jax.nn.sigmoid(self.h)
        z = (z + h * (self.B @ u - a * y)) / (1 + h**2 * a)
        return y + h * z, z

    def output(self, x):
        return jax.nn.gelu(self.C @ x[0] + self.b)


def gru(key: jax.Array, shape: Shape, n: int, slow: bool) -> Cell:
    keys = jax.random.split(key, 3)
    cell = eqx.nn.GRUCell(shape.m, n, key=keys[0])
    if slow:  # Tallec and Ollivier, "Can recurrent neural networks warp time?", ICLR 2018
        gate = jnp.log(jax.random.uniform(keys[1], (n,), minval=1.0, maxval=float(shape.T)))
        cell = eqx.tree_at(lambda c: c.bias, cell, cell.bias.at[n : 2 * n].set(gate))
    return Cell(Gru(cell), affine(keys[2], n, shape.k), jnp.zeros(n), shape.pool)


def lstm(key: jax.Array, shape: Shape, n: int) -> Cell:
    keys = jax.random.split(key)
    cell = Lstm(eqx.nn.LSTMCell(shape.m, n, key=keys[0]))
    return Cell(cell, affine(keys[1], n, shape.k), (jnp.zeros(n), jnp.zeros(n)), shape.pool)


def cornn(key: jax.Array, shape: Shape, n: int) -> Cell:
    """Frequencies of 0.05 to 0.5 rad a sample, damped over some T."""
    keys = jax.random.split(key, 5)
    W, Z = 0.1 * jax.random.normal(keys[0], (2, n, n)) / math.sqrt(n)
    V = jax.random.normal(keys[1], (n, shape.m)) / math.sqrt(shape.m * shape.T)
    omega = jax.random.uniform(keys[2], (n,), minval=0.05, maxval=0.5)
    cell = CoRnn(W, Z, V, jnp.zeros(n), 2 * jnp.log(omega), jnp.full(n, math.log(2 / shape.T)))
    return Cell(cell, affine(keys[3], n, shape.k), (jnp.zeros(n), jnp.zeros(n)), shape.pool)


def linear_oscillators(key: jax.Array, shape: Shape, n: int) -> Cell:
    """a and steps uniform in (0, 1), as in the source."""
    keys = jax.random.split(key, 5)
    a, h = jax.random.uniform(keys[0], (2, n))
    B = jax.random.normal(keys[1], (n, shape.m)) / math.sqrt(shape.m)
    C = jax.random.normal(keys[2], (n, n)) / math.sqrt(n)
    cell = LinearOscillators(a, jax.scipy.special.logit(h), B, C, jnp.zeros(n))
    return Cell(cell, affine(keys[3], n, shape.k), (jnp.zeros(n), jnp.zeros(n)), shape.pool)


GRU = "GRU"
MODELS: dict[str, Callable[[jax.Array, Shape, int], Any]] = {
    f"{OURS} current, leapfrog": lambda *a: ours(*a, "current", "leapfrog"),
    f"{OURS} rate, leapfrog": lambda *a: ours(*a, "rate", "leapfrog"),
    f"{OURS} rate, Euler": lambda *a: ours(*a, "rate", "skew"),
    f"{OURS} damped, Euler": lambda *a: ours(*a, "rate", "damped"),
    "unconstrained CTRNN, Euler": lambda *a: ours(*a, "rate", "unconstrained"),
    GRU: lambda *a: gru(*a, False),
    "GRU, slow gates": lambda *a: gru(*a, True),
    "LSTM": lstm,
    "coRNN": cornn,
    "linear oscillators": linear_oscillators,
}


def trainable(model: Any) -> tuple[Any, Any]:
    return eqx.partition(model, model.trainable)


def parameters(name: str, shape: Shape, n: int) -> int:
    """Numbers that are trained; of `DenseSkew` n², of which n (n - 1) / 2 matter."""
    model = eqx.filter_eval_shape(MODELS[name], jax.random.key(0), shape, n)
    whole = sum(leaf.size for leaf in jax.tree.leaves(model) if hasattr(leaf, "size"))
    if isinstance(model, Cell):
        whole -= sum(leaf.size for leaf in jax.tree.leaves(model.x0))
    return whole


def width(name: str, shape: Shape, limit: int) -> int:
    """The largest width of at most `limit` parameters, even."""
    n = 2
    while parameters(name, shape, n + 2) <= limit:
        n += 2
    return n
