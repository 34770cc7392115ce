"""exp(hA) - 1 with twice the digits of the numbers that it is made of, for rotations.

A pair (hi, lo) stands for hi + lo. Matrices are multiplied in slices of so few bits that products
of slices are exact on any device: no other precision is needed, nor rounding of any one kind.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from .._util.types import Array, Float, Int, Scalar

Matrix: TypeAlias = Float[Array, "n n"]
Pair: TypeAlias = tuple[Float[Array, "*shape"], Float[Array, "*shape"]]

_SLICES = 4
_TERMS = 10
_SMALL = 6  # the series is summed for |hA| < 2⁻⁶
_MAX_SQUARINGS = 40


def two_sum(a: Array, b: Array) -> Pair:
    """a + b and its rounding error (Knuth)."""
    total = a + b
    other = total - a
    return total, (a - (total - other)) + (b - other)


def _add(a: Pair, b: Pair) -> Pair:
    total, error = two_sum(a[0], b[0])
    return two_sum(total, error + (a[1] + b[1]))


def _scaled(h: Scalar, A: Matrix) -> Pair:
    """h A and its rounding error (Dekker)."""
    info = jnp.finfo(A.dtype)
    half = info.bits - info.nmant - 1, info.nmant // 2

    def split(a):
        first = lax.reduce_precision(a, *half)
        return first, a - first

    (h1, h2), (A1, A2), hA = split(h), split(A), h * A
    return hA, ((h1 * A1 - hA) + h1 * A2 + h2 * A1) + h2 * A2


def slice_bits(n: int, dtype: Any) -> int:
    """Bits of numbers whose sums of n products are exact."""
    return (jnp.finfo(dtype).nmant + 1 - math.ceil(math.log2(n))) // 2


def coarse(y: Array) -> Array:
    """States (n, ...) rounded to `slice_bits` of the largest of their numbers."""
    shift = jnp.max(jnp.abs(y), axis=0) * 2.0 ** (
        jnp.finfo(y.dtype).nmant + 1 - slice_bits(len(y), y.dtype)
    )
    return (y + shift[None]) - shift[None]


def _slices(a: Pair, bits: int) -> list[Matrix]:
    size = jnp.frexp(jnp.max(jnp.abs(a[0])))[1]
    found = []
    for i in range(1, _SLICES + 1):
        unit = jnp.ldexp(jnp.ones((), a[0].dtype), size - i * bits)
        found.append(jnp.round(a[0] / unit) * unit)
        a = two_sum(a[0] - found[-1], a[1])
    return found


def _product(a: Pair, b: Pair) -> Pair:
    n = len(a[0])
    bits = slice_bits(n, a[0].dtype)
    left, right = jnp.concatenate(_slices(a, bits)), jnp.concatenate(_slices(b, bits), axis=1)
    parts = jnp.matmul(left, right, precision=lax.Precision.HIGHEST)
    parts = parts.reshape(_SLICES, n, _SLICES, n)
    total = parts[0, :, 0], jnp.zeros_like(a[0])
    for order in range(1, _SLICES):
        for i in range(order + 1):
            high, error = two_sum(total[0], parts[i, :, order - i])
            total = high, total[1] + error
    return two_sum(*total)


@jax.custom_jvp
def exponential_change(h: Scalar, A: Matrix) -> Pair:
    """exp(hA) - 1 = D1 + D2 to about eps^1.5; D1 has `slice_bits`, D2 is of their rounding.

    Derivatives are those of `expm`, and D1's. Scaled to where ten terms of the series do, then
    squared as (1 + D)² - 1 = 2D + D².
    """
    hA = _scaled(h, A)
    norm = jnp.max(jnp.sum(jnp.abs(hA[0]), axis=0))
    squarings: Int[Array, ""] = jnp.clip(jnp.frexp(norm)[1] + _SMALL, 0, _MAX_SQUARINGS)
    X = jnp.ldexp(hA[0], -squarings), jnp.ldexp(hA[1], -squarings)

    def turn(i, D):
        # First the series, X/k (1 + X/(k+1) (1 + ...)), then squares: one loop, half the code.
        series = i < _TERMS
        times, k = (
            jnp.where(series, a, b).astype(norm.dtype) for a, b in ((1, 2), (_TERMS - i, 1))
        )
        left = jnp.where(series, X[0], D[0]), jnp.where(series, X[1], D[1])
        high, low = _add((times * left[0], times * left[1]), _product(left, D))
        return high / k, low / k

    none = jnp.zeros_like(A), jnp.zeros_like(A)
    high, low = lax.fori_loop(0, _TERMS + squarings, turn, none)
    first = _slices((high, low), slice_bits(len(A), A.dtype))[0]
    return first, (high - first) + low


@exponential_change.defjvp
def _exponential_change_jvp(primals, tangents):
    _, tangent = jax.jvp(lambda h, A: jax.scipy.linalg.expm(h * A), primals, tangents)
    return exponential_change(*primals), (tangent, jnp.zeros_like(tangent))
