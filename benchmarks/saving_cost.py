"""Cost of keeping every state, as a ratio to the peers'.

    python benchmarks/saving_cost.py [--quick] [--out DIR]

x' = tanh(A x), dense weights, float32, every step saved. All return (batch, steps, n) but
"lax.scan, time first", which leaves the states as the steps make them. The peers are called as
peers.py tells, "without saves" is `simulate` with the last state alone. The states at the end must
agree with NumPy's before anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from measure import OURS, Report, cores, interleaved, parser
from peers import METHODS, Problem, by_diffrax, by_scan, exact

import ctrnn_jax as ct

CASES = (  # method, neurons, batch, steps
    ("Euler", 2, 4096, 1000),
    ("Euler", 20, 4096, 500),
    ("Euler", 128, 4096, 100),
    ("Euler", 20, 64, 5000),
    ("Tsit5", 20, 4096, 500),
)
TIME_FIRST = "lax.scan, time first"
QUICK_CASES = (("Euler", 2, 4096, 100), ("Euler", 20, 4096, 50))


def problem(method: str, n: int, batch: int, steps: int) -> Problem:
    A = ct.DenseSkew.init(jax.random.key(n), n).as_matrix()
    x0 = jax.random.normal(jax.random.key(1), (batch, n))
    return Problem(np.asarray(A), np.asarray(x0), 0.01, steps, method)


def by_simulate(p: Problem, **settings) -> Callable:
    weights = ct.DenseSkew(jnp.triu(jnp.asarray(p.A)))
    solver, x0 = METHODS[p.method].solver, jnp.asarray(p.x0)
    settings = {"dt": p.dt, "num_steps": p.num_steps, "solver": solver} | settings
    return lambda: ct.simulate(ct.CTRNN(weights), x0, **settings).xs


def compare(report: Report, case: tuple, rounds: int) -> None:
    p = problem(*case)
    found = {
        OURS: by_simulate(p),
        f"{OURS} mesh": by_simulate(p, mesh=ct.batch_mesh()),
        f"{OURS} without saves": by_simulate(p, save_every=p.num_steps),
        "diffrax vmap": by_diffrax(p, vmap=True, save_every=1),
        "diffrax batched": by_diffrax(p, vmap=False, save_every=1),
        "lax.scan": by_scan(p, save_every=1),
        TIME_FIRST: by_scan(p, save_every=1, batch_first=False),
    }
    method, n, batch, steps = case
    some = np.array([0, batch - 1])
    wanted = exact(p._replace(x0=p.x0[some]))
    for name, call in found.items():
        states = np.asarray(call())
        if name == TIME_FIRST:
            last = states[-1] if states.shape[1] == batch else states[-1].T
        else:
            last = states[:, -1]
        error = np.abs(last[some] - wanted).max()
        if not error < 1e-4:
            raise ValueError(f"{case}: {name}: expected NumPy's states, got {error:.1e} off")
    report.times(
        f"{method}, n = {n}, batch {batch}, {steps} steps saved, float32",
        interleaved(found, rounds, 10.0),
        parameters={"solver": method, "n": n, "batch": batch, "steps": steps, "dtype": "float32"},
    )


def main() -> None:
    options, report = parser(__doc__, "saving-cost").parse_args(), Report("saving-cost")
    jax.config.update("jax_num_cpu_devices", cores())
    for case in QUICK_CASES if options.quick else CASES:
        compare(report, case, 5 if options.quick else 11)
    report.write(options.out)


if __name__ == "__main__":
    main()
