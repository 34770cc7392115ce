"""The arguments of `simulate`, each checked in a place of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from .._network.inputs import CONTINUOUS, HELD, input_at
from .._network.model import CTRNN
from .._util import checks
from .._util.types import Array, Scalar
from ..solvers._foreign import adapted
from ..solvers.base import Declarations
from .adaptive import SEGMENT_STEPS
from .event import Event
from .problem import Tolerances
from .resume import End
from .save_at import save_every_for
from .segments import square_root_segment

ADJOINTS = ("checkpointed", "direct", "reversible")
MAX_STEPS = 2**31 - 2
_NO_METER = diffrax.NoProgressMeter()


class Grid(NamedTuple):
    """The steps of a run, and when states are saved.

    Attributes:
        num_steps: on the grid.
        save_every: steps between two saves on it.
        times: (S,) or (..., S) times of saves; None: on the grid.
    """

    num_steps: int
    save_every: int
    times: Array | None = None

    @property
    def shared_times(self) -> Array | None:
        """Those of all trajectories alike."""
        return self.times if self.times is None or self.times.ndim == 1 else None

    @property
    def own_times(self) -> Array | None:
        """Those that each trajectory has of its own."""
        return None if self.times is None or self.times.ndim == 1 else self.times

    def with_saves_between(
        self, until: Event | None, tolerances: Tolerances | None, held: bool
    ) -> Grid:
        """The grid from whose saves times or events are reached by steps to the side."""
        count = None if until is None else until.count
        if self.times is not None:
            count = self.times.shape[-1]
        if count is None:
            return self
        most = self.num_steps
        if tolerances is not None:
            # What is solved anew is no more than a segment; held inputs jump at every step.
            most = 1 if held else SEGMENT_STEPS
        return self._replace(save_every=save_every_for(self.num_steps, count, most))


def grid_of(
    x0: Array, dt: Any, *, num_steps: Any, save_every: Any, save_at: Any, end: End | None
) -> Grid:
    """`num_steps`, `save_every` and `save_at`, of a run that goes on from `end`."""
    before = 0 if end is None or checks.is_traced(end.step) else int(end.step)
    save_every = checks.integer("save_every", save_every, 1)
    times = None
    if save_at is not None:
        if save_every != 1:
            checks.fail("save_every", "1 where save_at is given", save_every)
        times, num_steps = _times(save_at, x0, dt, num_steps, before)
    num_steps = checks.integer("num_steps", num_steps, 1)
    if num_steps % save_every:
        checks.fail("num_steps", f"a multiple of save_every = {save_every}", num_steps)
    if num_steps > MAX_STEPS - before:
        checks.fail("num_steps", f"at most {MAX_STEPS - before}", num_steps)
    return Grid(num_steps, save_every, times)


def _times(
    save_at: Any, x0: Array, dt: Any, num_steps: Any, before: int
) -> tuple[Array, int | None]:
    """Times at which states are saved, and the number of steps up to the last unless given."""
    batch = x0.shape[:-1]
    shape = f"(S,) or {(*batch, 'S')}".replace("'", "") if batch else "(S,)"
    times = checks.float_array("save_at", save_at, shape)
    if times.shape[:-1] not in ((), batch) or not times.size:
        checks.fail("save_at", f"shape {shape}", times.shape)
    checks.same_dtype("save_at", times, x0.dtype, "the states")
    # Of what was given: under jit what JAX makes of it would be traced.
    known = None if checks.is_traced(save_at) else np.asarray(save_at, times.dtype)
    if known is not None:
        checks.finite("save_at", known)
        if (np.diff(known) <= 0).any():
            checks.fail("save_at", "increasing times", "some that do not increase")
    if known is None or checks.is_traced(dt):
        if num_steps is None:
            checks.fail("num_steps", "a number of steps where save_at or dt is traced", None)
        return times, num_steps
    dt = float(dt)
    slack = 8 * np.finfo(known.dtype).eps
    last = float(known.max()) / dt
    if num_steps is None:
        num_steps = max(1, math.ceil(last * (1 - slack)) - before)
    num_steps = checks.integer("num_steps", num_steps, 1)
    end = before + num_steps
    if known.min() < before * dt * (1 - slack) or last > end * (1 + slack):
        got = f"times from {known.min():.6g} to {known.max():.6g}"
        checks.fail("save_at", f"times within {before * dt:.6g} and {end * dt:.6g} s", got)
    return times, num_steps


def check_solver(solver: Any, noisy: bool = False) -> None:
    """Refuse what is no solver of ordinary differential equations, or of stochastic ones."""
    expected = "a diffrax solver such as diffrax.Tsit5()"
    checks.instance("solver", solver, diffrax.AbstractSolver, expected)
    if noisy:
        if not isinstance(solver, diffrax.AbstractItoSolver | diffrax.AbstractStratonovichSolver):
            expected = "one of stochastic equations, such as diffrax.Euler(), where noise is given"
            checks.fail("solver", expected, type(solver).__name__)
        return
    terms = solver.term_structure
    if not (isinstance(terms, type) and issubclass(diffrax.ODETerm, terms)):
        got = f"{type(solver).__name__}, which needs several terms"
        checks.fail("solver", "a solver of ordinary differential equations", got)


def solver_of(rnn: CTRNN, x0: Array, solver: Any, adjoint: Any, *, noisy: bool) -> Declarations:
    """What the solver declares; refused where it is none for this network or adjoint."""
    check_solver(solver, noisy)
    declared = adapted(solver)
    declared.check(rnn, x0)
    checks.one_of("adjoint", adjoint, ADJOINTS)
    if adjoint == "reversible" and not declared.can_undo:
        expected = "one that can undo steps, such as PoissonSplitting, for adjoint='reversible'"
        checks.fail("solver", expected, declared.name)
    return declared


def tolerances(solver: Declarations, rtol: Any, atol: Any, dtype: Any) -> Tolerances | None:
    """`rtol` and `atol`; None where neither is given: steps of dt."""
    if rtol is None and atol is None:
        return None
    if not solver.is_adaptive:
        expected = "an adaptive solver where rtol or atol is given"
        checks.fail("solver", expected, solver.name)
    # One left out equals the other, but each is checked under its own name.
    both = [value for value in (rtol, atol) if value is not None]
    second: Any = None if atol is None else _tolerance("atol", atol, dtype)
    first = second if rtol is None else _tolerance("rtol", rtol, dtype)
    second = first if second is None else second
    if not any(checks.is_traced(value) or value > 0 for value in both):
        checks.fail("rtol", "a number > 0 where atol is 0", "0 for both")
    # A component that rests at 0 has an error of 0, which is within any tolerance: not 0/0.
    return Tolerances(first, jnp.maximum(second, jnp.asarray(jnp.finfo(dtype).tiny, dtype)))


def _tolerance(name: str, value: Any, dtype: Any) -> Scalar:
    tolerance = checks.real(name, value, dtype)
    if not checks.is_traced(value) and not value >= 0:
        checks.fail(name, "a finite number >= 0", value)
    return tolerance


def check_inputs(
    rnn: CTRNN, inputs: Any, x0: Array, num_steps: int, solver: Declarations
) -> tuple[Any, Array | None]:
    """Inputs that all trajectories share, and those that each has of its own; refused if wrong."""
    if inputs is None:
        return None, None
    m = rnn.num_inputs
    if not m and not rnn.has_own_equation:
        checks.fail("inputs", "none, as the network has no input_weights", "some")
    is_path = isinstance(inputs, diffrax.AbstractPath)
    smooth = is_path or callable(inputs)
    kind = CONTINUOUS if smooth else HELD
    if kind not in solver.inputs:
        expected = f"one that takes {kind} inputs"
        checks.fail("solver", expected, solver.name)
    if smooth:
        if not is_path and jax.tree.leaves(inputs) == [inputs]:
            checks.compiled_function("inputs", inputs, "a function u(t)")
        found = jax.eval_shape(partial(input_at, inputs), jax.ShapeDtypeStruct((), x0.dtype))
        value, expected = getattr(found, "shape", None), f"a function of shape ({m or 'm'},)"
        if value is None or len(value) != 1 or (m and value != (m,)):
            got = type(found).__name__ if value is None else f"one of shape {value}"
            checks.fail("inputs", expected, got)
        checks.same_dtype("inputs", found, rnn.dtype, "the network")
        return inputs, None
    batch = x0.shape[:-1]
    shape = f"({num_steps}, {m or 'm'})"
    if batch:
        shape += f" or {(*batch, num_steps, m or 'm')}"
    array = checks.float_array("inputs", inputs, shape)
    shared = array.shape[:-1] == (num_steps,)
    if not shared and array.shape[:-1] != (*batch, num_steps):
        checks.fail("inputs", f"shape {shape}", array.shape)
    if m and array.shape[-1] != m:
        checks.fail("inputs", f"shape {shape}", array.shape)
    checks.same_dtype("inputs", array, rnn.dtype, "the network")
    return (array, None) if shared else (None, array)


def fold_pair(fold: Any) -> tuple[Any, Callable | None]:
    """What a fold begins with, and its update."""
    if fold is None:
        return None, None
    if not isinstance(fold, tuple) or len(fold) != 2:
        checks.fail("fold", "a pair (init, update)", type(fold).__name__, TypeError)
    init, update = fold
    expected = "a function update(carry, t, x) as its second part"
    checks.compiled_function("fold", update, expected)
    if callable(init):
        checks.compiled_function("fold", init, "a PyTree or a function as its first part")
    # Python numbers as weakly typed arrays: another value is not another compilation.
    return init if callable(init) else jax.tree.map(jnp.asarray, init), update


def check_event(until: Any, x0: Array) -> None:
    """Refuse what is no event of these states."""
    checks.instance("until", until, Event, "an Event such as ct.Event(lambda t, x: x[0])")
    until.check(jax.ShapeDtypeStruct(x0.shape[-1:], x0.dtype))


def noise_of(rnn: CTRNN, noise: Any, key: Any) -> Array:
    """The intensity of the noise, with a key to draw it by."""
    if noise is None:
        checks.fail("noise", "an intensity where a key is given", None)
    if key is None:
        checks.fail("key", "a PRNG key such as jax.random.key(0) where noise is given", None)
    checks.prng_key("key", key)
    if isinstance(noise, int | float) and not isinstance(noise, bool):
        return checks.real("noise", noise, rnn.dtype)
    n = rnn.size
    shape = f"(), ({n},) or ({n}, k)"
    array = checks.float_array("noise", noise, shape, ndim=(0, 1, 2))
    if array.ndim and (array.shape[0] != n or 0 in array.shape):
        checks.fail("noise", f"shape {shape}", array.shape)
    checks.same_dtype("noise", array, rnn.dtype, "the network")
    return array


def check_without_noise(save_at: Any, until: Any, tolerances: Tolerances | None) -> None:
    """Refuse with noise what makes steps of other sizes than dt."""
    for name, value in (("save_at", save_at), ("until", until)):
        if value is not None:
            checks.fail(name, "none where noise is given", "both")
    if tolerances is not None:
        checks.fail("noise", "no tolerances: steps of dt where noise is given", "rtol or atol")


def progress_meter(progress: Any, num_steps: int) -> diffrax.AbstractProgressMeter:
    """What is moved as a run goes on."""
    if isinstance(progress, diffrax.AbstractProgressMeter):
        return progress
    if not isinstance(progress, bool):
        expected = "True, False or a diffrax progress meter"
        checks.fail("progress", expected, repr(progress), TypeError)
    if not progress:
        return _NO_METER
    # It is called once a segment; about a hundred updates are enough for any run.
    return diffrax.TqdmProgressMeter(refresh_steps=1 + square_root_segment(num_steps) // 100)
