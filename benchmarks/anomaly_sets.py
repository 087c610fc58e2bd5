"""The labelled sets of the anomaly benchmark: NAB, SMAP and MSL, two files of UCR (evaluation.md §11, SOURCES.md §3).

A series is its values in file order, one label a row, and where its train part ends; what is scored begins there.
Nothing is scaled, and no row is invented or dropped.
"""

import csv
import json
import os
import zipfile
from ast import literal_eval
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
from common import ROOT
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

PROBATION_SHARE, PROBATION_ROWS = 0.15, 750
"""NAB's probation: the first 15 % of a series, at most 15 % of 5,000 rows."""
NO_CLOCK = "1"
"""Frequency of sets that publish no times: an integer index (`tsfm.series.freq`)."""
MICROS_PER_SECOND = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """One univariate series with its truth."""

    name: str
    group: str
    """What is tuned and reported together: NAB's folder, "SMAP", "MSL", "UCR"."""
    values: Floats
    """[N] in the published unit; none is missing in these sets."""
    labels: Bools
    """[N] True inside an anomaly."""
    train_end: int
    """Rows before it may be learnt from, rows from it on are scored."""
    freq: str
    """The usual step, e.g. "5min"; "1" where no times are published."""
    start: int
    """First time in microseconds since 1970 (naive); 0 without times."""

    @property
    def has_anomaly(self) -> bool:
        """Whether a scored row is labelled; series without count for false alarms only."""
        return bool(self.labels[self.train_end :].any())

    @property
    def degenerate(self) -> "Degenerate | None":
        """Why its train part teaches next to nothing; None where it does not."""
        distinct = len(np.unique(self.values[: self.train_end]))
        return Degenerate.CONSTANT if distinct == 1 else Degenerate.TWO_VALUES if distinct == 2 else None


class Degenerate(StrEnum):
    """Channels that are listed apart. Counted by distinct values: the deviation of a constant can round off zero."""

    CONSTANT = "constant in train"
    TWO_VALUES = "two values in train"


def data_folder() -> Path:
    """Where real data lie; ends the run, saying so, where there are none."""
    data = Path(os.environ.get("TEMPER_DATA", ROOT.parent / "shared" / "data"))
    if not data.exists():
        raise SystemExit(f"Real data are absent: put them at {data}, or set TEMPER_DATA.")
    return data


