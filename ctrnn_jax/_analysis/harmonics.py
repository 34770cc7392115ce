"""Sinusoids in a sampled signal: where training starts, and a baseline to report against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .._util import checks
from .._util.types import ArrayLike
from .samples import Record, recorded, signal_samples, standardised

# Cycles per record. Slower lines are polynomials, and closer ones a line times a polynomial: their
# amplitudes grow without bound while the samples hardly change.
SLOWEST = 0.05
CLOSEST = 0.02
# Amplitudes, in multiples of the largest deviation from the mean: beyond, lines cancel each other
# within the record and explode after it.
LARGEST = 10.0
RCOND = 1e-13
MOST_LINES = 60
# Points an interval of the grid of the periodogram, for samples that lie on none.
FINER = 4
# Of the highest peak of samples with gaps: those that are tried, and how many.
ALIASES, MOST_ALIASES = 0.75, 8


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


def harmonic_regression(
    y: ArrayLike,
    dt: ArrayLike | None = None,
    lines: int | None = None,
    *,
    times: ArrayLike | None = None,
) -> Harmonics:
    """The sinusoids that best describe a signal, their frequencies fitted jointly.

    min over f, a, b, c of Σ_j |(y_j - c - Σ_k a_k cos(2π f_k t_j) + b_k sin(2π f_k t_j)) / s|²,
    s the standard deviation of each channel: the unit and the offset of a channel change nothing.
    The sum goes over the samples that there are, at t_j = j dt or at any other times.

    Lines are added where the periodogram of the residual is strongest, all frequencies refined
    after each addition by Levenberg-Marquardt with a, b, c eliminated (variable projection,
    Kaufman's Jacobian). A few lines too many are added and the least useful removed again one by
    one, which leaves most local minima. Clean lines are resolved below 1 / duration. Frequencies
    stay above 0.05 / duration and 0.02 / duration apart, amplitudes below 10 times the largest
    deviation from the mean: beyond, lines cancel within the record and explode after it. What is no
    sum of sinusoids, such as a decaying one, has lines at these bounds. No line is faster than half
    a cycle an interval: dt, the spacing of the grid on which times lie, or else their median step.

    Args:
        y: (S,) or (S, channels) samples, S >= 4; the channels share the frequencies. nan is a
            missing one.
        dt: sampling interval in seconds.
        lines: number of sinusoids, at most (S - 1) // 3; fewer are returned where the residual is
            rounding already, or no further line fits within the bounds. None: as many, up to
            min(S // 8, 60), as minimise
            S C log(Σ|residual / s|²) + (2 C + 3) K log S, C channels: the frequency counts three
            times, its error falling as S^(-3/2). S counts what a channel has on average.
        times: (S,) in seconds, increasing, instead of dt.

    Returns:
        The `Harmonics`, with `predict(t)` for t in seconds after the first sample (or missing one).

    Raises:
        TypeError, ValueError: where y is no floating-point array of 4 samples or not finite, dt is
            not > 0, times do not increase, or lines is out of range.

    Example:
        >>> fit = ct.harmonic_regression(y, dt=0.01, lines=3)
        >>> forecast = fit.predict(0.01 * np.arange(len(y), 2 * len(y)))
        >>> fit = ct.harmonic_regression(y, times=times)  # uneven ones
        >>> fit.predict(times - times[0])

    Source:
        Golub and Pereyra 1973, SIAM J. Numer. Anal. 10, 413; Kaufman 1975, BIT 15, 49; the
        criterion: Djurić 1996, IEEE Trans. Signal Process. 44, 1744.
    """
    samples = signal_samples("y", y, "(S,) or (S, channels)", (1, 2), 4, gaps=True)
    record = recorded("y", samples.reshape(len(samples), -1), dt, times)
    if record.fewest < 4:
        checks.fail("y", "at least 4 samples that are not missing", record.fewest)
    if lines is not None:
        lines = checks.integer("lines", lines, 0)
        if lines > (most := (record.each - 1) // 3):
            checks.fail("lines", f"at most (S - 1) // 3 = {most}", lines)
    return lines_in(record, lines, np.asarray(y).dtype, squeeze=samples.ndim == 1)


def lines_in(
    record: Record, lines: int | None, dtype: Any = np.float64, squeeze: bool = False
) -> Harmonics:
    """`harmonic_regression` of samples that were rounded to this dtype."""
    Y, mean, deviation, rounding = standardised(record.y, dtype)
    length = record.length
    data = _Data(record.at, length, np.where(np.isnan(Y), 0, Y), _alike(Y), record.each)
    fit = _search(data, _floor(data, rounding), lines)
    # The fit has its origin in the middle of the record.
    K, middle = fit.cycles.size, length // 2
    turn = np.exp(-2j * np.pi * fit.cycles * (middle / length))[:, None]
    amplitude = (fit.coefs[1 : K + 1] - 1j * fit.coefs[K + 1 :]) * turn
    order = np.argsort(-np.sum(np.abs(amplitude) ** 2, axis=1), kind="stable")
    amplitude, frequencies = amplitude[order] * deviation, fit.cycles[order] / length
    offset = mean + fit.coefs[0] * deviation
    return Harmonics(
        frequencies / record.interval, amplitude.real, -amplitude.imag, offset, squeeze
    )


class _Group(NamedTuple):
    """Channels that have the same samples: they share what is orthogonal."""

    rows: Any
    channels: Any


class _Data(NamedTuple):
    at: np.ndarray  # (S,) in intervals
    length: int  # of the record, in intervals
    Y: np.ndarray  # (S, C), 0 where missing
    groups: list[_Group]
    each: int  # samples of a channel, on average

    @property
    def tau(self) -> np.ndarray:
        """(S,) in records, from the middle of it."""
        return (self.at - self.length // 2) / self.length


def _alike(Y: np.ndarray) -> list[_Group]:
    known = ~np.isnan(Y)
    if known.all():  # views instead of copies
        return [_Group(slice(None), slice(None))]
    kinds, which = np.unique(known, axis=1, return_inverse=True)
    which = which.ravel()
    groups = [
        _Group(np.flatnonzero(kind), np.flatnonzero(which == k)) for k, kind in enumerate(kinds.T)
    ]
    return [group for group in groups if group.rows.size]  # one may begin later


class _Part(NamedTuple):
    """Of a group of channels."""

    waves: np.ndarray  # (S, 2 K + 1)
    basis: np.ndarray  # orthonormal, of the span of the waves


class _Fit(NamedTuple):
    cycles: np.ndarray  # (K,) per record
    coefs: np.ndarray  # (2 K + 1, C): constants, cosines, sines
    residual: np.ndarray  # (S, C), 0 where missing
    parts: list[_Part]
    gain: np.ndarray  # residual energy that returns when a line is removed, (K,)
    energy: float


def _project(cycles: np.ndarray, data: _Data) -> _Fit:
    """Best coefficients for given frequencies."""
    K, tau = cycles.size, data.tau
    coefs, residual = np.zeros((2 * K + 1, data.Y.shape[1])), np.zeros_like(data.Y)
    gain, parts = np.zeros(K), []
    pairs = np.arange(K)[:, None] + np.array([1, K + 1])
    for rows, channels in data.groups:
        angle = 2 * np.pi * np.outer(tau[rows], cycles)
        Y = data.Y[rows][:, channels]
        waves = np.hstack([np.ones((len(Y), 1)), np.cos(angle), np.sin(angle)])
        # Twice through the Gram matrix: as accurate as a QR decomposition, ten times as fast.
        basis, inverse = waves, np.eye(2 * K + 1)
        for _ in range(2):
            s, V = np.linalg.eigh(basis.T @ basis)
            independent = s > RCOND * s[-1]
            V = V[:, independent] / np.sqrt(s[independent])
            basis, inverse = basis @ V, inverse @ V
        found = inverse @ (basis.T @ Y)
        gram = inverse @ inverse.T
        metric = np.linalg.pinv(gram[pairs[:, :, None], pairs[:, None, :]], hermitian=True)
        pair = found[pairs]
        gain += np.einsum("kic,kij,kjc->k", pair, metric, pair)
        coefs[:, channels] = found
        place = rows if isinstance(rows, slice) else np.ix_(rows, channels)
        residual[place] = Y - waves @ found
        parts.append(_Part(waves, basis))
    return _Fit(cycles, coefs, residual, parts, gain, float(np.sum(residual**2)))


def _refine(fit: _Fit, data: _Data, steps: int, tol: float) -> _Fit:
    """Levenberg-Marquardt over the frequencies, the coefficients eliminated."""
    K, tau = fit.cycles.size, data.tau
    damping = 1e-3
    normal = slope = np.zeros(0)
    fresh = True
    for _ in range(steps if K else 0):
        if fresh:
            # Kaufman: the derivative of the waves, less what the coefficients take up of it. The
            # channels enter through the coefficients alone, so they are never stacked.
            normal, slope = np.zeros((K, K)), np.zeros(K)
            for (rows, channels), part in zip(data.groups, fit.parts, strict=True):
                D = 2 * np.pi * tau[rows][:, None] * part.waves[:, 1:]
                D -= part.basis @ (part.basis.T @ D)
                coefs = fit.coefs[:, channels]
                W = np.vstack([coefs[K + 1 :], -coefs[1 : K + 1]])
                normal += ((W @ W.T) * (D.T @ D)).reshape(2, K, 2, K).sum((0, 2))
                left = fit.residual[rows][:, channels]
                slope += (W * (D.T @ left)).sum(1).reshape(2, K).sum(0)
        scale = np.sqrt(np.diag(normal)) + 1e-300
        system = normal / np.outer(scale, scale) + damping * np.eye(K)
        step = np.linalg.lstsq(system, slope / scale, rcond=1e-15)[0] / scale
        # Beyond half a cycle a record the linearisation says nothing.
        step = np.clip(step, -0.5, 0.5)
        rounding = np.max(np.abs(step) / fit.cycles) < 1e-13
        if rounding or slope @ step < tol * fit.energy or damping > 100:
            break
        trial = _project(np.clip(fit.cycles + step, SLOWEST, data.length / 2), data)
        fresh = trial.energy < fit.energy and not _unsound(trial, data).size
        fit, damping = (trial, damping / 10) if fresh else (fit, damping * 10)
    return fit


def _search(data: _Data, floor: float, lines: int | None) -> _Fit:
    """Lines added by the periodogram, refined together, and the superfluous removed."""
    size, channels = data.each, data.Y.shape[1]
    most = min(size // 8, MOST_LINES) if lines is None else lines
    heavy = size * most > 2e5
    goal = min(most + 2 + (0 if heavy else most // 4), (size - 1) // 3) if most else 0
    cost = (2 * channels + 3) * np.log(size) if lines is None else 0.0

    def settled(cycles: np.ndarray, steps: int = 3 if heavy else 8, tol: float = 1e-3) -> _Fit:
        fit = _refine(_project(cycles, data), data, steps, tol)
        while (unsound := _unsound(fit, data)).size:
            weakest = unsound[np.argmin(fit.gain[unsound])]
            fit = _refine(_project(np.delete(fit.cycles, weakest), data), data, steps, tol)
        return fit

    def worth(before: float, after: float) -> float:
        return size * channels * np.log(max(before, floor) / max(after, floor))

    def grow(fit: _Fit) -> _Fit:
        for _ in range(goal):
            if fit.energy <= floor or fit.cycles.size >= goal:
                break
            room = goal - fit.cycles.size
            if len(data.Y) == data.length:
                fresh = [_peaks(fit.residual, data, 0.5)[:room]]
            else:  # gaps make a line look like several, of which one is right
                fresh = _peaks(fit.residual, data, ALIASES)[:MOST_ALIASES]
            if not len(fresh):
                break
            more = min((settled(np.append(fit.cycles, f)) for f in fresh), key=lambda m: m.energy)
            # Peaks of noise are worth 2 log S; a line may need its neighbour to be worth its cost.
            if worth(fit.energy, more.energy) <= np.size(fresh[0]) * cost / 2:
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


def _unsound(fit: _Fit, data: _Data) -> np.ndarray:
    """Lines that have collapsed onto a neighbour or cancel each other, by index."""
    order = np.argsort(fit.cycles)
    close = np.flatnonzero(np.diff(fit.cycles[order]) < CLOSEST)
    K = fit.cycles.size
    amplitude = np.hypot(fit.coefs[1 : K + 1], fit.coefs[K + 1 :])
    huge = np.any(amplitude > LARGEST * np.max(np.abs(data.Y), axis=0), axis=1)
    return np.append(order[close], order[close + 1]) if close.size else np.flatnonzero(huge)


def _peaks(residual: np.ndarray, data: _Data, least: float) -> np.ndarray:
    """Cycles per record of the strongest lines, and of those nearly as strong, far apart."""
    length = data.length
    on_grid, finer = _on_grid(residual, data.at, length)
    power = np.sum(np.abs(np.fft.rfft(on_grid, 4 * finer * length, axis=0)) ** 2, axis=1)
    power = power[: 2 * length + 1]
    power[0] = 0
    from scipy.signal import find_peaks  # its import takes half a second

    at, _ = find_peaks(np.append(power, 0), height=least * np.max(power), distance=8)
    return at[np.argsort(-power[at], kind="stable")] / 4


def _on_grid(y: np.ndarray, at: np.ndarray, length: int) -> tuple[np.ndarray, int]:
    """What has the periodogram of samples: 0 where there is none; and points an interval.

    Where they lie on no grid, shared by the two points beside each: half a cycle an interval then
    has 5 % less power than it should, which peaks that are refined afterwards can bear.
    """
    low = np.floor(at)
    if np.array_equal(low, at):
        if len(at) == length:
            return y, 1
        filled = np.zeros((length, y.shape[1]))
        filled[low.astype(int)] = y
        return filled, 1
    low = np.floor(FINER * at)
    share, low = (FINER * at - low)[:, None], low.astype(int)
    filled = np.zeros((FINER * length, y.shape[1]))
    np.add.at(filled, low, (1 - share) * y)
    np.add.at(filled, low + 1, share * y)
    return filled, FINER


def _floor(data: _Data, rounding: np.ndarray) -> float:
    """Residual energy of a perfect fit: the samples' own rounding, and that of the phases."""
    phases = np.finfo(float).eps * data.length * np.std(data.Y, axis=0)
    return len(data.Y) * float(np.sum((rounding + phases) ** 2))
