"""Periods and Lyapunov exponents, as ratios to what one would use instead.

    python benchmarks/orbits_cost.py [--quick]

1. Periods of 256 orbits of two arctan neurons, float64, against SciPy: `solve_ivp` (DOP853, rtol
   1e-12) with an event, orbit by orbit.
2. The largest exponents of 64 orbits of tanh networks in the current form, against diffrax: the
   state and its tangent vectors in one `diffeqsolve` (Tsit5, the same constant step) from one
   orthonormalisation to the next, under jit, vmap and scan.
"""

from __future__ import annotations

import argparse

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp
from simulate_speed import interleaved, ratio

import ctrnn_jax as ct

OMEGA = 5.0


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, shorter runs")
    quick = parser.parse_args().quick
    jax.config.update("jax_enable_x64", True)
    rounds = 3 if quick else 7

    rnn = ct.CTRNN(ct.BlockSkew(jnp.asarray([OMEGA])), ct.Arctan())
    x0 = jax.random.normal(jax.random.key(0), (64 if quick else 256, 2))
    states = np.asarray(x0)
    times = interleaved(
        {"ours": lambda: ct.period(rnn, x0), "scipy": lambda: periods_by_scipy(states)}, rounds
    )
    apart = np.abs(np.asarray(ct.period(rnn, x0)) / periods_by_scipy(states) - 1).max()
    print(f"periods of {len(states)} orbits")
    print(f"  SciPy / period          {ratio(times['scipy'], times['ours'])}   apart {apart:.0e}")

    num_steps = 1000 if quick else 5000
    for n, k in ((3, 3), (20, 1), (20, 20)):
        W = ct.DenseSkew.init(jax.random.key(n), n, scale=2.0).W
        network = ct.CTRNN(ct.DenseSkew(W), form="current")
        x0 = jax.random.normal(jax.random.key(1), (64, n))
        by_diffrax = jax.jit(lambda W, x0, k=k: exponents_by_diffrax(W, x0, k, 0.05, num_steps))

        def ours(network=network, x0=x0, k=k):
            return ct.lyapunov_spectrum(network, x0, dt=0.05, num_steps=num_steps, k=k)

        def theirs(W=W, x0=x0, by_diffrax=by_diffrax):
            return by_diffrax(W, x0)

        times = interleaved({"ours": ours, "theirs": theirs}, rounds)
        apart = float(jnp.abs(ours() + jnp.sort(-theirs(), axis=-1)).max())
        print(
            f"{k} of {n} exponents, {num_steps} steps\n"
            f"  diffrax / lyapunov_spectrum  {ratio(times['theirs'], times['ours'])}"
            f"   apart {apart:.0e}"
        )


if __name__ == "__main__":
    main()
