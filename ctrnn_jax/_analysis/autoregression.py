"""Each sample from those before it: the other baseline, which foresees only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._util import checks
from .._util.types import ArrayLike
from .samples import signal_samples, standardised


@dataclass(frozen=True)
class Autoregression:
    """y_j = intercept + Σ_i coefficients_i y_{j-i}, one such model a channel.

    Attributes:
        coefficients: (order, channels), of the latest sample first.
        mean: (channels,) of the signal.
        constant: (channels,) of the same equation for y - mean.
        history: (order, channels) last samples less the mean, the latest first.
        squeeze: whether the signal had no axis of channels, so that forecasts have none.
    """

    coefficients: np.ndarray
    mean: np.ndarray
    constant: np.ndarray
    history: np.ndarray
    squeeze: bool = False

    @property
    def intercept(self) -> np.ndarray:
        """(channels,) constants of the equation for y itself."""
        return self.constant + self.mean * (1 - np.sum(self.coefficients, axis=0))

    @property
    def num_parameters(self) -> int:
        """order + 1 a channel."""
        return self.coefficients.size + self.constant.size

    def forecast(self, num_steps: int) -> np.ndarray:
        """The num_steps samples after the signal, (num_steps, channels) or (num_steps,)."""
        num_steps = checks.integer("num_steps", num_steps, 0)
        order = len(self.coefficients)
        # Deviations from the mean, from the oldest of the history on.
        out = np.concatenate([self.history[::-1], np.empty((num_steps, self.mean.size))])
        with np.errstate(over="ignore", invalid="ignore"):  # an unstable one grows without bound
            for j in range(order, order + num_steps):
                latest_first = out[j - order : j][::-1]
                out[j] = self.constant + np.sum(self.coefficients * latest_first, axis=0)
        out = self.mean + out[order:]
        return out[:, 0] if self.squeeze else out


def autoregression(y: ArrayLike, order: int) -> Autoregression:
    """The linear prediction of each sample from those before it, by least squares.

    min over c, a of Σ_j |y_j - c - Σ_{i=1..p} a_i y_{j-i}|², for each channel. K sinusoids and a
    constant obey it exactly for p = 2 K.

    Args:
        y: (S,) or (S, channels) samples.
        order: number p of earlier samples, 1 to (S - 1) // 2.

    Returns:
        The `Autoregression`, with `forecast(num_steps)`.

    Raises:
        TypeError, ValueError: where y is no finite floating-point array of 4 samples, or order is
            out of range.

    Example:
        >>> forecast = ct.autoregression(y, order=20).forecast(len(y))

    Source:
        Box, Jenkins and Reinsel, Time Series Analysis, section 7.3 (conditional least squares).
    """
    samples = signal_samples("y", y, "(S,) or (S, channels)", (1, 2), 4)
    size = len(samples)
    order = checks.integer("order", order, 1)
    if order > (size - 1) // 2:
        checks.fail("order", f"at most (S - 1) // 2 = {(size - 1) // 2}", order)
    Y, mean, deviation, _ = standardised(samples.reshape(size, -1), np.asarray(y).dtype)
    windows = np.lib.stride_tricks.sliding_window_view(Y, order + 1, axis=0)[..., ::-1]
    fits = [
        np.linalg.lstsq(_with_one(w[:, 1:]), w[:, 0], rcond=None)[0]
        for w in windows.transpose(1, 0, 2)
    ]
    solution, history = np.stack(fits, axis=1), Y[: -order - 1 : -1] * deviation
    return Autoregression(solution[:-1], mean, solution[-1] * deviation, history, samples.ndim == 1)


def _with_one(columns: np.ndarray) -> np.ndarray:
    return np.hstack([columns, np.ones((len(columns), 1))])
