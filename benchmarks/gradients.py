"""Time and memory of a gradient against the number of steps, by every adjoint and every peer.

    python benchmarks/gradients.py [--quick] [--out DIR]

Value and gradient, by weights and initial states, of the mean square of the last state, or of all
saved ones, of 20 neurons. The candidates, all through the same steps:

- `simulate` with each adjoint, and with the default one on a mesh of a CPU device to each core;
- diffrax with its default adjoint, called as its FAQ advises for fixed steps (StepTo, max_steps,
  throw=False, EQX_ON_ERROR=nan), in what was found to be its fastest form: tanh(A x) written out,
  and the batch as one state of shape (n, batch) instead of vmap;
- a hand-written lax.scan under jax.grad: plain, and in segments of about sqrt(steps) steps under
  jax.checkpoint;
- torchdiffeq, by autograd and by its adjoint, at a small number of steps.

Their gradients must agree to what rounding explains before they are timed, in turns; the forward
run of `simulate` is timed with them. Memory is what XLA allocates for temporaries, which is the
same in every run, and the peak of a process that evaluates one gradient less that of a process
that makes the forward run; the compiler has its share in both. What would take more than 2 GiB is
left out. At most 100 s are simulated, so that chaos does not magnify rounding. Exponents are least
squares on logarithms over all numbers of steps.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

os.environ.setdefault("EQX_ON_ERROR", "nan")

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from measure import OURS, Report, child, cores, exponent, interleaved, parser, peak_memory

import ctrnn_jax as ct

N = 20
MOST_MEMORY = 2**31
MIB = 2**20
SOLVERS = {
    "Euler": diffrax.Euler(),
    "RK4": ct.RK4(),
    "Tsit5": diffrax.Tsit5(),
    "splitting": ct.PoissonSplitting(),
}
WEIGHTS = {"dense": ct.DenseSkew, "bipartite": ct.BipartiteSkew}
TSIT5 = diffrax.Tsit5.tableau
TABLEAUS = {  # for the scan by hand: rows of a, then b
    "Euler": ([], [1.0]),
    "RK4": ([[0.5], [0.0, 0.5], [0.0, 0.0, 1.0]], [1 / 6, 1 / 3, 1 / 3, 1 / 6]),
    "Tsit5": ([row.tolist() for row in TSIT5.a_lower[:-1]], TSIT5.b_sol[:-1].tolist()),
}

FORWARD, CHECKPOINTED, DIRECT, REVERSIBLE, MESH = (
    f"{OURS} {name}" for name in ("forward", "checkpointed", "direct", "reversible", "mesh")
)
DIFFRAX, SCAN, SCAN_CHECKPOINTED = "diffrax", "scan by hand", "scan by hand, checkpointed"
TORCH, TORCH_ADJOINT = "torchdiffeq", "torchdiffeq adjoint"
RUNGE_KUTTA = (CHECKPOINTED, MESH, DIRECT, DIFFRAX, SCAN, SCAN_CHECKPOINTED)
SPLITTING = (CHECKPOINTED, DIRECT, REVERSIBLE, DIFFRAX)


STYLES = {  # colour, marker, line
    CHECKPOINTED: ("#0072b2", "o", "-"),
    DIRECT: ("#009e73", "s", "--"),
    REVERSIBLE: ("#cc79a7", "D", "-."),
    MESH: ("#332288", "*", "-"),
    FORWARD: ("0.5", "", ":"),
    DIFFRAX: ("#d55e00", "^", "-"),
    SCAN: ("#56b4e9", "v", ":"),
    SCAN_CHECKPOINTED: ("#e69f00", "x", "--"),
}
# {(candidate, "time" | "memory"): [(steps, seconds | MiB), ...]}
Curves = dict[tuple[str, str], list[tuple[int, float]]]


class Case(NamedTuple):
    """A loss: `saves` states, equally spaced, enter it."""

    solver: str
    weights: str
    batch: int
    dtype: str
    saves: int = 1
    steps: int = 0

    def __str__(self) -> str:
        saves = f", {self.saves} saves" if self.saves > 1 else ""
        steps = f", {self.steps} steps" if self.steps else ""
        words = f"{self.solver}, {self.weights}, n = {N}, batch {self.batch}, {self.dtype}"
        return words + steps + saves

    @property
    def parameters(self) -> dict[str, Any]:
        return {"n": N, **self._asdict()}

    @property
    def dt(self) -> float:
        return min(0.02, 100 / self.steps)


class Group(NamedTuple):
    """The candidates of a case, at each of some numbers of steps."""

    case: Case
    steps: tuple[int, ...]
    candidates: tuple[str, ...]
    processes: tuple[str, ...] = ()  # whose peak memory is measured


def groups(quick: bool) -> list[Group]:
    f32, f64 = "float32", "float64"
    most = 2000 if quick else 20_000
    span = (100, 1000, 10_000) if quick else (1000, 10_000, 100_000, 1_000_000)
    torch = (CHECKPOINTED, DIFFRAX, TORCH, TORCH_ADJOINT)
    peaks = (CHECKPOINTED, DIFFRAX) if quick else (CHECKPOINTED, DIFFRAX, SCAN_CHECKPOINTED)
    explicit = (CHECKPOINTED, MESH, DIFFRAX) if quick else RUNGE_KUTTA
    splitting = (CHECKPOINTED, REVERSIBLE) if quick else SPLITTING
    made = [
        Group(Case("Euler", "dense", 256, f32), span, explicit),
        Group(Case("splitting", "bipartite", 256, f32), span, splitting),
        Group(Case("RK4", "dense", 256, f32), (100 if quick else 1000,), torch),
        Group(Case("Tsit5", "dense", 256, f32), (most,), explicit, peaks),
    ]
    if quick:
        return made
    made += [
        Group(Case("Euler", "dense", 256, f32), (most,), RUNGE_KUTTA, peaks),
        Group(Case("RK4", "dense", 256, f32), (most,), RUNGE_KUTTA, peaks),
        Group(Case("RK4", "dense", 256, f32, 100), (most,), RUNGE_KUTTA),
        Group(Case("splitting", "bipartite", 256, f32), (most,), SPLITTING, SPLITTING[::2]),
        Group(Case("splitting", "dense", 256, f32), (most // 10,), SPLITTING),
    ]
    for batch in (1, 64):
        for solver, weights, candidates in (
            ("RK4", "dense", (CHECKPOINTED, DIFFRAX)),
            ("Tsit5", "dense", (CHECKPOINTED, DIFFRAX)),
            ("splitting", "bipartite", (CHECKPOINTED, REVERSIBLE)),
        ):
            made.append(Group(Case(solver, weights, batch, f64), (most,), candidates))
    return made


def point_of(case: Case) -> tuple[ct.CTRNN, jax.Array]:
    weights = WEIGHTS[case.weights].init(jax.random.key(0), N, dtype=case.dtype)
    # Small states do not move chaotically: gradients over so long a time agree.
    x0 = 0.1 * jax.random.normal(jax.random.key(1), (case.batch, N), case.dtype)
    return ct.CTRNN(weights), x0


def by_simulate(case: Case, adjoint: str, mesh: Any = None) -> Callable:
    def loss(point):
        save_every, solver = case.steps // case.saves, SOLVERS[case.solver]
        run = ct.simulate(
            *point, dt=case.dt, num_steps=case.steps, save_every=save_every, solver=solver,
            adjoint=adjoint, mesh=mesh,
        )  # fmt: skip
        return jnp.mean(run.xs[:, 1:] ** 2)

    return loss


def by_diffrax(case: Case) -> Callable:
    save_every = case.steps // case.saves

    def loss(point):
        rnn, x0 = point
        A, ts = rnn.weights.as_matrix(), case.dt * jnp.arange(case.steps + 1, dtype=x0.dtype)
        # The splitting needs to see the network itself.
        field = rnn if case.solver == "splitting" else lambda t, x, args: jnp.tanh(A @ x)
        run = diffrax.diffeqsolve(
            diffrax.ODETerm(field), SOLVERS[case.solver], 0.0, ts[-1], None, x0.T,
            stepsize_controller=diffrax.StepTo(ts=ts), max_steps=case.steps, throw=False,
            saveat=diffrax.SaveAt(t1=True) if case.saves == 1 else diffrax.SaveAt(steps=save_every),
        )  # fmt: skip
        return jnp.mean(run.ys**2)

    return loss


def by_scan(case: Case, checkpoint: bool) -> Callable:
    rows, last = TABLEAUS[case.solver]
    length = case.steps // case.saves
    if checkpoint and case.saves == 1:
        roots = range(1, math.isqrt(case.steps) + 1)
        length = max(d for d in roots if case.steps % d == 0)

    def loss(point):
        A, x = point[0].weights.as_matrix(), point[1].T

        def advance(x, row, slopes):
            return x + case.dt * sum(a * k for a, k in zip(row, slopes, strict=True) if a)

        def step(x, _):
            slopes = [jnp.tanh(A @ x)]
            for row in rows:
                slopes.append(jnp.tanh(A @ advance(x, row, slopes)))
            return advance(x, last, slopes), None

        def segment(x, _):
            x, _ = lax.scan(step, x, None, length=length)
            return x, x if case.saves > 1 else None

        body = jax.checkpoint(segment, prevent_cse=False) if checkpoint else segment
        x, saved = lax.scan(body, x, None, length=case.steps // length)
        return jnp.mean((x if saved is None else saved) ** 2)

    return loss


def by_torch(case: Case, adjoint: bool) -> Callable[[], Any]:
    import torch
    from torchdiffeq import odeint, odeint_adjoint

    rnn, x0 = point_of(case)

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.W = torch.nn.Parameter(torch.tensor(np.asarray(rnn.weights.W)))

        def forward(self, t, x):
            return torch.tanh((self.W - self.W.T) @ x)

    network, ends = Network(), torch.tensor([0.0, case.dt * case.steps])
    grid = torch.linspace(0, case.dt * case.steps, case.steps + 1)
    options = {"grid_constructor": lambda func, x, t: grid if t[0] < t[-1] else grid.flip(0)}
    solve = odeint_adjoint if adjoint else odeint

    def call():
        start = torch.tensor(np.asarray(x0), requires_grad=True)
        run = solve(network, start.T, ends, method=case.solver.lower(), options=options)
        loss = (run[-1] ** 2).mean()
        gradients = torch.autograd.grad(loss, (network.W, start))
        return loss.detach().numpy(), *(g.numpy() for g in gradients)

    return call


def loss_of(name: str, case: Case) -> Callable:
    match name:
        case "diffrax":
            return by_diffrax(case)
        case "scan by hand" | "scan by hand, checkpointed":
            return by_scan(case, checkpoint=name == SCAN_CHECKPOINTED)
        case "ctrnn_jax mesh":
            return by_simulate(case, "checkpointed", ct.batch_mesh())
    return by_simulate(case, "direct" if name == FORWARD else name.split()[1])


def program(name: str, case: Case) -> tuple[Callable[[], Any], float]:
    """The compiled call of a candidate, and MiB that XLA allocates for it."""
    jax.config.update("jax_enable_x64", case.dtype == "float64")
    point, loss = point_of(case), loss_of(name, case)
    made = jax.jit(loss if name == FORWARD else jax.value_and_grad(loss)).lower(point).compile()
    devices = jax.device_count() if name == MESH else 1
    return lambda: made(point), devices * made.memory_analysis().temp_size_in_bytes / MIB


def programs(names: tuple[str, ...], case: Case, report: Report) -> tuple[dict, dict]:
    """Calls and MiB of the candidates that can be run."""
    calls, memory = {}, {}
    for name in names:
        if name in (TORCH, TORCH_ADJOINT):
            try:
                calls[name] = by_torch(case, adjoint=name == TORCH_ADJOINT)
            except ImportError:
                report.notice("torchdiffeq is not installed: left out")
            continue
        call, memory[name] = program(name, case)
        if memory[name] < MOST_MEMORY / MIB:
            calls[name] = call
        else:
            report.notice(f"{case}: {name} would take {memory[name] / 1024:.0f} GiB, left out")
    return calls, memory


def agree(found: dict[str, Any], case: Case) -> None:
    """An error unless all gradients are those of the first candidate, up to rounding."""
    expected = jax.tree.leaves(next(iter(found.values())))
    tolerance = 300 * float(jnp.finfo(case.dtype).eps) * math.sqrt(case.steps)
    for name, gradient in found.items():
        for a, b in zip(jax.tree.leaves(gradient), expected, strict=True):
            apart = float(np.abs(np.asarray(a) - b).max() / np.abs(b).max())
            if not apart <= tolerance:
                raise AssertionError(f"{case}: {name} is off by {apart:.1e}")


def peak_of(name: str, case: Case) -> float:
    return float(child(__file__, name, *case))


def measure(group: Group, case: Case, report: Report) -> dict[tuple[str, str], float]:
    """Rows of a case; its {(candidate, quantity): value}."""
    calls, memory = programs(group.candidates, case, report)
    found: dict[str, Any] = {}

    def kept(name: str) -> Any:
        found[name] = calls[name]()
        return found[name]

    forward, memory[FORWARD] = program(FORWARD, case)
    turns = {name: partial(kept, name) for name in calls} | {FORWARD: forward}
    times = interleaved(turns, rounds=1 if case.steps > 10**5 else 5, seconds=15)
    agree(found, case)
    about: dict[str, Any] = {"parameters": case.parameters}
    report.times(str(case), times, per=case.steps, reference=CHECKPOINTED, **about)
    least = peak_of(FORWARD, case) if group.processes else 0.0
    for name, mib in memory.items():
        rows = {"XLA temporaries": (mib, "MiB")}
        if name in group.processes:
            rows["process above forward run"] = (peak_of(name, case) - least, "MiB")
        report.values(str(case), name, rows, **about)
    seconds = {(name, "time"): float(np.median(values)) for name, values in times.items()}
    return seconds | {(name, "memory"): mib for name, mib in memory.items()}


def exponents(case: Case, curves: Curves, report: Report) -> None:
    """How time and memory grow with the number of steps."""
    for (name, quantity), points in curves.items():
        if len(points) > 2:
            steps, values = zip(*points, strict=True)
            parameters = case.parameters | {"steps": list(steps)}
            what = f"exponent of {quantity} in steps"
            report.value(str(case), name, what, exponent(steps, values), "", parameters=parameters)


def picture(curves: dict[str, Curves], quantity: str, figure: Any) -> None:
    """A panel for each solver, a line for each candidate."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes = figure.subplots(1, len(curves), sharey=True)
    for ax, (title, found) in zip(axes, curves.items(), strict=True):
        for name, (colour, marker, line) in STYLES.items():
            if (name, quantity) in found:
                steps, values = np.array(found[name, quantity]).T
                values = values / steps * 1e6 if quantity == "time" else values
                ax.loglog(steps, values, color=colour, marker=marker, linestyle=line, label=name)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_minor_formatter(NullFormatter())
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("steps")
        ax.grid(color="0.9")
    axes[0].set_ylabel("time of a step (µs)" if quantity == "time" else "XLA temporaries (MiB)")
    lines = {line.get_label(): line for ax in axes for line in ax.lines}
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=4, fontsize=8)


def main() -> None:
    options = parser(__doc__, "gradients").parse_args()
    jax.config.update("jax_num_cpu_devices", cores())
    if options.child:
        name, *words = options.child
        call, _ = program(name, Case(*(int(w) if w.isdigit() else w for w in words)))
        jax.block_until_ready(call())
        print(peak_memory())
        return
    report, drawn = Report("gradients"), {}
    for group in groups(options.quick):
        curves: Curves = {}
        for steps in group.steps:
            case = group.case._replace(steps=steps)
            for key, value in measure(group, case, report).items():
                curves.setdefault(key, []).append((steps, value))
        if len(group.steps) > 1:
            exponents(group.case, curves, report)
            drawn[f"{group.case.solver}, {group.case.weights} weights"] = curves
    report.write(options.out)
    pictures = {f"gradients-{q}": partial(picture, drawn, q) for q in ("time", "memory")}
    from ctrnn_jax.plot._files import draw  # loads matplotlib

    draw(options.out, pictures)


if __name__ == "__main__":
    main()
