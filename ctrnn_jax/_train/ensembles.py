"""Ensembles of oscillators, made group by group."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .._util.types import Array, PyTree
from .frequency_report import FrequencyReport
from .oscillator import Oscillator

PER_PERIOD = 32  # steps a period of the highest target


def for_targets(
    make: Callable[..., tuple[Oscillator, FrequencyReport]],
    group: int,
    key: Any,
    targets: Array,
    *others: Array,
    alone: bool,
) -> tuple[Oscillator, FrequencyReport]:
    """`make(keys, targets, *others)` of at most `group` members at once.

    All arrays have a leading axis of members; where the only one stands `alone` it loses it.
    """
    keys = jax.random.split(key, len(targets))
    oscillators, report = _in_groups(make, group, keys, targets, *others)
    if not alone:
        return oscillators, report
    oscillators, report = jax.tree.map(lambda leaf: leaf[0], (oscillators, report))
    # One has a time scale of its own, so that `generate` can look after its steps.
    step = 1 / (PER_PERIOD * float(jnp.max(targets)))
    return dataclasses.replace(oscillators, max_step=step), report


def _in_groups(make: Callable[..., PyTree], group: int, *arrays: Array) -> PyTree:
    """Memory stays bounded, however many members there are."""
    starts = range(0, len(arrays[0]), group)
    made = [make(*(array[i : i + group] for array in arrays)) for i in starts]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *made)
