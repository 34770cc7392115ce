"""A driven network with a read-out: from sequences to sequences, or to one answer for each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp

from .._files.models import register
from .._network.activations import AbstractActivation, Tanh
from .._network.model import CTRNN, states_for
from .._network.weights import DenseSkew
from .._simulate.api import simulate
from .._simulate.arguments import ADJOINTS, check_solver
from .._simulate.trajectory import Trajectory
from .._util import checks
from .._util.types import Array, ArrayLike, Float, PRNGKeyArray
from .readout import OF_NETWORK, checked_frozen, checked_readout, read, trainable_but

PARTS = (*OF_NETWORK, "encoder", "x0", "readout", "offset")
POOLS = ("last", "mean")


class SequenceModel(eqx.Module):
    """y_k = C x(k dt) + d, where x' = rnn(t, x, u) is driven by the samples u_1, u_2, ...

    Sample k is held for dt seconds, from (k - 1) dt on, and y_k is read at the end of it. A batch
    of sequences goes through one call of `simulate`. A PyTree, which `fit` trains, all of it unless
    it is frozen; `fit_readout` fits the read-out alone, in closed form.

    Args:
        rnn: the network, n neurons, with `input_weights` for m inputs.
        readout: C (k, n), or a function of one state (n,) -> (k,), such as an `equinox.nn.MLP`.
        dt: seconds from sample to sample, known beforehand. Not a matter of units alone: modes much
            faster than dt or much slower than a sequence hold no memory of it.
        encoder: a function of one sample (m_in,) -> (m,), such as an `equinox.nn.Linear`; None: the
            samples are the inputs.
        x0: (n,) initial state, trained with the rest; None: 0, and it stays so.
        pool: None: an answer for each sample; "last": that of the last one; "mean": their mean.
        solver: as `simulate` takes it, with steps of dt / steps_per_sample. `diffrax.Euler()` is
            what antisymmetric RNNs take, and is fast; without a leak its amplitudes grow.
            `PoissonSplitting()` does not, and is as fast with `BipartiteSkew` weights.
        steps_per_sample: time steps while a sample is held.
        adjoint: how gradients are made, as `simulate` takes it.
        offset: d (k,), where the read-out is an array; None: 0.
        frozen: parts that training leaves alone: "weights", "activation", "bias", "leak",
            "input_weights", "encoder", "x0", "readout", "offset".

    Raises:
        TypeError, ValueError: where an argument has the wrong kind, shape or dtype.

    Source:
        Rubanova, Chen, Duvenaud, "Latent ODEs for Irregularly-Sampled Time Series", NeurIPS 2019,
        and Chang et al. 2019, see `Damped`, for networks of ordinary differential equations as
        sequence models.

    Example:
        >>> key = jax.random.key(0)
        >>> model = ct.SequenceModel.init(key, 32, num_inputs=1, num_outputs=10, pool="last")
        >>> model(jnp.ones((5, 64, 1))).shape  # 5 sequences of 64 samples
        (5, 10)
    """

    rnn: CTRNN
    readout: Any
    offset: Float[Array, "*members k"] | None
    encoder: Any
    x0: Float[Array, "*members n"] | None
    dt: float = eqx.field(static=True)
    pool: str | None = eqx.field(static=True)
    solver: diffrax.AbstractSolver[Any] = eqx.field(static=True)
    steps_per_sample: int = eqx.field(static=True)
    adjoint: str = eqx.field(static=True)
    frozen: tuple[str, ...] = eqx.field(static=True)

    def __init__(
        self,
        rnn: CTRNN,
        readout: ArrayLike | Callable[[Array], Array],
        *,
        dt: float,
        encoder: Callable[[Array], Array] | None = None,
        x0: ArrayLike | None = None,
        pool: str | None = None,
        solver: diffrax.AbstractSolver[Any] = diffrax.Tsit5(),  # noqa: B008 - frozen and stateless
        steps_per_sample: int = 1,
        adjoint: str = "checkpointed",
        offset: ArrayLike | None = None,
        frozen: Iterable[str] = (),
    ):
        self.rnn = checks.instance("rnn", rnn, CTRNN, "a CTRNN")
        if not rnn.num_inputs and not rnn.has_own_equation:
            checks.fail("rnn", "a network with input_weights", "one without")
        self.readout, self.offset = _readout(readout, offset, rnn)
        self.dt = checks.positive_float("dt", dt)
        self.encoder = None if encoder is None else checks.function("encoder", encoder)
        self.x0 = None
        if x0 is not None:
            self.x0 = states_for(rnn, x0)
            if self.x0.ndim != 1:
                checks.fail("x0", f"one initial state, shape ({rnn.size},)", self.x0.shape)
        self.pool = None if pool is None else checks.one_of("pool", pool, POOLS)
        check_solver(solver)
        self.solver = solver
        self.steps_per_sample = checks.integer("steps_per_sample", steps_per_sample, 1)
        self.adjoint = checks.one_of("adjoint", adjoint, ADJOINTS)
        self.frozen = checked_frozen(frozen, PARTS)

    @classmethod
    def init(
        cls,
        key: PRNGKeyArray,
        n: int,
        *,
        num_inputs: int,
        num_outputs: int,
        dt: float = 1.0,
        form: str = "rate",
        activation: AbstractActivation = Tanh(),  # noqa: B008 - frozen and stateless
        period: ArrayLike = 2 * math.pi,
        dtype: Any = None,
        **options: Any,
    ) -> SequenceModel:
        """A skew-symmetric network with a bias, a linear read-out and an offset, at random.

        Its modes are spread from the fastest one, of this period, to ones that hardly move.

        Args:
            key: PRNG key.
            n: neurons.
            num_inputs, num_outputs: m and k.
            dt: seconds from sample to sample.
            form, activation: of the network.
            period: of the fastest mode, in samples.
            dtype: of all arrays.
            options: what else the constructor takes.
        """
        checks.prng_key("key", key)
        n, dtype = checks.integer("n", n, 2), checks.float_dtype(dtype)
        m = checks.integer("num_inputs", num_inputs, 1)
        k = checks.integer("num_outputs", num_outputs, 1)
        dt = checks.positive_float("dt", dt)
        samples = checks.positive("period", period, dtype)
        weights, into, out = jax.random.split(key, 3)
        scale = math.pi / (samples * dt)  # the largest omega is near twice that
        rnn = CTRNN(
            DenseSkew.init(weights, n, scale=scale, dtype=dtype),
            activation,
            form,
            bias=jnp.zeros(n, dtype),
            input_weights=jax.random.normal(into, (n, m), dtype) / math.sqrt(m),
        )
        readout = jax.random.normal(out, (k, n), dtype) / math.sqrt(n)
        return cls(rnn, readout, offset=jnp.zeros(k, dtype), dt=dt, **options)

    @property
    def trainable(self) -> Any:
        """For `equinox.partition`: True at the arrays that training may change."""
        return trainable_but(self, self.frozen)

    def states(self, inputs: ArrayLike) -> Float[Array, "*batch T n"]:
        """The state at the end of each sample; of the last one alone where `pool` is "last".

        Args:
            inputs: (..., T, m_in) samples.

        Raises:
            TypeError, ValueError: where they have the wrong kind, shape or dtype.
        """
        xs = self.run(inputs).xs
        assert xs is not None
        return xs[..., 1:, :]

    def run(self, inputs: ArrayLike) -> Trajectory:
        """What `simulate` returns: with the initial state, and which sequences were stopped."""
        samples = checks.float_array("inputs", inputs, "(..., T, m)")
        if samples.ndim < 2 or 0 in samples.shape:
            checks.fail("inputs", "shape (..., T, m), none of them 0", samples.shape)
        checks.same_dtype("inputs", samples, self.rnn.dtype, "the network")
        if self.encoder is not None:
            samples = over_axes(self.encoder, samples)
        m = self.rnn.num_inputs or samples.shape[-1]
        if samples.shape[-1] != m:
            name = "inputs" if self.encoder is None else "encoder"
            checks.fail(name, f"{m} inputs of the network", f"{samples.shape[-1]}")
        *batch, count, _ = samples.shape
        n, steps = self.rnn.size, self.steps_per_sample
        x0 = jnp.zeros(n, self.rnn.dtype) if self.x0 is None else self.x0
        return simulate(
            self.rnn,
            jnp.broadcast_to(x0.reshape((1,) * len(batch) + (n,)), (*batch, n)),
            dt=self.dt / steps,
            num_steps=count * steps,
            solver=self.solver,
            save_every=count * steps if self.pool == "last" else steps,
            inputs=samples if steps == 1 else jnp.repeat(samples, steps, axis=-2),
            adjoint=self.adjoint,
        )

    def read(self, xs: ArrayLike) -> Float[Array, "*batch k"]:
        """The answers at states xs (..., n)."""
        if not isinstance(self.readout, jax.Array):
            return over_axes(self.readout, jnp.asarray(xs))
        return read(xs, self.readout, self.offset)

    def __call__(self, inputs: ArrayLike) -> Float[Array, "*answers k"]:
        """The answers to sequences.

        Args:
            inputs: (..., T, m_in), one or a batch of sequences.

        Returns:
            (..., T, k), or (..., k) where they are pooled.

        Raises:
            TypeError, ValueError: where they have the wrong kind, shape or dtype.
        """
        xs = self.states(inputs)
        if self.pool == "last":
            return self.read(xs[..., -1, :])
        if self.pool is None:
            return self.read(xs)
        if isinstance(self.readout, jax.Array):  # of the mean, which is the same, and less
            return self.read(jnp.mean(xs, axis=-2))
        return jnp.mean(self.read(xs), axis=-2)


register(SequenceModel)


def over_axes(function: Callable[[Array], Array], rows: Array) -> Array:
    """A function of one row, of each of rows (..., m)."""
    made = jax.vmap(function)(rows.reshape(-1, rows.shape[-1]))
    return made.reshape(*rows.shape[:-1], *made.shape[1:])


def _readout(readout: Any, offset: Any, rnn: CTRNN) -> tuple[Any, Array | None]:
    """C and d, or a function and None."""
    if callable(readout):
        if offset is not None:
            checks.fail("offset", "none, as the read-out is a function", "one")
        return checks.function("readout", readout), None
    return checked_readout(readout, offset, rnn, "k", ", or a function")
