"""Products that are decided by size: measured on CPUs, see `benchmarks/throughput.py`.

Numbers of neurons are compared with `NEURONS` alone, from which tests take their sizes: what is
computed on both sides of each must agree with the general path, and so must its derivatives.
"""

from __future__ import annotations

# Below so many neurons one dense product takes less time than two that use a structure: with
# two groups 0.8 of it at 20, 1.0 at 64, 1.4 at 128; of rank 2·8 0.5, 1.1 and 2.2.
_STRUCTURE_PAYS_FROM = 64
_NEURONS_PER_RANK = 8

NEURONS = (_STRUCTURE_PAYS_FROM,)


def structure_pays(n: int, rank: int = 0) -> bool:
    """Whether products by the structure of A are faster than by A itself."""
    return n >= _STRUCTURE_PAYS_FROM and _NEURONS_PER_RANK * rank <= n
