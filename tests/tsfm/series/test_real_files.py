"""The real files of the shared data, each read as what it is."""

import numpy as np
import pytest

from tests.data import data_path
from tests.tsfm.series.conftest import Reader


def test_etth1_is_hourly_and_wide(read: Reader) -> None:
    reading, frame = read(data_path("ett/ETTh1.csv"))
    assert reading["layout"] == "wide"
    assert reading["columns"]["timestamp"] == "date"
    assert reading["columns"]["targets"] == ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"]
    assert (reading["freq"], reading["num_series"], reading["num_rows"]) == ("h", 7, 17_420)
    assert (reading["start"], reading["end"]) == ("2016-07-01T00:00:00", "2018-06-26T19:00:00")
    assert reading["gaps"]["num_missing_steps"] == reading["duplicates"]["count"] == reading["missing"]["count"] == 0
    assert reading["suspects"] == []
    assert frame.series(frame.item_ids.index("OT"))[0] == 30.5310001373291
    assert frame.lengths.tolist() == [17_420] * 7


def test_ettm2_is_unpacked_and_quarter_hourly(read: Reader) -> None:
    reading, _ = read(data_path("ett/ETTm2.csv.gz"))
    assert (reading["compression"], reading["freq"], reading["num_rows"]) == ("gzip", "15min", 69_680)
    assert reading["num_points"] == 7 * 69_680


def test_exchange_rate_has_slashed_dates_and_numbers_for_names(read: Reader) -> None:
    reading, frame = read(data_path("exchange_rate/exchange_rate.csv"))
    assert reading["timestamp_format"] == "%Y/%m/%d %H:%M"
    assert reading["columns"]["targets"] == ["0", "1", "2", "3", "4", "5", "6", "OT"]
    assert (reading["freq"], reading["start"], reading["end"]) == ("D", "1990-01-01T00:00:00", "2010-10-10T00:00:00")
    assert frame.series(frame.item_ids.index("OT"))[0] == 0.593


def test_exchange_rate_text_has_neither_header_nor_dates(read: Reader) -> None:
    reading, frame = read(data_path("exchange_rate/exchange_rate.txt.gz"))
    assert (reading["freq"], reading["num_series"], reading["num_rows"]) == ("1", 8, 7_588)
    assert reading["columns"]["targets"][0] == "column_1"
    assert any("column_1" in w for w in reading["warnings"])
    assert frame.series(0)[0] == 0.7855


def test_national_illness_keeps_its_odd_column_names(read: Reader) -> None:
    reading, _ = read(data_path("national_illness/national_illness.csv"))
    assert reading["columns"]["targets"][:2] == ["% WEIGHTED ILI", "%UNWEIGHTED ILI"]
    assert "NUM. OF PROVIDERS" in reading["columns"]["targets"]
    assert (reading["freq"], reading["num_rows"]) == ("W-TUE", 966)


def test_weather_is_refused_naming_the_repeated_row(read: Reader) -> None:
    error = read.refused(data_path("weather/weather.csv.gz"))
    assert error.code == "duplicate_timestamps"
    assert error.details["num_problems"] == 1
    assert [p["row"] for p in error.details["problems"]] == [19_045, 19_046]
    assert {p["value"] for p in error.details["problems"]} == {"2020-05-12 06:00:00"}
    assert "duplicates" in error.details["problems"][0]["fix"]


def test_weather_is_read_with_a_policy_for_its_duplicate(read: Reader) -> None:
    reading, frame = read(data_path("weather/weather.csv.gz"), duplicates="last")
    assert (reading["freq"], reading["num_series"], reading["num_rows"]) == ("10min", 21, 52_696)
    assert reading["duplicates"] == {
        "count": 1,
        "policy": "last",
        "examples": [{"item_id": None, "timestamp": "2020-05-12T06:00:00"}],
    }
    assert reading["gaps"]["num_missing_steps"] == 9
    assert reading["gaps"]["examples"] == [
        {"item_id": None, "after": "2020-05-29T09:30:00", "before": "2020-05-29T11:10:00", "missing_steps": 9}
    ]
    assert "SWDR (W/m\ufffd)" in frame.item_ids
    found = {(s["item_id"], s["value"]): s["count"] for s in reading["suspects"]}
    assert found == {("OT", -9999.0): 50, ("max. PAR (\ufffdmol/m\ufffd/s)", -9999.0): 30, ("wv (m/s)", -9999.0): 1}
    assert frame.lengths.tolist() == [52_704] * 21
    assert np.isnan(frame.values).sum() == 21 * 9, "gaps are missing, suspects are left as they are"


