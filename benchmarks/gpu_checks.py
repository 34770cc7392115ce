"""Correctness on whatever device JAX finds: what gpu.py checks before it measures anything.

- every activation in both forms, and the solvers, against SciPy or NumPy in float64 on the CPU;
- products with all weights, a few roundings from float64, and the energy of 128 neurons with a
  bias in float32, evaluated in float64, both within bounds that products rounded as TF32 rounds
  exceed by far, in the offset c·x that a bias makes, too, which is checked;
- gradients by every adjoint against finite differences of SciPy's solution;
- a batch against its states one by one, and the batch over all devices against one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from limit import on_cpu
from measure import OURS, Report
from peers import Problem, exact
from scipy.integrate import solve_ivp
from scipy.special import erf, expit

import ctrnn_jax as ct
from ctrnn_jax._network.products import SkewMatrix, product

ACTIVATIONS: dict[str, Callable] = {
    "Tanh": np.tanh,
    "HardTanh": lambda z: np.clip(z, -1, 1),
    "Linear": lambda z: z,
    "Arctan": np.arctan,
    "Erf": erf,
    "Sin": np.sin,
    "Sigmoid": expit,
    "ReLU": lambda z: np.maximum(z, 0),
    "Exp": np.exp,
}
KINKED = ("HardTanh", "ReLU")  # a step across a kink is of first order
SOLVERS = {
    "PoissonSplitting(4)": ct.PoissonSplitting(4),
    "DiscreteGradient(4)": ct.DiscreteGradient(order=4),
    "Projected(RK4)": ct.Projected(ct.RK4()),
}
STEPPERS = {"Euler": diffrax.Euler(), "RK4": ct.RK4(), "Tsit5": diffrax.Tsit5()}
WEIGHTS = {
    "dense": ct.DenseSkew,
    "bipartite": ct.BipartiteSkew,
    "low rank": ct.LowRankSkew,
    "block": ct.BlockSkew,
}
ADJOINTS = {
    "checkpointed": diffrax.Tsit5(),
    "direct": diffrax.Tsit5(),
    "reversible": ct.PoissonSplitting(4),
}
DTYPES = ("float32", "float64")
ROUNDINGS = 30  # of a product of 128 terms, at most
DRIFT = 1e-5  # of the energy in float32, at most
SEEN = 0.2  # what TF32 does must exceed these bounds by far


class Check(NamedTuple):
    what: str
    error: float
    bound: float

    @property
    def passed(self) -> bool:
        return self.error <= self.bound


def of(dtype: str, float32: float, float64: float) -> float:
    return float32 if dtype == "float32" else float64


def normal(seed: int, *shape: int, dtype: str) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def network(n: int, dtype: str, **settings: Any) -> ct.CTRNN:
    return ct.CTRNN(ct.DenseSkew.init(jax.random.key(n), n, dtype=dtype), **settings)


def velocity(rnn: ct.CTRNN, A: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """x' of rows x in plain NumPy."""
    sigma = ACTIVATIONS[type(rnn.activation).__name__]
    b = 0.0 if rnn.bias is None else np.asarray(rnn.bias, float)
    if rnn.form == "rate":
        return lambda x: sigma(x @ A.T + b)
    return lambda x: sigma(x) @ A.T + b


def by_scipy(rnn: ct.CTRNN, x0: Any, end: float, A: np.ndarray | None = None) -> np.ndarray:
    """The states (batch, n) at the end, in float64; another A than the network's, if given."""
    f = velocity(rnn, np.asarray(rnn.weights.as_matrix(), float) if A is None else A)
    x0 = np.asarray(x0, float)
    run = solve_ivp(
        lambda t, x: f(x.reshape(x0.shape)).ravel(), (0.0, end), x0.ravel(), "DOP853", [end],
        rtol=1e-12, atol=1e-12,
    )  # fmt: skip
    return run.y.reshape(x0.shape)


def at_end(rnn: ct.CTRNN, x0: jax.Array, dt: float, num_steps: int, **settings: Any) -> jax.Array:
    return ct.simulate(rnn, x0, dt=dt, num_steps=num_steps, save_every=num_steps, **settings).xs[
        ..., -1, :
    ]


def difference(got: Any, wanted: np.ndarray) -> float:
    """The largest, relative to the largest number wanted; nan where there is one."""
    return float(np.max(np.abs(np.asarray(got, float) - wanted)) / np.max(np.abs(wanted)))


