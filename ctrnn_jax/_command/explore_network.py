"""The controls of `ctrnn explore`: the network they mean, and the Python lines that make it."""

from __future__ import annotations

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from .._files.models import load
from .._network.model import CTRNN
from .._network.products import AbstractWeights
from .._network.weights import (
    BipartiteSkew,
    BlockSkew,
    Damped,
    DenseSkew,
    DenseWeights,
    LowRankSkew,
    not_skew,
)
from .._train.oscillator import Oscillator
from .._util import checks
from .._util.classes import chosen
from ..solvers._names import own, solver_named, wrappers
from .options import ACTIVATIONS, activation_named
from .parts import matrix_of, read_part

STEPS = 2048  # of every run: moving a slider compiles nothing anew
MOST_NEURONS, MAX_NORM = 256, 1000.0
FORMS = ("rate", "current")
SOLVERS = (
    "tsit5",
    "euler",
    "heun",
    "rk4",
    "poisson_splitting",
    "poisson_splitting:4",
    "discrete_gradient",
    "discrete_gradient:4",
    "implicit_midpoint",
    "projected:tsit5",
    "exact_linear",
)
BLOCK, FILE = "block", "file"
# Random weights, and their scale in 2π times the frequency that is highest, or near that.
_RANDOM: dict[str, tuple[type[AbstractWeights], float]] = {
    "dense": (DenseSkew, 0.5),
    "bipartite": (BipartiteSkew, 0.5),
    "low_rank": (LowRankSkew, 0.5),
    "damped": (Damped, 0.5),
    "unconstrained": (DenseWeights, 1.0),
}
WEIGHTS = (BLOCK, *_RANDOM, FILE)


@dataclasses.dataclass(frozen=True)
class Controls:
    """What is set: `frequency` in Hz, the highest one or, of blocks, the lowest.

    Blocks go up to `ratio` times that, in even ratios; `shown` are the neurons of the portrait.
    """

    weights: str = BLOCK
    neurons: int = 4
    frequency: float = 1.0
    ratio: float = 1.618
    seed: int = 0
    file: str = ""
    activation: str = "tanh"
    form: str = "rate"
    solver: str = "tsit5"
    dt: float = 0.01
    x0: tuple[float, ...] = (0.2, 0.0, 0.2, 0.0)
    shown: tuple[int, int] = (0, 2)

    @property
    def amplitude(self) -> float:
        return max(map(abs, self.x0))


class Saved(NamedTuple):
    """What a file holds: weights, their network if any, and the lines that read it."""

    weights: AbstractWeights
    rnn: CTRNN | None
    lines: tuple[str, ...]


def changed(controls: Controls, name: str, value: Any) -> Controls:
    """The controls after one was moved, with all that hangs on it.

    Besides the fields `amplitude`, which scales the initial state, and `point`, its two shown
    components.

    Raises:
        TypeError, ValueError, OSError: for a value out of place; a file that cannot be read.
    """
    if name == "amplitude":
        checks.positive("amplitude", value)
        old = controls.amplitude
        x0 = tuple(x / old * value for x in controls.x0) if old else start(controls.neurons, value)
        return dataclasses.replace(controls, x0=x0)
    if name == "point":
        x0 = list(controls.x0)
        for k, x in zip(controls.shown, value, strict=True):
            x0[k] = float(x)
        return dataclasses.replace(controls, x0=tuple(x0))
    if name == "file":
        found = _saved(value)
        controls = dataclasses.replace(controls, file=value, weights=FILE)
        if found.rnn is not None:
            kind = type(found.rnn.activation)
            names = [name for name, cls in ACTIVATIONS.items() if cls is kind]
            if not names:
                checks.fail("file", f"an activation out of {', '.join(ACTIVATIONS)}", kind.__name__)
            controls = dataclasses.replace(controls, activation=names[0], form=found.rnn.form)
        return _of_size(controls, found.weights.size)
    if name == "neurons":
        if controls.weights == FILE:
            checks.fail("neurons", "the size of the network in the file", value)
        n = checks.integer("neurons", value, 2)
        if n > MOST_NEURONS:
            checks.fail("neurons", f"at most {MOST_NEURONS}", n)
        return _of_size(controls, n)
    if name == "weights" and value == FILE:
        return changed(controls, "file", controls.file)
    if name == "shown":
        pair = tuple(checks.integer("shown", k, 0) for k in value)
        if len(pair) != 2 or max(pair) >= controls.neurons:
            checks.fail("shown", f"two neurons from 0 to {controls.neurons - 1}", pair)
        value = pair
    return dataclasses.replace(controls, **{name: value})


