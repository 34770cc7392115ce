"""Activations σ, each with its derivative σ' and its potential Φ(z) = ∫₀ᶻ σ.

The energy that a skew-symmetric network conserves is a sum of potentials, so they are closed
forms without cancellation near 0 and without overflow far away, and the derivative that JAX
computes of a potential is the activation itself.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._util import checks
from .._util.types import Array, Float

Values = Float[Array, "*shape"]


class AbstractActivation(eqx.Module):
    """Elementwise σ(z) with `derivative`, `potential` and the flags `odd` and `bounded`."""

    odd: eqx.AbstractVar[bool]
    bounded: eqx.AbstractVar[bool]
    kinks: ClassVar[tuple[float, ...]] = ()
    """Where σ' jumps, ascending, of one that is linear between and beyond; () of all others."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__call__" in vars(cls) and "kinks" not in vars(cls):
            cls.kinks = ()  # those of the class above are those of another σ

    @abc.abstractmethod
    def __call__(self, z: Values) -> Values:
        """σ(z), elementwise."""

    @abc.abstractmethod
    def derivative(self, z: Values) -> Values:
        """σ'(z), elementwise; at a kink the value from the outside."""

    @abc.abstractmethod
    def potential(self, z: Values) -> Values:
        """Φ(z) = ∫₀ᶻ σ(s) ds, elementwise; its gradient is σ."""

    def mean(self, z0: Values, z1: Values) -> Values:
        """∫₀¹ σ(z0 + s (z1 - z0)) ds, elementwise, by two-point Gauss-Legendre quadrature.

        Piecewise linear activations have it exactly, across their kinks.
        """
        middle, half = (z0 + z1) / 2, (z1 - z0) * (0.5 / np.sqrt(3).item())
        return (self(middle - half) + self(middle + half)) / 2


class _ClosedForm(AbstractActivation):
    """An activation whose potential is a formula, `_phi`."""

    @abc.abstractmethod
    def _phi(self, z: Values) -> Values: ...

    def potential(self, z: Values) -> Values:
        """Φ(z) = ∫₀ᶻ σ(s) ds, elementwise; its gradient is σ."""
        return _potential(self, z)


@eqx.filter_custom_jvp
def _potential(activation: _ClosedForm, z: Values) -> Values:
    return activation._phi(z)


@_potential.def_jvp
def _potential_jvp(primals, tangents):
    # Φ' = σ by definition: exact at kinks, and free of what overflows inside the formula.
    activation, z = primals
    _, dz = tangents
    value = _potential(activation, z)
    return value, jnp.zeros_like(value) if dz is None else activation(z) * dz


def _log_cosh(z: Values) -> Values:
    # With m = e^|z| - 1 it is log(1 + m²/(2 + 2m)), which has all digits at small |z|, where it is
    # z²/2. Beyond 20 it is |z| - log 2 to rounding.
    size = jnp.abs(z)
    m = jnp.expm1(jnp.minimum(size, 20))
    return jnp.where(size < 20, jnp.log1p(m * m / (2 + 2 * m)), size - np.log(2).item())


class Tanh(_ClosedForm):
    """σ = tanh z, Φ = log cosh z."""

    odd: ClassVar[bool] = True
    bounded: ClassVar[bool] = True

    def __call__(self, z: Values) -> Values:
        return jnp.tanh(z)

    def derivative(self, z: Values) -> Values:
        """σ' = 1 / cosh² z, without cancellation for large |z|."""
        decay = jnp.exp(-2 * jnp.abs(z))
        return 4 * decay / (1 + decay) ** 2

    def _phi(self, z: Values) -> Values:
        return _log_cosh(z)


def _step(z: Values) -> Values:
    """1 for z > 0, 0 for others, and nan for nan, which is neither."""
    return jnp.where(jnp.isnan(z), z, jnp.where(z > 0, 1, 0))


# JAX takes the slope of both for 0 where z is nan.
@jax.custom_jvp
def _clip(z: Values) -> Values:
    return jnp.clip(z, -1, 1)


@jax.custom_jvp
def _rectified(z: Values) -> Values:
    return jnp.maximum(z, 0)


_clip.defjvps(lambda dz, _, z: _step(1 - jnp.abs(z)) * dz)
_rectified.defjvps(lambda dz, _, z: _step(z) * dz)


