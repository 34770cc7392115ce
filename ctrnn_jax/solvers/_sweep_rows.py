"""Sweeps with the moves of many neurons written out: for devices where a kernel costs its launch.

`_sweep.py` makes a kernel and more of the move of each neuron. Here those of a block, or of a
small network, are one kernel, which keeps their rows in registers.
"""

from __future__ import annotations

from functools import partial

import equinox as eqx
import jax.numpy as jnp
from jax import lax

from .._network.activations import AbstractActivation
from .._network.products import product
from .._network.rows import Rows, entries, products, rows_of
from .._util.types import Array, Float, Scalar
from ._sweep import Sweep

# Neurons whose moves are one kernel, at most: m(m - 1)/2 multiplications, whose number decides how
# long it compiles.
_TOGETHER = 8
# Blocks in a round of the loop over blocks: their kernels are launched together, as one graph.
_UNROLLED = 2


class SweepOfRows(Sweep):
    """The moves of `Sweep`, of the same neurons in the same order; of `Rows`, too."""

    def step_of_rows(self, x: Rows, h: Array, biases: Array | None) -> Rows:
        """The state after one step, without lost digits."""
        for k, fraction in enumerate(self.fractions):
            part, bias = h * fraction, self.bias if biases is None else biases[k]
            offset = None if bias is None else rows_of(bias)
            if self.rnn.form == "rate":
                x = self._both_ways(x, offset, part)
                continue
            # The flow of the bias, around the sweep or before it.
            drift = None if offset is None else part * offset
            z = x if drift is None else x + self.before * drift
            s = self._both_ways(Rows(map(jnp.zeros_like, x)), z, part)
            x = x + products(self.A, s)
            x = x if drift is None else x + drift
        return x

    def _both_ways(self, s: Rows, offset: Rows | None, h: Array) -> Rows:
        for reverse in (False, True)[: 1 + self.there_and_back]:
            z = products(self.A, s)
            z = z if offset is None else z + offset
            s = swept(self.A, z, s, self._share(h), self.rnn.activation, reverse)
        return s

    def _substep(self, s: Array, offset: Array | None, h: Array) -> Array:
        h, n = self._share(h), self.n
        count = -(-n // _TOGETHER)
        m = -(-n // count)
        missing = ((0, m * count - n), (0, 0))
        s, A = jnp.pad(s[:n], missing), jnp.pad(self.A, missing[0])
        blocks = jnp.arange(count)
        within = A.reshape(count, m, count, m)[blocks, :, blocks]
        if offset is not None:
            offset = jnp.pad(offset[:n], missing).reshape(count, m, -1)
        each = blocks, A.reshape(count, m, m * count), within, offset
        for reverse in (False, True)[: 1 + self.there_and_back]:

            def visit(s, inputs, reverse=reverse):
                k, rows, within, offset = inputs
                z = product(rows, s)
                z = z if offset is None else z + offset
                block = lax.dynamic_slice_in_dim(s, k * m, m)
                moved = _moved(within, z, block, h, self.rnn.activation, reverse)
                return lax.dynamic_update_slice_in_dim(s, moved, k * m, 0), None

            s, _ = lax.scan(visit, s, each, reverse=reverse, unroll=min(_UNROLLED, count))
        return self._pad(s[:n])


# Made again on the way back: what each neuron leaves for it would be kept by a kernel of its own.
@partial(eqx.filter_checkpoint, prevent_cse=False)
def _moved(A, z, s, h, activation, reverse):
    """`swept` of arrays (m, batch)."""
    return jnp.stack(swept(A, rows_of(z), rows_of(s), h, activation, reverse))


def _swept(
    A: Float[Array, "n n"],
    z: Rows,
    s: Rows,
    h: Scalar,
    activation: AbstractActivation,
    reverse: bool,
) -> Rows:
    coefficients, seen, moved = entries(A), list(z), list(s)
    order = list(reversed(range(len(s))) if reverse else range(len(s)))
    for at, i in enumerate(order):
        move = h * activation(seen[i])
        moved[i] = moved[i] + move
        for k in order[at + 1 :]:
            seen[k] = seen[k] + coefficients[k][i] * move
    return Rows(moved)


@eqx.filter_custom_jvp
def swept(A, z, s, h, activation, reverse):
    """s after the moves s_i ← s_i + h σ(z_i), one after another, from the last on in `reverse`.

    z is offset + A s before the first of them. Derivatives by A are a product of arrays: a sum over
    the batch for each of its numbers would be as many kernels.
    """
    return _swept(A, z, s, h, activation, reverse)


@swept.def_jvp
def _swept_jvp(primals, tangents):
    A, z, s, h, activation, reverse = primals
    dA, dz, ds, dh, d_activation, _ = tangents
    new = swept(*primals)
    if dA is not None:  # each z has seen the moves of the neurons before
        before = jnp.triu(dA) if reverse else jnp.tril(dA)
        seen = rows_of(product(before, jnp.stack(new) - jnp.stack(s)))
        dz = Rows(a if b is None else a + b for a, b in zip(seen, dz, strict=True))

    def by_others(z, s, h, activation):
        return _swept(A, z, s, h, activation, reverse)

    others = (z, s, h, activation), (dz, ds, dh, d_activation)
    return new, eqx.filter_jvp(by_others, *others)[1]
