"""Other libraries as integrators of x' = tanh(A x) with steps of their own choice, in float64.

Each `by_<library>(problem, tol, ...)` returns a call that returns the states (batch, saves, n).
"""

from __future__ import annotations

import copy
import importlib.util
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

os.environ.setdefault("EQX_ON_ERROR", "nan")

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from measure import cores
from scipy.integrate import solve_ivp

import ctrnn_jax as ct

EVERY = 20.0  # seconds from one save to the next
CHECKED = 16  # states whose error is measured
UNROLLED = 20  # neurons, up to which heyoka compiles unrolled code in seconds


class Problem(NamedTuple):
    rnn: ct.CTRNN
    x0: jax.Array
    horizon: float

    @property
    def saves(self) -> np.ndarray:
        return np.arange(0, self.horizon + EVERY / 2, EVERY)

    @property
    def A(self) -> np.ndarray:
        return np.asarray(self.rnn.weights.as_matrix())

    @property
    def name(self) -> str:
        batch, n = self.x0.shape
        return f"{batch} states of n = {n} to t = {self.horizon:g}"

    @property
    def parameters(self) -> dict[str, Any]:
        batch, n = self.x0.shape
        size = {"n": n, "batch": batch, "horizon": self.horizon}
        return size | {"dtype": "float64", "weights": "dense"}


def problem(n: int, batch: int, horizon: float) -> Problem:
    rnn = ct.CTRNN(ct.DenseSkew.init(jax.random.key(n), n, scale=1.0))
    return Problem(rnn, jax.random.normal(jax.random.key(1), (batch, n)), horizon)


def by_diffrax(p: Problem, tol: float, solver: diffrax.AbstractSolver, vmap: bool) -> Callable:
    saves = jnp.asarray(p.saves)

    def solve(A, x):
        return diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, x, A: jnp.tanh(A @ x)),
            solver, 0.0, saves[-1], None, x, A, saveat=diffrax.SaveAt(ts=saves),
            stepsize_controller=diffrax.PIDController(rtol=tol, atol=tol),
            max_steps=None, throw=False,
        ).ys  # fmt: skip

    if vmap:
        run = jax.jit(jax.vmap(solve, in_axes=(None, 0)))
    else:
        run = jax.jit(lambda A, x0: jnp.moveaxis(solve(A, x0.T), 2, 0))
    A = p.rnn.weights.as_matrix()
    return lambda: run(A, p.x0)


def by_scipy(p: Problem, tol: float, method: str) -> Callable:
    (batch, n), B = p.x0.shape, p.A.T
    x0 = np.asarray(p.x0).ravel()
    settings = {"lband": n - 1, "uband": n - 1} if method == "LSODA" else {}

    def velocity(t, x):
        return np.tanh(x.reshape(batch, n) @ B).ravel()

    def call():
        end = (0.0, p.horizon)
        run = solve_ivp(velocity, end, x0, method, p.saves, rtol=tol, atol=tol, **settings)
        return np.moveaxis(run.y.reshape(batch, n, -1), 2, 1)

    return call


def by_torchdiffeq(p: Problem, tol: float, method: str) -> Callable:
    import torch
    import torchdiffeq

    # On so little a second thread loses time; PyTorch itself uses one for tanh.
    torch.set_num_threads(1 if p.x0.size < 2**15 else cores())
    x0, B, saves = (torch.tensor(np.array(a)) for a in (p.x0, p.A.T, p.saves))

    def call():
        with torch.no_grad():
            xs = torchdiffeq.odeint(
                lambda t, x: torch.tanh(x @ B), x0, saves, rtol=tol, atol=tol, method=method,
                options={"step_t": saves[1:]},
            )  # fmt: skip
        return np.moveaxis(xs.numpy(), 0, 1)

    return call


def equations(A: np.ndarray) -> list:
    import heyoka as hy

    x = hy.make_vars(*(f"x{i}" for i in range(len(A))))
    return [
        (x[i], hy.tanh(hy.sum([float(A[i, j]) * x[j] for j in range(len(A)) if j != i])))
        for i in range(len(A))
    ]


def by_heyoka(p: Problem, tol: float) -> Callable:
    import heyoka as hy

    hy.llvm_state.set_diskcache_enabled(False)  # so that every first call compiles
    hy.llvm_state.set_memcache_limit(0)
    batch, n = p.x0.shape
    lanes = min(batch, hy.recommended_simd_size())
    made = hy.taylor_adaptive_batch(
        equations(p.A), np.zeros((n, lanes)), tol=tol, high_accuracy=True,
        compact_mode=n > UNROLLED,
    )  # fmt: skip
    integrators = [copy.deepcopy(made) for _ in range(cores())]
    threads = ThreadPoolExecutor(len(integrators))
    starts = np.asarray(p.x0).reshape(-1, lanes, n).transpose(0, 2, 1)
    saves = np.repeat(p.saves[:, None], lanes, axis=1)

    def call():
        xs = np.empty((len(starts), len(saves), n, lanes))

        def share(first):
            integrator = integrators[first]
            for i in range(first, len(starts), len(integrators)):
                integrator.set_time(0.0)
                integrator.state[:] = starts[i]
                xs[i] = integrator.propagate_grid(saves)[1]

        list(threads.map(share, range(len(integrators))))
        return xs.transpose(0, 3, 1, 2).reshape(batch, len(saves), n)

    return call


def exact(p: Problem) -> np.ndarray:
    """The first states at t = 20."""
    some = p._replace(x0=p.x0[:CHECKED], horizon=EVERY)
    judge = by_scipy(some, 1e-13, "DOP853")()[:, -1]
    if importlib.util.find_spec("heyoka") is None:
        return judge
    import heyoka as hy

    n, extended = len(p.A), np.longdouble
    ta = hy.taylor_adaptive(
        equations(p.A), np.zeros(n, extended), fp_type=extended, high_accuracy=True,
        compact_mode=n > UNROLLED,
    )  # fmt: skip
    found = []
    for x in np.asarray(some.x0):
        ta.time, ta.state[:] = extended(0), x
        ta.propagate_until(extended(EVERY))
        found.append(ta.state.astype(float))
    apart = np.abs(found - judge).max()
    if not apart < 1e-10:
        raise RuntimeError(f"heyoka in extended precision and DOP853 are {apart:.0e} apart")
    return np.array(found)
