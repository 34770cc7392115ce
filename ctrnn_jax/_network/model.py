"""The network: weights, activation, form, bias and leak."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._util import checks
from .._util.types import Array, Float, State, Vector
from .activations import AbstractActivation, Tanh
from .inputs import input_at
from .products import AbstractWeights, product

FORMS = ("rate", "current")


def per_neuron(values: Array, x: State) -> Array:
    """One value a neuron, or one a neuron and column, as it is added to states (n, ...)."""
    return values.reshape(values.shape + (1,) * (x.ndim - values.ndim)) if values.ndim else values


class CTRNN(eqx.Module):
    """A continuous-time recurrent network.

        "rate"      x' = σ(A x + B u + b) - γ x     activity or rate based
        "current"   x' = A σ(x) + B u + b - γ x     voltage or current based

    With skew-symmetric A, no leak and no input u both conserve an energy, see `ctrnn_jax.energy`;
    with an input they store what it supplies, see `ctrnn_jax.energy_balance`.
    The object is its own diffrax vector field, `rnn(t, x, args)`, and a PyTree. As a field it
    takes one state (n,) or states as columns, (n, batch), where `simulate` and all else take
    states as rows, (batch, n): of a batch of n states, which has both shapes, pass `x.T`. `args` is
    the input: None, a function u(t) -> (m,), or a diffrax path.

    Args:
        weights: A, for example `DenseSkew(W)`; n neurons, in 1/s.
        activation: σ, for example `Tanh()`.
        form: "rate" or "current".
        bias: b (n,), or None.
        leak: γ >= 0 in 1/s, a scalar or (n,), or None. A leak breaks every invariant.
        input_weights: B (n, m), for m inputs, or None.

    Raises:
        TypeError, ValueError: where an argument has the wrong kind, shape, dtype or sign.

    Source:
        Casoni, Guidi, Betti, Melacci, Gori, "Generative System Dynamics in Recurrent Neural
        Networks", IJCNN 2025, arXiv:2504.13951 (rate form).

    Example:
        >>> rnn = ct.CTRNN(ct.BlockSkew.from_hz(jnp.array([1.0])))
        >>> rnn(0.0, jnp.array([0.1, 0.0]), None)
    """

    weights: AbstractWeights
    activation: AbstractActivation
    form: str = eqx.field(static=True)
    bias: Vector | None
    leak: Float[Array, ""] | Vector | None
    input_weights: Float[Array, "n m"] | None

    def __init__(
        self,
        weights: AbstractWeights,
        activation: AbstractActivation = Tanh(),  # noqa: B008 - frozen and stateless
        form: str = "rate",
        bias: Any = None,
        leak: Any = None,
        input_weights: Any = None,
    ):
        self.weights = checks.instance(
            "weights", weights, AbstractWeights, "weights such as DenseSkew(W)"
        )
        self.activation = checks.instance(
            "activation", activation, AbstractActivation, "an activation such as Tanh()"
        )
        self.form = checks.one_of("form", form, FORMS)
        n = weights.size
        self.bias = None if bias is None else self._parameter("bias", bias, f"({n},)", (1,))
        self.leak = None if leak is None else self._parameter("leak", leak, f"() or ({n},)", (0, 1))
        if self.leak is not None and not checks.is_traced(self.leak):
            smallest = float(np.min(np.asarray(self.leak)))
            if smallest < 0:
                checks.fail("leak", "values >= 0", smallest)
        self.input_weights = None
        if input_weights is not None:
            shape = f"({n}, m), m inputs"
            self.input_weights = self._parameter("input_weights", input_weights, shape, (2,))

    def _parameter(self, name: str, value: Any, shape: str, ndims: tuple[int, ...]) -> Array:
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = jnp.asarray(value, self.weights.dtype)
        array = checks.float_array(name, value, shape, ndim=ndims)
        if array.ndim and (array.shape[0] != self.size or 0 in array.shape):
            checks.fail(name, f"shape {shape}", array.shape)
        checks.same_dtype(name, array, self.weights.dtype, "weights")
        checks.finite(name, array)
        return array

    @property
    def size(self) -> int:
        """The number of neurons, n."""
        return self.weights.size

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the weights, which states must share."""
        return self.weights.dtype

    @property
    def num_inputs(self) -> int:
        """The number of inputs, m; 0 without input weights."""
        return 0 if self.input_weights is None else self.input_weights.shape[-1]

    @property
    def is_conservative(self) -> bool:
        """Whether the equations conserve the energy: skew-symmetric weights and no leak."""
        return self.weights.is_skew and self.leak is None

    @property
    def has_own_equation(self) -> bool:
        """Whether a subclass has replaced the equation, by one that may know the time."""
        return any(
            name in vars(cls)
            for cls in type(self).__mro__[: type(self).__mro__.index(CTRNN)]
            for name in ("__call__", "preactivation")
        )

    def preactivation(self, x: State, u: Any = None) -> State:
        """What the activation sees: z = A x + B u + b in the rate form, z = x in the current form.

        u: (m,), or (m, batch) for columns x; None for no input.
        """
        return x if self.form == "current" else self._with_bias(self.weights.matvec(x), u)

    def bias_with(self, u: Any) -> Array | None:
        """b + B u: (n,), or (n, batch) for inputs as columns; None where there is neither."""
        if u is None or self.input_weights is None:
            return self.bias
        push = product(self.input_weights, u)
        return push if self.bias is None else push + per_neuron(self.bias, push)

    def _with_bias(self, x: State, u: Any) -> State:
        bias = self.bias_with(u)
        return x if bias is None else x + per_neuron(bias, x)

    def __call__(self, t: Any, x: State, args: Any = None) -> State:
        """x' at one state x (n,), or at each column of x (n, batch): rows, as `simulate` takes
        them, pass as `x.T`. `args` is the input, a function u(t) or a diffrax path; None: none.
        """
        one_network(self)
        if not jnp.ndim(x) or x.shape[0] != self.size:
            n = self.size
            states = f"one state ({n},) or a state in each column, ({n}, batch)"
            checks.fail("x", f"{states}; of rows pass x.T", f"shape {jnp.shape(x)}")
        u = None if args is None else input_at(args, t)
        if u is not None:
            check_input(self, "args", u)
        z = self.preactivation(x) if u is None else self.preactivation(x, u)
        velocity = self.activation(z)
        if self.form == "current":
            velocity = self._with_bias(self.weights.matvec(velocity), u)
        return velocity if self.leak is None else velocity - per_neuron(self.leak, x) * x

    def prepared(self) -> CTRNN:
        """The same network with the matrix of its weights computed once, for use in a loop."""
        return eqx.tree_at(lambda rnn: rnn.weights, self, self.weights.prepared())


