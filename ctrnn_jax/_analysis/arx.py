"""Each sample from those before it and from an input: the baseline of driven networks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import lstsq


@dataclass(frozen=True)
class Arx:
    """y_k = c + Σ_i a_i y_{k-i} + Σ_j b_j·u_{k-delay-j}, i >= 1, j >= 0, one such model a channel.

    Attributes:
        past: (na, channels) a.
        driven: (nb, m, channels) b.
        constant: (channels,) c.
        delay: samples until an input is first seen, 0 or 1.
    """

    past: np.ndarray
    driven: np.ndarray
    constant: np.ndarray
    delay: int

    @property
    def num_parameters(self) -> int:
        """Of all channels."""
        return self.past.size + self.driven.size + self.constant.size

    @property
    def memory(self) -> int:
        """How many samples before the first that it can say."""
        return max(len(self.past), len(self.driven) - 1 + self.delay)

    def _from_inputs(self, u: np.ndarray) -> np.ndarray:
        """(S, channels) what constant and inputs (S, m) add."""
        out = np.tile(self.constant, (len(u), 1))
        for j, b in enumerate(self.driven):
            lag = j + self.delay
            out[lag:] += u[: len(u) - lag] @ b
        return out

    def simulated(self, y: np.ndarray, u: np.ndarray, start: int) -> np.ndarray:
        """Samples from `start` on of what u (S, m) drives, from those of y before it alone."""
        from scipy.signal import lfilter, lfiltic  # half a second for all who import the package

        added = self._from_inputs(u)[start:]
        out = np.empty_like(added)
        with np.errstate(over="ignore", invalid="ignore"):  # an unstable one grows without bound
            for k in range(out.shape[1]):
                a = np.concatenate([[1.0], -self.past[:, k]])
                before = y[start - len(self.past) : start, k][::-1]
                out[:, k] = lfilter([1.0], a, added[:, k], zi=lfiltic([1.0], a, before))[0]
        return out

    def one_step(self, y: np.ndarray, u: np.ndarray, start: int) -> np.ndarray:
        """Samples from `start` on, each from all samples before it."""
        out = self._from_inputs(u)
        for i, a in enumerate(self.past, 1):
            out[i:] += a * y[:-i]
        return out[start:]


def fit_arx(y: np.ndarray, u: np.ndarray, na: int, nb: int, delay: int) -> Arx:
    """By least squares of the error of one step, each channel of y (S, channels) by itself.

    Source:
        Ljung, System Identification, 2nd edition 1999, section 4.2.
    """
    memory = max(na, nb - 1 + delay)
    rows = np.arange(memory, len(y))
    inputs = [u[rows - delay - j] for j in range(nb)]
    fits = []
    for channel in y.T:
        own = [channel[rows - i][:, None] for i in range(1, na + 1)]
        regressors = np.hstack([*own, *inputs, np.ones((len(rows), 1))])
        # By an orthogonal factorization: some times as fast as by singular values.
        fits.append(np.asarray(lstsq(regressors, channel[rows], lapack_driver="gelsy")[0]))  # pyright: ignore[reportOptionalSubscript]
    fitted = np.stack(fits, axis=1)
    driven = fitted[na:-1].reshape(nb, u.shape[1], -1)
    return Arx(fitted[:na], driven, fitted[-1], delay)


def markov_parameters(y: np.ndarray, u: np.ndarray, lags: int, count: int) -> np.ndarray:
    """(count, channels, m) answers to a pulse of each input, from one step after it on.

    Those of the joint regression of all channels on so many lags of all channels and inputs.
    """
    rows = np.arange(lags, len(y))
    regressors = [y[rows - i] for i in range(1, lags + 1)]
    regressors += [u[rows - i] for i in range(1, lags + 1)]
    stacked = np.hstack([*regressors, np.ones((len(rows), 1))])
    found = np.linalg.lstsq(stacked, y[rows], rcond=None)[0]
    (_, channels), m = y.shape, u.shape[1]
    a = found[: lags * channels].reshape(lags, channels, channels)
    b = found[lags * channels : -1].reshape(lags, m, channels)
    out = np.zeros((count, m, channels))
    for k in range(count):
        if k < lags:
            out[k] = b[k]
        for i in range(min(k, lags)):
            out[k] += out[k - 1 - i] @ a[i]
    return out.transpose(0, 2, 1)
