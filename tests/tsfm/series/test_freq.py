"""Aliases, seasons, and grids that go there and back again."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tsfm.series.frames import frame_of, micros
from tsfm.errors import ConfigError
from tsfm.series import freq as frequencies
from tsfm.series import zones

ALIASES = ["s", "10s", "min", "15min", "h", "6h", "D", "2D", "B", "W-SUN", "W-MON", "2W-TUE", "MS", "ME", "2MS", "QS"]
ALIASES += ["QE", "YS", "YE", "ms", "1"]


@pytest.mark.parametrize(
    ("given_alias", "canonical"),
    [
        ("H", "h"), ("60min", "h"), ("T", "min"), ("15T", "15min"), ("S", "s"), ("24h", "D"), ("d", "D"), ("M", "ME"),
        ("3MS", "QS"), ("12ME", "YE"), ("Q", "QE"), ("QS-OCT", "QS"), ("A", "YE"), ("Y", "YE"), ("AS", "YS"),
        ("W", "W-SUN"), ("w-mon", "W-MON"), ("hourly", "h"), ("monthly", "MS"), ("1", "1"), ("0.5h", None), ("x", None),
        ("", None), ("0h", None), ("W-XYZ", None), ("-h", None),
        ("999999999D", None), ("999999999W", None), ("999999YS", None),
    ],
)  # fmt: skip
def test_parse(given_alias: str, canonical: str | None) -> None:
    if canonical is None:
        with pytest.raises(ConfigError) as caught:
            frequencies.parse(given_alias)
        assert (caught.value.code, caught.value.param) == ("unknown_freq", "freq")
    else:
        assert frequencies.parse(given_alias).alias == canonical


@pytest.mark.parametrize("alias", ALIASES)
def test_canonical_aliases_are_fixed_points(alias: str) -> None:
    assert frequencies.parse(alias).alias == alias


@pytest.mark.parametrize(
    ("alias", "season", "periods"),
    [
        ("s", 60, (60, 3600)), ("min", 1440, (1440, 10_080)), ("15min", 96, (96, 672)), ("10min", 144, (144, 1008)),
        ("7min", 1, (1, 1440)), ("h", 24, (24, 168)), ("6h", 4, (4, 28)), ("D", 7, (7, 365)), ("B", 5, (5,)),
        ("W-SUN", 52, (52,)), ("MS", 12, (12,)), ("QE", 4, (4,)), ("YS", 1, (1,)), ("1", 1, (1,)),
    ],
)  # fmt: skip
def test_seasons(alias: str, season: int, periods: tuple[int, ...]) -> None:
    freq = frequencies.parse(alias)
    assert (freq.season, freq.periods) == (season, periods)


@settings(max_examples=150, deadline=None)
@given(
    alias=st.sampled_from(ALIASES),
    start=st.integers(-2_000_000_000, 4_000_000_000),
    zone=st.sampled_from([None, "UTC", "+05:30", "Europe/Berlin", "America/New_York"]),
    first=st.integers(-50, 5000),
)
def test_grids_are_regular(alias: str, start: int, zone: str | None, first: int) -> None:
    freq = frequencies.parse(alias)
    begin = start * 1_000_000
    if alias == "B":
        begin -= (begin // frequencies.DAY - 4) % 7 // 5 * 2 * frequencies.DAY
    if alias in {"MS", "2MS", "QS", "YS"}:
        begin = int(np.datetime64(begin, "us").astype("datetime64[M]").astype("datetime64[us]").astype(np.int64))
    times = freq.timestamps(begin, 40, zone, first=first)
    assert (np.diff(times) > 0).all()
    assert np.array_equal(times[1:], freq.timestamps(begin, 39, zone, first=first + 1))
    counts, _ = freq.local_ordinals(times, zone)
    assert (np.diff(counts) == freq.stride).all()


@pytest.mark.parametrize(
    ("alias", "start", "zone", "expected"),
    [
        ("ME", "2020-01-31", None, ["2020-01-31T00:00:00", "2020-02-29T00:00:00", "2020-03-31T00:00:00"]),
        ("MS", "2020-01-15", None, ["2020-01-15T00:00:00", "2020-02-15T00:00:00", "2020-03-15T00:00:00"]),
        ("MS", "2020-01-31", None, ["2020-01-31T00:00:00", "2020-02-29T00:00:00", "2020-03-31T00:00:00"]),
        ("B", "2020-01-02", None, ["2020-01-02T00:00:00", "2020-01-03T00:00:00", "2020-01-06T00:00:00"]),
        ("QS", "2020-02-01", None, ["2020-02-01T00:00:00", "2020-05-01T00:00:00", "2020-08-01T00:00:00"]),
        ("250ms", "2020-01-01", None, ["2020-01-01T00:00:00.000000", "2020-01-01T00:00:00.250000"]),
        (
            "D",
            "2020-03-27T23:00",
            "Europe/Berlin",
            ["2020-03-28T00:00:00+01:00", "2020-03-29T00:00:00+01:00", "2020-03-30T00:00:00+02:00"],
        ),
        ("h", "2020-10-25T00:00", "Europe/Berlin", ["2020-10-25T02:00:00+02:00", "2020-10-25T02:00:00+01:00"]),
        ("h", "2020-01-01", "-03:30", ["2019-12-31T20:30:00-03:30", "2019-12-31T21:30:00-03:30"]),
    ],
)
def test_future_stamps(alias: str, start: str, zone: str | None, expected: list[str]) -> None:
    frame = frame_of([1.0], freq=frequencies.parse(alias).alias, starts=[start], timezone=zone)
    assert frequencies.format_timestamps(frame, 0, 0, len(expected)) == expected
    later = frequencies.parse(alias).future(micros(start), 1, len(expected) - 1, zone)
    assert frequencies.format_micros(later, zone) == expected[1:] or alias == "250ms"


def test_integer_stamps_are_integers() -> None:
    assert frequencies.format_timestamps(frame_of([1.0, 2.0], freq="1"), 0, 2, 3) == [2, 3, 4]


@settings(max_examples=60, deadline=None)
@given(
    second=st.integers(-2_000_000_000, 4_000_000_000),
    zone=st.sampled_from(["Europe/Berlin", "America/Sao_Paulo", "Australia/Lord_Howe", "Africa/Casablanca", "+05:45"]),
)
def test_zones_agree_with_the_standard_library(second: int, zone: str) -> None:
    utc = np.array([second * 1_000_000], dtype=np.int64)
    local = zones.to_local(utc, zone)
    if zone[0] == "+":
        assert (local - utc)[0] == (5 * 60 + 45) * 60_000_000
    else:
        moment = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=second)).astimezone(ZoneInfo(zone))
        assert (local - utc)[0] == moment.utcoffset() // timedelta(microseconds=1)
    back = zones.to_utc(local, zone)
    assert not back.missing[0]
    assert back.utc[0] == utc[0] or back.repeated[0]


def test_clock_changes_are_marked() -> None:
    texts = ["2020-03-29T02:30", "2020-10-25T02:30", "2020-10-25T03:00", "2020-10-25T01:59", "2020-03-29T03:00"]
    wall = zones.to_utc(np.array([micros(t) for t in texts]), "Europe/Berlin")
    assert wall.missing.tolist() == [True, False, False, False, False]
    assert wall.repeated.tolist() == [False, True, False, False, False]
    assert wall.utc[1] == micros("2020-10-25T00:30"), "a doubled hour is read as the first"


@pytest.mark.parametrize("zone", ["", "Mars/Base", "../etc/passwd", "+25:00", "/etc/passwd", "Europe/../UTC"])
def test_unknown_zones(zone: str) -> None:
    with pytest.raises(ConfigError) as caught:
        zones.canonical(zone)
    assert caught.value.param == "timezone"
