"""Objectives to train towards: plain arrays or a network in, one number out, differentiable.

All are dimensionless, 0 at best and about 1 where nothing is right, so that they can be added with
weights. None depends on the unit of its signal, and what is not finite stays so. Leading axes are
averaged over; `jax.vmap` keeps them apart.
"""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ._analysis.frequencies import orbit_frequency
from ._analysis.period import period
from ._analysis.samples import unit_free
from ._analysis.spectra import spectral_density
from ._network.invariants import drift_loss as drift_loss
from ._network.model import CTRNN
from ._util import checks
from ._util.types import Array, ArrayLike, Float

__all__ = [
    "amplitude_loss",
    "cross_entropy_loss",
    "drift_loss",
    "frequency_loss",
    "norm_loss",
    "orbit_frequency_loss",
    "period_loss",
    "spectrum_loss",
    "waveform_loss",
    "weight_penalty",
]


def _shares(y: ArrayLike, dt: ArrayLike) -> tuple[Float[Array, " F"], Float[Array, "*batch F"]]:
    """Frequencies and shares of the power; a signal without power has all of it at 0 Hz."""
    f, density = spectral_density(y, dt)
    total = jnp.sum(density, axis=-1, keepdims=True)
    share = density / jnp.where(total == 0, 1, total)
    still = jnp.zeros_like(share).at[..., 0].set(1)
    return f, jnp.where(total == 0, still, share)


def frequency_loss(y: ArrayLike, dt: ArrayLike, target_hz: ArrayLike) -> Float[Array, ""]:
    """Power-weighted squared distance of the spectrum from one frequency, Σ_k p_k (f_k/f* - 1)².

    p is the normalised periodogram (mean removed, Hann window): the squared 2-Wasserstein distance
    between the spectrum and a line at f*, over f*². Unlike the error of a waveform it leads to the
    target from far away. The width of a line leaves about (1 / (f* S dt))².

    Args:
        y: (..., S) samples.
        dt: sampling interval in seconds.
        target_hz: f*, a scalar or (...,), in Hz.

    Returns:
        A scalar; 1 for a constant signal.

    Raises:
        TypeError, ValueError: for a wrong kind, shape, dtype or value of an argument.

    Example:
        >>> ct.losses.frequency_loss(trajectory.xs[..., 0], 0.01, 3.2)
    """
    f, share = _shares(y, dt)
    target = checks.positive_array("target_hz", target_hz, f.dtype)
    if target.ndim and target.shape != share.shape[:-1]:
        shape = share.shape[:-1]
        checks.fail("target_hz", f"a scalar or shape {shape} as the signals", target.shape)
    ratio = f.reshape((1,) * (share.ndim - 1) + (-1,)) / jnp.broadcast_to(
        target, share.shape[:-1]
    ).reshape(*share.shape[:-1], 1)
    return jnp.mean(jnp.sum(share * (ratio - 1) ** 2, axis=-1))


def spectrum_loss(
    y: ArrayLike, dt: ArrayLike, target_hz: ArrayLike, target_power: ArrayLike | None = None
) -> Float[Array, ""]:
    """Squared 2-Wasserstein distance between the spectrum and a target, over Σ_k q_k f_k².

    W² = ∫₀¹ (F⁻¹(u) - G⁻¹(u))² du with the quantile functions of the normalised periodogram (mean
    removed, Hann window) and of the target: how far power has to be moved along the frequency axis.
    For one line it is `frequency_loss`.

    Args:
        y: (..., S) samples.
        dt: sampling interval in seconds.
        target_hz: (K,) frequencies of lines, or of the bins of a target spectrum, in Hz, ascending.
        target_power: (K,) their powers, in any unit; equal unless given.

    Returns:
        A scalar; at most about 1 where the power lies below the target.

    Raises:
        TypeError, ValueError: for a wrong kind, shape, dtype or value of an argument.

    Example:
        >>> ct.losses.spectrum_loss(y, 0.01, jnp.array([2.0, 2.5, 3.0]))  # a chord
        >>> f, power = ct.power_spectrum(signal, 0.01)
        >>> ct.losses.spectrum_loss(y, 0.01, f, power)
    """
    f, share = _shares(y, dt)
    target = checks.positive_array("target_hz", target_hz, f.dtype, (1,), zero=True)
    if target.size == 0 or (not checks.is_traced(target) and not bool(jnp.any(target > 0))):
        checks.fail("target_hz", "at least one frequency > 0", f"shape {target.shape}")
    if not checks.is_traced(target) and bool(jnp.any(jnp.diff(target) < 0)):
        checks.fail("target_hz", "ascending frequencies", target)
    if target_power is None:
        power = jnp.ones_like(target)
    else:
        power = checks.float_array("target_power", target_power, "(K,)", (1,)).astype(f.dtype)
        if power.shape != target.shape:
            checks.fail("target_power", f"shape {target.shape}, as target_hz", power.shape)
        if not checks.is_traced(power) and not bool(
            jnp.all(jnp.isfinite(power) & (power >= 0)) & (jnp.sum(power) > 0)
        ):
            checks.fail("target_power", "finite numbers >= 0 with a sum > 0", power)
    weight = power / jnp.max(power)
    weight = weight / jnp.sum(weight)
    unit = jax.lax.stop_gradient(jnp.max(target))  # squares in Hz² may overflow, or vanish
    f, target = f / unit, target / unit
    rows = share.reshape(-1, f.size)
    distance = jax.vmap(lambda p: _wasserstein(f, p, target, weight))(rows)
    return jnp.mean(distance) / jnp.sum(weight * target**2)


