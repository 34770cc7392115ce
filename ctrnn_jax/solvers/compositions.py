"""Compositions of a symmetric second-order step into higher orders.

A row of fractions γ_1 ... γ_s stands for the steps γ_1 h, ..., γ_s h, one after another. All
are symmetric, so the composed step is reversible as well.
"""

from __future__ import annotations

_SUZUKI = 1 / (4 - 4 ** (1 / 3))
_KAHAN_LI = (
    0.39216144400731413928,
    0.33259913678935943860,
    -0.70624617255763935981,
    0.082213596293550800230,
)

COMPOSITIONS: dict[int, tuple[float, ...]] = {
    2: (1.0,),
    # Suzuki 1990; Hairer, Lubich, Wanner, Geometric Numerical Integration, example II.4.3.
    4: (_SUZUKI, _SUZUKI, 1 - 4 * _SUZUKI, _SUZUKI, _SUZUKI),
    # Kahan and Li 1997, s9odr6a; Hairer, Lubich, Wanner, section V.3.2.
    6: (*_KAHAN_LI, 1 - 2 * sum(_KAHAN_LI), *reversed(_KAHAN_LI)),
}
