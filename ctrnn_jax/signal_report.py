"""How well an oscillator generates a signal and goes on with it, beside harmonic regression."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from ._types import Array, Float
from .harmonics import harmonic_regression
from .io import register
from .oscillator import Oscillator

_NOTHING = "No samples were held out: nothing is known of what follows."


class SignalReport(eqx.Module):
    """How well an oscillator generates a signal: normalised RMSE, √(Σ (y - s)² / Σ (s - s̄)²).

    Args:
        nrmse: (channels,) over the samples that were trained on.
        held_out_nrmse: (channels,) over the samples after them, normalised by the standard
            deviation of those trained on; nan if none.
        harmonic_nrmse, harmonic_held_out_nrmse: the same of harmonic regression with at most as
            many parameters.
        extrapolated_amplitude: (channels,) standard deviation of what is generated over ten times
            the samples (at most 100000) beyond them, over that of the training samples.
        num_parameters: of the oscillator: weights, initial state, read-out, offset.
        harmonic_lines: sinusoids of the regression.
        training_samples, held_out_samples: their numbers.
        kind: "lines" for a nearly linear network, "nonlinear" for one trained by its waveform.
        validation_nrmse: {kind: error} over the last fifth of the training samples, of candidates
            trained on those before: what decided about the kind.
        losses: (steps,) squared error of the waveform after each step of a nonlinear one, over the
            horizon that it had then.
        verdict: one sentence.
    """

    nrmse: Float[Array, " channels"]
    held_out_nrmse: Float[Array, " channels"]
    harmonic_nrmse: Float[Array, " channels"]
    harmonic_held_out_nrmse: Float[Array, " channels"]
    extrapolated_amplitude: Float[Array, " channels"]
    num_parameters: int
    harmonic_lines: int
    training_samples: int
    held_out_samples: int
    kind: str
    validation_nrmse: dict[str, float]
    losses: Float[Array, " steps"]
    verdict: str

    def __str__(self) -> str:
        def numbers(values: Any) -> str:
            return ", ".join(f"{v:.3g}" for v in np.ravel(values))

        return "\n".join(
            [
                f"{self.kind}, {self.num_parameters} parameters",
                f"normalised RMSE over {self.training_samples} samples: {numbers(self.nrmse)}"
                f" (harmonic regression, {self.harmonic_lines} lines: "
                f"{numbers(self.harmonic_nrmse)})",
                f"over the {self.held_out_samples} after them: {numbers(self.held_out_nrmse)}"
                f" ({numbers(self.harmonic_held_out_nrmse)})",
                f"amplitude far beyond: {numbers(self.extrapolated_amplitude)} of the signal's",
                self.verdict,
            ]
        )


register(SignalReport)


def nrmse(y: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(channels,) of signals whose standard deviation over the training samples is 1."""
    return np.sqrt(np.mean((y - target) ** 2, axis=0))


def measure_signal(
    generated: np.ndarray,
    y: np.ndarray,
    size: int,
    dt: float,
    oscillator: Oscillator,
    kind: str,
    validation: dict[str, float],
    losses: np.ndarray,
) -> SignalReport:
    """The report on generated (S', channels) beside y (S, channels), S' > S.

    Both are in units in which the `size` first of y, those trained on, have mean 0 and standard
    deviation 1.
    """
    channels, n = y.shape[1], oscillator.rnn.size
    parameters = n * (n - 1) // 2 + n + channels * (n + 1)
    count = (parameters - channels) // (1 + 2 * channels)
    found = harmonic_regression(y[:size], dt, min(count, (size - 1) // 3))
    regression = found.predict(dt * np.arange(len(y)))
    # The third, the mean of the samples trained on, is what foresees without any model.
    signals = generated[: len(y)], regression, np.zeros_like(y)
    ours, theirs, _ = (nrmse(signal[:size], y[:size]) for signal in signals)
    after, verdict = np.full((2, channels), np.nan), _NOTHING
    if size < len(y):
        errors = [nrmse(signal[size:], y[size:]) for signal in signals]
        after = errors[:2]
        our_mean, their_mean, plain = (float(np.mean(error)) for error in errors)
        verdict = _verdict(our_mean, their_mean, plain, kind, n, found.frequencies.size)
    return SignalReport(
        nrmse=jnp.asarray(ours),
        held_out_nrmse=jnp.asarray(after[0]),
        harmonic_nrmse=jnp.asarray(theirs),
        harmonic_held_out_nrmse=jnp.asarray(after[1]),
        extrapolated_amplitude=jnp.asarray(generated[len(y) :].std(axis=0)),
        num_parameters=parameters,
        harmonic_lines=found.frequencies.size,
        training_samples=size,
        held_out_samples=len(y) - size,
        kind=kind,
        validation_nrmse=validation,
        losses=jnp.asarray(losses),
        verdict=verdict,
    )


def _verdict(ours: float, theirs: float, mean: float, kind: str, n: int, lines: int) -> str:
    figures = f"({ours:.3g} against {theirs:.3g})"
    if abs(ours - theirs) <= 0.01 * theirs:
        text = f"Foresees the held-out samples as well as harmonic regression {figures}"
    elif ours < theirs:
        text = f"Foresees the held-out samples better than harmonic regression {figures}"
    elif lines <= n // 2 and theirs < 1e-6:
        text = f"The samples are {lines} sinusoids, and harmonic regression is exact {figures}"
    else:
        text = f"Does not foresee the held-out samples as well as harmonic regression {figures}"
        if ours < mean:
            text += f": {lines} free lines describe it better than {n} neurons"
            text += f" near {n // 2} lines" if kind == "lines" else ", nonlinear"
    if ours >= mean:
        text += f"; the mean would do better ({mean:.3g}): what oscillates does not keep its phase"
    return text + "."