def start(neurons: int, amplitude: float) -> tuple[float, ...]:
    """The first neuron of each pair away from rest."""
    return tuple(amplitude * (k % 2 == 0) for k in range(neurons))


def _of_size(controls: Controls, n: int) -> Controls:
    if n == controls.neurons:
        return controls
    shown = (0, 2 if n > 2 else 1)
    x0 = start(n, controls.amplitude or 0.2)
    return dataclasses.replace(controls, neurons=n, x0=x0, shown=shown)


def network(controls: Controls) -> CTRNN:
    """The network that the controls mean."""
    activation = activation_named(controls.activation)
    if controls.weights == FILE:
        weights, rnn, _ = _saved(controls.file)
        bias, leak = (None, None) if rnn is None else (rnn.bias, rnn.leak)
        return CTRNN(weights, activation, controls.form, bias=bias, leak=leak)
    checks.positive("frequency", controls.frequency)
    if controls.weights == BLOCK:
        return CTRNN(BlockSkew.from_hz(jnp.array(_blocks(controls))), activation, controls.form)
    kind, scale = _random(controls)
    key = jax.random.key(checks.integer("seed", controls.seed, 0))
    weights = kind.init(key, controls.neurons, scale=scale)  # pyright: ignore[reportAttributeAccessIssue]
    return CTRNN(weights, activation, controls.form)


def code(controls: Controls, *, energy: bool, exact: bool, spectra: bool) -> str:
    """Python that makes the same numbers and pictures; told is which of them there are."""
    n, first = controls.neurons, controls.shown[0]
    kind = ACTIVATIONS[controls.activation].__name__
    more = ""
    if controls.weights == FILE:
        saved = _saved(controls.file)
        made = list(saved.lines)
        has = () if saved.rnn is None else ("bias", "leak")
        more = "".join(f", {k}=saved.{k}" for k in has if getattr(saved.rnn, k) is not None)
    elif controls.weights == BLOCK:
        made = [f"weights = ct.BlockSkew.from_hz(jnp.array({_blocks(controls)}))"]
    else:
        cls, scale = _random(controls)
        key = f"jax.random.key({controls.seed})"
        made = [f"weights = ct.{cls.__name__}.init({key}, {n}, scale={scale!r})"]
    drift = ["drift = ct.energy_drift(rnn, run.xs)"] if energy else []
    known = ["exact = ct.orbit_frequency(rnn, x0)  # Hz"] if exact else []
    pictures = [
        f"ct.plot.phase_portrait(run, neurons={controls.shown}, ax=axes[0, 0])",
        f"ct.plot.time_series(run, neurons={controls.shown}, ax=axes[0, 1])",
        *([f"ct.plot.spectrum(run, neuron={first}, ax=axes[0, 2])",
           f"ct.plot.spectrogram(run, neuron={first}, ax=axes[1, 0])"] if spectra else []),
        *(["ct.plot.energy_drift(rnn, run, ax=axes[1, 1])"] if energy else []),
    ]  # fmt: skip
    double = jnp.result_type(float) == jnp.float64
    lines = [
        "import diffrax, jax, jax.numpy as jnp, matplotlib.pyplot as plt",
        "import ctrnn_jax as ct",
        "",
        *(['jax.config.update("jax_enable_x64", True)'] if double else []),
        *made,
        f'rnn = ct.CTRNN(weights, ct.{kind}(), form="{controls.form}"{more})',
        f"x0 = jnp.array({list(controls.x0)})",
        f"dt, solver = {controls.dt!r}, {_expression(controls.solver)}",
        f"options = dict(num_steps={STEPS}, solver=solver, max_norm={MAX_NORM})",
        "run = ct.simulate(rnn, x0, dt=dt, **options)",
        *drift,
        "f, power = ct.power_spectrum(run.xs.T, dt)  # Hz, (neurons, f)",
        *known,
        "measured = ct.dominant_frequency(run.xs.T, dt)  # Hz, of each neuron",
        "",
        'figure, axes = plt.subplots(2, 3, figsize=(15, 8), layout="compressed")',
        *pictures,
        'figure.savefig("explore.png")',
    ]
    return "\n".join(lines) + "\n"


