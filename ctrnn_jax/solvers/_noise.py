"""Steps with additive white noise: dx = f(x) dt + s dW."""

from __future__ import annotations

from typing import Any

import diffrax
import jax
import jax.numpy as jnp

from .._network.model import CTRNN, per_neuron
from .._network.products import product
from .._util.types import Array, Float, Int, Scalar
from ._foreign import column_of, for_forward_mode
from .base import Columns, Declarations, Input, Step, time_at


def keys_of_rows(key: Any, count: int) -> Any:
    """A key for each trajectory, by its number."""
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(count))


class Noisy(Declarations):
    """A diffrax solver of stochastic equations, with noise of intensity s.

    What the sources do in a step follows from the key of the trajectory and the number of the
    step: W is the same whatever the solver.
    """

    def __init__(self, solver: Any, intensity: Array, keys: Any):
        self.solver = for_forward_mode(solver)
        self.intensity, self.keys = intensity, keys

    @property
    def name(self):
        return type(self.solver).__name__

    def with_tolerances(self, rtol, atol):
        raise NotImplementedError

    def begin(
        self, rnn: CTRNN, dt: Scalar, x0: Columns, u: Input | None = None
    ) -> tuple[Any, Step]:
        """See `Declarations`."""
        if type(self.solver) is diffrax.Euler:
            return None, self._euler_maruyama(rnn, dt)
        columns = jnp.arange(x0.shape[1])
        zero = jnp.zeros((), jnp.int32)

        def terms_of(k, u, key):
            drift = _Drift(rnn, dt, k)
            return diffrax.MultiTerm(drift, _Diffusion(self.intensity, dt, k, key, rnn.size)), u

        def initial(x, key, column):
            terms, args = terms_of(zero, _in_seconds(column_of(u, column), dt), key)
            return self.solver.init(terms, jnp.zeros_like(dt), dt, x, args)

        def step(x, state, k, u=None):
            def one(x, state, key, column):
                terms, args = terms_of(k, _in_seconds(column_of(u, column), dt), key)
                start = jnp.zeros_like(dt)
                x, _, _, state, _ = self.solver.step(terms, start, dt, x, args, state, True)
                return x, state

            each = jax.vmap(one, in_axes=(1, 0, 0, 0), out_axes=(1, 0))
            return (*each(x, state, self.keys, columns), None)

        return jax.vmap(initial, in_axes=(1, 0, 0))(x0, self.keys, columns), step

    def _euler_maruyama(self, rnn: CTRNN, dt: Scalar) -> Step:
        sources = _sources(self.intensity, rnn.size)

        def step(x, state, k, u=None):
            args = None if u is None else lambda _: u(0.0)
            drawn = jax.vmap(lambda key: _normal(key, k, 0, sources, x.dtype), out_axes=1)
            move = _times(self.intensity, drawn(self.keys))
            return x + dt * rnn(time_at(k, 0, dt), x, args) + jnp.sqrt(dt) * move, None, None

        return step


def _in_seconds(u: Input | None, dt: Scalar) -> Any:
    return None if u is None else lambda t: u(t / dt)


def _sources(intensity: Array, n: int) -> int:
    return intensity.shape[1] if intensity.ndim == 2 else n


def _times(intensity: Array, w: Float[Array, " k *batch"]) -> Float[Array, " n *batch"]:
    if intensity.ndim == 2:
        return product(intensity, w)
    return per_neuron(intensity, w) * w


def _normal(key: Any, k: Int[Array, ""], which: int, sources: int, dtype: Any) -> Array:
    """Standard normal numbers of a step; `which` of those that a solver asks for."""
    key = jax.random.fold_in(key, k)
    key = jax.random.fold_in(key, which) if which else key
    return jax.random.normal(key, (sources,), dtype)


class _Drift(diffrax.AbstractTerm):
    """The network as a term whose time begins with step k."""

    vector_field: CTRNN
    dt: Scalar
    k: Int[Array, ""]

    def vf(self, t, y, args):
        u = None if args is None else lambda _: args(t)
        return self.vector_field(time_at(self.k, t / self.dt, self.dt), y, u)

    def contr(self, t0, t1, **kwargs):
        return t1 - t0

    def prod(self, vf, control):
        return vf * control


class _Diffusion(diffrax.AbstractTerm):
    """The sources during step k: what W moves, and its Lévy areas where they are asked for."""

    intensity: Array
    dt: Scalar
    k: Int[Array, ""]
    key: Any
    n: int

    def vf(self, t, y, args):
        return self.intensity

    def contr(self, t0, t1, use_levy=False, **kwargs):
        sources, root = _sources(self.intensity, self.n), jnp.sqrt(self.dt)
        w, h, k = (
            scale * root * _normal(self.key, self.k, which, sources, self.intensity.dtype)
            for which, scale in enumerate((1.0, 12**-0.5, 720**-0.5))
        )
        return diffrax.SpaceTimeTimeLevyArea(dt=self.dt, W=w, H=h, K=k) if use_levy else w

    def prod(self, vf, control):
        return _times(vf, control)
