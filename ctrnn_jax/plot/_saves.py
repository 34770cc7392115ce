"""The saves of trajectories as pictures show them: which, up to where, and joined or not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .._files.recordings import Recording
from .._simulate.trajectory import Trajectory
from .._util import checks

_MOST_ROWS, _MOST_VALUES, _LEAST_SAVES = 64, 2**24, 100  # of a recording, which may be larger


class Orbits:
    """The states of a trajectory as NumPy arrays with one batch axis, checked.

    `last` (B,) is the last save worth drawing, -1 where there is none: a stopped trajectory only
    repeats its state from there on. `cut` (B,) marks those that end before the final time.
    `which` names them, "" where there is only one. Of a recording at most 64 trajectories are read,
    or, `spaced`, all of them at no more saves than can be seen.
    """

    def __init__(
        self,
        trajectory: Any,
        saves: int,
        *,
        index: Any = None,
        at_most: Any = None,
        spaced: bool = False,
    ):
        kinds, recorded = (Trajectory, Recording), isinstance(trajectory, Recording)
        checks.instance("trajectory", trajectory, kinds, "a Trajectory, as of simulate")
        if trajectory.xs is None:
            checks.fail("trajectory.xs", "states, as simulate(keep_states=True) keeps them", None)
        if np.ndim(trajectory.ts) != 1:
            got = f"shape {np.shape(trajectory.ts)}"
            checks.fail("trajectory.ts", "the same times for all, (S,)", got)
        size, self.n = trajectory.xs.shape[-2:]
        if size < saves:
            checks.fail("trajectory.xs", f"at least {saves} saves", size)
        batch = trajectory.xs.shape[:-2]
        total, step = math.prod(batch), 1
        if recorded and spaced:
            seen = max(_LEAST_SAVES, _MOST_VALUES // (total * self.n))
            step = max(1, size // seen)
        elif recorded:
            at_most = min(at_most or total, _MOST_ROWS)
        if index is None:
            rows = np.linspace(0, total - 1, min(total, at_most or total)).astype(int)
        else:
            rows = np.array([position("index", index, total)])
        if recorded and len(batch) == 1:
            xs = trajectory.xs[rows, ::step]
        elif recorded:
            xs = np.stack([trajectory.xs[*np.unravel_index(row, batch), ::step] for row in rows])
        else:
            xs = trajectory.xs.reshape(-1, size, self.n)[rows]
        self.ts, self.xs = np.asarray(trajectory.ts)[::step], np.asarray(xs)
        size = len(self.ts)
        finite = np.isfinite(self.xs).all(axis=-1)
        self.last = np.where(finite.all(axis=-1), size, finite.argmin(axis=-1)) - 1
        stopped = np.asarray(trajectory.stopped_at).reshape(-1)[rows] >= 0
        changes = (self.xs[stopped, 1:] != self.xs[stopped, :-1]).any(axis=-1)
        last_change = (changes * np.arange(1, size)).max(axis=-1)
        self.last[stopped] = np.minimum(self.last[stopped], last_change)
        self.cut = stopped | (self.last < size - 1)
        if (self.last < 0).all():
            got = f"{len(rows)} of {len(rows)} not finite from the start"
            checks.fail("trajectory.xs", "a trajectory with finite states", got)
        every = f"all {total}" if len(rows) == total else f"{len(rows)} of {total}"
        one = f"trajectory {rows[0]} of {total}" if len(rows) == 1 else f"{every} trajectories"
        self.which = one if total > 1 else ""

    @property
    def dt(self) -> float:
        """The interval between saves, for spectra, which want the same between all."""
        intervals = np.diff(self.ts)
        dt = float(self.ts[-1] - self.ts[0]) / len(intervals)
        rounding = 8 * np.finfo(self.ts.dtype).eps * abs(float(self.ts[-1]))
        if np.abs(intervals - dt).max() > 1e-3 * dt + rounding:
            got = f"intervals from {intervals.min():.3g} to {intervals.max():.3g} s"
            checks.fail("trajectory.ts", "evenly spaced times", got)
        return dt


def position(name: str, value: Any, size: int) -> int:
    number = checks.integer(name, value, 0)
    if number >= size:
        checks.fail(name, f"an index below {size}", number)
    return number


def extremes(y: np.ndarray, points: int) -> np.ndarray:
    """Positions of all samples (S,); of very many those of the extremes of each of some groups."""
    size = len(y) // (points // 2)
    if size < 3:
        return np.arange(len(y))
    groups = y[: len(y) // size * size].reshape(-1, size)
    at = np.sort(np.stack([groups.argmin(axis=1), groups.argmax(axis=1)], axis=1), axis=1)
    return (at + size * np.arange(len(groups))[:, None]).ravel()


def are_sparse(path: np.ndarray, turn: int = 12) -> bool:
    """Whether fewer than 12 saves make a turn of the path (S, ...): lines would draw a polygon.

    On a circle with k saves a turn second differences are 2 sin(π/k) times as large as first ones;
    in a sine, on average, too.
    """
    if len(path) < 3:
        return False
    with np.errstate(all="ignore"):
        path = path.reshape(len(path), -1) / np.abs(path).max()
        step = np.linalg.norm(np.diff(path, axis=0), axis=-1).sum()
        bend = np.linalg.norm(np.diff(path, 2, axis=0), axis=-1).sum()
        # A state at rest turns by rounding alone.
        moves = step > 64 * np.finfo(path.dtype).eps * len(path)
        return bool(moves and bend > 2 * np.sin(np.pi / turn) * step)


def before_they_left(paths: np.ndarray, last: np.ndarray) -> np.ndarray:
    """The last save (B,) worth drawing of paths (B, S, ...) of which some grow beyond all bounds.

    A path leaves after the longest beginning whose second half is at most ten times as large as
    its first; and where others stay, already at three times their size.
    """
    sizes = np.abs(paths).reshape(*paths.shape[:2], -1).max(axis=-1)
    largest = np.fmax.accumulate(sizes, axis=1)
    saves = np.arange(sizes.shape[1])
    with np.errstate(over="ignore"):
        inside = largest <= 10 * largest[:, saves // 2]
        bounded = (inside & (saves <= last[:, None])) * saves
        stays = bounded.max(axis=1) == last
        here = np.where(stays & (last >= 0), largest[np.arange(len(last)), last], 0).max()
        near = (largest <= 3 * here) | stays[:, None] | (here == 0)
    return np.where(stays | (last < 0), last, np.where(near, bounded, 0).max(axis=1))
