"""Periods, Lyapunov exponents and events, as ratios to what one would use instead.

    python benchmarks/orbits_cost.py [--quick] [--out DIR]

1. Periods of 256 orbits of two arctan neurons, float64, against SciPy: `solve_ivp` (DOP853, rtol
   1e-12) with an event, orbit by orbit.
2. The largest exponents of 64 orbits of tanh networks in the current form, against diffrax: the
   state and its tangent vectors in one `diffeqsolve` (Tsit5, the same constant step) from one
   orthonormalisation to the next, under jit, vmap and scan.
3. The first time that the first of 20 tanh neurons rises through 0.1, of 256 trajectories, against
   SciPy's events (DOP853, rtol 1e-10), orbit by orbit, and diffrax's (Tsit5, the same constant
   step, Newton's method), under jit and vmap.
"""

from __future__ import annotations

from functools import partial

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from measure import OURS, Report, interleaved, parser
from scipy.integrate import solve_ivp

import ctrnn_jax as ct

OMEGA, DT = 5.0, 0.05
LEVEL = 0.1
APART = 1e-4  # at most, as chaos makes much of rounding


def periods_by_scipy(states: np.ndarray) -> np.ndarray:
    def velocity(t, x):
        return np.arctan([OMEGA * x[1], -OMEGA * x[0]])

    found = []
    for x0 in states:
        direction = velocity(0, x0)

        def crossing(t, x, x0=x0, direction=direction):
            return direction @ (x - x0) + (t < 1e-9)

        crossing.terminal, crossing.direction = True, 1
        longest = 4 * np.pi / OMEGA + 8 * np.abs(x0).sum()
        run = solve_ivp(
            velocity, (0, longest), x0, "DOP853", rtol=1e-12, atol=1e-14, events=crossing
        )
        found.append(run.t_events[0][0])
    return np.array(found)


def exponents_by_diffrax(W: jax.Array, x0: jax.Array, k: int, dt: float, num_steps: int):
    A = W - W.T

    def velocity(t, state, args):
        x, V = state
        return A @ jnp.tanh(x), A @ (V / jnp.cosh(x)[:, None] ** 2)

    def stretch(state, _):
        x, V, logs = state
        end = diffrax.diffeqsolve(
            diffrax.ODETerm(velocity), diffrax.Tsit5(), 0.0, 10 * dt, dt, (x, V),
            saveat=diffrax.SaveAt(t1=True), adjoint=diffrax.ForwardMode(), max_steps=16,
        ).ys  # fmt: skip
        x, (Q, R) = end[0][0], jnp.linalg.qr(end[1][0])
        return (x, Q, logs + jnp.log(jnp.abs(jnp.diag(R)))), None

    def one(x):
        frame = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (x.size, k), x.dtype))[0]
        start = x, frame, jnp.zeros(k, x.dtype)
        (_, _, logs), _ = jax.lax.scan(stretch, start, None, length=num_steps // 10)
        return logs / (num_steps * dt)

    return jax.vmap(one)(x0)


def events_by_scipy(A: np.ndarray, states: np.ndarray, end: float) -> np.ndarray:
    def rises(t, x):
        return x[0] - LEVEL

    rises.terminal, rises.direction = True, 1
    options = {"rtol": 1e-10, "atol": 1e-12, "events": rises}
    runs = [
        solve_ivp(lambda t, x: np.tanh(A @ x), (0, end), x, "DOP853", **options) for x in states
    ]
    return np.array([run.t_events[0][0] if len(run.t_events[0]) else np.nan for run in runs])


def events_by_diffrax(A: jax.Array, x0: jax.Array, dt: float, num_steps: int) -> jax.Array:
    def rises(t, y, args, **kwargs):
        return y[0] - LEVEL

    event = diffrax.Event(rises, optx.Newton(1e-10, 1e-10), direction=True)

    def one(x):
        run = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, x, args: jnp.tanh(A @ x)), diffrax.Tsit5(), 0.0,
            num_steps * dt, dt, x, event=event, max_steps=num_steps + 1,
        )  # fmt: skip
        return jnp.where(run.event_mask, run.ts[-1], jnp.nan)

    return jax.vmap(one)(x0)


def agree(what: str, ours: jax.Array, theirs: jax.Array | float) -> None:
    apart = float(jnp.abs(ours - theirs).max())
    print(f"{what} apart by {apart:.0e}")
    if not apart < APART:
        raise RuntimeError(f"{what} are {apart:.0e} apart")


def main() -> None:
    options, report = parser(__doc__, "orbits-cost").parse_args(), Report("orbits-cost")
    jax.config.update("jax_enable_x64", True)
    rounds, orbits, num_steps = (3, 64, 1000) if options.quick else (7, 256, 5000)

    rnn = ct.CTRNN(ct.BlockSkew(jnp.asarray([OMEGA])), ct.Arctan())
    x0 = jax.random.normal(jax.random.key(0), (orbits, 2))
    states = np.asarray(x0)
    agree("periods", ct.period(rnn, x0) / periods_by_scipy(states), 1.0)
    calls = {OURS: lambda: ct.period(rnn, x0), "scipy": lambda: periods_by_scipy(states)}
    parameters = {"n": 2, "batch": orbits, "dtype": "float64"}
    report.times(f"periods of {orbits} orbits", interleaved(calls, rounds), parameters=parameters)

    rnn = ct.CTRNN(ct.DenseSkew.init(jax.random.key(2), 20))
    A, x0 = rnn.weights.as_matrix(), jax.random.normal(jax.random.key(3), (orbits, 20))
    event = ct.Event(lambda t, x: x[0] - LEVEL, direction=1)
    by_diffrax = jax.jit(partial(events_by_diffrax, A, dt=DT, num_steps=num_steps))

    def until():
        return ct.simulate(
            rnn, x0, dt=DT, num_steps=num_steps, save_every=num_steps, until=event
        ).event_times

    calls = {
        OURS: until,
        "diffrax": lambda: by_diffrax(x0),
        "scipy": lambda: events_by_scipy(np.asarray(A), np.asarray(x0), num_steps * DT),
    }
    ours, *others = (np.asarray(call()) for call in calls.values())
    for other in others:
        some = np.isfinite(ours) & np.isfinite(other)
        agree("event times", jnp.asarray(np.where(some, ours, 0)), np.where(some, other, 0))
    report.times(
        f"events of {orbits} trajectories, {num_steps} steps",
        interleaved(calls, rounds),
        parameters={"n": 20, "batch": orbits, "dtype": "float64", "steps": num_steps},
    )

    for n, k in ((3, 3), (20, 1), (20, 20)):
        W = ct.DenseSkew.init(jax.random.key(n), n, scale=2.0).W
        network = ct.CTRNN(ct.DenseSkew(W), form="current")
        x0 = jax.random.normal(jax.random.key(1), (64, n))
        by_diffrax = jax.jit(partial(exponents_by_diffrax, k=k, dt=DT, num_steps=num_steps))

        def ours(network=network, x0=x0, k=k):
            return ct.lyapunov_spectrum(network, x0, dt=DT, num_steps=num_steps, k=k)

        def theirs(W=W, x0=x0, by_diffrax=by_diffrax):
            return by_diffrax(W, x0)

        agree("exponents", ours(), -jnp.sort(-theirs(), axis=-1))
        report.times(
            f"{k} of {n} exponents of 64 orbits, {num_steps} steps",
            interleaved({OURS: ours, "diffrax": theirs}, rounds),
            parameters={"n": n, "k": k, "batch": 64, "dtype": "float64", "steps": num_steps},
        )
    report.write(options.out)


if __name__ == "__main__":
    main()
