"""The programs whose launches tests count and whose time gpu.py measures: one list for both.

A case is named kind, neurons, solver. It is of x' = tanh(A x), A = W - Wᵀ, from 4096 states in
float32, 1000 steps with 10 saves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import optax

import ctrnn_jax as ct

STEPS, SAVE_EVERY, BATCH = 1000, 100, 4096
SAVES = STEPS // SAVE_EVERY
DT = 0.005  # 5 s: too short a time for chaos to magnify rounding
SOLVERS = {
    "Euler": diffrax.Euler(),
    "Tsit5": diffrax.Tsit5(),
    "PoissonSplitting": ct.PoissonSplitting(),
}


class Budget(NamedTuple):
    """Of each step, at most: launches and graphs together; nodes in graphs; waits of the host."""

    launches: float
    nodes: float
    waits: float


CASES = {
    "simulate,2,Euler": Budget(0.25, 0.5, 0.05),
    "simulate,8,Euler": Budget(0.5, 2.0, 0.05),
    "simulate,20,Euler": Budget(0.2, 2.5, 0.05),
    "simulate,512,Euler": Budget(0.2, 2.5, 0.05),
    "simulate,2,Tsit5": Budget(0.3, 1.0, 0.05),
    "simulate,8,Tsit5": Budget(0.3, 13.0, 0.05),
    "simulate,20,Tsit5": Budget(0.2, 13.0, 0.05),
    "simulate,2,PoissonSplitting": Budget(0.3, 1.0, 0.05),
    "simulate,20,PoissonSplitting": Budget(1.5, 25.0, 0.05),
    "simulate,128,PoissonSplitting": Budget(20.0, 150.0, 0.05),
    "simulate,512,PoissonSplitting": Budget(80.0, 550.0, 0.05),
    "grad,20,Euler": Budget(0.8, 10.0, 0.05),
    "grad,20,Tsit5": Budget(0.8, 60.0, 0.05),
    "grad,128,PoissonSplitting": Budget(90.0, 800.0, 0.05),
    "fit,20,Euler": Budget(0.8, 10.0, 0.05),
    "lyapunov,4,Tsit5": Budget(2.0, 25.0, 0.05),
    # Of a round of the adaptive loop, whose end the host sees.
    "period,2,Tsit5": Budget(70.0, 6.0, 1.1),
}
Run = Callable[[Any, Any], Any]  # of W and x0


def _network(W: Any) -> ct.CTRNN:
    return ct.CTRNN(ct.DenseSkew(W))


def _loss(run: Run) -> Run:
    """Of the saves after steps: peers have no others."""
    return lambda W, x0: jnp.mean(run(W, x0)[:, -SAVES:] ** 2)


def _gradient(run: Run) -> Run:
    return jax.grad(_loss(run), (0, 1))


def _step_of_fit(run: Run) -> Run:
    adam = optax.adam(1e-3)

    def step(W, x0):
        slope = jax.grad(_loss(run))(W, x0)
        return optax.apply_updates(W, adam.update(slope, adam.init(W))[0])

    return step


OF_RUNS = {"simulate": lambda run: run, "grad": _gradient, "fit": _step_of_fit}


class Case(NamedTuple):
    kind: str
    n: int
    solver: str

    @classmethod
    def named(cls, name: str) -> Case:
        kind, n, solver = name.split(",")
        return cls(kind, int(n), solver)

    def program(self, mesh: Any = None) -> Run:
        """What `ctrnn_jax` makes of W (n, n) and x0 (4096, n)."""
        solver = SOLVERS[self.solver]
        if self.kind == "period":
            return lambda W, x0: ct.period(_network(W), x0)
        if self.kind == "lyapunov":
            settings = {"dt": 0.05, "num_steps": STEPS, "k": 1, "solver": solver}
            return lambda W, x0: ct.lyapunov_spectrum(_network(W), x0, **settings)
        settings = {"dt": DT, "num_steps": STEPS, "save_every": SAVE_EVERY, "solver": solver}
        return self.of(lambda W, x0: ct.simulate(_network(W), x0, mesh=mesh, **settings).xs)

    def of(self, run: Run) -> Run:
        """The same of another's run, which returns the saved states."""
        return OF_RUNS[self.kind](run)
