"""The least time that a case can take on this machine, by the best rates that it shows.

A matrix product is timed at many shapes, tanh at many sizes, each inside a loop that JAX compiles
as a whole, so that no call from Python counts; on accelerators memory is timed too. The best rate
of all is the machine's. A shared machine is slow at times: measure again and keep the best.

    python benchmarks/limit.py
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from measure import cores

PRODUCTS = ((256, 256), (512, 512), (1024, 1024), (2048, 2048), (128, 4096), (512, 4096))
LARGE_PRODUCTS = ((4096, 4096), (8192, 8192))  # on accelerators
ELEMENTS = tuple(2**k for k in range(11, 22, 2))
# On accelerators: a kernel on fewer numbers costs its launch, and one that does more to each than
# read and write it shows the rate of tanh, not of memory.
LARGE_ELEMENTS = tuple(2**k for k in range(19, 26, 2))
DEEP = 32  # tanh one after another
STREAMED = 2**27  # numbers of a copy that no cache holds
REPEATS = 3


class Limit(NamedTuple):
    """Best rates: flop/s of products, tanh/s, and byte/s of memory where that counts."""

    products: float
    tanh: float
    memory: float = math.inf

    def least(self, flops: float, activations: float, bytes: float = 0.0) -> float:
        """Seconds in which that much can be done."""
        return flops / self.products + activations / self.tanh + bytes / self.memory

    def or_better(self, other: Limit) -> Limit:
        return Limit(*map(max, self, other))


def limit(dtype: Any) -> Limit:
    """The best rates in this dtype, now; the first call compiles, for seconds."""
    memory = {} if on_cpu() else {"memory": max(_memory_rates(dtype))}
    return Limit(max(_product_rates(dtype)), max(_tanh_rates(dtype)), **memory)


def on_cpu() -> bool:
    return jax.default_backend() == "cpu"


@partial(jax.jit, static_argnums=0)
def _products(times: int, a: jax.Array, x: jax.Array) -> jax.Array:
    product = partial(jnp.matmul, a, precision=lax.Precision.HIGHEST)
    return lax.fori_loop(0, times, lambda _, x: product(x), x)


@partial(jax.jit, static_argnums=(0, 1))
def _tanh(times: int, deep: int, x: jax.Array) -> jax.Array:
    return _repeated(times, deep, jnp.tanh, x)


@partial(jax.jit, static_argnums=(0, 1))
def _tanh_step(times: int, deep: int, x: jax.Array) -> jax.Array:
    return _repeated(times, deep, lambda x: x + 0.01 * jnp.tanh(x), x)


def _repeated(times: int, deep: int, function: Callable, x: jax.Array) -> jax.Array:
    """`deep` times in each of so many rounds of a loop."""

    def round_of(_, x):
        for _ in range(deep):
            x = function(x)
        return x

    return lax.fori_loop(0, times, round_of, x)


@partial(jax.jit, static_argnums=0)
def _copies(times: int, x: jax.Array) -> jax.Array:
    return lax.fori_loop(0, times, lambda _, x: x + 1, x)


def _product_rates(dtype: Any) -> Iterator[float]:
    for n, columns in PRODUCTS if on_cpu() else PRODUCTS + LARGE_PRODUCTS:
        flops = 2 * n * n * columns
        times = max(2, int((5e9 if on_cpu() else 1e12) / flops))
        a = jnp.full((n, n), 1 / n, dtype)
        for x in _placed(jnp.ones((n, columns), dtype)):
            yield times * flops / _seconds(_products, times, a, x)


def _tanh_rates(dtype: Any) -> Iterator[float]:
    deep = 1 if on_cpu() else DEEP
    for elements in ELEMENTS if on_cpu() else LARGE_ELEMENTS:
        times = max(2, int((4e7 if on_cpu() else 1e10) / (deep * elements)))
        for x in _placed(jnp.linspace(-2, 2, elements, dtype=dtype)[None]):
            for loop in (_tanh, _tanh_step):
                yield times * deep * elements / _seconds(loop, times, deep, x)


def _memory_rates(dtype: Any) -> Iterator[float]:
    x, times = jnp.zeros(STREAMED, dtype), 20
    yield 2 * x.nbytes * times / _seconds(_copies, times, x)  # read and written


def _placed(x: jax.Array) -> Iterator[jax.Array]:
    """x on the first device; then, where the CPU is several, its columns shared by all of them."""
    yield x
    if on_cpu() and 1 < len(jax.devices()) <= cores():
        mesh = Mesh(np.array(jax.devices()), ("batch",))
        yield jax.device_put(x, NamedSharding(mesh, PartitionSpec(None, "batch")))


def _seconds(function: Any, *arguments: Any) -> float:
    """The least seconds of a few calls, after one that compiles."""
    jax.block_until_ready(function(*arguments))
    found = math.inf
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        found = min(found, time.perf_counter() - start)
    return found


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    for dtype in ("float32", "float64"):
        products, tanh, memory = limit(dtype)
        bandwidth = "" if on_cpu() else f", memory {memory / 1e9:.0f} GB/s"
        print(
            f"{dtype}: products {products / 1e9:.0f} GFLOP/s, tanh {tanh / 1e9:.2f} G/s{bandwidth}"
        )


if __name__ == "__main__":
    main()
