"""How times are written: which patterns fit a column's texts, and the SQL that turns such text into a timestamp.

Day-first against month-first is never guessed: only a number above 12 somewhere in the column decides.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from tsfm.errors import ConfigError
from tsfm.series import duck

EPOCHS = {"epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1, "epoch_ns": 0}
NAMED = (*EPOCHS, "integer", "excel", "quarter", "iso_week", "day_first", "month_first")
"""What `timestamp_format` may say besides a strptime pattern."""


class Kind(StrEnum):
    PATTERNS = "patterns"
    EPOCH = "epoch"
    INTEGER = "integer"
    QUARTER = "quarter"
    WEEK = "iso_week"
    EXCEL = "excel"


@dataclass(frozen=True, slots=True, kw_only=True)
class StampFormat:
    """One way to write times."""

    kind: Kind
    patterns: tuple[str, ...] = ()
    """strptime patterns, likeliest first; any of them may be used in a row."""
    zoned: bool = False
    """Whether each text ends with an offset from UTC (or Z); the SQL then gives UTC."""
    epoch: str = ""

    @property
    def label(self) -> str:
        """What the reading says in `timestamp_format`; accepted back as the option."""
        if self.kind is Kind.PATTERNS:
            return self.patterns[0] + ("%z" if self.zoned and "%z" not in self.patterns[0] else "")
        return self.epoch if self.kind is Kind.EPOCH else self.kind.value

    @property
    def is_integer(self) -> bool:
        """Whether the column is an integer index and no time."""
        return self.kind is Kind.INTEGER

    def sql(self, text: str) -> str:
        """An expression over the SQL expression `text` (VARCHAR): TIMESTAMP, or BIGINT for an index; NULL where it
        does not fit."""
        text = f"trim({text})"
        match self.kind:
            case Kind.INTEGER:
                number = f"try_cast({text} AS DOUBLE)"
                return f"CASE WHEN {number} = trunc({number}) THEN try_cast({number} AS BIGINT) END"
            case Kind.EPOCH:
                return _epoch_sql(text, EPOCHS[self.epoch])
            case Kind.EXCEL:
                return f"make_timestamp(CAST(round((try_cast({text} AS DOUBLE) - 25569) * 86400) * 1000000 AS BIGINT))"
            case Kind.QUARTER:
                year = f"try_cast(regexp_extract({text}, '\\d{{4}}') AS INTEGER)"
                quarter = f"try_cast(regexp_extract({text}, '(?i)Q([1-4])', 1) AS INTEGER)"
                return f"make_timestamp({year}, {quarter} * 3 - 2, 1, 0, 0, 0)"
            case Kind.WEEK:
                week = f"regexp_extract({text}, '^(\\d{{4}})-?W(\\d{{1,2}})', 1) || '-' || "
                week += f"lpad(regexp_extract({text}, 'W(\\d{{1,2}})', 1), 2, '0')"
                day = f"coalesce(nullif(regexp_extract({text}, 'W\\d{{2}}-?([1-7])$', 1), ''), '1')"
                return f"try_strptime({week} || '-' || {day}, '%G-%V-%u')"
            case Kind.PATTERNS:
                return self._pattern_sql(text)

    def _pattern_sql(self, text: str) -> str:
        listed = ", ".join(duck.quote(p) for p in self.patterns)
        if self.zoned and "%z" in self.patterns[0]:
            return f"CAST(try_strptime({text}, [{listed}]) AS TIMESTAMP)"
        if not self.zoned:
            return f"try_strptime({text}, [{listed}])"
        zone = f"regexp_extract({text}, {duck.quote(_ZONE_SQL)})"
        body = f"regexp_replace({text}, {duck.quote(_ZONE_SQL)}, '')"
        return f"CASE WHEN {zone} <> '' THEN try_strptime({body}, [{listed}]) - {offset_sql(text)} END"


@dataclass(frozen=True, slots=True, kw_only=True)
class Detected:
    """What the texts of a column allow."""

    by_order: dict[str, StampFormat]
    """Readings by the order of day and month: "fixed" alone, or "dmy" and / or "mdy"."""
    share: float
    """Share of the texts that fit the best reading."""


_ZONE = r"\s*(?:Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)"
_ZONE_SQL = r"(?i)\s*(Z|UTC|GMT|[+-]\d{2}(:?\d{2})?)$"
_CLOCK = re.compile(
    r"^(?P<sep>T|\s+)(?P<clock>\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?|\d{1,2}\.\d{2}(?:\.\d{2})?|\d{1,2}|\d{4}|\d{6})"
    rf"(?P<half>\s?[AaPp][Mm])?(?P<zone>{_ZONE})?$",
)
_SEP = r"([-/. ])"
_MONTH = r"([A-Za-z]{3,9})"
_NAMED_MONTH = re.compile(r"^(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)", re.IGNORECASE)
_QUARTER = re.compile(r"^(?:\d{4}[-/ ]?[Qq][1-4]|[Qq][1-4][-/ ]?\d{4})$")
_WEEK = re.compile(r"^\d{4}-?W\d{1,2}(?:-?[1-7])?$")
_COMPACT = {8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}


def looks_like_time(text: str) -> bool:
    """Whether text that is no plain number could be a time."""
    text = text.strip()
    return not text.replace(".", "", 1).isdigit() and bool(_shapes(text))


def detect(texts: Sequence[str]) -> Detected | None:
    """Readings of texts that are not plain numbers; None when fewer than half fit one."""
    counts: Counter[tuple[str, str, bool]] = Counter()
    for text, times in Counter(texts).items():
        for shape in _shapes(text.strip()):
            counts[shape] += times
    votes: Counter[str] = Counter()
    for (order, _, _), n in counts.items():
        votes[order] += n
    if not votes:
        return None
    most = max(votes.values())
    if most * 2 < len(texts):
        return None
    orders = ["fixed"] if votes["fixed"] == most else [order for order, n in votes.items() if n == most]
    return Detected(by_order={o: _format(counts, o) for o in orders}, share=most / len(texts))


def detect_numeric(texts: Sequence[str], *, name: str) -> StampFormat | None:
    """The reading of a time column written in plain numbers, judged by magnitude; None when no reading fits.

    Eight digits and more that form calendar dates are dates; four digits in a column named like a date are years;
    10 to 19 digits are seconds … nanoseconds since 1970; small whole numbers are an index.
    """
    stripped = [t.strip() for t in texts]
    if not stripped:
        return None
    if all(t.isdigit() for t in stripped):
        lengths = {len(t) for t in stripped}
        if len(lengths) == 1:
            digits = lengths.pop()
            if digits in _COMPACT and all(_is_compact(t) for t in stripped):
                return StampFormat(kind=Kind.PATTERNS, patterns=(_COMPACT[digits],))
            named = "index" not in name and "step" not in name
            if digits == 6 and named and all(_is_year(t[:4]) and 1 <= int(t[4:]) <= 12 for t in stripped):
                return StampFormat(kind=Kind.PATTERNS, patterns=("%Y%m",))
            if digits == 4 and named and name not in {"t", "time"} and all(_is_year(t) for t in stripped):
                return StampFormat(kind=Kind.PATTERNS, patterns=("%Y",))
    values = [float(t) for t in stripped]
    low, high = min(abs(v) for v in values), max(abs(v) for v in values)
    for unit, floor, ceiling in (
        ("epoch_s", 1e8, 1e11),
        ("epoch_ms", 1e11, 1e14),
        ("epoch_us", 1e14, 1e17),
        ("epoch_ns", 1e17, 1e20),
    ):
        if floor <= low and high < ceiling:
            return StampFormat(kind=Kind.EPOCH, epoch=unit)
    if all(v == int(v) for v in values) and high < 1e8:
        return StampFormat(kind=Kind.INTEGER)
    return None


def from_option(text: str) -> StampFormat | str:
    """The format a caller names: a `StampFormat`, or "dmy" / "mdy" for "day_first" / "month_first"."""
    if text in {"day_first", "month_first"}:
        return "dmy" if text == "day_first" else "mdy"
    if text in EPOCHS:
        return StampFormat(kind=Kind.EPOCH, epoch=text)
    if text in NAMED:
        return StampFormat(kind=Kind(text))
    if "%" not in text:
        raise ConfigError(
            f"timestamp_format {text!r} is neither a strptime pattern (such as '%d/%m/%Y %H:%M') nor one of "
            f"{', '.join(NAMED)}.",
            code="invalid_timestamp_format",
            param="timestamp_format",
        )
    zoned = text.endswith("%z")
    return StampFormat(kind=Kind.PATTERNS, patterns=(text.removesuffix("%z").rstrip() if zoned else text,), zoned=zoned)


def offset_sql(text: str) -> str:
    """The INTERVAL by which a text's clock is ahead of UTC; zero for Z."""
    zone = f"regexp_extract({text}, {duck.quote(_ZONE_SQL)}, 1)"
    hours = f"coalesce(try_cast(substr({zone}, 2, 2) AS INTEGER), 0)"
    minutes = f"coalesce(try_cast(regexp_extract({zone}, '^[+-]\\d{{2}}:?(\\d{{2}})$', 1) AS INTEGER), 0)"
    sign = f"CASE WHEN {zone}[1] = '-' THEN -1 ELSE 1 END"
    return f"to_minutes(({sign}) * ({hours} * 60 + {minutes}))"