def test_air_quality_joins_date_and_time_and_suspects_minus_200(read: Reader) -> None:
    reading, frame = read(data_path("air_quality_uci/AirQuality.csv"))
    assert reading["columns"]["timestamp"] == ["Date", "Time"]
    assert (reading["freq"], reading["num_series"], reading["num_rows"]) == ("h", 13, 9_357)
    assert (reading["start"], reading["end"]) == ("2004-03-10T18:00:00", "2005-04-04T14:00:00")
    counts = {s["item_id"]: s["count"] for s in reading["suspects"] if s["value"] == -200}
    assert counts["NMHC(GT)"] == 8_443
    assert set(counts) == set(frame.item_ids)
    assert (frame.series(frame.item_ids.index("NMHC(GT)")) == -200).sum() == 8_443


@pytest.mark.parametrize(("name", "shortest", "longest"), [("train", 700, 960), ("test", 48, 48)])
def test_m4_hourly_holds_a_series_in_each_row(read: Reader, name: str, shortest: int, longest: int) -> None:
    reading, frame = read(data_path(f"m4/Hourly-{name}.csv"))
    assert (reading["layout"], reading["freq"], reading["num_series"]) == ("series_per_row", "1", 414)
    assert reading["columns"]["id"] == "V1"
    assert (reading["min_length"], reading["max_length"]) == (shortest, longest)
    first = {"train": (605.0, 586.0), "test": (619.0, 565.0)}[name]
    assert tuple(frame.series(frame.item_ids.index("H1"))[:2]) == first
    assert not np.isnan(frame.values).any()


def test_taylor_has_no_time_column(read: Reader) -> None:
    reading, frame = read(data_path("classics/taylor.csv"))
    assert (reading["freq"], reading["columns"]["timestamp"], reading["num_rows"]) == ("1", None, 4_032)
    assert "no time column" in reading["freq_evidence"]
    assert frame.values[:2].tolist() == [22_262, 21_756]


def test_us_gasoline_is_turned_round_and_month_first(read: Reader) -> None:
    reading, frame = read(data_path("classics/us_gasoline.csv"))
    assert (reading["order"], reading["timestamp_format"], reading["freq"]) == ("newest_first", "%m/%d/%Y", "W-FRI")
    assert (reading["start"], reading["end"]) == ("1991-02-08T00:00:00", "2021-04-30T00:00:00")
    assert (frame.values[0], frame.values[-1]) == (6621, 8864)


def test_incomplete_milk_has_thirteen_months_missing(read: Reader) -> None:
    reading, frame = read(data_path("classics/monthly-milk-incomplete.csv"))
    assert (reading["freq"], reading["num_rows"], reading["num_points"]) == ("MS", 155, 168)
    assert reading["gaps"]["num_missing_steps"] == 13
    assert reading["gaps"]["examples"][0]["after"] == "1963-08-01T00:00:00"
    assert np.isnan(frame.values).sum() == 13


@pytest.mark.parametrize(
    ("name", "freq", "rows", "series"),
    [
        ("AirPassengers", "MS", 144, 1),
        ("ILINet", "W-SUN", 1_301, 11),
        ("ausbeer", "QS", 211, 1),
        ("australian_tourism", "1", 36, 96),
        ("gasrate_co2", "1", 296, 2),
        ("heart_rate", "1", 1_800, 1),
        ("monthly-sunspots", "MS", 2_820, 1),
        ("taxi_new_york_passengers", "30min", 10_320, 1),
        ("temps", "D", 3_650, 1),
        ("woolyrnq", "QS", 119, 1),
    ],
)
def test_other_classics(read: Reader, name: str, freq: str, rows: int, series: int) -> None:
    reading, _ = read(data_path(f"classics/{name}.csv"))
    assert (reading["freq"], reading["num_rows"], reading["num_series"]) == (freq, rows, series)
