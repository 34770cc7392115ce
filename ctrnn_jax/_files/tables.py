"""Tables of numbers as text: the layout is found by the whole file, or refused in one line.

Rules, in this order:

1. Encoding: UTF-8 or UTF-16 by their marks or zeros, else UTF-8, else Windows-1252.
2. Lines that begin with # or %, and what follows a blank and # behind numbers, are comments.
   Single blank lines are skipped. A line `sep=;` gives the separator.
3. Separator: a tab, semicolon or bar of the last line; else a comma, unless blanks alone leave
   numbers with decimal commas; else blanks.
4. Rows are the last lines that have numbers where the very last one has them. Above them: names
   of the columns, perhaps units, and a preamble, which is left aside. One name less than columns:
   the first holds R's row names. A commented line right above names the columns, too.
5. A line `1,5` is one number where the line of names has one name, or where only decimals are
   written so (`1,05`, `-0,5`); it is two where there are two names, blanks or decimal points.
6. A comma or point is the decimal mark where it cannot separate thousands, in the whole file.

What these leave open is refused, with the argument that decides.
"""

from __future__ import annotations

import csv
import re

from .._util import checks
from .cells import DATE, MISSING, NO_NUMBER, Table, number

_UNIT = re.compile(
    r"[(\[].{0,12}[)\]]|(?:[munkµμp]?(?:s|sec|v|a|w|hz|g|m|n|pa|k|ohm|Ω))|seconds?|milliseconds?"
    r"|microseconds?|volts?|amp(?:ere)?s?|°?[cf]|deg|rad|%|db|a\.?u\.?|arb\.?|m/s[²2]|-|1|mbar|bar"
    r"|counts?|hours?|minutes?|min|[hd]",
    re.I,
)
_ONE_MARK = re.compile(r"[+-]?[1-9]\d{0,2}[.,]\d{3}")  # 1,234: thousands or decimals
_LOOSE = re.compile(r"[+-]?[.,]?\d(?:[\d.,]*[\d.])?(?:[eEdD][+-]?\d+)?")


def decoded(name: str, data: bytes) -> str:
    """Text of a file, by its byte order mark or else by what its bytes can be."""
    head = data[:4096]
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    elif head[1::2].count(0) > 0.4 * len(head) > 0:
        encoding = "utf-16-le"
    elif head[::2].count(0) > 0.4 * len(head) > 0:
        encoding = "utf-16-be"
    else:
        encoding = "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
    if "\0" in text:
        checks.fail(name, "text", "bytes with zeros that are no text")
    return text


def read_table(
    name: str,
    data: bytes,
    *,
    matrix: bool = False,
    decimal: str | None = None,
    header: bool | None = None,
) -> Table:
    """The table in the text of a file.

    Args:
        name: how messages call the file.
        data: its bytes.
        matrix: whether there must be two columns or more: `1,5` are two numbers then.
        decimal: "." or ",", where the file leaves it open.
        header: whether the first line of numbers names the columns, where that is open.
    """
    text, notes, blanks = _lines(decoded(name, data))
    separator = _separator(text, decimal)
    if separator == "," and not matrix:
        separator = _comma(name, text, decimal)
    cells = [(line, _split(row, separator)) for line, row in text]
    cells = [(line, row) for line, row in cells if any(row)]
    if not cells or not any(_kind(cell) == "number" for cell in cells[-1][1]):
        got = "none" if not cells else f"{text[-1][1][:40]!r} in line {text[-1][0]}, the last one"
        checks.fail(name, "rows of numbers", got)
    first = _first_row(name, cells)
    above, block = cells[:first], cells[first:]
    for before, after in blanks:
        if block[0][0] <= before and after <= block[-1][0]:
            got = f"blank lines between blocks of rows after line {before}"
            checks.fail(name, "one table", got)
    if _names_above_numbers(name, block, bool(above), header, matrix):
        above, block = [*above, block[0]], block[1:]
    elif not above:
        above = [(line, _split(note, separator)) for line, note in notes if line == block[0][0] - 1]
        above = above if above and len(above[0][1]) == _width(block) else []
    block, width = _even(name, block)
    names, units, row_names = _header(name, above, block, width)
    lines, rows = [line for line, _ in block], [row for _, row in block]
    mark = decimal or _decimal(name, block, names, separator)
    return Table(name, names, units, rows, lines, mark, row_names, any(names))


