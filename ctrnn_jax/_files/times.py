"""Which columns of a table are times, which are channels, and the interval of the samples."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

import numpy as np

from .._util import checks
from .cells import DATE, INDEX, MISSING, Table, number

# Of a step: times are often rounded, but a missing sample must not pass.
_JITTER = 0.05
_WORDS = frozenset({
    "t", "time", "times", "timestamp", "timestamps", "datetime", "date", "datum", "epoch", "unix",
    "unixtime", "elapsed", "zeit", "uhrzeit", "zeitstempel", "zeitpunkt",
})  # fmt: skip
_FILLERS = frozenset({
    "in", "since", "start", "stamp", "axis", "base", "rel", "relative", "abs", "from", "der", "utc",
})  # fmt: skip
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3600.0}
_SPELLINGS = {
    "s": ["s", "sec", "secs", "second", "seconds", "sekunde", "sekunden"],
    "ms": ["ms", "msec", "millis", "millisecond", "milliseconds", "millisekunden"],
    "us": ["us", "µs", "μs", "usec", "micros", "microsecond", "microseconds", "mikrosekunden"],
    "ns": ["ns", "nsec", "nanos", "nanosecond", "nanoseconds"],
    "min": ["min", "minute", "minutes", "minuten"],
    "h": ["h", "hr", "hrs", "hour", "hours", "stunde", "stunden"],
}
_SPELLED = {word: unit for unit, words in _SPELLINGS.items() for word in words}
_WEAK = ("s", "min", "h")  # names that mean other things, too


def split_table(
    table: Table,
    columns: Sequence[str | int] | None,
    time_column: str | int | None,
    time_unit: str | None,
    *,
    gaps: bool = False,
) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """Channels (S, channels), times in seconds from the first one, or None, and names.

    With gaps a missing sample is nan.
    """
    if time_unit is not None:
        checks.one_of("time_unit", time_unit, _SECONDS)
    every = range(len(table.names))
    chosen = None if columns is None else [_position(table, "columns", c) for c in columns]
    kept = [k for k in every if not _is_left_out(table, k)]
    if time_column is not None:
        time = [_position(table, "time_column", time_column)]
    else:
        time = _time_columns(table, [k for k in kept if k not in (chosen or ())])
    if chosen is None:
        chosen = [k for k in kept if k not in time and not _says_time(table, k)]
        chosen = [k for k in chosen if not (len(chosen) > 1 and _is_index(table, k))]
        if time_column is None and not time:
            _refuse_rising(table, chosen, kept)
    if not chosen:
        checks.fail(table.name, "a column of samples beside that of times", "none")
    y = np.stack([table.finite(k, gaps=gaps) for k in chosen], axis=1)
    times = _times(table, time, time_unit) if time else None
    return y, times, [table.names[k] for k in chosen]


def even_interval(table: Table, times: np.ndarray, *, uneven: bool = False) -> float | None:
    """The interval of times from 0; None where they are uneven and may be so."""
    dt = float(times[-1]) / (len(times) - 1)
    steps = np.diff(times)
    if not np.all(steps > 0):
        row = int(np.flatnonzero(~(steps > 0))[0]) + 1
        got = f"a step of {steps[row - 1]:.6g} s to line {table.lines[row]}"
        checks.fail(table.name, "times that rise", got)
    off = np.abs(times - dt * np.arange(len(times)))
    if off.max() > _JITTER * dt and uneven:
        return None
    if off.max() > _JITTER * dt:
        usual = float(np.median(steps))
        row = int(np.argmax(np.abs(steps - usual))) + 1
        got = f"a step of {steps[row - 1]:.6g} s to line {table.lines[row]}, beside {usual:.6g} s"
        checks.fail(table.name, "evenly spaced times", got)
    return dt


def _position(table: Table, option: str, column: str | int) -> int:
    """A column by its name, or else by its position from 0."""
    if isinstance(column, str) and column in table.names:
        if table.names.count(column) > 1:
            checks.fail(option, "a name of one column (or its position)", repr(column))
        return table.names.index(column)
    if not str(column).isdecimal() or int(column) >= len(table.names):
        names = ", ".join(name for name in table.names if name)
        expected = f"positions from 0 to {len(table.names) - 1}" + (f" or {names}" if names else "")
        checks.fail(option, expected, repr(column))
    return int(column)


def _is_left_out(table: Table, k: int) -> bool:
    """Columns without anything, row names of R, and notes beside the first rows."""
    if table.row_names and k == 0:
        return True
    cells = table.cells(k)
    if not table.names[k] and not any(cells):
        return True
    return not cells[-1] and any(cell and number(cell, table.decimal) is None for cell in cells)


def _is_index(table: Table, k: int) -> bool:
    """Integers that count up by one, in a column without a name or with that of an index."""
    name = table.names[k].lower()
    if name not in INDEX and (name or k):
        return False
    cells = table.cells(k)
    if not all(re.fullmatch(r"\d+", cell) for cell in cells):
        return False
    steps = np.diff([int(cell) for cell in cells])
    if np.all(steps == 1):
        return True
    if name or table.has_header:
        row = int(np.flatnonzero(steps != 1)[0]) + 1
        table.refuse("row numbers that count up by one", cells[row], k, table.lines[row])
    return False


def _says_time(table: Table, k: int) -> bool:
    return _unit(table, k) is not None or bool(DATE.match(table.rows[0][k]))


def _unit(table: Table, k: int) -> str | None:
    """The unit of a column of times, "" where it has none, None where it is no such column."""
    name, unit = table.names[k], table.units[k].lower()
    if match := re.fullmatch(r"(.*?)\s*[(\[]([^()\[\]]*)[)\]]\s*", name):
        name, unit = match[1], match[2].strip().lower()
    words = re.findall(r"[^\W_]+", re.sub(r"([a-z])(?=[A-Z])", r"\1 ", name).lower())
    if words and words[0] in _WORDS:
        rest = [word for word in words[1:] if word not in _WORDS | _FILLERS]
        if rest and rest[-1] in _SPELLED and not unit:
            unit = rest.pop()
        if name == "T" and not unit:
            return "" if _rises(table, k) else None
        if not rest or unit in _SPELLED:
            return unit
        return "?" if _rises(table, k, evenly=False) else None
    alone = words[0] if len(words) == 1 else ""
    if alone in _SPELLED and not unit:
        return alone if alone not in _WEAK or _rises(table, k, evenly=False) else None
    first = k == 0 or all(_is_left_out(table, other) for other in range(k))
    return unit if unit in _SPELLED and first and _rises(table, k, evenly=False) else None


def _rises(table: Table, k: int, *, evenly: bool = True) -> bool:
    values = [number(cell, table.decimal) for cell in table.cells(k)]
    steps = np.diff([np.nan if value is None else value for value in values])
    if not steps.size or not np.all(steps > 0):
        return False
    offsets = np.abs(np.cumsum(steps - steps.mean()))
    return not evenly or bool(offsets.max() <= _JITTER * steps.mean())


def _time_columns(table: Table, candidates: list[int]) -> list[int]:
    """The column of times, or those of date and clock."""
    found = [k for k in candidates if _says_time(table, k)]
    if len(found) < 2:
        return found
    cells = [table.rows[0][k] for k in found]
    day = re.fullmatch(r"[\d./-]+", cells[0]) and DATE.match(cells[0])
    if len(found) == 2 and day and re.match(r"\d+:", cells[1]):
        return found
    labels = " and ".join(table.label(k) for k in found)
    checks.fail(table.name, "one column of times (time_column decides)", labels)


def _refuse_rising(table: Table, chosen: list[int], kept: list[int]) -> None:
    """A first column that may be times is neither taken for them nor for a channel."""
    if len(chosen) > 1 and chosen[0] == kept[0] and _rises(table, chosen[0]):
        got = f"{table.label(chosen[0])}, which rises evenly: times or a channel"
        checks.fail(table.name, "columns that are clear", f"{got} (time_column or columns decides)")


def _times(table: Table, columns: list[int], unit: str | None) -> np.ndarray:
    """Seconds from the first time."""
    k = columns[0]
    cells = [" ".join(row[k] for k in columns) for row in table.rows]
    for cell, line in zip(cells, table.lines, strict=True):
        if cell.lower() in MISSING:
            table.refuse("finite values", "no time", k, line)
    if DATE.match(cells[0]):
        return _dates(table, cells, k)
    exact = []
    for cell, line in zip(cells, table.lines, strict=True):
        value = number(cell, table.decimal)
        if value is None or not np.isfinite(value):
            table.refuse("times" if value is None else "finite values", repr(cell), k, line)
        try:  # Decimal: the digits of an epoch in nanoseconds are more than those of float64
            exact.append(Decimal(cell.replace(",", ".") if table.decimal == "," else cell))
        except InvalidOperation:
            exact.append(Decimal(value))
    seconds = _SECONDS[unit] if unit else _seconds(table, k, float(exact[0]))
    return np.array([float(value - exact[0]) for value in exact]) * seconds


def _seconds(table: Table, k: int, first: float) -> float:
    """What one unit of a column of times is in seconds."""
    unit = _unit(table, k)
    if unit:
        if unit not in _SPELLED:
            expected = "times in s, ms, us, ns, min or h (time_unit decides)"
            expected += " such as those in seconds of a column 'time [s]'"
            checks.fail(table.name, expected, repr(table.names[k]))
        return _SECONDS[_SPELLED[unit]]
    # Without a unit: seconds, or an epoch, which is 1e9 s, 1e12 ms, 1e15 us and 1e18 ns today.
    for least, seconds in ((1e17, 1e-9), (1e14, 1e-6), (1e11, 1e-3)):
        if first >= least:
            return seconds
    words = table.names[k].lower()
    whole = all(re.fullmatch(r"\d+", cell) for cell in table.cells(k))
    if "stamp" in words and whole and first < 1e8:
        expected = "a unit of times that is clear (time_unit decides)"
        checks.fail(table.name, expected, f"{table.label(k)} from {first:g}")
    return 1.0


def _dates(table: Table, cells: list[str], k: int) -> np.ndarray:
    """Dates and clocks: ISO, German, those with slashes where day and month are clear."""
    import pandas as pd

    slashed = [re.match(r"(\d\d?)/(\d\d?)/\d{4}", cell) for cell in cells]
    first = max((int(match[1]) for match in slashed if match), default=0)
    second = max((int(match[2]) for match in slashed if match), default=0)
    if any(slashed) and max(first, second) <= 12:
        checks.fail(table.name, "dates whose day and month are clear", repr(cells[0]))

    def iso(cell: str) -> str:
        cell = re.sub(r"(:\d\d),(\d)", r"\1.\2", cell)
        cell = re.sub(r"^(\d{4})/(\d\d?)/(\d\d?)", r"\1-\2-\3", cell)
        if match := re.match(r"(\d\d?)([./])(\d\d?)[./](\d{4})", cell):
            day, month = match[1], match[3]
            if match[2] == "/" and second > 12:
                day, month = month, day
            cell = f"{match[4]}-{month:0>2}-{day:0>2}" + cell[match.end() :]
        if re.match(r"\d\d?:", cell):
            cell = f"1970-01-01 {cell}"
        return re.sub(r"([ T])(\d:)", r"\g<1>0\2", cell)

    dates = pd.to_datetime([iso(cell) for cell in cells], format="ISO8601", utc=True,
                           errors="coerce")  # fmt: skip
    bad = np.flatnonzero(dates.isna())
    if bad.size:
        table.refuse("a date", repr(cells[bad[0]]), k, table.lines[bad[0]])
    return np.asarray((dates - dates[0]) / pd.Timedelta(seconds=1), np.float64)
