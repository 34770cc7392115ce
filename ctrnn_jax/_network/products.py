"""A as it is multiplied with states: what all weights offer, and forms prepared for a loop."""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._util.types import Array, Float, Inexact, State, matmul_precision


def product(
    a: Inexact[Array, "m n"], x: Inexact[Array, " n *batch"]
) -> Inexact[Array, " m *batch"]:
    """a x in full precision, unless the caller chose another."""
    return jnp.matmul(a, x, precision=matmul_precision())


@jax.custom_jvp
def skew_product(a: Float[Array, "n n"], x: State) -> State:
    """A x for a skew-symmetric A.

    What reverse mode makes of A dx is Aᵀ times a cotangent, for which XLA has no fast kernel on
    CPUs: gradients of runs took 1.05 (20 neurons) to 1.6 times as long (512). As (-A)ᵀ dx it
    becomes -A times it.
    """
    return product(a, x)


@skew_product.defjvp
def _skew_product_jvp(primals, tangents):
    (a, x), (da, dx) = primals, tangents
    # The value must be that of the function itself, not of a formula equal to it: under vmap, JAX
    # takes the batch axis of the one for that of the other, and a square comes out transposed.
    by_x = jax.lax.dot_general(-a, dx, (((0,), (0,)), ((), ())), precision=matmul_precision())
    return skew_product(a, x), product(da, x) + by_x


class AbstractWeights(eqx.Module):
    """A of shape (n, n), in 1/s, known by its product with a state."""

    is_skew: eqx.AbstractClassVar[bool]
    parameter_ndim: ClassVar[int | None] = None
    """Dimensions of each array of parameters, which in an ensemble has more; None: not known."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """The number of neurons, n."""

    @property
    @abc.abstractmethod
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the parameters."""

    @property
    @abc.abstractmethod
    def nullity(self) -> int:
        """The dimension of the kernel of A for parameters in general position."""

    @abc.abstractmethod
    def as_matrix(self) -> Float[Array, "n n"]:
        """A as an array (n, n)."""

    @abc.abstractmethod
    def matvec(self, x: State) -> State:
        """A x for one state (n,) or a batch of columns (n, batch)."""

    def prepared(self) -> AbstractWeights:
        """The same A with what does not change from step to step computed beforehand."""
        return self


class AbstractTwoGroups(AbstractWeights):
    """Skew-symmetric weights of two groups of neurons without coupling inside a group.

    Each group acts on the other alone: a step may move all neurons of a group at once.
    """

    is_skew: ClassVar[bool] = True

    @abc.abstractmethod
    def split(self, x: Array) -> tuple[Array, Array]:
        """The rows of x that belong to the first and to the second group."""

    @abc.abstractmethod
    def join(self, first: Array, second: Array) -> Array:
        """The inverse of `split`."""

    @abc.abstractmethod
    def to_first(self, second: Array) -> Array:
        """The rows of A x in the first group, which depend on the second group alone."""

    @abc.abstractmethod
    def to_second(self, first: Array) -> Array:
        """The rows of A x in the second group, which depend on the first group alone."""

    def matvec(self, x: State) -> State:
        first, second = self.split(x)
        return self.join(self.to_first(second), self.to_second(first))


class SkewMatrix(AbstractWeights):
    """A itself, already skew-symmetric: what `DenseSkew` prepares for a loop."""

    A: Float[Array, "n n"]
    is_skew: ClassVar[bool] = True

    @property
    def size(self) -> int:
        return self.A.shape[-1]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.A.dtype

    @property
    def nullity(self) -> int:
        return self.size % 2

    def as_matrix(self) -> Float[Array, "n n"]:
        return self.A

    def matvec(self, x: State) -> State:
        return skew_product(self.A, x)


class SkewFactors(AbstractWeights):
    """A = L R, and A itself where its rank is high: what `LowRankSkew` prepares for a loop."""

    left: Float[Array, "n k"]
    right: Float[Array, "k n"]
    matrix: Float[Array, "n n"] | None
    is_skew: ClassVar[bool] = True

    @property
    def size(self) -> int:
        return self.left.shape[-2]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.left.dtype

    @property
    def nullity(self) -> int:
        return max(self.size - self.left.shape[-1], self.size % 2)

    def as_matrix(self) -> Float[Array, "n n"]:
        if self.matrix is not None:
            return self.matrix
        product_ = product(self.left, self.right)
        return (product_ - product_.T) / 2

    def matvec(self, x: State) -> State:
        if self.matrix is not None:
            return skew_product(self.matrix, x)
        return product(self.left, product(self.right, x))


class AbstractBipartite(AbstractTwoGroups):
    """A = [[0, B], [-Bᵀ, 0]] with B (p, q): the first p neurons are one group."""

    B: eqx.AbstractVar[Float[Array, "p q"]]

    @property
    def size(self) -> int:
        return self.B.shape[-2] + self.B.shape[-1]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.B.dtype

    @property
    def nullity(self) -> int:
        return abs(self.B.shape[-2] - self.B.shape[-1])

    def as_matrix(self) -> Float[Array, "n n"]:
        p, q = self.B.shape
        zero_p, zero_q = jnp.zeros((p, p), self.dtype), jnp.zeros((q, q), self.dtype)
        return jnp.block([[zero_p, self.B], [-self.B.T, zero_q]])

    def split(self, x: Array) -> tuple[Array, Array]:
        return x[: self.B.shape[0]], x[self.B.shape[0] :]

    def join(self, first: Array, second: Array) -> Array:
        return jnp.concatenate([first, second])

    def to_first(self, second: Array) -> Array:
        return product(self.B, second)


class BipartitePair(AbstractBipartite):
    """B beside its transpose: what `BipartiteSkew` prepares for a loop.

    A product with `B.T` may be compiled in one of two ways, which round differently, by what else
    the program does with B: in a chaotic network another rounding is another trajectory.
    """

    B: Float[Array, "p q"]
    transpose: Float[Array, "q p"]

    def to_second(self, first: Array) -> Array:
        return -product(self.transpose, first)
