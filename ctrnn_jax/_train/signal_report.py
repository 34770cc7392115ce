"""How well an oscillator generates a signal and goes on with it, beside what needs no network."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from .._analysis.autoregression import autoregression
from .._analysis.harmonics import lines_in
from .._analysis.samples import Record
from .._files.models import register
from .._util.types import Array, Float
from .oscillator import Oscillator

# Values (T, channels) at times in intervals, from the samples before them.
_Ahead = Callable[[Record, np.ndarray], np.ndarray]
_NOTHING = "No samples were held out: nothing is known of what follows."
_MARGIN = 0.01  # errors that differ by less are called equal
_HIGHEST_ORDER = 128


class SignalReport(eqx.Module):
    """How well an oscillator generates a signal: normalised RMSE, √(Σ (y - s)² / Σ (s - s̄)²).

    Args:
        nrmse: (channels,) over the samples that were trained on.
        held_out_nrmse: (channels,) over the samples after them, normalised by the standard
            deviation of those trained on; nan if none.
        harmonic_nrmse, harmonic_held_out_nrmse: the same of harmonic regression with the number of
            lines that best foresees the last two fifths of the training samples, each from those
            before; at most as many parameters.
        autoregression_held_out_nrmse: of autoregression, its order chosen in the same way. Where
            samples are uneven or missing, on a grid that harmonic regression fills, and what it
            leaves, interpolated.
        mean_held_out_nrmse: of the mean of the training samples.
        extrapolated_amplitude: (channels,) standard deviation of what is generated for ten times
            as long (at most 100000 intervals) beyond the samples, over that of those trained on.
        num_parameters: of the oscillator: weights, initial state, read-out, offset.
        harmonic_lines: sinusoids of harmonic regression.
        autoregression_order: earlier samples, at most 128, from which autoregression foresees.
        training_samples, held_out_samples: their numbers.
        kind: "lines" for a nearly linear network, "nonlinear" for one trained by its waveform.
        validation_nrmse: {kind: error} over the last fifth of the training samples, of candidates
            trained on those before: what decided about the kind.
        losses: (steps,) squared error of the waveform after each step of a nonlinear one: first
            over a quarter of the samples before the last fifth, then over half of them, over all
            of them, and over all training samples. With each of these parts it begins anew.
        verdict: one sentence; errors within 1 % of each other, or both at most 10⁻⁶ (for float32
            1.2 10⁻³), are called equal.
    """

    nrmse: Float[Array, " channels"]
    held_out_nrmse: Float[Array, " channels"]
    harmonic_nrmse: Float[Array, " channels"]
    harmonic_held_out_nrmse: Float[Array, " channels"]
    autoregression_held_out_nrmse: Float[Array, " channels"]
    mean_held_out_nrmse: Float[Array, " channels"]
    extrapolated_amplitude: Float[Array, " channels"]
    num_parameters: int
    harmonic_lines: int
    autoregression_order: int
    training_samples: int
    held_out_samples: int
    kind: str
    validation_nrmse: dict[str, float]
    losses: Float[Array, " steps"]
    verdict: str

    def __str__(self) -> str:
        def numbers(values: Any) -> str:
            return ", ".join(f"{v:.3g}" for v in np.ravel(values))

        after = self.held_out_nrmse, self.harmonic_held_out_nrmse
        after = *after, self.autoregression_held_out_nrmse, self.mean_held_out_nrmse
        names = "", f"harmonic regression, {self.harmonic_lines} lines: "
        names = *names, f"autoregression of order {self.autoregression_order}: ", "mean: "
        own, *others = (name + numbers(v) for name, v in zip(names, after, strict=True))
        held_out = f"over the {self.held_out_samples} after them: {own} ({'; '.join(others)})"
        return "\n".join(
            [
                self.verdict,
                f"{self.kind}, {self.num_parameters} parameters",
                f"normalised RMSE over {self.training_samples} samples: {numbers(self.nrmse)}"
                f" ({names[1]}{numbers(self.harmonic_nrmse)})",
                *[held_out] * (self.held_out_samples > 0),
                f"amplitude far beyond: {numbers(self.extrapolated_amplitude)} of the signal's",
            ]
        )


register(SignalReport)


def nrmse(y: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(channels,) of signals whose standard deviation over the training samples is 1.

    Over what is not missing; nan where there is nothing.
    """
    return np.sqrt(_mean_square(y, target, axis=0))


