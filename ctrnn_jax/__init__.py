"""Continuous-time recurrent networks with skew-symmetric weights, in JAX.

Simulate, conserve, analyse: see the README for a tour and `help(ctrnn_jax.simulate)` to begin.
"""

import importlib
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

from .activations import (
    Arctan as Arctan,
    CustomActivation as CustomActivation,
    Erf as Erf,
    Exp as Exp,
    HardTanh as HardTanh,
    Linear as Linear,
    ReLU as ReLU,
    Sigmoid as Sigmoid,
    Sin as Sin,
    Tanh as Tanh,
)
from .invariants import (
    casimirs as casimirs,
    drift_loss as drift_loss,
    energy as energy,
    energy_drift as energy_drift,
)
from .io import load as load, save as save
from .model import CTRNN as CTRNN
from .orbits import (
    natural_frequencies as natural_frequencies,
    orbit_frequency as orbit_frequency,
)
from .simulate import simulate as simulate
from .solvers import RK4 as RK4, ExactLinear as ExactLinear
from .spectra import (
    dominant_frequency as dominant_frequency,
    power_spectrum as power_spectrum,
    spectrogram as spectrogram,
)
from .trajectory import Trajectory as Trajectory
from .weights import (
    BipartiteSkew as BipartiteSkew,
    BlockSkew as BlockSkew,
    DenseSkew as DenseSkew,
    DenseWeights as DenseWeights,
    LowRankSkew as LowRankSkew,
)

if TYPE_CHECKING:
    from . import plot as plot

__version__ = _version("ctrnn-jax")


def __getattr__(name: str) -> Any:
    # matplotlib is loaded by those who plot only.
    if name == "plot":
        return importlib.import_module(".plot", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
