"""What `ctrnn analyse` tells: numbers, sentences, and the page."""

from __future__ import annotations

import dataclasses
import html
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from .._analysis.analyse import Analysis
from .._analysis.nonlinear_modes import STABLE, UNSTABLE
from .._analysis.regime import QUASI_PERIODIC, Regime
from .._analysis.step_sizes import PER_PERIOD
from .._files.page import page, picture, table
from .analyse_pictures import pictures

_MOST_ROWS = 40


def as_numbers(found: Analysis) -> dict[str, Any]:
    """For JSON: complex numbers by modulus and angle, states of a few neurons only."""
    modes, regimes = found.modes, found.regimes
    numbers: dict[str, Any] = {
        "matrix": found.matrix,
        "frequencies": found.frequencies,
        "fixed_point": found.fixed_point,
        "modes": None,
        "regimes": {
            "amplitudes": found.amplitudes,
            **_regime_numbers(regimes),
        },
        "own": None if found.own is None else _regime_numbers(found.own),
        "lyapunov_exponents_per_s": {
            "amplitudes": found.amplitudes[found.shown],
            "exponents": found.exponents,
            "zero_comes_out_near": found.exponents_bound,
        },
        "steps": {
            name: {"steps_per_period": PER_PERIOD, **m._asdict()} for name, m in found.steps.items()
        },
        "suggested": found.suggested,
        "remarks": found.remarks,
    }
    if modes is not None:
        multipliers = np.asarray(modes.multipliers)
        numbers["modes"] = {
            "energies": modes.energies,
            "periods_s": modes.periods,
            "status": modes.words(),
            "reached": modes.reached,
            "residuals": modes.residuals,
            "largest_multiplier": np.abs(multipliers).max(axis=-1, initial=0),
            "states": modes.states if found.rnn.size <= 20 else None,
        }
    if found.sections is not None:
        times = np.asarray(found.sections.ts)
        numbers["sections"] = {"crossings": np.isfinite(times).sum(axis=-1)}
    return numbers


def _regime_numbers(regime: Regime) -> dict[str, Any]:
    fields = {field.name: getattr(regime, field.name) for field in dataclasses.fields(regime)}
    return {"words": regime.words(), **fields}


def summary(found: Analysis) -> list[str]:
    """The findings, a sentence each."""
    matrix, hz = found.matrix, found.frequencies["hz"]
    n, kernel = matrix["neurons"], matrix["casimirs"]
    lines = [
        f"{n} neurons, {found.rnn.form} form, {type(found.rnn.activation).__name__}: rank"
        f" {matrix['rank']}, {kernel} Casimir{'s' * (kernel != 1)}."
    ]
    nonzero = [f for f in hz if f > 0]
    if nonzero:
        lines.append(f"Linear frequencies from {nonzero[0]:.4g} to {nonzero[-1]:.4g} Hz.")
    if found.modes is not None and np.isfinite(found.modes.periods).any():
        lines.append(_families(found))
    for k in sorted({0, len(found.amplitudes) - 1}):
        lines.append(f"At amplitude {found.amplitudes[k]:.3g}: {_share_of(found.regimes, k)}.")
    if found.own is not None:
        count = int(found.own.num_frequencies)
        more = f", {count} frequencies" if found.own.status == QUASI_PERIODIC else ""
        lines.append(f"From the state of the file: {found.own.words()}{more}.")
    if found.suggested is not None:
        lines += _advice(found.suggested)
    return lines + found.remarks


def _families(found: Analysis) -> str:
    modes = found.modes
    assert modes is not None
    last = np.isfinite(np.asarray(modes.periods)).sum(axis=1)
    stable = (np.asarray(modes.status) == STABLE).all(axis=1)
    E = np.asarray(modes.energies)
    return (
        f"Closed orbits: {int((last > 0).sum())} of {len(last)} families were followed,"
        f" {int((last == len(E)).sum())} of them up to energy {E[-1]:.3g},"
        f" {int(stable.sum())} of these stable all the way."
    )


