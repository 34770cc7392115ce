"""What one would use instead: each peer makes a call without arguments of a problem.

The call integrates x' = tanh(A x) from all states by `num_steps` steps of `dt` and returns the
states at the end, (batch, n). Each is called as its documentation advises for speed:

- diffrax: jit; StepTo, SaveAt(t1=True), max_steps, throw=False, EQX_ON_ERROR=nan; under vmap, or
  with the batch as one state (n, batch);
- torchdiffeq: odeint on a fixed grid, under inference_mode; its "rk4" is the 3/8 rule;
- torch: a loop in place, without allocation, or, from 4096 states on, a step by torch.compile;
- SciPy: solve_ivp RK45, the batch as one state, held to `dt` by first_step, max_step and loose
  tolerances; it knows float64 alone;
- NumPy: a loop in place;
- lax.scan;
- numba: blocks of states that stay in a core's cache, or, beyond 32 neurons by trial, np.dot; with
  parallel=True and fastmath=True. Its tanh is the C library's, one number at a time, unless
  Intel's SVML is there, which it is not under pip.

Where states can be rows or columns, or torch compiled or not, the faster is taken, by trial. All
use every core.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, NamedTuple

os.environ.setdefault("EQX_ON_ERROR", "nan")

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from measure import cores, interleaved

import ctrnn_jax as ct

Call = Callable[[], Any]
COMPILED_FROM = 4096  # states: with fewer, calls from Python take the time, and compilation seconds


class Problem(NamedTuple):
    """States x0 (batch, n) of x' = tanh(A x), to be taken through steps of `dt`."""

    A: np.ndarray
    x0: np.ndarray
    dt: float
    num_steps: int
    method: str


class Method(NamedTuple):
    """An explicit Runge-Kutta method: rows of its matrix, and weights."""

    rows: list[list[float]]
    weights: list[float]
    solver: diffrax.AbstractSolver | None = None

    @property
    def evaluations(self) -> int:
        """Of the velocity, a step."""
        return len(self.weights)


def _of_diffrax(solver: Any) -> Method:
    # The last stage is the first of the next step.
    tableau = solver.tableau
    rows = [row.tolist() for row in tableau.a_lower[:-1]]
    return Method(rows, tableau.b_sol[:-1].tolist(), solver)


METHODS = {
    "Euler": Method([], [1.0], diffrax.Euler()),
    "RK4": Method([[0.5], [0.0, 0.5], [0.0, 0.0, 1.0]], [1 / 6, 1 / 3, 1 / 3, 1 / 6], ct.RK4()),
    "RK4, 3/8 rule": Method(
        [[1 / 3], [-1 / 3, 1.0], [1.0, -1.0, 1.0]], [1 / 8, 3 / 8, 3 / 8, 1 / 8]
    ),
    "Tsit5": _of_diffrax(diffrax.Tsit5()),
    "Dopri5": _of_diffrax(diffrax.Dopri5()),
}


def step(method: Method, velocity: Callable, x: Any, dt: float) -> Any:
    """x one step later: NumPy, JAX or torch."""
    slopes = [velocity(x)]
    for row in method.rows:
        slopes.append(velocity(x + _combined(row, slopes, dt)))
    return x + _combined(method.weights, slopes, dt)


def _combined(factors: list[float], slopes: list, dt: float) -> Any:
    terms = [dt * a * k for a, k in zip(factors, slopes, strict=True) if a]
    return sum(terms[1:], terms[0])


def exact(problem: Problem) -> np.ndarray:
    """The states at the end by the same steps, in NumPy and float64."""
    B, x = problem.A.T.astype(float), problem.x0.astype(float)
    method = METHODS[problem.method]
    for _ in range(problem.num_steps):
        x = step(method, lambda x: np.tanh(x @ B), x, problem.dt)
    return x


def faster(*calls: Call) -> Call:
    """The one that takes less time, by trial."""
    seconds = interleaved(dict(enumerate(calls)), 2)
    return calls[min(seconds, key=lambda i: seconds[i].min())]


