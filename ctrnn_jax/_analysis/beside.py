"""A network seen from one of its states, and pulled back along its orbits."""

from __future__ import annotations

from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix

from .._network.model import CTRNN
from .._network.products import product
from .._util.types import Array, Float


class Beside(eqx.Module):
    """The network in the way u = x - x0 from a state, which keeps the digits of small orbits.

    Attributes:
        rnn: the network.
        x0: the state.
        z: what σ is taken of there in the rate form, where it is known better than from x0.
    """

    rnn: CTRNN
    x0: Float[Array, " n"]
    z: Float[Array, " n"] | None = None

    @property
    def preactivation(self) -> Float[Array, " n"]:
        """What σ is taken of at x0."""
        return self.rnn.preactivation(self.x0) if self.z is None else self.z

    def velocity(self, u: Float[Array, " n"]) -> Float[Array, " n"]:
        """x' at x0 + u. In the rate form A x + b, which cancels beside equilibria, is made once."""
        rnn = self.rnn
        if rnn.form == "current":
            return rnn(None, self.x0 + u)
        v = rnn.activation(self.preactivation + rnn.weights.matvec(u))
        return v if rnn.leak is None else v - rnn.leak * (self.x0 + u)

    def at_rest(self) -> Beside:
        """The same where x0 is a fixed point: there σ(z) = 0, but for the rounding of A x0 + b.

        What of that lies in the kernel of A no state could undo: small orbits would drift, and not
        close.
        """
        rnn = self.rnn
        if rnn.form == "current" or rnn.leak is not None:
            return self
        z = self.preactivation
        slope = rnn.activation.derivative(z)
        step = rnn.activation(z) / jnp.where(slope != 0, slope, jnp.inf)
        return Beside(rnn, self.x0, z - step)

    def rounding(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """How far rounding of x0, and then that in `velocity`, may move the velocity at x0."""
        rnn, x = self.rnn, jnp.abs(self.x0)
        eps = float(jnp.finfo(x.dtype).eps)
        A = jnp.abs(rnn.weights.as_matrix())
        bias = 0 if rnn.bias is None else jnp.abs(rnn.bias)
        leak = 0 if rnn.leak is None else rnn.leak * x
        z = self.preactivation
        slope = jnp.abs(rnn.activation.derivative(z))
        if rnn.form == "current":
            terms = product(A, slope * x + jnp.abs(rnn.activation(z))) + bias
            return eps * jnp.max(terms + leak), eps * jnp.max(terms + leak)
        terms = slope * (product(A, x) + bias) + leak
        return eps * jnp.max(terms), eps * jnp.max(slope * jnp.abs(z) + leak)


def fastest_rate(rnn: CTRNN) -> Float[Array, ""]:
    """A bound of |A| within a factor √n, in rad/s, above 0."""
    A = rnn.weights.as_matrix()
    return jnp.maximum(jnp.linalg.norm(A) / 2**0.5, jnp.finfo(A.dtype).tiny)


class PulledBack(NamedTuple):
    """By each of k cotangents of x(T): those of x0 (k, n), of the arrays (k, ...), and their sizes.

    The size of an array, one number, is T times the root of the mean square, over the orbit, of
    what a moment adds to its cotangents, all of them together: what rounding and cancellation are
    to be compared with.
    """

    start: Float[Array, "k n"]
    arrays: Any
    sizes: Any


def pulled_back(
    arrays: Any,
    static: Any,
    x0: Float[Array, " n"],
    T: Float[Array, ""],
    end_bars: Float[Array, "k n"],
    *,
    size: Array,
    rtol: float,
    atol: float | Array,
    max_steps: int,
) -> PulledBack:
    """The cotangents of x0 and of the network's arrays by k of x(T), of a closed orbit.

    The adjoint equation once around the orbit, backwards from x(T) = x0, beside the orbit itself:
    its errors are controlled at the kinks of σ too, where differentiated steps would be wrong.
    Tolerances are of the way from x0 in units of `size`, and of the first cotangent, near 1: the
    others are made by its steps. Nan where the steps do not suffice.
    """

    def velocity(arrays, u):
        return Beside(eqx.combine(arrays, static), x0).velocity(u)

    def backwards(t, state, args):
        u, u_bars, *_ = state
        now, pull = jax.vjp(velocity, arrays, size * u)
        added, u_bars = jax.vmap(pull)(u_bars)
        added = jax.tree.map(lambda leaf: leaf / size, added)
        return -now / size, u_bars, added, jax.tree.map(lambda leaf: jnp.sum(leaf**2), added)

    def first(state):
        u, u_bars, added, _ = state
        return optimistix.rms_norm((u, u_bars[0], jax.tree.map(lambda leaf: leaf[0], added)))

    none = jax.tree.map(lambda leaf: jnp.zeros((len(end_bars), *leaf.shape), leaf.dtype), arrays)
    zeros = jax.tree.map(lambda leaf: jnp.zeros((), leaf.dtype), arrays)
    start = jnp.zeros_like(x0), end_bars, none, zeros
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(backwards), diffrax.Dopri8(), jnp.zeros_like(T), T, None, start,
        stepsize_controller=diffrax.PIDController(rtol, atol, norm=first),
        max_steps=max_steps, throw=False,
    )  # fmt: skip
    assert solution.ys is not None
    _, u_bars, arrays_bars, squares = jax.tree.map(lambda leaf: leaf[0], solution.ys)
    arrays_bars = jax.tree.map(lambda leaf: leaf * size, arrays_bars)
    sizes = jax.tree.map(lambda leaf: size * jnp.sqrt(T * jnp.maximum(leaf, 0)), squares)
    ended = diffrax.is_successful(solution.result)
    found = PulledBack(u_bars, arrays_bars, sizes)
    return jax.tree.map(lambda leaf: jnp.where(ended, leaf, jnp.nan), found)
