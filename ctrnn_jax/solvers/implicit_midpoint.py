"""The implicit midpoint rule."""

from __future__ import annotations

from typing import Any

import equinox as eqx

from .._network.activations import AbstractActivation
from .._util.types import Array
from ._implicit import AbstractImplicitNetworkSolver, check_iteration


class ImplicitMidpoint(AbstractImplicitNetworkSolver):
    """x1 = x0 + h f((x0 + x1)/2): symmetric, of order 2, a Poisson map.

    It keeps quadratic invariants and Casimirs to rounding, so for `Linear()` the norm; there it is
    the Cayley transform (1 - hA/2)⁻¹ (1 + hA/2). The error of any other energy stays bounded.

    Args:
        tol: relative change at which the fixed-point iteration stops; None iterates until rounding
            stops it, without which tiny errors add up over many steps.
        max_iterations: after which Newton's method takes over. A step that neither solves is
            reported in `Trajectory.unconverged_at`. The iteration contracts for h |A| below 2.

    Raises:
        TypeError, ValueError: for a wrong argument, and when used on a network that conserves
            nothing.

    Source:
        Hairer, Lubich, Wanner, Geometric Numerical Integration, sections IV.2, VI.4 and VIII.6.

    Example:
        >>> ct.simulate(rnn, x0, dt=0.1, num_steps=1000, solver=ct.ImplicitMidpoint())
    """

    tol: float | None = eqx.field(static=True)
    max_iterations: int = eqx.field(static=True)

    def __init__(self, tol: float | None = None, max_iterations: int = 64):
        self.tol, self.max_iterations = check_iteration(tol, max_iterations)

    def order(self, terms: Any) -> int:
        """2."""
        return 2

    @property
    def composition(self) -> tuple[float, ...]:
        return (1.0,)

    def slope(self, sigma: AbstractActivation, z0: Array, z1: Array, target: Any = None) -> Array:
        return sigma((z0 + z1) / 2)
