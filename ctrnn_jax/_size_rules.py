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
# Several cores a device: 1 MiB an array, so that all of them work.
_BYTES_PER_CORE = 2**19
_BYTES_PER_ARRAY = 2**20


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
    return max(1, 2 ** round(math.log2(size / (n * itemsize))))


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
