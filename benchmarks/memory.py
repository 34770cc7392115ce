"""Memory and sequences: what driven networks remember, against gated and oscillating cells.

    python benchmarks/memory.py [--quick] [--out DIR] [--part trained|speed|ridge]

In float32. Error 1 is that of the mean or of a guess, 0 is all right.

trained: by as many steps of Adam on batches of 32, clipped to norm 1, the rate decaying to 0 along
    a cosine, of two first rates the one with the lower loss in training; three seeds; all models of
    at most as many parameters, see `sequence_models.py`. Recall: 4 numbers at the beginning, asked
    for at the end. Adding: of two marked numbers among T the sum. Digits of scikit-learn: pixel by
    pixel, in order and in one random order. Series that aeon ships: channels and length their own,
    answers from the mean over time, train and test sets as they are given. Error: the share of
    wrong answers, or of the variance that is left.
speed: seconds of a training step, candidates in turns, over those of a GRU through `lax.scan`.
ridge: read-outs of reservoirs, see `reservoirs.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("EQX_ON_ERROR", "nan")

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import reservoirs
from jax import lax
from measure import OURS, Report, interleaved, parser
from sequence_models import GRU, MODELS, Shape, parameters, trainable, width

import ctrnn_jax as ct

SEEDS = 3
RATES = (3e-3, 1e-2)
BATCH = 32
NUMBERS = 4  # of recall
SERIES = ("JapaneseVowels", "BasicMotions", "GunPoint", "ItalyPowerDemand", "ArrowHead")


class Size(NamedTuple):
    models: tuple[str, ...]
    parameters: int
    recall: tuple[int, ...]  # delays, and steps of training below
    adding: tuple[int, ...]
    digits: bool
    series: tuple[str, ...]
    steps: int  # of generated data
    data_steps: int
    timed: tuple[int, ...]  # T
    rounds: int
    neurons: int  # of reservoirs
    samples: int


FULL = Size(
    tuple(MODELS),
    2000,
    (10, 100, 1000),
    (100, 400),
    True,
    SERIES,
    300,
    400,
    (100, 400),
    15,
    100,
    4000,
)
FEW = (f"{OURS} current, leapfrog", f"{OURS} damped, Euler", GRU, "coRNN")
QUICK = Size(FEW, 500, (10,), (), False, SERIES[:1], 60, 60, (50,), 5, 30, 800)


class Task(NamedTuple):
    """What is trained on: `batch` makes inputs and answers of one element of `stream`.

    `stream` (seeds, steps, ...) is the same for all models.
    """

    name: str
    shape: Shape
    stream: Any
    batch: Callable[[Any], tuple[Any, Any]]
    test: tuple[Any, Any]
    classes: bool

    @property
    def steps(self) -> int:
        return jax.tree.leaves(self.stream)[0].shape[1]


# Tasks


def generated(name: str, shape: Shape, make: Callable, steps: int) -> Task:
    """Of sequences that are made anew for each batch by make(rng, lead)."""
    stream = make(np.random.default_rng(0), (SEEDS, steps, BATCH))
    test = make(np.random.default_rng(1), (512,))
    return Task(name, shape, stream, lambda one: one, test, False)


def recall(delay: int, steps: int) -> Task:
    T = NUMBERS + delay

    def make(rng, lead):
        u = np.zeros((*lead, T, 1), "float32")
        u[..., :NUMBERS, 0] = rng.uniform(-1, 1, (*lead, NUMBERS))
        return u, u[..., :NUMBERS, 0]

    shape = Shape(1, NUMBERS, T, "last")
    return generated(f"{NUMBERS} numbers after {delay} samples", shape, make, steps)


def adding(T: int, steps: int) -> Task:
    def make(rng, lead):
        u = rng.uniform(0, 1, (*lead, T)).astype("float32")
        at = np.arange(T)
        first = at == rng.integers(0, T // 2, (*lead, 1))
        second = at == rng.integers(T // 2, T, (*lead, 1))
        marks = (first | second).astype("float32")
        return np.stack([u, marks], axis=-1), np.sum(u * marks, axis=-1, keepdims=True)

    return generated(f"adding, T = {T}", Shape(2, 1, T, "last"), make, steps)


def from_data(name: str, train: Any, test: Any, pool: str, steps: int) -> Task:
    """Classes of sequences (N, T, m), in units of the deviations in the training set."""
    (X, y), (X_test, y_test) = train, test
    mean, deviation = X.mean(axis=(0, 1)), X.std(axis=(0, 1)) + 1e-6
    X, X_test = (((a - mean) / deviation).astype("float32") for a in (X, X_test))
    names = np.unique(y)
    shape = Shape(X.shape[2], len(names), X.shape[1], pool)
    y, y_test = (np.searchsorted(names, labels).astype("int32") for labels in (y, y_test))
    rows = np.random.default_rng(0).integers(0, len(X), (SEEDS, steps, BATCH))
    X_all, y_all = jnp.asarray(X), jnp.asarray(y)
    test = jnp.asarray(X_test), jnp.asarray(y_test)
    return Task(name, shape, rows, lambda rows: (X_all[rows], y_all[rows]), test, True)


def digits(report: Report, steps: int) -> list[Task]:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        report.notice("scikit-learn is not installed: digits left out")
        return []
    X, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    rows, order = rng.permutation(len(X)), rng.permutation(64)
    X, y, cut = X[rows][:, :, None], y[rows], 1297
    tasks = []
    for name, a in (("digits by pixel", X), ("digits, random order", X[:, order])):
        train, test = (a[:cut], y[:cut]), (a[cut:], y[cut:])
        tasks.append(from_data(f"{name}, T = 64", train, test, "last", steps))
    return tasks


def series(report: Report, names: tuple[str, ...], steps: int) -> list[Task]:
    try:
        import aeon
        from aeon.datasets import load_from_ts_file
    except ImportError:
        report.notice("aeon is not installed: its series left out")
        return []
    folder = Path(aeon.__file__).parent / "datasets" / "data"
    tasks = []
    for name in names:
        sets = []
        for part in ("TRAIN", "TEST"):
            equal = folder / name / f"{name}_eq_{part}.ts"  # of one length
            path = equal if equal.is_file() else folder / name / f"{name}_{part}.ts"
            X, y = load_from_ts_file(str(path))
            sets.append((np.swapaxes(np.asarray(X, float), 1, 2), np.asarray(y)))
        T = sets[0][0].shape[1]
        tasks.append(from_data(f"{name}, T = {T}", *sets, "mean", steps))
    return tasks


# Training


def error(task: Task, model: Any, batch: Any) -> jax.Array:
    y = model(batch[0])
    if task.classes:
        return jnp.mean(jnp.argmax(y, axis=-1) != batch[1])
    return jnp.mean((y - batch[1]) ** 2) / jnp.var(batch[1])


def loss(task: Task, model: Any, batch: Any) -> jax.Array:
    if task.classes:
        return ct.losses.cross_entropy_loss(model(batch[0]), batch[1])
    return jnp.mean((model(batch[0]) - batch[1]) ** 2) / jnp.var(task.test[1])


ADAM = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam())


def update(task: Task, params: Any, rest: Any, state: Any, batch: Any, rate: Any) -> Any:
    def f(params):
        return loss(task, eqx.combine(params, rest), batch)

    value, gradient = jax.value_and_grad(f)(params)
    good = jnp.isfinite(value) & jnp.isfinite(optax.global_norm(gradient))
    change, new = ADAM.update(jax.tree.map(jnp.nan_to_num, gradient), state)
    new, change = jax.tree.map(
        lambda a, b: jnp.where(good, a, b),
        (new, change),
        (state, jax.tree.map(jnp.zeros_like, change)),
    )
    return jax.tree.map(lambda p, c: p - rate * c, params, change), new, value


def members(name: str, shape: Shape, n: int) -> Any:
    """A model of each seed, as one with a leading axis. Keys whose programs compile fast."""
    make = eqx.filter_jit(lambda key: MODELS[name](key, shape, n))
    made = [make(jax.random.key(seed, impl="rbg")) for seed in range(1, 1 + SEEDS)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *made)


def train(task: Task, name: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Errors (rates, seeds) on the test set, and losses at the end of training."""
    params, rest = trainable(members(name, task.shape, n))
    progress = jnp.arange(task.steps) / task.steps

    def one(params, rest, stream, rate):
        def step(carry, given):
            (params, state), (drawn, progress) = carry, given
            now = rate * 0.5 * (1 + jnp.cos(jnp.pi * progress))
            batch = task.batch(drawn)
            params, state, value = update(task, params, rest, state, batch, now)
            return (params, state), value

        carry = params, ADAM.init(params)
        (params, _), values = lax.scan(step, carry, (stream, progress))
        tail = jnp.mean(values[-max(1, task.steps // 10) :])
        return error(task, eqx.combine(params, rest), task.test), tail

    seeds = jax.vmap(one, in_axes=(0, 0, 0, None))
    each = jax.jit(jax.vmap(seeds, in_axes=(None, None, None, 0)))
    errors, ends = each(params, rest, task.stream, jnp.asarray(RATES))
    return tuple(np.nan_to_num(np.asarray(a, float), nan=np.inf) for a in (errors, ends))


def trained(report: Report, size: Size) -> None:
    tasks = digits(report, size.data_steps) if size.digits else []
    tasks += series(report, size.series, size.data_steps)
    tasks += [adding(T, size.steps) for T in size.adding]
    tasks += [recall(delay, size.steps) for delay in size.recall]
    for task in sorted(tasks, key=lambda task: task.shape.T):
        for name in size.models:
            n = width(name, task.shape, size.parameters)
            errors, ends = train(task, name, n)
            best = int(np.argmin(np.mean(ends, axis=1)))
            about = {
                "n": n,
                "parameters": parameters(name, task.shape, n),
                "steps": task.steps,
                "rate": RATES[best],
                "seeds": SEEDS,
                "dtype": "float32",
            }
            quantities = {
                "error": (errors[best], ""),
                "seeds' mean error": (errors[best].mean(), ""),
            }
            report.values(task.name, name, quantities, parameters=about)


def speed(report: Report, size: Size) -> None:
    for T in size.timed:
        task, calls, widths = adding(T, 1), {}, {}
        batch = jax.tree.map(lambda a: jnp.asarray(a[0, 0]), task.stream)
        for name in size.models:
            n = widths[name] = width(name, task.shape, size.parameters)
            params, rest = trainable(MODELS[name](jax.random.key(1, impl="rbg"), task.shape, n))

            def step(params, state, batch, rest=rest, task=task):
                return update(task, params, rest, state, batch, 1e-3)

            step = jax.jit(step)
            calls[name] = partial(step, params, ADAM.init(params), batch)
        seconds = interleaved(calls, size.rounds)
        report.times(
            f"training step, T = {T}, batch {BATCH}",
            seconds,
            parameters={"T": T, "batch": BATCH, "n": widths, "dtype": "float32"},
            quantity="time of a training step",
            reference=GRU,
        )


def ridge(report: Report, size: Size) -> None:
    reservoirs.compare(report, size.neurons, size.samples)


# Pictures

LOOKS = {  # colour, marker; ours filled
    f"{OURS} current, leapfrog": ("#0072b2", "o"),
    f"{OURS} rate, leapfrog": ("#0072b2", "s"),
    f"{OURS} rate, Euler": ("#56b4e9", "s"),
    f"{OURS} damped, Euler": ("#009e73", "D"),
    "unconstrained CTRNN, Euler": ("#000000", "P"),
    GRU: ("#d55e00", "^"),
    "GRU, slow gates": ("#d55e00", "v"),
    "LSTM": ("#e69f00", ">"),
    "coRNN": ("#cc79a7", "X"),
    "linear oscillators": ("#cc79a7", "*"),
}
_FLOOR = 1e-3


def draw_trained(rows: list[dict], figure: Any) -> None:
    """Error of each model in each task: the median seed, and all three."""
    rows = [row for row in rows if row["quantity"] == "error" and row["candidate"] in LOOKS]
    cases = list(dict.fromkeys(row["case"] for row in rows))
    ax = figure.subplots()
    for i, (name, (colour, marker)) in enumerate(LOOKS.items()):
        own = [row for row in rows if row["candidate"] == name]
        at = [cases.index(row["case"]) + 0.07 * (i - 5) for row in own]
        low, middle, high = (
            np.clip([row[key] for row in own], _FLOOR, 2) for key in ("low", "median", "high")
        )
        ax.errorbar(
            middle, at, xerr=[middle - low, high - middle], color=colour, marker=marker,
            markerfacecolor=colour if name.startswith(OURS) else "white", linestyle="none",
            markersize=5, elinewidth=0.8, label=name,
        )  # fmt: skip
    for line in range(1, len(cases)):
        ax.axhline(line - 0.5, color="0.85", linewidth=0.8)
    ax.set_yticks(range(len(cases)), cases)
    ax.set(
        xscale="log",
        xlim=(_FLOOR * 0.8, 2.2),
        ylim=(len(cases) - 0.5, -0.5),
        xlabel="error: share of wrong answers, or of variance that is left (at least 10⁻³)",
    )
    figure.legend(loc="outside upper center", ncols=3)
    figure.set_size_inches(8, 2.5 + 0.75 * len(cases))


def main() -> None:
    parts = {f.__name__: f for f in (speed, ridge, trained)}
    options = parser(__doc__, "memory")
    options.add_argument("--part", choices=parts, help="only this one")
    options = options.parse_args()
    report, size = Report("memory"), QUICK if options.quick else FULL
    for name, part in parts.items():
        if options.part in (None, name):
            part(report, size)
    report.write(options.out)
    if options.part in (None, "trained"):
        from ctrnn_jax.plot._files import draw  # loads matplotlib

        draw(options.out, {"memory-trained": partial(draw_trained, report.rows)})


if __name__ == "__main__":
    main()
