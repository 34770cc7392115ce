"""Parametrizations of the weight matrix A, in 1/s.

The skew-symmetric ones satisfy Aᵀ = -A for every value of their parameters, so gradient descent
cannot leave the set. `matvec` uses the structure; `as_matrix` is what it must agree with.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from .._util import checks
from .._util.types import Array, ArrayLike, Float, PRNGKeyArray, State
from .products import (
    AbstractBipartite,
    AbstractTwoGroups,
    AbstractWeights,
    BipartitePair,
    SkewFactors,
    SkewMatrix,
    product,
)


def _square(name: str, value, minimum: int) -> Array:
    array = checks.float_array(name, value, "(n, n)", ndim=(2,))
    if array.shape[0] != array.shape[1]:
        checks.fail(name, "a square matrix of shape (n, n)", f"shape {array.shape}")
    if array.shape[0] < minimum:
        reason = ": a 1 x 1 skew-symmetric matrix is zero" if minimum == 2 else ""
        checks.fail(name, f"at least {minimum} neuron{'s' * (minimum > 1)}{reason}", array.shape)
    checks.finite(name, array)
    return array


def not_skew(A: np.ndarray, tolerance: float | None = None) -> str | None:
    """How far A is from skew-symmetric, where it is so beyond rounding; else None.

    tolerance: the largest entry of (A + Aᵀ)/2 as a share of that of A; None: 16 roundings.
    """
    share = 16 * float(np.finfo(A.dtype).eps) if tolerance is None else tolerance
    symmetric, largest = (np.max(np.abs(a), initial=0) for a in (A / 2 + A.T / 2, A))
    if symmetric <= share * largest:
        return None
    return f"a symmetric part of size {symmetric:.3g} beside weights of size {largest:.3g}"


class DenseSkew(AbstractWeights):
    """A = W - Wᵀ from an unconstrained W.

    Args:
        W: (n, n), n >= 2, in 1/s.

    Raises:
        TypeError, ValueError: where W is not a finite square floating-point matrix.

    Example:
        >>> ct.DenseSkew(jnp.array([[0.0, 1.0], [0.0, 0.0]])).as_matrix()  # omega = 1 rad/s
    """

    W: Float[Array, "n n"]
    is_skew: ClassVar[bool] = True
    parameter_ndim: ClassVar[int | None] = 2

    def __init__(self, W: ArrayLike):
        self.W = _square("W", W, 2)

    @classmethod
    def from_matrix(
        cls, A: ArrayLike, *, tolerance: float | None = None, skew_part: bool = False
    ) -> DenseSkew:
        """The weights whose matrix is A: W = A/2, so that `as_matrix()` is A to the last bit.

        Args:
            A: (n, n), n >= 2, in 1/s, skew-symmetric. Where it is traced, its values are not
                looked at: its skew part is taken.
            tolerance: the largest entry of (A + Aᵀ)/2 that is let pass, as a share > 0 of the
                largest one of A; unless given 16 roundings. What passes is left out of the weights.
            skew_part: take (A - Aᵀ)/2 of any A.

        Raises:
            TypeError, ValueError: where A is not a finite square floating-point matrix, or not
                skew-symmetric.

        Example:
            >>> weights = ct.DenseSkew.from_matrix(jnp.array([[0.0, 1.0], [-1.0, 0.0]]))
        """
        A = _square("A", A, 2)
        if tolerance is not None:
            tolerance = checks.positive_float("tolerance", tolerance)
        if not checks.flag("skew_part", skew_part) and not checks.is_traced(A):
            got = not_skew(np.asarray(A), tolerance)
            if got is not None:
                hint = "a skew-symmetric matrix, or skew_part=True, which takes (A - Aᵀ)/2"
                checks.fail("A", hint, got)
        return cls(A / 2)

    @classmethod
    def init(
        cls, key: PRNGKeyArray, n: int, *, scale: ArrayLike = 1.0, dtype: Any = None
    ) -> DenseSkew:
        """A_ij normal with standard deviation scale/√n; the largest omega is near 2 scale rad/s."""
        checks.prng_key("key", key)
        n, dtype = checks.integer("n", n, 2), checks.float_dtype(dtype)
        scale = checks.positive("scale", scale, dtype)
        return cls(jax.random.normal(key, (n, n), dtype) * (scale / math.sqrt(2 * n)))

    @property
    def size(self) -> int:
        return self.W.shape[-1]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.W.dtype

    @property
    def nullity(self) -> int:
        return self.size % 2

    def as_matrix(self) -> Float[Array, "n n"]:
        return self.W - self.W.T

    def matvec(self, x: State) -> State:
        return product(self.as_matrix(), x)

    def prepared(self) -> AbstractWeights:
        return SkewMatrix(self.as_matrix())


class BlockSkew(AbstractTwoGroups):
    """Independent two-neuron oscillators: 2 x 2 blocks [[0, w], [-w, 0]] on the diagonal.

    Neurons 2k and 2k + 1 form block k. A product costs O(n).

    Args:
        omega: (n/2,) angular frequencies in rad/s.

    Raises:
        TypeError, ValueError: where omega is not a finite floating-point vector.
    """

    omega: Float[Array, " half"]
    parameter_ndim: ClassVar[int | None] = 1

    def __init__(self, omega: ArrayLike):
        self.omega = checks.float_array("omega", omega, "(n/2,)", ndim=(1,))
        if self.omega.size == 0:
            checks.fail("omega", "at least one angular frequency", f"shape {self.omega.shape}")
        checks.finite("omega", self.omega)

    @classmethod
    def from_hz(cls, f: ArrayLike) -> BlockSkew:
        """Blocks of frequencies f (n/2,) in Hz: omega = 2π f."""
        f = checks.float_array("f", f, "(n/2,)", ndim=(1,))
        checks.finite("f", f)
        if f.size == 0:
            checks.fail("f", "at least one frequency", f"shape {f.shape}")
        return cls(2 * np.pi * f)

    @classmethod
    def init(
        cls,
        key: PRNGKeyArray,
        n: int,
        *,
        low: ArrayLike = 0.5,
        high: ArrayLike = 2.0,
        dtype: Any = None,
    ) -> BlockSkew:
        """Omega uniform in [low, high) rad/s; n even."""
        checks.prng_key("key", key)
        n, dtype = checks.integer("n", n, 2), checks.float_dtype(dtype)
        if n % 2:
            checks.fail("n", "an even number of neurons", n)
        low, high = checks.real("low", low, dtype), checks.real("high", high, dtype)
        if not (checks.is_traced(low) or checks.is_traced(high)) and low >= high:
            checks.fail("high", f"a number above low = {low}", high)
        return cls(jax.random.uniform(key, (n // 2,), dtype, low, high))

    @property
    def size(self) -> int:
        return 2 * self.omega.shape[-1]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.omega.dtype

    @property
    def nullity(self) -> int:
        return 0

    def as_matrix(self) -> Float[Array, "n n"]:
        even = jnp.arange(0, self.size, 2)
        upper = jnp.zeros((self.size, self.size), self.dtype).at[even, even + 1].set(self.omega)
        return upper - upper.T

    def split(self, x: Array) -> tuple[Array, Array]:
        return x[::2], x[1::2]

    def join(self, first: Array, second: Array) -> Array:
        return jnp.stack([first, second], axis=1).reshape(-1, *first.shape[1:])

    def to_first(self, second: Array) -> Array:
        return self._omega(second) * second

    def to_second(self, first: Array) -> Array:
        return -self._omega(first) * first

    def matvec(self, x: State) -> State:
        pairs = x.reshape(-1, 2, *x.shape[1:])
        omega = jnp.stack([self.omega, -self.omega], axis=1)
        return (omega.reshape(omega.shape + (1,) * (x.ndim - 1)) * pairs[:, ::-1]).reshape(x.shape)

    def _omega(self, group: Array) -> Array:
        return self.omega.reshape(self.omega.shape + (1,) * (group.ndim - 1))


class BipartiteSkew(AbstractBipartite):
    """Two groups without coupling inside a group: A = [[0, B], [-Bᵀ, 0]].

    A product costs two half-size products; splitting steps become leapfrog.

    Args:
        B: (p, q) in 1/s; the first p neurons are one group, n = p + q.

    Raises:
        TypeError, ValueError: where B is not a finite floating-point matrix.
    """

    B: Float[Array, "p q"]
    parameter_ndim: ClassVar[int | None] = 2

    def __init__(self, B: ArrayLike):
        self.B = checks.float_array("B", B, "(p, q)", ndim=(2,))
        if self.B.size == 0:
            checks.fail("B", "at least one neuron in each group", f"shape {self.B.shape}")
        checks.finite("B", self.B)

    @classmethod
    def init(
        cls,
        key: PRNGKeyArray,
        n: int,
        *,
        p: int | None = None,
        scale: ArrayLike = 1.0,
        dtype: Any = None,
    ) -> BipartiteSkew:
        """B_ij normal with standard deviation scale √(2/n); p = n // 2 unless given."""
        checks.prng_key("key", key)
        n, dtype = checks.integer("n", n, 2), checks.float_dtype(dtype)
        scale = checks.positive("scale", scale, dtype)
        p = n // 2 if p is None else checks.integer("p", p, 1)
        if p >= n:
            checks.fail("p", f"a group smaller than n = {n}", p)
        return cls(jax.random.normal(key, (p, n - p), dtype) * (scale * math.sqrt(2 / n)))

    def to_second(self, first: Array) -> Array:
        return -product(self.B.T, first)

    def prepared(self) -> AbstractWeights:
        return BipartitePair(self.B, self.B.T)


