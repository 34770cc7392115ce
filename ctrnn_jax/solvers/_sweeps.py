"""Sweeps over the neurons, s_i ← s_i + h σ((offset + A s)_i), by the structure of the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from .._types import Array, matmul_precision
from ..model import CTRNN
from ..weights import BipartiteSkew, BlockSkew

# Neurons swept one by one between two matrix products: few enough to stay in the first cache.
_BLOCK = 4


class Sweeps(NamedTuple):
    """Sweeps work on parts: `pack(s, known)` makes them of s, `unpack` puts s together again.

    `once(parts, h)` is one sweep, `there_and_back(parts, h)` one of h/2 forward and one backward.
    `known(parts)` is what a following `pack` of the same s and offset need not compute, or None.
    """

    pack: Callable[[Array, Any], Any]
    once: Callable[[Any, Array], Any]
    there_and_back: Callable[[Any, Array], Any]
    unpack: Callable[[Any], Array]
    known: Callable[[Any], Any]


def sweeps_of(rnn: CTRNN, offset: Array | None) -> Sweeps:
    """The sweeps of a network; `offset` is (n, batch), (n, 1) or None."""
    if isinstance(rnn.weights, BipartiteSkew | BlockSkew):
        return _two_groups(rnn, offset)
    return _dense(rnn, offset)


def _product(a: Array, s: Array) -> Array:
    return jnp.matmul(a, s, precision=matmul_precision())


def _two_groups(rnn: CTRNN, offset: Array | None) -> Sweeps:
    """Neurons of one group do not see each other, so each group moves at once: leapfrog.

    The parts are the groups p and q and the velocity of p, which depends on q alone: it ends one
    sweep and begins the next.
    """
    weights, sigma = rnn.weights, rnn.activation
    assert isinstance(weights, BipartiteSkew | BlockSkew)
    if isinstance(weights, BipartiteSkew):
        size = weights.B.shape[0]
        first, second = slice(0, size), slice(size, None)
    else:
        first, second = slice(0, None, 2), slice(1, None, 2)

    def to_p(q):
        if isinstance(weights, BipartiteSkew):
            return _product(weights.B, q)
        return weights.omega[:, None] * q

    def to_q(p):
        if isinstance(weights, BipartiteSkew):
            return -_product(weights.B.T, p)
        return -weights.omega[:, None] * p

    def velocity_of_p(q):
        return sigma(to_p(q) if offset is None else to_p(q) + offset[first])

    def velocity_of_q(p):
        return sigma(to_q(p) if offset is None else to_q(p) + offset[second])

    def pack(s, known):
        p, q = s[first], s[second]
        return p, q, velocity_of_p(q) if known is None else known

    def once(parts, h):
        p, q, velocity = parts
        p = p + h * velocity
        q = q + h * velocity_of_q(p)
        return p, q, velocity_of_p(q)

    def there_and_back(parts, h):
        p, q, velocity = parts
        p = p + h / 2 * velocity
        q = q + h * velocity_of_q(p)
        velocity = velocity_of_p(q)
        return p + h / 2 * velocity, q, velocity

    def unpack(parts):
        p, q, _ = parts
        if isinstance(weights, BipartiteSkew):
            return jnp.concatenate([p, q])
        return jnp.stack([p, q], axis=1).reshape(-1, *p.shape[1:])

    return Sweeps(pack, once, there_and_back, unpack, lambda parts: parts[2])


def _dense(rnn: CTRNN, offset: Array | None) -> Sweeps:
    """Blocks of neurons: a product brings their z up to date, then they move one by one."""
    n, sigma = rnn.size, rnn.activation
    blocks = -(-n // _BLOCK)
    padding = blocks * _BLOCK - n
    A = jnp.pad(rnn.weights.as_matrix(), ((0, padding), (0, padding)))
    starts = _BLOCK * jnp.arange(blocks)
    members = jnp.arange(_BLOCK)
    if offset is not None:
        offset = jnp.pad(offset, ((0, padding), (0, 0)))

    def sweep(s, h, reverse):
        def block(s, start):
            rows = lax.dynamic_slice_in_dim(A, start, _BLOCK)
            within = lax.dynamic_slice_in_dim(rows, start, _BLOCK, axis=1)
            z = _product(rows, s)
            if offset is not None:
                z = z + lax.dynamic_slice_in_dim(offset, start, _BLOCK)

            def neuron(z, member):
                i, column = member
                move = h * sigma(lax.dynamic_slice_in_dim(z, i, 1))
                return z + column[:, None] * move, move[0]

            _, moves = lax.scan(neuron, z, (members, within.T), reverse=reverse)
            moved = lax.dynamic_slice_in_dim(s, start, _BLOCK) + moves
            return lax.dynamic_update_slice_in_dim(s, moved, start, 0), None

        return lax.scan(block, s, starts, reverse=reverse)[0]

    return Sweeps(
        pack=lambda s, known: jnp.pad(s, ((0, padding), (0, 0))),
        once=lambda s, h: sweep(s, h, False),
        there_and_back=lambda s, h: sweep(sweep(s, h / 2, False), h / 2, True),
        unpack=lambda s: s[:n],
        known=lambda s: None,
    )