def _piecewise_linear_mean(sigma: AbstractActivation, z0: Values, z1: Values) -> Values:
    """The mean of a σ that is z on an interval and constant outside, without cancellation.

    With a = σ(z0), b = σ(z1): where σ moves, it moves from a to b along the identity, which takes
    the share r = (b - a)/(z1 - z0) of the way and has the mean (a + b)/2; else it is a or b.
    """
    a, b = sigma(z0), sigma(z1)
    dz = z1 - z0
    share = jnp.where(dz == 0, 0, (b - a) / jnp.where(dz == 0, 1, dz))
    return (a + b) / 2 + share * ((z0 + z1) / 2 - (a + b) / 2)


class HardTanh(_ClosedForm):
    """σ = clip(z, -1, 1), Φ = z²/2 inside [-1, 1] and |z| - 1/2 outside."""

    odd: ClassVar[bool] = True
    bounded: ClassVar[bool] = True
    kinks: ClassVar[tuple[float, ...]] = (-1.0, 1.0)

    def __call__(self, z: Values) -> Values:
        return _clip(z)

    def derivative(self, z: Values) -> Values:
        """σ' = 1 inside (-1, 1), 0 outside."""
        return _step(1 - jnp.abs(z))

    def _phi(self, z: Values) -> Values:
        inside = jnp.clip(z, -1, 1)
        return inside * (z - 0.5 * inside)

    def mean(self, z0: Values, z1: Values) -> Values:
        return _piecewise_linear_mean(self, z0, z1)


class Linear(_ClosedForm):
    """σ = z, Φ = z²/2."""

    odd: ClassVar[bool] = True
    bounded: ClassVar[bool] = False

    def __call__(self, z: Values) -> Values:
        return z

    def derivative(self, z: Values) -> Values:
        """σ' = 1."""
        return jnp.where(jnp.isnan(z), z, 1)

    def _phi(self, z: Values) -> Values:
        return 0.5 * z * z

    def mean(self, z0: Values, z1: Values) -> Values:
        return (z0 + z1) / 2


class Arctan(_ClosedForm):
    """σ = arctan z, Φ = z arctan z - log(1 + z²)/2."""

    odd: ClassVar[bool] = True
    bounded: ClassVar[bool] = True

    def __call__(self, z: Values) -> Values:
        return jnp.arctan(z)

    def derivative(self, z: Values) -> Values:
        """σ' = 1 / (1 + z²)."""
        return 1 / (1 + z * z)

    def _phi(self, z: Values) -> Values:
        # log(1 + z²)/2 = log|z| to rounding where z² may overflow.
        far = jnp.abs(z) > 1e9
        near = 0.5 * jnp.log1p(jnp.where(far, 0, z) ** 2)
        return z * jnp.arctan(z) - jnp.where(far, jnp.log(jnp.where(far, jnp.abs(z), 1)), near)


class Erf(_ClosedForm):
    """σ = erf z, Φ = z erf z + (exp(-z²) - 1)/√π."""

    odd: ClassVar[bool] = True
    bounded: ClassVar[bool] = True

    def __call__(self, z: Values) -> Values:
        return jax.scipy.special.erf(z)

    def derivative(self, z: Values) -> Values:
        """σ' = 2 exp(-z²)/√π."""
        return (2 / np.sqrt(np.pi)).item() * jnp.exp(-z * z)

    def _phi(self, z: Values) -> Values:
        return z * jax.scipy.special.erf(z) + jnp.expm1(-z * z) / np.sqrt(np.pi).item()


class Sin(_ClosedForm):
    """σ = sin z, Φ = 1 - cos z."""

    odd: ClassVar[bool] = True
    bounded: ClassVar[bool] = True

    def __call__(self, z: Values) -> Values:
        return jnp.sin(z)

    def derivative(self, z: Values) -> Values:
        """σ' = cos z."""
        return jnp.cos(z)

    def _phi(self, z: Values) -> Values:
        return 2 * jnp.sin(0.5 * z) ** 2


class Sigmoid(_ClosedForm):
    """σ = 1/(1 + exp(-z)), Φ = log(1 + exp z) - log 2; not odd."""

    odd: ClassVar[bool] = False
    bounded: ClassVar[bool] = True

    def __call__(self, z: Values) -> Values:
        return jax.nn.sigmoid(z)

    def derivative(self, z: Values) -> Values:
        """σ' = 1 / (4 cosh²(z/2)), without cancellation for large |z|."""
        decay = jnp.exp(-jnp.abs(z))
        return decay / (1 + decay) ** 2

    def _phi(self, z: Values) -> Values:
        near = jnp.abs(z) < 1
        inner = 0.5 * z + _log_cosh(0.5 * jnp.where(near, z, 0))
        outer = jnp.maximum(z, 0) + jnp.log1p(jnp.exp(-jnp.abs(z))) - np.log(2).item()
        return jnp.where(near, inner, outer)


