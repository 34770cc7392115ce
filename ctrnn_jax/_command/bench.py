"""`ctrnn bench`: suites, each in a process of its own, and their reports compared.

A suite is a script of the folder `benchmarks`. It leaves plots and a report, {"environment",
"suites": {name: {"rows", "notices", "facts"}}}, as `benchmarks/measure.py` writes it.
"""

from __future__ import annotations

import collections
import contextlib
import json
import math
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from typer import Argument, Option

from .._files.writing import appearing, appearing_together, owned, place_for, write_json
from .._util import checks
from .._util.classes import listed
from .options import Context, Out

SUITES = (
    "throughput", "gradients", "work-precision", "training", "memory", "scaling", "compile"
)  # fmt: skip
ON_ACCELERATORS = ("gpu",)  # refused elsewhere, so it must be asked for

_OURS = "ctrnn_jax"
_OUT = Path("runs/bench")
_PACKAGE = Path(__file__).parent.parent
_MACHINE = {"processor", "cores", "backend"}  # times of different ones are not comparable
_ALONE = 0.1  # to either side, relative: the spread that a single measurement is given


app = typer.Typer(rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def bench(
    context: Context,  # pyright: ignore[reportInvalidTypeForm]
    suite: Annotated[
        list[str] | None,
        Option(
            help=f"{listed(SUITES)}, or {listed(ON_ACCELERATORS)} on an accelerator; may be given"
            " several times.",
            show_default="all but gpu",
        ),
    ] = None,
    quick: Annotated[bool, Option("--quick", help="Fewer and shorter cases.")] = False,
    out: Out = _OUT,
) -> int:
    """Measure the speed of this library, of its peers and of the machine; leave it in --out.

    A report (.json) and plots of each suite, and bench.json, the report of this run's suites.
    Candidates take turns, so that ratios hold on a machine whose speed drifts: leave it alone
    meanwhile. Exit status 1 where a suite fails. Peers that are not installed are left out; all of
    them come with ctrnn-jax[bench].
    """
    if context.invoked_subcommand is not None:
        if suite or quick or out != _OUT:
            checks.fail("compare", "no option before it", "--suite, --quick or --out")
        return 0
    names = list(dict.fromkeys(suite or SUITES))
    for name in names:
        checks.one_of("--suite", name, (*SUITES, *ON_ACCELERATORS))
    place_for(out)
    folder, reports = suites_folder(), []
    for number, name in enumerate(names, 1):
        print(f"\n{name}, suite {number} of {len(names)}", flush=True)
        try:
            reports.append(_measured(name, folder, quick, out))
        except ValueError as error:
            print(f"ctrnn: {error}", file=sys.stderr, flush=True)
            continue
        with appearing(out / "bench.json") as path:  # now, lest a later suite be interrupted
            write_json(path, _merged(reports))
    if reports:
        print(_summary(_merged(reports)))
        print(f"\nresults in {out}")
    return int(len(reports) < len(names))


def suites_folder() -> Path:
    """Where the suites are: inside an installed package, beside the package in a checkout."""
    for place in (_PACKAGE, _PACKAGE.parent):
        if (place / "benchmarks" / "measure.py").is_file():
            return place / "benchmarks"
    expected = f"the suites in {_PACKAGE / 'benchmarks'}, or beside the package in a checkout"
    checks.fail("ctrnn bench", expected, "none")


@app.command()
def compare(
    old: Annotated[Path, Argument(metavar="OLD", help="bench.json, or the report of one suite.")],
    new: Annotated[Path, Argument(metavar="NEW", help="Another, measured later.")],
) -> None:
    """Print what changed beyond its spread from one report to another.

    That is: numbers whose intervals from 10 % to 90 % have nothing in common; a single measurement
    is given 10 % to either side. Times are compared on the same processor only.
    """
    before, after = _suites(_read("OLD", old)), _suites(_read("NEW", new))
    differences = _differences(before, after)
    for key, (a, b) in differences.items():
        print(f"{key}: {a} -> {b}")
    same_machine = not _MACHINE & differences.keys()
    if not same_machine:
        print("another machine: only numbers without a unit are compared, such as ratios")
    changed: dict[bool, list[str]] = {True: [], False: []}
    counts = {}
    for name in {**before, **after}:
        a, b = (suites[name].rows if name in suites else {} for suites in (before, after))
        counts[name] = collections.Counter(new=len(b.keys() - a), gone=len(a.keys() - b))
        for key in [key for key in b if key in a]:
            lines = _changes(a[key], b[key], same_machine)
            state = "not compared" if lines is None else "changed" if lines else "unchanged"
            counts[name][state] += 1
            changed[b[key].ours] += [f"{line}; {name}: {b[key].case}" for line in lines or ()]
    for title, lines in ((_OURS, changed[True]), ("others", changed[False])):
        if lines:
            print("\n".join(["", title, *lines]))
    print()
    for name, count in counts.items():
        states = ("changed", "unchanged", "new", "gone", "not compared")
        print(f"{name}: " + ", ".join(f"{count[state]} {state}" for state in states))


def _measured(name: str, folder: Path, quick: bool, out: Path) -> dict[str, Any]:
    """The report of a suite; its files appear in `out` together, or none does."""
    script = folder / f"{name.replace('-', '_')}.py"
    with appearing_together(out) as workplace:
        # Run there, a suite prints file names that stay true when the files have moved.
        options = ["--out", ".", *["--quick"] * quick]
        status = _status([sys.executable, str(script), *options], workplace, folder)
        if status:
            checks.fail(name, "exit status 0", f"{status}; its results are left out")
        return _read(name, workplace / f"{name}.json")


def _status(command: list[str], workplace: Path, folder: Path) -> int:
    """The exit status of a command, whose processes all end when this one is interrupted."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if folder.parent == _PACKAGE.parent:  # to measure this checkout, whatever else is installed
        paths = [str(_PACKAGE.parent), os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    options: dict[str, Any] = {"cwd": workplace, "env": environment, "stdin": subprocess.DEVNULL}
    # In a session of its own Ctrl-C does not reach it: it would wait for computations to end.
    with owned(
        partial(subprocess.Popen, command, start_new_session=True, **options), _end
    ) as child:
        return child.wait()


def _end(child: subprocess.Popen[Any]) -> None:
    """Kill a process that has not ended, and its children, where there are sessions."""
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL) if os.name == "posix" else child.kill()
        child.wait()


def _merged(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """One report; what is not the same in all environments stays with its suite."""
    environments = [report["environment"] for report in reports]
    common = {
        key: value
        for key, value in environments[0].items()
        if all(key in e and e[key] == value for e in environments)
    }
    suites = {}
    for report in reports:
        own = {k: v for k, v in report["environment"].items() if k not in common}
        suites |= {name: {**suite, "environment": own} for name, suite in report["suites"].items()}
    return {"environment": common, "suites": suites}


class _Spread(NamedTuple):
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: dict[str, Any]) -> _Spread:
        """From JSON, where null is a number that is not finite."""
        found = [values[field] for field in cls._fields]
        return cls(*(math.inf if value is None else float(value) for value in found))

    def __str__(self) -> str:
        return f"{self.median:.3g} [{self.low:.3g}, {self.high:.3g}]"

    def apart_from(self, other: _Spread) -> bool:
        """Whether the intervals have no number in common."""
        (a, b), (c, d) = self._interval(), other._interval()
        return b < c or d < a

    def _interval(self) -> tuple[float, float]:
        if self.low < self.high or math.isinf(self.low):
            return self.low, self.high
        margin = _ALONE * abs(self.low)
        return self.low - margin, self.high + margin


class _Row(NamedTuple):
    """One quantity of one candidate; `ratio`, to the `reference`, is there for times in turns."""

    case: str
    candidate: str
    quantity: str
    unit: str
    value: _Spread
    ratio: _Spread | None
    reference: str | None
    fraction: float | None

    @property
    def key(self) -> tuple[str, str, str]:
        return self.case, self.candidate, self.quantity

    @property
    def ours(self) -> bool:
        return self.candidate.startswith(_OURS)

    @property
    def relative(self) -> str:
        """What the ratio is of."""
        return f"{self.quantity} / {self.reference}"


class _Suite(NamedTuple):
    environment: dict[str, Any]
    rows: dict[tuple[str, str, str], _Row]
    notices: list[str]


def _read(name: str, path: Path) -> dict[str, Any]:
    """A report from a file; anything else is refused."""
    if not path.is_file():
        checks.fail(name, "an existing file", path)
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        _suites(report)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        checks.fail(name, "a report of ctrnn bench, .json", path)
    return report


def _suites(report: dict[str, Any]) -> dict[str, _Suite]:
    return {
        name: _Suite(
            {**report["environment"], **suite.get("environment", {})},
            _rows(suite["rows"]),
            list(suite["notices"]),
        )
        for name, suite in report["suites"].items()
    }


def _rows(rows: list[dict[str, Any]]) -> dict[tuple[str, str, str], _Row]:
    ratios = [row["ratio"] and _Spread.of(row["ratio"]) for row in rows]
    references = {  # their ratio to themselves is 1 in every round
        (row["case"], row["quantity"]): row["candidate"]
        for row, ratio in zip(rows, ratios, strict=True)
        if ratio == (1, 1, 1)
    }
    made = [
        _Row(
            *(str(row[field]) for field in ("case", "candidate", "quantity", "unit")),
            value=_Spread.of(row),
            ratio=ratio,
            reference=references.get((row["case"], row["quantity"])),
            fraction=None if row["fraction"] is None else float(row["fraction"]),
        )
        for row, ratio in zip(rows, ratios, strict=True)
    ]
    return {row.key: row for row in made}


def _summary(report: dict[str, Any]) -> str:
    """Of each suite: ratios and fractions of the limit over its cases, who is ahead, notices."""
    lines = []
    for name, suite in _suites(report).items():
        rows = list(suite.rows.values())
        lines += ["", f"{name}: {len(rows)} rows in {name}.json", *_table(rows)]
        lines += [
            f"  ahead of {row.reference}: {row.candidate}, {row.ratio} in {row.case}"
            for row in rows
            if row.ratio and row.ratio.high < 1 and not row.ours
        ]
        lines += [f"  note: {notice}" for notice in suite.notices]
    return "\n".join(lines)


def _table(rows: list[_Row]) -> list[str]:
    """A line for each candidate and what it is compared with, over all cases."""
    groups: dict[tuple[str, str], list[_Row]] = collections.defaultdict(list)
    for row in rows:
        if row.ratio:
            groups[row.relative, row.candidate].append(row)
    lines = [("median [10 %, 90 %] of cases", "", "cases", "ratio", "of the limit")]
    for (relative, candidate), of in groups.items():
        ratio = _over_cases([row.ratio.median for row in of if row.ratio])
        fraction = _over_cases([row.fraction for row in of if row.fraction is not None])
        lines.append((relative, candidate, str(len(of)), ratio, fraction))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    told = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    return [f"  {line}" for line in told] if groups else []


def _over_cases(values: list[float]) -> str:
    if not values:
        return ""
    low, median, high = np.quantile(values, [0.1, 0.5, 0.9])
    return str(_Spread(median, low, high))


def _differences(before: dict[str, _Suite], after: dict[str, _Suite]) -> dict[str, tuple[Any, Any]]:
    """What differs in the environments of a suite that both have."""
    found = {}
    for name in [name for name in after if name in before]:
        a, b = before[name].environment, after[name].environment
        found |= {k: (a.get(k), b.get(k)) for k in {**a, **b} if a.get(k) != b.get(k)}
    return found


def _changes(old: _Row, new: _Row, same_machine: bool) -> list[str] | None:
    """A line for each number that changed beyond the spread; None where none is comparable."""
    pairs = []
    if same_machine or new.unit in ("", "%"):
        pairs.append((new.quantity, new.unit, old.value, new.value))
    if old.ratio and new.ratio and old.relative == new.relative:
        pairs.append((new.relative, "", old.ratio, new.ratio))
    if not pairs:
        return None
    lines = []
    for label, unit, a, b in pairs:
        if a.apart_from(b):
            timed = unit == "s" or label == new.relative
            words = ("faster", "slower") if timed else ("lower", "higher")
            factor = b.median / a.median if a.median else math.nan
            told = f"{_told(a.median, unit)} -> {_told(b.median, unit)}"
            word = words[b.median > a.median]
            lines.append(f"  {word:6s} {factor:8.3g}   {told:22s}  {new.candidate}, {label}")
    return lines


def _told(value: float, unit: str) -> str:
    if unit == "s" and value < 1:
        factor, unit = (1e3, "ms") if value >= 1e-3 else (1e6, "µs")
        value *= factor
    return f"{value:.3g} {unit}".rstrip()
