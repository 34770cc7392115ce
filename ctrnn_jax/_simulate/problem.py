"""What a call of `simulate` is about: what may be traced, and what is fixed when it is compiled."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from .._network.model import CTRNN
from .._util import checks
from .._util.types import Array, Float, Int, PyTree, Scalar
from .event import Event


class Tolerances(NamedTuple):
    """Of adaptive steps.

    Attributes:
        rtol: of an error in shares of the state.
        atol: of an error as it is.
    """

    rtol: Scalar
    atol: Scalar


class Problem(NamedTuple):
    """What may be traced, the initial states apart.

    A named tuple, as making a module takes a third of the time that a call takes before it runs.
    Numbers that are known stay NumPy's until then.

    Attributes:
        rnn: the network.
        dt: a scalar, seconds between two points of the grid of steps.
        solver: makes the steps.
        tolerances: of adaptive steps; None: each step is dt.
        inputs: (num_steps, m), held through each step, for all trajectories alike, or a function of
            time; None: none, or each trajectory has its own.
        noise: its intensity, a scalar, (n,) or (n, k); None: none.
        fold: the carry that a fold begins with, or a function of the initial state that makes it.
        max_norm: a scalar; a state beyond it stops its trajectory, as one that is not finite does.
        meter: of progress.
        start: steps made before, of a run that goes on; None: 0.
        save_at: (saves,) times at which all trajectories are saved; None: on the grid, or each at
            its own.
    """

    rnn: CTRNN
    dt: Any
    solver: diffrax.AbstractSolver
    tolerances: Tolerances | None
    inputs: Any
    noise: Array | None
    fold: Any
    max_norm: Any
    meter: diffrax.AbstractProgressMeter
    start: Array | None = None
    save_at: Float[Array, " saves"] | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is fixed when a call is compiled.

    Attributes:
        num_steps: steps on the grid.
        save_every: steps between two saves.
        keep_states: whether saved states are returned.
        observe: `observe(t, x)` of a saved state, or None.
        update: `update(carry, t, x)` of a fold, at each step, or None.
        adjoint: "checkpointed", "direct" or "reversible".
        mesh: devices that share the batch, or None.
        platform: what the program is for: "cpu", "gpu", ...
        segment: of adaptive steps that go on, see `End`; else None.
        event: what stops a trajectory, or is recorded, or None.
    """

    num_steps: int
    save_every: int
    keep_states: bool
    observe: Callable[[Scalar, Array], PyTree] | None
    update: Callable[[PyTree, Scalar, Array], PyTree] | None
    adjoint: str
    mesh: Mesh | None
    platform: str
    segment: tuple[int, int, int] | None = None
    event: Event | None = None

    @property
    def saved_steps(self) -> Int[Array, " saves"]:
        """The steps after which states are saved, 0 first."""
        count = self.num_steps // self.save_every + 1
        return self.save_every * jnp.arange(count, dtype=jnp.int32)

    @property
    def stops_at(self) -> Event | None:
        """What stops a trajectory."""
        return None if self.event is None or self.event.count is not None else self.event

    @property
    def checkpoints(self) -> bool:
        """Whether reverse mode computes steps anew instead of storing all that they computed."""
        return self.adjoint != "direct"


def initial_fold(problem: Problem, plan: Plan, x: Float[Array, "n batch"]) -> PyTree:
    """The initial carry, one row per trajectory, in the dtypes that `update` keeps; None: none."""
    init, update = problem.fold, plan.update
    if update is None:
        return None

    def first(x):
        return jax.tree.map(jnp.asarray, init(x) if callable(init) else init)

    def after_one(carry):
        return jax.eval_shape(update, carry, problem.dt, x[:, 0])

    carry = jax.eval_shape(first, x[:, 0])
    leaves, structure = jax.tree.flatten(carry)
    new_leaves, new_structure = jax.tree.flatten(after_one(carry))
    if structure != new_structure:
        got = f"{new_structure} for {structure}"
        checks.fail("fold", "an update that returns a carry of the structure of init", got)
    # A Python number has no dtype of its own: 0 may become a float.
    dtypes = [b.dtype if a.weak_type else a.dtype for a, b in zip(leaves, new_leaves, strict=True)]
    strict = [jax.ShapeDtypeStruct(a.shape, d) for a, d in zip(leaves, dtypes, strict=True)]
    again = jax.tree.leaves(after_one(jax.tree.unflatten(structure, strict)))
    for a, b in zip(strict, again, strict=True):
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            expected = f"an update that keeps {a.dtype} of shape {a.shape}"
            checks.fail("fold", expected, f"{b.dtype} of shape {b.shape}")
    rows = jax.tree.leaves(jax.vmap(first, in_axes=1, axis_size=x.shape[1])(x))
    return structure.unflatten([jnp.asarray(r, d) for r, d in zip(rows, dtypes, strict=True)])
