"""Cost of a structure-preserving step as a ratio to the step that one would use instead.

    python benchmarks/solver_cost.py [--quick]

Leapfrog on `BipartiteSkew` against an Euler step of the dense network with the same matrix, and
the second-order sweep of dense weights against an RK4 step; then the time to compile a sweep.
Medians over rounds in which the candidates take turns, with their range.
"""

from __future__ import annotations

import argparse
import time

import diffrax
import jax
import jax.numpy as jnp
from simulate_speed import interleaved, ratio

import ctrnn_jax as ct


def compare(label: str, candidates: dict, x0: jax.Array, num_steps: int, rounds: int) -> None:
    """The first candidate's cost over the second's; a candidate is (network, solver)."""

    def call(rnn, solver):
        kwargs = {"dt": 0.02, "num_steps": num_steps, "save_every": num_steps}
        return lambda: ct.simulate(rnn, x0, solver=solver, **kwargs).xs

    times = interleaved({name: call(*pair) for name, pair in candidates.items()}, rounds)
    first, second = times.values()
    print(f"  {label:58s} {ratio(first, second)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    rounds = 5 if parser.parse_args().quick else 15
    for dtype in (jnp.float32, jnp.float64):
        jax.config.update("jax_enable_x64", dtype == jnp.float64)
        print(jnp.dtype(dtype).name)
        weights = ct.BipartiteSkew.init(jax.random.key(0), 40, dtype=dtype)
        dense = ct.DenseSkew(jnp.triu(weights.as_matrix()))
        x0 = jax.random.normal(jax.random.key(1), (4096, 40), dtype)
        candidates = {
            "leapfrog": (ct.CTRNN(weights), ct.PoissonSplitting()),
            "euler": (ct.CTRNN(dense), diffrax.Euler()),
        }
        compare("leapfrog / dense Euler, n = 40, batch 4096", candidates, x0, 200, rounds)
        for n, batch, num_steps in (
            (20, 4096, 100),
            (40, 4096, 50),
            (256, 4096, 4),
            (20, 64, 2000),
        ):
            rnn = ct.CTRNN(ct.DenseSkew.init(jax.random.key(0), n, scale=2.0, dtype=dtype))
            x0 = jax.random.normal(jax.random.key(1), (batch, n), dtype)
            candidates = {"sweep": (rnn, ct.PoissonSplitting()), "rk4": (rnn, ct.RK4())}
            label = f"second-order sweep / RK4, n = {n}, batch {batch}"
            compare(label, candidates, x0, num_steps, rounds)
    print("compile and run one order-6 step (float64)")
    for n in (2, 20, 128, 512):
        rnn = ct.CTRNN(ct.DenseSkew.init(jax.random.key(0), n))
        start = time.perf_counter()
        x0 = jnp.ones((2, n))
        jax.block_until_ready(
            ct.simulate(rnn, x0, dt=0.1, num_steps=1, solver=ct.PoissonSplitting(6)).xs
        )
        print(f"  n = {n:3d}: {time.perf_counter() - start:.2f} s")


if __name__ == "__main__":
    main()