def activations(dtype: str) -> Iterator[Check]:
    x0, bias = normal(0, 5, 8, dtype=dtype), normal(1, 8, dtype=dtype) / 4
    for name in ACTIVATIONS:
        for form in ("rate", "current"):
            rnn = network(8, dtype, activation=getattr(ct, name)(), form=form, bias=bias)
            error = difference(at_end(rnn, x0, 0.005, 200), by_scipy(rnn, x0, 1.0))
            bound = 1e-4 if name in KINKED else of(dtype, 1e-5, 1e-9)
            yield Check(f"{name}, {form} form, {dtype}, against SciPy", error, bound)


def solvers(dtype: str) -> Iterator[Check]:
    rnn, x0 = network(20, dtype), normal(0, 64, 20, dtype=dtype)
    A = np.asarray(rnn.weights.as_matrix())
    for name, solver in STEPPERS.items():
        wanted = exact(Problem(A, np.asarray(x0), 0.02, 100, name))
        error = difference(at_end(rnn, x0, 0.02, 100, solver=solver), wanted)
        yield Check(f"{name}, {dtype}, against its steps in NumPy", error, of(dtype, 1e-5, 1e-12))
    wanted = by_scipy(rnn, x0, 2.0)
    for name, solver in SOLVERS.items():
        error = difference(at_end(rnn, x0, 0.02, 100, solver=solver), wanted)
        yield Check(f"{name}, {dtype}, against SciPy", error, of(dtype, 1e-5, 1e-7))


class TF32(SkewMatrix):
    """A, whose products are of numbers rounded as TF32 rounds them."""

    def matvec(self, x):
        rounded = partial(lax.reduce_precision, exponent_bits=8, mantissa_bits=10)
        return product(rounded(self.A), rounded(x))


def products(dtype: str) -> Iterator[Check]:
    """Errors of a product relative to |A| |x|, in roundings; TF32 rounds 8192 times as coarsely."""
    x = normal(0, 128, 4096, dtype=dtype)
    eps = float(jnp.finfo(dtype).eps)

    def error(weights):
        got = jax.jit(lambda weights, x: weights.prepared().matvec(x))(weights, x)
        A, X = np.asarray(weights.as_matrix(), float), np.asarray(x, float)
        return np.max(np.abs(np.asarray(got, float) - A @ X) / (np.abs(A) @ np.abs(X))) / eps

    for name, kind in WEIGHTS.items():
        weights = kind.init(jax.random.key(0), 128, dtype=dtype)
        yield Check(f"roundings of a product, {name}, {dtype}", error(weights), ROUNDINGS)
    if dtype == "float32":
        A = ct.DenseSkew.init(jax.random.key(0), 128, dtype=dtype).as_matrix()
        yield Check("that bound over the roundings of TF32", ROUNDINGS / error(TF32(A)), SEEN)


class RoundedOffset(ct.DiscreteGradient):
    """The energy to keep, with c·x of a bias b = A c of numbers rounded as TF32 rounds them."""

    def init(self, terms, t0, t1, y0, args):
        converged, level = super().init(terms, t0, t1, y0, args)
        assert level is not None and level.offset is not None
        rounded = partial(lax.reduce_precision, exponent_bits=8, mantissa_bits=10)
        exact, coarse = (
            product(level.offset[None], y0),
            product(rounded(level.offset)[None], rounded(y0)),
        )
        return converged, level._replace(energy=level.energy + (coarse - exact)[0])


def biased(form: str, weights: Any = None) -> tuple[ct.CTRNN, np.ndarray, np.ndarray]:
    """128 neurons with a bias b = A c, and A and c in float64."""
    # Of frequencies within a factor 4, lest the solution c of b = A c lose digits in float32.
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(128, 128)))[0]
    turns = np.kron(np.diag(np.linspace(0.5, 2, 64)), [[0, 1], [-1, 0]])
    A = jnp.asarray(basis @ turns @ basis.T, jnp.float32)
    A = (A - A.T) / 2
    A64 = np.asarray(A, float)
    # Below 1 in size, as states of x' = A (tanh x + c) run away else.
    bias = product(A, 0.9 * jnp.tanh(2 * normal(1, 128, dtype="float32")))
    c = np.linalg.solve(A64, np.asarray(bias, float))
    return ct.CTRNN(weights or SkewMatrix(A), form=form, bias=bias), A64, c


