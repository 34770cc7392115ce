"""What is decided by size: measured on CPUs, see `benchmarks/throughput.py` and `scaling.py`."""

from __future__ import annotations

import math
import os

# Below so many neurons one dense product takes less time than two that use a structure: with
# two groups 0.8 of it at 20, 1.0 at 64, 1.4 at 128; of rank 2·8 0.5, 1.1 and 2.2.
_STRUCTURE_PAYS_FROM = 64

# XLA runs an operation on an array below about 256 KiB on one core, and what a step of a block
# touches should stay in the second-level cache of the cores that work on it. One core with a device
# of its own: 512 KiB in all were best (0.84 of the limit for Euler, two neurons, instead of 0.64).
# Several cores a device share a larger cache: 2 MiB an array, so that all of them have enough to
# do: 0.7 to 1.05 of the time without blocks, for 8 to 40 neurons and 65536 to 262144 states (1 MiB:
# 0.8 to 1.25). Fewer columns than 64 are slow with any weights, and products by a matrix that fills
# the cache need 128 (64 take 1.15 of the time for 512 neurons; from 1024 on they do not).
_BYTES_PER_CORE = 2**19
_BYTES_PER_ARRAY = 2**21
_LEAST_BLOCK, _LEAST_VALUES = 64, 2**16


def structure_pays(n: int, rank: int = 0) -> bool:
    """Whether products by the structure of A are faster than by A itself."""
    return n >= _STRUCTURE_PAYS_FROM and 8 * rank <= n


def block_size(n: int, itemsize: int, arrays: int, platform: str, devices: int) -> int | None:
    """How many states a device steps at once; None where all of them.

    Args:
        n: neurons.
        itemsize: bytes of a number.
        arrays: arrays of a state's size that a step works on.
        platform: "cpu", "gpu", ...
        devices: devices of this process that work at the same time.
    """
    if platform != "cpu":
        return None
    lone = devices >= _cores()
    size = _BYTES_PER_CORE / arrays if lone else _BYTES_PER_ARRAY
    least = max(_LEAST_BLOCK, min(2 * _LEAST_BLOCK, _LEAST_VALUES // n))
    return max(least, 2 ** round(math.log2(size / (n * itemsize))))


def spare_columns(columns: int, itemsize: int, platform: str) -> int:
    """Columns to store beside those of saved states, so that they are transposed fast.

    What is read from rows of 1 KiB times a power of two comes from a few sets of the cache: two
    spare columns in float64 halve the time of saving 4096 states of 20 neurons.
    """
    return 16 // itemsize if platform == "cpu" and columns * itemsize % 1024 == 0 else 0


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
