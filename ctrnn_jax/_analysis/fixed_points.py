"""States at rest, and how the network moves beside them."""

from __future__ import annotations

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jax import lax

from .._network.model import CTRNN, states_for
from .._network.products import product
from .._util.types import Array, ArrayLike, Float, Inexact, precise_products
from .beside import Beside, fastest_rate
from .floquet import kernel_projector


class FixedPoints(eqx.Module):
    """What `fixed_points` found, one for each state that it started from.

    Attributes:
        xs: (..., n) the states at rest; nan where none was found.
        eigenvalues: (..., n) complex, of ∂x'/∂x there, in 1/s, by descending real part and then
            ascending imaginary part. One in the kernel of A is 0: the next fixed point is beside
            this one.
        residuals: (...,) largest |x'| that is left, as a share of what cancels in it.
    """

    xs: Float[Array, "*shape n"]
    eigenvalues: Inexact[Array, "*shape n"]
    residuals: Float[Array, "*shape"]


def fixed_points(rnn: CTRNN, x0: ArrayLike | None = None) -> FixedPoints:
    """States at rest, σ(A x + b) = γ x or A σ(x) + b = γ x, near given ones, with their spectra.

    Levenberg and Marquardt's method, in the rate form from the nearest state with A x + b = 0, too,
    then Newton's. Without leak, whole lines or planes of states are at rest where a skew-symmetric
    A has a kernel: in the rate form x may be shifted along it, in the current form σ(x) + c (with
    A c = b) lies in it. Of these the one with the part of x0 in the kernel is found: in the current
    form the one with its Casimirs. It is the only one there for an increasing σ, by which the
    energy is convex.

    None exists where the equations have none: rate form, where σ has no zero (sigmoid, exp), or no
    A x + b reaches it; current form, where b is not in the range of A, or c beyond what σ reaches.

    Differentiable in reverse and forward mode by the network and x0 (implicit function theorem),
    where fixed points are isolated but for the kernel.

    Args:
        rnn: any network, n neurons; inputs are 0.
        x0: (..., n) states to start from; unless given, one: the origin. Networks whose weights
            are not skew-symmetric, and activations such as sin, may have many fixed points: start
            from many states.

    Returns:
        A `FixedPoints`; nan where none is found, and of states that are not finite.

    Raises:
        TypeError, ValueError: for a wrong shape or dtype.

    Source:
        J. Nocedal, S. J. Wright, "Numerical Optimization", section 10.3; for the implicit function
        theorem, Y. A. Kuznetsov, "Elements of Applied Bifurcation Theory", section 10.2.

    Example:
        >>> rnn = ct.CTRNN(ct.DenseSkew.init(jax.random.key(0), 5), form="current")
        >>> ct.fixed_points(rnn).eigenvalues  # 0 and ±iω of A, as σ'(0) = 1
    """
    x0 = states_for(rnn, jnp.zeros(rnn.size, rnn.dtype) if x0 is None else x0)
    n, shape = rnn.size, x0.shape[:-1]
    xs, residuals = at_rest(rnn, x0.reshape(-1, n))
    return FixedPoints(
        xs.reshape(x0.shape), _spectra(rnn, xs).reshape(x0.shape), residuals.reshape(shape)
    )


