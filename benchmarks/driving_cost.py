"""Cost of inputs and noise, as a ratio to the same steps without, and to diffrax's.

    python benchmarks/driving_cost.py [--quick] [--out DIR]

x' = tanh(A x + B u), dense weights, float32, the last state alone. "shared" is one series of inputs
for all trajectories, "each" one for every trajectory, "function" sin(t) in all inputs; held values
but for that. diffrax integrates the same field with the same input under vmap, at a constant step.
"""

from __future__ import annotations

from collections.abc import Callable

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from measure import OURS, Report, interleaved, parser

import ctrnn_jax as ct

CASES = (  # solver, neurons, batch, inputs, steps
    (diffrax.Euler(), 20, 4096, 1, 1000),
    (diffrax.Euler(), 20, 4096, 4, 1000),
    (diffrax.Euler(), 2, 4096, 1, 1000),
    (diffrax.Tsit5(), 20, 4096, 1, 200),
    (ct.PoissonSplitting(), 20, 4096, 1, 200),
)
QUICK_CASES = ((diffrax.Euler(), 20, 512, 1, 100),)
DT = 0.01


def by_diffrax(rnn: ct.CTRNN, x0: jax.Array, solver, shared: jax.Array) -> Callable:
    """The shared inputs, held, under vmap."""
    steps = len(shared)

    def u(t):
        return shared[jnp.clip(jnp.floor(t / DT + 1e-3).astype(int), 0, steps - 1)]

    @jax.jit
    def run(x0):
        def one(x):
            return diffrax.diffeqsolve(
                diffrax.ODETerm(rnn), solver, 0.0, steps * DT, DT, x, u, max_steps=steps + 1
            ).ys[-1]  # fmt: skip

        return jax.vmap(one)(x0)

    return lambda: run(x0)


def compare(report: Report, case: tuple, rounds: int) -> None:
    solver, n, batch, m, steps = case
    keys = jax.random.split(jax.random.key(n), 4)
    weights, B = ct.DenseSkew.init(keys[0], n), jax.random.normal(keys[1], (n, m))
    x0, each = jax.random.normal(keys[2], (batch, n)), jax.random.normal(keys[3], (batch, steps, m))
    rnn = ct.CTRNN(weights, input_weights=B)

    def by_simulate(**options) -> Callable:
        options = {"dt": DT, "num_steps": steps, "save_every": steps, "solver": solver} | options
        return lambda: ct.simulate(rnn, x0, **options).xs[:, -1]

    found = {
        f"{OURS} without inputs": by_simulate(),
        OURS: by_simulate(inputs=each[0]),
        f"{OURS}, each": by_simulate(inputs=each),
        f"{OURS}, function": by_simulate(inputs=lambda t: jnp.full((m,), jnp.sin(t))),
    }
    if isinstance(solver, diffrax.Euler):
        found[f"{OURS}, noise"] = by_simulate(noise=0.1, key=keys[0])
    if not isinstance(solver, ct.PoissonSplitting):
        found["diffrax vmap"] = by_diffrax(rnn, x0, solver, each[0])
        error = np.abs(found["diffrax vmap"]() - found[OURS]()).max()
        # Stages at the end of a step see the next value there: as many of them, other states.
        if isinstance(solver, diffrax.Euler) and not error < 1e-3:
            raise ValueError(f"{case}: expected diffrax's states, got {error:.1e} off")
    name = type(solver).__name__
    report.times(
        f"{name}, n = {n}, batch {batch}, {m} inputs, {steps} steps, float32",
        interleaved(found, rounds, 10.0),
        parameters={"solver": name, "n": n, "batch": batch, "inputs": m, "steps": steps},
    )


def main() -> None:
    options, report = parser(__doc__, "driving-cost").parse_args(), Report("driving-cost")
    for case in QUICK_CASES if options.quick else CASES:
        compare(report, case, 5 if options.quick else 11)
    report.write(options.out)


if __name__ == "__main__":
    main()
