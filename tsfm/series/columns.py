"""What each column holds, judged on the sample: numbers, times, text or nothing, and what its name says."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from tsfm.series import dialect as dialects
from tsfm.series import stamps
from tsfm.series.table import Table


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TIME_NAMES = _words(
    "ds date dates datetime timestamp time times dt ts day week month quarter year period hour utc t step timestep "
    "index idx timeindex datum fecha zeit zeitstempel datetimeutc dateutc timestamputc localtime observationdate "
    "epoch epochtime epochs epochms unix unixtime unixts posixtime tstamp timems timens"
)
_ID_NAMES = _words("itemid uniqueid id seriesid tsid series seriesname item itemname uid key timeseriesid tsname")
_ID_LIKE = _words(
    "store storeid shop sku product productid article sensor sensorid meter meterid station stationid device deviceid "
    "region country city state symbol ticker group groupid name customer customerid user userid channel location site "
    "siteid machine machineid host server asset building zone line variable metric tag category dept department "
    "plant plantid table branch branchid"
)
_TARGET_NAMES = frozenset({"y", "target"})
_VALUE_NAMES = frozenset({"value", "values", "sales", "demand", "quantity", "qty", "count", "amount", "load"})
_INDEX_NAMES = _words("index idx t step timestep timeindex column1 unnamed0 no nr row rownum rownumber obs sno srno")
_CLOCK = re.compile(r"^\s*\d{1,2}([:.]\d{2}){1,2}(\.\d+)?(\s?[AaPp][Mm])?\s*$")


class Kind(StrEnum):
    EMPTY = "empty"
    NUMBER = "number"
    TIME = "time"
    CLOCK = "clock"
    """A time of day without a date."""
    TEXT = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column as the sample shows it."""

    index: int
    name: str
    kind: Kind
    whole: bool
    """Numbers only: none has a fraction."""
    num_distinct: int
    """Distinct texts in the sample."""

    @property
    def plain_name(self) -> str:
        """The name in small letters and digits."""
        return re.sub(r"[^a-z0-9]", "", self.name.lower())

    @property
    def names_time(self) -> bool:
        """Whether the name is one that time columns bear."""
        name = self.plain_name
        return name in _TIME_NAMES or name.endswith(("date", "datetime", "timestamp")) or name.startswith("datetime")

    @property
    def names_date(self) -> bool:
        """Whether the name promises calendar dates."""
        name = self.plain_name
        return name in {"ds", "datum", "fecha", "day", "dt"} or name.startswith("date") or name.endswith("date")

    @property
    def names_id(self) -> bool:
        """Whether the name is one that id columns bear."""
        return self.plain_name in _ID_NAMES

    @property
    def could_name_id(self) -> bool:
        """Whether the name is one that groups of things bear."""
        return self.plain_name in _ID_LIKE or self.plain_name.endswith(("id", "code", "name"))

    @property
    def names_target(self) -> bool:
        """Whether the name says that this is the series and the others are not."""
        return self.plain_name in _TARGET_NAMES

    @property
    def names_value(self) -> bool:
        """Whether the name is usual for the measured value."""
        return self.plain_name in _VALUE_NAMES

    @property
    def names_index(self) -> bool:
        """Whether the name is one that a row count bears."""
        return self.plain_name in _INDEX_NAMES


def profile(table: Table) -> list[Column]:
    """Every column of the table; one that is empty in the sample is looked up in the whole file."""
    columns = [_column(i, name, table.column(i), table.decimal) for i, name in enumerate(table.names)]
    empty = [c for c in columns if c.kind is Kind.EMPTY]
    if table.whole or not empty:
        return columns
    counts = table.ask(", ".join(f"count(c{c.index})" for c in empty))
    filled = {c.index for c, n in zip(empty, counts, strict=True) if n}
    return [replace(c, kind=Kind.NUMBER) if c.index in filled else c for c in columns]


def _column(index: int, name: str, texts: Sequence[str], decimal: str) -> Column:
    numbers = [t for t in texts if dialects.is_number(t, decimal)]
    kind = Kind.TEXT
    if not texts:
        kind = Kind.EMPTY
    elif len(numbers) * 2 >= len(texts):
        kind = Kind.NUMBER
    elif stamps.detect(texts) is not None:
        kind = Kind.TIME
    elif sum(bool(_CLOCK.match(t)) for t in texts) * 2 > len(texts):
        kind = Kind.CLOCK
    elif sum(dialects.is_dressed_number(t) for t in texts) * 2 >= len(texts):
        # Refused later, cell by cell, with the reason.
        kind = Kind.NUMBER
    column = Column(index=index, name=name, kind=kind, whole=False, num_distinct=0)
    if kind is Kind.TEXT and (column.names_target or column.names_value):
        # Text where the name promises numbers: refused later, cell by cell.
        kind = Kind.NUMBER
    if kind is Kind.NUMBER and column.names_id and len(numbers) < len(texts):
        # Names of things, of which some happen to be numbers: 7, 8, 12b.
        kind = Kind.TEXT
    # "18.00" is a time of day in a column called time, and a number anywhere else.
    if kind is Kind.NUMBER and name.strip().lower() in {"time", "hour", "hr"} and _is_clock(texts):
        kind = Kind.CLOCK
    return Column(
        index=index,
        name=name,
        kind=kind,
        whole=kind is Kind.NUMBER
        and len(numbers) == len(texts)
        and all(t.strip().lstrip("+-").removesuffix(".0").isdigit() for t in numbers),
        num_distinct=len(set(texts)),
    )


def _is_clock(texts: Sequence[str]) -> bool:
    if all(_CLOCK.match(t) for t in texts):
        return True
    return all(t.strip().isdigit() and 0 <= int(t) <= 24 for t in texts) and len(set(texts)) > 1
