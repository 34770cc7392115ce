"""Sinusoids in a sampled signal: where training starts, and a baseline to report against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .._util import checks
from .._util.types import ArrayLike
from .samples import signal_samples, standardised

# Cycles per record. Slower lines are polynomials, and closer ones a line times a polynomial: their
# amplitudes grow without bound while the samples hardly change.
SLOWEST = 0.05
CLOSEST = 0.02
# Amplitudes, in multiples of the largest deviation from the mean: beyond, lines cancel each other
# within the record and explode after it.
LARGEST = 10.0
RCOND = 1e-13
MOST_LINES = 60


@dataclass(frozen=True)
class Harmonics:
    """A constant and K sinusoids, y(t) = offset + Σ_k a_k cos(2π f_k t) + b_k sin(2π f_k t).

    Attributes:
        frequencies: (K,) in Hz, by decreasing power Σ_channels (a_k² + b_k²) / 2, each channel in
            units of its standard deviation.
        cosines: (K, channels) a_k.
        sines: (K, channels) b_k.
        offset: (channels,) constants.
        squeeze: whether the signal had no axis of channels, so that predictions have none.
    """

    frequencies: np.ndarray
    cosines: np.ndarray
    sines: np.ndarray
    offset: np.ndarray
    squeeze: bool = False

    @property
    def num_parameters(self) -> int:
        """K frequencies, and 2 K + 1 coefficients a channel."""
        return self.frequencies.size + (2 * self.frequencies.size + 1) * self.offset.size

    def predict(self, t: ArrayLike) -> np.ndarray:
        """Values (T, channels), or (T,) where y was (S,), at times t (T,) in seconds."""
        t = signal_samples("t", t, "(T,)", (1,), 0)
        angle = 2 * np.pi * np.outer(t, self.frequencies)
        y = self.offset + np.cos(angle) @ self.cosines + np.sin(angle) @ self.sines
        return y[:, 0] if self.squeeze else y


def harmonic_regression(y: ArrayLike, dt: ArrayLike, lines: int | None = None) -> Harmonics:
    """The sinusoids that best describe a signal, their frequencies fitted jointly.

    min over f, a, b, c of Σ_j |(y_j - c - Σ_k a_k cos(2π f_k j dt) + b_k sin(2π f_k j dt)) / s|²,
    s the standard deviation of each channel: the unit and the offset of a channel change nothing.

    Lines are added where the periodogram of the residual is strongest, all frequencies refined
    after each addition by Levenberg-Marquardt with a, b, c eliminated (variable projection,
    Kaufman's Jacobian). A few lines too many are added and the least useful removed again one by
    one, which leaves most local minima. Clean lines are resolved below 1 / duration. Frequencies
    stay above 0.05 / duration and 0.02 / duration apart, amplitudes below 10 times the largest
    deviation from the mean: beyond, lines cancel within the record and explode after it. What is no
    sum of sinusoids, such as a decaying one, has lines at these bounds.

    Args:
        y: (S,) or (S, channels) samples, S >= 4; the channels share the frequencies.
        dt: sampling interval in seconds.
        lines: number of sinusoids, at most (S - 1) // 3; fewer are returned where the residual is
            rounding already, or no further line fits within the bounds. None: as many, up to
            min(S // 8, 60), as minimise
            S C log(Σ|residual / s|²) + (2 C + 3) K log S, C channels: the frequency counts three
            times, its error falling as S^(-3/2).

    Returns:
        The `Harmonics`, with `predict(t)` for t in seconds after the first sample.

    Raises:
        TypeError, ValueError: where y is no finite floating-point array of 4 samples, dt is not
            > 0, or lines is out of range.

    Example:
        >>> fit = ct.harmonic_regression(y, dt=0.01, lines=3)
        >>> forecast = fit.predict(0.01 * np.arange(len(y), 2 * len(y)))

    Source:
        Golub and Pereyra 1973, SIAM J. Numer. Anal. 10, 413; Kaufman 1975, BIT 15, 49; the
        criterion: Djurić 1996, IEEE Trans. Signal Process. 44, 1744.
    """
    samples = signal_samples("y", y, "(S,) or (S, channels)", (1, 2), 4)
    interval = checks.positive_float("dt", dt)
    size = len(samples)
    if lines is not None:
        lines = checks.integer("lines", lines, 0)
        if lines > (size - 1) // 3:
            checks.fail("lines", f"at most (S - 1) // 3 = {(size - 1) // 3}", lines)
    Y, mean, deviation, rounding = standardised(samples.reshape(size, -1), np.asarray(y).dtype)
    fit = _search(Y, _floor(Y, rounding), lines)
    # The fit has its origin in the middle of the record.
    K, middle = fit.cycles.size, size // 2
    turn = np.exp(-2j * np.pi * fit.cycles * (middle / size))[:, None]
    amplitude = (fit.coefs[1 : K + 1] - 1j * fit.coefs[K + 1 :]) * turn
    order = np.argsort(-np.sum(np.abs(amplitude) ** 2, axis=1), kind="stable")
    amplitude, frequencies = amplitude[order] * deviation, fit.cycles[order] / size / interval
    offset, squeeze = mean + fit.coefs[0] * deviation, samples.ndim == 1
    return Harmonics(frequencies, amplitude.real, -amplitude.imag, offset, squeeze)


class _Fit(NamedTuple):
    cycles: np.ndarray  # (K,) per record
    coefs: np.ndarray  # (2 K + 1, C): constants, cosines, sines
    residual: np.ndarray  # (S, C)
    waves: np.ndarray  # (S, 2 K + 1)
    basis: np.ndarray  # orthonormal, of the span of the waves
    gain: np.ndarray  # residual energy that returns when a line is removed, (K,)
    energy: float


def _project(cycles: np.ndarray, tau: np.ndarray, Y: np.ndarray) -> _Fit:
    """Best coefficients for given frequencies."""
    K = cycles.size
    angle = 2 * np.pi * np.outer(tau, cycles)
    waves = np.hstack([np.ones((len(tau), 1)), np.cos(angle), np.sin(angle)])
    # Twice through the Gram matrix: as accurate as a QR decomposition, ten times as fast.
    basis, inverse = waves, np.eye(2 * K + 1)
    for _ in range(2):
        s, V = np.linalg.eigh(basis.T @ basis)
        independent = s > RCOND * s[-1]
        V = V[:, independent] / np.sqrt(s[independent])
        basis, inverse = basis @ V, inverse @ V
    coefs = inverse @ (basis.T @ Y)
    residual = Y - waves @ coefs
    gram = inverse @ inverse.T
    pairs = np.arange(K)[:, None] + np.array([1, K + 1])
    metric = np.linalg.pinv(gram[pairs[:, :, None], pairs[:, None, :]], hermitian=True)
    pair = coefs[pairs]
    gain = np.einsum("kic,kij,kjc->k", pair, metric, pair)
    return _Fit(cycles, coefs, residual, waves, basis, gain, float(np.sum(residual**2)))


def _refine(fit: _Fit, tau: np.ndarray, Y: np.ndarray, steps: int, tol: float) -> _Fit:
    """Levenberg-Marquardt over the frequencies, the coefficients eliminated."""
    K = fit.cycles.size
    damping = 1e-3
    normal = slope = np.zeros(0)
    fresh = True
    for _ in range(steps if K else 0):
        if fresh:
            # Kaufman: the derivative of the waves, less what the coefficients take up of it. The
            # channels enter through the coefficients alone, so they are never stacked.
            D = 2 * np.pi * tau[:, None] * fit.waves[:, 1:]
            D -= fit.basis @ (fit.basis.T @ D)
            W = np.vstack([fit.coefs[K + 1 :], -fit.coefs[1 : K + 1]])
            normal = ((W @ W.T) * (D.T @ D)).reshape(2, K, 2, K).sum((0, 2))
            slope = (W * (D.T @ fit.residual)).sum(1).reshape(2, K).sum(0)
        scale = np.sqrt(np.diag(normal)) + 1e-300
        system = normal / np.outer(scale, scale) + damping * np.eye(K)
        step = np.linalg.lstsq(system, slope / scale, rcond=1e-15)[0] / scale
        # Beyond half a cycle a record the linearisation says nothing.
        step = np.clip(step, -0.5, 0.5)
        rounding = np.max(np.abs(step) / fit.cycles) < 1e-13
        if rounding or slope @ step < tol * fit.energy or damping > 100:
            break
        trial = _project(np.clip(fit.cycles + step, SLOWEST, len(tau) / 2), tau, Y)
        fresh = trial.energy < fit.energy and not _unsound(trial, Y).size
        fit, damping = (trial, damping / 10) if fresh else (fit, damping * 10)
    return fit


def _search(Y: np.ndarray, floor: float, lines: int | None) -> _Fit:
    """Lines added by the periodogram, refined together, and the superfluous removed."""
    size, channels = Y.shape
    most = min(size // 8, MOST_LINES) if lines is None else lines
    heavy = size * most > 2e5
    goal = min(most + 2 + (0 if heavy else most // 4), (size - 1) // 3) if most else 0
    tau = (np.arange(size) - size // 2) / size
    cost = (2 * channels + 3) * np.log(size) if lines is None else 0.0

    def settled(cycles: np.ndarray, steps: int = 3 if heavy else 8, tol: float = 1e-3) -> _Fit:
        fit = _refine(_project(cycles, tau, Y), tau, Y, steps, tol)
        while (unsound := _unsound(fit, Y)).size:
            weakest = unsound[np.argmin(fit.gain[unsound])]
            fit = _refine(_project(np.delete(fit.cycles, weakest), tau, Y), tau, Y, steps, tol)
        return fit

    def worth(before: float, after: float) -> float:
        return size * channels * np.log(max(before, floor) / max(after, floor))

    def grow(fit: _Fit) -> _Fit:
        for _ in range(goal):
            if fit.energy <= floor or fit.cycles.size >= goal:
                break
            fresh = _peaks(fit.residual)[: goal - fit.cycles.size]
            more = settled(np.append(fit.cycles, fresh))
            # Peaks of noise are worth 2 log S; a line may need its neighbour to be worth its cost.
            if worth(fit.energy, more.energy) <= fresh.size * cost / 2:
                break
            fit = more
        return fit

    def prune(fit: _Fit) -> _Fit:
        while fit.cycles.size:
            order = np.argsort(fit.gain)
            drop = order[: max(fit.cycles.size - most, 0)]
            if drop.size:
                # At once those that matter far less than what remains, otherwise one by one.
                limit = max(fit.gain[drop[0]], 0.01 * fit.gain[order[drop.size]])
                drop = drop[fit.gain[drop] <= limit]
            elif worth(fit.energy + float(fit.gain[order[0]]), fit.energy) > cost:
                break
            else:
                drop = order[:1]
            fit = settled(np.delete(fit.cycles, drop))
        return fit

    fit = best = settled(np.zeros(0))
    # Lines lost to collapse leave room: grow again as long as that helps.
    for _ in range(3):
        fit = settled(prune(grow(fit)).cycles, 100, 1e-9)
        if fit.energy >= best.energy:
            break
        best = fit
        if fit.energy <= floor or fit.cycles.size >= most:
            break
    return best


def _unsound(fit: _Fit, Y: np.ndarray) -> np.ndarray:
    """Lines that have collapsed onto a neighbour or cancel each other, by index."""
    order = np.argsort(fit.cycles)
    close = np.flatnonzero(np.diff(fit.cycles[order]) < CLOSEST)
    K = fit.cycles.size
    amplitude = np.hypot(fit.coefs[1 : K + 1], fit.coefs[K + 1 :])
    huge = np.any(amplitude > LARGEST * np.max(np.abs(Y), axis=0), axis=1)
    return np.append(order[close], order[close + 1]) if close.size else np.flatnonzero(huge)


def _peaks(residual: np.ndarray) -> np.ndarray:
    """Cycles per record of the strongest lines, and of those nearly as strong, far apart."""
    size = len(residual)
    power = np.sum(np.abs(np.fft.rfft(residual, 4 * size, axis=0)) ** 2, axis=1)
    power[0] = 0
    from scipy.signal import find_peaks  # its import takes half a second

    at, _ = find_peaks(np.append(power, 0), height=0.5 * np.max(power), distance=8)
    return at[np.argsort(-power[at], kind="stable")] / 4


def _floor(Y: np.ndarray, rounding: np.ndarray) -> float:
    """Residual energy of a perfect fit: the samples' own rounding, and that of the phases."""
    phases = np.finfo(float).eps * len(Y) * np.std(Y, axis=0)
    return len(Y) * float(np.sum((rounding + phases) ** 2))