def by_diffrax(p: Problem, *, vmap: bool, save_every: int | None = None) -> Call:
    """The last states (batch, n), or those after each so many steps (batch, saves, n)."""
    ts = np.arange(p.num_steps + 1, dtype=p.x0.dtype) * p.x0.dtype.type(p.dt)
    saveat = diffrax.SaveAt(t1=True) if save_every is None else diffrax.SaveAt(steps=save_every)

    def solve(A, x):
        ys = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, x, A: jnp.tanh(_product(A, x))),
            METHODS[p.method].solver, ts[0], ts[-1], None, x, A,
            stepsize_controller=diffrax.StepTo(ts=ts), saveat=saveat,
            max_steps=p.num_steps, throw=False,
        ).ys  # fmt: skip
        return ys[-1] if save_every is None else ys

    if vmap:
        run = jax.jit(jax.vmap(solve, in_axes=(None, 0)))
    else:
        run = jax.jit(lambda A, x0: jnp.moveaxis(solve(A, x0.T), -1, 0))
    return partial(run, jnp.asarray(p.A), jnp.asarray(p.x0))


def by_scan(p: Problem, *, save_every: int | None = None, batch_first: bool = True) -> Call:
    """As `by_diffrax`; or else as the steps make them, (saves, batch, n) or (saves, n, batch)."""
    return faster(*scans(p, save_every=save_every, batch_first=batch_first))


