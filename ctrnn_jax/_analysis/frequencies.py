"""Frequencies that follow from the equations."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from .._network.activations import HardTanh, Linear, Tanh
from .._network.model import CTRNN, one_network, states_for
from .._network.weights import BlockSkew
from .._util import checks
from .._util.types import Array, ArrayLike, Float, finite_or_nan


def natural_frequencies(rnn: CTRNN) -> Float[Array, " half"]:
    """Frequencies of small oscillations, f_k = omega_k σ'(0) / 2π, with spec(A) = {±i omega_k}.

    For a linear network these are its frequencies at every amplitude.

    Args:
        rnn: the network, with skew-symmetric weights. Bias and leak are left out of account.

    Returns:
        (n // 2,) in Hz, ascending; for odd n the eigenvalue 0 is left out.

    Raises:
        TypeError, ValueError: where rnn is no CTRNN with skew-symmetric weights.

    Source:
        Casoni et al. 2025, Theorem 1 and Remark 2.
    """
    one_network(rnn)
    if not rnn.weights.is_skew:
        checks.fail("rnn", "skew-symmetric weights", type(rnn.weights).__name__)
    if isinstance(rnn.weights, BlockSkew):
        omega = jnp.sort(jnp.abs(rnn.weights.omega))
    else:
        A = rnn.weights.as_matrix()
        # iA is Hermitian: eigvalsh runs on every device, a general eigvals does not.
        omega = jnp.linalg.eigvalsh(jax.lax.complex(jnp.zeros_like(A), A))[(rnn.size + 1) // 2 :]
    slope = rnn.activation.derivative(jnp.zeros((), omega.dtype))
    return jnp.abs(omega * slope) / (2 * np.pi)


def _agm_frequency_factor(log_ratio: Array) -> Array:
    """agm(1, exp(-l)) for l >= 0.

    For large l, π/2 / agm(1, q) = K(1 - q²) → l + log 4 with an error of order l q²: exact to
    rounding from l = 22 on, where the iteration would underflow or need more rounds.
    """
    far = log_ratio > 22
    a = jnp.ones_like(log_ratio)
    g = jnp.exp(-jnp.where(far, 0, log_ratio))
    for _ in range(8):
        # sqrt(a) sqrt(g) is what sqrt(a g) is, with the derivative of the latter.
        a, g = 0.5 * (a + g), jnp.sqrt(a * g)
    return jnp.where(far, 0.5 * np.pi / (jnp.where(far, log_ratio, 1) + np.log(4).item()), a)


def _hard_tanh_frequency_factor(level: Array) -> Array:
    """π/2 over the angle-like time ω T / 4 of a quarter of the orbit of level l.

    The quarter from (U, 0) to (0, -U) runs through |z_2| < 1 < z_1 in the time s, along a circle
    for π/2 - 2 arctan s, through the saturated corner for l - 1 and again for s, where
    s = √(2l - 1) as long as it lies between 0 (the orbit is a circle) and 1 (no circle is left).
    """
    inside = (level > 0.5) & (level < 1)
    s = jnp.sqrt(jnp.where(inside, 2 * level - 1, 1))
    partly = 2 * s + np.pi / 2 - 2 * jnp.arctan(s)
    quarter = jnp.where(inside, partly, jnp.where(level >= 1, 1 + level, np.pi / 2))
    return 0.5 * np.pi / quarter


def orbit_frequency(rnn: CTRNN, x0: ArrayLike) -> Float[Array, "*shape"]:
    """Exact frequency of the closed orbits of two-neuron oscillators.

    With z = A x0 + b in the rate form or z = x0 in the current form, and l = Φ(z_1) + Φ(z_2):

    - linear: f = omega / 2π;
    - tanh: f = omega / 2π · agm(1, exp(-l)), that is 1/T with T = (4/omega) K(1 - exp(-2l));
    - hard tanh: 1/T with T = 2π/omega for l <= 1/2, T = (4/omega) (1 + l) for l >= 1, and between
      them T = (4/omega) (2s + π/2 - 2 arctan s), s = √(2l - 1).

    Differentiable in omega, b and x0.

    Args:
        rnn: two neurons with skew-symmetric weights, or any number of `BlockSkew` blocks;
            activation `Tanh()`, `HardTanh()` or `Linear()`; no leak; a bias in the rate form only.
            For others `period` locates the return.
        x0: (..., n) states on the orbits.

    Returns:
        (...,) in Hz for two neurons, (..., n/2) for the blocks of a larger `BlockSkew`; nan of
        states that are not finite.

    Raises:
        TypeError, ValueError: for any other network, or a wrong shape or dtype of x0.

    Example:
        >>> rnn = ct.CTRNN(ct.BlockSkew.from_hz(jnp.array([1.0])))
        >>> ct.orbit_frequency(rnn, jnp.array([0.1, 0.0]))  # below 1 Hz, and falling with |x0|
    """
    one_network(rnn)
    n = rnn.size
    if not rnn.weights.is_skew or not (n == 2 or isinstance(rnn.weights, BlockSkew)):
        got = f"{type(rnn.weights).__name__} of size {n}"
        checks.fail("rnn", "two neurons with skew-symmetric weights, or BlockSkew", got)
    if not isinstance(rnn.activation, Tanh | HardTanh | Linear):
        expected = "activation Tanh(), HardTanh() or Linear()"
        checks.fail("rnn", expected, type(rnn.activation).__name__)
    if rnn.leak is not None:
        checks.fail("rnn", "no leak: damped orbits do not close", "a leak")
    if rnn.form == "current" and rnn.bias is not None:
        checks.fail("rnn", "no bias in the current form", "a bias")
    x0 = states_for(rnn, x0)
    omega = (
        rnn.weights.omega if isinstance(rnn.weights, BlockSkew) else rnn.weights.as_matrix()[:1, 1]
    )
    f = jnp.abs(omega) / (2 * np.pi)
    z = jnp.moveaxis(rnn.preactivation(x0.reshape(-1, n).T), 0, -1)
    level = jnp.sum(rnn.activation.potential(z).reshape(*x0.shape[:-1], n // 2, 2), axis=-1)
    f = jnp.broadcast_to(f, level.shape)
    if isinstance(rnn.activation, Tanh):
        f = f * _agm_frequency_factor(level)
    elif isinstance(rnn.activation, HardTanh):
        f = f * _hard_tanh_frequency_factor(level)
    f = f * finite_or_nan(x0.reshape(*level.shape, 2), axis=-1)
    return f[..., 0] if n == 2 else f