def foreseen(y: np.ndarray, target: np.ndarray) -> float:
    """Root mean square error over all channels; infinite where something is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        error = float(np.sqrt(_mean_square(y, target)))
    return error if np.isfinite(error) else math.inf


def _mean_square(y: np.ndarray, target: np.ndarray, axis: int | None = None) -> Any:
    missing = np.isnan(target)
    known = ~missing if missing.any() else True
    with np.errstate(invalid="ignore"):
        return np.sum((y - target) ** 2, axis=axis, where=known) / np.sum(~missing, axis=axis)


def fifth(size: int) -> int:
    """Samples of a fifth of so many."""
    return max(size // 5, 1)


def num_parameters(n: int, channels: int) -> int:
    """Of an oscillator: weights, initial state, read-out and offset."""
    return n * (n - 1) // 2 + n + channels * (n + 1)


class Baselines:
    """Harmonic regression and autoregression with their best numbers of parameters.

    These are chosen by what they foresee of the last two fifths of the training samples, each
    foreseen from the samples before it.
    """

    def __init__(self, record: Record, most_lines: int):
        self.record = record
        early = record.first(len(record.y) - 2 * fifth(len(record.y)))
        self.most_lines = max(min(most_lines, (early.each - 1) // 3), 1)
        size = min(len(early.y), _grid_points(early))
        self.orders = [p for p in growing(1, _HIGHEST_ORDER) if p <= (size - 1) // 3]
        self.errors: dict[int, tuple[float, float]] = {}
        self.in_modes = self.lines = self.order = 1
        self.filled: dict[int, np.ndarray] = {}

    def candidates(self, modes: int) -> int:
        modes = min(modes, self.most_lines)
        return modes + len(growing(modes + 1, self.most_lines)) + len(self.orders)

    def choose(self, modes: int, advance: Callable[[int], Any]) -> None:
        """`in_modes`: the best of at most `modes` lines; `lines` and `order`: the best of all."""
        modes = min(modes, self.most_lines)
        for count in range(1, modes + 1):
            self.errors[count] = self._validated(self._harmonic(count))
            advance(1)
        self.in_modes = self.lines = min(self.errors, key=self._score)
        worse = 0
        for count in growing(modes + 1, self.most_lines):
            # Twice in a row without a gain: what follows describes the noise, and takes longest.
            if worse == 2:
                break
            self.errors[count] = self._validated(self._harmonic(count))
            advance(1)
            better = self._score(count) < (1 - _MARGIN) ** 2 * self._score(self.lines)
            self.lines, worse = (count, 0) if better else (self.lines, worse + 1)
        scores = {}
        for order in self.orders:
            scores[order] = math.hypot(*self._validated(self._autoregressive(order)))
            advance(1)
        self.order = min(scores, key=lambda order: scores[order])

    def error(self, lines: int) -> float:
        """Of the last fifth."""
        return self.errors[lines][1]

    def predictions(self, whole: Record) -> tuple[np.ndarray, np.ndarray, int]:
        """Both at all samples, also those held out, and how many lines there are.

        For autoregression, which foresees only, the training samples themselves stand first.
        """
        found, size = lines_in(self.record, self.lines), len(self.record.y)
        autoregressive = self.record.y
        if size < len(whole.y):
            ahead = self._autoregressive(self.order)(self.record, whole.at[size:])
            autoregressive = np.concatenate([autoregressive, ahead])
        return found.predict(whole.t), autoregressive, found.frequencies.size

    def _score(self, lines: int) -> float:
        return math.hypot(*self.errors[lines]) ** 2

    def _harmonic(self, lines: int) -> _Ahead:
        return lambda early, at: lines_in(early, lines).predict(early.interval * at)

    def _autoregressive(self, order: int) -> _Ahead:
        """On a grid that the best lines fill, and what they leave, interpolated."""

        def ahead(early: Record, at: np.ndarray) -> np.ndarray:
            key = len(early.y)
            if key not in self.filled:
                self.filled[key] = _filled(early, self.lines)
            before = self.filled[key]
            after = autoregression(before, order).forecast(int(np.ceil(at[-1])) + 1 - len(before))
            place = at.astype(int)
            if np.array_equal(place, at):
                return after[place - len(before)]
            from scipy.interpolate import make_interp_spline

            values = np.concatenate([before, after])
            if not np.isfinite(values).all():
                return np.full((len(at), values.shape[1]), np.inf)
            return make_interp_spline(np.arange(len(values)), values, k=5)(at)

        return ahead

    def _validated(self, ahead: _Ahead) -> tuple[float, float]:
        record, count = self.record, fifth(len(self.record.y))
        starts = len(record.y) - 2 * count, len(record.y) - count
        first, last = (
            foreseen(ahead(record.first(s), record.at[s : s + count]), record.y[s : s + count])
            for s in starts
        )
        return first, last


def _grid_points(record: Record) -> int:
    """Of the grid of intervals, up to the last sample."""
    return int(record.at[-1]) + 1


def _filled(record: Record, lines: int) -> np.ndarray:
    """Samples on the grid, (points, channels)."""
    if record.is_even:
        return record.y
    found, grid = lines_in(record, lines), np.arange(_grid_points(record))
    left, known = record.y - found.predict(record.t), ~np.isnan(record.y)
    filled = found.predict(record.interval * grid)
    for k in np.flatnonzero(known.any(axis=0)):
        filled[:, k] += np.interp(grid, record.at[known[:, k]], left[known[:, k], k])
    return filled


def growing(first: int, last: int) -> list[int]:
    """Numbers from first to last, each about half as large again as the one before, and last."""
    numbers = []
    while first < last:
        numbers.append(first)
        first = max(first + 1, round(1.4 * first))
    return [*numbers, last] if numbers or first == last else numbers


def measure_signal(
    generated: np.ndarray,
    whole: Record,
    oscillator: Oscillator,
    kind: str,
    validation: dict[str, float],
    losses: np.ndarray,
    baselines: Baselines,
) -> SignalReport:
    """The report on what is generated at the samples, and then (S' - S, channels) far beyond.

    Both are in units in which the first samples, those trained on, have mean 0 and standard
    deviation 1.
    """
    (channels, n), size, y = oscillator.readout.shape, len(baselines.record.y), whole.y
    harmonic, autoregressive, lines = baselines.predictions(whole)
    # The last, the mean of the samples trained on, is what foresees without any model.
    signals = generated[: len(y)], harmonic, autoregressive, np.zeros_like(y)
    after, verdict = np.full((4, channels), np.nan), _NOTHING
    if size < len(y):
        with np.errstate(over="ignore"):
            after = np.array([nrmse(signal[size:], y[size:]) for signal in signals])
        # A channel may have nothing there.
        some = ~np.isnan(y[size:]).all(axis=0)
        ours, theirs, linear, plain = (float(np.mean(error)) for error in after[:, some])
        others = {
            f"harmonic regression of {lines} line{'s' * (lines != 1)}": theirs,
            f"autoregression of order {baselines.order}": linear,
            "their mean": plain,
        }
        verdict = verdict_on(ours, others, float(jnp.finfo(oscillator.x0.dtype).eps))
    return SignalReport(
        nrmse=jnp.asarray(nrmse(generated[:size], y[:size])),
        held_out_nrmse=jnp.asarray(after[0]),
        harmonic_nrmse=jnp.asarray(nrmse(harmonic[:size], y[:size])),
        harmonic_held_out_nrmse=jnp.asarray(after[1]),
        autoregression_held_out_nrmse=jnp.asarray(after[2]),
        mean_held_out_nrmse=jnp.asarray(after[3]),
        extrapolated_amplitude=jnp.asarray(generated[len(y) :].std(axis=0)),
        num_parameters=num_parameters(n, channels),
        harmonic_lines=lines,
        autoregression_order=baselines.order,
        training_samples=size,
        held_out_samples=len(y) - size,
        kind=kind,
        validation_nrmse=validation,
        losses=jnp.asarray(losses),
        verdict=verdict,
    )


def verdict_on(
    ours: float,
    others: dict[str, float],
    eps: float,
    reason: str = ": what oscillates does not keep its phase",
) -> str:
    """The most important first: whether it foresees anything, then whether something does better.

    A comparison is between errors that differ by more than _MARGIN and by more than rounding.
    """
    exact = max(1e-6, 1e4 * eps)

    def listed(names: Any) -> str:
        return " and ".join(f"{name} ({others[name]:.3g})" for name in names)

    def worse(a: float, b: float) -> bool:
        return not (a <= exact or a <= (1 + _MARGIN) * b)

    mean = others["their mean"]
    ahead = [name for name in others if worse(ours, others[name])]
    behind = [name for name in others if worse(others[name], ours) and name != "their mean"]
    equal = [name for name in others if name not in ahead + behind and name != "their mean"]
    if not worse(mean, ours):
        what = "no better than" if not worse(ours, mean) else "worse than"
        text = f"Foresees the held-out samples ({ours:.3g}) {what} {listed(['their mean'])}"
        text += reason
        ahead = [name for name in ahead if name != "their mean" and worse(mean, others[name])]
        return text + (f"; {listed(ahead)} would do better." if ahead else ".")
    text = f"Foresees the held-out samples ({ours:.3g}) "
    if ours <= exact:
        text = f"Foresees the held-out samples as far as rounding allows ({ours:.3g}), "
    parts = [("worse than", ahead), ("as well as", equal), ("better than", behind)]
    return text + ", ".join(f"{how} {listed(names)}" for how, names in parts if names) + "."
