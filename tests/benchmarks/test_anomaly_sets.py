"""The labelled sets against what SOURCES.md says of them, and the rules of each loader on the real files."""

import csv
import json
import zipfile
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.architecture.repo import ROOT
from tests.data import data_path, data_root


@pytest.fixture(scope="module")
def sets() -> Iterator[ModuleType]:
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(ROOT / "benchmarks"))
    yield import_module("anomaly_sets")
    patch.undo()


@pytest.fixture(scope="module")
def nab(sets: ModuleType) -> dict[str, Any]:
    data_path("nab/labels/combined_windows.json")
    return {series.name: series for series in sets.nab(data_root())}


@pytest.fixture(scope="module")
def channels(sets: ModuleType) -> dict[str, Any]:
    data_path("smap_msl/smap_msl.zip")
    return {series.name: series for series in sets.smap_msl(data_root())}


def test_events_are_runs_with_an_open_end(sets: ModuleType) -> None:
    labels = np.array([1, 1, 0, 1, 0, 0, 1], dtype=bool)
    assert sets.events(labels) == [(0, 2), (3, 4), (6, 7)]
    assert sets.events(np.zeros(3, dtype=bool)) == []


class TestNab:
    def test_counts_are_those_of_the_publisher(self, sets: ModuleType, nab: dict[str, Any]) -> None:
        assert len(nab) == 58
        assert sum(len(series.values) for series in nab.values()) == 365_558
        assert sum(len(sets.events(series.labels)) for series in nab.values()) == 116
        assert all(np.isfinite(series.values).all() for series in nab.values())

    def test_six_files_have_no_anomaly(self, nab: dict[str, Any]) -> None:
        without = {name.rpartition("/")[2] for name, series in nab.items() if not series.has_anomaly}
        art = {
            "art_daily_no_noise",
            "art_daily_perfect_square_wave",
            "art_daily_small_noise",
            "art_flatline",
            "art_noisy",
        }
        assert without == art | {"ec2_cpu_utilization_c6585a"}

    def test_no_window_reaches_into_the_probation(self, nab: dict[str, Any]) -> None:
        assert not any(series.labels[: series.train_end].any() for series in nab.values())
        assert nab["realAWSCloudwatch/grok_asg_anomaly"].train_end == int(0.15 * 4_621)
        assert nab["realKnownCause/nyc_taxi"].train_end == 750

    def test_groups_are_folders_and_steps_are_the_usual_ones(self, nab: dict[str, Any]) -> None:
        assert Counter(series.group for series in nab.values()) == {
            "artificialNoAnomaly": 5,
            "artificialWithAnomaly": 6,
            "realAWSCloudwatch": 17,
            "realAdExchange": 6,
            "realKnownCause": 7,
            "realTraffic": 7,
            "realTweets": 10,
        }
        assert Counter(series.freq for series in nab.values()) == {"5min": 48, "h": 7, "10min": 2, "30min": 1}

    def test_rows_stand_in_file_order_and_a_window_holds_both_its_ends(
        self, sets: ModuleType, nab: dict[str, Any]
    ) -> None:
        """TravelTime_387 would fill a quarter of a grid."""
        series = nab["realTraffic/TravelTime_387"]
        path = data_path("nab/data/realTraffic/TravelTime_387.csv")
        with path.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
        assert series.values.tolist() == [float(row["value"]) for row in rows]
        times = np.array([row["timestamp"] for row in rows], dtype="datetime64[s]")
        spans = json.loads(data_path("nab/labels/combined_windows.json").read_text())["realTraffic/TravelTime_387.csv"]
        marked = [(times[first], times[end - 1]) for first, end in sets.events(series.labels)]
        assert marked == [(np.datetime64(first[:19]), np.datetime64(last[:19])) for first, last in spans]
        assert np.datetime64(series.start, "us") == np.datetime64(rows[0]["timestamp"])


class TestSmapMsl:
    def test_arrays_and_rows_are_those_of_the_publisher(self, sets: ModuleType) -> None:
        with zipfile.ZipFile(data_path("smap_msl/smap_msl.zip")) as archive:
            names = [Path(name).stem for name in archive.namelist() if name.startswith("train/") and name[-1] != "/"]
            lengths = {
                part: sum(len(sets.telemetry(archive, part, name)) for name in names) for part in ("train", "test")
            }
        assert len(names) == 82
        assert lengths == {"train": 196_746, "test": 510_225}

    def test_the_82_label_rows_are_81_series(self, sets: ModuleType, channels: dict[str, Any]) -> None:
        """P-2 twice, T-10 not at all."""
        assert Counter(series.group for series in channels.values()) == {"SMAP": 54, "MSL": 27}
        assert "T-10" not in channels
        p_2 = channels["P-2"]
        assert sets.events(p_2.labels[p_2.train_end :]) == [(5_300, 6_576)]
        assert sum(len(sets.events(series.labels)) for series in channels.values()) == 104

    def test_only_test_rows_are_labelled_up_to_the_last(self, channels: dict[str, Any]) -> None:
        assert all(series.has_anomaly and not series.labels[: series.train_end].any() for series in channels.values())
        e_3 = channels["E-3"]
        assert (e_3.train_end, len(e_3.values)) == (2_880, 2_880 + 8_307)
        assert e_3.labels[-1]
        assert (e_3.freq, e_3.start) == ("1", 0)

    def test_degenerate_channels_are_told_by_their_train_part(self, sets: ModuleType, channels: dict[str, Any]) -> None:
        kinds = Counter(series.degenerate for series in channels.values())
        assert kinds == {None: 58, sets.Degenerate.CONSTANT: 16, sets.Degenerate.TWO_VALUES: 7}
        assert channels["D-12"].degenerate is sets.Degenerate.CONSTANT


def test_the_name_of_a_ucr_file_is_its_truth(sets: ModuleType) -> None:
    data_path("ucr_anomaly")
    first, second = sets.ucr(data_root())
    assert (first.name, first.train_end, sets.events(first.labels)) == (
        "136_InternalBleeding17",
        1_600,
        [(3_198, 3_310)],
    )
    assert (second.name, second.train_end, sets.events(second.labels)) == (
        "138_InternalBleeding19",
        3_000,
        [(4_187, 4_198)],
    )
    assert len(first.values) == len(second.values) == 7_500


def test_without_data_the_run_ends_and_says_so(
    sets: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TEMPER_DATA", str(tmp_path / "nothing"))
    with pytest.raises(SystemExit, match="TEMPER_DATA"):
        sets.data_folder()