def _wasserstein(f: Array, p: Array, g: Array, q: Array) -> Array:
    """W² of masses p at ascending f and q at ascending g, both of sum 1."""
    below_f, below_g = jnp.cumsum(p)[:-1], jnp.cumsum(q)[:-1]
    levels = jnp.sort(jnp.concatenate([below_f, below_g]))
    levels = jnp.clip(jnp.concatenate([jnp.zeros(1, f.dtype), levels, jnp.ones(1, f.dtype)]), 0, 1)
    # Between two levels both quantile functions are constant.
    middle = jax.lax.stop_gradient((levels[1:] + levels[:-1]) / 2)
    at_f = f[jnp.searchsorted(jax.lax.stop_gradient(below_f), middle)]
    at_g = g[jnp.searchsorted(jax.lax.stop_gradient(below_g), middle)]
    return jnp.sum(jnp.diff(levels) * (at_f - at_g) ** 2)


def orbit_frequency_loss(rnn: CTRNN, x0: ArrayLike, target_hz: ArrayLike) -> Float[Array, ""]:
    """Squared logarithm of the exact frequency over the target, log²(f/f*).

    Args:
        rnn: a network that `orbit_frequency` takes.
        x0: (..., n) states on the orbits.
        target_hz: f* in Hz, of any shape that broadcasts with that of the frequencies.

    Raises:
        TypeError, ValueError: as `orbit_frequency`, and for a target that is not > 0.
    """
    f = orbit_frequency(rnn, x0)
    return jnp.mean(jnp.log(f / _matching("target_hz", target_hz, f)) ** 2)


def period_loss(
    rnn: CTRNN, x0: ArrayLike, target_period: ArrayLike, **options: Any
) -> Float[Array, ""]:
    """Squared logarithm of the located period over the target, log²(T/T*).

    Args:
        rnn: any network; where it is trained, of two neurons or of three without a bias: of more,
            orbits through x0 open when the network changes, and the gradient is nan, see
            `ctrnn_jax.period`.
        x0: (..., n) states on the orbits.
        target_period: T* in seconds, of any shape that broadcasts with (...).
        options: as `period` takes them.

    Returns:
        A scalar; nan where an orbit does not return.

    Raises:
        TypeError, ValueError: as `period`, and for a target that is not > 0.
    """
    T = period(rnn, x0, **options)
    return jnp.mean(jnp.log(T / _matching("target_period", target_period, T)) ** 2)


def _matching(name: str, value: Any, like: Array) -> Array:
    target = checks.positive_array(name, value, like.dtype)
    try:
        return jnp.broadcast_to(target, like.shape)
    except ValueError:
        checks.fail(name, f"a scalar or a shape that broadcasts to {like.shape}", target.shape)


def waveform_loss(y: ArrayLike, target: ArrayLike) -> Float[Array, ""]:
    """Mean squared error over the variance of the target, Σ (y - s)² / Σ (s - s̄)².

    Its root is the normalised RMSE. As an objective for frequency it is poor: its gradient misleads
    unless the frequency is within about 1/(4 duration) of the target's. Use it last.

    Args:
        y: (..., S) samples.
        target: s, of the same shape; each signal counts alike.

    Raises:
        TypeError, ValueError: for a wrong kind, shape or dtype, or a constant or non-finite target.
    """
    y = checks.float_array("y", y, "(..., S)")
    s = checks.float_array("target", target, "(..., S)")
    if s.shape != y.shape:
        checks.fail("target", f"shape {y.shape}, as y", s.shape)
    checks.same_dtype("target", s, y.dtype, "y")
    checks.finite("target", s)
    z, scale = unit_free(s)
    if not checks.is_traced(scale) and not bool(jnp.all(scale > 0)):
        checks.fail("target", "signals that vary", "a constant one")
    return jnp.mean(jnp.mean(((y - s) / scale) ** 2, axis=-1) / jnp.var(z, axis=-1))


