"""What the experiments share: how a claim is judged, and runs in float64."""

from __future__ import annotations

import dataclasses
import importlib
import math
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from .._analysis.frequencies import orbit_frequency
from .._network.activations import AbstractActivation
from .._network.model import CTRNN
from .._network.weights import BlockSkew
from .._simulate.trajectory import Trajectory
from .._util import checks
from .._util.types import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A claim, what was measured, and whether the number keeps the bound.

    Attributes:
        claim: in one sentence.
        source: where the claim is made.
        measured: what the value is.
        value: the number.
        relation: "<=" or ">=", between value and threshold.
        threshold: the bound.
        counterexample: the claim does not hold as it stands; `claim` says under which condition it
            does, and the value shows that without it it does not.
    """

    claim: str
    source: str
    measured: str
    value: float
    relation: str
    threshold: float
    counterexample: bool = False

    @property
    def status(self) -> str:
        """ "pass", "fail" or "counter-example"."""
        if math.isnan(self.value):
            return "fail"
        kept = (
            self.value <= self.threshold if self.relation == "<=" else self.value >= self.threshold
        )
        return ("counter-example" if self.counterexample else "pass") if kept else "fail"

    def as_dict(self) -> dict[str, Any]:
        """All of it, as JSON takes it: numbers that are not finite become None."""
        values = dataclasses.asdict(self)
        if not math.isfinite(self.value):
            values["value"] = None
        return {**values, "status": self.status}


def at_most(
    claim: str, source: str, measured: str, value: Any, threshold: float, **options: bool
) -> Verdict:
    """The largest of the values must not be above the threshold; nan fails."""
    return Verdict(claim, source, measured, float(np.max(value)), "<=", threshold, **options)


def at_least(
    claim: str, source: str, measured: str, value: Any, threshold: float, **options: bool
) -> Verdict:
    """The smallest of the values must not be below the threshold; nan fails."""
    return Verdict(claim, source, measured, float(np.min(value)), ">=", threshold, **options)


def spread(values: Any) -> str:
    """Mean and standard deviation, in words."""
    return f"{np.mean(values):.3g} ± {np.std(values):.2g}"


def states(trajectory: Trajectory) -> Float[Array, "*batch S n"]:
    """The states of a run that kept them."""
    assert trajectory.xs is not None
    return trajectory.xs


def needs_float64() -> None:
    """The bounds of the verdicts are those of float64."""
    if not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        switch = 'jax.config.update("jax_enable_x64", True)'
        checks.fail("jax_enable_x64", f"float64 for the experiments: call {switch}", "float32")


def float64() -> AbstractContextManager:
    """Float64 in this thread too, where another has it by a `with`."""
    home: Any = jax if hasattr(jax, "enable_x64") else importlib.import_module("jax.experimental")
    return home.enable_x64(True)


class OneOf(AbstractActivation):
    """An activation of several, chosen when it runs: one program for all, compiled once."""

    odd: ClassVar[bool] = False
    bounded: ClassVar[bool] = False
    activations: tuple[AbstractActivation, ...]
    which: Int[Array, ""]

    def _of(self, method: str, *z: Any) -> Any:
        return jax.lax.switch(self.which, [getattr(a, method) for a in self.activations], *z)

    def __call__(self, z):
        return self._of("__call__", z)

    def derivative(self, z):
        return self._of("derivative", z)

    def potential(self, z):
        return self._of("potential", z)

    def mean(self, z0, z1):
        return self._of("mean", z0, z1)


@jax.jit
def exact_frequencies(
    activations: tuple[AbstractActivation, ...], omegas: Array, x0: Array
) -> Array:
    """Of the orbits of two neurons: (activations, omegas, ...) in Hz."""

    def of(activation: AbstractActivation) -> Array:
        def at(w: Array) -> Array:
            return orbit_frequency(CTRNN(BlockSkew(w[None]), activation), x0)

        return jax.vmap(at)(omegas)

    return jnp.stack([of(activation) for activation in activations])


def normal(key: Any, shape: tuple[int, ...], most: int) -> np.ndarray:
    """`jax.random.normal(key, shape)`: the first of `most` numbers, of which one program makes all.

    Compiling one for each shape takes longer than all that is drawn.
    """
    count = math.prod(shape)
    return np.asarray(jax.random.normal(key, (most,)))[:count].reshape(shape)