def _lines(text: str) -> tuple[list[tuple[int, str]], list[tuple[int, str]], list[tuple[int, int]]]:
    """Numbered lines, those that are comments, and where two blank lines or more lie between."""
    lines, notes, blanks, last = [], [], [], 0
    empty = 0
    for k, line in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        line = re.sub(r"^(\s*[\"+\-.\d−][^#]*?)\s+#(?!N/A).*$", r"\1", line).strip(" \ufeff")
        if line.lstrip().startswith(("#", "%", "//")):
            notes.append((k, line.lstrip().lstrip("#%/").strip()))
        elif line.strip():
            if empty > 1 and last:
                blanks.append((last, k))
            lines.append((k, line))
            last, empty = k, 0
            continue
        empty += not line.strip()
    return lines, notes, blanks


def _separator(lines: list[tuple[int, str]], decimal: str | None) -> str:
    """A character, " " for blanks, or "" for none; takes a line `sep=` away."""
    if not lines:
        return ""
    if match := re.fullmatch(r"\"?sep=(.)\"?", lines[0][1], re.I):
        del lines[0]
        return match[1]
    last = lines[-1][1]
    for separator in "\t;|":
        if separator in last:
            return separator
    tokens = [line.split() for _, line in lines]
    start = len(tokens)
    while start and all(_LOOSE.fullmatch(token) for token in tokens[start - 1]):
        start -= 1
    blanks = start < len(tokens) and min(map(len, tokens[start:])) > 1
    if "," in last or any("," in line and _LOOSE.fullmatch(line) for _, line in lines):
        return " " if blanks and any("," in line for _, line in lines[start:]) else ","
    return " " if len(last.split()) > 1 and not re.fullmatch(r"\"[^\"]*\"", last) else ""


def _split(line: str, separator: str) -> list[str]:
    if separator == " ":
        return [cell.strip("\"'") for cell in re.findall(r"\"[^\"]*\"|\S+", line)]
    if not separator:
        return [line.strip(" \t\"'")]
    if '"' not in line:
        return [cell.strip(" \t'") for cell in line.split(separator)]
    row = next(csv.reader([line], delimiter=separator, skipinitialspace=True))
    return [cell.strip(" \t'") for cell in row]


def _kind(cell: str) -> str:
    """number, empty or word; a date counts as a number."""
    if cell.strip().lower() in MISSING:
        return "empty"
    if DATE.match(cell) or number(cell, ".") is not None or number(cell, ",") is not None:
        return "number"
    return "word"


def _comma(name: str, lines: list[tuple[int, str]], decimal: str | None) -> str:
    """Whether the comma separates columns, or is a mark within the numbers of one column."""
    start = len(lines)
    while start and _LOOSE.fullmatch(lines[start - 1][1]):
        start -= 1
    rows = [line for _, line in lines[start:]]
    if not rows or decimal == "." or any(row.count(",") > 1 for row in rows):
        return ","
    if decimal == ",":
        return ""
    title = _split(lines[start - 1][1].rstrip(","), ",") if start else []
    if title and all(_kind(cell) != "word" for cell in title):
        return ","  # a row with an empty cell or a sign: not one number
    names = len(title)
    parts = [row.split(",") for row in rows]
    if names > 1 or (not start and any("." in row for row in rows)):
        return ","
    counting = [part[0] for part in parts] == [str(k + 1) for k in range(len(parts))]
    written_so = any(
        part[0] == "-0" or (len(part) > 1 and re.match(r"0\d", part[1])) for part in parts
    )
    if (names == 1 and not counting) or (not start and written_so):
        return ""
    got = f"{rows[0]!r}: one number or two (decimal decides)"
    return checks.fail(name, "a decimal mark that is clear", got)


def _first_row(name: str, cells: list[tuple[int, list[str]]]) -> int:
    """The first of the last rows that have numbers where the very last one has them."""
    pattern = [k for k, cell in enumerate(cells[-1][1]) if _kind(cell) == "number"]

    def fits(row: list[str]) -> bool:
        kinds = [_kind(row[k]) if k < len(row) else "empty" for k in pattern]
        return "word" not in kinds and (
            "number" in kinds
            or any(_kind(cell) == "number" or cell.strip().lower() in NO_NUMBER for cell in row)
        )

    first = len(cells) - 1
    while first and fits(cells[first - 1][1]):
        first -= 1
    if first:
        # A first row of numbers with a word in it must not pass as names.
        line, row = cells[first - 1]
        kinds = [_kind(row[k]) for k in pattern if k < len(row)]
        beneath = first > 1 and len(cells[first - 2][1]) == len(row)
        named = beneath and all(_kind(cell) != "number" for cell in cells[first - 2][1])
        if "number" in kinds and "word" in kinds and (named or kinds[0] == "number"):
            k = next(k for k in pattern if _kind(row[k]) == "word")
            checks.fail(name, "numbers", f"{row[k][:40]!r} in line {line}, column {k}")
    for line, row in cells[:first]:
        if len(row) >= len(pattern) and all(
            k < len(row) and _kind(row[k]) == "number" for k in pattern
        ):
            line, row = cells[first - 1]
            words = [k for k in pattern if k < len(row) and _kind(row[k]) == "word"]
            k = words[0] if words else 0
            got = f"{row[k][:40]!r} in line {line}, column {k}"
            checks.fail(name, "numbers", got)
    return first


