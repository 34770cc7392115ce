"""Solvers by the names that the command line and its help know: tsit5, discrete_gradient:4."""

from __future__ import annotations

import inspect

import diffrax

from .. import solvers
from .._util import checks
from .._util.classes import by_name, chosen

# Of diffrax those for one ordinary differential equation: no split, no second-order, no noise.
OF_DIFFRAX = (
    diffrax.Bosh3,
    diffrax.Dopri5,
    diffrax.Dopri8,
    diffrax.Euler,
    diffrax.Heun,
    diffrax.ImplicitEuler,
    diffrax.Kvaerno3,
    diffrax.Kvaerno4,
    diffrax.Kvaerno5,
    diffrax.LeapfrogMidpoint,
    diffrax.Midpoint,
    diffrax.Ralston,
    diffrax.ReversibleHeun,
    diffrax.Tsit5,
)
_Kind = type[diffrax.AbstractSolver]


def own() -> dict[str, _Kind]:
    """What `ctrnn_jax.solvers` exports and needs no arguments."""
    return by_name(_exported())


def wrappers() -> dict[str, _Kind]:
    """What `ctrnn_jax.solvers` exports around another solver."""
    kinds = [kind for kind in _exported() if issubclass(kind, diffrax.AbstractWrappedSolver)]
    return {kind.__name__.lower(): kind for kind in kinds}


def takes_order(kind: _Kind) -> bool:
    """Whether a name may go on with an order, as in poisson_splitting:4."""
    return "order" in inspect.signature(kind).parameters


def solver_named(name: str) -> diffrax.AbstractSolver:
    """A solver by name; after a colon its order, or what it wraps: projected:rk4.

    Raises:
        ValueError: where there is none of this name, or it has no such order.
    """
    name, colon, argument = name.partition(":")
    if name.lower() in wrappers():
        return wrappers()[name.lower()](solver_named(argument or "tsit5"))  # pyright: ignore[reportCallIssue]
    kind = chosen("solver", name, own() | by_name(OF_DIFFRAX))
    if not colon:
        return kind()
    if not takes_order(kind):
        checks.fail("solver", f"no order for {kind.__name__}", repr(argument))
    try:
        order = int(argument)
    except ValueError:
        checks.fail("solver", "a number after the colon", repr(argument))
    return kind(order=order)  # pyright: ignore[reportCallIssue]


def described() -> str:
    """The names, as a sentence of a help text begins."""
    ours = [name + "[:ORDER]" * takes_order(kind) for name, kind in own().items()]
    around = [f"or {name}:SOLVER" for name in wrappers()]
    return ", ".join([*ours, "one of diffrax (tsit5, ...)", *around])


def _exported() -> list[_Kind]:
    kinds = [getattr(solvers, name) for name in solvers.__all__]
    return [kind for kind in kinds if not inspect.isabstract(kind)]
