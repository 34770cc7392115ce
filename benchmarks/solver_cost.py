"""Cost of a structure-preserving step as a ratio to the step that one would use instead.

    python benchmarks/solver_cost.py [--quick] [--out DIR]

Leapfrog on `BipartiteSkew` against an Euler step of the dense network with the same matrix, and
the second-order sweep of dense weights against an RK4 step; then the time to compile and run one
step of order 6.
"""

from __future__ import annotations

import time

import diffrax
import jax
import jax.numpy as jnp
from measure import OURS, Report, interleaved, parser

import ctrnn_jax as ct

SWEEPS = ((20, 4096, 100), (40, 4096, 50), (256, 4096, 4), (20, 64, 2000))  # n, batch, steps
COMPILED = (2, 20, 128, 512)  # neurons
DT = 0.02


def compare(report: Report, label: str, candidates: dict, x0: jax.Array, steps: int, rounds: int):
    """Times of a step, as ratios to the last candidate; a candidate is (network, solver)."""

    def call(rnn, solver):
        settings = {"dt": DT, "num_steps": steps, "save_every": steps, "solver": solver}
        return lambda: ct.simulate(rnn, x0, **settings).xs

    seconds = interleaved({name: call(*pair) for name, pair in candidates.items()}, rounds)
    (batch, n), dtype = x0.shape, x0.dtype.name
    report.times(
        f"{label}, n = {n}, batch {batch}, {dtype}", seconds, per=steps,
        parameters={"n": n, "batch": batch, "dtype": dtype, "steps": steps},
        reference=list(candidates)[-1],
    )  # fmt: skip


def first_step(report: Report, n: int) -> None:
    rnn, x0 = ct.CTRNN(ct.DenseSkew.init(jax.random.key(0), n)), jnp.ones((2, n))
    start = time.perf_counter()
    run = ct.simulate(rnn, x0, dt=0.1, num_steps=1, solver=ct.PoissonSplitting(6))
    jax.block_until_ready(run)
    report.value(
        f"one step of order 6, n = {n}, float64", f"{OURS} PoissonSplitting(6)", "first call",
        time.perf_counter() - start, "s",
        parameters={"n": n, "batch": 2, "dtype": "float64", "steps": 1},
    )  # fmt: skip


def main() -> None:
    options, report = parser(__doc__, "solver-cost").parse_args(), Report("solver-cost")
    rounds = 5 if options.quick else 15
    for dtype in (jnp.float32, jnp.float64):
        jax.config.update("jax_enable_x64", dtype == jnp.float64)
        weights = ct.BipartiteSkew.init(jax.random.key(0), 40, dtype=dtype)
        dense = ct.DenseSkew(jnp.triu(weights.as_matrix()))
        x0 = jax.random.normal(jax.random.key(1), (4096, 40), dtype)
        leapfrog = {
            f"{OURS} leapfrog, bipartite": (ct.CTRNN(weights), ct.PoissonSplitting()),
            f"{OURS} Euler, dense": (ct.CTRNN(dense), diffrax.Euler()),
        }
        compare(report, "leapfrog over Euler", leapfrog, x0, 200, rounds)
        for n, batch, steps in SWEEPS:
            rnn = ct.CTRNN(ct.DenseSkew.init(jax.random.key(0), n, scale=2.0, dtype=dtype))
            x0 = jax.random.normal(jax.random.key(1), (batch, n), dtype)
            sweep = {
                f"{OURS} second-order sweep": (rnn, ct.PoissonSplitting()),
                f"{OURS} RK4": (rnn, ct.RK4()),
            }
            compare(report, "sweep over RK4", sweep, x0, steps, rounds)
    for n in COMPILED:
        first_step(report, n)
    report.write(options.out)


if __name__ == "__main__":
    main()
