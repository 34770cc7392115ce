"""What a matrix of weights is, and how a network moves beside its fixed point."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._network.model import CTRNN
from .fixed_points import FixedPoints

_SAME = 1e-9  # of the fastest: frequencies as near to each other count as one
_ZERO = 1e-12
_MOST_SHOWN = 20  # neurons of which vectors are listed


def matrix_facts(A: np.ndarray, given: np.ndarray | None = None) -> dict[str, Any]:
    """Of skew-symmetric weights A (n, n): rank, kernel, blocks; and what A is of the matrix given.

    The parts of a matrix are compared by their largest entries.
    """
    n, largest = len(A), float(np.max(np.abs(A), initial=0))
    unit = largest or 1.0
    _, s, vh = np.linalg.svd(A / unit)
    eps = float(np.finfo(A.dtype).eps)
    rank = int(np.sum(s > n * eps * s.max(initial=0)))
    kernel = vh[rank:]
    facts: dict[str, Any] = {
        "neurons": n,
        "dtype": str(A.dtype),
        "largest_entry_per_s": largest,
        "norm_per_s": float(s.max(initial=0)) * unit,
        "symmetric_part": 0.0,
        "rank": rank,
        "casimirs": n - rank,
        "kernel": kernel.tolist() if n <= _MOST_SHOWN else None,
        "share_of_zeros": float(np.mean(A[~np.eye(n, dtype=bool)] == 0)) if n > 1 else 1.0,
        "blocks": _blocks(A),
    }
    if given is not None:
        top = float(np.max(np.abs(given), initial=0)) or 1.0
        facts["symmetric_part"] = float(np.max(np.abs(given / top + given.T / top)) / 2)
    return facts


def _blocks(A: np.ndarray) -> list[int]:
    """The sizes of the groups of neurons without weights between them, the largest first."""
    from scipy.sparse import csgraph  # a tenth of a second for all who import the package

    _, labels = csgraph.connected_components(A != 0, directed=False)
    return sorted(np.bincount(labels).tolist(), reverse=True)


def frequency_facts(hz: np.ndarray) -> dict[str, Any]:
    """Frequencies (n // 2,) ascending, those that coincide, and those that are multiples."""
    top = float(hz.max(initial=0))
    hz = np.where(hz > _ZERO * top, hz, 0)
    nonzero = hz[hz > 0]
    degenerate, distinct = [], []
    for f in nonzero:
        if distinct and f - distinct[-1][0] <= _SAME * top:
            distinct[-1][1] += 1
        else:
            distinct.append([float(f), 1])
    degenerate = [{"hz": f, "times": count} for f, count in distinct if count > 1]
    multiples = []
    for slow, _ in distinct:
        for fast, _ in distinct:
            ratio = fast / slow
            if round(ratio) > 1 and abs(ratio - round(ratio)) <= _SAME * ratio:
                multiples.append({"hz": fast, "of_hz": slow, "times": round(ratio)})
    return {
        "hz": hz.tolist(),
        "zero": int(len(hz) - len(nonzero)),
        "degenerate": degenerate,
        "multiples": multiples[:50],
    }


def fixed_point_facts(rnn: CTRNN, found: FixedPoints, nullity: int) -> dict[str, Any]:
    """The fixed point of one state, and what kind it is."""
    x = np.asarray(found.xs, float)
    if not np.isfinite(x).all():
        return {"found": False, "kind": "none found"}
    eigenvalues = np.asarray(found.eigenvalues)
    growth = np.real(eigenvalues).max()
    top = np.abs(eigenvalues).max(initial=0)
    kind = "a centre" if growth <= 1e-6 * top else "unstable"
    if top == 0:
        kind = "neutral: beside it nothing moves to first order"
    return {
        "found": True,
        "kind": kind,
        "dimension": nullity,
        "residual": float(found.residuals),
        "state": x.tolist() if rnn.size <= _MOST_SHOWN else None,
        "largest_entry": float(np.abs(x).max()),
        "growth_per_s": float(growth),
        "frequencies_hz": sorted(float(w) / (2 * np.pi) for w in np.imag(eigenvalues) if w > 0),
    }