def scans(
    p: Problem, *, save_every: int | None = None, batch_first: bool = True, unroll: int = 1
) -> list[partial]:
    """With states as columns, and as rows; `unroll`: steps in a round of the loop."""

    def steps(velocity, x):
        def one(x, _):
            return step(METHODS[p.method], velocity, x, p.dt), None

        def several(x, _):
            if save_every == 1:
                x, _ = one(x, None)
            else:
                x, _ = lax.scan(one, x, None, length=save_every, unroll=unroll)
            return x, x

        if save_every is None:
            return lax.scan(one, x, None, length=p.num_steps, unroll=unroll)[0]
        return lax.scan(several, x, None, length=p.num_steps // save_every)[1]

    @jax.jit
    def columns(A, x0):
        xs = steps(lambda x: jnp.tanh(_product(A, x)), x0.T)
        return jnp.moveaxis(xs, -1, 0) if batch_first else xs

    @jax.jit
    def rows(A, x0):
        xs = steps(lambda x: jnp.tanh(_product(x, A.T)), x0)
        return jnp.moveaxis(xs, -2, 0) if batch_first else xs

    A, x0 = jnp.asarray(p.A), jnp.asarray(p.x0)
    return [partial(columns, A, x0), partial(rows, A, x0)]


_product = partial(jnp.matmul, precision=lax.Precision.HIGHEST)


def chained(p: Problem) -> tuple[list[float], list[float]]:
    """Times `dt`: how far each stage goes along the slope before it, and the weights.

    Of methods whose stages use the slope before them alone: Euler, RK4.
    """
    method = METHODS[p.method]
    return [p.dt * row[-1] for row in method.rows], [p.dt * b for b in method.weights]


def in_place(p: Problem, x0: Any, empty: Callable, velocity: Callable, add: Callable) -> Any:
    """A chained method without allocation, for NumPy and torch.

    `velocity(x, out)` and `add(x, factor, k, out)`, x + factor k, write into `out`.
    """
    x, k, probe, end = (empty(x0) for _ in range(4))
    x[...] = x0
    ahead, (first, *weights) = chained(p)
    for _ in range(p.num_steps):
        velocity(x, k)
        add(x, first, k, end)
        for distance, weight in zip(ahead, weights, strict=True):
            add(x, distance, k, probe)
            velocity(probe, k)
            add(end, weight, k, end)
        x, end = end, x
    return x


def by_numpy(p: Problem) -> Call:
    room: dict[tuple, np.ndarray] = {}

    def add(x, factor, k, out):
        scaled = room.setdefault(x.shape, np.empty_like(x))
        np.multiply(k, factor, out=scaled)
        np.add(x, scaled, out=out)

    def columns(x, out):
        np.matmul(p.A, x, out=out)
        np.tanh(out, out=out)

    def rows(x, out):
        np.matmul(x, B, out=out)
        np.tanh(out, out=out)

    X0, B = np.ascontiguousarray(p.x0.T), np.ascontiguousarray(p.A.T)
    return faster(
        lambda: in_place(p, X0, np.empty_like, columns, add).T,
        lambda: in_place(p, p.x0, np.empty_like, rows, add),
    )


def by_scipy(p: Problem) -> Call:
    from scipy.integrate import solve_ivp

    (batch, n), B = p.x0.shape, np.ascontiguousarray(p.A.T)
    # As it adds up: no short step is left at the end.
    end = np.cumsum(np.full(p.num_steps, p.dt))[-1]

    def velocity(t, x):
        return np.tanh(x.reshape(batch, n) @ B).ravel()

    def call():
        run = solve_ivp(
            velocity, (0.0, end), p.x0.ravel(), "RK45", [end], first_step=p.dt, max_step=p.dt,
            rtol=1e9, atol=1e9,
        )  # fmt: skip
        return run.y.reshape(batch, n)

    return call


def by_torch(p: Problem) -> Call:
    import torch

    A, x0 = _tensors(p)
    B, X0 = A.T.contiguous(), x0.T.contiguous()

    def add(x, factor, k, out):
        torch.add(x, k, alpha=factor, out=out)

    def columns(x, out):
        torch.mm(A, x, out=out).tanh_()

    def rows(x, out):
        torch.mm(x, B, out=out).tanh_()

    loops = [
        _torch_call(lambda: in_place(p, X0, torch.empty_like, columns, add).T),
        _torch_call(lambda: in_place(p, x0, torch.empty_like, rows, add)),
    ]
    if len(x0) < COMPILED_FROM:
        return faster(*loops)
    torch.compiler.reset()  # it keeps to a few versions of a function
    method = METHODS[p.method]
    compiled = torch.compile(
        lambda A, x: step(method, lambda x: torch.tanh(A @ x), x, p.dt), dynamic=False
    )

    def by_compiled():
        x = X0
        for _ in range(p.num_steps):
            x = compiled(A, x)
        return x.T

    return faster(*loops, _torch_call(by_compiled))


def by_torchdiffeq(p: Problem) -> Call:
    import torch
    import torchdiffeq

    A, x0 = _tensors(p)
    B, X0 = A.T.contiguous(), x0.T.contiguous()
    grid = torch.arange(p.num_steps + 1, dtype=x0.dtype, device=x0.device) * p.dt

    def call(velocity, x0):
        return torchdiffeq.odeint(
            velocity, x0, grid[[0, -1]], method=p.method.lower(),
            options={"grid_constructor": lambda velocity, x0, t: grid},
        )[-1]  # fmt: skip

    return faster(
        _torch_call(lambda: call(lambda t, x: torch.tanh(A @ x), X0).T),
        _torch_call(lambda: call(lambda t, x: torch.tanh(x @ B), x0)),
    )


def _tensors(p: Problem) -> tuple[Any, Any]:
    import torch

    torch.set_num_threads(cores())
    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    return torch.tensor(p.A, device=device), torch.tensor(p.x0, device=device)


def _torch_call(call: Call) -> Call:
    """The states as an array, for the clock not before they are there."""
    import torch

    def timed():
        with torch.inference_mode():
            x = call()
        if x.is_cuda:
            torch.cuda.synchronize()
        return x

    return timed


def as_numpy(states: Any) -> np.ndarray:
    """Of JAX, NumPy or torch, from whatever device."""
    return np.asarray(states.cpu() if hasattr(states, "cpu") else states)


def by_numba(p: Problem) -> Call:
    by_blocks, whole = _numba_kernels()
    ahead, weights = (np.array(factors, p.x0.dtype) for factors in chained(p))
    columns = np.ascontiguousarray(p.x0.T)

    def call(kernel):
        return lambda: kernel(p.A, columns, ahead, weights, p.num_steps).T

    return call(by_blocks) if len(p.A) <= 32 else faster(call(by_blocks), call(whole))


@cache
def _numba_kernels() -> tuple[Callable, Callable]:
    """Columns in blocks, each taken through all steps by one core; or all at once, by np.dot."""
    import math

    from numba import njit, prange

    @njit(fastmath=True)
    def velocity(A, x, out):
        n, width = x.shape
        for i in range(n):
            for c in range(width):
                out[i, c] = A[i, 0] * x[0, c]
            for j in range(1, n):
                for c in range(width):
                    out[i, c] += A[i, j] * x[j, c]
            for c in range(width):
                out[i, c] = math.tanh(out[i, c])

    @njit(fastmath=True)
    def add(x, factor, k, out):
        n, width = x.shape
        for i in range(n):
            for c in range(width):
                out[i, c] = x[i, c] + factor * k[i, c]

    @njit(parallel=True, fastmath=True)
    def by_blocks(A, x0, ahead, weights, num_steps):
        n, batch = x0.shape
        result, width = np.empty_like(x0), max(16, 4096 // n)
        for block in prange((batch + width - 1) // width):
            columns = slice(block * width, min(batch, (block + 1) * width))
            x = x0[:, columns].copy()
            k, probe, end = np.empty_like(x), np.empty_like(x), np.empty_like(x)
            for _ in range(num_steps):
                velocity(A, x, k)
                add(x, weights[0], k, end)
                for s in range(len(ahead)):
                    add(x, ahead[s], k, probe)
                    velocity(A, probe, k)
                    add(end, weights[s + 1], k, end)
                x, end = end, x
            result[:, columns] = x
        return result

    @njit(parallel=True, fastmath=True)
    def whole(A, x0, ahead, weights, num_steps):
        n, batch = x0.shape
        x, k, probe, end = x0.copy(), np.empty_like(x0), np.empty_like(x0), np.empty_like(x0)
        for _ in range(num_steps):
            np.dot(A, x, k)
            for i in prange(n):
                for c in range(batch):
                    k[i, c] = math.tanh(k[i, c])
                    end[i, c] = x[i, c] + weights[0] * k[i, c]
            for s in range(len(ahead)):
                for i in prange(n):
                    for c in range(batch):
                        probe[i, c] = x[i, c] + ahead[s] * k[i, c]
                np.dot(A, probe, k)
                for i in prange(n):
                    for c in range(batch):
                        k[i, c] = math.tanh(k[i, c])
                        end[i, c] += weights[s + 1] * k[i, c]
            x, end = end, x
        return x

    return by_blocks, whole


class Peer(NamedTuple):
    """How its call is made, and what for.

    `methods`: which of its own it uses for a method, where it has one of that order and cost.
    `interpreted`: Python has a part in every step. `slow`: it takes ten times the least time and
    more. `accelerators`: whether it works there.
    """

    make: Callable[[Problem], Call]
    package: str
    methods: Mapping[str, str]
    interpreted: bool = False
    slow: bool = False
    accelerators: bool = False
    dtypes: tuple[str, ...] = ("float32", "float64")


SAME = {name: name for name in ("Euler", "RK4", "Tsit5", "Dopri5")}
CHAINED = {name: name for name in ("Euler", "RK4")}
OF_DIFFRAX = {name: name for name in ("Euler", "Tsit5", "Dopri5")}

PEERS = {
    "diffrax vmap": Peer(partial(by_diffrax, vmap=True), "diffrax", OF_DIFFRAX, accelerators=True),
    "diffrax batched": Peer(
        partial(by_diffrax, vmap=False), "diffrax", OF_DIFFRAX, accelerators=True
    ),
    "lax.scan": Peer(by_scan, "jax", SAME, accelerators=True),
    "torchdiffeq": Peer(
        by_torchdiffeq,
        "torchdiffeq",
        {"Euler": "Euler", "RK4": "RK4, 3/8 rule"},
        interpreted=True,
        accelerators=True,
    ),
    "torch loop": Peer(by_torch, "torch", CHAINED, interpreted=True, accelerators=True),
    "numba": Peer(by_numba, "numba", CHAINED, slow=True),
    "numpy loop": Peer(by_numpy, "numpy", CHAINED, interpreted=True),
    "scipy RK45": Peer(
        by_scipy,
        "scipy",
        {"Tsit5": "Dopri5", "Dopri5": "Dopri5"},
        interpreted=True,
        dtypes=("float64",),
    ),
}


def missing(peer: Peer) -> str | None:
    """Why a peer cannot run here, or None."""
    if importlib.util.find_spec(peer.package) is None:
        return f"{peer.package} is not installed: skipped"
    if jax.default_backend() == "cpu":
        return None
    if not peer.accelerators:
        return f"{peer.package} runs on the CPU alone: skipped"
    if peer.package.startswith("torch"):
        import torch

        if not torch.cuda.is_available():
            return f"{peer.package} finds no CUDA device: skipped"
    return None
