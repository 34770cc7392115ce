"""Continuous-time recurrent networks with skew-symmetric weights, in JAX.

Simulate, conserve, analyse: see the README for a tour and `help(ctrnn_jax.simulate)` to begin.
"""

import importlib
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

from . import _at_start as _at_start
from . import losses as losses
from ._parts import batch_mesh as batch_mesh
from .activations import (
    Arctan as Arctan,
)
from .activations import (
    CustomActivation as CustomActivation,
)
from .activations import (
    Erf as Erf,
)
from .activations import (
    Exp as Exp,
)
from .activations import (
    HardTanh as HardTanh,
)
from .activations import (
    Linear as Linear,
)
from .activations import (
    ReLU as ReLU,
)
from .activations import (
    Sigmoid as Sigmoid,
)
from .activations import (
    Sin as Sin,
)
from .activations import (
    Tanh as Tanh,
)
from .fit_frequency import fit_frequency as fit_frequency
from .fit_signal import fit_signal as fit_signal
from .fit_spectrum import fit_spectrum as fit_spectrum
from .harmonics import autoregression as autoregression
from .harmonics import harmonic_regression as harmonic_regression
from .invariants import (
    casimirs as casimirs,
)
from .invariants import (
    drift_loss as drift_loss,
)
from .invariants import (
    energy as energy,
)
from .invariants import (
    energy_drift as energy_drift,
)
from .io import load as load
from .io import save as save
from .lyapunov import lyapunov_spectrum as lyapunov_spectrum
from .model import CTRNN as CTRNN
from .orbits import (
    natural_frequencies as natural_frequencies,
)
from .orbits import (
    orbit_frequency as orbit_frequency,
)
from .orbits import (
    period as period,
)
from .oscillator import Oscillator as Oscillator
from .signals import read_signal as read_signal
from .simulate import simulate as simulate
from .solvers import RK4 as RK4
from .solvers import DiscreteGradient as DiscreteGradient
from .solvers import ExactLinear as ExactLinear
from .solvers import ImplicitMidpoint as ImplicitMidpoint
from .solvers import PoissonSplitting as PoissonSplitting
from .solvers import Projected as Projected
from .spectra import (
    dominant_frequency as dominant_frequency,
)
from .spectra import (
    power_spectrum as power_spectrum,
)
from .spectra import (
    spectrogram as spectrogram,
)
from .train import fit as fit
from .trajectory import Trajectory as Trajectory
from .weights import (
    BipartiteSkew as BipartiteSkew,
)
from .weights import (
    BlockSkew as BlockSkew,
)
from .weights import (
    DenseSkew as DenseSkew,
)
from .weights import (
    DenseWeights as DenseWeights,
)
from .weights import (
    LowRankSkew as LowRankSkew,
)

if TYPE_CHECKING:
    from . import experiments as experiments
    from . import plot as plot

__version__ = _version("ctrnn-jax")


def __getattr__(name: str) -> Any:
    # Loaded by those who want them only: matplotlib, and the paper's experiments.
    if name in ("plot", "experiments"):
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