def _share_of(regimes: Regime, k: int) -> str:
    words = Counter(regimes.words()[k].ravel().tolist())
    total = sum(words.values())
    return ", ".join(f"{100 * c / total:.0f} % {word}" for word, c in words.most_common())


def _advice(suggested: dict[str, Any]) -> list[str]:
    told = []
    for kind, why in (("cheapest", "fewest products"), ("long_runs", "for long runs")):
        name = suggested[kind]
        step = suggested["steps"][name]
        sentence = (
            f"{name}, {why}: dt = {step['dt_s']:.4g} s ({step['steps_per_period']} steps in the"
            f" fastest period); phase wrong by {step['turns_in_100_periods']:.2g} turns after 100"
            f" periods, energy by {step['energy_drift']:.2g} after {step['periods']:.0f}"
        )
        if step["energy_kept_for_periods"] is not None:
            sentence += f", so by 0.001 after some {step['energy_kept_for_periods']:.2g}"
        told.append(sentence + ".")
    return list(dict.fromkeys(told))


def report(found: Analysis, settings: dict[str, Any]) -> str:
    """The page."""
    shown = pictures(found)
    name = html.escape(str(settings["subject"]))
    parts = [f"<h1>What {name} does</h1>", _listed(summary(found))]
    parts += ["<h2>Weights</h2>", _pairs(_weights(found))]
    parts += ["<h2>Linear frequencies</h2>", _frequencies(found)]
    parts += ["<h2>Fixed point</h2>", _pairs(_fixed_point(found))]
    if found.modes is not None:
        parts += ["<h2>Closed orbits</h2>", *_shown(shown, "backbone"), _modes(found)]
    parts += ["<h2>Regimes</h2>", *_shown(shown, "regimes"), _regimes(found)]
    parts += ["<h2>Lyapunov exponents</h2>", *_shown(shown, "exponents")]
    if "sections" in shown:
        parts += ["<h2>Sections of typical orbits</h2>", *_shown(shown, "sections")]
    if "steps" in shown:
        parts += ["<h2>Solver and step</h2>", *_shown(shown, "steps")]
        if found.suggested is not None:
            parts.append(_listed(_advice(found.suggested)))
    told = html.escape(json.dumps(settings, indent=1))
    parts.append(f"<details><summary>Settings</summary><pre><code>{told}</code></pre></details>")
    return page(f"What {settings['subject']} does", parts)


def _shown(shown: dict[str, tuple[bytes, str, str]], name: str) -> list[str]:
    return [picture(*shown[name])] if name in shown else []