def _epoch_sql(text: str, scale: int) -> str:
    if scale == 0:
        return f"make_timestamp(CAST(trunc(try_cast({text} AS HUGEINT) / 1000) AS BIGINT))"
    whole = f"try_cast({text} AS BIGINT) * {scale}"
    return (
        f"make_timestamp(coalesce(CASE WHEN regexp_full_match({text}, '[+-]?\\d+') THEN {whole} END, "
        f"CAST(round(try_cast({text} AS DOUBLE) * {scale}) AS BIGINT)))"
    )


def _format(counts: Counter[tuple[str, str, bool]], order: str) -> StampFormat:
    """All patterns of one order, likeliest first, widened to every precision of the clock."""
    own = [(pattern, zoned) for (o, pattern, zoned), _ in counts.most_common() if o in {order, "fixed"}]
    if own[0][0] in {Kind.QUARTER.value, Kind.WEEK.value}:
        return StampFormat(kind=Kind(own[0][0]))
    zoned = any(z for _, z in own)
    patterns = list(dict.fromkeys(pattern for pattern, _ in own))
    for pattern in list(patterns):
        date, colon, _ = pattern.partition("%H:%M")
        if colon:
            wider = [date + clock for clock in ("%H:%M:%S", "%H:%M", "%H:%M:%S.%f", "%H:%M:%S.%n")]
            patterns.extend(p for p in [*wider, date.rstrip(" T")] if p not in patterns)
        elif "%H" not in pattern and "%I" not in pattern and "%d" in pattern:
            patterns.extend(p for p in (f"{pattern} %H:%M:%S", f"{pattern} %H:%M") if p not in patterns)
    return StampFormat(kind=Kind.PATTERNS, patterns=tuple(patterns), zoned=zoned)


