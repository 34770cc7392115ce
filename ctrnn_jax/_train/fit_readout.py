"""Reservoir computing: of a network that stays as it is, the read-out in closed form."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._analysis.ridge import ridge_regression
from .._util import checks
from .._util.types import ArrayLike
from .sequence import SequenceModel


def fit_readout(
    model: SequenceModel,
    inputs: ArrayLike,
    targets: ArrayLike,
    *,
    ridge: ArrayLike = 1e-6,
    washout: int = 0,
) -> SequenceModel:
    """The model with the read-out and offset that are best for its states as they are.

    min over C, d of Σ |y - C x - d|² + ridge |C|², over all samples of all sequences, in float64
    by singular values. The offset d is not penalised. Where the model pools, the states are pooled.

    Args:
        model: whose read-out is an array, of any k: it is replaced.
        inputs: (..., T, m_in) sequences.
        targets: y (..., T, k), or (..., k) where the model pools.
        ridge: λ >= 0, in units of a squared state times the number of samples; the larger, the
            smaller the read-out, and the less it makes of noise.
        washout: samples at the beginning of each sequence that are left out, as their states still
            depend on x0; only where the model does not pool.

    Returns:
        The model with a new `readout` (k, n) and `offset` (k,).

    Raises:
        TypeError, ValueError: where an argument has the wrong kind, shape, dtype or value, is
            traced, or a state is not finite.

    Source:
        Jaeger, "The echo state approach to analysing and training recurrent neural networks", GMD
        Report 148, 2001. Golub and Van Loan, Matrix Computations, section 6.1.4 (ridge regression).

    Example:
        >>> u = jax.random.uniform(jax.random.key(1), (2000, 1)) - 0.5
        >>> B = 0.1 * jax.random.normal(jax.random.key(2), (50, 1))
        >>> weights = ct.DenseSkew.init(jax.random.key(0), 50)
        >>> rnn = ct.CTRNN(weights, leak=0.3, input_weights=B)
        >>> model = ct.SequenceModel(rnn, jnp.zeros((1, 50)), dt=1.0)
        >>> model = ct.fit_readout(model, u, jnp.roll(u, 3, axis=0), washout=100)  # three ago
    """
    checks.instance("model", model, SequenceModel, "a SequenceModel")
    if not isinstance(model.readout, jax.Array):
        checks.fail("model", "one whose readout is an array (k, n)", "a function", TypeError)
    if any(map(checks.is_traced, jax.tree.leaves((model, inputs, targets)))):
        checks.fail("model", "known values: outside jit, vmap, grad", "a tracer", TypeError)
    penalty = float(checks.real("ridge", ridge))
    if penalty < 0:
        checks.fail("ridge", "a number >= 0", penalty)
    washout = checks.integer("washout", washout, 0)
    if washout and model.pool is not None:
        checks.fail("washout", f"0, as the model pools by {model.pool!r}", washout)
    run = eqx.filter_jit(SequenceModel.run)(model, inputs)
    if bool(jnp.any(run.stopped_at >= 0)):
        checks.fail("inputs", "such that all states are finite", "some that are not")
    assert run.xs is not None
    xs = run.xs[..., 1:, :]
    if model.pool is not None:
        xs = xs[..., -1, :] if model.pool == "last" else jnp.mean(xs, axis=-2)
    y = checks.float_array("targets", targets, f"{(*xs.shape[:-1], 'k')}")
    if y.shape[:-1] != xs.shape[:-1] or not y.shape[-1]:
        checks.fail("targets", f"shape ({', '.join(map(str, xs.shape[:-1]))}, k)", y.shape)
    checks.same_dtype("targets", y, model.rnn.dtype, "the network")
    checks.finite("targets", y)
    if model.pool is None:
        if washout >= xs.shape[-2]:
            checks.fail("washout", f"less than the {xs.shape[-2]} samples", washout)
        xs, y = xs[..., washout:, :], y[..., washout:, :]
    X, Y = (np.asarray(a).reshape(-1, a.shape[-1]) for a in (xs, y))
    C, d = ridge_regression(X, Y, penalty)
    dtype = model.rnn.dtype
    found = jnp.asarray(C, dtype), jnp.asarray(d, dtype)

    def parts(model: SequenceModel):
        return model.readout, model.offset

    return eqx.tree_at(parts, model, found, is_leaf=lambda leaf: leaf is None)
