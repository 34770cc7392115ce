"""Families of closed orbits, followed by pseudo-arclength continuation with multiple shooting.

The unknown of one mode is u = (y/unit, T/period): the ways y (nodes, n) from the fixed point of
states on the orbit, a part of the period T apart, in units of the last orbit that was accepted.
That the flow takes each to the next leaves a curve of orbits, each with its states; to move across
the flow and on the leaf of the Casimirs makes it one curve. A step goes along its tangent and comes
back by Newton's method, at a given arclength or at a given energy; where that has led to another
family, as the way and the tangents at its ends tell, it is made again, shorter. Parts of a turn
magnify errors far less than the turn as a whole, so that steps may be long where orbits are
unstable. What has landed at a given energy is polished by whole turns. Each round takes a mode once
around its orbit.
"""

from __future__ import annotations

from typing import NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._network.products import product
from .._util.types import Array, Bool, Float, Int
from .beside import Beside
from .floquet import once_around
from .pieces import once_around_exactly

# Where the way along a family has come to.
ONGOING, DONE, TURNED, STUCK, OUT_OF_ROUNDS, NO_MODE = range(6)
LONGEST = 1.0  # step, as a share of an orbit's size and period
ASTRAY = 0.005  # of its step, as far as it may be beside the curve
ASTRAY_AT_KINKS = 0.02  # beyond which tangents turn as the root of a step
TRIES = 6  # of Newton's method
AFTER_TURN = 40  # steps
NODES = 8  # with 4 an orbit that magnifies errors 10⁶ times takes four times the rounds