def amplitude_loss(y: ArrayLike, target_rms: ArrayLike) -> Float[Array, ""]:
    """Squared logarithm of the root mean square of a signal (mean removed) over a target.

    Args:
        y: (..., S) samples.
        target_rms: the target, of any shape that broadcasts with (...).

    Raises:
        TypeError, ValueError: for a wrong kind, shape, dtype or value of an argument.
    """
    y = checks.float_array("y", y, "(..., S)")
    z, scale = unit_free(y)
    variance, scale = jnp.var(z, axis=-1), scale[..., 0]
    target = _matching("target_rms", target_rms, variance)
    # A signal that does not move is as far away as rounding can tell, and pulls no gradient.
    least = jnp.log(jnp.finfo(y.dtype).eps.astype(y.dtype))
    still = scale == 0
    log_rms = 0.5 * jnp.log(jnp.where(still, 1, variance)) + jnp.log(jnp.where(still, 1, scale))
    ratio = jnp.where(still, least, jnp.maximum(log_rms - jnp.log(target), least))
    return jnp.mean(ratio**2)


def norm_loss(xs: ArrayLike, max_norm: ArrayLike) -> Float[Array, ""]:
    """Mean square of what the norm of states has beyond a bound, max(|x|/max_norm - 1, 0)².

    Args:
        xs: (..., n) states.
        max_norm: the bound, > 0.

    Raises:
        TypeError, ValueError: for a wrong kind, shape, dtype or value of an argument.
    """
    xs = checks.float_array("xs", xs, "(..., n)")
    bound = checks.positive("max_norm", max_norm, xs.dtype)
    squared = jnp.sum((xs / bound) ** 2, axis=-1)
    # The root has no derivative at 0, where the bound is far.
    return jnp.mean(jnp.where(squared <= 1, 0, jnp.sqrt(jnp.maximum(squared, 1)) - 1) ** 2)


def cross_entropy_loss(scores: ArrayLike, labels: ArrayLike) -> Float[Array, ""]:
    """Mean of -log p of the right class, p = softmax(scores), over the log of their number k.

    1 where all classes are held for equally likely.

    Args:
        scores: (..., k), such as the answers of a `SequenceModel`; k >= 2.
        labels: (...,) integers from 0 to k - 1; what is out of range makes the loss nan.

    Raises:
        TypeError, ValueError: for a wrong kind, shape or dtype.

    Example:
        >>> def loss(model, batch):
        ...     return ct.losses.cross_entropy_loss(model(batch[0]), batch[1])
        >>> model, history = ct.fit(model, loss, steps=500, data=(X, Y), batch_size=32, key=key)
    """
    scores = checks.float_array("scores", scores, "(..., k)")
    classes = scores.shape[-1]
    if classes < 2:
        checks.fail("scores", "at least two classes, shape (..., k)", scores.shape)
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        checks.fail("labels", "integers from 0 to k - 1", f"dtype {labels.dtype}", TypeError)
    if labels.shape != scores.shape[:-1]:
        checks.fail("labels", f"shape {scores.shape[:-1]}, one a row of scores", labels.shape)
    logs = jax.nn.log_softmax(scores, axis=-1)
    right = jnp.sum(jax.nn.one_hot(labels, classes, dtype=logs.dtype) * logs, axis=-1)
    known = (labels >= 0) & (labels < classes)
    return -jnp.mean(jnp.where(known, right, jnp.nan)) / math.log(classes)


def weight_penalty(model: Any) -> Float[Array, ""]:
    """Mean square of all floating-point arrays of a model: weights, bias, read-outs.

    Raises:
        TypeError: where there are none.
    """
    leaves = [leaf for leaf in jax.tree.leaves(model) if eqx.is_inexact_array(leaf)]
    if not leaves:
        checks.fail("model", "floating-point arrays", type(model).__name__, TypeError)
    return sum((jnp.sum(leaf**2) for leaf in leaves[1:]), start=jnp.sum(leaves[0] ** 2)) / sum(
        leaf.size for leaf in leaves
    )
