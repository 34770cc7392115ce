"""`simulate`: batches of initial states through any solver."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import diffrax
import equinox as eqx
import jax
from jax.sharding import Mesh

from .._network.model import CTRNN, states_of
from .._util import checks
from .._util.types import Array, ArrayLike, PyTree, Scalar
from . import arguments
from .devices import platform_of
from .drive import Batch
from .event import Event
from .problem import Plan, Problem
from .resume import End
from .run import fingerprint_of, run
from .trajectory import Trajectory


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
    checks.instance("rnn", rnn, CTRNN, "a CTRNN")  # its shapes are looked at when it is compiled
    end = x0 if isinstance(x0, End) else None
    x0 = states_of(rnn, x0 if end is None else end.x)
    if x0.size == 0:
        checks.fail("x0", "at least one initial state", f"shape {x0.shape}")
    dt = checks.number("dt", dt, x0.dtype, positive=True)
    grid = arguments.grid_of(
        x0, dt, num_steps=num_steps, save_every=save_every, save_at=save_at, end=end
    )
    declared = arguments.solver_of(rnn, x0, solver, adjoint, noisy=noise is not None)
    tolerances = arguments.tolerances(declared, rtol, atol, x0.dtype)
    shared, each = arguments.check_inputs(rnn, inputs, x0, grid.num_steps, declared)
    initial, update = arguments.fold_pair(fold)
    if observe is not None:
        checks.compiled_function("observe", observe)
    checks.flag("keep_states", keep_states)
    if max_norm is not None:
        max_norm = checks.number("max_norm", max_norm, x0.dtype, positive=True)
    if until is not None:
        arguments.check_event(until, x0)
    if noise is not None or key is not None:
        noise = arguments.noise_of(rnn, noise, key)
        arguments.check_without_noise(save_at, until, tolerances)
    if mesh is not None:
        checks.instance("mesh", mesh, Mesh, "a jax.sharding.Mesh such as batch_mesh()")
    if grid.times is not None or until is not None:
        held = each is not None or isinstance(shared, jax.Array)
        grid = grid.with_saves_between(until, tolerances, held)
    problem = Problem(
        rnn=rnn,
        dt=dt,
        solver=solver,
        tolerances=tolerances,
        inputs=shared,
        noise=noise,
        fold=initial,
        max_norm=max_norm,
        meter=arguments.progress_meter(progress, grid.num_steps),
        start=None if end is None else end.step,
        save_at=grid.shared_times,
    )
    plan = Plan(
        num_steps=grid.num_steps,
        save_every=grid.save_every,
        keep_states=keep_states,
        observe=observe,
        update=update,
        adjoint=adjoint,
        mesh=mesh,
        platform=platform_of(x0, mesh),
        segment=None if end is None else end.segment,
        event=until,
    )
    if end is not None:
        end.check(_compiled(fingerprint_of, problem, key))
    begun = None if end is None else end.begun
    return _compiled(run, problem, Batch(x0, each, key, grid.own_times, begun), plan)


def _compiled(function: Callable, *args: Any) -> Any:
    """`eqx.filter_jit(function)(*args)`, which takes three times as long before it runs."""
    leaves, structure = jax.tree.flatten(args)
    arrays = [leaf if eqx.is_array(leaf) else None for leaf in leaves]
    rest = tuple([None if eqx.is_array(leaf) else leaf for leaf in leaves])
    return _call(function, arrays, rest, structure)


@partial(jax.jit, static_argnums=(0, 2, 3))
def _call(function: Callable, arrays: list, rest: tuple, structure: Any) -> Any:
    leaves = [b if a is None else a for a, b in zip(arrays, rest, strict=True)]
    return function(*jax.tree.unflatten(structure, leaves))
