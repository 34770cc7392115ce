"""What the implicit solvers share: the equation of a step, its solution and its derivative.

Both forms are z' = A ∇E(z), so a step of either is an equation for the z at its end,

    z1 = z0 + A (h S(z0, z1)) + c,

with the solver's mean slope S of the neurons. In the current form c is h (b + B u), u at the middle
of the step; in the rate form it is what the input changes in z, B (u1 - u0), where the method
looks at both ends of the step, and 0 where it looks at the middle. Then x1 = x0 + h S in the rate
form and x1 = z1 in the current form.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from .._network.activations import AbstractActivation
from .._network.invariants import bias_offset, total_energy, with_offset
from .._network.model import CTRNN
from .._util import checks
from .._util.types import Array, Bool, Float, Int, Scalar, any_at_all
from ._common import (
    Level,
    biases_at,
    conservative_network_of,
    during_step,
    level_of,
    merged,
    middles,
)
from .base import AbstractNetworkSolver, AbstractRetrace, Columns, Input, Retraced, dense_info

_NEWTON_STEPS = 32
# Where the fixed-point iteration may stop shrinking because of rounding, in units of eps.
_ROUNDING = 2**12


class _Iteration(NamedTuple):
    """The fixed-point iteration, for each column by itself."""

    z: Float[Array, "n batch"]
    change: Float[Array, " batch"]
    done: Bool[Array, " batch"]
    lost: Bool[Array, " batch"]  # not finite any more
    hopeless: Bool[Array, " batch"]  # not finite from the first step on: no method helps
    count: Int[Array, ""]


def solve_columns(
    residual: Callable[[Array, Any], Array],
    guess: Float[Array, "n batch"],
    columns: Any,
    tol: float | None,
    max_iterations: int,
) -> tuple[Float[Array, "n batch"], Bool[Array, " batch"]]:
    """The root z of residual(z, columns) = 0, column by column, and where it was found.

    z ← z - residual(z), which contracts for small steps; Newton's method for the columns that it
    does not bring to an end. Derivatives come from the implicit function theorem.
    """
    solved = _Solver(tol, max_iterations)

    def solve(f, guess):
        z, found = solved(lambda z, _: f(z), residual, guess, columns)
        return z, found.astype(z.dtype)  # custom_root differentiates it, as a constant

    def tangent_solve(g, y):
        return lax.custom_linear_solve(g, y, _linear_solve, _linear_solve)

    z, found = lax.custom_root(
        lambda z: residual(z, columns), guess, solve, tangent_solve, has_aux=True
    )
    return z, found > 0


class _Solver(NamedTuple):
    tol: float | None
    max_iterations: int

    def __call__(self, f, residual, guess, columns):
        z, found, hopeless = _contract(f, guess, columns, self.tol, self.max_iterations)

        def newton(z):
            # The iteration may have gone astray, so from the guess.
            root, ok = _newton(residual, guess, columns, self.tol)
            return jnp.where(found, z, root), found | ok

        return lax.cond(any_at_all(~(found | hopeless)), newton, lambda z: (z, found), z)


def _contract(f, guess, columns, tol, max_iterations):
    """z, where it was found, and which columns were not finite from the first step on."""
    eps = float(jnp.finfo(guess.dtype).eps)

    def body(now: _Iteration) -> _Iteration:
        step = f(now.z, columns)
        z = jnp.where(now.done | now.lost, now.z, now.z - step)
        change = jnp.max(jnp.abs(step), axis=0)
        size = jnp.maximum(jnp.max(jnp.abs(guess), axis=0), jnp.max(jnp.abs(z), axis=0))
        if tol is None:
            # A fixed tolerance would leave an error of one sign in every step, which adds up.
            stalled = (change >= now.change) & (change <= _ROUNDING * eps * size)
            done = stalled | (change == 0)
        else:
            done = change <= tol * size
        lost = ~jnp.isfinite(size)
        done = now.done | (done & ~lost)  # infinity is within a share of infinity
        change = jnp.where(now.done, now.change, change)
        hopeless = now.hopeless | (lost & (now.count == 0))
        return _Iteration(z, change, done, lost, hopeless, now.count + 1)

    def unfinished(now: _Iteration) -> Bool[Array, ""]:
        return jnp.any(~(now.done | now.lost)) & (now.count < max_iterations)

    batch = guess.shape[1:]
    never, none = jnp.full(batch, jnp.inf, guess.dtype), jnp.zeros(batch, bool)
    start = _Iteration(guess, never, none, none, none, jnp.zeros((), jnp.int32))
    end = lax.while_loop(unfinished, body, start)
    return end.z, end.done, end.hopeless


def _newton(residual, guess, columns, tol):
    # Written out because lineax, and so optimistix, refuses to work inside `jax.shard_map`.
    eps = float(jnp.finfo(guess.dtype).eps)
    tolerance = 64 * eps if tol is None else tol

    def one(guess, column):
        size = jnp.maximum(jnp.max(jnp.abs(guess)), jnp.finfo(guess.dtype).tiny)

        def scaled(y):
            return residual(size * y, column) / size

        def body(now):
            y, _, count = now
            step = _dense_solve(jax.jacfwd(scaled)(y), scaled(y))
            change = jnp.max(jnp.abs(step) / (1 + jnp.abs(y)))
            return y - step, change, count + 1

        def unfinished(now):
            _, change, count = now
            return (change > tolerance) & (count < _NEWTON_STEPS)

        start = guess / size, jnp.full((), jnp.inf, guess.dtype), jnp.zeros((), jnp.int32)
        y, change, _ = lax.while_loop(unfinished, body, start)
        return size * y, (change <= tolerance) & jnp.all(jnp.isfinite(y))

    return jax.vmap(one, in_axes=-1, out_axes=-1)(guess, columns)


def _dense_solve(A: Float[Array, "n n"], b: Float[Array, " n"]) -> Float[Array, " n"]:
    """A⁻¹ b by LU.

    jaxlib spreads a batch of LU over the threads that XLA's programs run on, and waits. Where each
    of them runs the program of one CPU device, all wait for ever: so one after another there.
    """
    if jax.sharding.get_abstract_mesh().empty:  # outside jax.shard_map
        return jnp.linalg.solve(A, b)
    one_by_one = jax.custom_batching.sequential_vmap(jnp.linalg.solve)
    return lax.platform_dependent(A, b, cpu=one_by_one, default=jnp.linalg.solve)


def _linear_solve(g: Callable[[Array], Array], y: Float[Array, "n batch"]) -> Array:
    """g(x) = y for a linear g that maps each column to itself: by contraction, else by LU."""
    x, found, hopeless = _contract(lambda x, y: g(x) - y, y, y, None, 64)

    def dense(x):
        n = y.shape[0]
        units = jnp.broadcast_to(jnp.eye(n, dtype=y.dtype)[:, :, None], (n, *y.shape))
        matrices = jnp.transpose(jax.vmap(g)(units), (2, 1, 0))
        return jnp.where(found, x, jax.vmap(_dense_solve)(matrices, y.T).T)

    return lax.cond(any_at_all(~(found | hopeless)), dense, lambda x: x, x)


class Biases(NamedTuple):
    """b + B u of each substep: where the method looks at both ends of it, and else at its middle.

    Leaves (substeps, n, columns), one column for all states or one for each.
    """

    start: Array
    end: Array | None

    def back(self) -> Biases:
        """Those of the way back, which begins with the end of the last substep."""
        if self.end is None:
            return Biases(self.start[::-1], None)
        return Biases(self.end[::-1], self.start[::-1])


class AbstractImplicitNetworkSolver(AbstractNetworkSolver):
    """A symmetric one-step method, given by the mean slope of the neurons over a step.

    Where it keeps the energy, `slope` is given the sum of potentials that it is to lead to.
    """

    can_undo: ClassVar[bool] = True
    input_at_ends: ClassVar[bool] = False
    """Whether the rate form looks at an input at both ends of a step, and not at its middle."""

    tol: eqx.AbstractVar[float | None]
    max_iterations: eqx.AbstractVar[int]

    @property
    @abc.abstractmethod
    def composition(self) -> tuple[float, ...]:
        """The fractions of a step that the method is composed of."""

    @abc.abstractmethod
    def slope(self, sigma: AbstractActivation, z0: Array, z1: Array, target: Any) -> Array:
        """S(z0, z1), symmetric in its arguments; (n,) or (n, batch)."""

    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> Any:
        """Whether the last step was solved, per trajectory, and the energies to keep."""
        rnn = conservative_network_of(terms, self)
        x0 = y0 if y0.ndim == 2 else y0[:, None]
        keeps = self.keeps_energy and args is None  # an input changes it
        return jnp.ones(y0.shape[1:], bool), level_of(rnn, x0) if keeps else None

    def step(
        self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any, solver_state: Any, made_jump: Any
    ) -> Any:
        """One step from t0 to t1."""
        h = terms.contr(t0, t1)
        x0 = y0 if y0.ndim == 2 else y0[:, None]
        _, level = solver_state
        rnn, u = conservative_network_of(terms, self), during_step(args, t0, t1)
        biases = None if u is None else self.biases(rnn, u)
        x1, converged = self.advance(rnn, x0, h, biases, level)
        y1, converged = x1.reshape(y0.shape), converged.reshape(y0.shape[1:])
        info = dense_info(terms, t0, t1, y0, y1, args, h)
        result = merged(diffrax.RESULTS.successful, jnp.all(converged))
        return y1, None, info, (converged, level), result

    def converged(self, solver_state: Any) -> Bool[Array, "*batch"]:
        """Whether the last step was solved, per trajectory."""
        return solver_state[0]

    def biases(self, rnn: CTRNN, u: Input) -> Biases:
        """See `Declarations`."""
        if rnn.form == "current" or not self.input_at_ends:
            return Biases(biases_at(rnn, u, middles(self.composition)), None)
        ends = [sum(self.composition[:i], 0.0) for i in range(len(self.composition))]
        found = biases_at(rnn, u, [*ends, 1.0])
        return Biases(found[:-1], found[1:])

    def advance(
        self,
        rnn: CTRNN,
        x: Float[Array, "n batch"],
        h: Array,
        biases: Biases | None = None,
        level: Level | None = None,
    ) -> tuple[Float[Array, "n batch"], Bool[Array, " batch"]]:
        """States after one step, and whether its equation was solved; the own bias unless given."""

        def substep(x, inputs):
            h, bias = inputs
            if bias is None:
                own = None if rnn.bias is None else rnn.bias[:, None]
                bias = Biases(own, None)  # pyright: ignore[reportArgumentType]
            x, _, converged = self._substep(rnn, x, h, bias, level)
            return x, converged

        if len(self.composition) == 1:
            return substep(x, (h, jax.tree.map(lambda b: b[0], biases)))
        every = h * jnp.asarray(self.composition, x.dtype), biases
        x, converged = lax.scan(substep, x, every)
        return x, jnp.all(converged, axis=0)

    def supplied(
        self, rnn: CTRNN, x: Columns, dt: Scalar, u: Input
    ) -> Float[Array, " batch"] | None:
        """See `Declarations`: h (S + c)ᵀ B u, b = A c, and in the rate form Sᵀ B (u1 - u0)."""
        if not self.keeps_energy:
            return None
        c, own = bias_offset(rnn), 0.0 if rnn.bias is None else rnn.bias[:, None]

        def substep(x, inputs):
            h, bias = inputs
            x, slope, _ = self._substep(rnn, x, h, bias, None)
            if rnn.form == "current":
                return x, h * jnp.sum(with_offset(slope, c) * (bias.start - own), axis=0)
            end = bias.start if bias.end is None else bias.end
            return x, jnp.sum(slope * (end - bias.start), axis=0)

        every = dt * jnp.asarray(self.composition, x.dtype), self.biases(rnn, u)
        return jnp.sum(lax.scan(substep, x, every)[1], axis=0)

    def _substep(
        self, rnn: CTRNN, x: Float[Array, "n batch"], h: Array, bias: Biases, level: Level | None
    ):
        """State at the end, mean slope, and whether the equation was solved."""
        sigma, weights, drift = rnn.activation, rnn.weights, None
        if rnn.form == "current":
            z0, drift = x, None if bias.start is None else h * bias.start
        else:
            z0 = weights.matvec(x)
            z0 = z0 if bias.start is None else z0 + bias.start
            drift = None if bias.end is None else bias.end - bias.start

        def end(z0, drift, slope):
            z1 = z0 + weights.matvec(h * slope)
            return z1 if drift is None else z1 + drift

        def residual(z1, start):
            z0, drift, target = start
            return z1 - end(z0, drift, self.slope(sigma, z0, z1, target))

        # The explicit midpoint method to begin with.
        middle = (z0 + end(z0, drift, sigma(z0))) / 2
        guess = lax.stop_gradient(end(z0, drift, sigma(middle)))
        target = None
        if self.keeps_energy:
            # What rounding did to the energy so far is undone in the next step: it adds up else.
            target = jnp.sum(sigma.potential(z0), axis=0)
            if level is not None:
                error = total_energy(rnn, x, level.offset) - level.energy
                target = target - lax.stop_gradient(error)
        if drift is not None:
            drift = jnp.broadcast_to(drift, z0.shape)  # a column for each state
        start = z0, drift, target
        z1, converged = solve_columns(residual, guess, start, self.tol, self.max_iterations)
        slope = self.slope(sigma, z0, z1, target)
        if rnn.form == "rate":
            return x + h * slope, slope, converged
        return end(z0, drift, slope), slope, converged

    def retrace(self, rnn: CTRNN) -> AbstractRetrace:
        """The way back for `adjoint="reversible"`: a step of -h retraces one of h."""
        return _SymmetricRetrace(self, rnn)


class _Back(NamedTuple):
    x: Array
    x_bar: Array
    rnn_bar: Any
    dt_bar: Array


class _SymmetricRetrace(AbstractRetrace):
    def __init__(self, solver: AbstractImplicitNetworkSolver, rnn: CTRNN):
        self.solver = solver
        self.arrays, self.static = eqx.partition(rnn, eqx.is_inexact_array)

    def start(self, x, x_bar):
        return _Back(x, x_bar, jax.tree.map(jnp.zeros_like, self.arrays), jnp.zeros((), x.dtype))

    def undo(self, back, dt, biases=None):
        def forward(arrays, x, dt, biases):
            return self.solver.advance(eqx.combine(arrays, self.static), x, dt, biases)[0]

        x = forward(self.arrays, back.x, -dt, None if biases is None else biases.back())
        _, pull = jax.vjp(forward, self.arrays, x, dt, biases)
        rnn_bar, x_bar, dt_bar, biases_bar = pull(back.x_bar)
        rnn_bar = jax.tree.map(jnp.add, back.rnn_bar, rnn_bar)
        return _Back(x, x_bar, rnn_bar, back.dt_bar + dt_bar), biases_bar

    def correct(self, back, x):
        return back._replace(x=x)

    def add_cotangent(self, back, x_bar):
        return back._replace(x_bar=back.x_bar + x_bar)

    def finish(self, back, dt):
        return Retraced(*back)


def check_iteration(tol: Any, max_iterations: Any) -> tuple[float | None, int]:
    """The options of the iteration, checked."""
    if tol is not None:
        tol = checks.positive_float("tol", tol)
    return tol, checks.integer("max_iterations", max_iterations, 1)
