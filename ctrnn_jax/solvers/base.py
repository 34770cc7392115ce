"""What a solver is to `simulate`: diffrax's methods, and what it may declare beyond them.

A solver of diffrax, or one of a user's own that knows diffrax alone, declares nothing:
`_foreign.adapted` answers for it.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import diffrax
import jax.numpy as jnp

from .._network.inputs import CONTINUOUS, HELD
from .._network.invariants import energy
from .._network.model import CTRNN
from .._network.rows import Rows, field
from .._util.types import Array, Bool, Float, Int, PyTree, Scalar, State

Columns = Float[Array, "n batch"]

# The input during a step, at a fraction of it: (m,), or (m, batch) for one per column.
Input = Callable[[Any], Array]

# step(x, solver_state, k, u) -> x, solver_state, converged; k counts the steps already made. x are
# columns, or `Rows` if `Declarations.products_of_rows` says so.
Step = Callable[
    [Any, Any, Int[Array, ""], Input | None], tuple[Any, Any, Bool[Array, " batch"] | None]
]


class Declarations(abc.ABC):
    """What a solver may declare beyond diffrax's methods; what stands here is true of most.

    Attributes:
        keeps_energy: needs the energy of the network, and so is refused where there is none.
        works_alone: each device of a mesh may run its share by itself. Not so where a step needs
            operations that do not work inside `jax.shard_map`.
        checks_each_step: a step costs and compiles so much more than a look for what is not finite
            that each is looked at, rather than a whole segment.
        remembers_result: what is remembered belongs to the state that the last step ended with,
            and is made anew where that was changed.
        unrolls: a step is a few operations without a loop, so that a round of one may be several.
        can_undo: `retrace` undoes steps, for `adjoint="reversible"`.
        inputs: the kinds of inputs that it is right for, of "held" and "continuous".
    """

    keeps_energy: ClassVar[bool] = False
    works_alone: ClassVar[bool] = True
    checks_each_step: ClassVar[bool] = False
    remembers_result: ClassVar[bool] = True
    unrolls: ClassVar[bool] = False
    can_undo: ClassVar[bool] = False
    inputs: ClassVar[tuple[str, ...]] = (HELD, CONTINUOUS)

    @property
    def name(self) -> str:
        """As messages call it."""
        return type(self).__name__

    @property
    def arrays_per_step(self) -> int:
        """About how many arrays of a state's size a step works on, to choose what fits a cache."""
        return 7

    @property
    def is_adaptive(self) -> bool:
        """Whether a step estimates its error, so that step sizes can follow tolerances."""
        return isinstance(self, diffrax.AbstractAdaptiveSolver)

    def on(self, platform: str) -> Declarations:
        """The solver as it steps on such devices: itself, or another form of it."""
        return self

    def products_of_rows(self, rnn: CTRNN) -> int:
        """Products with A in a step, if what `begin` returns makes steps of `Rows`, too; else 0."""
        return 0

    def check(self, rnn: CTRNN, x: Array) -> None:
        """Refuse a network that cannot be integrated, where that is seen beforehand."""
        if self.keeps_energy and rnn.is_conservative:
            energy(rnn, x)  # refuses a bias for which there is no energy

    def converged(self, solver_state: Any) -> Bool[Array, "*batch"] | None:
        """Whether the equation of the last step was solved, per state; None: there is none."""
        return None

    @abc.abstractmethod
    def begin(
        self, rnn: CTRNN, dt: Scalar, x0: Columns, u: Input | None = None
    ) -> tuple[Any, Step]:
        """What the first step remembers, and the function that makes fixed steps of dt.

        `u` is the input during the first step.
        """

    @abc.abstractmethod
    def with_tolerances(self, rtol: Scalar, atol: Scalar) -> diffrax.AbstractSolver[Any]:
        """The solver as `diffrax.diffeqsolve` takes it for adaptive steps."""

    def retrace(self, rnn: CTRNN) -> AbstractRetrace:
        """The way back through steps; never asked for unless `can_undo`."""
        raise NotImplementedError

    def biases(self, rnn: CTRNN, u: Input) -> PyTree:
        """b + B u where a step looks at it; never asked for unless `can_undo`."""
        raise NotImplementedError

    def supplied(
        self, rnn: CTRNN, x: Columns, dt: Scalar, u: Input
    ) -> Float[Array, " batch"] | None:
        """The energy that comes in during a step from x, where the method itself tells."""
        return None


class AbstractNetworkSolver(Declarations, diffrax.AbstractSolver[Any]):
    """A diffrax solver for x' = f(x), with what `simulate` asks of one.

    To write one, define `order` and `step` (and `init`, where something is remembered from step to
    step) as diffrax has them, for states as columns, (n, batch), and for one state (n,) alike, and
    override what of `Declarations` is not true of it.
    """

    term_structure: ClassVar[Any] = diffrax.AbstractTerm
    interpolation_cls: ClassVar[Any] = diffrax.ThirdOrderHermitePolynomialInterpolation

    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> Any:
        """Nothing is remembered."""
        return None

    def func(self, terms: Any, t0: Any, y0: Any, args: Any) -> Any:
        """The vector field."""
        return terms.vf(t0, y0, args)

    def begin(
        self, rnn: CTRNN, dt: Scalar, x0: Columns, u: Input | None = None
    ) -> tuple[Any, Step]:
        """See `Declarations`."""

        def step(x, state, k, u=None):
            x, state, _ = one_step(self, rnn, dt, x, state, k, u)
            return x, state, self.converged(state)

        return initial_state(self, rnn, dt, x0, u), step

    def with_tolerances(self, rtol: Scalar, atol: Scalar) -> diffrax.AbstractSolver[Any]:
        """Itself."""
        return self