def _names_above_numbers(
    name: str,
    block: list[tuple[int, list[str]]],
    named: bool,
    header: bool | None,
    matrix: bool,
) -> bool:
    """Whether the first row of numbers holds names, as pandas writes 0, 1, 2, ..."""
    if header is not None:
        return header and not named
    first, others = block[0][1], [row for _, row in block[1:]]
    if named or not others:
        return False
    if not first[0] and all(row[0] for row in others):
        return True
    counting = first == [str(k) for k in range(len(first))]
    if not counting or (matrix and len(block) == len(first)):
        return False
    if not all(re.search(r"[.,eE]", cell) for row in others for cell in row):
        return False
    got = f"{', '.join(first)}: names or numbers (header decides)"
    return checks.fail(name, "a first line that is clear", got)


def _width(block: list[tuple[int, list[str]]]) -> int:
    """Columns up to the last one that has anything in it."""
    return max(max((k + 1 for k, c in enumerate(row) if c), default=0) for _, row in block)


def _even(name: str, block: list[tuple[int, list[str]]]) -> tuple[list[tuple[int, list[str]]], int]:
    """Rows of one length."""
    width = _width(block)
    for line, row in block:
        if len(row) < width:
            longest = next(other for other, cells in block if len(cells) >= width)
            got = f"{len(row)} in line {line}"
            checks.fail(name, f"{width} columns as in line {longest}", got)
    return [(line, row[:width]) for line, row in block], width


def _header(
    name: str,
    above: list[tuple[int, list[str]]],
    block: list[tuple[int, list[str]]],
    width: int,
) -> tuple[list[str], list[str], bool]:
    """Names and units of the columns, and whether R left the first one without a name."""
    unnamed = [""] * width
    trimmed = []
    for line, row in above[-2:]:
        while len(row) > width and not row[-1]:
            row = row[:-1]
        trimmed.append((line, row))
    if not trimmed or len(trimmed[-1][1]) == 1 < width - 1:
        return unnamed, unnamed, False  # nothing, or a title
    line, row = trimmed[-1]
    units = unnamed
    two = len(trimmed) == 2 and len(trimmed[0][1]) == len(row) == width
    if two and all(not cell or _UNIT.fullmatch(cell) for cell in row):
        units, row = [cell.strip("()[] ") for cell in row], trimmed[0][1]
    if len(row) == width:
        return row, units, False
    first = [cells[0] for _, cells in block]
    counted = all(re.fullmatch(r"\d+", cell) for cell in first)
    words = all(_kind(cell) == "word" for cell in first)
    if len(row) == width - 1 and (counted or words):
        return ["", *row], unnamed, True
    if len(row) == 1:
        return unnamed, unnamed, False
    checks.fail(name, f"{width} names in line {line}, as many as columns", len(row))


def _decimal(
    name: str, block: list[tuple[int, list[str]]], names: list[str], separator: str
) -> str:
    """The decimal mark: one that cannot separate thousands decides, for the whole file."""
    found: dict[str, tuple[int, int, str]] = {}
    unclear: dict[str, tuple[int, int, str]] = {}
    for line, row in block:
        for k, cell in enumerate(row):
            commas, points = cell.count(","), cell.count(".")
            if not commas and points < 2 and "." in found:
                continue
            if not commas + points or DATE.match(cell) or not re.match(r"[+\-−]?[\d.,]", cell):
                continue
            if commas and points:
                mark = max(",.", key=cell.rfind)
            elif commas + points > 1:
                mark = "." if commas else ","
            else:
                mark = "," if commas else "."
                if _ONE_MARK.fullmatch(cell):
                    unclear.setdefault(mark, (line, k, cell))
                    continue
            found.setdefault(mark, (line, k, cell))
    if len(found) == 2:
        (line, k, cell), (other, _, mate) = found[","], found["."]
        got = f"{cell!r} in line {line}, column {k}, and {mate!r} in line {other}"
        checks.fail(name, "one decimal mark", got)
    if found:
        return next(iter(found))
    if "," in unclear:
        line, k, cell = unclear[","]
        got = f"{cell!r} in line {line}, column {k} (decimal decides)"
        checks.fail(name, "a decimal mark that is clear", got)
    return "."
