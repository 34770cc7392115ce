"""Poincaré sections: where trajectories pass an event, again and again."""

from __future__ import annotations

from typing import Any

from .._network.model import CTRNN
from .._simulate.api import simulate
from .._simulate.event import Event, Recurring
from .._simulate.trajectory import Trajectory
from .._util import checks
from .._util.types import ArrayLike


def crossings(
    rnn: CTRNN,
    x0: ArrayLike,
    event: Event,
    *,
    count: int,
    dt: ArrayLike,
    num_steps: int,
    **options: Any,
) -> Trajectory:
    """The first `count` times that an event happens to each trajectory, and the states then.

    The run goes on along its steps; each event is located to rounding on a step to the side, to
    the order of the solver. Results can be differentiated (implicit function theorem).

    Args:
        rnn: the network, n neurons.
        x0: (..., n) initial states.
        event: g(t, x) and its direction; with g an affine function of x, a Poincaré section.
        count: how many of each trajectory.
        dt: time step in seconds: what happens twice within one is not seen.
        num_steps: steps after which the search ends.
        options: of `simulate`: solver, rtol, atol, observe, keep_states, max_norm, inputs, adjoint,
            mesh.

    Returns:
        A `Trajectory` of ts (..., count), xs (..., count, n) and observed (..., count, ...); nan
        where an event did not happen so often.

    Raises:
        TypeError, ValueError: as `simulate`.

    Source:
        M. Hénon, "On the numerical computation of Poincaré maps", Physica D 5, 1982; here each
        crossing is a step of fitting length.

    Example:
        >>> up = ct.Event(lambda t, x: x[0], direction=1)
        >>> section = ct.crossings(rnn, x0, up, count=200, dt=0.02, num_steps=50_000)
        >>> section.xs[..., 1:3]
    """
    checks.instance("event", event, Event, "an Event such as ct.Event(lambda t, x: x[0])")
    count = checks.integer("count", count, 1)
    for name in ("save_at", "save_every", "fold", "until", "noise", "key", "progress"):
        if name in options:
            checks.fail(name, "none: what is saved are the crossings", "one", TypeError)
    recurring = Recurring(event.fn, event.direction, count)
    return simulate(rnn, x0, dt=dt, num_steps=num_steps, until=recurring, **options)
