"""All that is known of one network, in one go."""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._network.model import CTRNN, conservative_network, states_for
from .._network.weights import DenseSkew
from .._simulate.event import Event
from .._simulate.trajectory import Trajectory
from .._util import checks
from .._util.types import Array, ArrayLike
from .crossings import crossings
from .facts import fixed_point_facts, frequency_facts, matrix_facts
from .fixed_points import fixed_points
from .frequencies import natural_frequencies
from .lyapunov import lyapunov_spectrum
from .nonlinear_modes import NonlinearModes, nonlinear_modes
from .regime import STEPS, Regime, regime
from .step_sizes import Measured, measure_steps, suggestion

MOST_MODES = 40  # neurons: beyond, families take minutes each
_FULL = {"energies": 12, "rounds": 400, "top": 1.0, "amplitudes": 7, "states": 32,
         "steps": 2**16, "exponents": 2**15, "crossings": 400}  # fmt: skip
_QUICK = {"energies": 3, "rounds": 30, "top": 0.015, "amplitudes": 4, "states": 8,
          "steps": 2**14, "exponents": 2**13, "crossings": 100}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What `analyse` found of a network; None where there is nothing to find.

    Attributes:
        rnn: the network.
        matrix: what the weights are: rank, kernel, blocks, how far the matrix given was from skew.
        frequencies: linear ones in Hz, those that coincide or are multiples of another.
        fixed_point: the one nearest to the origin, and how the network moves beside it.
        modes: the families of closed orbits, see `nonlinear_modes`.
        amplitudes: (A,) standard deviations of z, about the fixed point, of random states.
        regimes: of the states (A, S, n), see `regime`.
        exponents: (3, k) Lyapunov exponents in 1/s of one state of the least, a middle and the
            largest amplitude.
        exponents_bound: log(t)/t in 1/s, near which exponents of 0 come out.
        sections: crossings of these three states, where neuron 0 passes the fixed point upwards.
        own: the regime of the state that was given, if one was.
        steps: solvers by name, at several steps.
        suggested: solver and step.
        remarks: what was left out, and why.
    """

    rnn: CTRNN
    matrix: dict[str, Any]
    frequencies: dict[str, Any]
    fixed_point: dict[str, Any]
    modes: NonlinearModes | None
    amplitudes: np.ndarray
    regimes: Regime
    exponents: np.ndarray
    exponents_bound: float
    sections: Trajectory | None
    own: Regime | None
    steps: dict[str, Measured]
    suggested: dict[str, Any] | None
    remarks: list[str]

    @property
    def shown(self) -> list[int]:
        """Which amplitudes `exponents` and `sections` are of."""
        return _three(len(self.amplitudes))


def analyse(
    rnn: CTRNN,
    *,
    x0: ArrayLike | None = None,
    quick: bool = False,
    given: np.ndarray | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Analysis:
    """What a network with skew-symmetric weights does: all of this package's analyses of it.

    Everything is computed in units of ‖A‖ and told in seconds: weights of any size are alike.
    Inputs are 0.

    Args:
        rnn: n neurons, skew-symmetric weights, no leak.
        x0: (n,) a state whose regime is told too.
        quick: fewer energies, states and steps: some 20 s for 20 neurons on 2 cores instead of 2
            minutes.
        given: (n, n) the matrix that the weights are the skew part of, to be compared with it.
        seed: of the random states.
        progress: called with the name of a part that is done, how many are, and of how many.

    Returns:
        An `Analysis`.

    Raises:
        TypeError, ValueError: for weights that are not skew-symmetric, a leak, an equation of a
            subclass's own, a bias without an energy, and a wrong shape of x0.

    Example:
        >>> found = ct.analyse(ct.CTRNN(ct.DenseSkew.init(jax.random.key(0), 8)), quick=True)
        >>> found.frequencies["hz"], found.regimes.words(), found.suggested
    """
    conservative_network(rnn)
    if x0 is not None:
        x0 = states_for(rnn, x0)
        if x0.shape != (rnn.size,):
            checks.fail("x0", f"one state of shape ({rnn.size},)", x0.shape)
    A = np.asarray(rnn.weights.as_matrix())
    matrix = matrix_facts(A, given)
    # A power of two: nothing is rounded.
    norm = matrix["norm_per_s"]
    rate = 2.0 ** round(math.log2(norm)) if norm else 1.0
    work = _Work(
        rnn, A, rate, matrix, _QUICK if quick else _FULL, x0, checks.integer("seed", seed, 0)
    )
    done: dict[str, Any] = {}
    # Side by side: the families of closed orbits take as long as all else.
    with ThreadPoolExecutor(2) as pool:
        parts = work.parts()
        if progress is not None:
            progress(next(iter(parts)), 0, len(parts))
        running = {pool.submit(_as_here(part)): name for name, part in parts.items()}
        for future in as_completed(running):
            done[running[future]] = future.result()
            if progress is not None:
                progress(running[future], len(done), len(parts))
    return work.put_together(done)


def _as_here(part: Callable[[], Any]) -> Callable[[], Any]:
    """The same in another thread, where neither device nor precision of a `with` would hold."""
    config: Any = jax.config
    device, wide = config.jax_default_device, config.jax_enable_x64
    home: Any = jax if hasattr(jax, "enable_x64") else importlib.import_module("jax.experimental")

    def run() -> Any:
        with jax.default_device(device), home.enable_x64(wide):
            return part()

    return run


def _three(count: int) -> list[int]:
    return sorted({0, count // 2, count - 1})


class _Work:
    """The network in units of its norm, and its parts of an `Analysis`."""

    def __init__(self, rnn, A, rate, matrix, size, x0, seed):
        self.rnn, self.rate, self.matrix, self.size, self.x0 = rnn, rate, matrix, size, x0
        self.remarks: list[str] = []
        bias = rnn.bias
        if bias is not None and rnn.form == "current":
            bias = bias / rate
        weights = DenseSkew(jnp.asarray(A / rate / 2, rnn.dtype))
        self.unit = CTRNN(weights, rnn.activation, rnn.form, bias=bias)
        # In the rate form z = A x + b: states grow as weights shrink.
        self.state_unit = 1.0 if rnn.form == "current" else 1 / rate
        n = rnn.size
        self.found = fixed_points(self.unit)
        self.rest = jnp.where(jnp.isfinite(self.found.xs), self.found.xs, 0)
        self.moves = matrix["rank"] > 0
        self.amplitudes = np.geomspace(0.03, 3.0, size["amplitudes"])
        x = np.random.default_rng(seed).normal(size=(size["states"], n))
        if rnn.form == "rate" and self.moves:
            x = x * np.sqrt(n) / np.linalg.norm(A / rate)
        x = self.amplitudes[:, None, None] * x
        self.states = jnp.asarray(np.asarray(self.rest) + x, rnn.dtype)
        self.typical = self.states[np.array(_three(len(self.amplitudes))), 0]

    def parts(self) -> dict[str, Callable[[], Any]]:
        """The longest first."""
        parts = {"modes": self.modes} if self.moves else {}
        parts |= {"regimes": self.regimes}
        if self.moves:
            parts |= {"steps": self.steps, "sections": self.sections}
        return parts | {"exponents": self.exponents}

    @property
    def dt(self) -> float:
        return 2 * np.pi / (self.matrix["norm_per_s"] / self.rate or 1.0) / STEPS

    def modes(self) -> NonlinearModes | None:
        n, size = self.rnn.size, self.size
        if n > MOST_MODES:
            self.remarks.append(
                f"The families of closed orbits of {n} neurons were left out: beyond {MOST_MODES} "
                "they take long. nonlinear_modes(rnn, mode) follows one."
            )
            return None
        energies = np.geomspace(1e-3, size["top"] * n, size["energies"])
        found = nonlinear_modes(self.unit, energies=energies, max_rounds=size["rounds"])
        return jax.block_until_ready(
            dataclasses.replace(
                found,
                periods=found.periods / self.rate,
                states=found.states * self.state_unit,
                fixed_point=found.fixed_point * self.state_unit,
            )
        )

    def regimes(self) -> tuple[Regime, Regime | None]:
        n, A, S = self.rnn.size, *self.states.shape[:2]
        states, steps = self.states, self.size["steps"]
        if n > MOST_MODES:
            states, steps = states[:, : max(4, S // 4)], max(2**14, steps // 4)
        rows = states.reshape(-1, n)
        if self.x0 is not None:  # beside the others: no program of its own
            rows = jnp.concatenate([rows, (self.x0 / self.state_unit)[None]])
        found = regime(self.unit, rows, num_steps=steps)
        found = dataclasses.replace(
            found,
            **{k: getattr(found, k) * self.rate
               for k in ("frequencies", "exponent", "uncertainty", "bound")},
            period=found.period / self.rate,
        )  # fmt: skip
        count = A * states.shape[1]

        def batched(leaf: Array) -> Array:
            return leaf if not leaf.ndim else leaf[:count].reshape(A, -1, *leaf.shape[1:])

        own = None
        if self.x0 is not None:
            own = jax.tree.map(lambda leaf: leaf if not leaf.ndim else leaf[-1], found)
        return jax.tree.map(batched, found), own

    def exponents(self) -> tuple[np.ndarray, float]:
        steps, k = self.size["exponents"], min(self.rnn.size, 20)
        found = lyapunov_spectrum(self.unit, self.typical, dt=self.dt, num_steps=steps, k=k)
        time = steps * self.dt / self.rate
        return np.asarray(found) * self.rate, float(np.log(steps * self.dt)) / time

    def sections(self) -> Trajectory:
        level = self.rest[0]
        up = Event(lambda t, x: x[0] - level, 1)
        found = crossings(
            self.unit, self.typical, up, count=self.size["crossings"], dt=2 * self.dt,
            num_steps=self.size["steps"] // 2,
        )  # fmt: skip
        assert found.xs is not None
        scaled = found.xs * self.state_unit, found.ts / self.rate
        return eqx.tree_at(lambda run: (run.xs, run.ts), found, scaled)

    def steps(self) -> dict[str, Measured]:
        if not np.isfinite(np.asarray(self.found.xs)).all():
            self.remarks.append("No state is at rest: solvers were not compared beside one.")
            return {}
        return measure_steps(self.unit, self.rest, self.typical)

    def put_together(self, done: dict[str, Any]) -> Analysis:
        rnn, found = self.rnn, self.found
        if not self.moves:
            self.remarks.append("The weights are 0: neurons do not see each other.")
        hz = np.asarray(natural_frequencies(self.unit), float) * self.rate
        in_seconds = dataclasses.replace(
            found, xs=found.xs * self.state_unit, eigenvalues=found.eigenvalues * self.rate
        )
        regimes, own = done["regimes"]
        steps = done.get("steps", {})
        top = float(np.abs(np.imag(in_seconds.eigenvalues)).max(initial=0))
        return Analysis(
            rnn=rnn,
            matrix=self.matrix,
            frequencies=frequency_facts(hz),
            fixed_point=fixed_point_facts(rnn, in_seconds, self.matrix["casimirs"]),
            modes=done.get("modes"),
            amplitudes=self.amplitudes,
            regimes=regimes,
            exponents=done["exponents"][0],
            exponents_bound=done["exponents"][1],
            sections=done.get("sections"),
            own=own,
            steps=steps,
            suggested=suggestion(steps, top),
            remarks=self.remarks,
        )
