"""A table as cells of text, and the numbers that they hold."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import NoReturn

import numpy as np

from .._util import checks

INDEX = ("index", "rownames", "row.names", "unnamed: 0")  # columns that count the rows
NO_NUMBER = {"na", "n/a", "#n/a", "nan", "-nan", "1.#qnan", "null"}  # and nothing else
MISSING = NO_NUMBER | {"", "none", "-", "--", "?", "."}
_INFINITE = re.compile(r"([+-]?)(?:inf(?:inity)?|∞|1\.#inf)", re.I)
DATE = re.compile(
    r"\d{4}-\d\d?-\d\d?|\d{4}/\d\d?/\d\d?|\d\d?\.\d\d?\.\d{4}|\d\d?/\d\d?/\d{4}|\d\d?:\d\d(?::\d\d)?"
)
_GROUPS = " '’\u00a0\u202f"


@dataclasses.dataclass(frozen=True)
class Table:
    """Columns of cells, which become numbers when they are asked for."""

    name: str
    names: list[str]
    units: list[str]
    rows: list[list[str]]
    lines: list[int]
    decimal: str
    row_names: bool  # of R, in the first column
    has_header: bool

    def label(self, k: int) -> str:
        """How messages call column k."""
        return f"column {k}" + (f" ({self.names[k]!r})" if self.names[k] else "")

    def cells(self, k: int) -> list[str]:
        return [row[k] for row in self.rows]

    def numbers(self, k: int) -> np.ndarray:
        """Column k in float64; missing cells are NaN; words are refused."""
        cells = self.cells(k)
        if self.decimal == ".":
            try:
                if not any("_" in cell for cell in cells):
                    return np.array(cells, dtype=np.float64)
            except ValueError:
                pass
        values = [number(cell, self.decimal) for cell in cells]
        for value, cell, line in zip(values, cells, self.lines, strict=True):
            if value is None:
                self.refuse("numbers", f"{cell[:40]!r}", k, line)
        return np.array(values, dtype=np.float64)

    def finite(self, k: int, *, gaps: bool = False) -> np.ndarray:
        """Column k, refused where a number is infinite or, without gaps, missing."""
        values = self.numbers(k)
        bad = np.flatnonzero(np.isinf(values) if gaps else ~np.isfinite(values))
        if bad.size:
            row = int(bad[0])
            got = f"{len(bad)} non-finite of {len(values)}: {self.rows[row][k] or 'no value'!r}"
            self.refuse("finite values", got, k, self.lines[row])
        return values

    def refuse(self, expected: str, got: str, k: int, line: int) -> NoReturn:
        checks.fail(self.name, expected, f"{got} in line {line}, {self.label(k)}")


def number(cell: str, decimal: str) -> float | None:
    """The number that a cell holds, NaN where one is missing, None where it holds words."""
    text = cell.strip().replace("−", "-")
    if text.lower() in MISSING:
        return math.nan
    if match := _INFINITE.fullmatch(text):
        return float(match[1] + "inf")
    groups = _GROUPS + ("," if decimal == "." else ".")
    pattern = (
        rf"([+-]?(?:\d{{1,3}}(?:([{groups}])\d{{3}}(?:\2\d{{3}})*)|\d*))"
        rf"(?:{re.escape(decimal)}(\d*))?(?:[eEdD]([+-]?\d+))?"
    )
    match = re.fullmatch(pattern, text)
    if not match or not re.search(r"\d", match[1] + (match[3] or "")):
        return None
    whole = re.sub(rf"[{groups}]", "", match[1])
    return float(f"{whole}.{match[3] or ''}e{match[4] or 0}".replace("..", "."))
