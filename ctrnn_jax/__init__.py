"""Continuous-time recurrent networks with skew-symmetric weights, in JAX.

Simulate, conserve, analyse: see the README for a tour and `help(ctrnn_jax.simulate)` to begin.
"""

from ._util import at_start  # noqa: F401 - first: Ctrl-C may come while the rest loads

# isort: split
import importlib
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

from . import losses, solvers
from ._analysis.analyse import analyse
from ._analysis.autoregression import autoregression
from ._analysis.balance import EnergyBalance, energy_balance, supplied_energy
from ._analysis.crossings import crossings
from ._analysis.fixed_points import fixed_points
from ._analysis.floquet import floquet_multipliers, monodromy
from ._analysis.frequencies import natural_frequencies, orbit_frequency
from ._analysis.harmonics import harmonic_regression
from ._analysis.lyapunov import lyapunov_spectrum
from ._analysis.memory import memory_capacity
from ._analysis.nonlinear_modes import nonlinear_modes
from ._analysis.period import period
from ._analysis.regime import regime
from ._analysis.spectra import dominant_frequency, power_spectrum, spectrogram
from ._files.models import load, save
from ._files.record import record
from ._files.recordings import Recording, open_recording
from ._files.signals import read_signal
from ._network.activations import (
    Arctan,
    CustomActivation,
    Erf,
    Exp,
    HardTanh,
    Linear,
    ReLU,
    Sigmoid,
    Sin,
    Tanh,
)
from ._network.invariants import casimirs, drift_loss, energy, energy_drift
from ._network.model import CTRNN
from ._network.weights import (
    BipartiteSkew,
    BlockSkew,
    Damped,
    DenseSkew,
    DenseWeights,
    LowRankSkew,
)
from ._simulate.api import simulate
from ._simulate.devices import batch_mesh, use_cpu_cores
from ._simulate.event import Event
from ._simulate.trajectory import Trajectory
from ._train.fit import fit
from ._train.fit_frequency import fit_frequency
from ._train.fit_readout import fit_readout
from ._train.fit_signal import fit_signal
from ._train.fit_spectrum import fit_spectrum
from ._train.oscillator import Oscillator
from ._train.sequence import SequenceModel
from .solvers import (
    RK4,
    DiscreteGradient,
    ExactLinear,
    ImplicitMidpoint,
    PoissonSplitting,
    Projected,
)

if TYPE_CHECKING:
    from . import experiments, plot

__version__ = _version("ctrnn-jax")

# fmt: off
__all__ = [  # noqa: RUF022 - by subject
    # networks
    "CTRNN", "DenseSkew", "BlockSkew", "BipartiteSkew", "LowRankSkew", "DenseWeights",
    "Damped", "Tanh", "HardTanh", "Linear", "Arctan", "Erf", "Sin", "Sigmoid", "ReLU", "Exp",
    "CustomActivation",
    # simulation
    "simulate", "Trajectory", "Event", "crossings", "batch_mesh", "use_cpu_cores", "solvers",
    "RK4", "PoissonSplitting", "DiscreteGradient", "ImplicitMidpoint", "ExactLinear", "Projected",
    # analysis
    "energy", "casimirs", "energy_drift", "drift_loss",
    "energy_balance", "supplied_energy", "EnergyBalance",
    "natural_frequencies", "orbit_frequency", "period", "lyapunov_spectrum",
    "nonlinear_modes", "floquet_multipliers", "monodromy", "fixed_points", "regime", "analyse",
    "power_spectrum", "spectrogram", "dominant_frequency",
    "harmonic_regression", "autoregression", "memory_capacity",
    # training
    "Oscillator", "fit", "fit_frequency", "fit_spectrum", "fit_signal", "losses",
    "SequenceModel", "fit_readout",
    # files, pictures, the paper
    "save", "load", "record", "open_recording", "Recording", "read_signal", "plot", "experiments",
]
# fmt: on


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> Any:
    # Loaded by those who want them only: matplotlib, and the paper's experiments.
    if name in ("plot", "experiments"):
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
