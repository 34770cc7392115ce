"""Blocks and saves that are decided by size: measured on CPUs, see `benchmarks/scaling.py`.

Numbers of neurons are compared with `NEURONS` alone, from which tests take their sizes: what is
computed on both sides of each must agree with the general path, and so must its derivatives.
"""

from __future__ import annotations

import math
import os

# From so many neurons on A fills the second-level cache, and exceeds it.
_CACHE_FILLED_FROM = 256
_CACHE_EXCEEDED_FROM = 1024

NEURONS = (_CACHE_FILLED_FROM, _CACHE_EXCEEDED_FROM)

# XLA runs an operation on an array below about 256 KiB on one core, and what a step of a block
# touches should stay in the second-level cache of the cores that work on it. One core with a device
# of its own: 256 to 512 KiB in all were best, 1.3 MiB had 0.6 to 0.7 of that speed (8 to 128
# neurons, second-level caches of 1 MiB). Several cores a device share a larger cache: 2 MiB an
# array, so that all of them have enough to do: 0.5 to 1.05 of the time without blocks, for 8 to 40
# neurons and 65536 to 262144 states (1 MiB: 0.5 to 1.25). Rows of less than 256 bytes are slow with
# any weights.
_BYTES_PER_CORE = 2**18.5
_BYTES_PER_ARRAY = 2**21
_BYTES_PER_ROW = 256

# Saved states are transposed into the output while they are in the cache: 1 to 8 MiB at once take
# 0.7 to 0.9 of the time that all of √steps take.
_BYTES_SAVED = 2**22


# From so many numbers in all states on two devices take 0.45 to 0.7 of the time of one (Tsit5, 2 to
# 128 neurons); half as many took 0.8, an eighth 0.95 to 1.3.
_NUMBERS_PAYING = 2**13


def _least_columns(n: int, itemsize: int) -> int:
    """Below so many columns products are slow."""
    if n < _CACHE_FILLED_FROM:
        return _BYTES_PER_ROW // itemsize
    return 128 if n < _CACHE_EXCEEDED_FROM else 64


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
    lone = devices >= cpu_cores()
    size = _BYTES_PER_CORE / arrays if lone else _BYTES_PER_ARRAY
    return max(_least_columns(n, itemsize), 2 ** round(math.log2(size / (n * itemsize))))


def saved_at_once(n: int, columns: int, itemsize: int, platform: str) -> tuple[int, int]:
    """How many saved states are written to the output together, and columns stored beside theirs.

    What is read from rows of 1 KiB times a power of two comes from a few sets of the cache: four
    spare columns halve the time of saving 4096 states of 20 neurons.
    """
    if platform != "cpu":
        return 2**31, 0
    spare = 16 // itemsize if columns * itemsize % 1024 == 0 else 0
    return max(1, _BYTES_SAVED // (n * columns * itemsize)), spare


def devices_pay(states: int, n: int) -> bool:
    """Whether a batch gains by a CPU device to each core."""
    return states * n >= _NUMBERS_PAYING


def cpu_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
