"""A linear network that answers its inputs as a signal does: where driven networks begin."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .._analysis.arx import markov_parameters

_MOST_LAGS = 30
_BLOCKS = 60  # of the Hankel matrix, to each side
_FASTEST = 0.02  # what is left of a mode after a sample, at least


class Modes(NamedTuple):
    """Modes s' = λ s + β·u, each one pair of neurons where λ is complex, else one neuron.

    Attributes:
        rates: (modes,) λ in 1/s, those with a negative imaginary part left out.
        gains: (modes, m) β.
    """

    rates: np.ndarray
    gains: np.ndarray

    @property
    def is_pair(self) -> np.ndarray:
        return np.imag(self.rates) > 0

    @property
    def neurons(self) -> int:
        return len(self.rates) + int(self.is_pair.sum())

    def parts(self, values: np.ndarray) -> np.ndarray:
        """(modes, ...) as (neurons, ...): real and imaginary part of a pair."""
        rows = [
            [v.real, v.imag] if pair else [v.real]
            for v, pair in zip(values, self.is_pair, strict=True)
        ]
        return np.array([part for row in rows for part in row])

    def matrices(self) -> tuple[np.ndarray, np.ndarray]:
        """A (n, n), skew-symmetric, and leaks (n,), in 1/s."""
        A, k = np.zeros((self.neurons, self.neurons)), 0
        for rate, pair in zip(self.rates, self.is_pair, strict=True):
            if pair:
                A[k, k + 1], A[k + 1, k] = -rate.imag, rate.imag
            k += 1 + pair
        return A, self.parts(-np.real(self.rates) * np.where(self.is_pair, 1 + 1j, 1))

    def states(self, u: np.ndarray, dt: float) -> np.ndarray:
        """(S, neurons) from 0 at the first of the inputs u (S, m), each held for dt."""
        from scipy.signal import lfilter  # half a second for all who import the package

        rows = []
        for rate, gain in zip(self.rates, self.gains, strict=True):
            after = np.exp(rate * dt)
            rows.append(lfilter([0, 1], [1, -after], u @ (gain * (after - 1) / rate)))
        return self.parts(np.array(rows)).T


def modes_of(y: np.ndarray, u: np.ndarray, dt: float, order: int) -> Modes:
    """At most `order` modes, those of pairs twice, by which y (S, channels) answers u (S, m).

    The pulse responses of a long regression, reduced to a state space of this order.

    Source:
        Ho and Kalman 1966; Juang and Pappa 1985 (the eigensystem realization algorithm).
    """
    size, channels = y.shape
    m = u.shape[1]
    lags = int(np.clip(size // (5 * (channels + m)), 2, _MOST_LAGS))
    blocks = int(np.clip(size // 4, 4, _BLOCKS))
    H = markov_parameters(y, u, lags, 2 * blocks)
    H = H / max(np.abs(H).max(), 1e-300)

    def hankel(shift: int) -> np.ndarray:
        rows = [np.hstack([H[i + j + shift] for j in range(blocks)]) for i in range(blocks)]
        return np.vstack(rows)

    U, s, Vh = np.linalg.svd(hankel(0), full_matrices=False)
    order = min(order, int(np.sum(s > 1e-12 * s[0])))
    root = np.sqrt(s[:order])
    F = (U[:, :order] / root).T @ hankel(1) @ (Vh[:order].T / root)
    G = root[:, None] * Vh[:order, :m]
    after, vectors = np.linalg.eig(F)
    gains = np.linalg.lstsq(vectors, G.astype(complex), rcond=None)[0]
    kept = np.imag(after) >= 0
    after, gains = after[kept], gains[kept]
    after = np.where((np.imag(after) == 0) & (np.real(after) < _FASTEST), _FASTEST, after)
    # Stable, and not slower than the samples can tell.
    longest = np.exp(-1 / (2 * size))
    after = after * np.minimum(1, longest / np.abs(after))
    after = after * np.maximum(1, _FASTEST / np.abs(after))
    rates = np.log(after.astype(complex)) / dt
    return Modes(rates, gains * rates[:, None] / (after - 1)[:, None])


def read_out(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """C (channels, n) and d (channels,) by least squares: y = x Cᵀ + d."""
    columns = np.hstack([x, np.ones((len(x), 1))])
    found = np.linalg.lstsq(columns, y, rcond=1e-9)[0]
    return found[:-1].T, found[-1]