class ReLU(_ClosedForm):
    """σ = max(z, 0), Φ = max(z, 0)²/2; not odd, not bounded."""

    odd: ClassVar[bool] = False
    bounded: ClassVar[bool] = False
    kinks: ClassVar[tuple[float, ...]] = (0.0,)

    def __call__(self, z: Values) -> Values:
        return _rectified(z)

    def derivative(self, z: Values) -> Values:
        """σ' = 1 for z > 0, else 0."""
        return _step(z)

    def _phi(self, z: Values) -> Values:
        positive = jax.nn.relu(z)
        return 0.5 * positive * positive

    def mean(self, z0: Values, z1: Values) -> Values:
        return _piecewise_linear_mean(self, z0, z1)


class Exp(_ClosedForm):
    """σ = exp z, Φ = exp z - 1: Lotka-Volterra in logarithmic coordinates; not odd, not bounded."""

    odd: ClassVar[bool] = False
    bounded: ClassVar[bool] = False

    def __call__(self, z: Values) -> Values:
        return jnp.exp(z)

    def derivative(self, z: Values) -> Values:
        """σ' = exp z."""
        return jnp.exp(z)

    def _phi(self, z: Values) -> Values:
        return jnp.expm1(z)


def _dyadic_gauss_legendre(panels: int = 17, nodes: int = 12) -> tuple[np.ndarray, np.ndarray]:
    # Panels [1/2, 1], [1/4, 1/2], ... shrink towards 0, where activations do what they do: a
    # range of 10⁴ is then resolved down to 0.15, which a single panel of any size misses.
    s, w = np.polynomial.legendre.leggauss(nodes)
    edges = np.concatenate([[0.0], 0.5 ** np.arange(panels - 1, -1, -1)])
    width = np.diff(edges)[:, None]
    return (edges[:-1, None] + width * (s + 1) / 2).ravel(), (width * w / 2).ravel()


class CustomActivation(AbstractActivation):
    r"""An activation of one's own.

    Args:
        fn: σ, elementwise on arrays of any shape; may be an `equinox` module with parameters.
        potential: Φ with Φ(0) = 0 and Φ' = σ. Left out, `fn` itself is integrated by
            Gauss-Legendre quadrature on panels that halve towards 0 (204 evaluations): to
            round-off for functions that are smooth, with features near 0 and |z| up to about
            10⁴; with kinks give the potential.
        odd: whether fn(-z) = -fn(z).
        bounded: whether |fn| is bounded.

    Raises:
        TypeError: where `fn` or `potential` cannot be called.

    Example:
        >>> softsign = ct.CustomActivation(lambda z: z / (1 + jnp.abs(z)), odd=True, bounded=True)
    """

    fn: Callable[[Array], Array]
    potential_fn: Callable[[Array], Array] | None
    odd: bool = eqx.field(static=True)
    bounded: bool = eqx.field(static=True)

    def __init__(self, fn: Any, potential: Any = None, *, odd: bool = False, bounded: bool = False):
        expected = "a function of an array"
        self.fn = checks.function("fn", fn, expected)
        if potential is not None:
            checks.function("potential", potential, f"{expected} or None")
        self.potential_fn = potential
        self.odd, self.bounded = checks.flag("odd", odd), checks.flag("bounded", bounded)

    def __call__(self, z: Values) -> Values:
        return self.fn(z)

    def derivative(self, z: Values) -> Values:
        """σ'(z) by forward-mode differentiation of `fn`."""
        slope = jax.jvp(self.fn, (z,), (jnp.ones_like(z),))[1]
        return jnp.where(jnp.isnan(z), z, slope)

    def potential(self, z: Values) -> Values:
        """Φ(z): the one given, or the integral of `fn` from 0 to z."""
        if self.potential_fn is not None:
            return self.potential_fn(z)

        # One node after another: the memory of one evaluation, not of 204.
        @jax.checkpoint
        def add(total, node):
            s, w = node
            return total + w * self.fn(s * z), None

        nodes = tuple(jnp.asarray(v, z.dtype) for v in _dyadic_gauss_legendre())
        return z * jax.lax.scan(add, jnp.zeros_like(z), nodes)[0]