# With fewer neurons one product with A takes less time than two with its factors. In whole runs and
# gradients of 4096 states these took 1.3 to 1.5 times as long for 2.5 and 5 neurons a rank (n = 20)
# and 1.4 to 1.9 for 2 (n = 64), 1.0 to 1.2 for 4 (n = 64 and 128).
_NEURONS_PER_RANK = 8


class LowRankSkew(AbstractWeights):
    """A = U Vᵀ - V Uᵀ, of rank 2r at most; a product costs O(n r).

    Args:
        U, V: (n, r), n >= 2, in √(1/s) each.

    Raises:
        TypeError, ValueError: where they are not finite floating-point matrices of one shape.
    """

    U: Float[Array, "n r"]
    V: Float[Array, "n r"]
    is_skew: ClassVar[bool] = True
    parameter_ndim: ClassVar[int | None] = 2

    def __init__(self, U: ArrayLike, V: ArrayLike):
        self.U = checks.float_array("U", U, "(n, r)", ndim=(2,))
        self.V = checks.float_array("V", V, "(n, r)", ndim=(2,))
        if self.U.shape != self.V.shape:
            checks.fail("V", f"the shape of U, {self.U.shape}", self.V.shape)
        if self.U.shape[0] < 2 or self.U.shape[1] < 1:
            checks.fail("U", "at least 2 neurons and rank 1", f"shape {self.U.shape}")
        checks.same_dtype("V", self.V, self.U.dtype, "U")
        checks.finite("U", self.U)
        checks.finite("V", self.V)

    @classmethod
    def init(
        cls,
        key: PRNGKeyArray,
        n: int,
        *,
        rank: int | None = None,
        scale: ArrayLike = 1.0,
        dtype: Any = None,
    ) -> LowRankSkew:
        """A_ij of standard deviation scale/√n; rank r = max(1, n // 8) unless given."""
        checks.prng_key("key", key)
        n, dtype = checks.integer("n", n, 2), checks.float_dtype(dtype)
        scale = checks.positive("scale", scale, dtype)
        rank = max(1, n // 8) if rank is None else checks.integer("rank", rank, 1)
        factor = (scale**2 / (2 * rank * n)) ** 0.25
        U, V = jax.random.normal(key, (2, n, rank), dtype) * factor
        return cls(U, V)

    @property
    def size(self) -> int:
        return self.U.shape[-2]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.U.dtype

    @property
    def nullity(self) -> int:
        return max(self.size - 2 * self.U.shape[-1], self.size % 2)

    def as_matrix(self) -> Float[Array, "n n"]:
        upper = product(self.U, self.V.T)
        return upper - upper.T

    def matvec(self, x: State) -> State:
        return self._factors(None).matvec(x)

    def prepared(self) -> AbstractWeights:
        pays = _NEURONS_PER_RANK * self.U.shape[-1] <= self.size
        return self._factors(None if pays else self.as_matrix())

    def _factors(self, matrix: Array | None) -> SkewFactors:
        left = jnp.concatenate([self.U, -self.V], axis=1)
        return SkewFactors(left, jnp.concatenate([self.V, self.U], axis=1).T, matrix)


class DenseWeights(AbstractWeights):
    """A = W without any constraint: the counter-example, which conserves nothing.

    Args:
        W: (n, n) in 1/s.

    Raises:
        TypeError, ValueError: where W is not a finite square floating-point matrix.
    """

    W: Float[Array, "n n"]
    is_skew: ClassVar[bool] = False
    parameter_ndim: ClassVar[int | None] = 2

    def __init__(self, W: ArrayLike):
        self.W = _square("W", W, 1)

    @classmethod
    def init(
        cls, key: PRNGKeyArray, n: int, *, scale: ArrayLike = 1.0, dtype: Any = None
    ) -> DenseWeights:
        """W_ij normal with standard deviation scale/√n: spectral radius near scale, in 1/s."""
        checks.prng_key("key", key)
        n, dtype = checks.integer("n", n, 1), checks.float_dtype(dtype)
        scale = checks.positive("scale", scale, dtype)
        return cls(jax.random.normal(key, (n, n), dtype) * (scale / math.sqrt(n)))

    @property
    def size(self) -> int:
        return self.W.shape[-1]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.W.dtype

    @property
    def nullity(self) -> int:
        return 0

    def as_matrix(self) -> Float[Array, "n n"]:
        return self.W

    def matvec(self, x: State) -> State:
        return product(self.W, x)


class Damped(AbstractWeights):
    """A - γ I: any weights, with a leak inside the activation.

    A skew-symmetric A has eigenvalues ±iω, which become -γ ± iω. The AntisymmetricRNN (Chang et al.
    2019), x' = tanh((A - γ I) x + B u + b) in Euler steps of dt, is
    `CTRNN(Damped(DenseSkew(W), gamma), bias=b, input_weights=B)` with `diffrax.Euler()`, and the
    Euler state network (Gallicchio 2024) is the same with weights that stay as they are drawn, of
    which only the read-out is fitted: `fit_readout`. A `leak` of the network is outside σ instead.

    Args:
        weights: A (n, n), such as `DenseSkew(W)`, in 1/s.
        gamma: γ >= 0 in 1/s, a scalar. It may be traced, and is trained with the weights.

    Raises:
        TypeError, ValueError: where an argument has the wrong kind, shape, dtype or sign.

    Source:
        Chang, Chen, Haber, Chi, "AntisymmetricRNN: A Dynamical System View on Recurrent Neural
        Networks", ICLR 2019. Gallicchio, "Euler State Networks: Non-dissipative Reservoir
        Computing", Neurocomputing 579, 2024.

    Example:
        >>> weights = ct.Damped(ct.DenseSkew.init(jax.random.key(0), 4), 0.1)
        >>> rnn = ct.CTRNN(weights, input_weights=jnp.ones((4, 1)))
    """

    weights: AbstractWeights
    gamma: Float[Array, "*members"]
    is_skew: ClassVar[bool] = False

    def __init__(self, weights: AbstractWeights, gamma: ArrayLike):
        expected = "weights such as DenseSkew(W)"
        self.weights = checks.instance("weights", weights, AbstractWeights, expected)
        if isinstance(gamma, int | float) and not isinstance(gamma, bool):
            gamma = checks.real("gamma", gamma, weights.dtype)
        self.gamma = checks.float_array("gamma", gamma, "()", ndim=(0,))
        checks.same_dtype("gamma", self.gamma, weights.dtype, "weights")
        checks.finite("gamma", self.gamma)
        if not checks.is_traced(self.gamma) and float(self.gamma) < 0:
            checks.fail("gamma", "a number >= 0", float(self.gamma))

    @classmethod
    def init(
        cls,
        key: PRNGKeyArray,
        n: int,
        *,
        gamma: ArrayLike = 0.1,
        scale: ArrayLike = 1.0,
        dtype: Any = None,
    ) -> Damped:
        """Around `DenseSkew.init(key, n, scale=scale)`, as in both sources."""
        return cls(DenseSkew.init(key, n, scale=scale, dtype=dtype), gamma)

    @property
    def parameter_ndim(self) -> int | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Of A; so many less where there is a γ for each of many networks."""
        inner = self.weights.parameter_ndim
        return None if inner is None else inner - jnp.ndim(self.gamma)

    @property
    def size(self) -> int:
        return self.weights.size

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.weights.dtype

    @property
    def nullity(self) -> int:
        return 0

    def as_matrix(self) -> Float[Array, "n n"]:
        return self.weights.as_matrix() - self.gamma * jnp.eye(self.size, dtype=self.dtype)

    def matvec(self, x: State) -> State:
        return self.weights.matvec(x) - self.gamma * x

    def prepared(self) -> AbstractWeights:
        return Damped(self.weights.prepared(), self.gamma)
