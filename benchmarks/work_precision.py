"""Accuracy against wall time: this library, diffrax, SciPy, torchdiffeq and heyoka.

    python benchmarks/work_precision.py [--quick] [--out DIR]

x' = tanh(A x), A dense and skew-symmetric, float64; every run returns the states each 20 s.

1. Many states for a short time: the largest state error at t = 20 (later a chaotic network has
   forgotten its start), against Taylor series in extended precision by heyoka, which must agree
   with SciPy's DOP853 at 1e-13. Without heyoka DOP853 is the judge.
2. Few states for a long time: the largest relative energy drift over time and states.
3. How the drift of each method grows with the number of steps.

A time is the median of up to five calls after a first one; the first, compilation included, has a
row of its own. Of each library the cheapest run within a bound is timed again, in turns.

`simulate` takes constant steps, by methods of its own and by diffrax's, and with Dopri8 also shares
the states between the cores ("mesh"); the peers choose their steps. diffrax, both under vmap and
with the batch as one state: max_steps=None, throw=False, EQX_ON_ERROR=nan. SciPy: the batch as one
system, for LSODA with a band for its block-diagonal Jacobian. torchdiffeq: the batch as one state,
steps made to end at the saves. heyoka: as many states at once as its SIMD size, a thread and an
integrator to each core, kept between calls (its ensemble_propagate_grid copies one for every
batch), unrolled code up to 20 neurons, compact_mode beyond: for 100 neurons unrolled code was seen
to be 3.5 times faster, after two minutes of compilation.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from adaptive_peers import (
    CHECKED,
    EVERY,
    Problem,
    by_diffrax,
    by_heyoka,
    by_scipy,
    by_torchdiffeq,
    exact,
    problem,
)
from measure import OURS, Report, cores, interleaved, parser

import ctrnn_jax as ct

ERROR, DRIFT = "state error at t = 20", "energy drift"
SIZES = (2, 20, 100)  # neurons; with --quick 20
METHODS = {  # of simulate: steps in s, the coarsest first
    "PoissonSplitting(2)": (ct.PoissonSplitting(2), (0.5, 0.1)),
    "PoissonSplitting(4)": (ct.PoissonSplitting(4), (0.5, 0.1)),
    "PoissonSplitting(6)": (ct.PoissonSplitting(6), (0.5, 0.25, 0.05)),
    "ImplicitMidpoint": (ct.ImplicitMidpoint(), (0.5, 0.1)),
    "DiscreteGradient": (ct.DiscreteGradient(), (1.0, 0.25)),
    "DiscreteGradient(4)": (ct.DiscreteGradient(order=4), (1.0, 0.25)),
    "Projected(Heun)": (ct.Projected(diffrax.Heun()), (1.0, 0.1)),
    "Projected(RK4)": (ct.Projected(ct.RK4()), (1.0, 0.25)),
    "Projected(Tsit5)": (ct.Projected(diffrax.Tsit5()), (1.0, 0.25, 0.05)),
    "Projected(Dopri8)": (ct.Projected(diffrax.Dopri8()), (1.0, 0.5, 0.25, 0.2, 0.125)),
    "diffrax.Euler": (diffrax.Euler(), (0.5, 0.05)),
    "diffrax.Heun": (diffrax.Heun(), (0.5, 0.05)),
    "diffrax.Tsit5": (diffrax.Tsit5(), (0.5, 0.25, 0.1, 0.05)),
    "diffrax.Dopri8": (diffrax.Dopri8(), (1.0, 0.5, 0.25, 0.2, 0.125, 0.1)),
}
QUICK = {  # what --quick takes: steps or tolerances
    f"{OURS} PoissonSplitting(2)": (0.1,),
    f"{OURS} Projected(RK4)": (1.0,),
    f"{OURS} Projected(Dopri8)": (0.125,),
    f"{OURS} diffrax.Tsit5": (0.05,),
    f"{OURS} diffrax.Dopri8": (0.125,),
    f"{OURS} mesh diffrax.Dopri8": (0.125,),
    "diffrax Dopri8 batched": (1e-11,),
    "scipy DOP853": (1e-12,),
    "torchdiffeq dopri8": (1e-11,),
    "heyoka Taylor": (1e-8, 1e-12),
}
PATIENCE = 5.0  # seconds: what takes longer is not run again, nor more accurately


class Case(NamedTuple):
    batch: int
    horizon: float
    quick_horizon: float
    judge: str
    bound: float
    tolerances: tuple[float, ...]  # of the peers, the loosest first


CASES = (
    Case(1024, 20.0, 20.0, ERROR, 1e-9, (1e-6, 1e-8, 1e-10, 1e-12)),
    Case(16, 2000.0, 200.0, DRIFT, 1e-10, (1e-10, 1e-12, 1e-13)),
)


def by_simulate(p: Problem, dt: float, solver: diffrax.AbstractSolver, **settings: Any) -> Callable:
    steps, every = round(p.horizon / dt), round(EVERY / dt)
    settings |= {"dt": dt, "num_steps": steps, "save_every": every, "solver": solver}
    return lambda: ct.simulate(p.rnn, p.x0, **settings)


def by_simulate_on_all_cores(p: Problem, dt: float, solver: diffrax.AbstractSolver) -> Callable:
    return by_simulate(p, dt, solver, mesh=ct.batch_mesh())


DOPRI8, TSIT5 = diffrax.Dopri8(), diffrax.Tsit5()
PEERS = {  # how it is called, and the tightest tolerance that is no waste of time
    "diffrax Dopri8 vmap": (partial(by_diffrax, solver=DOPRI8, vmap=True), 0.0),
    "diffrax Dopri8 batched": (partial(by_diffrax, solver=DOPRI8, vmap=False), 0.0),
    "diffrax Tsit5 batched": (partial(by_diffrax, solver=TSIT5, vmap=False), 1e-8),
    "scipy DOP853": (partial(by_scipy, method="DOP853"), 0.0),
    "scipy LSODA": (partial(by_scipy, method="LSODA"), 0.0),
    "torchdiffeq dopri8": (partial(by_torchdiffeq, method="dopri8"), 0.0),
    "torchdiffeq dopri5": (partial(by_torchdiffeq, method="dopri5"), 1e-8),
    "heyoka Taylor": (by_heyoka, 0.0),
}


def candidates(case: Case, quick: bool) -> dict[str, tuple[Callable, tuple[float, ...]]]:
    """How each is made, and with what: steps of ours, tolerances of the peers."""
    made = {
        f"{OURS} {name}": (partial(by_simulate, solver=solver), steps)
        for name, (solver, steps) in METHODS.items()
    }
    mesh = partial(by_simulate_on_all_cores, solver=DOPRI8)
    made[f"{OURS} mesh diffrax.Dopri8"] = mesh, METHODS["diffrax.Dopri8"][1]
    for name, (make, tightest) in PEERS.items():
        made[name] = make, tuple(tol for tol in case.tolerances if tol >= tightest)
    return {name: (made[name][0], QUICK[name]) for name in QUICK} if quick else made


def library(candidate: str) -> str:
    return candidate.split()[0]


def borrowed(candidate: str) -> bool:
    return "diffrax." in candidate


def states(result: Any) -> np.ndarray:
    """(batch, saves, n), nan where `simulate` says that a step was not solved or not finite."""
    if not isinstance(result, ct.Trajectory):
        return np.asarray(result)
    lost = (result.unconverged_at >= 0) | (result.stopped_at >= 0)
    return np.where(np.asarray(lost)[:, None, None], np.nan, np.asarray(result.xs))


def timed(call: Callable) -> np.ndarray:
    """Seconds of one to five calls."""
    times: list[float] = []
    while len(times) < 5 and sum(times) < 0.5:
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return np.array(times)


def points(report: Report, p: Problem, case: Case, quick: bool) -> dict[str, dict]:
    """Time, error and drift of every candidate, and its call."""
    reference, found = exact(p), {}
    for candidate, (make, values) in candidates(case, quick).items():
        if importlib.util.find_spec(library(candidate)) is None:
            report.notice(f"{library(candidate)} is not installed: skipped")
            continue
        for value in values:
            name = f"{candidate}, {'dt' if library(candidate) == OURS else 'tol'} {value:g}"
            start = time.perf_counter()
            call = make(p, value)
            xs = states(call())
            first = time.perf_counter() - start
            times = first if first > PATIENCE else timed(call)
            seconds = float(np.median(times))
            drift = np.abs(np.asarray(ct.energy_drift(p.rnn, jnp.asarray(xs)))).max()
            error = np.abs(xs[:CHECKED, 1] - reference).max()
            if library(candidate) != OURS and not error < 1e-2:
                raise RuntimeError(f"{p.name}: {name} solves another problem, error {error:.1e}")
            report.values(
                p.name, name,
                {"time": (times, "s"), "first call": (first, "s"), DRIFT: (drift, ""),
                 ERROR: (error, "")},
                parameters=p.parameters,
            )  # fmt: skip
            found[name] = {"call": call, "seconds": seconds, DRIFT: drift, ERROR: error}
            if seconds > PATIENCE:
                report.notice(f"{p.name}: {name} takes {seconds:.0f} s, so no more accurate one")
                break
    return found


def cheapest(report: Report, p: Problem, case: Case, found: dict, rounds: int) -> None:
    """The cheapest of each library within the bound, in turns."""
    title = f"{p.name}: cheapest with {case.judge} <= {case.bound:g}"
    within = [name for name in found if found[name][case.judge] <= case.bound]
    within.sort(key=lambda name: found[name]["seconds"])
    best: dict[str, str] = {}
    for name in within:
        best.setdefault(library(name), name)
    if OURS not in best:
        report.notice(f"{title}: none of {OURS}")
        return
    for name in within:  # whose method is not the winner's: own or diffrax's
        if library(name) == OURS and borrowed(name) != borrowed(best[OURS]):
            kind = "diffrax's methods" if borrowed(name) else "own methods"
            best.setdefault(f"{OURS} by {kind}", name)
    for group in dict.fromkeys(library(name) for name in found):
        if group not in best:
            report.notice(f"{title}: none of {group}")
        elif group != OURS and found[best[group]]["seconds"] > PATIENCE:
            slow = found[best[group]]["seconds"] / found[best[OURS]]["seconds"]
            report.notice(f"{title}: {best.pop(group)} takes {slow:.0f} times as long as {OURS}")
    seconds = interleaved({g: found[name]["call"] for g, name in best.items()}, rounds, 10.0)
    parameters = p.parameters | {"judged by": case.judge, "bound": case.bound}
    parameters |= {f"cheapest of {group}": name for group, name in best.items()}
    report.times(title, seconds, parameters=parameters)
    peers = [group for group in seconds if library(group) != OURS]
    if peers:
        peer = min(peers, key=lambda group: np.median(seconds[group]))
        gain = seconds[peer] / seconds[OURS]
        parameters["best peer"] = best[peer]
        report.value(title, OURS, "best peer over this", gain, "", parameters=parameters)
    for name in best.values():
        print(f"    {name}: error {found[name][ERROR]:.1e}, drift {found[name][DRIFT]:.1e}")


def growth(report: Report, quick: bool) -> None:
    p, dt, most = problem(20, 8, 0.0), 0.05, 10**4 if quick else 10**5
    for name in METHODS:
        if quick and f"{OURS} {name}" not in QUICK:
            continue
        run = ct.simulate(
            p.rnn, p.x0, dt=dt, num_steps=most, save_every=10, solver=METHODS[name][0]
        )
        drift = np.abs(np.asarray(ct.energy_drift(p.rnn, run.xs))).max(axis=0)
        marks = [steps for steps in (10**3, 10**4, 10**5) if steps <= most]
        report.values(
            f"8 states of n = 20, dt = {dt:g}", f"{OURS} {name}",
            {f"largest drift within {k} steps": (drift[: k // 10 + 1].max(), "") for k in marks},
            parameters={"n": 20, "batch": 8, "dtype": "float64", "weights": "dense", "dt": dt},
        )  # fmt: skip


LIBRARIES = {  # colour, marker, line
    f"{OURS}, own methods": ("#0072b2", "o", "-"),
    f"{OURS}, diffrax's methods": ("#56b4e9", "s", "--"),
    "diffrax": ("#d55e00", "^", "-."),
    "scipy": ("#009e73", "v", ":"),
    "torchdiffeq": ("#cc79a7", "D", (0, (5, 1, 1, 1, 1, 1))),
    "heyoka": ("#000000", "*", (0, (8, 2))),
}
KINDS = {  # of the methods of simulate: colour, line; their markers in their order
    "PoissonSplitting": ("#0072b2", "-"),
    "ImplicitMidpoint": ("#009e73", "-."),
    "DiscreteGradient": ("#cc79a7", ":"),
    "Projected": ("#d55e00", "--"),
    "diffrax": ("#000000", (0, (8, 2))),
}


def kinds() -> dict[str, tuple]:
    found, seen = {}, []
    for method in METHODS:
        kind = method.split("(")[0].split(".")[0]
        colour, line = KINDS[kind]
        found[method] = colour, "ov^s"[seen.count(kind)], line
        seen.append(kind)
    return found


def of_library(candidate: str) -> str:
    if library(candidate) != OURS:
        return library(candidate)
    return f"{OURS}, " + ("diffrax's methods" if borrowed(candidate) else "own methods")


def of_method(candidate: str) -> str:
    return candidate.removeprefix(f"{OURS} ").split(",")[0]


def curve(runs: list[dict], judge: str, best_only: bool) -> np.ndarray:
    """Times and the judged quantity (2, K); of the runs that no other beats in both, or of all."""
    runs = sorted((r for r in runs if r[judge] < 1e2), key=lambda r: r["seconds"])
    values = [r[judge] for r in runs]
    kept = [i for i, v in enumerate(values) if not best_only or v <= min(values[: i + 1])]
    return np.array([(runs[i]["seconds"], max(values[i], 1e-16)) for i in kept]).reshape(-1, 2).T


def draw(
    table: dict, group: Callable[[str], str], styles: dict[str, tuple], best_only: bool, path: Path
) -> None:
    """A panel for each case and size, a curve for each group of candidates."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sizes = list(dict.fromkeys(n for n, _ in table))
    figure, axes = plt.subplots(
        len(CASES), len(sizes), figsize=(4.4 * max(2, len(sizes)), 8.5), squeeze=False,
        sharey="row", layout="constrained",
    )  # fmt: skip
    for (n, case), (horizon, found) in table.items():
        ax = axes[CASES.index(case), sizes.index(n)]
        for name, (colour, marker, line) in styles.items():
            runs = [run for candidate, run in found.items() if group(candidate) == name]
            if runs:
                x, y = curve(runs, case.judge, best_only)
                ax.plot(x, y, color=colour, marker=marker, linestyle=line, label=name)
        ax.axhline(case.bound, color="0.6", linewidth=0.8, label="bound")
        ax.set(xscale="log", yscale="log", xlabel=f"time of a call to t = {horizon:g} s (s)")
        ax.set_title(f"{n} neurons, {case.batch} states", fontsize=10)
        ax.grid(color="0.93")
    axes[0, 0].set_ylabel(f"largest {ERROR} s")
    axes[1, 0].set_ylabel(f"largest relative {DRIFT}")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, handlelength=4)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    options = parser(__doc__, "work-precision").parse_args()
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_num_cpu_devices", cores())
    report, table = Report("work-precision"), {}
    for n in (20,) if options.quick else SIZES:
        for case in CASES:
            p = problem(n, case.batch, case.quick_horizon if options.quick else case.horizon)
            found = points(report, p, case, options.quick)
            cheapest(report, p, case, found, 3 if options.quick else 7)
            table[n, case] = p.horizon, found
    growth(report, options.quick)
    report.write(options.out)
    draw(table, of_library, LIBRARIES, True, options.out / "work-precision.png")
    draw(table, of_method, kinds(), False, options.out / "work-precision-methods.png")


if __name__ == "__main__":
    main()
