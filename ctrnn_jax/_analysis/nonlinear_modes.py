"""Nonlinear modes: the families of closed orbits that grow out of a network's frequencies."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._network.invariants import bias_offset, total_energy
from .._network.model import CTRNN, conservative_network, states_for
from .._network.products import product
from .._util import checks
from .._util.types import Array, ArrayLike, Float, Inexact, Int
from . import continuation
from .beside import Beside, pulled_back
from .fixed_points import at_rest, at_rest_near
from .floquet import MAX_STEPS, eigenvalues_beside_ones, kernel_projector
from .for_each import for_each

STABLE, UNSTABLE, TURNED, RESONANT, STUCK, OUT_OF_ROUNDS, NO_MODE = range(7)


class NonlinearModes(eqx.Module):
    """Families of closed orbits, as `nonlinear_modes` finds them. What is not found is nan.

    Attributes:
        energies: (E,) above that of the fixed point.
        periods: (modes, E) in seconds: the backbone curves.
        states: (modes, E, n) one of each orbit.
        residuals: (modes, E) |φ_T(x) - x|, the largest entry, as a share of |x - fixed point|.
        multipliers: (modes, E, n) complex, see `floquet_multipliers`.
        status: (modes, E) index into `WORDS`.
        reached: (modes,) the largest energy to which a family was followed; of one that turned
            back, that of the turn, less a part of a step of the continuation. Between `energies`
            orbits count as closed to eps^0.4, so that it may lie beyond an end where families meet.
        fixed_point: (n,) what the families grow out of.
        WORDS: what the status tells:

            - stable: all multipliers are on the unit circle, to eps^0.3 (2e-5 in float64);
            - unstable: some are not;
            - turned back: the family has its largest energy before this one;
            - resonance: it could not be followed to here, from a frequency or orbit at which
              another mode turns a whole number of times, to 2 %, while this one turns once;
            - not converged: it was followed to here, but the orbit magnifies errors so much that no
              state of this precision closes; or it could not be, for another reason: the period
              grows beyond all bounds, or the orbit too sharp for its steps;
            - out of rounds: `max_rounds` were used up;
            - no mode: its frequency is 0, or no fixed point of least energy was found.
    """

    energies: Float[Array, " E"]
    periods: Float[Array, "modes E"]
    states: Float[Array, "modes E n"]
    residuals: Float[Array, "modes E"]
    multipliers: Inexact[Array, "modes E n"]
    status: Int[Array, "modes E"]
    reached: Float[Array, " modes"]
    fixed_point: Float[Array, " n"]
    WORDS: ClassVar[tuple[str, ...]] = (
        "stable", "unstable", "turned back", "resonance", "not converged", "out of rounds",
        "no mode",
    )  # fmt: skip

    @property
    def frequencies(self) -> Float[Array, "modes E"]:
        """1/T in Hz."""
        return 1 / self.periods

    def words(self) -> np.ndarray:
        """The status (modes, E) in words."""
        return np.array(self.WORDS)[np.asarray(self.status)]


def nonlinear_modes(
    rnn: CTRNN,
    mode: int | None = None,
    energies: ArrayLike | Sequence[float] | None = None,
    *,
    around: ArrayLike | None = None,
    max_rounds: int = 500,
) -> NonlinearModes:
    """The closed orbits of each mode, by energy, with their periods and stability.

    By Lyapunov's centre theorem a family of closed orbits with the energy as parameter grows out of
    a fixed point of least energy from each frequency of the linearised network, where no other
    frequency is a multiple of it (and often where one is). Where another mode comes to turn a whole
    number of times beside it, families meet, and which of them is gone on with may depend on the
    form and on the energies that are asked for. It begins with the linear mode at an energy near 0
    and is followed by pseudo-arclength continuation with multiple shooting: Newton's
    method for the states between eight parts of a turn and for the period, which goes on where
    orbits are very unstable. What it finds at the energies is polished by whole turns: φ_T(x) = x,
    E(x) = E, the part of x in the kernel of A given (in the current form: the Casimirs). Orbit and
    tangent map are solved by `diffrax.Dopri8` to eps^0.93, with what
    rounding takes from the sum of the steps kept, those of the piecewise linear `HardTanh` and
    `ReLU` from kink to kink, to rounding; a turn counts as closed where it misses by eps^0.72 of
    the orbit at most (5e-12 in float64, 1e-5 in float32), and beside a fixed point that is not 0 by
    what rounding makes of the state. Rounding of the state alone makes the exact flow miss by
    10⁻¹¹ where an orbit magnifies errors 10⁵ times in a turn; 10⁶ times and more, few close.

    Periods and states are differentiable in reverse mode by the network, the energies and `around`
    (implicit function theorem); of states with the choice that they move across the flow. The
    derivatives of residuals, multipliers and ends are 0, those of nan are nan. For multipliers that
    can be differentiated see `monodromy`.

    Args:
        rnn: n neurons with skew-symmetric weights and without leak. Inputs are 0.
        mode: index into the frequencies, ascending as in `natural_frequencies`; all unless given.
        energies: (E,) numbers > 0, ascending, above the energy of the fixed point: without bias
            that is `energy(rnn, x)` itself. Unless given, 24 from 0.001 to n, in equal ratios.
        around: (n,) a state from which `fixed_points` finds the one to begin with; unless given
            the origin.
        max_rounds: how often a mode goes around an orbit, at most: some five times for each
            orbit found, and each on the way to it.

    Returns:
        A `NonlinearModes`; modes are n // 2 or one. Past an end of a family, which `status` names,
        it has nan, and where an orbit does not close. Of families that turn back, the first part is
        given.

    Raises:
        TypeError, ValueError: for weights that are not skew-symmetric, a leak, an equation of a
            subclass's own, and a wrong shape, dtype or value of an argument.

    Source:
        A. M. Lyapunov, "The general problem of the stability of motion", 1892; J. Moser, "Periodic
        orbits near an equilibrium and a theorem by Alan Weinstein", Comm. Pure Appl. Math. 29,
        1976. The continuation after M. Peeters et al., "Nonlinear normal modes, Part II", Mech.
        Syst. Signal Process. 23, 2009, here with the energy as the condition; multiple shooting
        after R. Seydel, "Practical Bifurcation and Stability Analysis", section 7.5.

    Example:
        >>> rnn = ct.CTRNN(ct.DenseSkew.init(jax.random.key(0), 8), form="current")
        >>> modes = ct.nonlinear_modes(rnn, energies=jnp.geomspace(0.001, 4, 20))
        >>> modes.periods, modes.words()
        >>> jax.grad(lambda rnn: ct.nonlinear_modes(rnn, 0, energies=[1.0]).periods[0, 0])(rnn)
    """
    n = conservative_network(rnn).size
    if mode is not None:
        mode = checks.integer("mode", mode, 0)
        if mode >= n // 2:
            checks.fail("mode", f"below the number of modes, {n // 2}", mode)
    if energies is None:
        energies = np.geomspace(1e-3, n, 24)
    energies = checks.positive_array("energies", energies, rnn.dtype, ndim=(1,))
    descends = not checks.is_traced(energies) and np.any(np.diff(np.asarray(energies)) <= 0)
    if energies.size == 0 or descends:
        checks.fail("energies", "at least one number, in ascending order", energies)
    around = states_for(rnn, jnp.zeros(n, rnn.dtype) if around is None else around)
    if around.shape != (n,):
        checks.fail("around", f"one state of shape ({n},)", around.shape)
    max_rounds = checks.integer("max_rounds", max_rounds, 1)
    which = jnp.arange(n // 2) if mode is None else jnp.array([mode])
    return modes_followed(rnn, around, energies, which, max_rounds)


@eqx.filter_jit
def modes_followed(
    rnn: CTRNN, around: Array, energies: Array, which: Int[Array, " modes"], max_rounds: int
) -> NonlinearModes:
    """`nonlinear_modes` of some modes, by their indices; nothing is checked."""
    arrays, static = eqx.partition(rnn, eqx.is_array)
    parameters, integers = eqx.partition(arrays, eqx.is_inexact_array)
    fixed = (static, max_rounds)
    families: Any = _families(fixed, parameters, (integers, which), around, energies)
    return NonlinearModes(energies, *families)


def _seen_from(rnn: CTRNN, x: Array) -> continuation.Centre:
    offset, rnn = bias_offset(rnn), rnn.prepared()
    here = Beside(rnn, x).at_rest()
    return continuation.Centre(here, offset, kernel_projector(rnn.weights.as_matrix()))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _families(fixed, arrays, integers, around, energies):
    return _families_forward(fixed, arrays, integers, around, energies)[0]


def _families_forward(fixed, arrays, integers, around, energies):
    static, max_rounds = fixed
    rnn = eqx.combine(arrays, integers[0], static)
    x = at_rest(rnn, around[None])[0][0]
    centre = _seen_from(rnn, x)
    omega, starts = centre.linear_modes()
    which = integers[1]

    def family(omega, y):
        return continuation.follow(centre, omega, y, energies, max_rounds)

    found = for_each(family, omega[which], starts[which], n=x.size, searched=True)

    def beside_ones(y, M):
        gradient = jax.grad(centre.energy)(y)
        return eigenvalues_beside_ones(M, centre.velocity(y), gradient, centre.kernel)

    multipliers = jax.vmap(jax.vmap(beside_ones))(found.states, found.monodromies)
    status = _status(found, omega, omega[which], multipliers, jnp.sum(jnp.diag(centre.kernel)))
    reached = jnp.where(found.status == continuation.NO_MODE, jnp.nan, found.highest)
    states = x[None, None] + found.states
    results = found.periods, states, found.residuals, multipliers, status, reached, x
    kept = arrays, integers, around, x, found.states, found.periods, found.monodromies
    return results, kept


def _status(found, omega, own, multipliers, nullity) -> Int[Array, "modes E"]:
    eps = float(jnp.finfo(omega.dtype).eps)
    E = multipliers.shape[1]
    stable = jnp.max(jnp.abs(multipliers), axis=-1) <= 1 + eps**0.3
    # Other modes that turn a whole number of times beside this one: at the fixed point ...
    ratio = jnp.abs(omega[None] / own[:, None])
    whole = jnp.abs(ratio - jnp.round(ratio)) <= 0.02 * ratio
    at_first = jnp.sum(whole & (jnp.round(ratio) >= 1), axis=1) > 1
    # ... and at the last orbit, where a pair of multipliers beside those of the theory is near 1.
    reached = found.target - 1
    last = jnp.take_along_axis(multipliers, jnp.maximum(reached - 1, 0)[:, None, None], axis=1)[
        :, 0
    ]
    near = jnp.abs(last - 1) <= 2 * np.pi * 0.02
    later = jnp.sum(near, axis=-1) > 2 + jnp.round(nullity).astype(int)
    resonant = jnp.where(reached <= 0, at_first, later)
    codes = [STABLE, STABLE, TURNED, STUCK, OUT_OF_ROUNDS, NO_MODE]
    end = jnp.array(codes, jnp.int32)[found.status]
    end = jnp.where((end == STUCK) & resonant, RESONANT, end)
    there = jnp.where(stable, STABLE, jnp.where(jnp.isfinite(found.periods), UNSTABLE, STUCK))
    beyond = jnp.arange(E, dtype=reached.dtype)[None] >= reached[:, None]
    return jnp.where(beyond, end[:, None], there).astype(jnp.int32)


def _families_backward(fixed, kept, bars):
    static, _ = fixed
    arrays, integers, around, x, ways, periods, monodromies = kept
    periods_bar, states_bar, x_bar = bars[0], bars[1], bars[-1]
    static = eqx.combine(integers[0], static)
    centre = _seen_from(eqx.combine(arrays, static), x)
    eps = float(jnp.finfo(x.dtype).eps)

    def conditions(arrays, around, rest, state, size):
        """What else than closing is asked of a state: the leaf, and the energy."""
        rnn = eqx.combine(arrays, static)
        offset = bias_offset(rnn)
        kernel = kernel_projector(rnn.weights.as_matrix())
        above = total_energy(rnn, state, offset) - total_energy(rnn, rest, offset)
        return product(kernel, (state - around) / size), above

    def one(y, T, M, state_bar, period_bar):
        size = jnp.linalg.norm(y)
        flow = centre.velocity(y)
        end = jnp.concatenate([M, flow[:, None] * (T / size)], axis=1)
        across = jnp.append(flow / jnp.linalg.norm(flow), jnp.zeros((), y.dtype))
        rows, gradient, _ = continuation.jacobian(centre, y, size, end, across)
        rows = jnp.concatenate([rows, gradient[None]])
        bar = jnp.append(state_bar * size, period_bar * T)
        by_rows = product(jnp.linalg.pinv(rows).T, bar)
        n = y.size
        closing, leaf, level = by_rows[:n] / size, by_rows[n + 1 : -1], by_rows[-1]
        scale = jnp.max(jnp.abs(closing))
        scale = jnp.where(scale > 0, scale, 1)
        state = x + y
        turn = pulled_back(
            arrays, static, state, T, closing[None] / scale,
            size=size, rtol=eps**0.7, atol=eps**0.7, max_steps=MAX_STEPS,
        )  # fmt: skip
        by_turn = jax.tree.map(lambda leaf: leaf[0], turn.arrays)
        _, pull = jax.vjp(lambda a, b, c: conditions(a, b, c, state, size), arrays, around, x)
        by_conditions, around_bar, rest_bar = pull((leaf, level))
        arrays_bar = jax.tree.map(lambda a, b: -scale * a - b, by_turn, by_conditions)
        return arrays_bar, -around_bar, -rest_bar, level

    n, (modes, E) = x.size, periods.shape
    found = jnp.isfinite(periods)
    wanted = (periods_bar != 0) | jnp.any(states_bar != 0, axis=-1)

    def flat(leaf):
        leaf = jnp.where(found.reshape(found.shape + (1,) * (leaf.ndim - 2)), leaf, 0)
        return leaf.reshape(modes * E, *leaf.shape[2:])

    pulled = for_each(
        one, flat(ways), flat(periods), flat(monodromies), states_bar.reshape(-1, n),
        periods_bar.ravel(), n=n,
    )  # fmt: skip

    def weighted(leaf):
        """0 of what is not asked for, nan of what was not found."""
        shape = (modes * E,) + (1,) * (leaf.ndim - 1)
        leaf = jnp.where(found.reshape(shape), leaf, jnp.nan)
        return jnp.where(wanted.reshape(shape), leaf, 0)

    *by_others, level = jax.tree.map(weighted, pulled)
    arrays_bar, around_bar, rest_bar = jax.tree.map(lambda a: jnp.sum(a, axis=0), by_others)
    _, pull = jax.vjp(
        lambda arrays, around: at_rest_near(eqx.combine(arrays, static), around, x)[0],
        arrays, around,
    )  # fmt: skip
    by_rest = pull(rest_bar + x_bar)
    arrays_bar, around_bar = jax.tree.map(jnp.add, (arrays_bar, around_bar), by_rest)
    return arrays_bar, None, around_bar, jnp.sum(level.reshape(modes, E), axis=0)


_families.defvjp(_families_forward, _families_backward)
