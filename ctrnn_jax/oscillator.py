"""A network with an initial state and a read-out: a generator of signals that can be trained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp

from . import _checks
from ._types import Array, ArrayLike, Float
from .io import register
from .model import CTRNN, states_for
from .simulate import simulate
from .solvers import PoissonSplitting

PARTS = ("weights", "activation", "bias", "leak", "x0", "readout")


class Oscillator(eqx.Module):
    """A generator y(t) = C x(t), x' = rnn(t, x), x(0) = x0.

    Weights, bias, initial state and read-out are all trained unless they are frozen. A PyTree:
    an ensemble is one Oscillator whose arrays have a leading axis, as `jax.vmap` makes it, and
    `jax.vmap(lambda oscillator: oscillator.generate(dt, num_steps))` runs it.

    Args:
        rnn: the network, n neurons.
        x0: (n,) initial state.
        readout: C (channels, n).
        frozen: parts that training leaves alone: "weights", "activation", "bias", "leak", "x0",
            "readout".

    Raises:
        TypeError, ValueError: where an argument has the wrong kind, shape or dtype.

    Example:
        >>> rnn = ct.CTRNN(ct.DenseSkew.init(jax.random.key(0), 8))
        >>> oscillator = ct.Oscillator(rnn, 0.3 * jnp.ones(8), jnp.ones((1, 8)), ["readout"])
        >>> oscillator.generate(0.01, 1000).shape
        (1001, 1)
    """

    rnn: CTRNN
    x0: Float[Array, "*batch n"]
    readout: Float[Array, "*batch channels n"]
    frozen: tuple[str, ...] = eqx.field(static=True)

    def __init__(self, rnn: CTRNN, x0: ArrayLike, readout: ArrayLike, frozen: Iterable[str] = ()):
        self.x0 = states_for(rnn, x0)
        n = rnn.size
        if self.x0.ndim != 1:
            _checks.fail("x0", f"one initial state, shape ({n},)", self.x0.shape)
        self.rnn = rnn
        self.readout = _checks.float_array("readout", readout, f"(channels, {n})", (2,))
        if self.readout.shape[1] != n or self.readout.shape[0] < 1:
            _checks.fail("readout", f"shape (channels, {n})", self.readout.shape)
        _checks.same_dtype("readout", self.readout, rnn.dtype, "the network")
        if isinstance(frozen, str):
            _checks.fail("frozen", "a list of names", repr(frozen), TypeError)
        self.frozen = tuple(_checks.one_of("frozen", name, PARTS) for name in frozen)

    @property
    def trainable(self) -> Any:
        """For `equinox.partition`: True at the arrays that training may change."""

        def mark(part: Any, name: str) -> Any:
            free = name not in self.frozen
            return jax.tree.map(lambda leaf: free and eqx.is_inexact_array(leaf), part)

        marks = jax.tree.map(lambda _: False, self)
        where = {
            "weights": lambda o: o.rnn.weights,
            "activation": lambda o: o.rnn.activation,
            "bias": lambda o: o.rnn.bias,
            "leak": lambda o: o.rnn.leak,
            "x0": lambda o: o.x0,
            "readout": lambda o: o.readout,
        }
        for name, part in where.items():
            if jax.tree.leaves(part(self)):
                marks = eqx.tree_at(part, marks, mark(part(self), name))
        return marks

    def generate(
        self,
        dt: ArrayLike,
        num_steps: int,
        *,
        solver: diffrax.AbstractSolver | None = None,
        save_every: int = 1,
        adjoint: str = "checkpointed",
    ) -> Float[Array, "S channels"]:
        """The signal on the grid k·dt·save_every, from t = 0 on, for as long as one likes.

        Args:
            dt: time step in seconds.
            num_steps: number of steps, a multiple of `save_every`.
            solver: as `simulate` takes it; unless given `PoissonSplitting(4)`, whose energy does
                not drift, and `diffrax.Tsit5()` for networks that conserve nothing.
            save_every: steps between two samples.
            adjoint: as `simulate` takes it.

        Returns:
            (S, channels), S = num_steps // save_every + 1.

        Raises:
            TypeError, ValueError: as `simulate`.
        """
        if solver is None:
            solver = PoissonSplitting(4) if self.rnn.is_conservative else diffrax.Tsit5()
        run = simulate(
            self.rnn,
            self.x0,
            dt=dt,
            num_steps=num_steps,
            solver=solver,
            save_every=save_every,
            adjoint=adjoint,
        )
        assert run.xs is not None
        return jnp.matmul(run.xs, self.readout.T)


register(Oscillator)
