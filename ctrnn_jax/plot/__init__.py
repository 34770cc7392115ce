"""Pictures of trajectories, energies, spectra and level sets.

Every function draws into the matplotlib axes `ax`, or into a new figure where `ax` is None, and
returns the axes; nothing is shown, saved or set globally. Leading axes of a trajectory are one
flat batch here, in which `index` counts. States are dimensionless: their unit reads a.u. In
figures of several panels `layout="compressed"` suits axes of equal aspect best.

All raise TypeError or ValueError for a trajectory without states, with too few saves or nowhere
finite, and for a neuron or an index that it does not have.
"""

from ._animation import animate
from ._balance import energy_balance
from ._modes import backbone
from ._regimes import regimes
from ._spectra import spectrogram, spectrum
from ._training import loss_curve, signal_fit, signal_residual, spectrum_fit
from ._trajectory import energy_drift, level_sets, phase_portrait, section, time_series

__all__ = [
    "animate",
    "backbone",
    "energy_balance",
    "energy_drift",
    "level_sets",
    "loss_curve",
    "phase_portrait",
    "regimes",
    "section",
    "signal_fit",
    "signal_residual",
    "spectrogram",
    "spectrum",
    "spectrum_fit",
    "time_series",
]
