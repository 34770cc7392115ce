"""Closed orbits of many neurons: time for each against SciPy, and what a search costs.

    python benchmarks/closed_orbits.py [--quick] [--out DIR]

All modes of a tanh network (current form) at three energies, in float64, by `nonlinear_modes` with
the way to them and their multipliers, against SciPy handed what is found: it starts from the orbit
itself, moved by 1 %, and has to come back.

1. Shooting: `solve_ivp` (DOP853, rtol 1e-13) on the variational equations, Newton's method for
   state and period with closing, phase and energy as conditions.
2. `solve_bvp` (tolerance 1e-9) on the orbit sampled at 200 points, with the period as
   parameter. Energy and period are as exact as its tolerance.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from measure import OURS, Report, interleaved, parser
from scipy.integrate import solve_bvp, solve_ivp

import ctrnn_jax as ct

ENERGIES = (0.01, 0.1, 0.5)


def by_shooting(A: np.ndarray, x: np.ndarray, T: float, E: float) -> float:
    n, x0 = len(x), x

    def velocity(t, y):
        x, V = y[:n], y[n:].reshape(n, n)
        return np.concatenate([A @ np.tanh(x), (A @ (V / np.cosh(x)[:, None] ** 2)).ravel()])

    flow = A @ np.tanh(x0)
    for _ in range(8):
        start = np.concatenate([x, np.eye(n).ravel()])
        run = solve_ivp(velocity, (0, T), start, "DOP853", rtol=1e-13, atol=1e-15)
        y, M = run.y[:n, -1], run.y[n:, -1].reshape(n, n)
        energy = np.sum(np.logaddexp(x, -x) - np.log(2))
        left = np.concatenate([y - x, [flow @ (x - x0), energy - E]])
        rows = np.block([
            [M - np.eye(n), (A @ np.tanh(y))[:, None]],
            [np.stack([flow, np.tanh(x)]), np.zeros((2, 1))],
        ])  # fmt: skip
        step = np.linalg.lstsq(rows, -left, rcond=None)[0]
        x, T = x + step[:-1], T + step[-1]
        if np.abs(step).max() < 1e-11:
            break
    return T


def by_collocation(A: np.ndarray, x: np.ndarray, T: float, E: float) -> float:
    s = np.linspace(0, 1, 200)
    guess = solve_ivp(lambda t, x: A @ np.tanh(x), (0, T), x, "DOP853", T * s, rtol=1e-6).y
    flow = A @ np.tanh(x)

    def conditions(a, b, p):
        # One of the n conditions of closing follows from the energy: that of the largest slope.
        closing = np.delete(b - a, np.argmax(np.abs(np.tanh(x))))
        energy = np.sum(np.logaddexp(a, -a) - np.log(2))
        return np.concatenate([closing, [flow @ (a - x), energy - E]])

    found = solve_bvp(
        lambda s, x, p: p[0] * (A @ np.tanh(x)), conditions, s, guess, p=[T], tol=1e-9,
        max_nodes=20_000,
    )  # fmt: skip
    return found.p[0]


def main() -> None:
    options, report = parser(__doc__, "closed-orbits").parse_args(), Report("closed-orbits")
    jax.config.update("jax_enable_x64", True)
    rounds, sizes = (3, (4, 8)) if options.quick else (5, (4, 8, 20))
    energies = jnp.asarray(ENERGIES)
    for n in sizes:
        rnn = ct.CTRNN(ct.DenseSkew.init(jax.random.key(n), n, scale=2.0), form="current")
        A = np.asarray(rnn.weights.as_matrix())
        modes = ct.nonlinear_modes(rnn, energies=energies)
        found = np.isfinite(np.asarray(modes.periods))
        starts = [
            (1.01 * np.asarray(modes.states[k, e]), 0.99 * float(modes.periods[k, e]), ENERGIES[e])
            for k, e in zip(*np.nonzero(found), strict=True)
        ]
        periods, errors = np.asarray(modes.periods)[found], {}
        peers = {"scipy solve_ivp": by_shooting, "scipy solve_bvp": by_collocation}
        if n > 8:
            del peers["scipy solve_bvp"]
            report.notice("solve_bvp takes minutes for an orbit of 20 neurons: left out there")

        def all_of(method, starts=starts, A=A):
            return np.array([method(A, *start) for start in starts])

        for name, method in peers.items():
            errors[name] = np.abs(all_of(method) / periods - 1)
        parameters = {"n": n, "orbits": len(periods), "dtype": "float64"}
        case = f"{len(periods)} closed orbits of {n} neurons"
        report.value(
            case, OURS, "largest residual", np.nanmax(modes.residuals), "", parameters=parameters
        )
        for name, error in errors.items():
            report.value(case, name, "period apart", error.max(), "", parameters=parameters)
        calls = {OURS: lambda rnn=rnn: ct.nonlinear_modes(rnn, energies=energies)}
        calls |= {name: lambda method=method: all_of(method) for name, method in peers.items()}
        per = {"per": len(periods), "quantity": "time of an orbit"}
        report.times(case, interleaved(calls, rounds), parameters=parameters, **per)
    report.write(options.out)


if __name__ == "__main__":
    main()
