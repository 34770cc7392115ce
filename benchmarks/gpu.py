"""Correctness, then the programs of gpu_cases.py, on whatever accelerator JAX finds.

    python benchmarks/gpu.py [--quick] [--out DIR] [--checks-on-cpu]

First the checks of gpu_checks.py, each with what it compared, its error and its bound. Where one
fails the script ends with status 1, without any figures. Then, of each case,

- the time of a step, candidates taking turns: diffrax under vmap and with the batch as one state,
  lax.scan by hand, and PyTorch for Euler's steps. The scan is the fastest of states as rows or
  columns, one or ten steps in a round of its loop. Gradients of peers are JAX's of their runs.
  What does not come to the same results, up to rounding, is left out, and that is told;
- what a step launches: counted in the program as it was compiled here (launches.py), but for
  peers with loops whose rounds are known only when they run;
- the launch limit: the time of that many launches, as trivial programs measure it here;
- the arithmetic limit: the time of the flop, tanh and bytes that no program can do without, at the
  best rates that limit.py finds here. The fractions of candidates are of this one; "reached" is
  the share of the greater limit, which is the least that the program can take as it launches.

No case begins later than 390 s after the start, 85 s with --quick; what is left out is told. So it
ends within 8 minutes, or 2.
Throughput against neurons and batch is throughput.py's, which runs on accelerators, too. Where JAX
has only CPUs the script refuses, with status 2: figures of a CPU are not those of a GPU.
--checks-on-cpu makes the checks there, and nothing else.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

os.environ.setdefault("EQX_ON_ERROR", "nan")
# PyTorch needs memory too.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
from gpu_cases import BATCH, CASES, DT, OF_RUNS, SAVE_EVERY, SAVES, STEPS, Case
from gpu_checks import run_checks
from launches import ASSUMED, Launches, Overheads, Uncounted, compiled, overheads
from limit import Limit, limit, on_cpu
from matplotlib.figure import Figure
from measure import OURS, Report, interleaved, machine, parser
from peers import METHODS, PEERS, Problem, as_numpy, by_diffrax, faster, missing, scans

import ctrnn_jax as ct

QUICK_CASES = (
    "simulate,2,Euler", "simulate,20,Euler", "simulate,20,Tsit5", "simulate,20,PoissonSplitting",
    "grad,20,Euler",
)  # fmt: skip
UNROLLED = (1, 10)  # steps in a round of the peers' scan
ROUNDS, PATIENCE = 15, 4.0  # at most so many rounds or seconds for a case
LATEST, QUICK_LATEST = 390.0, 85.0  # seconds after the start
# Evaluations of the velocity, or sweeps, in a step.
STAGES = {name: METHODS[name].evaluations for name in ("Euler", "Tsit5")} | {"PoissonSplitting": 2}
# Products with A or its transpose, or for the gradient by A, to each of a forward run.
PRODUCTS = {"simulate": 1, "grad": 3, "fit": 3, "lyapunov": 2}


class Candidate(NamedTuple):
    call: Callable[[], Any]
    launches: Launches | None  # of a call


def work(case: Case) -> tuple[float, float, float] | None:
    """Flop, tanh and bytes of a step that no program can do without, None where it is not known.

    The states are in registers: memory sees the first ones and those that are saved. What the way
    back needs of the way there is kept.
    """
    if case.kind not in PRODUCTS:
        return None
    states = BATCH * case.n
    through_memory = 1 + (SAVES if case.kind in OF_RUNS else 1)
    flops = PRODUCTS[case.kind] * STAGES[case.solver] * states * 2 * case.n
    return flops, STAGES[case.solver] * states, through_memory * states * 4 / STEPS


def arguments_of(case: Case) -> tuple[jax.Array, jax.Array]:
    W = ct.DenseSkew.init(jax.random.key(case.n), case.n, dtype="float32").W
    return W, jax.random.normal(jax.random.key(1), (BATCH, case.n), "float32")


def made(function: Callable, arguments: tuple, report: Report) -> Candidate:
    try:
        program, launches = compiled(function, *arguments)
    except Uncounted as error:
        report.notice(f"{error}: not counted")
        program, launches = jax.jit(function).lower(*arguments).compile(), None
    return Candidate(partial(program, *arguments), launches)


def peers_of(case: Case, arguments: tuple, report: Report) -> Iterator[tuple[str, Callable]]:
    """Names, and functions that make the candidates."""
    if case.kind not in OF_RUNS or case.solver not in METHODS:
        return
    A, x0 = np.asarray(ct.DenseSkew(arguments[0]).as_matrix()), np.asarray(arguments[1])
    p = Problem(A, x0, DT, STEPS, case.solver)

    def best_of(calls: Callable[[], list[partial]]) -> Candidate:
        runs = [lambda W, x0, f=c.func: f(ct.DenseSkew(W).as_matrix(), x0) for c in calls()]
        found = [made(case.of(run), arguments, report) for run in runs]
        best = faster(*(c.call for c in found)) if len(found) > 1 else found[0].call
        return next(c for c in found if c.call is best)

    for name, vmap in (("diffrax vmap", True), ("diffrax batched", False)):
        by = partial(by_diffrax, p, vmap=vmap, save_every=SAVE_EVERY)
        yield name, lambda by=by: best_of(lambda: [by()])
    unrolled = partial(scans, p, save_every=SAVE_EVERY)
    yield "lax.scan", lambda: best_of(lambda: [c for k in UNROLLED for c in unrolled(unroll=k)])
    torch = PEERS["torch loop"]
    if case.kind == "simulate" and case.solver in torch.methods:
        if why := missing(torch):
            report.notice(why)
        else:
            yield "torch loop", lambda: Candidate(torch.make(p), None)


def ends(case: Case, result: Any) -> list[np.ndarray]:
    """What candidates have in common: of saved states those at the end."""
    leaves = [as_numpy(leaf) for leaf in jax.tree.leaves(result)]
    return [x[:, -1] if x.ndim == 3 else x for x in leaves] if case.kind == "simulate" else leaves


def apart(case: Case, a: Any, b: Any) -> float:
    """The largest difference of results, over what rounding explains."""
    pairs = list(zip(ends(case, a), ends(case, b), strict=True))
    errors = [np.abs(x - y).max() / np.abs(y).max() for x, y in pairs]
    return float(np.max(errors)) / (300 * float(np.finfo("float32").eps) * math.sqrt(STEPS))


def candidates(case: Case, arguments: tuple, report: Report) -> dict[str, Candidate]:
    found = {OURS: made(case.program(), arguments, report)}
    wanted = found[OURS].call()
    for name, make in peers_of(case, arguments, report):
        try:  # whatever a peer meets here, the rest is measured
            candidate = make()
            error = apart(case, candidate.call(), wanted)
        except Exception as failure:
            report.notice(f"{','.join(map(str, case))}: {name}: {failure!r:.300}: left out")
            continue
        if error <= 1:
            found[name] = candidate
        else:
            off = f"{error:.1g} times what rounding explains off {OURS}: left out"
            report.notice(f"{','.join(map(str, case))}: {name}: {off}")
    return found


def measure(name: str, rates: Limit, costs: Overheads, report: Report) -> None:
    """The rows of a case."""
    case = Case.named(name)
    found = candidates(case, arguments_of(case), report)
    seconds = interleaved({k: c.call for k, c in found.items()}, ROUNDS, PATIENCE)
    needed = work(case)
    tell(name, seconds, {k: c.launches for k, c in found.items()}, report,
         least=None if needed is None else rates.least(*needed), costs=costs)  # fmt: skip


def tell(
    name: str,
    seconds: dict[str, np.ndarray],
    launches: dict[str, Launches | None],
    report: Report,
    *,
    least: float | None,
    costs: Overheads,
) -> None:
    """`seconds` of calls, `launches` of calls; `least`: arithmetic's seconds of a step."""
    case = Case.named(name)
    title = f"{case.kind}, n = {case.n}, {case.solver}, batch {BATCH}, float32"
    about = {"parameters": {**case._asdict(), "batch": BATCH, "steps": STEPS, "dtype": "float32"}}
    # How many rounds an adaptive loop makes is not known.
    steps, of = (1, "call") if least is None else (STEPS, "step")
    report.times(title, seconds, per=steps, quantity=f"time of a {of}", least=least, **about)
    for candidate, counted in launches.items():
        if counted is None or (counted.guessed and least is not None):
            continue
        each = counted.each(STEPS)
        per = "round" if least is None else "step"
        rows = {f"{what} of a {per}": (value, "") for what, value in each._asdict().items()}
        if least is not None:
            launching, took = costs.least(each), float(np.median(seconds[candidate])) / STEPS
            rows["launch limit"] = (launching, "s")
            rows["arithmetic limit"] = (least, "s")
            rows["reached"] = (max(launching, least) / took, "")
        report.values(title, candidate, rows, **about)
    ours, most = launches[OURS], CASES.get(name)
    if ours is not None and most is not None:
        each = ours.each(STEPS)
        got = each.launches + each.graphs, each.nodes, each.syncs
        if any(a > b for a, b in zip(got, most, strict=True)):
            report.notice(f"{name}: expected at most {most}, got {got} of launches, nodes, waits")


