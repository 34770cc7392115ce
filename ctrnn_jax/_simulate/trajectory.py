"""What a simulation returns."""

from __future__ import annotations

import equinox as eqx

from .._util import checks
from .._util.types import Array, Float, Int, PyTree
from .resume import End, Remembered


class Trajectory(eqx.Module):
    """States of one simulation, saved on the time grid k·dt, the initial state first.

    Leading axes ``...`` are those of the initial states; S is the number of saves.

    Attributes:
        ts: (S,) times in seconds.
        xs: (..., S, n) states, or None with ``keep_states=False``. A stopped trajectory keeps
            its last finite state within the norm bound.
        observed: what `observe` returned, stacked to (..., S, ...), or None.
        folded: the final carry of `fold`, one per trajectory (..., ...), or None.
        stopped_at: (...,) the step at which |x| passed `max_norm` or stopped being finite,
            -1 where it never did. 0 marks an initial state that was already out of bounds.
        unconverged_at: (...,) the first step whose implicit equation was not solved to the
            solver's tolerance, or at which an adaptive solver gave up, which stops the trajectory,
            too: its steps had become too small or too many. -1 where there was none.
    """

    ts: Float[Array, " S"]
    xs: Float[Array, "*batch S n"] | None
    observed: PyTree
    folded: PyTree
    stopped_at: Int[Array, "*batch"]
    unconverged_at: Int[Array, "*batch"]
    remembered: Remembered | None = None

    @property
    def end(self) -> End:
        """All that the next step needs: `simulate(rnn, run.end, ...)` goes on from there.

        Raises:
            ValueError: for a trajectory that `simulate` did not make.
        """
        if self.remembered is None:
            checks.fail("end", "a trajectory made by simulate", "one without an end")
        return End(
            x=self.remembered.x if self.xs is None else self.xs[..., -1, :],
            solver=self.remembered.solver,
            folded=self.folded,
            stopped_at=self.stopped_at,
            unconverged_at=self.unconverged_at,
            step=self.remembered.step,
            fingerprint=self.remembered.fingerprint,
            made_with=self.remembered.made_with,
            segment=self.remembered.segment,
        )

    @property
    def num_stopped(self) -> Int[Array, ""]:
        """How many trajectories were stopped."""
        return (self.stopped_at >= 0).sum()
