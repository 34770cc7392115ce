"""Least squares by Levenberg and Marquardt, whatever the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

_LEAST = 1e-6  # of the largest square of a derivative: what weighs less is damped like this


def levenberg_marquardt(
    values: np.ndarray,
    equations: Callable[[np.ndarray], list[np.ndarray]],
    steps: int,
    advance: Callable[[int], Any],
    *,
    scaled: bool = False,
    enough: float = 1e-4,
) -> tuple[np.ndarray, list[float]]:
    """Values (p,) of a smaller Σ r², and the least so far after each evaluation.

    On the normal equations: these are as small as the unknowns are few, whatever the number of
    residuals r.

    Args:
        values: where to begin.
        equations: Σ r², Jᵀ r and Jᵀ J at some values.
        steps: evaluations.
        advance: is told how many evaluations are over.
        scaled: whether unknowns are damped by how much the residuals depend on them, those of
            hardly any influence a little; else all alike.
        enough: it ends with a step whose relative gain is smaller.

    Source:
        Madsen, Nielsen and Tingleff 2004, Methods for Non-Linear Least Squares Problems, section
        3.2 (Nielsen's damping).
    """
    error, slope, normal = equations(values)
    unit = np.ones(values.size)
    damping, growth = 1e-2 * (1.0 if scaled else float(np.max(np.diag(normal)))), 2.0
    losses = [float(error)]
    advance(1)
    while len(losses) < steps and np.isfinite(error) and damping < 1e15:
        if scaled:
            unit = np.maximum(np.diag(normal), _LEAST * np.max(np.diag(normal)))
        step = np.linalg.solve(normal + damping * np.diag(unit), -slope)
        expected = 0.5 * step @ (damping * unit * step - slope)
        error_there, *there = equations(values + step)
        advance(1)
        ratio = (error - error_there) / (2 * max(expected, 1e-300))
        if not ratio > 0:
            damping, growth = damping * growth, growth * 2
            losses.append(losses[-1])
            continue
        settled = error - error_there < enough * error and ratio > 0.25
        values, error, (slope, normal) = values + step, error_there, there
        losses.append(float(error))
        damping, growth = damping * max(1 / 3, 1 - (2 * ratio - 1) ** 3), 2.0
        if settled:
            break
    advance(steps - len(losses))
    return values, losses
