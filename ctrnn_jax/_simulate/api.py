"""`simulate`: batches of initial states through any solver."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from .._network.invariants import energy
from .._network.model import CTRNN, states_for
from .._network.size_rules import block_size, saved_at_once
from .._util import checks
from .._util.types import Array, ArrayLike, Float, Int, PyTree, Scalar
from ..solvers import DiscreteGradient, Projected
from ..solvers._stepping import is_implicit, make_step
from .adaptive import SEGMENT_STEPS, adaptive_segments
from .fixed import fixed_step_segments, within
from .parts import over_blocks, over_devices
from .reversible import reversible_segment_steps, reversible_segments
from .segments import Carry, Progress, run_segments, square_root_segment, write
from .trajectory import Trajectory

ADJOINTS = ("checkpointed", "direct", "reversible")
MAX_STEPS = 2**31 - 2
_NO_METER = diffrax.NoProgressMeter()


def simulate(
    rnn: CTRNN,
    x0: ArrayLike,
    *,
    dt: ArrayLike,
    num_steps: int,
    solver: diffrax.AbstractSolver = diffrax.Tsit5(),  # noqa: B008 - frozen and stateless
    save_every: int = 1,
    rtol: ArrayLike | None = None,
    atol: ArrayLike | None = None,
    observe: Callable[[Scalar, Array], PyTree] | None = None,
    keep_states: bool = True,
    fold: tuple[PyTree, Callable[[PyTree, Scalar, Array], PyTree]] | None = None,
    max_norm: ArrayLike | None = None,
    adjoint: str = "checkpointed",
    progress: bool | diffrax.AbstractProgressMeter = False,
    mesh: Mesh | None = None,
) -> Trajectory:
    """Integrate x' = rnn(t, x) from a batch of initial states.

    Works under jit, vmap and grad; `dt`, `x0`, the model, the tolerances and `max_norm` may be
    traced. An ensemble of networks is `jax.vmap` over the model. Calls with the same shapes and
    settings compile once (give the same function objects for `observe` and `fold`).

    Args:
        rnn: the network, n neurons.
        x0: (..., n) initial states, of the network's dtype.
        dt: time step in seconds, > 0.
        num_steps: number of steps, a multiple of `save_every`.
        solver: any diffrax solver of ordinary differential equations, or one of this package.
        save_every: the initial state and every `save_every`-th step are saved; what lies
            between takes no memory.
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
        adjoint: how gradients are made in reverse mode. "checkpointed" recomputes segments of up
            to √num_steps steps, memory ~ √num_steps; "direct" stores every step; "reversible"
            undoes the steps and stores at most some hundred states up to 10⁷ steps: for solvers
            that can undo a step (`PoissonSplitting`, `DiscreteGradient`, `ImplicitMidpoint`), first
            derivatives only. In chaotic networks it takes twice the time, to find the way back.
            With `fold` or `max_norm`, which cannot be undone, it works as "checkpointed".
        progress: True for a progress bar on stderr, or a diffrax progress meter.
        mesh: devices that share the batch, see `batch_mesh`; all axes of the mesh do. Each runs
            its part alone, with the results of a single device to rounding; the arrays returned
            stay distributed. Gradients by what is not batched are summed over the devices.

    Returns:
        `Trajectory` with S = num_steps // save_every + 1 saves: ts (S,), xs (..., S, n),
        observed (..., S, ...), folded (..., ...), stopped_at (...,), unconverged_at (...,).

    Raises:
        TypeError, ValueError: where an argument has a wrong kind, shape, dtype or value.

    Example:
        >>> rnn = ct.CTRNN(ct.DenseSkew.init(jax.random.key(0), 20))
        >>> x0 = jax.random.normal(jax.random.key(1), (4096, 20))
        >>> trajectory = ct.simulate(rnn, x0, dt=0.05, num_steps=1000, save_every=10)
        >>> trajectory.xs.shape
        (4096, 101, 20)
    """
    x0 = states_for(rnn, x0)
    if x0.size == 0:
        checks.fail("x0", "at least one initial state", f"shape {x0.shape}")
    dt = checks.number("dt", dt, x0.dtype, positive=True)
    save_every = checks.integer("save_every", save_every, 1)
    num_steps = checks.integer("num_steps", num_steps, 1)
    if num_steps % save_every:
        checks.fail("num_steps", f"a multiple of save_every = {save_every}", num_steps)
    if num_steps > MAX_STEPS:
        checks.fail("num_steps", f"at most {MAX_STEPS}", num_steps)
    check_solver(solver)
    if isinstance(solver, DiscreteGradient | Projected) and rnn.is_conservative:
        energy(rnn, x0)  # refuses a bias for which there is no energy to keep
    checks.one_of("adjoint", adjoint, ADJOINTS)
    if adjoint == "reversible" and not hasattr(solver, "retrace"):
        expected = "one that can undo steps, such as PoissonSplitting, for adjoint='reversible'"
        checks.fail("solver", expected, type(solver).__name__)
    tolerances = _tolerances(solver, rtol, atol, x0.dtype)
    if observe is not None:
        checks.compiled_function("observe", observe)
    initial, update = (None, None) if fold is None else _fold_pair(fold)
    checks.flag("keep_states", keep_states)
    if max_norm is not None:
        max_norm = checks.number("max_norm", max_norm, x0.dtype, positive=True)
    if mesh is not None:
        checks.instance("mesh", mesh, Mesh, "a jax.sharding.Mesh such as batch_mesh()")
    values = rnn, dt, solver, tolerances, initial, max_norm
    settings = {
        "observe": observe,
        "keep_states": keep_states,
        "update": update,
        "adjoint": adjoint,
    }
    meter = _progress_meter(progress, num_steps)
    return _compiled(_simulate, values, x0, num_steps, save_every, meter, mesh, settings)


def check_solver(solver: Any) -> None:
    """Refuse what is no solver of ordinary differential equations."""
    expected = "a diffrax solver such as diffrax.Tsit5()"
    checks.instance("solver", solver, diffrax.AbstractSolver, expected)
    terms = solver.term_structure
    if not (isinstance(terms, type) and issubclass(diffrax.ODETerm, terms)):
        got = f"{type(solver).__name__}, which needs several terms"
        checks.fail("solver", "a solver of ordinary differential equations", got)


def _tolerances(solver: Any, rtol: Any, atol: Any, dtype: Any) -> tuple[Scalar, Scalar] | None:
    if rtol is None and atol is None:
        return None
    if not isinstance(solver, diffrax.AbstractAdaptiveSolver):
        expected = "an adaptive solver where rtol or atol is given"
        checks.fail("solver", expected, type(solver).__name__)
    # One left out equals the other, but each is checked under its own name.
    both = [value for value in (rtol, atol) if value is not None]
    second: Any = None if atol is None else _tolerance("atol", atol, dtype)
    first = second if rtol is None else _tolerance("rtol", rtol, dtype)
    second = first if second is None else second
    if not any(checks.is_traced(value) or value > 0 for value in both):
        checks.fail("rtol", "a number > 0 where atol is 0", "0 for both")
    # A component that rests at 0 has an error of 0, which is within any tolerance: not 0/0.
    return first, jnp.maximum(second, jnp.asarray(jnp.finfo(dtype).tiny, dtype))


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


def _initial_fold(init: Any, update: Callable, dt: Scalar, x: Float[Array, "n batch"]) -> PyTree:
    """The initial carry, one row per trajectory, in the dtypes that `update` keeps."""

    def first(x):
        return jax.tree.map(jnp.asarray, init(x) if callable(init) else init)

    def after_one(carry):
        return jax.eval_shape(update, carry, dt, x[:, 0])

    carry = jax.eval_shape(first, x[:, 0])
    leaves, structure = jax.tree.flatten(carry)
    new_leaves, new_structure = jax.tree.flatten(after_one(carry))
    if structure != new_structure:
        got = f"{new_structure} for {structure}"
        checks.fail("fold", "an update that returns a carry of the structure of init", got)
    # A Python number has no dtype of its own: 0 may become a float.
    dtypes = [b.dtype if a.weak_type else a.dtype for a, b in zip(leaves, new_leaves, strict=True)]
    kept = [jax.ShapeDtypeStruct(a.shape, d) for a, d in zip(leaves, dtypes, strict=True)]
    again = jax.tree.leaves(after_one(jax.tree.unflatten(structure, kept)))
    for a, b in zip(kept, again, strict=True):
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            expected = f"an update that keeps {a.dtype} of shape {a.shape}"
            checks.fail("fold", expected, f"{b.dtype} of shape {b.shape}")
    rows = jax.tree.leaves(jax.vmap(first, in_axes=1, axis_size=x.shape[1])(x))
    return structure.unflatten([jnp.asarray(r, d) for r, d in zip(rows, dtypes, strict=True)])


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


def _simulate(
    values: tuple[Any, ...],
    x0: Float[Array, "*batch n"],
    num_steps: int,
    save_every: int,
    meter: diffrax.AbstractProgressMeter,
    mesh: Mesh | None,
    settings: dict[str, Any],
) -> Trajectory:
    *batch, n = x0.shape
    rnn, dt, solver, tolerances, initial, max_norm = values
    values = rnn.prepared(), dt, solver, tolerances, initial, max_norm
    platform, devices = (jax.default_backend(), 1) if mesh is None else _local(mesh)
    size = block_size(n, x0.dtype.itemsize, _arrays(solver), platform, devices)
    saved_steps = save_every * jnp.arange(num_steps // save_every + 1, dtype=jnp.int32)

    def run(values, rows, meter):
        def block(part, out, first, progress):
            kept = saved_at_once(n, len(part), part.dtype.itemsize, platform)
            return _run(values, part, out, first, num_steps, save_every, kept, progress, settings)

        def empty(batch):
            one = rows[:1].T[None]
            shapes = jax.eval_shape(partial(_emit, settings, values[1]), saved_steps[:1], one)
            first = batch, len(saved_steps)
            return jax.tree.map(lambda a: jnp.zeros(first + a.shape[2:], a.dtype), shapes)

        return over_blocks(block, rows, empty, meter, size)

    if mesh is not None:
        adaptive, direct = tolerances is not None, settings["adjoint"] == "direct"
        alone = not is_implicit(solver) and not (adaptive and direct)
        if is_implicit(solver) and platform == "cpu" and devices > 1:
            size = 1  # jaxlib's LU of a batch may wait for ever: see solvers/_implicit.py
        run = partial(over_devices, run, mesh, alone, not adaptive)
    out = run(values, x0.reshape(-1, n), meter)
    out = jax.tree.map(lambda leaf: leaf.reshape(*batch, *leaf.shape[1:]), out)
    return Trajectory(ts=saved_steps.astype(x0.dtype) * dt, **out)


def _local(mesh: Mesh) -> tuple[str, int]:
    """The platform of a mesh, and how many of its devices this process works on."""
    devices = mesh.devices.flat
    return devices[0].platform, sum(d.process_index == jax.process_index() for d in devices)


def _arrays(solver: diffrax.AbstractSolver) -> int:
    """About how many arrays of a state's size a step works on."""
    tableau = getattr(solver, "tableau", None)
    stages = tableau.num_stages if isinstance(tableau, diffrax.ButcherTableau) else 4
    return stages + 3