def energy_drift(rnn: ct.CTRNN, A: np.ndarray, c: np.ndarray, solver: Any) -> float:
    """Of 16 states in 20 s, the energy in NumPy and float64."""
    x0 = normal(0, 16, 128, dtype="float32")
    run = ct.simulate(rnn, x0, dt=0.05, num_steps=400, save_every=20, solver=solver)
    x = np.asarray(run.xs, float)
    z = x @ A.T + np.asarray(rnn.bias, float) if rnn.form == "rate" else x
    energy = np.logaddexp(z, -z).sum(axis=-1) - len(A) * np.log(2)
    energy = energy if rnn.form == "rate" else energy + x @ c
    return float(np.abs(energy / energy[:, :1] - 1).max())


def drift(dtype: str) -> Iterator[Check]:
    """Energy in float64, of states that the device made in float32, with a bias."""
    if dtype == "float64":
        return
    solvers = {"RK4": ct.RK4(), "DiscreteGradient": ct.DiscreteGradient()}
    solvers["Projected(RK4)"] = ct.Projected(ct.RK4())
    for form in ("rate", "current"):
        rnn, A, c = biased(form)
        for name, solver in solvers.items():
            what = f"energy drift, {form} form, {name}, 128 neurons, 20 s, {dtype}"
            yield Check(what, energy_drift(rnn, A, c, solver), DRIFT)
        rounded = energy_drift(biased(form, TF32(rnn.weights.as_matrix()))[0], A, c, ct.RK4())
        yield Check(f"that bound over the drift of TF32, {form} form", DRIFT / rounded, SEEN)
    rounded = energy_drift(rnn, A, c, RoundedOffset(None, 64, 2))
    yield Check("that bound over the drift of TF32 in the offset", DRIFT / rounded, SEEN)


def gradients(dtype: str) -> Iterator[Check]:
    """Along a random direction in W and x0."""
    W, x0, dW, dx0 = (normal(s, 6, 6, dtype=dtype) / 2 for s in range(4))

    def loss(W, x0, adjoint):
        rnn = ct.CTRNN(ct.DenseSkew(W))
        end = at_end(rnn, x0, 0.02, 100, solver=ADJOINTS[adjoint], adjoint=adjoint)
        return jnp.mean(end**2)

    def along(s):
        moved = np.asarray(W, float) + s * np.asarray(dW, float)
        start = np.asarray(x0, float) + s * np.asarray(dx0, float)
        rnn = ct.CTRNN(ct.DenseSkew(W))
        return np.mean(by_scipy(rnn, start, 2.0, moved - moved.T) ** 2)

    h = 1e-4
    wanted = (along(h) - along(-h)) / (2 * h)
    for adjoint in ADJOINTS:
        gradient = jax.grad(loss, (0, 1))(W, x0, adjoint)
        got = sum(
            np.vdot(np.asarray(g), np.asarray(d)) for g, d in zip(gradient, (dW, dx0), strict=True)
        )
        error = difference(got, wanted)
        yield Check(
            f"gradient, {adjoint}, {dtype}, against differences", error, of(dtype, 1e-4, 1e-6)
        )


def batches(dtype: str) -> Iterator[Check]:
    rnn, x0 = network(20, dtype), normal(0, 1000, 20, dtype=dtype)
    together = np.asarray(at_end(rnn, x0, 0.02, 100), float)
    some = [0, 499, 999]
    alone = np.stack([np.asarray(at_end(rnn, x0[i], 0.02, 100), float) for i in some])
    bound = of(dtype, 1e-5, 1e-13)
    error = difference(together[some], alone)
    yield Check(f"a batch of 1000 against single states, {dtype}", error, bound)
    if len(jax.devices()) > 1:
        shared = at_end(rnn, x0, 0.02, 100, mesh=ct.batch_mesh())
        error = difference(shared, together)
        yield Check(f"{len(jax.devices())} devices against one, {dtype}", error, bound)


CHECKS = (activations, solvers, products, drift, gradients, batches)
QUICK_CHECKS = (products, drift, batches)


def run_checks(report: Report, quick: bool = False) -> list[Check]:
    """All of them, or a few in float32, told as they come; on CPUs that is said of each."""
    label = "check on CPUs: " if on_cpu() else "check: "
    done = []
    for make in QUICK_CHECKS if quick else CHECKS:
        for check in (c for dtype in DTYPES[: 1 if quick else 2] for c in make(dtype)):
            done.append(check)
            quantities = {"error": (check.error, ""), "bound": (check.bound, "")}
            report.values(label + check.what, OURS, quantities, parameters={"check": check.what})
    return done
