"""How many independent frequencies the lines of a spectrum are made of."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

ORDER = 3  # of the window cos^(2·3), whose side lobes fall with the 7th power of the distance
WIDTH = ORDER + 1  # bins from the middle of a line to where its main lobe ends
FAR = 2 * WIDTH  # bins from 0 below which a line is none: its mirror image reaches it
PURE = 0.25  # bins by which the two sides of a line may disagree about its middle
FINEST = 3e-4  # bins to which a frequency is known at best
CHANCE = 0.005  # of a line to be taken for a combination that it is not
MOST_ORDER = 24  # q + Σ|k_i| of relations q f = Σ k_i ν_i
MOST_RELATIONS = 2**14
EXPLAINED = 1 - 1e-5


class Torus(NamedTuple):
    """What a record is made of.

    basis: frequencies in bins, of which those of all lines are combinations; the strongest first.
    share: of the power, in the lines of these and of their combinations.
    common: where there is one frequency, how often that of all lines is contained in it, else 1.
    """

    basis: np.ndarray
    share: float
    common: int


def window(size: int) -> np.ndarray:
    return np.sin(np.pi * (np.arange(size) + 0.5) / size) ** (2 * ORDER)


def spectrum(signals: np.ndarray) -> np.ndarray:
    """The power (..., F) of signals (..., S, C), whatever their unit, summed over channels."""
    signals = np.asarray(signals, float)
    size = signals.shape[-2]
    w = window(size)[:, None]
    signals = signals - np.sum(w * signals, axis=-2, keepdims=True) / np.sum(w)
    largest = np.max(np.abs(signals), axis=(-2, -1), keepdims=True)
    signals = signals / np.where(largest > 0, largest, 1)
    return np.sum(np.abs(np.fft.rfft(w * signals, axis=-2)) ** 2, axis=-1)


def lines(power: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a spectrum (F,) the lines, the strongest first: bins, their middles, and doubts of these.

    The window gives a line at k + δ the amplitudes a_{k+1}/a_k = (P + δ)/(P + 1 - δ), and with a
    line alone both neighbours of the highest bin say the same δ.
    """
    inner = power[1:-1]
    peak = (inner > power[:-2]) & (inner >= power[2:])
    at = 1 + np.flatnonzero(peak)
    at = at[at >= FAR]
    at = at[np.argsort(-power[at], kind="stable")]
    amplitude = np.sqrt(power)
    after, before = amplitude[at + 1] / amplitude[at], amplitude[at - 1] / amplitude[at]
    right = ((ORDER + 1) * after - ORDER) / (1 + after)
    left = (ORDER - (ORDER + 1) * before) / (1 + before)
    # The larger neighbour is the better known.
    weight = after**2 / (after**2 + before**2)
    middle = weight * right + (1 - weight) * left
    return at, at + middle, np.abs(right - left)


@functools.cache
def relations(m: int) -> tuple[np.ndarray, np.ndarray]:
    """q (N,) and k (N, m) of relations q f = Σ k_i ν_i, by q + Σ|k_i|; k up to its sign."""
    qs: list[int] = []
    ks: list[np.ndarray] = []
    by_order = [list(itertools.islice(_of_order(m, 1), MOST_RELATIONS))]
    while len(ks) + sum(map(len, by_order)) <= MOST_RELATIONS and len(by_order) < MOST_ORDER:
        # One order more of k, beside each q that makes the same sum.
        for q, vectors in zip(range(len(by_order), 0, -1), by_order, strict=True):
            qs += [q] * len(vectors)
            ks += vectors
        by_order.append(list(itertools.islice(_of_order(m, len(by_order) + 1), MOST_RELATIONS)))
    return np.array(qs, float), np.array(ks, float).reshape(-1, m)


def _of_order(m: int, order: int) -> Iterator[np.ndarray]:
    """All k of an order, of which the first entry that is not 0 is positive."""
    for parts in range(1, min(m, order) + 1):
        for places in itertools.combinations(range(m), parts):
            for cuts in itertools.combinations(range(1, order), parts - 1):
                sizes = np.diff([0, *cuts, order])
                for signs in itertools.product((1, -1), repeat=parts - 1):
                    k = np.zeros(m)
                    k[list(places)] = sizes * np.array([1, *signs])
                    yield k


def torus(power: np.ndarray, most: int) -> Torus:
    """The fewest frequencies, `most` at most, that a spectrum (F,) is made of."""
    total = float(np.sum(power[1:]))
    covered = np.zeros(power.shape, bool)
    basis, doubts, turns = [], [], []
    enough = EXPLAINED * total
    if not total > 0:
        return Torus(np.zeros(0), 0.0, 1)
    for at, middle, doubt in zip(*lines(power), strict=True):
        held = float(np.sum(power[covered]))
        if held >= enough or power[at] < (1 - EXPLAINED) * total / power.size:
            break
        if covered[at]:
            continue  # in the main lobe of a stronger one
        if doubt > PURE:
            continue
        doubt = max(doubt, FINEST)
        q = _turns(middle, doubt, np.array(basis), np.array(doubts))
        if q is None:
            if len(basis) == most:
                continue
            basis.append(middle)
            doubts.append(doubt)
            q = 1
        turns.append(q)
        covered[max(at - WIDTH, 1) : at + WIDTH + 1] = True
    share = float(np.sum(power[covered])) / total
    common = int(np.lcm.reduce(turns)) if len(basis) == 1 else 1
    return Torus(np.array(basis), share, common)


def _turns(middle, doubt, basis, doubts) -> int | None:
    """The q of the simplest relation with the basis that holds as exactly as all are known."""
    if not len(basis):
        return None
    qs, ks = relations(len(basis))
    slack = np.abs(ks) @ doubts + qs * doubt
    near = np.abs(qs * middle - np.abs(ks @ basis)) <= slack
    # Up to where a frequency of no relation at all would be taken for one of some too often; sums
    # of frequencies lie about as far apart as these.
    near &= np.cumsum(2 * slack / qs) <= CHANCE * max(middle, np.max(basis))
    return int(qs[np.argmax(near)]) if np.any(near) else None
