"""Time steps beyond those of diffrax; `AbstractNetworkSolver` tells how to write one."""

from .base import AbstractNetworkSolver
from .discrete_gradient import DiscreteGradient
from .exact_linear import ExactLinear
from .implicit_midpoint import ImplicitMidpoint
from .poisson_splitting import PoissonSplitting
from .projected import Projected
from .rk4 import RK4

__all__ = [
    "RK4",
    "AbstractNetworkSolver",
    "DiscreteGradient",
    "ExactLinear",
    "ImplicitMidpoint",
    "PoissonSplitting",
    "Projected",
]