def _shapes(text: str) -> list[tuple[str, str, bool]]:
    """(order, pattern, zoned) of every reading of one text."""
    if not 4 <= len(text) <= 64 or not any(c.isdigit() for c in text):
        return []
    if _QUARTER.match(text):
        return [("fixed", Kind.QUARTER.value, False)]
    if _WEEK.match(text):
        return [("fixed", Kind.WEEK.value, False)]
    found = []
    for order, pattern, end in _dates(text):
        rest = text[end:]
        if not rest:
            found.append((order, pattern, False))
            continue
        clock = _CLOCK.match(rest)
        if clock and (not clock["zone"] or ":" in clock["clock"]):
            found.append((order, pattern + _clock_pattern(clock), bool(clock["zone"])))
    return found


def _clock_pattern(clock: re.Match[str]) -> str:
    separator = "T" if clock["sep"] == "T" else " "
    text, half = clock["clock"], clock["half"]
    hour = "%I" if half else "%H"
    if ":" in text:
        fraction = text.partition(".")[2]
        pattern = ":".join((hour, "%M", "%S")[: text.count(":") + 1])
        pattern += "" if not fraction else ".%f" if len(fraction) <= 6 else ".%n"
    elif "." in text:
        pattern = ".".join((hour, "%M", "%S")[: text.count(".") + 1])
    else:
        pattern = {4: "%H%M", 6: "%H%M%S"}.get(len(text), hour)
    return separator + pattern + ((" %p" if half.startswith(" ") else "%p") if half else "")


