"""Arguments that the fits of oscillators share, checked in one place."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._network.activations import AbstractActivation
from .._network.model import FORMS
from .._util import checks
from .._util.types import Array


class Draft(NamedTuple):
    """What networks a fit begins with."""

    neurons: int
    activation: AbstractActivation
    form: str
    key: Any
    dtype: Any


def checked_draft(neurons: Any, activation: Any, form: Any, key: Any, dtype: Any) -> Draft:
    dtype = checks.float_dtype(dtype)
    neurons = checks.integer("neurons", neurons, 2)
    activation = _oscillating(activation)
    form = checks.one_of("form", form, FORMS)
    key = checks.prng_key("key", jax.random.key(0) if key is None else key)
    return Draft(neurons, activation, form, key, dtype)


def _oscillating(activation: Any) -> AbstractActivation:
    """An activation around whose 0 a network oscillates."""
    checks.instance("activation", activation, AbstractActivation, "one such as Tanh()")
    slope = float(activation.derivative(jnp.zeros(())))
    if not (activation.odd and slope > 0):
        name = type(activation).__name__
        checks.fail("activation", "an odd one that rises at 0, such as Tanh()", name)
    return activation


def checked_targets(
    target_hz: Any, amplitude: Any, dtype: Any, ndim: tuple[int, ...]
) -> tuple[Array, Array]:
    """Frequencies in one of two dimensions, the larger of ensembles, and amplitudes (members,)."""
    target = checks.positive_array("target_hz", target_hz, dtype, ndim)
    if target.size == 0:
        checks.fail("target_hz", "at least one frequency", f"shape {target.shape}")
    members = target.shape[: target.ndim - min(ndim)]
    size = checks.positive_array("amplitude", amplitude, dtype, (0, 1))
    if size.ndim and size.shape != members:
        checks.fail("amplitude", f"a scalar or shape {members}, one of each member", size.shape)
    return target, jnp.broadcast_to(size, members).reshape(-1)


def checked_modes(mode: Any, neurons: int, target: Array) -> tuple[int, ...]:
    """Indices of modes: one for all targets, or one for each, both ascending."""
    several = isinstance(mode, Sequence) and not isinstance(mode, str)
    modes = tuple(checks.integer("mode", k, 0) for k in (mode if several else [mode]))
    if not modes or max(modes) >= neurons // 2:
        checks.fail("mode", f"below the number of modes, {neurons // 2}", mode)
    if not several:
        return modes
    if target.shape != (len(modes),):
        checks.fail("target_hz", f"shape ({len(modes)},), one for each mode", target.shape)
    for name, values in (("mode", list(modes)), ("target_hz", target.tolist())):
        if any(a >= b for a, b in itertools.pairwise(values)):
            checks.fail(name, "ascending values, as several modes are asked for", values)
    return modes
