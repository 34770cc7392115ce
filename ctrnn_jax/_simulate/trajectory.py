"""What a simulation returns."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import equinox as eqx
import jax
import numpy as np

from .._util import checks
from .._util.labelled import Labelled
from .._util.types import Array, Float, Int, PyTree
from .resume import End, Remembered


class Trajectory(eqx.Module):
    """States of one simulation, saved on the time grid k·dt, the initial state first, or at times.

    Leading axes ``...`` are those of the initial states; S is the number of saves.

    Attributes:
        ts: (S,) times in seconds; (..., S) with `save_at` of each trajectory.
        xs: (..., S, n) states, or None with ``keep_states=False``. A stopped trajectory keeps
            its last finite state within the norm bound.
        observed: what `observe` returned, stacked to (..., S, ...), or None.
        folded: the final carry of `fold`, one per trajectory (..., ...), or None.
        stopped_at: (...,) the step at which |x| passed `max_norm` or stopped being finite, or by
            which the event of `until` had happened,
            -1 where it never did. 0 marks an initial state that was already out of bounds.
        unconverged_at: (...,) the first step whose implicit equation was not solved to the
            solver's tolerance, or at which an adaptive solver gave up, which stops the trajectory,
            too: its steps had become too small or too many. -1 where there was none. Steps to the
            side, to times of saves and to events, count as the step that they lie in.
        event_times: (...,) with `until`: when its event happened, in seconds; nan where it did
            not in this run. Its later saves keep the state then.
    """

    ts: Float[Array, "*times S"]
    xs: Float[Array, "*batch S n"] | None
    observed: PyTree
    folded: PyTree
    stopped_at: Int[Array, "*batch"]
    unconverged_at: Int[Array, "*batch"]
    remembered: Remembered | None = None
    event_times: Float[Array, "*batch"] | None = None

    @property
    def end(self) -> End:
        """All that the next step needs: `simulate(rnn, run.end, ...)` goes on from there.

        Raises:
            ValueError: for a trajectory that `simulate` did not make.
        """
        if self.remembered is None:
            checks.fail("end", "a trajectory made by simulate", "one without an end")
        x = self.remembered.x
        if x is None:
            assert self.xs is not None
            x = self.xs[..., -1, :]
        return End(
            x=x,
            solver=self.remembered.solver,
            folded=self.folded,
            stopped_at=self.stopped_at,
            unconverged_at=self.unconverged_at,
            step=self.remembered.step,
            fingerprint=self.remembered.fingerprint,
            segment=self.remembered.segment,
        )

    @property
    def num_stopped(self) -> Int[Array, ""]:
        """How many trajectories were stopped."""
        return (self.stopped_at >= 0).sum()

    def to_xarray(self) -> Any:
        """This run as an `xarray.Dataset`, ready for its plots, groups, and files.

        Dimensions are `trajectory` (of states (batch, n); `batch_0`, `batch_1`, ... of further
        leading axes), `time` and `neuron`. `time`, in s, is a coordinate; where trajectories have
        times of their own, it is (..., save).

        Returns:
            A dataset of the variables `x` (..., time, neuron); `observed` and `folded`, of a tree
            one for each leaf, such as `observed_energy`, of dimensions (..., time, ...) and
            (..., ...); `stopped_at` and `unconverged_at` (...,). What there is not is left out.
            Its attributes tell the version of this library.

        Raises:
            ImportError: where xarray is not installed: it is in the extra `files`.
            TypeError: where values are traced.

        Example:
            >>> dataset = ct.simulate(rnn, x0, dt=0.1, num_steps=100).to_xarray()
            >>> dataset.x.sel(time=5.0, method="nearest").std("trajectory")
        """
        return labelled_run(self).to_xarray()


def labelled_run(run: Trajectory) -> Labelled:
    """What a run holds, with names for its dimensions."""
    if any(map(checks.is_traced, jax.tree.leaves(run))):
        checks.fail("run", "known values: outside jit, vmap, grad", "a tracer", TypeError)
    shape = np.shape(run.stopped_at)
    batch = tuple(f"batch_{k}" for k in range(len(shape))) if len(shape) != 1 else ("trajectory",)
    ts = np.asarray(run.ts)
    if ts.ndim > 1 and (ts == ts.reshape(-1, ts.shape[-1])[0]).all():
        ts = ts.reshape(-1, ts.shape[-1])[0]  # of a vmap, which repeats the times
    saves = (*batch, "time" if ts.ndim == 1 else "save")
    has_saves = run.xs is not None or bool(jax.tree.leaves(run.observed))
    found = Labelled(
        saves if has_saves else batch,
        {"kind": "Trajectory", "ctrnn_jax_version": version("ctrnn-jax")},
    )
    dims = (*batch[: ts.ndim - 1], saves[-1])
    found.add("time", ts, dims, units="s", long_name="time")
    if run.xs is not None:
        found.add("x", run.xs, (*saves, "neuron"), long_name="states of the neurons")
    found.add_tree("observed", run.observed, saves, (*shape, ts.shape[-1]))
    found.add_tree("folded", run.folded, batch, shape)
    for name, what in (
        ("stopped_at", "step at which the trajectory was stopped"),
        ("unconverged_at", "first step that was not solved to the tolerance"),
    ):
        found.add(name, getattr(run, name), batch, long_name=f"{what}, -1: none")
    if run.event_times is not None:
        found.add("event_times", run.event_times, batch, units="s", long_name="time of the event")
    return found
