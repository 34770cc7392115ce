"""Linear read-outs of states in closed form."""

from __future__ import annotations

import numpy as np
import scipy.linalg

from .._util.types import Float


def ridge_regression(
    X: Float[np.ndarray, "N n"], Y: Float[np.ndarray, "N k"], ridge: float
) -> tuple[Float[np.ndarray, "k n"], Float[np.ndarray, " k"]]:
    """C and d of least Σ_i |Y_i - C X_i - d|² + ridge |C|², in float64.

    By the singular values of the centred X above √ridge I: the normal equations, with Xᵀ X, would
    lose half of the digits, and states of a network have some that differ by many decades. Of
    several solutions, where the ridge is 0, the shortest.
    """
    X, Y = X.astype(np.float64), Y.astype(np.float64)
    x, y = X.mean(axis=0), Y.mean(axis=0)
    above, right = X - x, Y - y
    if ridge > 0:
        above = np.concatenate([above, np.sqrt(ridge) * np.eye(X.shape[1])])
        right = np.concatenate([right, np.zeros((X.shape[1], Y.shape[1]))])
    solution = scipy.linalg.lstsq(above, right, lapack_driver="gelsd", check_finite=False)
    C = np.asarray(solution[0]).T  # pyright: ignore[reportOptionalSubscript]
    return C, y - C @ x
