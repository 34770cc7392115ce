"""How the time of `simulate` grows with steps, batch and neurons, and what several devices save.

    python benchmarks/scaling.py [--quick] [--out DIR]

Euler steps, float32, only the last state saved, with dense, bipartite, low-rank (r = 8) and block
weights. Exponents are least squares on logarithms, over all points and over the last three, where
fixed costs matter least. Structured weights of 1024 neurons are compared, in turns, with a dense
network of the same matrix. Then Euler and Tsit5 steps on one CPU device and on a mesh of as many
CPU devices as there are cores, in turns in one process. What is compared must agree to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from measure import OURS, Report, cores, exponent, interleaved, parser

import ctrnn_jax as ct

DT = 1e-3  # so short that chaos does not magnify rounding
RANK = 8
SOLVERS = {"Euler": (diffrax.Euler(), 1), "Tsit5": (diffrax.Tsit5(), 6)}  # stages
WEIGHTS = {
    "dense": ct.DenseSkew.init,
    "bipartite": ct.BipartiteSkew.init,
    "low-rank": partial(ct.LowRankSkew.init, rank=RANK),
    "block": ct.BlockSkew.init,
}
STYLES = {  # colour, marker, line
    "dense": ("#0072b2", "o", "-"),
    "bipartite": ("#d55e00", "s", "--"),
    "low-rank": ("#009e73", "^", "-."),
    "block": ("#cc79a7", "D", ":"),
}
FIXED = {"steps": "n = 20, batch 256", "batch": "n = 20", "neurons": "batch 1024"}
MESH = f"{OURS} mesh"
MOST_VALUES = 2**25  # of a state array: 128 MiB


def sizes(quick: bool) -> dict[str, tuple[int, ...]]:
    """The points of each axis."""
    if quick:
        return {
            "steps": (100, 1000, 10_000),
            "batch": (1, 64, 4096),
            "neurons": (2, 32, 512),
            "structure": (256,),
            "device neurons": (2, 128),
            "device batch": (4096,),
        }
    return {
        "steps": (100, 1000, 10_000, 100_000),
        "batch": tuple(4**k for k in range(10)),
        "neurons": tuple(2**k for k in range(1, 11)),
        "structure": (1, 64, 1024, 4096),
        "device neurons": (2, 8, 20, 40, 128, 512),
        "device batch": (4096, 65536, 262144),
    }


def network(weights: str, n: int) -> ct.CTRNN:
    return ct.CTRNN(WEIGHTS[weights](jax.random.key(0), n))


def run(rnn: ct.CTRNN, batch: int, steps: int, solver: str = "Euler", mesh: Any = None) -> Callable:
    """A call that returns the last states."""
    x0 = jax.random.normal(jax.random.key(1), (batch, rnn.size))
    settings = {"dt": DT, "num_steps": steps, "save_every": steps, "mesh": mesh}
    return lambda: ct.simulate(rnn, x0, solver=SOLVERS[solver][0], **settings).xs[:, -1]


def fitting_steps(n: int, batch: int, stages: int = 1) -> int:
    """Steps of about a tenth of a second on two cores."""
    return int(np.clip(0.1 / (stages * n * batch * (n / 2e11 + 3e-10) + 3e-6), 4, 10_000))


def agree(calls: dict[str, Callable], case: str, steps: int) -> None:
    """An error unless all calls give the same states, but for what rounding explains."""
    expected, *others = (np.asarray(call()) for call in calls.values())
    for other in others:
        apart = float(np.abs(other - expected).max())
        if not apart <= 100 * steps * np.finfo(expected.dtype).eps:
            raise AssertionError(f"{case}: results are apart by {apart:.1e}")


def growth(report: Report, axis: str, points: tuple[int, ...]) -> dict[str, list]:
    """Seconds of a step (for "steps", of a call) against one size, for all kinds of weights."""
    curves: dict[str, list] = {weights: [] for weights in WEIGHTS}
    for size in points:
        n, batch = (size, 1024) if axis == "neurons" else (20, size if axis == "batch" else 256)
        steps = size if axis == "steps" else fitting_steps(n, batch)
        calls = {f"{OURS} {w}": run(network(w, n), batch, steps) for w in WEIGHTS}
        case = f"growth with {axis}: n = {n}, batch {batch}, {steps} steps"
        about = parameters(n=n, batch=batch, steps=steps)
        times = interleaved(calls, rounds=5, seconds=5)
        report.times(case, times, parameters=about, per=steps, reference=f"{OURS} dense")
        for weights, seconds in zip(WEIGHTS, times.values(), strict=True):
            of_step = 1 if axis == "steps" else steps
            curves[weights].append((size, float(np.median(seconds)) / of_step))
    for weights, curve in curves.items():
        x, y = np.array(curve).T
        rows = {
            f"exponent of time in {axis}": (exponent(x, y), ""),
            f"exponent of time in {axis}, last three": (exponent(x[-3:], y[-3:]), ""),
        }
        about = parameters(weights=weights) | {axis: list(points)}
        report.values(f"growth with {axis}, {weights}", f"{OURS} {weights}", rows, parameters=about)
    return curves


def structure(report: Report, batches: tuple[int, ...]) -> None:
    """Structured weights against a dense network of the same matrix."""
    n = 1024
    for weights in list(WEIGHTS)[1:]:
        rnn = network(weights, n)
        dense = ct.CTRNN(ct.DenseSkew(jnp.triu(rnn.weights.as_matrix())))
        for batch in batches:
            steps = max(32, fitting_steps(n, batch))  # beside which a call's copies are little
            calls = {OURS: run(rnn, batch, steps), f"{OURS} dense": run(dense, batch, steps)}
            case = f"structure: {weights}, n = {n}, batch {batch}, {steps} steps"
            agree(calls, case, steps)
            about = parameters(n=n, batch=batch, steps=steps, weights=weights)
            report.times(case, interleaved(calls, 7, seconds=10), parameters=about, per=steps)


def devices(report: Report, neurons: tuple[int, ...], batches: tuple[int, ...]) -> dict:
    """One device against a mesh of all; {(solver, batch): [(neurons, times faster), ...]}."""
    mesh, gains = ct.batch_mesh(), {}
    for solver, (_, stages) in SOLVERS.items():
        for batch in batches:
            for n in neurons:
                if n * batch > MOST_VALUES:
                    continue
                rnn, steps = network("dense", n), fitting_steps(n, batch, stages)
                calls = {
                    OURS: run(rnn, batch, steps, solver),
                    MESH: run(rnn, batch, steps, solver, mesh),
                }
                case = f"devices: {solver}, n = {n}, batch {batch}, {steps} steps"
                agree(calls, case, steps)
                about = parameters(n=n, batch=batch, steps=steps, solver=solver, weights="dense")
                times = interleaved(calls, rounds=9, seconds=10)
                about["devices"] = mesh.size
                report.times(case, times, parameters=about, per=steps, reference=MESH)
                gain = float(np.median(times[OURS] / times[MESH]))
                gains.setdefault((solver, batch), []).append((n, gain))
    return gains


def parameters(**values: Any) -> dict[str, Any]:
    return {"dtype": "float32", "solver": "Euler", **values}


def growth_picture(curves: dict[str, dict[str, list]], figure: Any) -> None:
    """A panel for each size, a line for each kind of weights."""
    axes = figure.subplots(1, len(curves))
    for ax, (axis, found) in zip(axes, curves.items(), strict=True):
        for weights, (colour, marker, line) in STYLES.items():
            x, y = np.array(found[weights]).T
            ax.loglog(
                x, 1e6 * y, color=colour, marker=marker, linestyle=line, label=weights, markersize=4
            )
        ax.set_title(FIXED[axis], fontsize=10)
        ax.set_xlabel(axis)
        ax.set_ylabel(f"time of a {'call' if axis == 'steps' else 'step'} (µs)")
        ax.grid(color="0.9")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)


def devices_picture(gains: dict[tuple[str, int], list], figure: Any) -> None:
    """How many times faster all devices are, against neurons."""
    ax = figure.subplots()
    of_solver = dict(zip(SOLVERS, (("#0072b2", "-"), ("#d55e00", "--")), strict=True))
    of_batch = dict(zip(dict.fromkeys(batch for _, batch in gains), "os^", strict=False))
    for (solver, batch), curve in gains.items():
        (colour, line), marker = of_solver[solver], of_batch[batch]
        x, y = np.array(curve).T
        label = f"{solver}, batch {batch}"
        ax.semilogx(x, y, color=colour, marker=marker, linestyle=line, label=label)
    neurons = sorted({n for curve in gains.values() for n, _ in curve})
    ax.set_xticks(neurons, map(str, neurons))
    ax.set_xticks([], minor=True)
    ax.axhline(1, color="0.5", linewidth=0.8)
    ax.set_xlabel("neurons")
    ax.set_ylabel(f"time on one device / time on {jax.device_count()}")
    ax.set_ylim(0, 1.1 * max(gain for curve in gains.values() for _, gain in curve))
    ax.grid(color="0.9")
    figure.legend(loc="outside lower center", ncols=2)


def main() -> None:
    options = parser(__doc__, "scaling").parse_args()
    jax.config.update("jax_num_cpu_devices", cores())
    report, points = Report("scaling"), sizes(options.quick)
    curves = {axis: growth(report, axis, points[axis]) for axis in FIXED}
    structure(report, points["structure"])
    pictures = {"scaling-growth": partial(growth_picture, curves)}
    if jax.device_count() > 1:
        gains = devices(report, points["device neurons"], points["device batch"])
        pictures["scaling-devices"] = partial(devices_picture, gains)
    else:
        report.notice("one device only: the comparison with several is left out")
    report.write(options.out)
    from ctrnn_jax.plot._files import draw  # loads matplotlib

    draw(options.out, pictures)


if __name__ == "__main__":
    main()