def _emit(
    settings: dict[str, Any],
    dt: Scalar,
    steps: Int[Array, " saves"],
    states: Float[Array, "saves n batch"],
) -> dict[str, PyTree]:
    """What is kept of saved states: leaves (batch, saves, ...)."""
    observe, ts = settings["observe"], steps.astype(states.dtype) * dt
    out: dict[str, PyTree] = {"xs": None, "observed": None}
    if settings["keep_states"]:
        out["xs"] = jnp.moveaxis(states, 2, 0)
    if observe is not None:
        out["observed"] = jax.vmap(jax.vmap(observe), in_axes=(None, 2))(ts, states)
    return out


def _run(
    values: tuple[Any, ...],
    rows: Float[Array, "batch n"],
    out: dict[str, PyTree],
    first: Any,
    num_steps: int,
    save_every: int,
    kept: tuple[int, int],
    progress: Progress,
    settings: dict[str, Any],
) -> tuple[PyTree, dict[str, PyTree], dict[str, PyTree]]:
    """The progress meter's state, `out`, and what `Trajectory` holds of these rows beside it.

    What is saved of them is written into `out` from the row `first` on, about `kept[0]` states of
    each at once, which have `kept[1]` columns more until then.
    """
    columns = rows.T
    rnn, dt, solver, tolerances, initial, max_norm = values
    saves_at_once, spare = kept
    update, checkpoint = settings["update"], settings["adjoint"] != "direct"
    if tolerances is None:
        solver_state, step = make_step(solver, rnn, dt, columns)
        if settings["adjoint"] == "reversible" and update is None and max_norm is None:
            run = reversible_segments(solver, rnn, dt)
            segment_steps = reversible_segment_steps(num_steps)
        else:
            run = fixed_step_segments(
                step, dt, update, max_norm, checkpoint, is_implicit(solver), spare
            )
            segment_steps = square_root_segment(num_steps)
            if settings["keep_states"]:
                segment_steps = min(segment_steps, save_every * saves_at_once)
    else:
        solver_state, (rtol, atol) = None, tolerances
        run = adaptive_segments(solver, rnn, dt, rtol, atol, update, max_norm, checkpoint)
        # Restarting costs a choice of the step size; what limits a segment is that fold and
        # max_norm need the states of all its steps.
        every_step = update is not None or max_norm is not None
        segment_steps = max(64, 2**22 // columns.size) if every_step else SEGMENT_STEPS

    def store(out, index, steps, states):
        made = _emit(settings, dt, steps, states[..., : len(rows)])
        return jax.tree.map(lambda whole, part: write(whole, part, first, index), out, made)

    start = jnp.zeros((), jnp.int32)
    never = jnp.full(columns.shape[1:], -1, jnp.int32)
    carry = Carry(
        x=columns,
        solver=solver_state,
        fold=None if update is None else _initial_fold(initial, update, dt, columns),
        step=start,
        stopped_at=jnp.where(within(columns, max_norm), never, 0),
        unconverged_at=never,
    )
    carry, out, meter_state = run_segments(
        run,
        lambda out, index, *saved: store(out, index + 1, *saved),
        carry,
        store(out, 0, start[None], columns[None]),
        num_steps,
        save_every,
        segment_steps,
        progress,
    )
    rest = {
        "folded": carry.fold,
        "stopped_at": carry.stopped_at,
        "unconverged_at": carry.unconverged_at,
    }
    return meter_state, out, rest
