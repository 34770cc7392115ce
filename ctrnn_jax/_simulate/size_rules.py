"""Blocks, segments and kernels that are decided by size: measured, see `benchmarks/scaling.py`."""

from __future__ import annotations

import math
import os
from typing import NamedTuple

from .segments import square_root_segment

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

# From so many numbers in all states on two devices take 0.45 to 0.7 of the time of one (Tsit5, 2 to
# 128 neurons); half as many took 0.8, an eighth 0.95 to 1.3.
_NUMBERS_PAYING = 2**13


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
    return max(_BYTES_PER_ROW // itemsize, 2 ** round(math.log2(size / (n * itemsize))))


def spare_columns(columns: int, itemsize: int, platform: str) -> int:
    """How many columns are stored beside those of saved states.

    What is read from rows of 1 KiB times a power of two comes from a few sets of the cache: four
    spare columns halve the time of saving 4096 states of 20 neurons.
    """
    return 16 // itemsize if platform == "cpu" and columns * itemsize % 1024 == 0 else 0


class Kernels(NamedTuple):
    """How the steps of a segment are made into kernels.

    Attributes:
        rows: of states as rows, with the products written out.
        together: so many steps in one kernel; of rows only.
        unrolled: so many steps in a round of the innermost loop, which is launched as one graph.
    """

    rows: bool = False
    together: int = 1
    unrolled: int = 1


ONE_BY_ONE = Kernels()

# A GPU takes 2.5 us to launch a kernel, 5 us for a graph of five or more, and 1 us for each of
# these, however little they compute. States as rows make one kernel of several steps, but compile
# the longer the more multiplications are written out in a round of the loop: for a gradient up to
# 20 s for 300.
_WRITTEN_OUT_IN_KERNEL = 64
_KERNELS_IN_ROUND = 5
_ARRAYS_IN_ROUND = 200
_STEPS_IN_ROUND = 25


def kernels(n: int, products: int, arrays: int, platform: str, unrolls: bool) -> Kernels:
    """How the steps of a solver are made into kernels.

    Args:
        n: neurons.
        products: of rows in a step; 0 where it is not made of rows.
        arrays: of a state's size that a step works on.
        platform: "cpu", "gpu", ...
        unrolls: whether several steps may stand in a round of a loop.
    """
    if platform == "cpu":
        return ONE_BY_ONE
    written_out = products * n**2
    if 0 < written_out <= _WRITTEN_OUT_IN_KERNEL:
        together = min(_WRITTEN_OUT_IN_KERNEL // written_out, _STEPS_IN_ROUND // _KERNELS_IN_ROUND)
        return Kernels(True, together, together * _KERNELS_IN_ROUND)
    if not unrolls:
        return ONE_BY_ONE
    return Kernels(unrolled=min(_STEPS_IN_ROUND, _ARRAYS_IN_ROUND // arrays))


# To look at what diverged takes the time of some four Euler steps on a CPU: each 25 steps a sixth
# of a run of 4096 states of 20 neurons. On a GPU it is some kernels and a wait of the host, as is
# to begin at a stored state. Reverse mode stores two states for each look.
_STEPS_BETWEEN_LOOKS = 200
_STORED_BETWEEN_LOOKS = 8
_LEAST_STORED_EVERY = 100


def steps_stored_every(num_steps: int, platform: str) -> int:
    """Steps between the states that reverse mode stores: as many as balance these and the states
    that it makes of one of them."""
    least = 1 if platform == "cpu" else _LEAST_STORED_EVERY
    return max(square_root_segment(num_steps), min(least, num_steps))


def steps_in_segment(stored_every: int, save_every: int) -> int:
    """Steps of a segment: for few looks at what diverged, as many as have no save between them."""
    between_looks = max(_STEPS_BETWEEN_LOOKS, _STORED_BETWEEN_LOOKS * stored_every)
    return max(stored_every, min(between_looks, save_every))


# Gone around together, orbits take as many steps as the longest of them, and CPUs are slow where a
# matrix of tangents of each is multiplied: one after another took 0.7 to 0.9 of the time with 12
# neurons, 0.15 to 0.6 with 20, 0.1 to 0.6 with 60 (4 to 160 orbits), 1.05 to 2 with 8 and 1.5 to 5
# with 3. Families of orbits differ in how often they are gone around: 0.33 with 3 (32 networks),
# 0.35 to 0.85 with 4, 0.13 to 0.3 with 6 and 8, but 2.7 to 4.4 with 2 (32 and 512 networks).
_NEURONS_ONE_BY_ONE = 12
_NEURONS_SEARCHED_ONE_BY_ONE = 3


def in_lockstep(n: int, platform: str, searched: bool) -> bool:
    """Whether orbits of a batch are gone around together, with their tangents or cotangents.

    Args:
        n: neurons.
        platform: "cpu", "gpu", ...
        searched: whether they are searched for, some in many more rounds than others.
    """
    return platform != "cpu" or n < (
        _NEURONS_SEARCHED_ONE_BY_ONE if searched else _NEURONS_ONE_BY_ONE
    )


def devices_pay(states: int, n: int) -> bool:
    """Whether a batch gains by a CPU device to each core."""
    return states * n >= _NUMBERS_PAYING


def cpu_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
