"""What the equations conserve, and how far a computed trajectory has drifted from it.

With z = A x + b (rate form) or z = x (current form), both forms are z' = A ∇E(z) for
E(z) = Σ_i Φ(z_i): a Poisson system with a constant, skew-symmetric structure matrix.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._util import checks
from .._util.stored import Stored, by_parts
from .._util.types import Array, ArrayLike, Float, finite_or_nan
from .model import CTRNN, check_input, one_network, per_neuron
from .products import product

DRIFT_KINDS = ("rms", "mean", "max")


def _columns(rnn: CTRNN, name: str, x: ArrayLike) -> tuple[Float[Array, "n m"], tuple[int, ...]]:
    """States (..., n) as columns (n, m), and the shape of their leading axes."""
    n = one_network(rnn).size
    x = checks.float_array(name, x, f"(..., {n})")
    if x.shape[-1] != n:
        checks.fail(name, f"shape (..., {n}), one value per neuron", x.shape)
    checks.same_dtype(name, x, rnn.dtype, "the network")
    return x.reshape(-1, n).T, x.shape[:-1]


def bias_offset(rnn: CTRNN) -> Float[Array, " n"] | None:
    """c with A c = b: in the current form a bias adds the linear term c·x to the energy."""
    if rnn.form == "rate" or rnn.bias is None:
        return None
    A = rnn.weights.as_matrix()
    # A is singular for odd n; the derivative of pinv survives its paired singular values.
    c = product(jnp.linalg.pinv(A), rnn.bias)
    residual = jnp.linalg.norm(rnn.weights.matvec(c) - rnn.bias)
    tolerance = rnn.size * float(jnp.finfo(A.dtype).eps) ** 0.5 * jnp.linalg.norm(rnn.bias)
    if not checks.is_traced(residual) and residual > tolerance:
        checks.fail(
            "bias",
            "a vector in the range of A: otherwise the current form conserves no energy",
            f"a distance of {float(residual):.3g} from it",
        )
    return jnp.where(residual > tolerance, jnp.nan, c)


def energy(rnn: CTRNN, x: ArrayLike | Stored, u: ArrayLike | None = None) -> Float[Array, "*batch"]:
    """The energy of states.

    E(x) = Σ_i Φ(z_i) with z = A x + B u + b in the rate form and z = x in the current form; there a
    bias b = A c adds c·x, and an input is no part of it. dE/dt = σ(z)ᵀ A σ(z) = 0 for
    skew-symmetric A without leak and a constant input (rate form) or none (current form), for any
    activation; for other networks E is defined all the same and measures how they fail. What
    inputs and leaks do to it, see `energy_balance`.

    Args:
        rnn: the network.
        x: (..., n) states, or those of a recording, of which one part at a time is read.
        u: (m,) or (..., m) inputs, of a network with `input_weights`; none unless given.

    Returns:
        (...,) energies; nan of states that are not finite.

    Raises:
        TypeError, ValueError: for a wrong shape or dtype, and for a bias outside the range of A
            in the current form (nan where that is known only at run time).

    Source:
        Casoni et al. 2025, Proposition 2.

    Example:
        >>> rnn = ct.CTRNN(ct.BlockSkew(jnp.array([1.0])))
        >>> ct.energy(rnn, jnp.array([0.3, 0.4]))  # log cosh 0.4 + log cosh 0.3
    """
    return _energy(rnn, "x", x, u)


@by_parts
def _energy(rnn: CTRNN, name: str, x: Any, u: Any = None) -> Float[Array, "*batch"]:
    columns, batch = _columns(rnn, name, x)
    if u is not None:
        u = jnp.asarray(u)
        check_input(rnn, "u", jnp.moveaxis(u, -1, 0) if u.ndim else u)
        if u.shape[:-1] not in ((), batch):
            m = rnn.num_inputs
            checks.fail("u", f"shape ({m},) or {(*batch, m)}", u.shape)
        u = u if u.ndim == 1 else u.reshape(-1, rnn.num_inputs).T
    return _total_or_nan(rnn, columns, bias_offset(rnn), u).reshape(batch)


@eqx.filter_jit  # one program: as single operations some twenty would be compiled for each shape
def _total_or_nan(rnn: CTRNN, x: Array, offset: Array | None, u: Array | None) -> Array:
    return total_energy(rnn, x, offset, u) * finite_or_nan(x, axis=0)


def total_energy(
    rnn: CTRNN,
    x: Float[Array, " n *batch"],
    offset: Float[Array, " n"] | None,
    u: Array | None = None,
) -> Float[Array, "*batch"]:
    """Σ_i Φ(z_i) + c·x of columns, c the `bias_offset`."""
    z = rnn.preactivation(x) if u is None else rnn.preactivation(x, u)
    value = jnp.sum(rnn.activation.potential(z), axis=0)
    return value if offset is None else value + product(offset[None], x)[0]


def with_offset(slope: Float[Array, " n *batch"], offset: Array | None) -> Array:
    """The gradient of the energy of the current form, σ(x) + c, of σ(x) or a mean of it."""
    return slope if offset is None else slope + per_neuron(offset, slope)


def casimirs(rnn: CTRNN, x: ArrayLike | Stored) -> Float[Array, "*batch k"]:
    """The Casimir invariants kᵀ z of states, one for each vector k of a basis of ker A.

    They are conserved whatever the energy. There is always one for odd n. In the current form
    z = x; in the rate form kᵀ z = kᵀ b is constant trivially, while kᵀ x itself may drift.

    Args:
        rnn: the network, with skew-symmetric weights.
        x: (..., n) states, or those of a recording, of which one part at a time is read.

    Returns:
        (..., k) values. k is the dimension of the kernel: the numerical one where the weights
        are known, under jit or vmap over the weights that of weights in general position. The
        basis is orthonormal; of several vectors it is one of many, and is differentiated as that
        which turns least with the weights. nan of states that are not finite.

    Raises:
        TypeError, ValueError: for a wrong shape or dtype or weights that are not skew-symmetric.
    """
    return _casimirs(rnn, "x", x)


@by_parts
def _casimirs(rnn: CTRNN, name: str, x: Any) -> Float[Array, "*batch k"]:
    columns, batch = _columns(rnn, name, x)
    if not rnn.weights.is_skew:
        checks.fail("rnn", "skew-symmetric weights", type(rnn.weights).__name__)
    A = rnn.weights.as_matrix()
    _, s, vh = jnp.linalg.svd(jax.lax.stop_gradient(A))
    nullity = rnn.weights.nullity
    if not checks.is_traced(s):
        s = np.asarray(s)
        nullity = int(np.sum(s <= rnn.size * np.finfo(s.dtype).eps * s.max(initial=0)))
    kernel = _kernel(A, vh[rnn.size - nullity :])
    values = product(kernel, rnn.preactivation(columns)) * finite_or_nan(columns, axis=0)[None]
    return values.T.reshape(*batch, nullity)


@jax.custom_jvp
def _kernel(A: Float[Array, "n n"], basis: Float[Array, "k n"]) -> Float[Array, "k n"]:
    """The orthonormal basis of ker A, as a function of A."""
    return basis


@_kernel.defjvp
def _kernel_jvp(primals, tangents):
    (A, _), (dA, _) = primals, tangents
    rows = _kernel(*primals)
    # 0 = d(A K) = dA K + A dK, of a kernel of the same dimension; A + K Kᵀ has an inverse.
    onto = product(rows.T, rows)
    turned = jnp.linalg.solve(A + onto, product(dA, rows.T))
    return rows, (product(onto, turned) - turned).T


def energy_drift(rnn: CTRNN, xs: ArrayLike | Stored) -> Float[Array, "*batch S"]:
    """Relative energy drift along trajectories, (E(t) - E(0)) / |E(0)|, signed.

    Args:
        rnn: the network.
        xs: (..., S, n) trajectories, as in `Trajectory.xs`, or those of a recording, of which one
            part at a time is read.

    Returns:
        (..., S), 0 at the first save. Where E(0) = 0 the difference itself. nan where a state is
        not finite, and all along from a first one that is not.

    Raises:
        TypeError, ValueError: for a wrong shape or dtype.
    """
    E = _energy(rnn, "xs", xs)
    if E.ndim == 0 or E.shape[-1] == 0:
        checks.fail("xs", f"trajectories of shape (..., S, {rnn.size})", np.shape(xs))
    first = jnp.abs(E[..., :1])
    return (E - E[..., :1]) / jnp.where(first == 0, 1, first)


def drift_loss(rnn: CTRNN, xs: ArrayLike, kind: str = "rms") -> Float[Array, ""]:
    """Relative energy drift as one non-negative number, to be minimised.

    Args:
        rnn: the network.
        xs: (..., S, n) trajectories.
        kind: "rms" (root mean square over saves and trajectories), "mean" (of the absolute
            drift) or "max".

    Returns:
        A scalar, nan where a state is not finite; its gradient is finite at zero drift too.

    Raises:
        TypeError, ValueError: for a wrong shape, dtype or kind.
    """
    checks.one_of("kind", kind, DRIFT_KINDS)
    drift = energy_drift(rnn, xs)
    if drift.size == 0:
        checks.fail("xs", "at least one trajectory", f"shape {np.shape(xs)}")
    if kind == "max":
        return jnp.max(jnp.abs(drift))
    if kind == "mean":
        return jnp.mean(jnp.abs(drift))
    mean_square = jnp.mean(drift**2)
    # The root has no derivative at 0, where the subgradient 0 is what a minimiser wants.
    none = mean_square == 0
    return jnp.where(none, 0, jnp.sqrt(jnp.where(none, 1, mean_square)))
