"""Least squares by Levenberg-Marquardt, one compiled step at a time, so that it can be watched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from ._types import Array, PyTree

_SMALL = 1e-4  # decrease of the sum of squares, relative, that ends it
_HOPELESS = 1e6  # damping, relative to the curvature


def levenberg_marquardt(
    residual: Callable[[PyTree, PyTree], Array],
    unknowns: PyTree,
    args: PyTree,
    steps: int,
    watch: Callable[[float], Any],
) -> PyTree:
    """Unknowns of a smaller Σ r², r = residual(unknowns, args) (M,), after at most `steps` steps.

    Each step solves (JᵀJ + μ diag JᵀJ) d = -Jᵀr (Marquardt's scaling) and is taken only if the sum
    falls; what is not finite never is. `watch` is called with the sum after each step.
    """
    best, damping = jnp.inf, 1e-2
    problem = None
    for _ in range(steps):
        if problem is None:
            problem = _linearised(residual, unknowns, args)
            best = float(problem[2])
        μ = jnp.asarray(damping, problem[0].dtype)
        trial, total = _damped(residual, unknowns, args, *problem[:2], μ)
        if float(total) < best:
            finished = float(total) > (1 - _SMALL) * best
            unknowns, best, problem = trial, float(total), None
            damping = max(damping / 5, 1e-9)
        else:
            damping *= 5
            finished = damping > _HOPELESS
        watch(best)
        if finished:
            break
    return unknowns


@eqx.filter_jit
def _linearised(residual: Any, unknowns: PyTree, args: PyTree) -> tuple[Array, Array, Array]:
    values, unflatten = ravel_pytree(unknowns)

    def flat(values: Array) -> Array:
        return residual(unflatten(values), args)

    r, slope = flat(values), jax.jacfwd(flat)(values)
    return slope, r, jnp.sum(r**2)


@eqx.filter_jit
def _damped(
    residual: Any, unknowns: PyTree, args: PyTree, slope: Array, r: Array, damping: Array
) -> tuple[PyTree, Array]:
    values, unflatten = ravel_pytree(unknowns)
    scale = jnp.sqrt(jnp.sum(slope**2, axis=0))
    # Directions that change nothing, such as turning all modes together, stay where they are.
    scale = jnp.maximum(scale, 1e-6 * jnp.max(scale))
    # By QR of the stacked matrix: the normal equations would lose half of the digits.
    stacked = jnp.concatenate(
        [slope / scale[None], jnp.sqrt(damping) * jnp.eye(values.size, dtype=r.dtype)]
    )
    q, upper = jnp.linalg.qr(stacked)
    step = jax.scipy.linalg.solve_triangular(upper, -(q[: r.size].T @ r))
    trial = unflatten(values + step / scale)
    return trial, jnp.sum(residual(trial, args) ** 2)
