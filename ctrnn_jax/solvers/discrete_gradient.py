"""The average vector field method: a discrete gradient, exact in the energy."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp

from .._network.activations import AbstractActivation
from .._util import checks
from .._util.types import Array
from ._implicit import AbstractImplicitNetworkSolver, check_iteration
from .compositions import COMPOSITIONS

ORDERS = (2, 4)


class DiscreteGradient(AbstractImplicitNetworkSolver):
    r"""z1 = z0 + h A D with D_i = ∫₀¹ σ(z0_i + s (z1_i - z0_i)) ds: the energy to rounding.

    Since Σ_i D_i (z1 - z0)_i = E(z1) - E(z0) and A is skew-symmetric, the energy is kept at any
    step size; so are the Casimirs. Symmetric, of order 2; a composition of five steps has order 4.
    The integral is `activation.mean`: exact for piecewise linear activations, and by Gauss-Legendre
    for others, where a multiple of z1 - z0 makes the sum exact at large steps too (Gonzalez 1996).
    The quotient of potentials itself would cancel digits.

    With an input the balance is kept: E(z1) - E(z0) is h (D + c)ᵀ B u in the current form, b = A c,
    u at the middle of the step, and Dᵀ B (u1 - u0) in the rate form; see `energy_balance`.

    Args:
        tol: relative change at which the fixed-point iteration stops; None iterates until rounding
            stops it, without which tiny errors add up over many steps.
        max_iterations: after which Newton's method takes over. A step that neither solves is
            reported in `Trajectory.unconverged_at`. The iteration contracts for h |A| max σ' below
            about 2.
        order: 2 or 4.

    Raises:
        TypeError, ValueError: for a wrong argument, and when used on a network that conserves
            nothing.

    Source:
        McLachlan, Quispel, Robidoux, Phil. Trans. R. Soc. A 357 (1999); Quispel and McLaren,
        J. Phys. A 41 (2008) 045206; Gonzalez, J. Nonlinear Sci. 6 (1996).

    Example:
        >>> run = ct.simulate(rnn, x0, dt=0.2, num_steps=10**4, save_every=100,
        ...                   solver=ct.DiscreteGradient())
        >>> run.unconverged_at.max()  # -1: every step was solved
    """

    keeps_energy: ClassVar[bool] = True
    input_at_ends: ClassVar[bool] = True  # so that D·B(u1 - u0) is the energy that came in
    tol: float | None = eqx.field(static=True)
    max_iterations: int = eqx.field(static=True)
    order_: int = eqx.field(static=True)

    def __init__(self, tol: float | None = None, max_iterations: int = 64, order: int = 2):
        self.tol, self.max_iterations = check_iteration(tol, max_iterations)
        if order not in ORDERS:
            checks.fail("order", "2 or 4", repr(order))
        self.order_ = int(order)

    def order(self, terms: Any) -> int:
        """2 or 4."""
        return self.order_

    @property
    def composition(self) -> tuple[float, ...]:
        return COMPOSITIONS[self.order_]

    def slope(self, sigma: AbstractActivation, z0: Array, z1: Array, target: Any) -> Array:
        mean, dz = sigma.mean(z0, z1), z1 - z0
        # Not without a step: at an equilibrium there is nothing to correct.
        square = jnp.sum(dz * dz, axis=0)
        missing = jnp.sum(sigma.potential(z1), axis=0) - target - jnp.sum(mean * dz, axis=0)
        moved = square > 0
        return mean + jnp.where(moved, missing / jnp.where(moved, square, 1), 0)[None] * dz