_CYCLE = 4


class StepTerm(diffrax.AbstractTerm[Any, Any]):
    """The network as a diffrax term whose time counts steps, modulo 4, from step `k` on.

    Real time k·dt has a spacing of eps·k·dt, so (k+1)·dt - k·dt is off by eps·k: 6 % after 10⁶
    steps in float32. Small integers are exact; a network whose equation knows the time is given the
    real one. Two-step methods ask for the control over two steps, across the end of a cycle too,
    and get 2 dt. An input, the `args` of diffrax, is a function of the time that counts steps.
    """

    vector_field: CTRNN
    dt: Scalar
    k: Int[Array, ""]

    def vf(self, t: Any, y: Any, args: Any) -> Any:
        fraction = t - (self.k % _CYCLE).astype(self.dt.dtype)
        if isinstance(y, Rows):
            return field(self.vector_field, y, None if args is None else args(t))
        u = None if args is None else lambda _: args(t)
        return self.vector_field(time_at(self.k, fraction, self.dt), y, u)

    def contr(self, t0: Any, t1: Any, **kwargs: Any) -> Any:
        return self.dt * (jnp.mod(t1 - t0 + 1, _CYCLE) - 1)

    def prod(self, vf: Any, control: Any) -> Any:
        return vf * control


def time_at(k: Int[Array, ""], fraction: Any, dt: Scalar) -> Scalar:
    """The time of a `fraction` of a step after step k."""
    return k.astype(dt.dtype) * dt + fraction * dt


def initial_state(
    solver: diffrax.AbstractSolver[Any], rnn: CTRNN, dt: Scalar, x: State, u: Input | None = None
) -> Any:
    """What a solver remembers before its first fixed step."""
    zero, one = jnp.zeros((), x.dtype), jnp.ones((), x.dtype)
    return solver.init(StepTerm(rnn, dt, jnp.zeros((), jnp.int32)), zero, one, x, u)


def one_step(
    solver: diffrax.AbstractSolver[Any],
    rnn: CTRNN,
    dt: Scalar,
    x: State | Rows,
    state: Any,
    k: Array,
    u: Input | None = None,
) -> tuple[State | Rows, Any, Bool[Array, ""]]:
    """The state after step k, what is remembered, and whether diffrax calls it a success."""
    t0 = (k % _CYCLE).astype(x.dtype)
    # An input may jump where a step begins: what was remembered of the last one is no slope there.
    jumps, args = u is not None, None if u is None else lambda t: u(t - t0)
    term = StepTerm(rnn, dt, k)
    x, _, _, state, result = solver.step(term, t0, t0 + 1, x, args, state, jumps)
    return x, state, diffrax.is_successful(result)


def dense_info(
    terms: Any, t0: Any, t1: Any, y0: Any, y1: Any, args: Any, control: Any
) -> dict[str, Any]:
    """What cubic Hermite interpolation between two states needs."""
    k0 = terms.vf_prod(t0, y0, args, control)
    k1 = terms.vf_prod(t1, y1, args, control)
    return {"y0": y0, "y1": y1, "k0": k0, "k1": k1}


class Retraced(NamedTuple):
    """A state that was reached backwards, and the cotangents of what the steps depend on."""

    x: State
    x_bar: State
    rnn_bar: Any  # of the floating-point arrays of the network, as eqx.partition makes them
    dt_bar: Array


class AbstractRetrace(abc.ABC):
    """Steps undone one by one, pulling a cotangent back through each: reverse mode without memory.

    What it hands on from step to step is its own business: a state, the state's cotangent, and
    cotangents that gather.
    """

    @abc.abstractmethod
    def start(self, x: State, x_bar: State) -> Any:
        """Ready to undo the steps that led to x, with the cotangent of x."""

    @abc.abstractmethod
    def undo(self, back: Any, dt: Array, biases: PyTree = None) -> tuple[Any, PyTree]:
        """One step undone, and the cotangent of its `Declarations.biases`.

        Without inputs these are None, and the cotangent of the bias gathers with the others.
        """

    @abc.abstractmethod
    def correct(self, back: Any, x: State) -> Any:
        """The state that has been reached, replaced by x."""

    @abc.abstractmethod
    def add_cotangent(self, back: Any, x_bar: State) -> Any:
        """More cotangent for the state that has been reached: that of a save."""

    @abc.abstractmethod
    def finish(self, back: Any, dt: Array) -> Retraced:
        """What has been reached and gathered."""
