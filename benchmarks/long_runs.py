"""Peak memory of long runs, which must not grow with the number of steps.

    python benchmarks/long_runs.py [--quick] [--out DIR]

Two neurons, one state, Tsit5, float32, 100 saves. Memory is the peak of a process that does one
run, Python, JAX and compiler included.
"""

from __future__ import annotations

import jax
from measure import OURS, Report, child, parser, peak_memory

import ctrnn_jax as ct

SAVES = 100
STEPS = (10**4, 10**5, 10**6)  # the first two with --quick


def memory_of_long_runs(report: Report, quick: bool = False) -> None:
    """A row for each number of steps, and one for the last over the first."""
    steps = STEPS[:2] if quick else STEPS
    told = {"n": 2, "batch": 1, "dtype": "float32", "solver": "Tsit5", "saves": SAVES}
    peaks = {k: float(child(__file__, k)) for k in steps}
    for k, peak in peaks.items():
        case = f"n = 2, Tsit5, {SAVES} saves of {k} steps"
        report.value(case, OURS, "peak memory", peak, "MiB", parameters=told | {"steps": k})
    case = f"n = 2, Tsit5, {SAVES} saves of {steps[0]} to {steps[-1]} steps"
    growth = peaks[steps[-1]] / peaks[steps[0]]
    report.value(case, OURS, "growth of peak memory", growth, "", parameters=told)


def one_run(num_steps: int) -> None:
    rnn = ct.CTRNN(ct.DenseSkew.init(jax.random.key(0), 2, scale=2.0))
    x0 = jax.random.normal(jax.random.key(1), (1, 2))
    run = ct.simulate(rnn, x0, dt=0.01, num_steps=num_steps, save_every=num_steps // SAVES)
    jax.block_until_ready(run)
    print(peak_memory())


def main() -> None:
    options = parser(__doc__, "long-runs").parse_args()
    if options.child:
        one_run(int(options.child[0]))
        return
    report = Report("long-runs")
    memory_of_long_runs(report, options.quick)
    report.write(options.out)


if __name__ == "__main__":
    main()
