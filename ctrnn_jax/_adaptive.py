"""The adaptive loop: diffrax.diffeqsolve for every trajectory, read out on the fixed grid."""

from __future__ import annotations

from collections.abc import Callable

import diffrax
import jax
import jax.numpy as jnp
from jax import lax

from ._fixed import finite, update_fold, within
from ._segments import Carry, RunSegment, Segment, choose
from ._types import Scalar
from .model import CTRNN

# Per trajectory and segment, for reverse mode: see diffrax.RecursiveCheckpointAdjoint.
_CHECKPOINTS = 64
_DIRECT_MAX_STEPS = 16**4


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

    A step size below the spacing of floating-point numbers at the segment's end means that the
    solution has blown up: the trajectory is stopped there.
    """

    def solve(x, ts):
        end = ts[-1]
        smallest = 4 * jnp.finfo(x.dtype).eps * end
        controller = diffrax.PIDController(rtol=rtol, atol=atol, dtmin=smallest, force_dtmin=False)
        subs = [diffrax.SubSaveAt(ts=ts), diffrax.SubSaveAt(t1=True)]
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(rnn),
            solver,
            jnp.zeros_like(end),
            end,
            None,
            x,
            stepsize_controller=controller,
            saveat=diffrax.SaveAt(subs=subs),
            max_steps=None if checkpoint else _DIRECT_MAX_STEPS,
            adjoint=diffrax.RecursiveCheckpointAdjoint(checkpoints=_CHECKPOINTS)
            if checkpoint
            else diffrax.DirectAdjoint(),
            throw=False,
        )
        assert solution.ys is not None and solution.ts is not None
        xs, _ = solution.ys
        _, reached = solution.ts
        ok = diffrax.is_successful(solution.result)
        return xs, jnp.where(ok, end, reached[0])

    def run(carry: Carry, segment: Segment):
        every_step = update is not None or max_norm is not None
        stride = 1 if every_step else segment.steps
        points = segment.blocks * segment.steps // stride
        k = carry.step + stride * jnp.arange(1, points + 1, dtype=carry.step.dtype)
        ts = (k - carry.step).astype(carry.x.dtype) * dt
        running = carry.stopped_at < 0
        # A stopped trajectory sits where steps become tiny; it waits at the origin instead.
        start = jnp.where(running, carry.x, 0)
        xs, reached = jax.vmap(solve, in_axes=(1, None), out_axes=(2, 0))(start, ts)

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
            new = new._replace(stopped_at=jnp.where(stops, stop, carry.stopped_at))
            return new, new.x

        carry, xs = lax.scan(point, carry, (k, ts, xs))
        return carry, xs[segment.steps // stride - 1 :: segment.steps // stride]

    return run