@eqx.filter_jit
def at_rest(rnn: CTRNN, x0: Float[Array, "batch n"]) -> tuple[Array, Array]:
    """Fixed points (batch, n) near states, nan without one, and residuals (batch,)."""
    frozen = _stopped(rnn.prepared())
    eps = float(jnp.finfo(rnn.dtype).eps)
    unit, _, remainder = _equations(frozen)
    method = optx.LevenbergMarquardt(rtol=eps**0.5, atol=eps**0.5)
    wide = jnp.result_type(float)  # of the method's own step, whatever the network's

    def found(x0, start):
        def wider(w, args):
            return remainder(x0, w.astype(rnn.dtype)).astype(wide)

        with precise_products():
            w = optx.least_squares(
                wider, method, start.astype(wide), max_steps=256, throw=False
            ).value.astype(rnn.dtype)

        def polished(_, w):
            return w - product(_inverse(remainder, x0, w), remainder(x0, w))

        w = lax.fori_loop(0, 4, polished, w)
        return w, jnp.max(jnp.abs(remainder(x0, w)))

    def one(x0):
        starts = jnp.zeros_like(x0)[None]
        if frozen.form == "rate":
            # Where σ is saturated no slope shows the way: from A x + b = 0, too.
            inverse = jnp.linalg.pinv(frozen.weights.as_matrix())
            nearest = -product(inverse, frozen.preactivation(x0)) / unit
            starts = jnp.stack([starts[0], nearest])
        w, left = jax.vmap(partial(found, x0))(starts)
        left = jnp.where(jnp.isnan(left), jnp.inf, left)
        return x0 + unit * w[jnp.where(left[0] <= eps**0.75, 0, jnp.argmin(left))]

    x = jax.vmap(one)(_stopped(x0))
    return jax.vmap(lambda x0, x: at_rest_near(rnn, x0, x))(x0, x)


def at_rest_near(rnn: CTRNN, x0: Array, x: Array) -> tuple[Array, Array]:
    """The fixed point x that was found from x0, by a last step of Newton's method, and a residual.

    What changes in that step is its derivatives by network and x0: they are those of the implicit
    function theorem.
    """
    live = rnn.prepared()
    frozen, here, x = _stopped(live), _stopped(x0), _stopped(x)
    eps = float(jnp.finfo(x.dtype).eps)
    unit, speed, remainder = _equations(frozen)
    w = (x - here) / unit
    # What cancels in the equation, and what is left of it.
    _, noise = Beside(frozen, x).rounding()
    residual = jnp.max(jnp.abs(remainder(here, w))) / jnp.maximum(noise / (eps * speed), 1)
    step = product(_inverse(remainder, here, w), _equations(live, unit, speed)[2](x0, w))
    # At a zero in the infinite, as of exp, steps remain where little of the equation does.
    ended = jnp.max(jnp.abs(step)) <= eps**0.5 * (1 + jnp.max(jnp.abs(w)))
    good = ended & (residual <= eps**0.75)
    return jnp.where(good, x0 + unit * (w - step), jnp.nan), residual


def _stopped(tree: Any) -> Any:
    return jax.tree.map(lambda a: lax.stop_gradient(a) if eqx.is_inexact_array(a) else a, tree)


def _equations(rnn: CTRNN, unit: Any = None, speed: Any = None) -> tuple[Any, Any, Any]:
    """Units of states and velocities, as no result hangs on that of time, and what must vanish:
    the velocity, and the way from x0 along the kernel, by the way from x0 in such units."""
    n = rnn.size
    if unit is None:
        rate = fastest_rate(rnn)
        unit, speed = (jnp.ones_like(rate), rate)
        if rnn.form == "rate":
            unit, speed = 1 / rate, jnp.ones_like(rate)
    kernel = jnp.zeros((n, n), rnn.dtype)
    if rnn.is_conservative:
        kernel = kernel_projector(rnn.weights.as_matrix())

    def remainder(x0, w):
        return jnp.concatenate([rnn(None, x0 + unit * w) / speed, product(kernel, w)])

    return unit, speed, remainder


def _inverse(remainder: Any, x0: Array, w: Array) -> Array:
    return jnp.linalg.pinv(jax.jacfwd(remainder, 1)(x0, w))


@eqx.filter_jit
def _spectra(rnn: CTRNN, xs: Float[Array, "batch n"]) -> Array:
    def one(x):
        slopes = jax.jacfwd(lambda x: rnn(None, x))(x)
        finite = jnp.all(jnp.isfinite(slopes))
        found = jnp.linalg.eigvals(jnp.where(finite, slopes, 0))
        noise = float(jnp.finfo(x.dtype).eps) ** 0.7 * jnp.max(jnp.abs(found))
        growth = jnp.where(jnp.abs(jnp.real(found)) <= noise, 0, -jnp.real(found))
        order = jnp.lexsort((jnp.imag(found), growth))
        return jnp.where(finite, found[order], jnp.nan)

    return jax.vmap(one)(xs)
