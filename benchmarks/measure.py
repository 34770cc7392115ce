"""What the suites share: candidates that take turns, one kind of row, one file, one table.

The speed of a shared machine drifts. What is compared is therefore run in turns, A B C A B C ...,
after one untimed call of each, and every ratio is taken within a round. A turn begins with another
untimed call, if it is short: for a tenth of a second two threads may be woken on one core.
"""

from __future__ import annotations

import argparse
import gc
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ctrnn_jax._command.info import environment
from ctrnn_jax._files.writing import appearing, write_json

OURS = "ctrnn_jax"
_LOOK, _LONGEST_LOOK = 0.01, 0.5  # seconds
_SHORT = 0.5  # seconds


def interleaved(
    candidates: Mapping[str, Callable[[], Any]], rounds: int, seconds: float = np.inf
) -> dict[str, np.ndarray]:
    """Seconds of each candidate in each round, after untimed calls.

    At least three rounds, at most `rounds`; no round begins later than `seconds` after the first.
    """
    for call in candidates.values():
        _timed(call)
    times: dict[str, list[float]] = {name: [] for name in candidates}
    gc.collect()
    begin = time.perf_counter()
    for done in range(rounds):
        if done >= 3 and time.perf_counter() - begin > seconds:
            break
        for name, call in candidates.items():
            _come_to_rest()
            if rounds > 1 and (not done or times[name][-1] < _SHORT):
                _timed(call)
            times[name].append(_timed(call))
    return {name: np.array(t) for name, t in times.items()}


def _timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def _come_to_rest() -> None:
    """Wait until no thread of this process works.

    Those of OpenBLAS and OpenMP wait for more work in a busy loop, OpenBLAS's for 0.1 s: on the
    cores of the candidate whose turn is next.
    """
    begin = time.perf_counter()
    while time.perf_counter() - begin < _LONGEST_LOOK:
        used = time.process_time()
        time.sleep(_LOOK)
        if time.process_time() - used < 0.1 * _LOOK:
            return


def ratio(a: np.ndarray, b: np.ndarray) -> str:
    """Median of a / b over rounds, and its 10 % and 90 % quantiles, as text."""
    spread = _spread(a / b)
    return f"{spread['median']:5.2f}  [{spread['low']:.2f}, {spread['high']:.2f}]"


def _spread(values: Any) -> dict[str, float]:
    low, median, high = np.quantile(np.asarray(values, float), [0.1, 0.5, 0.9])
    return {"median": float(median), "low": float(low), "high": float(high)}


class Report:
    """The rows of one suite: printed as they come, written as `OUT/<suite>.json` by `write`.

    A row is {case, candidate, quantity, unit, median, low, high} and, for times, ratio {median,
    low, high}: the candidate over the reference, within rounds; and fraction: of the machine's
    limit that was reached. `parameters` are the numbers behind the case's name.
    """

    def __init__(self, suite: str):
        self.suite = suite
        self.rows: list[dict[str, Any]] = []
        self.notices: list[str] = []
        self.facts: dict[str, Any] = {}  # what was measured once: the machine's limit

    def notice(self, text: str) -> None:
        """Something the reader must know, such as a peer that is not installed; told once."""
        if text not in self.notices:
            self.notices.append(text)
            print(f"note: {text}", flush=True)

    def times(
        self,
        case: str,
        seconds: Mapping[str, np.ndarray],
        *,
        parameters: Mapping[str, Any],
        per: int = 1,
        quantity: str = "time",
        reference: str = OURS,
        least: float | None = None,
    ) -> None:
        """Rows of candidates that took turns; `per`: steps in a call; `least`: seconds a step."""
        print(case)
        for name, values in seconds.items():
            row = self._row(case, name, quantity, "s", _spread(values / per), parameters)
            row["ratio"] = _spread(values / seconds[reference])
            row["fraction"] = None if least is None else least / row["median"]
            of_limit = "" if least is None else f"   {row['fraction']:5.2f} of the limit"
            print(
                f"  {name:34s} {_seconds(row['median']):>9s}   "
                f"{ratio(values, seconds[reference])}{of_limit}",
                flush=True,
            )

    def value(
        self,
        case: str,
        candidate: str,
        quantity: str,
        values: Any,
        unit: str,
        *,
        parameters: Mapping[str, Any],
    ) -> None:
        """One row that is no time in turns: memory, an exponent, an error, a single duration."""
        self.values(case, candidate, {quantity: (values, unit)}, parameters=parameters)

    def values(
        self,
        case: str,
        candidate: str,
        quantities: Mapping[str, tuple[Any, str]],
        *,
        parameters: Mapping[str, Any],
    ) -> None:
        """Such rows of one candidate, {quantity: (values, unit)}, told in one line."""
        told = []
        for quantity, (values, unit) in quantities.items():
            row = self._row(case, candidate, quantity, unit, _spread(values), parameters)
            told.append(f"{quantity} {row['median']:.3g} {unit}".rstrip())
        print(f"{case}: {candidate}, {', '.join(told)}", flush=True)

    def _row(self, case, candidate, quantity, unit, spread, parameters) -> dict[str, Any]:
        row = {"case": case, "candidate": candidate, "quantity": quantity, "unit": unit, **spread}
        self.rows.append(row | {"ratio": None, "fraction": None, "parameters": dict(parameters)})
        return self.rows[-1]

    def write(self, out: Path) -> None:
        """`OUT/<suite>.json`, complete or not at all."""
        with appearing(out / f"{self.suite}.json") as path:
            suite = {"rows": self.rows, "notices": self.notices, "facts": self.facts}
            write_json(path, {"environment": machine(), "suites": {self.suite: suite}})
        print(f"{self.suite}: table in {out / (self.suite + '.json')}", flush=True)


def _seconds(value: float) -> str:
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "us")):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def exponent(x: Any, y: Any) -> float:
    """p of y ~ x^p by least squares on logarithms."""
    return float(np.polyfit(np.log(np.asarray(x, float)), np.log(np.asarray(y, float)), 1)[0])


def cores() -> int:
    """Cores that this process may use; known before JAX begins."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """Versions, devices, processor and cores."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {**environment(), "processor": names[0] if names else "unknown", "cores": cores()}


def peak_memory() -> float:
    """MiB that this process has used at most."""
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage tells begins with the peak of the parent
        line = next(s for s in status.read_text().splitlines() if s.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def child(script: str, *words: Any) -> str:
    """What `python script --child WORDS` prints: a measurement in a process of its own."""
    command = [sys.executable, script, "--child", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{Path(script).name} --child {' '.join(map(str, words))}: {done.stderr[-2000:]}")
    return done.stdout


def parser(doc: str, suite: str) -> argparse.ArgumentParser:
    """The options that every suite has."""
    made = argparse.ArgumentParser(description=doc.splitlines()[0])
    made.add_argument("--quick", action="store_true", help="fewer and shorter cases")
    default = Path("runs/bench")
    made.add_argument("--out", type=Path, default=default, help=f"folder for {suite}.json, plots")
    made.add_argument("--child", nargs="*", help=argparse.SUPPRESS)
    return made
