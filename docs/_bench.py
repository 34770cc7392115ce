"""Tables and pictures of the reports in docs/bench, as `ctrnn bench` writes them.

python benchmarks/throughput.py --out runs/bench
cp runs/bench/throughput.json docs/bench/throughput_2026-11-28.json
"""

import io
import json
import textwrap
from collections import defaultdict
from pathlib import Path

HEAD = """# Stored results

Reports of `ctrnn bench`, drawn as they are stored in `docs/bench`, SUITE_DATE.json: medians, and the interval from 10 % to
90 % of the rounds. "Ratio" is the time over that of the reference, taken within rounds in which the
candidates took turns: below 1 is faster.
"""


def pages(folder: Path) -> dict[str, str | bytes]:
    """The page of all reports in a folder, and its pictures."""
    made: dict[str, str | bytes] = {}
    lines = [HEAD]
    for path in sorted(folder.glob("*.json")):
        report = json.loads(path.read_text(encoding="utf-8"))
        for name, suite in report["suites"].items():
            machine = {**report["environment"], **suite.get("environment", {})}
            date = path.stem.rpartition("_")[2]
            lines += [f"## {name}, {date}", "", _told(machine), ""]
            lines += [f"- {notice}" for notice in suite["notices"]] + [""]
            if any(row["ratio"] for row in suite["rows"]):
                picture = f"benchmarks/{path.stem}_{name}.svg"
                made[picture] = _picture(suite["rows"])
                lines += [
                    f"![Times of the candidates over the reference, by case]({Path(picture).name})",
                    "",
                ]
            lines += _tables(suite["rows"])
    return {"benchmarks/results.md": "\n".join(lines), **made}


def _told(machine: dict) -> str:
    return (
        "Measured on: "
        + ", ".join(
            f"{key} {value}"
            for key, value in machine.items()
            if isinstance(value, str | int | float)
        )
        + "."
    )


def _tables(rows: list[dict]) -> list[str]:
    """A table for each case."""
    cases = defaultdict(list)
    for row in rows:
        cases[row["case"]].append(row)
    lines = []
    for case, of in cases.items():
        lines += [
            f"### {case}",
            "",
            "| candidate | quantity | median | 10 % to 90 % | ratio |",
        ]
        lines += ["|---|---|---|---|---|"]
        for row in of:
            unit, ratio = row["unit"], row["ratio"]
            spread = f"{_number(row['low'], unit)} to {_number(row['high'], unit)}"
            cells = [
                row["candidate"],
                row["quantity"],
                _number(row["median"], unit),
                spread,
            ]
            lines.append(
                "| "
                + " | ".join([*cells, f"{ratio['median']:.2f}" if ratio else ""])
                + " |"
            )
        lines.append("")
    return lines


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return "not finite"
    if unit == "s" and 0 < value < 1:
        factor, unit = (1e3, "ms") if value >= 1e-3 else (1e6, "µs")
        value *= factor
    return f"{value:.3g} {unit}".rstrip()


def _picture(rows: list[dict]) -> bytes:
    """Ratios of all candidates, a row for each case; legible on light and dark ground."""
    import matplotlib
    from matplotlib.figure import Figure

    timed = [row for row in rows if row["ratio"]]
    cases = list(
        dict.fromkeys(f"{row['case']}, {row['quantity']}" for row in timed)
    )
    grey = "#808080"
    with matplotlib.rc_context(
        {"svg.hashsalt": "ctrnn", "text.color": grey, "axes.edgecolor": grey}
    ):
        figure = Figure(figsize=(8, 1.2 + 0.45 * len(cases)), layout="constrained")
        ax = figure.add_subplot()
        marks = "osD^v<>PX*hp"
        for i, name in enumerate(dict.fromkeys(row["candidate"] for row in timed)):
            of = [row for row in timed if row["candidate"] == name]
            y = [cases.index(f"{row['case']}, {row['quantity']}") for row in of]
            x = [row["ratio"]["median"] for row in of]
            ax.plot(x, y, marks[i % len(marks)], label=name, color=f"C{i}", ms=5)
        ax.axvline(1, color=grey, lw=1)
        ax.set_xscale("log")
        ax.set_yticks(
            range(len(cases)), [textwrap.fill(case, 34) for case in cases]
        )
        ax.set_ylim(len(cases) - 0.5, -0.5)
        ax.set_xlabel("time over that of the reference", color=grey)
        ax.tick_params(colors=grey, which="both")
        figure.legend(
            loc="outside lower center", ncols=3, frameon=False, labelcolor=grey
        )
        out = io.BytesIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return out.getvalue()