def measured_overheads(report: Report) -> Overheads:
    try:
        costs = overheads()
    except Uncounted as error:
        report.notice(f"{error}: costs of launches are assumed, not measured")
        costs = ASSUMED
    report.facts["overheads"] = costs._asdict()
    print("seconds of a launch, a graph, a node in it, a wait:", *(f"{s:.2e}" for s in costs))
    return costs


def measure_all(report: Report, quick: bool, latest: float) -> None:
    """The cases that begin before `latest` of time.perf_counter()."""
    jax.config.update("jax_enable_x64", False)  # the programs that the tests count
    jax.config.update("jax_compilation_cache_dir", None)  # nothing from there is counted
    costs, rates = measured_overheads(report), limit(jnp.float32)
    report.facts["limit"] = {"float32": rates._asdict()}
    print("best rates:", report.facts["limit"], flush=True)
    for name in QUICK_CASES if quick else CASES:
        if time.perf_counter() > latest:
            report.notice(f"{name}: left out, for want of time")
        else:
            measure(name, rates, costs, report)


STYLES = {  # of candidates: colour, marker; of limits: colour, marker
    OURS: ("#0072b2", "o"),
    "diffrax vmap": ("#d55e00", "^"),
    "diffrax batched": ("#e69f00", "v"),
    "lax.scan": ("#000000", "x"),
    "torch loop": ("#882255", "P"),
}
LIMITS = {"launch limit": ("#009e73", "|"), "arithmetic limit": ("#cc79a7", "d")}


