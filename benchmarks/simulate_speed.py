"""Cost of `simulate` as a ratio to what one would write or call instead.

    python benchmarks/simulate_speed.py [--quick]

1. Euler steps of 4096 states of 20 neurons, float32, every 100th state saved, against a
   hand-written `lax.scan` that saves nothing.
2. Tsit5 steps against jit(vmap(diffrax.diffeqsolve)), called as diffrax's FAQ advises for fixed
   steps: StepTo, SaveAt(steps=...), throw=False, EQX_ON_ERROR=nan.
3. Peak memory of a run of 10⁴, 10⁵, 10⁶ steps of a two-neuron network, 100 saves each.

Every ratio is the median over rounds in which the candidates take turns, with the range beside
it: the machine's speed may drift, and does not matter.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("EQX_ON_ERROR", "nan")

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import ctrnn_jax as ct


def interleaved(candidates: dict, rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each candidate in each round, after one untimed call."""
    for call in candidates.values():
        jax.block_until_ready(call())
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            times[name].append(time.perf_counter() - start)
    return {name: np.array(t) for name, t in times.items()}


def ratio(a: np.ndarray, b: np.ndarray) -> str:
    r = a / b
    return f"{np.median(r):5.2f}  [{np.quantile(r, 0.1):.2f}, {np.quantile(r, 0.9):.2f}]"


def peak_memory() -> float:
    """MiB that this process has used at most."""
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage tells begins with the peak of the parent
        line = next(s for s in status.read_text().splitlines() if s.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def network(n: int, batch: int) -> tuple[ct.CTRNN, jax.Array]:
    rnn = ct.CTRNN(ct.DenseSkew.init(jax.random.key(0), n, scale=2.0))
    return rnn, jax.random.normal(jax.random.key(1), (batch, n))


def euler(rounds: int, num_steps: int) -> None:
    n, batch, dt = 20, 4096, 0.01
    rnn, x0 = network(n, batch)
    A, columns = rnn.weights.as_matrix(), x0.T

    @jax.jit
    def by_hand(A, x):
        return lax.scan(lambda x, _: (x + dt * jnp.tanh(A @ x), None), x, None, length=num_steps)[0]

    def ours():
        solver = diffrax.Euler()
        return ct.simulate(rnn, x0, dt=dt, num_steps=num_steps, save_every=100, solver=solver).xs

    times = interleaved({"by hand": lambda: by_hand(A, columns), "simulate": ours}, rounds)
    step = np.median(times["simulate"]) / num_steps * 1e6
    print("Euler, n = 20, batch 4096, float32, every 100th state saved")
    print(
        f"  simulate / hand-written scan   {ratio(times['simulate'], times['by hand'])}"
        f"   ({step:.1f} us a step)"
    )


def tsit5(rounds: int, n: int, batch: int, num_steps: int) -> None:
    dt, save_every = 0.01, 10
    rnn, x0 = network(n, batch)
    ts = jnp.arange(num_steps + 1) * dt

    @jax.jit
    @jax.vmap
    def diffeqsolve(x):
        return diffrax.diffeqsolve(
            diffrax.ODETerm(rnn),
            diffrax.Tsit5(),
            0.0,
            ts[-1],
            None,
            x,
            stepsize_controller=diffrax.StepTo(ts=ts),
            saveat=diffrax.SaveAt(steps=save_every),
            max_steps=num_steps,
            throw=False,
        ).ys

    def ours():
        return ct.simulate(rnn, x0, dt=dt, num_steps=num_steps, save_every=save_every).xs

    gap = np.max(np.abs(np.asarray(ours()[:, 1:]) - np.asarray(diffeqsolve(x0))))
    times = interleaved({"diffrax": lambda: diffeqsolve(x0), "simulate": ours}, rounds)
    step = np.median(times["simulate"]) / num_steps * 1e6
    print(
        f"  n = {n:3d}, batch {batch:4d}: diffeqsolve / simulate  "
        f"{ratio(times['diffrax'], times['simulate'])}   ({step:.1f} us a step, "
        f"largest difference {gap:.1e})"
    )


def memory_child(num_steps: int) -> None:
    rnn, x0 = network(2, 1)
    trajectory = ct.simulate(rnn, x0, dt=0.01, num_steps=num_steps, save_every=num_steps // 100)
    jax.block_until_ready(trajectory)
    print(peak_memory())


def memory() -> None:
    print("Peak memory of the process, n = 2, Tsit5, 100 saves")
    for num_steps in (10**4, 10**5, 10**6):
        command = [sys.executable, __file__, "--memory-child", str(num_steps)]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        print(f"  {num_steps:8d} steps: {float(out):6.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--memory-child", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_child:
        memory_child(arguments.memory_child)
        return
    rounds = 5 if arguments.quick else 21
    euler(rounds, 1000)
    print("Tsit5, float32, every 10th state saved")
    for n, batch, num_steps in (
        (2, 4096, 300),
        (20, 4096, 100),
        (128, 1024, 50),
        (128, 4096, 20),
        (2, 64, 2000),
        (20, 64, 1000),
        (128, 64, 200),
    ):
        tsit5(max(5, rounds // 2), n, batch, num_steps)
    memory()


if __name__ == "__main__":
    main()
