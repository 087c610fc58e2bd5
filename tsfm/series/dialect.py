"""How a text file is written: delimiter, header, decimal mark; judged on rows from its head, middle and end."""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tsfm.series.preamble import split_preamble
from tsfm.series.problems import refusal
from tsfm.series.sniff import Plain

DELIMITERS = (",", ";", "\t", "|")
_MISSING = "NA N/A n/a #N/A <NA> NaN nan NAN -nan NaT null NULL Null nil None none ? - -- . .. #NULL! #DIV/0! missing"
NULLS = ("", *_MISSING.split())
"""Spellings of a missing value."""

NUMBER = re.compile(r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$")
COMMA_NUMBER = re.compile(r"^\s*[+-]?(\d+,\d*|,\d+)([eE][+-]?\d+)?\s*$")
INFINITE = re.compile(r"^\s*[+-]?(inf|infinity)\s*$", re.IGNORECASE)
_THOUSANDS_COMMA = re.compile(r"^\s*[+-]?[1-9]\d{0,2},\d{3}\s*$")
_THOUSANDS_DOT = re.compile(r"^\s*[+-]?[1-9]\d{0,2}\.\d{3}\s*$")
LooksLikeTime = Callable[[str], bool]
"""Whether a cell of text could be a time; given by the caller, so that this module knows no dates."""

_NULL_SET = frozenset(NULLS)
_DRESSED = re.compile(r"^\s*[+-]?[^\w\s.,+-]?\s?(\d{1,3}([.,'\u00a0\u202f ]\d{3})+|\d+)([.,]\d+)?\s?[^\w\s.,]?\s*$")
_HEAD_BYTES = 1024**2
_PIECES, _PIECE_BYTES = 16, 32 * 1024
_HEAD_ROWS, _PIECE_ROWS = 2000, 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How cells are told apart, and a sample of them."""

    delimiter: str
    decimal: str
    has_header: bool
    header_records: int
    """Records before the first data row: the header, and blank lines above it."""
    first_line: int
    """Line number of the first data row."""
    skipped_lines: int
    """Lines above the header, or above the first data row where there is no header."""
    names: tuple[str, ...]
    sample: tuple[tuple[str, ...], ...]
    """Data rows as text, from several places of the file, ragged ones left out."""
    whole: bool
    """Whether the sample holds every row."""
    warnings: tuple[str, ...]


def is_null(text: str) -> bool:
    """Whether a cell's text stands for a missing value."""
    return text.strip() in _NULL_SET


def is_number(text: str, decimal: str = ".") -> bool:
    """Whether a cell is a plain number with that decimal mark (infinities count: they are refused later, by name)."""
    return bool((NUMBER if decimal == "." else COMMA_NUMBER).match(text) or INFINITE.match(text)) or (
        decimal == "," and text.strip().lstrip("+-").isdigit()
    )


def is_dressed_number(text: str) -> bool:
    """Whether a cell is a number in clothes: separators between thousands, a percent or currency sign."""
    return bool(_DRESSED.match(text))


def sniff_dialect(plain: Plain, *, max_columns: int, looks_like_time: LooksLikeTime) -> Dialect:
    """The dialect of a text file. Raises `DataError`: `header_only`, `too_many_columns`, `duplicate_columns`,
    `ambiguous_decimal`."""
    with plain.path.open("rb") as file:
        raw = file.read(_HEAD_BYTES)
    whole = len(raw) == plain.num_bytes
    text = raw.decode("utf-8-sig", errors="ignore")
    if not whole:
        text = text[: text.rfind("\n") + 1]
    above = split_preamble(text, delimiters=DELIMITERS)
    if not above.rest:
        raise refusal("header_only", "The file holds only comments.", "Add a header and rows below them.", row=1)
    delimiter = above.delimiter or _delimiter(above.rest)
    if above.header is not None and _heads(above.header, above.rest, delimiter, looks_like_time):
        above = above.with_header()
    above.refuse_quotes()
    text, skipped = above.rest, above.num_lines
    if whole:
        _refuse_open_quote(text, delimiter, skipped)
    records, line_numbers = _records(text, delimiter, _HEAD_ROWS)
    _refuse_preamble(records, line_numbers, skipped)
    first = records[0]
    data = [_without_last(r, len(first)) for r in records[1:] if any(cell.strip() for cell in r) or len(r) > 1]
    if len(first) > max_columns:
        raise refusal(
            "too_many_columns",
            f"The file has {len(first):,} columns; the limit is {max_columns:,}.",
            "Send a long file (item_id, timestamp, target), or fewer columns.",
        )
    decimal = _decimal(data, delimiter)
    has_header = _has_header(first, data, decimal, looks_like_time)
    if has_header and not data:
        raise refusal("header_only", "The file has a header and no rows.", "Add rows below the header.")
    rows = data if has_header else [first, *data]
    warnings = [_skipped(above.comments)] if above.comments else []
    warnings += _thousands_by_dot(data, delimiter)
    if not has_header:
        warnings.append("The first line holds data, not names: columns are called column_1, column_2, … in file order.")
    names = _names(first, rows) if has_header else tuple(f"column_{i + 1}" for i in range(len(first)))
    pieces = [] if whole else _pieces(plain, delimiter, width=len(first))
    sample = [tuple(r) for r in [*rows, *pieces] if len(r) == len(first)]
    return Dialect(
        delimiter=delimiter,
        decimal=decimal,
        has_header=has_header,
        header_records=skipped + (1 if has_header else 0),
        first_line=skipped + (line_numbers[0] if has_header else 0) + 1,
        skipped_lines=skipped,
        names=names,
        sample=tuple(sample),
        whole=whole and len(records) <= _HEAD_ROWS,
        warnings=tuple(warnings),
    )


def _heads(header: str, rest: str, delimiter: str, looks_like_time: LooksLikeTime) -> bool:
    """Whether a line marked as a comment is the header of the rows below it: as many cells, and they are none."""
    (names,), (rows, _) = _records(header, delimiter, 1)[0][:1], _records(rest, delimiter, 200)
    if len(names) < 2 or len(names) != len(rows[0]):
        return False
    decimal = _decimal(rows, delimiter)
    return not _has_header(rows[0], rows[1:], decimal, looks_like_time) and _has_header(
        names, rows, decimal, looks_like_time
    )


def _skipped(comments: Sequence[str]) -> str:
    return (
        f"{len(comments)} comment line{'s' if len(comments) > 1 else ''} above the header "
        f"({comments[0][:60]!r}) {'are' if len(comments) > 1 else 'is'} skipped."
    )


def _records(text: str, delimiter: str, most: int) -> tuple[list[list[str]], list[int]]:
    """The first records and the line on which each ends."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    records: list[list[str]] = []
    lines: list[int] = []
    try:
        for record in reader:
            if record:
                records.append(record)
                lines.append(reader.line_num)
            if len(records) > most:
                break
    except csv.Error:
        # A cell beyond Python's limit: what was read so far is sample enough; DuckDB reports the place.
        pass
    return records or [[text[:200]]], lines or [1]


def _without_last(record: list[str], width: int) -> list[str]:
    """A row without the empty cell that a delimiter at its end makes; DuckDB reads it so too."""
    return record[:-1] if len(record) == width + 1 and record[-1] == "" else record


def _refuse_open_quote(text: str, delimiter: str, skipped: int) -> None:
    """A double quote that opens and never closes swallows the rest of the file: name the line where it opens."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 0
    try:
        for _ in reader:
            line = reader.line_num
    except csv.Error as error:
        if "unexpected end" not in str(error):
            return
        raise refusal(
            "open_quote",
            f"A double quote opens on line {skipped + line + 1} and never closes.",
            "Close it, or double it where it is part of the text.",
            row=skipped + line + 1,
            value=text.splitlines()[line][:120],
        ) from error


def _delimiter(text: str) -> str:
    """The mark that splits most rows into as many cells as the header; more cells win, then the usual order.

    Where no mark does, the one that splits most rows alike: then every row is ragged, or the table begins lower down.
    """
    best, chosen = (0.0, 0), ""
    fallback, common = (0.0, 0), ","
    head = text[: 256 * 1024]
    for mark in DELIMITERS:
        records, _ = _records(head, mark, 200)
        body = records[1:] or records
        widths = Counter(len(r) for r in body)
        width, alike = max(widths.items(), key=lambda item: (item[1], item[0]))
        share = widths[len(records[0])] / len(body)
        if len(records[0]) > 1 and share >= 0.5 and (round(share, 1), len(records[0])) > best:
            best, chosen = (round(share, 1), len(records[0])), mark
        if width > 1 and alike * 2 > len(body) and (round(alike / len(body), 1), width) > fallback:
            fallback, common = (round(alike / len(body), 1), width), mark
    return chosen or common


def _refuse_preamble(records: Sequence[Sequence[str]], lines: Sequence[int], skipped: int) -> None:
    """Lines above the table, as some programs write them: every row below is wider than the first."""
    widths = Counter(len(r) for r in records[1:])
    width, alike = max(widths.items(), key=lambda item: item[1], default=(1, 0))
    if len(records[0]) != 1 or width == 1 or alike * 2 < len(records):
        return
    begin = next(k for k, r in enumerate(records) if len(r) == width)
    raise refusal(
        "unreadable_csv",
        f"The table seems to begin on line {skipped + lines[begin]}; {records[0][0][:60]!r} stands above it.",
        "Remove what stands above the header.",
        row=skipped + 1,
        value=records[0][0][:120],
    )


def _decimal(rows: Sequence[Sequence[str]], delimiter: str) -> str:
    commas: Counter[str] = Counter()
    dots = 0
    for row in rows:
        for cell in row:
            if COMMA_NUMBER.match(cell):
                commas["grouped" if _THOUSANDS_COMMA.match(cell) else "decimal"] += 1
            elif "." in cell and NUMBER.match(cell):
                dots += 1
    if not commas or dots > sum(commas.values()):
        return "."
    if commas["decimal"] == 0 and dots == 0:
        example = next(cell for row in rows for cell in row if COMMA_NUMBER.match(cell))
        plain, point = example.strip().replace(",", ""), example.strip().replace(",", ".")
        raise refusal(
            "ambiguous_decimal",
            f"Numbers such as {example!r} could mean {plain} (comma between thousands) or {point} (decimal comma).",
            "Write numbers with a decimal point and nothing between thousands.",
            value=example,
        )
    return "," if commas["decimal"] else "."


def _thousands_by_dot(rows: Sequence[Sequence[str]], delimiter: str) -> list[str]:
    """What to say of `1.234` in a file of semicolons, as those are written where a dot may stand between thousands."""
    if delimiter != ";":
        return []
    dotted = [cell for row in rows for cell in row if "." in cell and NUMBER.match(cell)]
    if not dotted or not all(_THOUSANDS_DOT.match(cell) for cell in dotted):
        return []
    plain = dotted[0].strip().replace(".", "")
    return [
        f"Every number with a dot is written like {dotted[0]!r}: it is read with a decimal point. If it means {plain}, "
        "write it without the dot."
    ]


def _has_header(
    first: Sequence[str], rows: Sequence[Sequence[str]], decimal: str, looks_like_time: LooksLikeTime
) -> bool:
    """Whether the first record names the columns: it differs in kind from what stands below it."""
    kinds = [_kind(cell, decimal, looks_like_time) for cell in first]
    if "text" not in kinds and "time" not in kinds:
        return False
    below = [_column_kind(rows, i, decimal, looks_like_time) for i in range(len(first))]
    pairs = list(zip(kinds, below, strict=True))
    if any(top == "text" and low in {"number", "time"} for top, low in pairs):
        return True
    if any(top == "time" and low == "number" for top, low in pairs):
        return True
    numbers = [cell for cell, kind in zip(first, kinds, strict=True) if kind == "number"]
    if "text" in kinds and numbers and _consecutive(numbers):
        return True
    return "number" not in kinds and "time" not in kinds


def _kind(cell: str, decimal: str, looks_like_time: LooksLikeTime) -> str:
    if is_null(cell):
        return "null"
    if is_number(cell, decimal) or is_number(cell):
        return "number"
    return "time" if looks_like_time(cell) else "text"


def _column_kind(rows: Sequence[Sequence[str]], i: int, decimal: str, looks_like_time: LooksLikeTime) -> str:
    kinds = Counter(_kind(row[i], decimal, looks_like_time) for row in rows[:50] if i < len(row))
    kinds.pop("null", None)
    return kinds.most_common(1)[0][0] if kinds else "null"


def _consecutive(cells: Sequence[str]) -> bool:
    if not all(cell.strip().isdigit() for cell in cells):
        return False
    values = [int(cell) for cell in cells]
    return len(values) > 1 and all(b - a == 1 for a, b in pairwise(values))


def _names(first: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Column names, trimmed; nameless columns are called by their place. Raises `DataError` on a repeated name."""
    names = [cell.strip() or f"column_{i + 1}" for i, cell in enumerate(first)]
    repeated = {name: [i + 1 for i, n in enumerate(names) if n == name] for name, n in Counter(names).items() if n > 1}
    if repeated:
        listed = "; ".join(f"{name!r} (columns {', '.join(map(str, at))})" for name, at in list(repeated.items())[:20])
        raise refusal(
            "duplicate_columns",
            f"Column names are repeated: {listed}.",
            "Give every column its own name.",
            row=1,
            column=next(iter(repeated)),
        )
    return tuple(names)


def _pieces(plain: Plain, delimiter: str, *, width: int) -> list[list[str]]:
    """Rows from evenly spread places behind the head."""
    found: list[list[str]] = []
    with plain.path.open("rb") as file:
        step = max((plain.num_bytes - _HEAD_BYTES) // _PIECES, 1)
        for i in range(1, _PIECES + 1):
            file.seek(max(min(_HEAD_BYTES + i * step, plain.num_bytes) - _PIECE_BYTES, _HEAD_BYTES))
            file.readline()
            text = file.read(_PIECE_BYTES).decode("utf-8", errors="ignore")
            records, _ = _records(text[: text.rfind("\n") + 1], delimiter, _PIECE_ROWS)
            found.extend(row for r in records if len(row := _without_last(r, width)) == width)
    return found


def read_lines(
    path: Path, delimiter: str, width: int, wanted: Sequence[int], *, skipped_lines: int, header_records: int
) -> dict[int, int]:
    """Line numbers of the `wanted` data rows (1 = the first that has `width` cells), for files with blank lines or
    line ends inside quotes."""
    remaining, lines = set(wanted), {}
    csv.field_size_limit(2**24)
    with path.open(encoding="utf-8-sig", newline="") as file:
        for _ in range(skipped_lines):
            file.readline()
        reader = csv.reader(file, delimiter=delimiter)
        number, seen = 0, 0
        for record in reader:
            seen += bool(record) or seen > 0
            if len(record) == width + 1 and record[-1] == "":
                record.pop()
            if seen <= header_records or (len(record) != width and (record or width > 1)):
                continue
            number += 1
            if number in remaining:
                lines[number] = reader.line_num + skipped_lines
                remaining.discard(number)
                if not remaining:
                    break
    return lines
