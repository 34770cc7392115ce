"""The picture of an energy balance."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from .._analysis.balance import EnergyBalance
from .._util import checks
from ._style import LINE, add_legend, add_name, axes_or_new

# A broad light line under thin dark ones, so that all are seen where they agree.
_CHANGE: dict[str, Any] = {"color": "0.7", "linewidth": 4, "solid_capstyle": "round"}
_SUPPLIED: dict[str, Any] = {"color": LINE, "linewidth": 1.5, "linestyle": "--"}
_DISSIPATED: dict[str, Any] = {"color": "#c44e00", "linewidth": 1.5, "linestyle": "-."}
_MISSING: dict[str, Any] = {"color": "black", "linewidth": 0.9, "linestyle": ":"}
_SHARE = 0.36  # of the height, below all else, for what is missing
_DECADES, _MOST_DECADES = 4, 12  # range of its axis


def energy_balance(balance: EnergyBalance, *, ax: Axes | None = None) -> Axes:
    """Where the energy came from and went to, against time, and below that what is missing.

    The change of the energy, what the input supplied and what was dissipated, if anything was:
    change = supplied - dissipated, where the solver makes no error. What is missing from that is
    black and dotted, below the others and with a logarithmic axis of its own, on the right. By
    less than the rounding of what was exchanged so far it is drawn at that.

    For a batch the medians at each time, with 10 to 90 % bands. The legend tells the largest of all
    that is missing, and the largest of all that was exchanged, with which it is to be compared.

    Args:
        balance: of `ctrnn_jax.energy_balance`.

    Raises:
        TypeError, ValueError: for anything else, and where fewer than 2 states are finite.

    Example:
        >>> balance = ct.energy_balance(rnn, run.xs, u, dt=0.1)
        >>> ct.plot.energy_balance(balance).figure.savefig("balance.pdf")
    """
    expected = "an EnergyBalance, as of energy_balance"
    checks.instance("balance", balance, EnergyBalance, expected)
    ts = np.asarray(balance.ts)
    rows = (a.reshape(-1, len(ts)) for a in (
        balance.energy, balance.supplied, balance.dissipated, balance.exchanged, balance.missing
    ))  # fmt: skip
    energy, supplied, dissipated, exchanged, missing = map(np.asarray, rows)
    finite = np.isfinite(missing)
    some = finite.any(axis=0)
    if some.sum() < 2:
        checks.fail("balance", "2 finite states at least", "fewer")
    ax = axes_or_new(ax)
    count = len(energy)
    of = f", median of {count}" if count > 1 else ""
    _draw(ax, ts[some], (energy - energy[:, :1])[:, some], _CHANGE, f"change of energy{of}")
    _draw(ax, ts[some], supplied[:, some], _SUPPLIED, "supplied by the input")
    if dissipated[finite].any():
        _draw(ax, ts[some], dissipated[:, some], _DISSIPATED, "dissipated")
    ax.plot([], [], **_MISSING, label="|missing| (right)")
    add_name(ax, f"{count} trajectories, bands: 10 to 90 %" if count > 1 else "")
    ax.set(xlabel="time (s)", ylabel="energy (a.u.)")
    low, high = ax.get_ylim()
    ax.set_ylim(bottom=low - (high - low) * _SHARE / (1 - _SHARE), auto=None)

    later = some & (np.arange(len(ts)) > 0)
    worst, most = np.abs(missing[finite]).max(), exchanged[finite].max()
    eps = np.finfo(missing.dtype).eps
    least = eps * np.maximum(exchanged, eps * (most or 1))
    size = np.where(finite, np.maximum(np.abs(missing), least), np.nan)[:, later]
    right = ax.twinx()
    right.set(yscale="log", ylabel="|missing energy| (a.u.)")
    _draw(right, ts[later], size, _MISSING, "|missing| (right)")
    add_legend(ax, f"missing: at most {worst:.2g}, exchanged: {most:.2g}")
    # Below the others: so many decades that the largest is as high as the share allows.
    bottom, top = np.log10(np.nanquantile(size, (0.01, 1)))
    bottom, top = np.clip(bottom, top - _MOST_DECADES, top - _DECADES), top + 0.3
    taken = (low - ax.get_ylim()[0]) / np.ptp(ax.get_ylim())
    right.set_ylim(10.0**bottom, 10.0 ** min(bottom + (top - bottom) / taken, 300))
    return ax


def _draw(ax: Axes, ts: np.ndarray, values: np.ndarray, style: dict[str, Any], label: str) -> None:
    """The median of values (B, len(ts)), and for a batch a band."""
    low, median, high = np.nanquantile(values, (0.1, 0.5, 0.9), axis=0)
    ax.plot(ts, median, **style, label=label)
    if len(values) > 1:
        ax.fill_between(ts, low, high, color=style["color"], alpha=0.2, linewidth=0)
