"""Inputs u(t) of a network: the kinds that there are, and what they are at a time."""

from __future__ import annotations

from typing import Any

import diffrax

from .._util.types import Array

HELD = "held"  # through each step
CONTINUOUS = "continuous"


def input_at(inputs: Any, t: Any) -> Array:
    """u(t) of a function or a diffrax path."""
    if isinstance(inputs, diffrax.AbstractPath):
        return inputs.evaluate(t)
    return inputs(t)
