"""How well a driven network answers its inputs as a signal does, beside a linear prediction."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from .._analysis.arx import Arx, fit_arx
from .._files.models import register
from .._util.types import Array, Float
from .oscillator import Oscillator
from .signal_report import fifth, foreseen, growing, nrmse, verdict_on

_NOTHING = "No samples were held out: nothing is known of other inputs."
_HIGHEST_ORDER = 64


class IdentificationReport(eqx.Module):
    """How well a driven network answers its inputs: normalised RMSE, √(Σ (y - s)² / Σ (s - s̄)²).

    All errors but those of one step are of simulations: from the first sample on, or for ARX from
    the samples before the held-out ones, by the inputs alone.

    Args:
        nrmse: (channels,) over the samples that were trained on.
        held_out_nrmse: (channels,) over the samples after them, normalised by the standard
            deviation of those trained on; nan if none.
        arx_held_out_nrmse: of an ARX model of at most as many parameters, its orders chosen by its
            simulations of the last two fifths of the training samples, each from those before.
        arx_one_step_nrmse: of the same model where it sees all samples before the one foreseen,
            held-out ones too: another task, in which errors do not add up.
        mean_held_out_nrmse: of the mean of the training samples.
        num_parameters: of the network: weights, leaks, input weights, bias, initial state,
            read-out, offset.
        arx_parameters: of the ARX model.
        arx_orders: its samples of the past, of the inputs, and the delay of the inputs.
        training_samples, held_out_samples: their numbers.
        kind: "linear" for a nearly linear network, "nonlinear" for one trained at an amplitude at
            which it is not.
        validation_nrmse: {kind: error} over the last fifth of the training samples, of candidates
            trained on those before: what decided about the kind.
        losses: (steps,) squared error after each step over all training samples.
        verdict: one sentence; errors within 1 % of each other, or both at most 10⁻⁶ (for float32
            1.2 10⁻³), are called equal.
    """

    nrmse: Float[Array, " channels"]
    held_out_nrmse: Float[Array, " channels"]
    arx_held_out_nrmse: Float[Array, " channels"]
    arx_one_step_nrmse: Float[Array, " channels"]
    mean_held_out_nrmse: Float[Array, " channels"]
    num_parameters: int
    arx_parameters: int
    arx_orders: tuple[int, int, int]
    training_samples: int
    held_out_samples: int
    kind: str
    validation_nrmse: dict[str, float]
    losses: Float[Array, " steps"]
    verdict: str

    def __str__(self) -> str:
        def numbers(values: Any) -> str:
            return ", ".join(f"{v:.3g}" for v in np.ravel(values))

        na, nb, delay = self.arx_orders
        arx = f"ARX of orders {na} and {nb}, delay {delay}, {self.arx_parameters} parameters"
        held_out = (
            f"over the {self.held_out_samples} after them: {numbers(self.held_out_nrmse)}"
            f" ({arx}: {numbers(self.arx_held_out_nrmse)}, one step ahead"
            f" {numbers(self.arx_one_step_nrmse)}; mean: {numbers(self.mean_held_out_nrmse)})"
        )
        return "\n".join(
            [
                self.verdict,
                f"{self.kind}, {self.num_parameters} parameters",
                f"normalised RMSE over {self.training_samples} samples: {numbers(self.nrmse)}",
                *[held_out] * (self.held_out_samples > 0),
            ]
        )


register(IdentificationReport)


def best_arx(y: np.ndarray, u: np.ndarray, most_parameters: int) -> Arx:
    """Of at most so many parameters, trained on all of y (S, channels) and u (S, m)."""
    (size, channels), m = y.shape, u.shape[1]
    count = fifth(size)
    splits = size - 2 * count, size - count
    a_channel = max(most_parameters // channels, 2 + m)
    best, chosen = math.inf, (1, 1, 1)
    for na in growing(1, _HIGHEST_ORDER):
        for nb in growing(1, _HIGHEST_ORDER):
            # As many equations as unknowns, twice over, in the smaller part.
            if 1 + na + m * nb > min(a_channel, (splits[0] - max(na, nb) - 1) // 2):
                continue
            for delay in (0, 1):
                error = 0.0
                for start in splits:
                    model = fit_arx(y[:start], u[:start], na, nb, delay)
                    made = model.simulated(y, u[: start + count], start)
                    error += foreseen(made, y[start : start + count]) ** 2
                if error < best:
                    best, chosen = error, (na, nb, delay)
    return fit_arx(y, u, *chosen)


def measure_inputs(
    generated: np.ndarray,
    y: np.ndarray,
    u: np.ndarray,
    size: int,
    oscillator: Oscillator,
    parameters: int,
    kind: str,
    validation: dict[str, float],
    losses: np.ndarray,
) -> IdentificationReport:
    """The report on generated (S, channels) beside y (S, channels), driven by u (S, m).

    The first `size` of y, those trained on, have mean 0 and standard deviation 1.
    """
    arx = best_arx(y[:size], u[:size], parameters)
    after, verdict = np.full((4, y.shape[1]), np.nan), _NOTHING
    if size < len(y):
        signals = (
            generated[size:],
            arx.simulated(y, u, size),
            arx.one_step(y, u, size),
            np.zeros_like(y[size:]),
        )
        with np.errstate(over="ignore", invalid="ignore"):
            after = np.array([nrmse(signal, y[size:]) for signal in signals])
        ours, theirs, _, plain = (float(np.mean(error)) for error in after)
        verdict = verdict_on(
            ours,
            {"ARX": theirs if np.isfinite(theirs) else math.inf, "their mean": plain},
            float(jnp.finfo(oscillator.x0.dtype).eps),
            reason="",
        )
    return IdentificationReport(
        nrmse=jnp.asarray(nrmse(generated[:size], y[:size])),
        held_out_nrmse=jnp.asarray(after[0]),
        arx_held_out_nrmse=jnp.asarray(after[1]),
        arx_one_step_nrmse=jnp.asarray(after[2]),
        mean_held_out_nrmse=jnp.asarray(after[3]),
        num_parameters=parameters,
        arx_parameters=arx.num_parameters,
        arx_orders=(len(arx.past), len(arx.driven), arx.delay),
        training_samples=size,
        held_out_samples=len(y) - size,
        kind=kind,
        validation_nrmse=validation,
        losses=jnp.asarray(losses),
        verdict=verdict,
    )
