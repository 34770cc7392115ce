"""Energy drift and trajectory error against wall time, for every solver worth naming.

    python benchmarks/work_precision.py [--quick] [--out DIR]

1. Over a horizon of t = 2000, float64: our solvers and diffrax's at several step sizes, diffrax's
   at several tolerances too, for n = 2, 20, 100. The drift is the largest over time and states,
   the trajectory error that at t = 20 (later a chaotic network has forgotten its start) against
   Dopri8 at 1e-13. The fixed steps of diffrax's solvers run in our loop, faster than in its own.
2. The cheapest of ours and of diffrax's whose drift stays below 1e-10, timed again in turns.
3. How the drift grows from 10^3 to 10^6 steps at dt = 0.05.

DIR gets the table as work_precision.json and the plot as work_precision.png.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import diffrax
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from simulate_speed import interleaved, ratio

import ctrnn_jax as ct

BOUND = 1e-10
EARLY = 20.0
DIFFRAX = {
    "Euler": diffrax.Euler(),
    "Heun": diffrax.Heun(),
    "Tsit5": diffrax.Tsit5(),
    "Dopri8": diffrax.Dopri8(),
}
OURS = {
    "PoissonSplitting(2)": ct.PoissonSplitting(2),
    "PoissonSplitting(4)": ct.PoissonSplitting(4),
    "PoissonSplitting(6)": ct.PoissonSplitting(6),
    "ImplicitMidpoint": ct.ImplicitMidpoint(),
    "DiscreteGradient": ct.DiscreteGradient(),
    "DiscreteGradient(4)": ct.DiscreteGradient(order=4),
    "Projected(Heun)": ct.Projected(diffrax.Heun()),
    "Projected(RK4)": ct.Projected(ct.RK4()),
    "Projected(Tsit5)": ct.Projected(diffrax.Tsit5()),
    "Projected(Dopri8)": ct.Projected(diffrax.Dopri8()),
}
STEPS = (1.0, 0.5, 0.25, 0.125, 0.1, 0.05)
TOLERANCES = (1e-6, 1e-9, 1e-12)


def network(n: int, batch: int) -> tuple[ct.CTRNN, jax.Array]:
    rnn = ct.CTRNN(ct.DenseSkew.init(jax.random.key(n), n, scale=1.0))
    return rnn, jax.random.normal(jax.random.key(1), (batch, n))


def runs(horizon: float):
    """Label, solver, and what `simulate` is told, of every candidate."""
    for name, solver in {**OURS, **DIFFRAX}.items():
        for dt in STEPS:
            steps = round(horizon / dt)
            yield f"{name} dt={dt:g}", name, solver, {"dt": dt, "num_steps": steps}
        if name in ("Tsit5", "Dopri8"):  # Heun would take millions of steps
            for tol in TOLERANCES:
                yield (
                    f"{name} rtol={tol:g}",
                    f"{name} adaptive",
                    solver,
                    {"dt": 0.5, "num_steps": round(horizon / 0.5), "rtol": tol, "atol": tol},
                )


def measure(n: int, batch: int, horizon: float, rounds: int) -> list[dict]:
    rnn, x0 = network(n, batch)
    early = {"dt": EARLY, "num_steps": 1, "rtol": 1e-13, "atol": 1e-13}
    exact = ct.simulate(rnn, x0, solver=diffrax.Dopri8(), **early).xs[:, -1]
    table, calls = [], {}
    for label, family, solver, kwargs in runs(horizon):
        save_every = round(EARLY / kwargs["dt"])

        def call(solver=solver, kwargs=kwargs, save_every=save_every):
            return ct.simulate(rnn, x0, solver=solver, save_every=save_every, **kwargs)

        run = jax.block_until_ready(call())
        start = time.perf_counter()
        jax.block_until_ready(call())
        seconds = time.perf_counter() - start
        first = run.xs[:, round(EARLY / (kwargs["dt"] * save_every))]
        drift = float(jnp.max(jnp.abs(ct.energy_drift(rnn, run.xs))))
        unsolved = int((run.unconverged_at >= 0).sum() + (run.stopped_at >= 0).sum())
        row = {
            "n": n,
            "label": label,
            "family": family,
            "ours": family in OURS,
            "seconds": seconds,
            "drift": drift,
            "error": float(jnp.max(jnp.abs(first - exact))),
            "unsolved": unsolved,
        }
        table.append(row)
        calls[label] = lambda call=call: call().xs
        print(
            f"  {label:30s} {seconds:8.3f} s   drift {drift:8.1e}   "
            f"error at t=20 {row['error']:8.1e}" + (f"   {unsolved} unsolved" * bool(unsolved)),
            flush=True,
        )
    good = [row for row in table if row["drift"] <= BOUND and not row["unsolved"]]
    best = {
        ours: min((r for r in good if r["ours"] == ours), key=lambda r: r["seconds"], default=None)
        for ours in (True, False)
    }
    if best[True] and best[False]:
        pair = {
            name: calls[row["label"]]
            for name, row in zip("ab", (best[False], best[True]), strict=True)
        }
        times = interleaved(pair, rounds)
        print(
            f"  drift <= {BOUND:g}: {best[False]['label']} (error {best[False]['error']:.1e}) / "
            f"{best[True]['label']} (error {best[True]['error']:.1e})  "
            f"{ratio(times['a'], times['b'])}"
        )
    return table


def growth(num_steps: int) -> None:
    rnn, x0 = network(20, 8)
    print(f"n = 20, dt = 0.05, 8 states: largest drift within the first 10^3 ... {num_steps} steps")
    every = num_steps // 1000
    for name, solver in {**DIFFRAX, **OURS}.items():
        run = ct.simulate(rnn, x0, dt=0.05, num_steps=num_steps, save_every=every, solver=solver)
        drift = np.max(np.abs(np.asarray(ct.energy_drift(rnn, run.xs))), axis=0)
        marks = [k for k in (10**3, 10**4, 10**5, 10**6) if k <= num_steps]
        row = "  ".join(f"{np.max(drift[: k // every + 1]):8.1e}" for k in marks)
        print(f"  {name:22s} {row}", flush=True)


def draw(table: list[dict], path: Path) -> None:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sizes = sorted({row["n"] for row in table})
    figure, axes = plt.subplots(
        2, len(sizes), figsize=(4.2 * len(sizes), 7.5), sharex="col", squeeze=False,
        layout="constrained",
    )  # fmt: skip
    families = list(dict.fromkeys(row["family"] for row in table))
    colours = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000"]
    for column, n in enumerate(sizes):
        for i, family in enumerate(families):
            rows = [r for r in table if r["n"] == n and r["family"] == family]
            rows = sorted((r for r in rows if not r["unsolved"]), key=lambda r: r["seconds"])
            ours = family in OURS
            for ax, key in zip(axes[:, column], ("drift", "error"), strict=True):
                ax.loglog(
                    [r["seconds"] for r in rows],
                    [max(r[key], 1e-16) for r in rows],
                    marker="osv^D<>ph"[i % 9],
                    linestyle="-" if ours else ":",
                    markerfacecolor=None if ours else "white",
                    color=colours[i % len(colours)],
                    label=family,
                )
        axes[0, column].set_title(f"{n} neurons")
        axes[0, column].axhline(BOUND, color="0.6", linewidth=0.8)
        axes[1, column].set_xlabel("wall time (s)")
    axes[0, 0].set_ylabel("largest relative energy drift")
    axes[1, 0].set_ylabel("largest state error at t = 20 s")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a short horizon, n = 2 and 20 only")
    parser.add_argument("--out", type=Path, default=Path("runs/work_precision"))
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    horizon, sizes = (200.0, (2, 20)) if arguments.quick else (2000.0, (2, 20, 100))
    table: list[dict] = []
    for n in sizes:
        print(f"n = {n}, 16 states, t = {horizon:g} s, float64")
        table += measure(n, 16, horizon, 3 if arguments.quick else 7)
    growth(10**4 if arguments.quick else 10**6)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "work_precision.json").write_text(json.dumps(table, indent=1) + "\n")
    draw(table, arguments.out / "work_precision.png")
    print(f"table and plot in {arguments.out}")


if __name__ == "__main__":
    main()
