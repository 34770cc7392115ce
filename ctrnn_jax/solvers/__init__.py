"""Time steps beyond those of diffrax, each a `diffrax.AbstractSolver`."""

from .exact_linear import ExactLinear
from .poisson_splitting import PoissonSplitting
from .rk4 import RK4

__all__ = ["RK4", "ExactLinear", "PoissonSplitting"]