def _blocks(controls: Controls) -> list[float]:
    """The frequencies of blocks, in Hz."""
    if controls.neurons % 2:
        checks.fail("neurons", "an even number for block weights", controls.neurons)
    checks.positive("ratio", controls.ratio)
    count = controls.neurons // 2
    return [controls.frequency * controls.ratio ** (k / max(count - 1, 1)) for k in range(count)]


def _random(controls: Controls) -> tuple[type[AbstractWeights], float]:
    kind, factor = chosen("weights", controls.weights, _RANDOM)
    return kind, 2 * math.pi * factor * controls.frequency


def _expression(name: str) -> str:
    """The solver of a name as Python has it."""
    name, _, argument = name.partition(":")
    if name in wrappers():
        return f"ct.{wrappers()[name].__name__}({_expression(argument or 'tsit5')})"
    kind: type[diffrax.AbstractSolver] = type(solver_named(name))
    order = f"order={argument}" if argument else ""
    return f"{'ct' if name in own() else 'diffrax'}.{kind.__name__}({order})"


def _saved(path: str) -> Saved:
    if not path.strip():
        checks.fail("file", "a saved network or a matrix", "none")
    place = Path(path).expanduser()
    if not place.is_file():
        checks.fail("file", "an existing file", str(place))
    return _read(place, place.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _read(path: Path, _changed: int) -> Saved:
    if path.suffix.lower() == ".ctrnn":
        found = jax.tree.map(lambda a: jnp.asarray(a, float), load(path))
        lines = [f"saved = ct.load({str(path.absolute())!r})",
                 "saved = jax.tree.map(lambda a: jnp.asarray(a, float), saved)"]  # fmt: skip
        if isinstance(found, Oscillator):
            found = found.rnn
            lines.append("saved = saved.rnn")
        if isinstance(found, CTRNN):
            _small(found.weights.size)
            return Saved(found.weights, found, (*lines, "weights = saved.weights"))
        if isinstance(found, AbstractWeights):
            _small(found.size)
            return Saved(found, None, (*lines, "weights = saved"))
    A = read_part("file", path, matrix_of, selects=True)
    if A.ndim != 2 or A.shape[0] != A.shape[1] or len(A) < 2:
        checks.fail("file", "a square matrix", f"shape {A.shape}")
    _small(len(A))
    checks.finite("file", A)
    A = np.asarray(A, jnp.result_type(float))
    told = f"jnp.load({str(path.absolute())!r})" if path.suffix.lower() == ".npy" else A.tolist()
    matrix = f"A = jnp.array({told}, float)"
    if not_skew(A) is None:
        weights = DenseSkew.from_matrix(jnp.asarray(A), skew_part=True)
        made = "weights = ct.DenseSkew.from_matrix(A, skew_part=True)"
    else:
        weights, made = DenseWeights(jnp.asarray(A)), "weights = ct.DenseWeights(A)  # not skew"
    return Saved(weights, None, (matrix, made))


def _small(n: int) -> None:
    if not 2 <= n <= MOST_NEURONS:
        checks.fail("file", f"2 to {MOST_NEURONS} neurons", n)