def picture(report: Report, figure: Figure) -> None:
    """Time of a step and its limits, a line for each case."""
    shown: dict[str, dict[str, float]] = {}
    for row in report.rows:
        quantity, candidate = row["quantity"], row["candidate"]
        if quantity == "time of a step":
            shown.setdefault(row["case"], {})[candidate] = row["median"]
        elif quantity in LIMITS and candidate == OURS:
            shown[row["case"]][quantity] = row["median"]
    figure.set_size_inches(8, 1.8 + 0.3 * len(shown))
    ax = figure.subplots()
    for name, (colour, marker) in (STYLES | LIMITS).items():
        at = [k for k, found in enumerate(shown.values()) if name in found]
        seconds = [found[name] for found in shown.values() if name in found]
        size = 13 if marker == "|" else 6
        ax.plot(seconds, at, marker, color=colour, label=name, markersize=size, markeredgewidth=1.5)
    labels = [case.split(", batch")[0] for case in shown]
    ax.set(xscale="log", xlabel="time of a step (s)", yticks=range(len(shown)), yticklabels=labels)
    ax.invert_yaxis()
    ax.grid(color="0.93")
    ax.set_axisbelow(True)
    ax.set_title(f"{BATCH} states, float32")
    figure.legend(loc="outside lower center", ncols=4, frameon=False)


def main() -> None:
    begin = time.perf_counter()
    options = parser(__doc__, "gpu")
    options.add_argument("--checks-on-cpu", action="store_true", help="the checks alone, on a CPU")
    options = options.parse_args()
    if options.checks_on_cpu:
        jax.config.update("jax_platforms", "cpu")
    elif on_cpu():
        print("gpu: expected an accelerator, got cpu", file=sys.stderr)
        sys.exit(2)
    jax.config.update("jax_enable_x64", True)
    report = Report("gpu")
    done = run_checks(report, options.quick)
    failed = [check.what for check in done if not check.passed]
    print(f"{len(done) - len(failed)} of {len(done)} checks passed on {machine()['devices']}")
    if failed:
        sys.exit("gpu: failed: " + "; ".join(failed))
    if options.checks_on_cpu:
        return
    try:
        measure_all(report, options.quick, begin + (QUICK_LATEST if options.quick else LATEST))
    finally:  # what was measured is not lost
        report.write(options.out)
    from ctrnn_jax.plot._files import draw  # loads matplotlib

    draw(options.out, {"gpu": partial(picture, report)})


if __name__ == "__main__":
    main()