class Centre(eqx.Module):
    """A network seen from a fixed point, with its energy above that there."""

    here: Beside
    offset: Float[Array, " n"] | None
    kernel: Float[Array, "n n"]

    def velocity(self, y: Float[Array, " n"]) -> Float[Array, " n"]:
        return self.here.velocity(y)

    def energy(self, y: Float[Array, " n"]) -> Float[Array, ""]:
        rnn, z = self.here.rnn, self.here.preactivation
        way = y if rnn.form == "current" else rnn.weights.matvec(y)
        above = jnp.sum(rnn.activation.potential(z + way) - rnn.activation.potential(z))
        return above if self.offset is None else above + jnp.sum(self.offset * y)

    def rounding(self) -> Float[Array, ""]:
        """What rounding may make of an energy."""
        z = self.here.preactivation
        terms = jnp.sum(jnp.abs(self.here.rnn.activation.potential(z)))
        return 16 * float(jnp.finfo(z.dtype).eps) * terms

    def linear_modes(self) -> tuple[Float[Array, " half"], Float[Array, "half n"]]:
        """ω (n // 2,) in rad/s, ascending, and states y of energy 1 of these motions.

        With D = σ'(z) at the fixed point and iS v = ω v for S = √D A √D they are Re v beside √D.
        Nan where an entry of D is not above 0, as then no energy is least there.
        """
        rnn = self.here.rnn
        n = rnn.size
        D = rnn.activation.derivative(self.here.preactivation)
        root = jnp.sqrt(jnp.where(D > 0, D, jnp.nan))
        S = root[:, None] * rnn.weights.as_matrix() * root[None]
        finite = jnp.all(jnp.isfinite(S))
        S = jnp.where(finite, S, 0)
        omega, v = jnp.linalg.eigh(lax.complex(jnp.zeros_like(S), S))
        omega, v = omega[(n + 1) // 2 :], v[:, (n + 1) // 2 :].T
        # Of the phases the one in which the largest part of the mode is real and positive.
        largest = jnp.take_along_axis(v, jnp.argmax(jnp.abs(v), axis=1)[:, None], axis=1)
        v = 2 * jnp.real(v * jnp.conj(jnp.sign(largest)))
        slow = omega <= n * float(jnp.finfo(S.dtype).eps) * jnp.max(omega)
        omega = jnp.where(finite & ~slow, jnp.abs(omega), jnp.nan)
        y = v / root[None] if rnn.form == "current" else v * root[None] / omega[:, None]
        return omega, y


class Followed(NamedTuple):
    """Where one mode stands."""

    # The last orbit that was accepted: states, period, energy, the tangent of the curve there in
    # units of |y| and T, and the slope of the energy along it.
    base: Float[Array, "nodes n"]
    period: Float[Array, ""]
    energy: Float[Array, ""]
    tangent: Float[Array, " unknowns"]
    slope: Float[Array, ""]
    # The step that is tried.
    y: Float[Array, "nodes n"]
    T: Float[Array, ""]
    length: Float[Array, ""]
    landing: Bool[Array, ""]  # at the energy of the next target, else at the arclength
    polishing: Bool[Array, ""]  # what has landed, by turns as a whole
    tries: Int[Array, ""]
    gap: Float[Array, ""]
    longest: Float[Array, ""]  # what a step may be now
    firmest: Float[Array, ""]  # orbit so far
    # The way as a whole.
    target: Int[Array, ""]
    rounds: Int[Array, ""]
    highest: Float[Array, ""]  # energy so far
    turned: Bool[Array, ""]  # back from it, once at least
    since: Int[Array, ""]  # steps ago, 0 where it has risen above it again
    status: Int[Array, ""]
    # What was found at the targets.
    states: Float[Array, "targets n"]
    periods: Float[Array, " targets"]
    residuals: Float[Array, " targets"]
    monodromies: Float[Array, "targets n n"]


def follow(
    centre: Centre,
    omega: Float[Array, ""],
    start: Float[Array, " n"],
    energies: Float[Array, " E"],
    max_rounds: int,
) -> Followed:
    """The family of one mode, from its linear motion, y = √energy start, to the last energy.

    The first target, left out of what is returned, is an energy next to 0.
    """
    n, dtype = start.size, start.dtype
    near = jnp.minimum(energies[:1] / 4, jnp.maximum(1e-6, 64 * centre.rounding()))
    targets = jnp.concatenate([near, energies])
    count = len(targets)
    good = jnp.isfinite(omega) & jnp.all(jnp.isfinite(start)) & jnp.all(jnp.isfinite(targets))
    angles = 2 * np.pi * jnp.arange(NODES, dtype=dtype)[:, None] / NODES
    _, quarter = jax.jvp(centre.velocity, (jnp.zeros_like(start),), (start,))
    y = jnp.cos(angles) * start[None] + jnp.sin(angles) * (quarter / omega)[None]
    y = jnp.where(good, y * jnp.sqrt(near)[None], 1)
    T = jnp.where(good, 2 * np.pi / omega, 0)
    zero, none = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
    tangent = jnp.append(y.ravel() / jnp.linalg.norm(y), zero)  # radial
    first = Followed(
        base=y, period=T, energy=targets[0], tangent=tangent, slope=2 * targets[0],
        y=y, T=T, length=zero + LONGEST, landing=jnp.array(True), polishing=jnp.array(False),
        tries=none, gap=zero + jnp.inf, longest=zero + LONGEST, firmest=zero, target=none,
        rounds=none, highest=zero, turned=jnp.array(False), since=none,
        status=jnp.where(good, ONGOING, NO_MODE).astype(jnp.int32),
        states=jnp.full((count, n), jnp.nan, dtype), periods=jnp.full(count, jnp.nan, dtype),
        residuals=jnp.full(count, jnp.nan, dtype),
        monodromies=jnp.full((count, n, n), jnp.nan, dtype),
    )  # fmt: skip

    def more(s: Followed):
        return (s.status == ONGOING) & (s.rounds < max_rounds)

    s = lax.while_loop(more, lambda s: _round(centre, targets, s), first)
    end = jnp.where(s.status == ONGOING, OUT_OF_ROUNDS, s.status)
    back = s.since > 0  # from its largest energy, to which it has not come again
    return s._replace(
        status=jnp.where(s.status == DONE, DONE, jnp.where(back, TURNED, end)),
        states=s.states[1:], periods=s.periods[1:], residuals=s.residuals[1:],
        monodromies=s.monodromies[1:],
    )  # fmt: skip


def _shortest(dtype) -> float:
    """Step: where an orbit first touches a kink, M and so the curve turns as the root of it."""
    return min(1e-4, float(jnp.finfo(dtype).eps) ** 0.5)


def _round(centre: Centre, targets: Array, s: Followed) -> Followed:
    """Once around the orbit that is tried: a step of Newton's method, or the verdict on it."""
    eps = float(jnp.finfo(s.y.dtype).eps)
    unit = jnp.linalg.norm(s.base)
    size = unit / NODES**0.5
    # From node to node; or the whole turn from the first, while the others stay.
    first = jnp.arange(NODES) == 0
    shares = jnp.where(s.polishing, first.astype(s.y.dtype), 1 / NODES)
    exact = s.polishing | (s.landing & (s.tries > 0))  # else it need not be, or is not near enough
    # Modes that have ended stay in the batch: they need not go around any more.
    times = jnp.where(s.status == ONGOING, s.T * shares, 0)
    if centre.here.rnn.activation.kinks:
        moved, M = jax.vmap(lambda y, T: once_around_exactly(centre.here, y, T, size))(s.y, times)
    else:
        accuracy = jnp.where(exact, eps**0.93, eps**0.6)
        moved, M = once_around(centre.here, s.y, times, size, diffrax.ForwardMode(), accuracy)
    to_next = jnp.where(s.polishing, 0, jnp.roll(s.y, -1, axis=0) - s.y)
    stays = s.polishing & ~first[:, None]
    missed = jnp.where(stays, 0, size * moved - to_next)
    velocity = jax.vmap(centre.velocity)
    late = velocity(s.y + size * moved) * (s.period / unit * shares[:, None])
    newton = equations(centre, s.y, unit, jnp.where(stays, 0, velocity(s.y)), late, missed, M)
    goal = targets[jnp.minimum(s.target, len(targets) - 1)]

    gap = jnp.max(jnp.abs(missed)) / size
    # Beside a fixed point that is not 0 rounding has its share.
    off = jnp.abs(newton.energy - goal) <= eps**0.72 * goal + centre.rounding()
    least = eps**0.72 + 4 * centre.here.rounding()[1] * s.T / size  # of velocities, too
    closes = (gap <= least) & ((gap <= eps**0.88) | (gap > s.gap / 8))  # as far as it goes
    # Beside another family all between the two nearly closes, and might be followed though it is
    # none: what has become so soft must be known to a part of the step.
    soft = newton.firmness < 0.01 * s.firmest
    fine = gap <= jnp.maximum(0.01 * jnp.abs(s.length) * newton.firmness, eps**0.66 + least)
    on_the_way = (gap <= eps**0.4 + least) & (~soft | fine)
    converged = jnp.where(s.landing, exact & closes & off, on_the_way)

    # The step of Newton's method that is due otherwise.
    here = jnp.append((s.y - s.base).ravel() / unit, s.T / s.period - 1)
    to_go = s.length - jnp.dot(s.tangent, here + newton.step, precision=lax.Precision.HIGHEST)
    at_arc = to_go / jnp.dot(s.tangent, newton.tangent, precision=lax.Precision.HIGHEST)
    rise = jnp.dot(newton.gradient, newton.tangent, precision=lax.Precision.HIGHEST)
    climb = jnp.dot(newton.gradient, newton.step, precision=lax.Precision.HIGHEST)
    at_energy = (goal - newton.energy - climb) / rise
    step = newton.step + jnp.where(s.landing, at_energy, at_arc) * newton.tangent
    tried = s._replace(
        y=s.y + unit * step[:-1].reshape(s.y.shape), T=s.T + s.period * step[-1],
        tries=s.tries + 1, gap=gap,
    )  # fmt: skip
    hopeless = (
        ~jnp.isfinite(gap) | (s.tries >= TRIES) | (gap > 10 * s.gap) | ~jnp.all(jnp.isfinite(step))
    )

    # Accepted, unless it has come to another family.
    astray = ASTRAY_AT_KINKS if centre.here.rnn.activation.kinks else ASTRAY
    # Tangents are those of turns solved to eps^0.6, or nearer.
    accepted, same = _accepted(s, newton, here, astray + 4 * eps**0.6 / newton.firmness)
    near = jnp.linalg.norm(here) <= 3 * jnp.abs(s.length) + 1e-3
    accept = converged & same & near
    accepted = _where(s.landing, _afresh(accepted, True), _next_step(accepted, targets))
    reject = (converged & ~accept) | (~converged & hopeless)
    shorter = jnp.minimum(jnp.abs(s.length), s.longest) / 2
    rejected = _next_step(s._replace(longest=shorter), targets)
    rejected = rejected._replace(
        status=jnp.where(shorter < _shortest(s.y.dtype), STUCK, s.status).astype(jnp.int32)
    )
    # Polished or not, the way goes on.
    kept = converged & (jnp.linalg.norm(s.y[0] - s.base[0]) <= 0.01 * size)
    recorded = _next_step(_recorded(s, kept, gap * size, M[0]), targets)
    over = converged | hopeless
    way = _where(accept, accepted, _where(reject, rejected, tried))
    s = _where(s.polishing, _where(over, recorded, tried), way)
    return s._replace(rounds=s.rounds + 1)


class Newton(NamedTuple):
    """The linearised equations of a closed orbit, of unknowns at all nodes."""

    step: Float[Array, " unknowns"]  # to an orbit that closes
    tangent: Float[Array, " unknowns"]  # of the curve of orbits
    gradient: Float[Array, " unknowns"]  # of the energy
    energy: Float[Array, ""]
    firmness: Float[Array, ""]  # how much more it misses, at least, by each unit off the curve


def equations(
    centre: Centre, y: Array, unit: Array, flow: Array, late: Array, missed: Array, M: Array
) -> Newton:
    """What a round knows of the orbit that it has gone around.

    Args:
        centre: of the orbit.
        y: (nodes, n) its states.
        unit: of the unknowns.
        flow: (nodes, n) across which they move, all together.
        late: (nodes, n) how the ends of the parts move with the unknown T, in this unit.
        missed: (nodes, n) by how much they miss the next nodes.
        M: (nodes, n, n) their tangent maps.
    """
    nodes, n = y.shape

    def on(at, part):
        """By the unknowns of the first node, T and 1: the unknowns of the next, from those here."""
        M, by_T, by_1 = part
        own = jnp.concatenate([jnp.zeros_like(M), by_T[:, None], by_1[:, None]], axis=1)
        return product(M, at) + own, at

    end, at = lax.scan(on, jnp.eye(n, n + 2, dtype=y.dtype), (M, late, missed / unit))
    at = at.reshape(nodes * n, n + 2)
    across = product(at.T, flow.ravel() / jnp.linalg.norm(flow))
    rows, gradient, energy = jacobian(centre, y[0], unit, end[:, : n + 1], across[: n + 1])
    left = jnp.concatenate([end[:, n + 1], across[n + 1 :], product(centre.kernel, y[0]) / unit])
    finite = jnp.all(jnp.isfinite(rows))
    u, s, vh = jnp.linalg.svd(jnp.where(finite, rows, 0), full_matrices=False)
    eps = float(jnp.finfo(y.dtype).eps)
    share = product(u.T, -left)[:n] / jnp.where(s[:n] > eps * s[0], s[:n], jnp.inf)
    step = jnp.where(finite, product(vh[:n].T, share), jnp.nan)

    def of_all(u, one):
        states = product(at, jnp.append(u, jnp.full(1, one, u.dtype)))
        return jnp.append(states, u[n])

    tangent = of_all(vh[n], 0)
    tangent = tangent / jnp.linalg.norm(tangent)
    others = jnp.zeros((nodes - 1) * n, y.dtype)
    gradient = jnp.concatenate([gradient[:n], others, gradient[n:]])
    return Newton(of_all(step, 1), tangent, gradient, energy, s[n - 1])


def jacobian(
    centre: Centre, y: Array, unit: Array, end: Float[Array, "n rest"], across: Array
) -> tuple[Array, Array, Array]:
    """Rows of closing, moving across the flow and staying on the leaf; the energy's, and itself.

    By (y, T) in units, by which the turn's end moves by `end`, and along the flow goes `across`.
    """
    n = y.size
    rows = jnp.concatenate([
        end - jnp.eye(n, n + 1, dtype=y.dtype),
        across[None],
        jnp.pad(centre.kernel, ((0, 0), (0, 1))),
    ])  # fmt: skip
    energy, slope = jax.value_and_grad(centre.energy)(y)
    return rows, jnp.append(slope * unit, jnp.zeros((), y.dtype)), energy


def _accepted(s: Followed, newton: Newton, here: Array, astray: Array) -> tuple[Followed, Array]:
    """The tried orbit as the base of the next step, and whether it is on the same curve.

    The way `here` goes along the mean of the tangents at its ends, to third order in its length: to
    another family, however near and parallel, it does not. It may be beside by a share `astray`.
    """
    unit = jnp.linalg.norm(s.base)
    here = here + newton.step  # nearer to the orbit than what was gone around
    base = s.base + unit * here[:-1].reshape(s.y.shape)
    period = s.period * (1 + here[-1])
    grown = jnp.append(jnp.full(s.y.size, unit / jnp.linalg.norm(base)), s.period / period)
    tangent, before, way = newton.tangent * grown, s.tangent * grown, here * grown
    tangent, before = tangent / jnp.linalg.norm(tangent), before / jnp.linalg.norm(before)
    cosine = jnp.dot(tangent, before, precision=lax.Precision.HIGHEST)
    tangent = jnp.where(cosine < 0, -tangent, tangent)
    mean = (tangent + before) / jnp.linalg.norm(tangent + before)
    far = jnp.linalg.norm(way)
    beside = jnp.linalg.norm(way - jnp.where(s.length < 0, -far, far) * mean)
    # From the linear motion, which is no orbit; and short steps, as of kinks, where tangents turn.
    any_way = (s.target == 0) | (far <= 1e-3)
    same = (jnp.abs(cosine) > 0.8) & (any_way | (beside <= astray * far))
    slope = jnp.dot(newton.gradient / grown, tangent, precision=lax.Precision.HIGHEST)
    easily = jnp.where(s.tries <= 2, 2.0, jnp.where(s.tries <= 3, 1.0, 0.5)).astype(s.y.dtype)
    easily = jnp.where(4 * beside > astray * far, jnp.minimum(easily, 1), easily)
    easily = jnp.where(s.landing, 1, easily)  # its last tries are of rounding
    energy = newton.energy + jnp.dot(newton.gradient, newton.step, precision=lax.Precision.HIGHEST)
    highest = jnp.maximum(s.highest, energy)
    turned = s.turned | (slope < 0)
    since = jnp.where(turned & (energy < highest), s.since + 1, 0)
    lost = turned & ((since > AFTER_TURN) | (energy < highest / 4))
    new = s._replace(
        base=base,
        period=period,
        energy=energy,
        tangent=tangent,
        slope=slope,
        firmest=jnp.maximum(s.firmest, newton.firmness),
        highest=highest,
        turned=turned,
        since=since,
        longest=jnp.minimum(s.longest * easily, LONGEST),
        status=jnp.where(lost, TURNED, s.status).astype(jnp.int32),
    )
    return new, same


def _recorded(s: Followed, found: Array, missed: Array, M: Array) -> Followed:
    """With the polished orbit kept, where one was found."""
    k = jnp.where(found, s.target, len(s.periods))  # out of range: dropped
    target = s.target + 1
    done = target >= len(s.periods)
    return s._replace(
        states=s.states.at[k].set(s.y[0], mode="drop"),
        periods=s.periods.at[k].set(s.T, mode="drop"),
        residuals=s.residuals.at[k].set(missed / jnp.linalg.norm(s.y[0]), mode="drop"),
        monodromies=s.monodromies.at[k].set(M, mode="drop"),
        target=target,
        status=jnp.where(done, DONE, s.status).astype(jnp.int32),
    )


def _next_step(s: Followed, targets: Array) -> Followed:
    """From the base along the tangent: to the next target where that is near, else on."""
    goal = targets[jnp.minimum(s.target, len(targets) - 1)]
    # The energy of a linear motion is a square.
    ahead = 2 * s.energy / s.slope * (jnp.sqrt(goal / s.energy) - 1)
    landing = (s.slope > 0) & (jnp.abs(ahead) <= s.longest)
    length = jnp.where(landing, ahead, s.longest)
    u = length * s.tangent
    y = s.base + jnp.linalg.norm(s.base) * u[:-1].reshape(s.base.shape)
    s = s._replace(y=y, T=s.period * (1 + u[-1]), length=length, landing=landing)
    return _afresh(s, False)


def _afresh(s: Followed, polishing: bool) -> Followed:
    return s._replace(
        polishing=jnp.full_like(s.polishing, polishing),
        tries=jnp.zeros_like(s.tries),
        gap=jnp.full_like(s.gap, jnp.inf),
    )


def _where(condition: Array, a: Followed, b: Followed) -> Followed:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), a, b)
