"""How long a closed orbit takes to return, found by following it."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._network.model import CTRNN, states_for
from .._util import checks
from .._util.types import Array, ArrayLike, Float, Int, matmul_precision
from .beside import Beside, fastest_rate, pulled_back
from .for_each import for_each


def period(
    rnn: CTRNN,
    x0: ArrayLike,
    *,
    max_time: ArrayLike | None = None,
    tolerance: float | None = None,
    rtol: float | None = None,
    max_steps: int = 2**16,
) -> Float[Array, "*shape"]:
    """Time after which an orbit first returns to where it started.

    The orbit is followed with `diffrax.Dopri8` and adaptive steps. Each time it crosses the plane
    through x0 that is normal to the velocity there, in the direction of that velocity, the crossing
    is located to rounding (Newton's method on the length of the step, guarded by bisection). The
    first crossing within the tolerance of x0 is the return; others, as of orbits that do not close,
    are passed by.

    In reverse mode the gradient by the network and x0 is that of the implicit function theorem,
    dT = -f(x0)·(dφ_T - dx0) / |f(x0)|² with the flow φ_T. It is the derivative of the period where
    the changed orbit closes too, that is where dφ_T - dx0 is along f(x0): two neurons, three
    without a bias, one block of many. Entries by which the orbit would open are nan: with four
    neurons and more an orbit through a given x0 closes for a single network only, and the period
    is a function of the energy: differentiate `nonlinear_modes`.

    Args:
        rnn: any network, n neurons.
        x0: (..., n) states on the orbits.
        max_time: how far an orbit is followed, in seconds; unless given, 100 times the sum of the
            period of the fastest linear mode, 2π/‖A‖, and the time to pass |x0| at the initial
            speed.
        tolerance: largest return distance |φ_T(x0) - x0| that counts as a return, as a fraction of
            the largest distance from x0 that the orbit has reached; unless given, eps^0.4
            (5e-7 in float64, 2e-3 in float32).
        rtol: relative tolerance of the steps; unless given, eps^0.8 (3e-13 and 3e-6). Tolerances
            are relative to the size of the orbit. Beside equilibria x0 itself is rounded: a return
            may miss by that too, and by a hundredth of the orbit at most.
        max_steps: after how many steps, rejected ones and trials of crossings among them, the
            search for one orbit ends. The default is about 2000 turns around a smooth orbit.

    Returns:
        (...,) in seconds; nan where there is no return within `max_time` and `max_steps`: in
        quasi-periodic and chaotic motion, at rest, or where something is not finite. At rest is
        what is so to rounding, at a speed that a change of x0 in its last digits may make. The
        gradient of nan is nan.

    Raises:
        TypeError, ValueError: for a wrong shape, dtype or value of an argument.

    Source:
        Section and return after M. Hénon, "On the numerical computation of Poincaré maps",
        Physica D 5, 1982; here each crossing is a step of fitting length.

    Example:
        >>> rnn = ct.CTRNN(ct.BlockSkew.from_hz(jnp.array([1.0])), ct.Arctan())
        >>> ct.period(rnn, jnp.array([0.1, 0.0]))  # a little more than 1 s
    """
    x0, n = states_for(rnn, x0), rnn.size
    eps = float(jnp.finfo(x0.dtype).eps)
    near = eps**0.4 if tolerance is None else checks.positive_float("tolerance", tolerance)
    accuracy = eps**0.8 if rtol is None else checks.positive_float("rtol", rtol)
    if max_time is not None:
        max_time = checks.positive("max_time", max_time, x0.dtype)
    search = _Limits(near, accuracy, checks.integer("max_steps", max_steps, 1))
    if x0.size == 0:
        return jnp.zeros(x0.shape[:-1], x0.dtype)
    return _period(rnn, x0.reshape(-1, n), max_time, search).reshape(x0.shape[:-1])


class _Limits(NamedTuple):
    tolerance: float
    rtol: float
    max_steps: int


@eqx.filter_jit
def _period(rnn: CTRNN, x0: Array, max_time: Any, limits: _Limits) -> Array:
    arrays, static = eqx.partition(rnn, eqx.is_array)
    parameters, integers = eqx.partition(arrays, eqx.is_inexact_array)
    return _returns(static, limits, parameters, integers, x0, max_time)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _returns(static, limits, arrays, integers, x0, max_time):
    rnn = eqx.combine(arrays, integers, static).prepared()
    return jax.vmap(lambda x: _first_return(rnn, x, max_time, limits))(x0)


def _returns_forward(static, limits, arrays, integers, x0, max_time):
    found = _returns(static, limits, arrays, integers, x0, max_time)
    return found, (arrays, integers, x0, max_time, found)


def _returns_backward(static, limits, residuals, found_bar):
    arrays, integers, x0, max_time, found = residuals
    static = eqx.combine(integers, static)
    closed = jnp.isfinite(found)
    x0 = jnp.where(closed[:, None], x0, 0)  # what is not finite would never end
    rnn = eqx.combine(arrays, static)

    def around(x0, T):
        here = Beside(rnn, x0)
        initial, (_, noise) = here.velocity(jnp.zeros_like(x0)), here.rounding()
        speed = jnp.max(jnp.abs(initial))
        speed = jnp.where(speed > 0, speed, 1)
        normal = initial / speed
        normal = normal / jnp.sum(normal**2)
        beside = _across(normal)
        back = pulled_back(
            arrays, static, x0, T, jnp.stack([normal, beside]),
            size=speed / fastest_rate(rnn),  # of a small orbit
            rtol=limits.rtol, atol=limits.rtol + 4 * noise / speed, max_steps=limits.max_steps,
        )  # fmt: skip

        # What opens the orbit, of what changes it at all: of orbits that stay closed up to a share
        # of 4e-11 was seen, in float32 of 1e-3 (saturated, with kinks).
        share = 4 * limits.tolerance

        def where_closed(change, opening, most):
            return jnp.where(jnp.abs(opening) > share * most, jnp.nan, change)

        def by_leaf(bars, size):
            # Of a leaf, as its entries have one unit; it may cancel to rounding.
            most = jnp.max(jnp.abs(bars), initial=0) + size / 4
            return where_closed(-bars[0] / speed, bars[1], most)

        along, across = back.start
        most = jnp.max(jnp.abs(beside)) + jnp.max(jnp.abs(across))
        by_state = where_closed((normal - along) / speed, across - beside, most)
        by_arrays = jax.tree.map(by_leaf, back.arrays, back.sizes)
        return by_state, by_arrays

    # No time to those without a return; of a nan the derivative is nan.
    n = x0.shape[1]
    by_state, by_arrays = for_each(around, x0, jnp.where(closed, found, 0), n=n)
    weight = jnp.where(closed, found_bar, jnp.where(found_bar == 0, 0, jnp.nan))

    def weighted(leaf):
        shape = (-1,) + (1,) * (leaf.ndim - 1)
        bar = weight.reshape(shape)
        return jnp.where((bar == 0) | jnp.isnan(bar), bar, leaf * bar)

    arrays_bar = jax.tree.map(lambda leaf: jnp.sum(weighted(leaf), axis=0), by_arrays)
    no_bar = None if max_time is None else jnp.zeros_like(max_time)
    return arrays_bar, None, weighted(by_state), no_bar


_returns.defvjp(_returns_forward, _returns_backward)


def _across(normal: Float[Array, " n"]) -> Float[Array, " n"]:
    """A vector as long that is normal to it; of no direction that an orbit would prefer."""
    length = jnp.linalg.norm(normal)
    any_way = jnp.asarray(np.random.default_rng(0).normal(size=normal.size), normal.dtype)
    normal = normal / length
    for _ in range(2):  # what is left of two that are nearly parallel is rounded
        any_way = any_way - normal * jnp.dot(normal, any_way, precision=matmul_precision())
        any_way = any_way / jnp.linalg.norm(any_way)
    return any_way * length


class _Search(NamedTuple):
    """Where the search stands: at time t in x0 + u, or between there and a step further."""

    t: Array
    u: Array
    height: Array  # above the plane through x0, along the velocity there
    step: Array  # the next step
    trial: Array  # the length of step that is tried as the crossing, between low and high
    low: Array
    high: Array  # 0: no crossing is being located
    farthest: Array  # from x0
    found: Array  # nan until then
    trials: Int[Array, ""]
    rounds: Int[Array, ""]


def _begun(x0: Array, step: Array, moving: Array) -> _Search:
    """At x0 with its first step; where nothing moves beyond all time, so that it ends at once."""
    zero = jnp.zeros_like(step)
    return _Search(
        t=jnp.where(moving, zero, jnp.inf),
        u=jnp.zeros_like(x0),
        height=zero,
        step=step,
        trial=zero,
        low=zero,
        high=zero,
        farthest=zero,
        found=jnp.full_like(zero, jnp.nan),
        trials=jnp.zeros((), jnp.int32),
        rounds=jnp.zeros((), jnp.int32),
    )


def _first_return(rnn: CTRNN, x0: Array, max_time: Any, limits: _Limits) -> Array:
    """The first return of one state (n,)."""
    here = Beside(rnn, x0)
    term, solver = diffrax.ODETerm(lambda t, u, args: here.velocity(u)), diffrax.Dopri8()
    velocity = here.velocity(jnp.zeros_like(x0))
    speed, fastest = jnp.max(jnp.abs(velocity)), fastest_rate(rnn)
    doubt, noise = here.rounding()
    moving = jnp.all(jnp.isfinite(x0)) & jnp.isfinite(speed) & (speed > (8 + rnn.size) * doubt)
    speed = jnp.where(moving, speed, 1)
    normal, small = velocity / speed, speed / fastest  # the size of a small orbit
    if max_time is None:
        max_time = 100 * (2 * np.pi / fastest + jnp.max(jnp.abs(x0)) / speed)
    eps = float(jnp.finfo(x0.dtype).eps)

    def advance(u, length):
        state = solver.init(term, jnp.zeros_like(length), length, u, None)
        return solver.step(term, jnp.zeros_like(length), length, u, None, state, False)[:2]

    def searching(s: _Search):
        lost = (s.high == 0) & (s.step <= eps * s.t)
        more = (s.t < max_time) & (s.rounds < limits.max_steps)
        return jnp.isnan(s.found) & more & ~lost

    def body(s: _Search):
        locating = s.high > 0
        length = jnp.where(locating, s.trial, s.step)
        u, error = advance(s.u, length)
        height = jnp.dot(normal, u, precision=matmul_precision())

        # A step: accepted if its error allows, unless it crosses the plane.
        scale = limits.rtol * (small + jnp.maximum(s.farthest, jnp.max(jnp.abs(u))))
        ratio = jnp.max(jnp.abs(error)) / (scale + 2 * length * noise)
        ratio = jnp.where(jnp.isfinite(ratio), ratio, jnp.inf)
        accepted = ratio <= 1
        crosses = accepted & (s.height < 0) & (height >= 0)
        factor = jnp.clip(0.9 * jnp.maximum(ratio, 1e-10) ** (-1 / 8), 0.2, 5)
        t, farthest = s.t + length, jnp.maximum(s.farthest, jnp.max(jnp.abs(u)))
        s = s._replace(rounds=s.rounds + 1)
        stepped = s._replace(step=length * factor)
        stepped = _where(
            accepted, stepped._replace(t=t, u=u, height=height, farthest=farthest), stepped
        )
        secant = length * s.height / (s.height - height)
        between = s._replace(
            trial=secant, low=jnp.zeros_like(length), high=length, trials=s.trials * 0
        )
        stepped = _where(crosses, between, stepped)

        # A trial: a Newton step inside the bracket, until rounding decides.
        above = height >= 0
        low, high = jnp.where(above, s.low, length), jnp.where(above, length, s.high)
        newton = length - height / jnp.dot(normal, here.velocity(u), precision=matmul_precision())
        inside = (newton > low) & (newton < high)
        trial = jnp.where(inside, newton, (low + high) / 2)
        settled = jnp.abs(newton - length) <= 2 * eps * t
        tried = s._replace(trial=trial, low=low, high=high, trials=s.trials + 1)
        # Rounding may keep a small orbit open, but never by more than a hundredth.
        rounding = jnp.minimum(32 * doubt / fastest, 0.01 * s.farthest)
        near = limits.tolerance * s.farthest + rounding
        back = jnp.max(jnp.abs(u)) <= near
        # Beyond the plane: 0, lest the same crossing be found again.
        onward = s._replace(
            t=t, u=u, height=jnp.zeros_like(height), high=jnp.zeros_like(high),
            found=jnp.where(back & (s.t + newton <= max_time), s.t + newton, s.found),
        )  # fmt: skip
        tried = _where(settled | (s.trials >= 60), onward, tried)
        return _where(locating, tried, stepped)

    return lax.while_loop(searching, body, _begun(x0, 0.01 / fastest, moving)).found


def _where(condition: Array, a: _Search, b: _Search) -> _Search:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), a, b)
