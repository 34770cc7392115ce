"""The adaptive loop: diffrax.diffeqsolve for every trajectory, read out on the fixed grid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import diffrax
import jax
import jax.numpy as jnp
from jax import lax

from .._network.model import CTRNN
from .._util.types import Scalar
from ..solvers._stepping import is_implicit
from ..solvers.base import with_tolerances
from .fixed import finite, update_fold, within
from .segments import Carry, RunSegment, Segment, choose

# Per trajectory and segment, for reverse mode: see diffrax.RecursiveCheckpointAdjoint.
_CHECKPOINTS = 64
# The solver's steps in a segment: a trajectory that needs more is stopped, as no run may hang.
_MAX_STEPS = 16**6
# Steps on the grid in a segment. Time is counted anew in each, so that it can tell the solver's
# steps apart; to choose the first of them anew costs 3 % where each is ten steps on the grid.
SEGMENT_STEPS = 512


class _Unwrapped(diffrax.AbstractAdaptiveSolver):
    """A wrapped solver that does not pass for the one inside, whose attributes it lacks.

    isinstance(HalfSolver(ImplicitEuler()), AbstractImplicitSolver) is true, and so
    diffrax.diffeqsolve asks it for a root finder.
    """

    inner: Any
    interpolation_cls: ClassVar[Any] = property(lambda self: self.inner.interpolation_cls)
    term_structure: ClassVar[Any] = property(lambda self: self.inner.term_structure)

    def order(self, terms):
        return self.inner.order(terms)

    def error_order(self, terms):
        return self.inner.error_order(terms)

    def init(self, terms, t0, t1, y0, args):
        return self.inner.init(terms, t0, t1, y0, args)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        return self.inner.step(terms, t0, t1, y0, args, solver_state, made_jump)

    def func(self, terms, t0, y0, args):
        return self.inner.func(terms, t0, y0, args)


def adaptive_segments(
    solver: diffrax.AbstractSolver,
    rnn: CTRNN,
    dt: Scalar,
    rtol: Scalar,
    atol: Scalar,
    update: Callable | None,
    max_norm: Scalar | None,
    checkpoint: bool,
) -> RunSegment:
    """How a segment is run with the solver's own step sizes.

    A step size below the spacing of floating-point numbers at the segment's length means that the
    solution has blown up, or that the grid is too coarse for this precision: the trajectory is
    stopped there, as after `_MAX_STEPS` steps in a segment, and reported as unconverged.
    """
    if is_implicit(solver):
        solver = with_tolerances(solver, rtol, atol)
        if isinstance(solver, diffrax.AbstractWrappedSolver):
            solver = _Unwrapped(solver)

    def solve(x, ts, began):
        def at_real_time(t, y, args):
            return rnn(began + (t + end), y, args)

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
            None,
            x,
            stepsize_controller=controller,
            saveat=diffrax.SaveAt(subs=subs),
            max_steps=_MAX_STEPS,
            adjoint=diffrax.RecursiveCheckpointAdjoint(checkpoints=_CHECKPOINTS)
            if checkpoint
            else diffrax.DirectAdjoint(),
            throw=False,
        )
        assert solution.ys is not None and solution.ts is not None
        xs, _ = solution.ys
        _, reached = solution.ts
        ok = diffrax.is_successful(solution.result)
        return xs, jnp.where(ok, end, reached[0] + end), ok

    def run(carry: Carry, segment: Segment):
        every_step = update is not None or max_norm is not None
        stride = 1 if every_step else segment.steps
        points = segment.blocks * segment.steps // stride
        k = carry.step + stride * jnp.arange(1, points + 1, dtype=carry.step.dtype)
        ts = (k - carry.step).astype(carry.x.dtype) * dt
        running = carry.stopped_at < 0
        # A stopped trajectory sits where steps become tiny; it waits at the origin instead.
        start = jnp.where(running, carry.x, 0)
        began = carry.step.astype(carry.x.dtype) * dt
        each = jax.vmap(solve, in_axes=(1, None, None), out_axes=(2, 0, 0))
        xs, reached, ok = each(start, ts, began)

        def point(carry: Carry, inputs):
            k, t, x = inputs
            new = carry._replace(x=x, step=k)
            if update is not None:
                new = new._replace(fold=update_fold(update, carry.fold, k.astype(x.dtype) * dt, x))
            running = carry.stopped_at < 0
            arrived = finite(x)  # diffrax pads with inf what it did not reach
            # The solver gave up at `reached`: the first step on the grid after it is lost.
            lost = carry.step + jnp.ceil((reached - (t - stride * dt)) / dt).astype(k.dtype)
            lost = jnp.clip(lost, carry.step + 1, k)
            stop = jnp.where(arrived, k, lost)
            stops = running & ~(arrived & within(x, max_norm))
            new = choose(running & arrived, new, carry)
            new = new._replace(
                stopped_at=jnp.where(stops, stop, carry.stopped_at),
                unconverged_at=jnp.where(running & ~arrived & ~ok, stop, carry.unconverged_at),
            )
            return new, new.x

        carry, xs = lax.scan(point, carry, (k, ts, xs))
        return carry, xs[segment.steps // stride - 1 :: segment.steps // stride]

    return run
