"""Time of first calls: tracing, lowering, XLA, and whether later calls compile again.

    python benchmarks/compile.py [--quick] [--out DIR]

The default `simulate` (20 neurons, 4096 states, 1000 steps, every 10th saved) and its gradient in
processes of their own, with and without the start of Python and the imports. Then every solver,
option, adjoint and fit in one process whose caches are cleared before each, 100 steps of 4096
numbers (compilation hardly depends on either). A first call is the sum of what JAX reports for
lowering and for XLA, of the run (a second call), and of the rest: Python and tracing. Then the
compilations of second calls that differ in values only: there should be none. Last, what a later
call takes before it runs: one of one step, less what `jax.jit` of the same takes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from measure import OURS, Report, child, interleaved, parser

import ctrnn_jax as ct

SOLVERS = {
    "Tsit5": diffrax.Tsit5(),
    "Euler": diffrax.Euler(),
    "Heun": diffrax.Heun(),
    "Dopri5": diffrax.Dopri5(),
    "Dopri8": diffrax.Dopri8(),
    "ReversibleHeun": diffrax.ReversibleHeun(),
    "LeapfrogMidpoint": diffrax.LeapfrogMidpoint(),
    "ImplicitEuler": diffrax.ImplicitEuler(),
    "Kvaerno3": diffrax.Kvaerno3(),
    "Kvaerno5": diffrax.Kvaerno5(),
    "RK4": ct.RK4(),
    "splitting": ct.PoissonSplitting(),
    "splitting of order 4": ct.PoissonSplitting(4),
    "splitting of order 6": ct.PoissonSplitting(6),
    "compensated splitting": ct.PoissonSplitting(compensated=True),
    "discrete gradient": ct.DiscreteGradient(),
    "discrete gradient of order 4": ct.DiscreteGradient(order=4),
    "implicit midpoint": ct.ImplicitMidpoint(),
    "exact linear": ct.ExactLinear(),
    "projected RK4": ct.Projected(ct.RK4()),
}
BY_SIZE = ("Tsit5", "splitting", "discrete gradient", "implicit midpoint")
WEIGHTS = {
    "dense": ct.DenseSkew,
    "bipartite": ct.BipartiteSkew,
    "low-rank": ct.LowRankSkew,
    "block": ct.BlockSkew,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "": {},
    "adaptive": {"rtol": 1e-5},
    "observe": {"observe": lambda t, x: {"norm": jnp.sum(x**2), "time": t}},
    "fold": {"fold": (0.0, lambda total, t, x: total + x[0])},
    "max_norm": {"max_norm": 100.0},
    "everything": {
        "observe": lambda t, x: jnp.sum(x**2),
        "fold": (0.0, lambda total, t, x: total + x[0]),
        "max_norm": 100.0,
    },
    "adaptive, everything": {
        "rtol": 1e-5,
        "observe": lambda t, x: jnp.sum(x**2),
        "fold": (0.0, lambda total, t, x: total + x[0]),
        "max_norm": 100.0,
    },
}
PARTS = ("tracing", "lowering", "XLA", "run")
EVENTS = {
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lowering",
    "/jax/core/compile/backend_compile_duration": "XLA",
}


class Case(NamedTuple):
    """A call of `simulate`; `what` is forward or an adjoint by which a gradient is made."""

    solver: str = "Tsit5"
    what: str = "forward"
    n: int = 20
    dtype: str = "float32"
    weights: str = "dense"
    options: str = ""

    def __str__(self) -> str:
        what = self.what if self.what == "forward" else f"gradient, {self.what}"
        options = f", {self.options}" if self.options else ""
        return f"{self.solver}, {what}, {self.weights}, n = {self.n}, {self.dtype}{options}"


def cases(quick: bool) -> list[Case]:
    if quick:
        return [
            Case(),
            Case(what="checkpointed"),
            Case("splitting", "reversible"),
            Case("discrete gradient"),
            Case(options="adaptive"),
            Case(options="everything"),
        ]
    made = [Case(solver, what) for solver in SOLVERS for what in ("forward", "checkpointed")]
    made += [Case(name, "reversible") for name in SOLVERS if hasattr(SOLVERS[name], "retrace")]
    made += [
        Case(solver, what, n)
        for n in (2, 128, 512, 1024)
        for solver in BY_SIZE
        for what in ("forward", "checkpointed")
    ]
    made += [Case(s, w, 20, "float64") for s in BY_SIZE for w in ("forward", "checkpointed")]
    made += [Case(options=name) for name in OPTIONS if name]
    made += [Case("Tsit5", "checkpointed", options=o) for o in ("adaptive", "everything")]
    made += [Case("Kvaerno5", what, options="adaptive") for what in ("forward", "checkpointed")]
    for weights in list(WEIGHTS)[1:]:
        made += [Case("Tsit5", "checkpointed", weights=weights)]
    made += [Case("splitting", w, weights="bipartite") for w in ("checkpointed", "reversible")]
    made += [Case("Tsit5", "direct")]
    return made


def call_of(case: Case) -> Callable[[], Any]:
    activation = ct.Linear() if case.solver == "exact linear" else ct.Tanh()
    weights = WEIGHTS[case.weights].init(jax.random.key(0), case.n, dtype=case.dtype)
    x0 = jax.random.normal(jax.random.key(1), (4096 // case.n, case.n), case.dtype)
    point = ct.CTRNN(weights, activation), x0
    settings = {"dt": 0.01, "num_steps": 100, "save_every": 10, **OPTIONS[case.options]}
    settings["solver"] = SOLVERS[case.solver]
    if case.what == "forward":
        return lambda: ct.simulate(*point, **settings)

    def loss(point):
        return jnp.mean(ct.simulate(*point, **settings, adjoint=case.what).xs ** 2)

    gradient = jax.jit(jax.value_and_grad(loss))
    return lambda: gradient(point)


def others(quick: bool) -> dict[str, Callable[[], Any]]:
    """First calls of what is built on `simulate`."""
    key, t = jax.random.key(0), 0.01 * np.arange(512)
    rnn = ct.CTRNN(ct.DenseSkew.init(key, 8))
    x0 = jax.random.normal(key, (16, 8))
    signal = np.sin(2 * np.pi * 1.3 * t) + 0.5 * np.sin(2 * np.pi * 3.1 * t)
    ensemble = jax.vmap(lambda k: ct.CTRNN(ct.DenseSkew.init(k, 8)))(jax.random.split(key, 4))
    settings = {"dt": 0.01, "num_steps": 100, "save_every": 10}
    jitted = jax.jit(partial(ct.simulate, **settings))
    mapped = jax.vmap(lambda rnn: ct.simulate(rnn, x0, **settings))
    calls = {
        "jax.jit of simulate": lambda: jitted(rnn, x0),
        "jax.vmap of simulate over networks": lambda: mapped(ensemble),
        "dominant_frequency": lambda: ct.dominant_frequency(signal, 0.01),
        "period": lambda: ct.period(rnn, 0.1 * x0[0]),
        "lyapunov_spectrum": lambda: ct.lyapunov_spectrum(rnn, x0, dt=0.1, num_steps=200),
        "fit_frequency": lambda: ct.fit_frequency(3.2, key=key),
        "fit_signal": lambda: ct.fit_signal(signal, 0.01, key=key),
        "fit_spectrum": lambda: ct.fit_spectrum(np.array([2.6, 3.3, 3.9]), key=key),
    }
    return dict(list(calls.items())[:3]) if quick else calls


class Watch:
    """Seconds and number of lowerings and compilations since `reset`, as JAX reports them."""

    def __init__(self):
        jax.monitoring.register_event_duration_secs_listener(self._hear)
        self.reset()

    def reset(self) -> None:
        self.seconds, self.compilations = dict.fromkeys(EVENTS.values(), 0.0), 0

    def _hear(self, event: str, duration: float, **_: Any) -> None:
        part = EVENTS.get(event)
        if part:
            self.seconds[part] += duration
            self.compilations += part == "XLA"


def timed(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - begin


def first_call(watch: Watch, call: Callable[[], Any]) -> dict[str, float]:
    """Seconds of a first call, in all and by part."""
    watch.reset()
    total = timed(call)
    spent = dict(watch.seconds)
    run = min(timed(call), total - sum(spent.values()))
    return {"first call": total, "tracing": total - sum(spent.values()) - run, **spent, "run": run}


def headline(report: Report, watch: Watch, quick: bool) -> dict[str, dict[str, float]]:
    """The default call in processes of their own."""
    found = {}
    for what in ("forward", "checkpointed"):
        spent: list[dict[str, float]] = []
        for _ in range(1 if quick else 5):
            begin = time.perf_counter()
            told = json.loads(child(__file__, what))
            spent.append(told | {"process": time.perf_counter() - begin})
        case = f"default simulate in a fresh process, {what}"
        about = {"n": 20, "batch": 4096, "steps": 1000, "dtype": "float32", "what": what}
        rows = {name: ([s[name] for s in spent], "s") for name in spent[0]}
        report.values(case, OURS, rows, parameters=about)
        found[case] = {name: float(np.median(values)) for name, (values, _) in rows.items()}
    return found


def default_call(what: str) -> Callable[[], Any]:
    rnn = ct.CTRNN(ct.DenseSkew.init(jax.random.key(0), 20))
    x0 = jax.random.normal(jax.random.key(1), (4096, 20))
    settings = {"dt": 0.05, "num_steps": 1000, "save_every": 10}
    if what == "forward":
        return lambda: ct.simulate(rnn, x0, **settings)
    gradient = jax.grad(lambda point: jnp.mean(ct.simulate(*point, **settings).xs ** 2))
    return lambda: gradient((rnn, x0))


def first_calls(report: Report, watch: Watch, quick: bool) -> dict[str, dict[str, float]]:
    """Everything else in this process."""
    found = {}

    def measure(label: str, call: Callable[[], Any], about: dict[str, Any]) -> None:
        eqx.clear_caches()
        found[label] = first_call(watch, call)
        rows = {name: (seconds, "s") for name, seconds in found[label].items()}
        report.values(label, OURS, rows, parameters=about)

    for case in cases(quick):
        jax.config.update("jax_enable_x64", case.dtype == "float64")
        measure(str(case), call_of(case), case._asdict())
    jax.config.update("jax_enable_x64", False)
    for label, call in others(quick).items():
        measure(label, call, {"what": label})
    return found


def second_calls(report: Report, watch: Watch) -> None:
    """Compilations of a call that differs from one before in values only."""
    keys = jax.random.split(jax.random.key(0), 2)
    networks = [ct.CTRNN(ct.DenseSkew.init(key, 20)) for key in keys]
    states = [jax.random.normal(key, (256, 20)) for key in keys]

    def counted(total, t, x):
        return total + 1

    base = {"rnn": networks[0], "x0": states[0], "dt": 0.01}
    for label, before, after in (
        ("x0", {}, {"x0": states[1]}),
        ("weights", {}, {"rnn": networks[1]}),
        ("dt, a Python number", {}, {"dt": 0.02}),
        ("dt, an array", {"dt": jnp.float32(0.01)}, {"dt": jnp.float32(0.02)}),
        ("dt, a Python int", {"dt": 1}, {"dt": 2}),
        ("rtol", {"rtol": 1e-4}, {"rtol": 1e-5}),
        ("rtol and atol", {"rtol": 1e-4, "atol": 1e-6}, {"rtol": 1e-5, "atol": 1e-7}),
        ("max_norm", {"max_norm": 10.0}, {"max_norm": 20.0}),
        ("start of a fold", {"fold": (0, counted)}, {"fold": (1, counted)}),
        ("solver of the same kind", {"solver": ct.RK4()}, {"solver": ct.RK4()}),
    ):
        settings = {**base, **before, "num_steps": 100, "save_every": 10}
        jax.block_until_ready(ct.simulate(**settings))
        watch.reset()
        jax.block_until_ready(ct.simulate(**settings | after))
        report.value(
            f"second call with another {label}", OURS, "compilations", watch.compilations, "",
            parameters={"differs": label},
        )  # fmt: skip


def before_it_runs(report: Report) -> None:
    """Each call of `simulate` checks and flattens its arguments."""
    rnn = ct.CTRNN(ct.DenseSkew.init(jax.random.key(0), 20))
    x0 = jax.random.normal(jax.random.key(1), (20,))
    call = partial(ct.simulate, dt=0.05, num_steps=1, solver=diffrax.Euler())
    compiled = jax.jit(call)

    def calls(function):
        for _ in range(1000):
            run = function(rnn, x0)
        return run

    candidates = {OURS: partial(calls, call), "jax.jit of the call": partial(calls, compiled)}
    seconds = interleaved(candidates, rounds=15)
    case, about = "a call of one step", {"n": 20, "batch": 1, "steps": 1}
    report.times(case, seconds, parameters=about, per=1000, reference="jax.jit of the call")
    before = (seconds[OURS] - seconds["jax.jit of the call"]) / 1000
    report.value(case, OURS, "before it runs", before, "s", parameters=about)


def picture(found: dict[str, dict[str, float]], figure: Any) -> None:
    """The slowest first calls, by their parts."""
    slowest = sorted(found, key=lambda label: found[label]["first call"])[-20:]
    ax = figure.subplots()
    left = np.zeros(len(slowest))
    looks = zip(("#0072b2", "#e69f00", "#56b4e9", "0.8"), ("", "///", "...", ""), strict=True)
    for part, (colour, hatch) in zip(PARTS, looks, strict=True):
        width = np.array([found[label][part] for label in slowest])
        ax.barh(slowest, width, left=left, color=colour, hatch=hatch, edgecolor="0.3", label=part)
        left += width
    ax.set_xlabel("time of the first call (s)")
    ax.tick_params(axis="y", labelsize=7)
    ax.grid(axis="x", color="0.9")
    ax.set_axisbelow(True)
    ax.legend(loc="lower right")


def main() -> None:
    options = parser(__doc__, "compile").parse_args()
    watch = Watch()
    if options.child:
        print(json.dumps(first_call(watch, default_call(*options.child))))
        return
    report = Report("compile")
    found = headline(report, watch, options.quick) | first_calls(report, watch, options.quick)
    second_calls(report, watch)
    before_it_runs(report)
    report.write(options.out)
    from ctrnn_jax.plot._files import draw  # loads matplotlib

    draw(options.out, {"compile": partial(picture, found)})


if __name__ == "__main__":
    main()
