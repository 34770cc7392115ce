"""Time and memory of a gradient by undoing steps, as ratios to the forward run.

    python benchmarks/reversible.py [--quick]

20 neurons, 64 states, float64, second-order splitting, dt = 0.02: the gradient of a loss of the
last state by weights and initial states, with adjoint "reversible" and "checkpointed", against the
forward run. Memory is the peak of a process that does one of them, and what XLA allocates for it;
the compiler has its share in the first, which does not depend on the number of steps.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

import jax
import jax.numpy as jnp
from simulate_speed import interleaved, peak_memory, ratio

import ctrnn_jax as ct

WEIGHTS = {"dense": ct.DenseSkew, "bipartite": ct.BipartiteSkew}


def calls(kind: str, num_steps: int) -> dict:
    rnn = ct.CTRNN(WEIGHTS[kind].init(jax.random.key(0), 20))
    x0 = jax.random.normal(jax.random.key(1), (64, 20))

    def loss(point, adjoint):
        rnn, x0 = point
        run = ct.simulate(
            rnn, x0, dt=0.02, num_steps=num_steps, save_every=num_steps,
            solver=ct.PoissonSplitting(), adjoint=adjoint,
        )  # fmt: skip
        return jnp.sum(run.xs[:, -1] ** 2)

    point = (rnn, x0)
    forward = jax.jit(loss, static_argnums=1)
    gradient = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    return {
        "forward": (forward, (point, "reversible")),
        "reversible": (gradient, (point, "reversible")),
        "checkpointed": (gradient, (point, "checkpointed")),
    }


def peak(kind: str, what: str, num_steps: int) -> float:
    command = [sys.executable, __file__, "--child", kind, what, str(num_steps)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="10^4 steps instead of 10^6")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    if arguments.child:
        kind, what, num_steps = arguments.child
        call, values = calls(kind, int(num_steps))[what]
        jax.block_until_ready(call(*values))
        print(peak_memory())
        return
    num_steps = 10**4 if arguments.quick else 10**6
    for kind in WEIGHTS:
        print(f"{kind}, {num_steps} steps")
        made = calls(kind, num_steps)
        times = interleaved({k: lambda f=f, v=v: f(*v) for k, (f, v) in made.items()}, 3)
        for what, (call, values) in made.items():
            allocated = call.lower(*values).compile().memory_analysis().temp_size_in_bytes / 2**20
            few, many = peak(kind, what, 2000), peak(kind, what, num_steps)
            print(
                f"  {what:13s} {ratio(times[what], times['forward'])} of the forward time   "
                f"process {few:.0f} MiB after 2000 steps, {many:.0f} MiB after all; "
                f"XLA {allocated:.1f} MiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
