"""A network with an initial state and a read-out: a generator of signals that can be trained."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._analysis.modes import pseudo_inverse, skew_weights
from .._files.models import register
from .._network.model import CTRNN, states_for
from .._network.products import product
from .._simulate.api import simulate
from .._util import checks
from .._util.types import Array, ArrayLike, Float
from ..solvers import PoissonSplitting, Projected
from .readout import OF_NETWORK, checked_frozen, checked_readout, read, trainable_but

PARTS = (*OF_NETWORK, "x0", "readout", "offset")


class Oscillator(eqx.Module):
    """A generator y(t) = C x(t) + d, x' = rnn(t, x, u), x(0) = x0, with or without an input u.

    Weights, bias, leak, input weights, initial state and read-out are all trained unless they are
    frozen. A PyTree: an ensemble is one Oscillator whose arrays have a leading axis, as `jax.vmap`
    makes it, and `jax.vmap(lambda oscillator: oscillator.generate(dt, num_steps))` runs it.

    Args:
        rnn: the network, n neurons.
        x0: (n,) initial state.
        readout: C (channels, n).
        frozen: parts that training leaves alone: "weights", "activation", "bias", "leak",
            "input_weights", "x0", "readout", "offset".
        offset: d (channels,), or None for 0.
        max_step: the longest time step in seconds that `generate` integrates with; a longer dt is
            divided. None leaves steps as they are.

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
    offset: Float[Array, "*batch channels"] | None
    frozen: tuple[str, ...] = eqx.field(static=True)
    max_step: float | None = eqx.field(static=True)

    def __init__(
        self,
        rnn: CTRNN,
        x0: ArrayLike,
        readout: ArrayLike,
        frozen: Iterable[str] = (),
        *,
        offset: ArrayLike | None = None,
        max_step: float | None = None,
    ):
        self.x0 = states_for(rnn, x0)
        n = rnn.size
        if self.x0.ndim != 1:
            checks.fail("x0", f"one initial state, shape ({n},)", self.x0.shape)
        self.rnn = rnn
        self.readout, self.offset = checked_readout(readout, offset, rnn, "channels")
        self.frozen = checked_frozen(frozen, PARTS)
        self.max_step = None
        if max_step is not None:
            self.max_step = checks.positive_float("max_step", max_step)

    @property
    def trainable(self) -> Any:
        """For `equinox.partition`: True at the arrays that training may change."""
        return trainable_but(self, self.frozen)

    def generate(
        self,
        dt: ArrayLike,
        num_steps: int | None = None,
        *,
        solver: diffrax.AbstractSolver[Any] | None = None,
        save_every: int = 1,
        save_at: ArrayLike | None = None,
        adjoint: str = "checkpointed",
        inputs: Any = None,
    ) -> Float[Array, "S channels"]:
        """The signal on the grid k·dt·save_every, from t = 0 on, or at any times `save_at`.

        Args:
            dt: time step in seconds; with `max_step` a number known beforehand.
            num_steps: number of steps, a multiple of `save_every`; may be left out with `save_at`.
            solver: as `simulate` takes it; unless given `Projected(diffrax.Dopri8())`, which keeps
                the energy to rounding, or `PoissonSplitting(4)` where the adjoint is "reversible";
                for networks that conserve nothing, and with inputs, `diffrax.Dopri8()`.
            save_every: steps between two samples.
            save_at: (S,) times in seconds of the samples instead, as `simulate` takes them.
            adjoint: as `simulate` takes it.
            inputs: of a network with `input_weights`: (num_steps, m), each held for dt, or a
                function u(t) -> (m,) or a diffrax path; none unless given.

        Returns:
            (S, channels), S = num_steps // save_every + 1, or that of `save_at`.

        Raises:
            TypeError, ValueError: as `simulate`, and for a traced dt where `max_step` is set.
        """
        dt, substeps = self._divided(dt)
        if solver is None and adjoint == "reversible":
            solver = PoissonSplitting(4)
        elif solver is None:
            solver = diffrax.Dopri8()
            conserves = self.rnn.is_conservative and inputs is None
            solver = Projected(solver) if conserves else solver
        if num_steps is not None or save_at is None:
            num_steps = checks.integer("num_steps", num_steps, 1)
        save_every = checks.integer("save_every", save_every, 1)
        if isinstance(inputs, np.ndarray | jax.Array) and inputs.ndim == 2:
            num_steps = len(inputs) if num_steps is None else num_steps
            if len(inputs) != num_steps:
                expected = f"shape ({num_steps}, {self.rnn.num_inputs}), one for each step"
                checks.fail("inputs", expected, inputs.shape)
            inputs = jnp.repeat(jnp.asarray(inputs), substeps, axis=0)
        run = simulate(
            self.rnn,
            self.x0,
            dt=dt,
            num_steps=None if num_steps is None else num_steps * substeps,
            solver=solver,
            save_every=save_every * substeps if save_at is None else save_every,
            save_at=save_at,
            adjoint=adjoint,
            inputs=inputs,
        )
        assert run.xs is not None
        return self.read(run.xs)

    def read(self, xs: ArrayLike) -> Float[Array, "*batch channels"]:
        """The signal y = C x + d at states xs (..., n)."""
        return read(xs, self.readout, self.offset)

    def _divided(self, dt: Any) -> tuple[Array, int]:
        """A time step of at most `max_step`, and how many of them make dt."""
        step = checks.positive("dt", dt, self.x0.dtype)
        if self.max_step is None:
            return step, 1
        if checks.is_traced(dt):
            checks.fail("dt", "a number known beforehand, as max_step is set", "a traced one")
        # Not of `step`, which is traced under jit even where its value is known.
        substeps = max(1, math.ceil(float(dt) / self.max_step * (1 - 1e-6)))
        return step / substeps, substeps


register(Oscillator)


def for_form(rnn: CTRNN, z: Array, readout: Array, speed: Array, form: str) -> Oscillator:
    """The oscillator, `speed` times as fast, of which z' = A σ(z) are the pre-activations.

    In the rate form x' = σ(A x), with z = A x, the same motion is read out by C A.
    """
    A = rnn.weights.as_matrix() * speed
    if form == "rate":
        z, readout = product(pseudo_inverse(A), z), product(readout, A)
    return Oscillator(CTRNN(skew_weights(A), rnn.activation, form), z, readout)