def _listed(lines: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"


def _pairs(rows: dict[str, str]) -> str:
    return table((), [(html.escape(k), html.escape(v)) for k, v in rows.items()])


def _weights(found: Analysis) -> dict[str, str]:
    m = found.matrix
    blocks = Counter(m["blocks"])
    rows = {
        "neurons": f"{m['neurons']} ({m['dtype']})",
        "largest weight": f"{m['largest_entry_per_s']:.4g} /s",
        "norm ‖A‖, the fastest angular frequency": f"{m['norm_per_s']:.4g} rad/s",
        "symmetric part of the matrix given": "none"
        if m["symmetric_part"] == 0
        else f"{100 * m['symmetric_part']:.2g} % of its largest entry, left out",
        "rank": str(m["rank"]),
        "Casimirs (dimension of the kernel)": str(m["casimirs"]),
        "weights that are 0": f"{100 * m['share_of_zeros']:.0f} %",
        "independent blocks": "none: the neurons hang together"
        if len(m["blocks"]) == 1
        else ", ".join(f"{c} of {s} neuron{'s' * (s > 1)}" for s, c in blocks.items()),
    }
    for k, v in enumerate(m["kernel"] or []):
        rows[f"kernel vector {k + 1}: kᵀz is conserved"] = ", ".join(f"{x:.3g}" for x in v)
    return rows


def _frequencies(found: Analysis) -> str:
    told = found.frequencies
    hz = told["hz"]
    text = ", ".join(f"{f:.5g}" for f in hz[:_MOST_ROWS])
    text += f" and {len(hz) - _MOST_ROWS} more" * (len(hz) > _MOST_ROWS)
    lines = [f"In Hz: {text}."]
    lines += [f"{d['times']} coincide at {d['hz']:.5g} Hz." for d in told["degenerate"]]
    if told["zero"]:
        lines.append(f"{told['zero']} are 0: the kernel has more than the one dimension of odd n.")
    lines += [
        f"{m['hz']:.5g} Hz is {m['times']} times {m['of_hz']:.5g} Hz: Lyapunov's theorem does not"
        " promise a family of closed orbits to the slower one."
        for m in told["multiples"]
    ]
    return _listed(lines)


def _fixed_point(found: Analysis) -> dict[str, str]:
    p = found.fixed_point
    if not p["found"]:
        return {"found": "none: the equations have none, or it was not reached from the origin"}
    d = p["dimension"]
    rows = {
        "kind": p["kind"],
        "beside it": "no other one" if not d else f"others, in {d} dimension{'s' * (d > 1)}",
        "largest entry": f"{p['largest_entry']:.4g}",
        "|x'| left": f"{p['residual']:.2g} of what cancels",
    }
    if p["state"] is not None and p["largest_entry"] > 0:
        rows["state"] = ", ".join(f"{x:.4g}" for x in p["state"])
    return rows


def _modes(found: Analysis) -> str:
    modes = found.modes
    assert modes is not None
    E, T = np.asarray(modes.energies), np.asarray(modes.periods)
    rows = []
    for k, (words, status) in enumerate(zip(modes.words(), np.asarray(modes.status), strict=True)):
        count = int(np.isfinite(T[k]).sum())
        unstable = np.flatnonzero(status == UNSTABLE)
        first, last = (f"{1 / T[k, i]:.5g}" if count else "" for i in (0, count - 1))
        rows.append(
            (
                str(k),
                first,
                last if count else "",
                f"{E[count - 1]:.3g}" if count else "none",
                f"{E[unstable[0]]:.3g}" if len(unstable) else "stable" if count else "",
                "" if count == len(E) else html.escape(str(words[count])),
                f"{np.nanmax(np.asarray(modes.residuals)[k]):.1g}" if count else "",
            )
        )
    head = (
        "mode", f"Hz at energy {E[0]:.3g}", "Hz at the last energy", "last energy",
        "unstable from energy", "why no further", "largest residual",
    )  # fmt: skip
    return table(head, rows[:_MOST_ROWS])


def _regimes(found: Analysis) -> str:
    regimes, rows = found.regimes, []
    exponent, drift = np.asarray(regimes.exponent), np.asarray(regimes.drift)
    count, status = np.asarray(regimes.num_frequencies), np.asarray(regimes.status)
    for k, a in enumerate(found.amplitudes):
        several = Counter(count[k][status[k] == QUASI_PERIODIC].tolist())
        finite = exponent[k][np.isfinite(exponent[k])]
        rows.append(
            (
                f"{a:.3g}",
                html.escape(_share_of(regimes, k)),
                ", ".join(f"{m} ({c} states)" for m, c in sorted(several.items())) or "-",
                f"{np.median(finite):.2g}" if finite.size else "-",
                f"{np.nanmax(drift[k]):.1g}" if np.isfinite(drift[k]).any() else "-",
            )
        )
    head = (
        "amplitude", "regimes", "independent frequencies of quasi-periodic states",
        f"largest exponent, median (1/s; 0 within {float(regimes.bound):.2g})",
        "largest energy drift of these runs",
    )  # fmt: skip
    return table(head, rows)