def one_network(rnn: Any) -> CTRNN:
    """rnn, refused unless it is a single CTRNN of a dtype that JAX has now."""
    checks.instance("rnn", rnn, CTRNN, "a CTRNN")
    weights, bias, leak, push = rnn.weights, rnn.bias, rnn.leak, rnn.input_weights
    ndim, n = weights.parameter_ndim, weights.size
    shapes = [] if ndim is None else [np.shape(leaf) for leaf in jax.tree.leaves(weights)]
    stacked = any(len(shape) > (ndim or 0) for shape in shapes)
    stacked = stacked or (bias is not None and bias.shape != (n,))
    stacked = stacked or (push is not None and push.ndim != 2)
    if stacked or (leak is not None and leak.shape not in ((), (n,))):
        expected = "one network; map over an ensemble by eqx.filter_vmap or jax.vmap"
        checks.fail("rnn", expected, f"parameters with leading axes, weights {shapes}")
    checks.available("rnn", weights.dtype)
    return rnn


def conservative_network(rnn: Any) -> CTRNN:
    """rnn, refused unless it is a single CTRNN of the usual equation that nothing damps."""
    one_network(rnn)
    if not rnn.weights.is_skew:
        checks.fail("rnn", "skew-symmetric weights", type(rnn.weights).__name__)
    if rnn.leak is not None:
        checks.fail("rnn", "no leak: damped motion dies out", "a leak")
    if rnn.has_own_equation:
        checks.fail("rnn", "the equation of CTRNN", f"that of {type(rnn).__name__}")
    return rnn


def states_for(rnn: Any, x0: Any) -> Float[Array, "*batch n"]:
    """x0 as an array, refused unless rnn is a single CTRNN and x0 holds states of it."""
    return states_of(one_network(rnn), x0)


def states_of(rnn: CTRNN, x0: Any) -> Float[Array, "*batch n"]:
    """`states_for` a CTRNN, single or not."""
    weights = rnn.weights
    n, dtype = weights.size, weights.dtype
    checks.available("rnn", dtype)
    array = checks.float_array("x0", x0, f"(..., {n})")
    if array.shape[-1] != n:
        checks.fail("x0", f"shape (..., {n}), one value per neuron", array.shape)
    checks.same_dtype("x0", array, dtype, "the network")
    return array


def check_input(rnn: CTRNN, name: str, u: Any) -> None:
    """Refuse an input u (m, ...) that is none of rnn's."""
    if rnn.input_weights is None:
        checks.fail(name, "no input, as the network has no input_weights", "one")
    m = rnn.num_inputs
    array = checks.float_array(name, u, f"({m},)")
    if array.shape[0] != m:
        checks.fail(name, f"an input of shape ({m},)", f"shape {array.shape}")
    checks.same_dtype(name, array, rnn.dtype, "the network")
