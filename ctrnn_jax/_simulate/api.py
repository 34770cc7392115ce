"""`simulate`: batches of initial states through any solver."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from .._network.inputs import CONTINUOUS, HELD, input_at
from .._network.model import CTRNN, states_for
from .._util import checks
from .._util.types import Array, ArrayLike, PyTree, Scalar
from ..solvers._foreign import adapted
from ..solvers.base import Declarations
from .adaptive import SEGMENT_STEPS
from .devices import platform_of
from .drive import Batch
from .event import Event
from .problem import Plan, Problem, Tolerances
from .resume import Begun, End
from .run import fingerprint_of, run
from .save_at import save_every_for
from .segments import square_root_segment
from .trajectory import Trajectory

ADJOINTS = ("checkpointed", "direct", "reversible")
MAX_STEPS = 2**31 - 2
_NO_METER = diffrax.NoProgressMeter()


def simulate(
    rnn: CTRNN,
    x0: ArrayLike | End,
    *,
    dt: ArrayLike,
    num_steps: int | None = None,
    solver: diffrax.AbstractSolver[Any] = diffrax.Tsit5(),  # noqa: B008 - frozen and stateless
    save_every: int = 1,
    save_at: ArrayLike | None = None,
    rtol: ArrayLike | None = None,
    atol: ArrayLike | None = None,
    observe: Callable[[Scalar, Array], PyTree] | None = None,
    keep_states: bool = True,
    fold: tuple[PyTree, Callable[[PyTree, Scalar, Array], PyTree]] | None = None,
    max_norm: ArrayLike | None = None,
    until: Event | None = None,
    inputs: Any = None,
    noise: ArrayLike | None = None,
    key: Any = None,
    adjoint: str = "checkpointed",
    progress: bool | diffrax.AbstractProgressMeter[Any] = False,
    mesh: Mesh | None = None,
) -> Trajectory:
    """Integrate x' = rnn(t, x, u), or dx = rnn(t, x, u) dt + s dW, from a batch of initial states.

    Works under jit, vmap and grad; `dt`, `x0`, the model, the tolerances and `max_norm` may be
    traced. An ensemble of networks is `jax.vmap` over the model. Calls with the same shapes and
    settings compile once (give the same function objects for `observe` and `fold`).

    Args:
        rnn: the network, n neurons.
        x0: (..., n) initial states, of the network's dtype; or the `end` of a run, which goes on
            from there: time and steps count on, nothing is forgotten, and another network, dt,
            solver, tolerance or noise is refused. Two runs then make the steps of one, to the last
            bit wherever XLA rounds alike in the programs of both: so it was found for the explicit
            and splitting solvers, to a rounding for implicit ones. Held inputs are those of the
            steps to come, `init` of `fold` is not asked for again, and the first save is the last
            one of before. With adaptive steps and the same `save_every` the later run is that of
            one, too; saves of the last 512 steps of the earlier one agree to the tolerances.
        dt: time step in seconds, > 0.
        num_steps: number of steps, a multiple of `save_every`. With `save_at` it may be left out:
            up to the last of these times.
        solver: any diffrax solver of ordinary differential equations, or one of this package.
        save_every: the initial state and every `save_every`-th step are saved; what lies
            between takes no memory.
        save_at: instead, increasing times in seconds at which states are saved: (S,) for all
            trajectories, or (..., S) with those of each. A state between two steps is that of a
            step which fits, from the one before, to the order of the solver (with tolerances, to
            these); the run goes on along its grid of `dt`. Results can be differentiated by these
            times. Steps between saves that are far apart are made twice, a quarter of the run.
            Not together with `noise`. States at times that turn out beyond the run are nan.
        rtol, atol: relative and absolute tolerance; one of them may be 0. Given, the solver
            chooses its own step sizes, for each trajectory by itself, and `dt` only spaces the
            grid of steps on which saves, `fold` and `max_norm` work. One left out equals the
            other. A trajectory is stopped, see `Trajectory.unconverged_at`, where it would need
            more than 1.6·10⁷ steps in 512 on the grid, or steps too small for the spacing of
            numbers (in float32 below some 10⁻⁷ of these 512): a smaller `dt` allows smaller ones.
        observe: `observe(t, x) -> PyTree` for one state x (n,), evaluated at every save.
        keep_states: False returns no states, only what `observe` and `fold` make of them.
        fold: `(init, update)`, `update(carry, t, x) -> carry` for one state: sees every step from
            the first to the last, stores nothing, and its final carry is returned for each
            trajectory. `init` is a PyTree, or a function of the initial state (n,). A stopped
            trajectory's carry stays as it was.
        max_norm: bound on the Euclidean norm of a state. A trajectory that passes it is stopped,
            alone, and keeps that state; it is checked at every step. One that stops being
            finite is stopped in any case and keeps its last finite state. Gradients through a
            run in which a trajectory overflows are finite only with `max_norm`.
        until: an `Event`, which stops each trajectory alone: later saves keep the state when it
            happened, `Trajectory.event_times` tells when, both to rounding along the solver's own
            steps and differentiable. `fold` does not see that state. Not together with `noise`;
            states are kept while it runs.
        inputs: u, for a network with `input_weights` B (n, m): an array (num_steps, m) for all
            trajectories or (..., num_steps, m) with one for each, every value held through its
            step, where an adaptive solver starts anew; or a function u(t) -> (m,), or a diffrax
            path. Solvers look at a function at their stages; those that conserve something, at the
            middle of a step or substep, or, `DiscreteGradient` in the rate form, at its ends. Time
            is step and fraction of a step times `dt`, rounded once: in float32 it tells the steps
            apart up to some 10⁷ of them, which held inputs do not need.
        noise: s in 1/√s times the unit of a state, the intensity of additive white noise: a scalar
            or (n,), independent for each neuron, or (n, k) for k sources. For fixed steps and
            solvers of stochastic equations, such as `diffrax.Euler()` (Euler-Maruyama, strong order
            1 here) or `diffrax.ShARK()` (1.5).
        key: PRNG key of the noise. What step and trajectory get depends on the key, the position of
            the trajectory in `x0` and the number of the step alone: not on how the batch is
            divided, on saves or on devices, nor on the solver.
        adjoint: how gradients are made in reverse mode. "checkpointed" recomputes segments of up
            to √num_steps steps, memory ~ √num_steps; "direct" stores every step; "reversible"
            undoes the steps and stores at most some hundred states up to 10⁷ steps: for solvers
            that can undo a step (`PoissonSplitting`, `DiscreteGradient`, `ImplicitMidpoint`), first
            derivatives only. In chaotic networks it takes twice the time, to find the way back.
            With `fold`, `max_norm` or `until`, which cannot be undone, it works as "checkpointed".
        progress: True for a progress bar on stderr, or a diffrax progress meter.
        mesh: devices that share the batch, see `batch_mesh`; all axes of the mesh do. Each runs
            its part alone, with the results of a single device to rounding; the arrays returned
            stay distributed. Gradients by what is not batched are summed over the devices.

    Returns:
        `Trajectory` with S = num_steps // save_every + 1 saves, or those of `save_at`: ts (S,),
        xs (..., S, n), observed (..., S, ...), folded (..., ...), stopped_at (...,),
        unconverged_at (...,).

    Raises:
        TypeError, ValueError: where an argument has a wrong kind, shape, dtype or value.

    Example:
        >>> rnn = ct.CTRNN(ct.DenseSkew.init(jax.random.key(0), 20))
        >>> x0 = jax.random.normal(jax.random.key(1), (4096, 20))
        >>> trajectory = ct.simulate(rnn, x0, dt=0.05, num_steps=1000, save_every=10)
        >>> trajectory.xs.shape
        (4096, 101, 20)
    """
    end = x0 if isinstance(x0, End) else None
    x0 = states_for(rnn, x0 if end is None else end.x)
    if x0.size == 0:
        checks.fail("x0", "at least one initial state", f"shape {x0.shape}")
    dt = checks.number("dt", dt, x0.dtype, positive=True)
    save_every = checks.integer("save_every", save_every, 1)
    before = 0 if end is None or checks.is_traced(end.step) else int(end.step)
    times = each_times = None
    if save_at is not None:
        if save_every != 1:
            checks.fail("save_every", "1 where save_at is given", save_every)
        if noise is not None:
            checks.fail("save_at", "none where noise is given", "both")
        times, num_steps = _times(save_at, x0, dt, num_steps, before)
    num_steps = checks.integer("num_steps", num_steps, 1)
    if num_steps % save_every:
        checks.fail("num_steps", f"a multiple of save_every = {save_every}", num_steps)
    if num_steps > MAX_STEPS - before:
        checks.fail("num_steps", f"at most {MAX_STEPS - before}", num_steps)
    check_solver(solver, noisy=noise is not None)
    declared = adapted(solver)
    declared.check(rnn, x0)
    checks.one_of("adjoint", adjoint, ADJOINTS)
    if adjoint == "reversible" and not declared.can_undo:
        expected = "one that can undo steps, such as PoissonSplitting, for adjoint='reversible'"
        checks.fail("solver", expected, declared.name)
    tolerances = _tolerances(declared, rtol, atol, x0.dtype)
    if noise is not None and tolerances is not None:
        checks.fail("noise", "no tolerances: steps of dt where noise is given", "rtol or atol")
    if observe is not None:
        checks.compiled_function("observe", observe)
    shared, each = check_inputs(rnn, inputs, x0, num_steps, declared)
    if noise is not None or key is not None:
        noise = _noise(rnn, noise, key)
    initial, update = (None, None) if fold is None else _fold_pair(fold)
    checks.flag("keep_states", keep_states)
    if max_norm is not None:
        max_norm = checks.number("max_norm", max_norm, x0.dtype, positive=True)
    if until is not None:
        _check_event(until, x0, noise)
    if mesh is not None:
        checks.instance("mesh", mesh, Mesh, "a jax.sharding.Mesh such as batch_mesh()")
    wanted = None if until is None else until.count
    if times is not None:
        wanted = times.shape[-1]
    if wanted is not None:
        most = num_steps
        if tolerances is not None:
            # What is solved anew is no more than a segment; held inputs jump at every step.
            held = each is not None or isinstance(shared, jax.Array)
            most = 1 if held else SEGMENT_STEPS
        save_every = save_every_for(num_steps, wanted, most)
        if times is not None and times.ndim > 1:
            times, each_times = None, times
    problem = Problem(
        rnn=rnn,
        dt=dt,
        solver=solver,
        tolerances=tolerances,
        inputs=shared,
        noise=noise,
        fold=initial,
        max_norm=max_norm,
        meter=_progress_meter(progress, num_steps),
        start=None if end is None else end.step,
        save_at=times,
    )
    plan = Plan(
        num_steps=num_steps,
        save_every=save_every,
        keep_states=keep_states,
        observe=observe,
        update=update,
        adjoint=adjoint,
        mesh=mesh,
        platform=platform_of(x0, mesh),
        segment=None if end is None else end.segment,
        event=until,
    )
    begun = None
    if end is not None:
        end.check(_compiled(fingerprint_of, problem, key))
        begun = Begun(end.solver, end.folded, end.stopped_at, end.unconverged_at)
    return _compiled(run, problem, Batch(x0, each, key, each_times, begun), plan)


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


def _check_event(until: Any, x0: Array, noise: Any) -> None:
    checks.instance("until", until, Event, "an Event such as ct.Event(lambda t, x: x[0])")
    if noise is not None:
        checks.fail("until", "none where noise is given", "both")
    until.check(jax.ShapeDtypeStruct(x0.shape[-1:], x0.dtype))


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


def _noise(rnn: CTRNN, noise: Any, key: Any) -> Array:
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


def _tolerances(solver: Declarations, rtol: Any, atol: Any, dtype: Any) -> Tolerances | None:
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


def _fold_pair(fold: Any) -> tuple[Any, Callable]:
    if not isinstance(fold, tuple) or len(fold) != 2:
        checks.fail("fold", "a pair (init, update)", type(fold).__name__, TypeError)
    init, update = fold
    expected = "a function update(carry, t, x) as its second part"
    checks.compiled_function("fold", update, expected)
    if callable(init):
        checks.compiled_function("fold", init, "a PyTree or a function as its first part")
    # Python numbers as weakly typed arrays: another value is not another compilation.
    return init if callable(init) else jax.tree.map(jnp.asarray, init), update


def _progress_meter(progress: Any, num_steps: int) -> diffrax.AbstractProgressMeter:
    if isinstance(progress, diffrax.AbstractProgressMeter):
        return progress
    if not isinstance(progress, bool):
        expected = "True, False or a diffrax progress meter"
        checks.fail("progress", expected, repr(progress), TypeError)
    if not progress:
        return _NO_METER
    # It is called once a segment; about a hundred updates are enough for any run.
    return diffrax.TqdmProgressMeter(refresh_steps=1 + square_root_segment(num_steps) // 100)


def _compiled(function: Callable, *arguments: Any) -> Any:
    """`eqx.filter_jit(function)(*arguments)`, which takes three times as long before it runs."""
    leaves, structure = jax.tree.flatten(arguments)
    arrays = [leaf if eqx.is_array(leaf) else None for leaf in leaves]
    rest = tuple([None if eqx.is_array(leaf) else leaf for leaf in leaves])
    return _call(function, arrays, rest, structure)


@partial(jax.jit, static_argnums=(0, 2, 3))
def _call(function: Callable, arrays: list, rest: tuple, structure: Any) -> Any:
    leaves = [b if a is None else a for a, b in zip(arrays, rest, strict=True)]
    return function(*jax.tree.unflatten(structure, leaves))