def events(labels: Bools) -> list[tuple[int, int]]:
    """Runs of True as (first row, row after the last)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], labels, [False]]).astype(np.int8)))
    return [(int(first), int(end)) for first, end in edges.reshape(-1, 2)]


# NAB ------------------------------------------------------------------------------------------------------------------


def nab(data: Path) -> list[Labelled]:
    """The 58 series, named `folder/file`; six have no window at all.

    Rows stand on an integer index, in file order, whatever their times say. NAB's windows, probation and detectors
    count rows, so rows are what its published figures are about; a grid would have to merge rows of one time (eleven in
    three files, one in each of four; one clock goes back) and to invent up to three quarters of a series
    (realTraffic/TravelTime_387: 2,500 rows, 9,953 slots), and would then score what it invented. The price: a gap is no
    time at all to a model, and the season slips by it. `freq` is the step between most neighbours.
    """
    folder = data / "nab"
    windows = json.loads((folder / "labels" / "combined_windows.json").read_text(encoding="utf-8"))
    return [_nab_series(folder / "data" / name, name, spans) for name, spans in sorted(windows.items())]


def _nab_series(path: Path, name: str, spans: list[tuple[str, str]]) -> Labelled:
    with path.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    times = np.array([row["timestamp"] for row in rows], dtype="datetime64[us]")
    labels = np.zeros(len(rows), dtype=bool)
    for first, last in np.array(spans, dtype="datetime64[us]").reshape(-1, 2):  # both ends belong to the window
        labels |= (times >= first) & (times <= last)
    return Labelled(
        name=name.removesuffix(".csv"),
        group=name.partition("/")[0],
        values=np.array([float(row["value"]) for row in rows]),
        labels=labels,
        train_end=min(int(PROBATION_SHARE * len(rows)), PROBATION_ROWS),
        freq=_usual_step(times),
        start=int(times[0].astype(np.int64)),
    )


def _usual_step(times: NDArray[np.datetime64]) -> str:
    steps = np.diff(times).astype(np.int64) // MICROS_PER_SECOND
    seconds, _ = Counter(steps.tolist()).most_common(1)[0]
    hours, minutes = seconds // 3600, seconds // 60
    assert seconds == minutes * 60, f"a step of {seconds} s"
    if seconds % 3600 == 0:
        return "h" if hours == 1 else f"{hours}h"
    return "min" if minutes == 1 else f"{minutes}min"


# SMAP and MSL ---------------------------------------------------------------------------------------------------------


def smap_msl(data: Path) -> list[Labelled]:
    """The telemetry column (column 0; the others are commands) of each labelled channel: 54 of SMAP, 27 of MSL.

    A series is the train array followed by the test array, which need not adjoin in time. The table of labels has 82
    rows, but names channel P-2 twice with overlapping ranges: here it is one series with both. The archive's 82nd
    channel, T-10, has no row in the table; whether it holds anomalies is unknown, so it is left out. Ranges include
    both ends (that of E-3 ends with the last row, 8306 of 8,307).
    """
    folder = data / "smap_msl"
    spans: dict[str, list[list[int]]] = {}
    craft: dict[str, str] = {}
    with (folder / "labeled_anomalies.csv").open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            spans.setdefault(row["chan_id"], []).extend(literal_eval(row["anomaly_sequences"]))
            craft[row["chan_id"]] = row["spacecraft"]
    with zipfile.ZipFile(folder / "smap_msl.zip") as archive:
        return [_channel(archive, name, craft[name], spans[name]) for name in sorted(spans)]


def _channel(archive: zipfile.ZipFile, name: str, craft: str, spans: list[list[int]]) -> Labelled:
    train, test = (telemetry(archive, part, name) for part in ("train", "test"))
    labels = np.zeros(len(train) + len(test), dtype=bool)
    for first, last in spans:
        assert 0 <= first <= last < len(test), f"{name}: rows {first} to {last} of {len(test)}"
        labels[len(train) + first : len(train) + last + 1] = True
    return Labelled(
        name=name,
        group=craft,
        values=np.concatenate([train, test]),
        labels=labels,
        train_end=len(train),
        freq=NO_CLOCK,
        start=0,
    )


def telemetry(archive: zipfile.ZipFile, part: str, name: str) -> Floats:
    """[T] column 0 of `PART/NAME.npy`, read in place; pickles are refused."""
    with archive.open(f"{part}/{name}.npy") as member:
        values: Floats = np.lib.format.read_array(member, allow_pickle=False)[:, 0].astype(np.float64)
    return values


# UCR ------------------------------------------------------------------------------------------------------------------


def ucr(data: Path) -> list[Labelled]:
    """Two files: a smoke test, no evidence. `NUMBER_UCR_Anomaly_NAME_TRAINEND_FIRST_LAST.txt`, one anomaly each.

    Whether the name counts rows from 0 or 1 is not said; here from 0, with both ends inside.
    """
    return [_ucr_series(path) for path in sorted((data / "ucr_anomaly").glob("*.txt"))]


def _ucr_series(path: Path) -> Labelled:
    number, _, _, *words = path.stem.split("_")
    train_end, first, last = map(int, words[-3:])
    values = np.loadtxt(path, dtype=np.float64)
    labels = np.zeros(len(values), dtype=bool)
    labels[first : last + 1] = True
    return Labelled(
        name="_".join([number, *words[:-3]]),
        group="UCR",
        values=values,
        labels=labels,
        train_end=train_end,
        freq=NO_CLOCK,
        start=0,
    )
