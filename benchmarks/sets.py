"""The sets of `zero_shot.py`: how each file is read, where its test block lies, its season (evaluation.md §10).

Nine table sets, and the selection sets on which every choice about `temper-tiny` is made. The table sets are never
looked at while choosing.
"""

import csv
import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Series that share their borders: `values` [T, C], NaN = missing, test targets within [test_start, test_end)."""

    values: Array
    train_end: int
    test_start: int
    test_end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetSpec:
    """One row of the table."""

    name: str
    path: str
    horizon: int
    season: int
    borders: tuple[int, int, int] | None = None
    """Train end, test start, test end in rows; None: 70 %, 80 %, the end."""
    sentinel: float | None = None
    drop_columns: int = 1
    """Leading columns that hold the date."""
    ibm_mse: bool = False
    """Whether the standardised MSE over every window is reported beside."""


HOURLY = (8_640, 11_520, 14_400)
QUARTER_HOURLY = (34_560, 46_080, 57_600)

TABLE: tuple[SetSpec, ...] = (
    SetSpec(name="ETTh1", path="ett/ETTh1.csv", horizon=96, season=24, borders=HOURLY, ibm_mse=True),
    SetSpec(name="ETTh2", path="ett/ETTh2.csv", horizon=96, season=24, borders=HOURLY, ibm_mse=True),
    SetSpec(name="ETTm1", path="ett/ETTm1.csv.gz", horizon=96, season=96, borders=QUARTER_HOURLY, ibm_mse=True),
    SetSpec(name="ETTm2", path="ett/ETTm2.csv.gz", horizon=96, season=96, borders=QUARTER_HOURLY, ibm_mse=True),
    SetSpec(name="weather", path="weather/weather.csv.gz", horizon=96, season=144, sentinel=-9999, ibm_mse=True),
    SetSpec(name="exchange_rate", path="exchange_rate/exchange_rate.csv", horizon=96, season=7, ibm_mse=True),
    SetSpec(name="M4 hourly", path="m4", horizon=48, season=24),
    SetSpec(name="taylor", path="classics/taylor.csv", horizon=96, season=48, drop_columns=0),
    SetSpec(name="AirPassengers", path="classics/AirPassengers.csv", horizon=12, season=12, borders=(108, 108, 144)),
)

PAPERS: tuple[SetSpec, ...] = (SetSpec(name="ETTm1-70-10-20", path="ett/ETTm1.csv.gz", horizon=96, season=96),)
"""Borders that one paper has and nobody else: SFF's authors mistyped a name and split ETTm1 so (papers.md §2.5)."""

SELECTION: tuple[SetSpec, ...] = (
    SetSpec(name="national_illness", path="national_illness/national_illness.csv", horizon=24, season=52),
    SetSpec(
        name="AirQuality", path="air_quality_uci/AirQuality.csv", horizon=96, season=24, sentinel=-200, drop_columns=2
    ),
    SetSpec(name="ILINet", path="classics/ILINet.csv", horizon=24, season=52),
    SetSpec(name="ausbeer", path="classics/ausbeer.csv", horizon=8, season=4),
    SetSpec(name="australian_tourism", path="classics/australian_tourism.csv", horizon=4, season=4, drop_columns=0),
    SetSpec(name="gasrate_co2", path="classics/gasrate_co2.csv", horizon=12, season=1, drop_columns=0),
    SetSpec(name="heart_rate", path="classics/heart_rate.csv", horizon=96, season=1, drop_columns=0),
    SetSpec(name="ice_cream_heater", path="classics/ice_cream_heater.csv", horizon=12, season=12),
    SetSpec(name="monthly-milk", path="classics/monthly-milk.csv", horizon=12, season=12),
    SetSpec(name="monthly-sunspots", path="classics/monthly-sunspots.csv", horizon=48, season=12),
    SetSpec(name="taxi", path="classics/taxi_new_york_passengers.csv", horizon=96, season=48),
    SetSpec(name="temps", path="classics/temps.csv", horizon=48, season=7),
    SetSpec(name="us_gasoline", path="classics/us_gasoline.csv", horizon=26, season=52),
    SetSpec(name="wineind", path="classics/wineind.csv", horizon=12, season=12),
    SetSpec(name="woolyrnq", path="classics/woolyrnq.csv", horizon=8, season=4),
)


def panels(spec: SetSpec, data: Path) -> list[Panel]:
    """The panels of a set: one for a table of columns, one a series for M4."""
    if spec.path == "m4":
        return list(_m4(data / "m4"))
    values = _read(data / spec.path, drop=spec.drop_columns)
    if spec.name == "us_gasoline":
        values = values[::-1].copy()  # published newest first
    if spec.sentinel is not None:
        values[values == spec.sentinel] = np.nan
    rows = len(values)
    # The field's borders: test is the last 20 %, counted as int(rows * .2) from the end.
    borders = spec.borders or (int(rows * 0.7), rows - int(rows * 0.2), rows)
    return [Panel(values=values, train_end=borders[0], test_start=borders[1], test_end=borders[2])]


def _read(path: Path, *, drop: int) -> Array:
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8", errors="replace")
    rows = list(csv.reader(text.splitlines()))[1:]
    date_last = path.name in ("ausbeer.csv", "wineind.csv", "woolyrnq.csv")
    cells = [row[:-1] if date_last else row[drop:] for row in rows if row]
    return np.array([[_number(cell) for cell in row] for row in cells], dtype=np.float64)


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")


def _m4(folder: Path) -> Iterator[Panel]:
    with (folder / "Hourly-train.csv").open() as train, (folder / "Hourly-test.csv").open() as test:
        pairs = zip(list(csv.reader(train))[1:], list(csv.reader(test))[1:], strict=True)
        for past, future in pairs:
            known = [float(cell) for cell in past[1:] if cell]
            values = np.array(known + [float(cell) for cell in future[1:] if cell])[:, None]
            yield Panel(values=values, train_end=len(known), test_start=len(known), test_end=len(values))
