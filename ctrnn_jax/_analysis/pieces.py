"""Once around an orbit of a piecewise linear σ, to rounding.

Between two kinks the network is linear, x' = v, v' = J v, so that its Taylor series is known, of
which 2/|A| is a step. The first neuron to come to a kink ends the step there. The polynomials that
tell where each z is lie between their Bernstein coefficients: where these stay between two kinks,
z does, where they pass one once, z passes it once, and what is neither is asked of half the step.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._network.products import product
from .._util.types import Array, Bool, Float, Int
from .beside import Beside, fastest_rate
from .floquet import MAX_STEPS

_TERMS = 25  # of a step h with h |A| = 2: 2²⁵/25! is 2e-18
_POWERS = np.arange(_TERMS)
# Row j has the Bernstein coefficient j of 1, s, s², ... on [0, 1].
_BERNSTEIN = np.array(
    [[math.comb(j, k) / math.comb(_TERMS - 1, k) for k in _POWERS] for j in _POWERS]
)
_TRIES = 60  # to find a root: halving takes no more


def once_around_exactly(
    here: Beside, y: Float[Array, " n"], T: Float[Array, ""], size: Float[Array, ""]
) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    """`once_around` for an activation with `kinks`; not differentiable in reverse mode."""
    sigma, dtype = here.rnn.activation, y.dtype
    kinks = np.asarray(sigma.kinks)
    between = np.concatenate([kinks[:1] - 1, (kinks[1:] + kinks[:-1]) / 2, kinks[-1:] + 1])
    slopes = sigma.derivative(jnp.asarray(between, dtype))
    pieces = _Pieces(
        here=here,
        A=here.rnn.weights.as_matrix(),
        start=y,
        kinks=jnp.asarray(np.concatenate([[-np.inf], kinks, [np.inf]]), dtype),
        slopes=slopes,
        unit=2 / (fastest_rate(here.rnn) * jnp.max(jnp.abs(slopes))),
    )
    end_time = T / pieces.unit
    first = _Way(
        t=jnp.zeros_like(T),
        moved=jnp.zeros_like(y),
        tangents=jnp.eye(y.size, dtype=dtype),
        piece=jnp.sum(pieces.seen(y)[:, None] > kinks[None], axis=1, dtype=jnp.int32),
        steps=jnp.zeros((), jnp.int32),
    )
    end = lax.while_loop(
        lambda way: (way.t < end_time) & (way.steps < MAX_STEPS),
        lambda way: pieces.step(way, end_time),
        first,
    )
    ended = end.t >= end_time
    return jnp.where(ended, end.moved / size, jnp.nan), jnp.where(ended, end.tangents, jnp.nan)


class _Way(NamedTuple):
    """How far an orbit has been gone around; times are in units of the longest step."""

    t: Float[Array, ""]
    moved: Float[Array, " n"]
    tangents: Float[Array, "n n"]
    piece: Int[Array, " n"]  # of σ, counted from the left
    steps: Int[Array, ""]


class _Trial(NamedTuple):
    """A step that is tried."""

    h: Float[Array, ""]
    up: Bool[Array, " n"]  # comes to the kink above its piece, once
    down: Bool[Array, " n"]
    known: Bool[Array, ""]  # whether this is all that it does


class _Pieces(eqx.Module):
    here: Beside
    A: Float[Array, "n n"]
    start: Float[Array, " n"]
    kinks: Float[Array, " bounds"]
    slopes: Float[Array, " pieces"]
    unit: Float[Array, ""]  # seconds

    def seen(self, u: Float[Array, " n"]) -> Float[Array, " n"]:
        """What σ is taken of."""
        z = self.here.preactivation
        return z + (product(self.A, u) if self.rate_form else u)

    @property
    def rate_form(self) -> bool:
        return self.here.rnn.form == "rate"

    def step(self, way: _Way, end_time: Array) -> _Way:
        """To the first kink, or as far as the series holds."""
        u, z = self.series(self.start + way.moved, way.piece)
        trial = self.tried(z, way.piece, jnp.minimum(1, end_time - way.t))
        trial = lax.while_loop(
            lambda trial: ~trial.known, lambda trial: self.tried(z, way.piece, trial.h / 2), trial
        )
        share, which = self.first_kink(z, way.piece, trial)
        h = share * trial.h
        slope = self.slopes[way.piece][:, None]

        def turned(i, V):  # from the last term of exp(h J) to the first
            V = slope * product(self.A, V) if self.rate_form else product(self.A, slope * V)
            return way.tangents + V * (self.unit * h / (_TERMS - i))

        change = trial.up.astype(jnp.int32) - trial.down.astype(jnp.int32)
        last = (share == 1) & (trial.h >= end_time - way.t)
        return _Way(
            t=jnp.where(last, end_time, way.t + h),
            moved=way.moved + jnp.sum(_at(u, h), axis=0),
            tangents=lax.fori_loop(0, _TERMS, turned, way.tangents),
            piece=way.piece.at[which].add(change[which]),
            steps=way.steps + 1,
        )

    def series(self, u: Float[Array, " n"], piece: Int[Array, " n"]) -> tuple[Array, Array]:
        """The terms (terms, n) of what u moves by, and of z."""
        slope = self.slopes[piece]

        def next_term(c, k):
            z = product(self.A, c) if self.rate_form else c
            J_c = slope * z if self.rate_form else product(self.A, slope * c)
            return J_c * (self.unit / (k + 1)), (c, z)

        first = self.here.velocity(u) * self.unit
        _, (c, z) = lax.scan(next_term, first, jnp.arange(1, _TERMS, dtype=u.dtype))
        return jnp.concatenate([jnp.zeros_like(c[:1]), c]), jnp.concatenate([self.seen(u)[None], z])

    def tried(self, z: Float[Array, "terms n"], piece: Int[Array, " n"], h: Array) -> _Trial:
        terms = _at(z, h)
        eps = float(jnp.finfo(z.dtype).eps)
        bernstein = product(jnp.asarray(_BERNSTEIN, z.dtype), terms)[1:]
        least = 8 * eps * jnp.sum(jnp.abs(terms), axis=0)
        above = bernstein > (self.kinks[piece + 1] + least)[None]
        below = bernstein < (self.kinks[piece] - least)[None]
        comes_back = [jnp.any(out[:-1] & ~out[1:]) for out in (above, below)]
        # Touches that are too short to be told from none are none.
        known = ~(comes_back[0] | comes_back[1]) | (h <= eps)
        return _Trial(h, above[-1], below[-1], known)

    def first_kink(
        self, z: Float[Array, "terms n"], piece: Int[Array, " n"], trial: _Trial
    ) -> tuple[Float[Array, ""], Int[Array, ""]]:
        """The share of a step up to the first kink, 1 where there is none, and the neuron there."""
        comes, eps = trial.up | trial.down, float(jnp.finfo(z.dtype).eps)
        kink = self.kinks[jnp.where(trial.up, piece + 1, piece)]
        sign = jnp.where(trial.up, 1, -1).astype(z.dtype)
        below = (_at(z, trial.h).at[0].add(-jnp.where(comes, kink, 0))) * sign[None]
        powers = jnp.asarray(_POWERS, z.dtype)[:, None]
        slope = below[1:] * powers[1:]

        def closer(now):
            s, low, high, count, _ = now
            whole = s[None] ** powers
            value, rise = jnp.sum(below * whole, axis=0), jnp.sum(slope * whole[:-1], axis=0)
            low, high = jnp.where(value < 0, s, low), jnp.where(value < 0, high, s)
            new = s - value / jnp.where(rise != 0, rise, 1)  # Newton's, else half
            new = jnp.where((new >= low) & (new <= high), new, (low + high) / 2)
            return new, low, high, count + 1, jnp.max(jnp.where(comes, jnp.abs(new - s), 0))

        zero = jnp.zeros_like(kink)
        first = zero + 0.5, zero, zero + 1, jnp.zeros((), jnp.int32), jnp.ones((), z.dtype)
        s = lax.while_loop(lambda now: (now[3] < _TRIES) & (now[4] > 2 * eps), closer, first)[0]
        s = jnp.where(comes, s, 2)
        return jnp.minimum(jnp.min(s), 1), jnp.argmin(s)


def _at(terms: Float[Array, "terms n"], h: Array) -> Float[Array, "terms n"]:
    """The terms of a series after the time h."""
    return terms * (h ** jnp.asarray(_POWERS, terms.dtype))[:, None]
