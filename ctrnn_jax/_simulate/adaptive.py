"""The adaptive loop: diffrax.diffeqsolve for every trajectory, read out on the fixed grid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from .._network.inputs import HELD
from .._util.types import Array, Scalar, precise_products
from ..solvers._foreign import adapted
from .drive import Drive
from .fixed import event_between, finite, update_fold, within
from .problem import Plan, Problem
from .segments import Advance, Carry, Segment, choose

# Per trajectory and segment, for reverse mode: see diffrax.RecursiveCheckpointAdjoint.
_CHECKPOINTS = 64
# The solver's steps in a segment: a trajectory that needs more is stopped, as no run may hang.
_MAX_STEPS = 16**6
# Steps on the grid in a segment. Time is counted anew in each, so that it can tell the solver's
# steps apart; to choose the first of them anew costs 3 % where each is ten steps on the grid.
SEGMENT_STEPS = 512


def adaptive_segment_steps(plan: Plan, needs_all: bool, size: int) -> int:
    """Steps on the grid in a segment of `size` numbers.

    Fewer where the states after all of them are needed, for fold and max_norm. By the size of the
    whole batch, so that a run goes on alike on other devices.
    """
    return min(SEGMENT_STEPS, max(64, 2**22 // size)) if needs_all else SEGMENT_STEPS


def needs_all(problem: Problem, plan: Plan) -> bool:
    """Whether the states after all steps on the grid are looked at."""
    looks = plan.update is not None or problem.max_norm is not None
    return looks or plan.event is not None


class _Shifted(eqx.Module):
    """An input by the time of a call of diffrax, which begins with the segment."""

    path: Callable
    start: Scalar

    def __call__(self, t: Scalar) -> Array:
        return self.path(self.start + t)


class _Constant(eqx.Module):
    """An input that is held."""

    u: Any

    def __call__(self, t: Scalar) -> Array:
        return self.u


def _one_trajectory(problem: Problem, plan: Plan, drive: Drive) -> Callable:
    """`solve(x, ts, began, u)`: states at ts, the time that was reached, and whether that is all.

    Times count from `began`; u is the input that is held, or None.
    """
    assert problem.tolerances is not None
    rtol, atol = problem.tolerances.rtol, problem.tolerances.atol
    rnn, solver = problem.rnn, adapted(problem.solver).with_tolerances(rtol, atol)

    def solve(x, ts, began, u):
        def at_real_time(t, y, args):
            return rnn(began + (t + end), y, None if args is None else lambda _: args(t))

        # Time runs from -end to 0: where numbers are spaced finest, no rejected last step is halved
        # to a step that diffrax would propose again, for ever.
        end = ts[-1]
        smallest = 2 * jnp.finfo(x.dtype).eps * end
        controller = diffrax.PIDController(rtol=rtol, atol=atol, dtmin=smallest, force_dtmin=False)
        # Fused with the product that ts is, the difference may be rounding instead of 0.
        saves = jnp.clip(ts - end, -end, 0)
        subs = [diffrax.SubSaveAt(ts=saves), diffrax.SubSaveAt(t1=True)]
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(rnn if not rnn.has_own_equation else at_real_time),
            solver,
            -end,
            jnp.zeros_like(end),
            None if drive.kind != HELD else end,
            x,
            args=_Shifted(drive.path, began + end) if drive.path is not None else u,
            stepsize_controller=controller,
            saveat=diffrax.SaveAt(subs=subs),
            max_steps=_MAX_STEPS,
            adjoint=diffrax.RecursiveCheckpointAdjoint(checkpoints=_CHECKPOINTS)
            if plan.checkpoints
            else diffrax.DirectAdjoint(),
            throw=False,
        )
        assert solution.ys is not None and solution.ts is not None
        xs, _ = solution.ys
        _, reached = solution.ts
        ok = diffrax.is_successful(solution.result)
        return xs, jnp.where(ok, end, reached[0] + end), ok

    return solve


def solve_columns(problem: Problem, plan: Plan, drive: Drive) -> Callable:
    """`solve(x, step, ts, held)`: columns (ts, n, batch) at ts from a step on, and as above."""
    solve = _one_trajectory(problem, plan, drive)

    def solve_each(x, step, ts, held):
        began = step.astype(x.dtype) * problem.dt
        u = None if held is None else _Constant(held)
        inputs = None if held is None else _Constant(1 if held.ndim == 2 else None)
        each = jax.vmap(solve, in_axes=(1, None, None, inputs), out_axes=(2, 0, 0))
        with precise_products():  # diffrax interpolates, for Dopri5, by one that asks for none
            return each(x, ts, began, u)

    return solve_each


def adaptive_segments(problem: Problem, plan: Plan, drive: Drive) -> Advance:
    """How a segment is run with the solver's own step sizes.

    A step size below the spacing of floating-point numbers at the segment's length means that the
    solution has blown up, or that the grid is too coarse for this precision: the trajectory is
    stopped there, as after `_MAX_STEPS` steps in a segment, and reported as unconverged.
    """
    dt, update, max_norm = problem.dt, plan.update, problem.max_norm
    solve = solve_columns(problem, plan, drive)

    def solve_each(carry: Carry, x, step, ts, held):
        # A stopped trajectory sits where steps become tiny; it waits at the origin instead.
        return solve(jnp.where(carry.stopped_at < 0, x, 0), step, ts, held)

    def advance(carry: Carry, segment: Segment):
        # A run that goes on within a segment is solved from where that began, once more: to the
        # same bits. Then it is looked at from where it stopped.
        held = drive.kind == HELD
        origin = carry.solver if segment.done else carry.x
        began = carry.step - segment.done * segment.steps
        stride = 1 if held or needs_all(problem, plan) else segment.steps
        points = (segment.done + segment.intervals) * segment.steps // stride
        seen = segment.done * segment.steps // stride
        k = began + stride * jnp.arange(1, points + 1, dtype=carry.step.dtype)
        ts = (k - began).astype(carry.x.dtype) * dt

        def point(carry: Carry, inputs):
            k, t, x, reached, ok = inputs
            new = carry._replace(x=x, step=k)
            happens = jnp.zeros_like(carry.stopped_at, bool)
            if plan.stops_at is not None:
                happens = event_between(plan.stops_at, carry, new, dt)
            if update is not None:
                new = new._replace(fold=update_fold(update, carry.fold, k.astype(x.dtype) * dt, x))
            running = carry.stopped_at < 0
            arrived = finite(x)  # diffrax pads with inf what it did not reach
            # The solver gave up at `reached`: the first step on the grid after it is lost.
            lost = carry.step + jnp.ceil((reached - (t - stride * dt)) / dt).astype(k.dtype)
            lost = jnp.clip(lost, carry.step + 1, k)
            stop = jnp.where(arrived, k, lost)
            stops = running & (~(arrived & within(x, max_norm)) | happens)
            new = choose(running & arrived & ~happens, new, carry)
            new = new._replace(
                stopped_at=jnp.where(stops, stop, carry.stopped_at),
                unconverged_at=jnp.where(running & ~arrived & ~ok, stop, carry.unconverged_at),
            )
            return new, new.x

        def step_on_grid(carry: Carry, inputs):
            # The input jumps at both ends: each step is a run of its own.
            k, held = inputs
            xs, reached, ok = solve_each(carry, carry.x, carry.step, dt[None], held)
            return point(carry, (k, dt, xs[0], reached, ok))

        if held:
            one = jax.checkpoint(step_on_grid, prevent_cse=False)
            carry, xs = lax.scan(one, carry, (k, drive.held(carry.step, points)))
        else:
            xs, reached, ok = solve_each(carry, origin, began, ts, None)
            each = k[seen:], ts[seen:], xs[seen:]
            carry, xs = lax.scan(lambda c, i: point(c, (*i, reached, ok)), carry, each)
            carry = carry._replace(solver=origin)
        return carry, xs[segment.steps // stride - 1 :: segment.steps // stride]

    return advance