def _dates(text: str) -> list[tuple[str, str, int]]:
    """(order, pattern, end) of every date a text may begin with."""
    if m := re.match(rf"(\d{{4}}){_SEP}(\d{{1,2}})\2(\d{{1,2}})(?!\d)", text):
        return [("fixed", f"%Y{m[2]}%m{m[2]}%d", m.end())] if int(m[3]) <= 12 and int(m[4]) <= 31 else []
    if m := re.match(rf"(\d{{1,2}}){_SEP}(\d{{1,2}})\2(\d{{4}}|\d{{2}})(?!\d)", text):
        return _day_month(int(m[1]), int(m[3]), m[2], "%Y" if len(m[4]) == 4 else "%y", m.end())
    if m := re.match(rf"(\d{{1,2}})([- /]?){_MONTH}\.?([-, /]+)?(\d{{4}}|\d{{2}})(?!\d)", text):
        return _with_month(m[3], f"%d{m[2]}{{}}{m[4] or ''}{_year(m[5])}", m.end())
    if m := re.match(rf"{_MONTH}\.? (\d{{1,2}})(,? )(\d{{4}})(?!\d)", text):
        return _with_month(m[1], f"{{}} %d{m[3]}%Y", m.end())
    if m := re.match(rf"{_MONTH}([- /]?)(\d{{4}}|\d{{2}})(?!\d)", text):
        return _with_month(m[1], f"{{}}{m[2]}{_year(m[3])}", m.end())
    if m := re.match(rf"(\d{{4}})([- /]?){_MONTH}(?:([- /])(\d{{1,2}}))?(?![A-Za-z\d])", text):
        return _with_month(m[3], f"%Y{m[2]}{{}}" + (f"{m[4]}%d" if m[5] else ""), m.end())
    if (m := re.match(r"(\d{8})(?=T|\s|$)", text)) and _is_compact(m[1]):
        return [("fixed", "%Y%m%d", m.end())]
    if (m := re.match(r"(\d{4})([-/. ])(\d{1,2})$", text)) and 1 <= int(m[3]) <= 12:
        return [("fixed", f"%Y{m[2]}%m", m.end())]
    if (m := re.match(r"(\d{1,2})([-/.])(\d{4})$", text)) and 1 <= int(m[1]) <= 12:
        return [("fixed", f"%m{m[2]}%Y", m.end())]
    return []


def _day_month(a: int, b: int, sep: str, year: str, end: int) -> list[tuple[str, str, int]]:
    if a > 31 and year == "%y":
        return [("fixed", f"%y{sep}%m{sep}%d", end)]
    found = []
    if 1 <= a <= 31 and 1 <= b <= 12:
        found.append(("dmy", f"%d{sep}%m{sep}{year}", end))
    if 1 <= a <= 12 and 1 <= b <= 31:
        found.append(("mdy", f"%m{sep}%d{sep}{year}", end))
    return found


def _with_month(month: str, pattern: str, end: int) -> list[tuple[str, str, int]]:
    if not _NAMED_MONTH.match(month):
        return []
    short = pattern.format("%b")
    full = pattern.format("%B")
    return [("fixed", short if len(month) == 3 else full, end)]


def _year(text: str) -> str:
    return "%Y" if len(text) == 4 else "%y"


def _is_year(text: str) -> bool:
    return 1500 <= int(text) <= 2200


def _is_compact(text: str) -> bool:
    ranges = ((0, 4, 1500, 2200), (4, 6, 1, 12), (6, 8, 1, 31), (8, 10, 0, 23), (10, 12, 0, 59), (12, 14, 0, 59))
    return all(low <= int(text[a:b]) <= high for a, b, low, high in ranges if len(text) >= b)
