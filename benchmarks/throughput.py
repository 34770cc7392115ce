"""Time of a step against neurons and batch: this library, its peers and the machine's limit.

    python benchmarks/throughput.py [--quick] [--out DIR]

x' = tanh(A x) by Euler, Tsit5 and RK4 from a batch of random states, A skew-symmetric. A call
returns the states at the end alone, and makes so many steps that it takes about 10 to 200 ms; where
Python has a part in every step it makes fewer. What is compared is the time of a step.
"ctrnn_jax mesh" is `simulate(..., mesh=batch_mesh())` with a CPU device to each core. The peers
are called as peers.py tells; SciPy stands beside Tsit5 with RK45, which has the same order and as
many evaluations, torchdiffeq beside RK4 with the 3/8 rule. Before it is timed, each must reach the
states that NumPy reaches in float64 by the same steps, to what rounding explains.

Weights are dense for all; then those of other structure against the same A as `DenseSkew`.

The limit is that of limit.py, by its best rates of the whole run: for each state and evaluation n
tanh and 2 n² flop, or what a structure needs: n² for two equal groups, 8 n r for rank 2 r, n for
blocks; on accelerators a state also passes through memory twice.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

os.environ.setdefault("EQX_ON_ERROR", "nan")

import jax
import jax.numpy as jnp
import numpy as np
from limit import Limit, limit, on_cpu
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from measure import OURS, Report, cores, interleaved, parser
from peers import METHODS, PEERS, Problem, as_numpy, exact, missing

import ctrnn_jax as ct

SIZES = (2, 8, 20, 40, 128, 512)
BATCHES = (1, 64, 4096, 65536, 262144)
BATCH = 4096  # in the plot against neurons
CASES = (  # dtype, method, neurons, batches, weights
    ("float32", "Euler", SIZES, BATCHES, ("dense",)),
    ("float32", "Tsit5", SIZES, (64, BATCH), ("dense",)),
    ("float32", "RK4", SIZES, (BATCH,), ("dense",)),
    ("float32", "Euler", (20, 128, 1024), (BATCH,), ("bipartite", "low rank", "block")),
    ("float64", "Euler", SIZES, (BATCH,), ("dense",)),
    ("float64", "Tsit5", (2, 20, 128), (BATCH,), ("dense",)),
    ("float64", "RK4", (20,), (BATCH,), ("dense",)),
)
QUICK_CASES = (
    ("float32", "Euler", (2, 20), (BATCH,), ("dense",)),
    ("float32", "Tsit5", (20,), (BATCH,), ("dense",)),
    ("float32", "Euler", (1024,), (BATCH,), ("low rank", "block")),
)
RANK = 8  # r
WEIGHTS: dict[str, tuple[Callable, Callable[[int], int]]] = {  # and flop of a product with a state
    "dense": (ct.DenseSkew.init, lambda n: 2 * n * n),
    "bipartite": (ct.BipartiteSkew.init, lambda n: n * n),
    "low rank": (partial(ct.LowRankSkew.init, rank=RANK), lambda n: 8 * n * RANK),
    "block": (ct.BlockSkew.init, lambda n: n),
}
MESH, AS_DENSE = f"{OURS} mesh", f"{OURS} as DenseSkew"
CALL = 0.08  # seconds, about
LONGEST = 1.0  # seconds that a call may take to make 256 steps
HEAVIEST = 0.04  # seconds that a step takes at the limit: cases beyond it are left out
ROUNDS, PATIENCE = 15, 4.0  # at most so many rounds or seconds for a case


class Case(NamedTuple):
    dtype: str
    method: str
    n: int
    batch: int
    weights: str

    @property
    def name(self) -> str:
        return (
            f"{self.method}, n = {self.n}, batch {self.batch}, {self.weights} weights, {self.dtype}"
        )

    @property
    def work(self) -> tuple[float, float, float]:
        """Flop, activations and bytes of a step."""
        states = self.batch * METHODS[self.method].evaluations
        size = np.dtype(self.dtype).itemsize
        flops = WEIGHTS[self.weights][1](self.n)
        return states * flops, states * self.n, states * 2 * self.n * size

    def num_steps(self, least: float, overhead: float) -> int:
        """Of a call, if an evaluation takes `overhead` and a step three times `least` beyond."""
        seconds = METHODS[self.method].evaluations * overhead + 3 * least
        # Runs have hundreds of steps, beside which a call and its copies of the states are little.
        enough = 4 if overhead > 2e-5 else min(256, max(4, round(LONGEST / seconds)))
        return max(enough, 2 ** round(math.log2(CALL / seconds)))


class Candidate(NamedTuple):
    call: Callable[[], Any]
    problem: Problem  # that it solves exactly so, but for rounding


def cases(table: tuple) -> Iterator[Case]:
    for dtype, method, sizes, batches, structures in table:
        for weights in structures:
            for n in sizes:
                for batch in batches:
                    yield Case(dtype, method, n, batch, weights)


def candidates(case: Case, least: float, report: Report) -> dict[str, Candidate]:
    weights = WEIGHTS[case.weights][0](jax.random.key(case.n), case.n, dtype=case.dtype)
    x0 = jax.random.normal(jax.random.key(1), (case.batch, case.n), case.dtype)

    def problem(overhead: float, slowness: int = 1) -> Problem:
        steps = case.num_steps(slowness * least, overhead)
        dt = min(0.01, 5 / steps)  # the time must not suffice for chaos to magnify rounding
        return Problem(np.asarray(weights.as_matrix()), np.asarray(x0), dt, steps, case.method)

    compiled, interpreted, slow = (
        problem(2e-6 if on_cpu() else 2e-5),
        problem(4e-5),
        problem(2e-6, 10),
    )

    def ours(weights, mesh=None) -> Candidate:
        p = compiled
        call = partial(
            ct.simulate, ct.CTRNN(weights), x0, dt=p.dt, num_steps=p.num_steps,
            save_every=p.num_steps, solver=METHODS[p.method].solver, mesh=mesh,
        )  # fmt: skip
        return Candidate(lambda: call().xs, p)

    found = {OURS: ours(weights)}
    if case.weights != "dense":
        return found | {AS_DENSE: ours(ct.DenseSkew(jnp.triu(weights.as_matrix())))}
    if len(jax.devices()) > 1:
        found[MESH] = ours(weights, ct.batch_mesh())
    for name, peer in PEERS.items():
        if case.method not in peer.methods or case.dtype not in peer.dtypes:
            continue
        if why := missing(peer):
            report.notice(why)
            continue
        p = interpreted if peer.interpreted else slow if peer.slow else compiled
        found[name] = Candidate(peer.make(p), p._replace(method=peer.methods[case.method]))
    return found


def check(case: Case, name: str, candidate: Candidate) -> None:
    """Refuse a candidate whose states at the end are not those of its problem."""
    p = candidate.problem
    some = np.unique([0, case.batch // 2, case.batch - 1])
    wanted = exact(p._replace(x0=p.x0[some]))
    # Ours has the initial states before them.
    states = as_numpy(candidate.call()).reshape(case.batch, -1, case.n)[some, -1]
    error, scale = np.abs(states - wanted).max(), np.abs(wanted).max()
    bound = 20 * math.sqrt(p.num_steps) * np.finfo(case.dtype).eps * scale
    if not error <= bound:
        expected = f"{case.name}: {name}: expected states within {bound:.1e} of NumPy's"
        raise ValueError(f"{expected}, got a difference of {error:.1e}")


def run(report: Report, quick: bool) -> None:
    """All cases into the report."""
    limits: dict[str, Limit] = {}
    works: dict[str, tuple] = {}
    for group in QUICK_CASES if quick else CASES:
        measure(limits, group[0])
        for case in cases((group,)):
            least = limits[case.dtype].least(*case.work)
            if least > HEAVIEST:
                continue
            found = candidates(case, least, report)
            for name, candidate in found.items():
                check(case, name, candidate)
            seconds = interleaved({k: c.call for k, c in found.items()}, ROUNDS, PATIENCE)
            works[case.name] = case.work
            report.times(
                case.name,
                {k: values / found[k].problem.num_steps for k, values in seconds.items()},
                parameters=parameters(case),
                quantity="time of a step",
                least=least,
            )
    for dtype in limits:
        measure(limits, dtype)
    for row in report.rows:
        if row["case"] in works:
            least = limits[row["parameters"]["dtype"]].least(*works[row["case"]])
            row["fraction"] = least / row["median"]
    report.facts["limit"] = {dtype: found._asdict() for dtype, found in limits.items()}
    print("best rates of the run, by which the fractions are written:", report.facts["limit"])


def measure(limits: dict[str, Limit], dtype: str) -> None:
    """The best rates so far; a shared machine is slow at times."""
    limits[dtype] = limit(dtype).or_better(limits.get(dtype, Limit(0, 0, 0)))


def parameters(case: Case) -> dict[str, Any]:
    return {
        "n": case.n,
        "batch": case.batch,
        "dtype": case.dtype,
        "weights": case.weights,
        "solver": case.method,
    }


DRAWN = {"weights": "dense", "dtype": "float32"}
STYLES = {  # colour, marker, line
    OURS: ("#0072b2", "o", "-"),
    MESH: ("#56b4e9", "s", "-"),
    "diffrax vmap": ("#d55e00", "^", "--"),
    "diffrax batched": ("#e69f00", "v", "--"),
    "lax.scan": ("#000000", "x", ":"),
    "torchdiffeq": ("#cc79a7", "D", "-."),
    "torch loop": ("#882255", "P", "-."),
    "numba": ("#009e73", "*", (0, (5, 1, 1, 1, 1, 1))),
    "numpy loop": ("0.45", "<", (0, (8, 2))),
    "scipy RK45": ("0.65", ">", (0, (8, 2))),
}


def curves(
    report: Report, ax: Axes, x: str, y: Callable[[dict], float], wanted: dict[str, Any]
) -> None:
    """y(row) against the parameter `x`, a curve for each candidate in the rows that are wanted."""
    ticks = set()
    for name, (colour, marker, line) in STYLES.items():
        points = sorted(
            (row["parameters"][x], y(row))
            for row in report.rows
            if row["candidate"] == name and wanted.items() <= row["parameters"].items()
        )
        ticks |= {value for value, _ in points}
        if points:
            style = {"color": colour, "marker": marker, "linestyle": line, "markersize": 5}
            ax.plot(*np.array(points).T, label=name, **style)
    ticks = sorted(ticks)
    ax.set(xscale="log", yscale="log", xticks=ticks, xticklabels=ticks)
    ax.minorticks_off()
    ax.tick_params(axis="x", labelrotation=30 if x == "batch" else 0)
    ax.grid(color="0.93")


def legend(figure: Figure) -> None:
    entries = {}
    for ax in figure.axes:
        entries |= {t: h for h, t in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(entries.values(), entries, loc="outside lower center", ncols=6, frameon=False)


def against_neurons(report: Report, figure: Figure) -> None:
    """How much of the limit is reached."""
    methods = ("Euler", "Tsit5", "RK4")
    figure.set_size_inches(4 * len(methods), 4.5)
    axes = figure.subplots(1, len(methods), sharey=True)
    for ax, method in zip(axes, methods, strict=True):
        wanted = DRAWN | {"solver": method, "batch": BATCH}
        curves(report, ax, "n", lambda row: row["fraction"], wanted)
        ax.axhline(1, color="0.6", linewidth=0.8)
        ax.set(xlabel="neurons", title=f"{method}, {BATCH} states, float32")
    axes[0].set_ylabel("fraction of the limit")
    axes[0].yaxis.set_major_formatter("{x:g}")
    legend(figure)


def against_batch(report: Report, figure: Figure) -> None:
    """Time of a step and state."""
    sizes = (2, 20, 128)
    figure.set_size_inches(4 * len(sizes), 4.5)
    axes = figure.subplots(1, len(sizes))
    for ax, n in zip(axes, sizes, strict=True):
        wanted = DRAWN | {"solver": "Euler", "n": n}
        curves(report, ax, "batch", lambda row: row["median"] / row["parameters"]["batch"], wanted)
        ax.set(xlabel="states", title=f"Euler, {n} neurons, float32")
    axes[0].set_ylabel("time of a step / states (s)")
    legend(figure)


def main() -> None:
    options = parser(__doc__, "throughput").parse_args()
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_num_cpu_devices", cores())
    report = Report("throughput")
    run(report, options.quick)
    report.write(options.out)
    from ctrnn_jax.plot._files import draw  # loads matplotlib

    draw(options.out, pictures(report, "throughput"))


def pictures(report: Report, name: str) -> dict[str, Callable[[Figure], None]]:
    return {
        f"{name}-neurons": partial(against_neurons, report),
        f"{name}-batch": partial(against_batch, report),
    }


if __name__ == "__main__":
    main()
