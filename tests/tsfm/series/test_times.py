"""Times in every spelling: formats, day and month, epochs, zones, daylight saving, columns that hold half a time."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from tests.tsfm.series.conftest import Reader
from tests.tsfm.series.frames import micros

BERLIN = ZoneInfo("Europe/Berlin")


def column(times: list[str], *, name: str = "timestamp", delimiter: str = ",") -> str:
    return f"{name}{delimiter}y\n" + "\n".join(f"{t}{delimiter}{i}" for i, t in enumerate(times))


def hours(start: str, n: int = 40) -> list[datetime]:
    return [datetime.fromisoformat(start) + timedelta(hours=i) for i in range(n)]


def days(start: str, n: int = 40) -> list[datetime]:
    return [datetime.fromisoformat(start) + timedelta(days=i) for i in range(n)]


@pytest.mark.parametrize(
    ("pattern", "times"),
    [
        ("%Y-%m-%d", days("2020-01-01")),
        ("%Y/%m/%d", days("2020-01-01")),
        ("%Y.%m.%d", days("2020-01-01")),
        ("%Y%m%d", days("2020-01-01")),
        ("%d/%m/%Y", days("2020-01-01")),
        ("%m/%d/%Y", days("2020-01-01")),
        ("%d.%m.%Y", days("2020-01-01")),
        ("%d-%m-%y", days("2020-01-01")),
        ("%d-%b-%Y", days("2020-01-01")),
        ("%d %B %Y", days("2020-01-01")),
        ("%B %d, %Y", days("2020-01-01")),
        ("%Y-%m-%d %H:%M", hours("2020-01-01")),
        ("%Y-%m-%dT%H:%M:%S", hours("2020-01-01")),
        ("%Y-%m-%d %H:%M:%S.%f", hours("2020-01-01")),
        ("%d/%m/%Y %H:%M:%S", hours("2020-01-12")),
        ("%m/%d/%Y %I:%M %p", hours("2020-01-12")),
        ("%Y%m%dT%H%M", hours("2020-01-01")),
        ("%Y%m%d%H", hours("2020-01-01")),
        ("%Y%m%d%H%M", hours("2020-01-01")),
        ("%Y-%m-%d %H.%M.%S", hours("2020-01-01")),
    ],
)
def test_patterns(read: Reader, pattern: str, times: list[datetime]) -> None:
    reading, frame = read(column(['"' + t.strftime(pattern) + '"' for t in times]))
    assert reading["start"] == times[0].isoformat()
    assert reading["end"] == times[-1].isoformat()
    assert reading["freq"] == ("h" if times[1].hour else "D")
    assert reading["timezone"] is None
    assert frame.values.tolist() == list(range(len(times)))


@pytest.mark.parametrize(
    ("write", "freq", "name"),
    [
        (lambda i: f"{2000 + i // 12}-{i % 12 + 1:02d}", "MS", "month"),
        (lambda i: f"{i % 12 + 1:02d}/{2000 + i // 12}", "MS", "month"),
        (lambda i: f"{2000 + i // 12}{i % 12 + 1:02d}", "MS", "month"),
        (lambda i: datetime(2000 + i // 12, i % 12 + 1, 1).strftime("%b %Y"), "MS", "month"),
        (lambda i: datetime(2000 + i // 12, i % 12 + 1, 1).strftime("%b-%y"), "MS", "month"),
        (lambda i: f"{2000 + i // 12}-{i % 12 + 1:02d}-15", "MS", "date"),
        (lambda i: str(datetime(2000 + (i + 1) // 12, (i + 1) % 12 + 1, 1).date() - timedelta(days=1)), "ME", "date"),
        (lambda i: f"{2000 + i // 4}Q{i % 4 + 1}", "QS", "quarter"),
        (lambda i: f"Q{i % 4 + 1} {2000 + i // 4}", "QS", "quarter"),
        (lambda i: f"{2000 + i // 4}-{i % 4 * 3 + 2:02d}-01", "QS", "date"),
        (lambda i: str(1950 + i), "YS", "year"),
        (lambda i: f"{1950 + i}-12-31", "YE", "date"),
        (lambda i: f"2020-W{i + 1:02d}", "W-MON", "week"),
        (lambda i: str(datetime(2020, 1, 7).date() + timedelta(weeks=i)), "W-TUE", "date"),
        (lambda i: str(datetime(2020, 1, 6).date() + timedelta(days=i // 5 * 7 + i % 5)), "B", "date"),
        (lambda i: str(datetime(2020, 1, 1) + timedelta(minutes=7 * i)), "7min", "date"),
        (lambda i: str(datetime(2020, 1, 1) + timedelta(days=2 * i)), "2D", "date"),
    ],
)
def test_calendar_frequencies(read: Reader, write: Callable[[int], str], freq: str, name: str) -> None:
    reading, frame = read(column([write(i) for i in range(40)], name=name))
    assert reading["freq"] == frame.freq == freq
    assert reading["gaps"]["num_missing_steps"] == 0
    assert "100.00 %" in reading["freq_evidence"]


@pytest.mark.parametrize(
    ("scale", "name"), [(1, "epoch_s"), (1_000, "epoch_ms"), (1_000_000, "epoch_us"), (1_000_000_000, "epoch_ns")]
)
def test_epochs_by_magnitude(read: Reader, scale: int, name: str) -> None:
    reading, _ = read(column([str((1_577_836_800 + 3600 * i) * scale) for i in range(30)]))
    assert (reading["timestamp_format"], reading["timezone"]) == (name, "UTC")
    assert (reading["start"], reading["freq"]) == ("2020-01-01T00:00:00+00:00", "h")


def test_epoch_with_fractions(read: Reader) -> None:
    reading, _ = read(column([f"{1_577_836_800 + i / 4}" for i in range(30)]))
    assert (reading["freq"], reading["end"]) == ("250ms", "2020-01-01T00:00:07.250000+00:00")


def test_integer_index_and_its_steps(read: Reader) -> None:
    reading, frame = read(column([str(5 + i) for i in range(30)], name="t"))
    assert (reading["freq"], reading["start"], frame.starts.tolist()) == ("1", 5, [5])
    reading, frame = read(column([str(10 * i) for i in range(30)], name="step"))
    assert reading["end"] == 29
    assert any("10" in w for w in reading["warnings"])


def test_excel_day_numbers_are_asked_about(read: Reader) -> None:
    text = column([str(43_831 + i) for i in range(30)], name="date")
    error = read.refused(text)
    assert (error.code, error.param) == ("ambiguous_dates", "timestamp_format")
    reading, _ = read(text, timestamp_format="excel")
    assert (reading["start"], reading["freq"]) == ("2020-01-01T00:00:00", "D")


@pytest.mark.parametrize("sep", ["/", "-", "."])
def test_day_and_month_are_never_guessed(read: Reader, sep: str) -> None:
    text = column([f"{m:02d}{sep}01{sep}2020" for m in range(1, 13)])
    error = read.refused(text)
    assert (error.code, error.param) == ("ambiguous_dates", "timestamp_format")
    assert error.details["readings"] == [f"%d{sep}%m{sep}%Y", f"%m{sep}%d{sep}%Y"]
    assert all(r in error.message for r in error.details["readings"])
    monthly, _ = read(text, timestamp_format=f"%m{sep}%d{sep}%Y")
    daily, _ = read(text, timestamp_format="day_first")
    assert (monthly["freq"], daily["freq"]) == ("MS", "D")


def test_a_number_above_twelve_far_down_settles_the_order(read: Reader) -> None:
    times = [f"{d.strftime('%d/%m/%Y')}" for year in range(1990, 2020) for d in [datetime(year, 1, 1)]] * 200
    text = "id,date,y\n" + "\n".join(f"s{i // 30:04d},{t},1" for i, t in enumerate(times)) + "\ns9999,13/01/2020,1\n"
    reading, _ = read(text)
    assert reading["timestamp_format"] == "%d/%m/%Y"


def test_rows_of_the_other_order_are_refused(read: Reader) -> None:
    error = read.refused(column([d.strftime("%d/%m/%Y") for d in days("2020-01-01", 28)] + ["02/13/2020"]))
    assert [(p["row"], p["value"]) for p in error.details["problems"]] == [(30, "02/13/2020")]


def test_unknown_spellings_are_shown(read: Reader) -> None:
    error = read.refused(column(["the first", "the second", "the third"], name="date"))
    assert (error.code, error.param) == ("unknown_timestamp_format", "timestamp_format")
    assert "the first" in error.message


@pytest.mark.parametrize(
    ("header", "write"),
    [
        ("Date,Time,y", lambda t: f"{t:%Y-%m-%d},{t:%H:%M:%S}"),
        ("date,hour,y", lambda t: f"{t:%Y-%m-%d},{t.hour}"),
        ("year,month,day,hour,y", lambda t: f"{t.year},{t.month},{t.day},{t.hour}"),
        ("Datum,Zeit,y", lambda t: f"{t:%d.%m.%Y},{t:%H:%M}"),
    ],
)
def test_times_over_several_columns(read: Reader, header: str, write: Callable[[datetime], str]) -> None:
    times = hours("2020-01-13", 60)
    reading, _ = read(header + "\n" + "\n".join(f"{write(t)},{i}" for i, t in enumerate(times)))
    assert reading["columns"]["timestamp"] == header.split(",")[:-1]
    assert (reading["freq"], reading["end"]) == ("h", times[-1].isoformat())


def test_two_columns_named_by_the_caller(read: Reader) -> None:
    text = "a,b,y\n" + "\n".join(f"{t:%Y%m%d},{t:%H%M},{i}" for i, t in enumerate(hours("2020-01-01")))
    reading, _ = read(text, timestamp_column=["a", "b"], timestamp_format="%Y%m%d %H%M")
    assert (reading["freq"], reading["columns"]["timestamp"]) == ("h", ["a", "b"])


@pytest.mark.parametrize("year", ["0001", "1676", "2263", "9999"])
def test_a_year_that_is_not_read_is_told_from_a_time_that_is_none(read: Reader, year: str) -> None:
    """9999-12-31 is how many write that there is no end."""
    text = "date,y\n" + "\n".join(f"{t.isoformat()},{i}" for i, t in enumerate(hours("2020-01-01", 30)))
    text += f"\n{year}-12-31T00:00:00,30\n"
    (problem,) = read.refused(text).details["problems"]
    assert (problem["row"], problem["code"]) == (32, "invalid_timestamp")
    assert problem["reason"] == "Times of day before 1678 or after 2261 are not read."


@pytest.mark.parametrize("year", ["1678", "2261"])
def test_the_first_and_the_last_year_that_are_read(read: Reader, year: str) -> None:
    reading, _ = read("date,y\n" + "\n".join(f"{year}-01-{i + 1:02d}T06:00:00,{i}" for i in range(30)))
    assert reading["start"].startswith(f"{year}-01-01")


def test_hour_24_is_explained(read: Reader) -> None:
    text = "date,hour,y\n" + "\n".join(f"2020-01-{1 + i // 24:02d},{i % 24 + 1},{i}" for i in range(72))
    error = read.refused(text)
    assert [p["row"] for p in error.details["problems"]] == [25, 49, 73]
    assert "hour 24" in error.details["problems"][0]["reason"]


def test_several_time_columns_are_refused(read: Reader) -> None:
    text = "start,end,y\n" + "\n".join(f"{d.date()},{d.date()},1" for d in days("2020-01-01"))
    error = read.refused(text)
    assert (error.code, error.details["candidates"]) == ("ambiguous_timestamp_column", ["start", "end"])


class TestZones:
    def test_one_offset_is_kept(self, read: Reader) -> None:
        reading, frame = read(column([t.isoformat() + "+02:00" for t in hours("2020-01-01")]))
        assert (reading["timezone"], reading["start"]) == ("+02:00", "2020-01-01T00:00:00+02:00")
        assert frame.starts[0] == micros("2019-12-31T22:00")

    @pytest.mark.parametrize("zulu", ["Z", " UTC", "+00:00", "+0000", "+00"])
    def test_utc(self, read: Reader, zulu: str) -> None:
        reading, _ = read(column([t.isoformat(sep=" ") + zulu for t in hours("2020-01-01")]))
        assert (reading["timezone"], reading["start"]) == ("UTC", "2020-01-01T00:00:00+00:00")

    def test_mixed_offsets_over_a_clock_change(self, read: Reader) -> None:
        times = [(t.replace(tzinfo=UTC)).astimezone(BERLIN) for t in hours("2020-03-28", 60)]
        text = column([t.isoformat() for t in times])
        reading, frame = read(text)
        assert (reading["timezone"], reading["freq"], reading["gaps"]["num_missing_steps"]) == ("UTC", "h", 0)
        local, same = read(text, timezone="Europe/Berlin")
        assert (local["start"], local["end"]) == (times[0].isoformat(), times[-1].isoformat())
        assert same.starts.tolist() == frame.starts.tolist()

    def test_local_days_need_the_zone(self, read: Reader) -> None:
        text = column([t.replace(tzinfo=BERLIN).isoformat() for t in days("2020-03-20")])
        error = read.refused(text)
        assert error.code in {"off_grid", "irregular_timestamps"}
        assert "timezone" in error.details["problems"][0]["fix"]
        reading, _ = read(text, timezone="Europe/Berlin")
        assert (reading["freq"], reading["gaps"]["num_missing_steps"]) == ("D", 0)

    def test_naive_times_are_put_on_the_clock_of_the_zone(self, read: Reader) -> None:
        times = [t.replace(tzinfo=UTC).astimezone(BERLIN).replace(tzinfo=None) for t in hours("2020-03-28", 60)]
        reading, frame = read(column([str(t) for t in times]), timezone="Europe/Berlin")
        assert (reading["freq"], reading["gaps"]["num_missing_steps"]) == ("h", 0)
        assert frame.starts[0] == micros("2020-03-28T00:00")
        assert reading["end"].endswith("+02:00")

    def test_a_time_that_never_was_is_refused(self, read: Reader) -> None:
        error = read.refused(column([str(t) for t in hours("2020-03-28", 60)]), timezone="Europe/Berlin")
        assert error.code == "nonexistent_local_time"
        assert [(p["row"], p["value"]) for p in error.details["problems"]] == [(28, "2020-03-29 02:00:00")]

    def test_a_doubled_hour_is_explained(self, read: Reader) -> None:
        times = [t.replace(tzinfo=UTC).astimezone(BERLIN).replace(tzinfo=None) for t in hours("2020-10-24", 60)]
        error = read.refused(column([str(t) for t in times]), timezone="Europe/Berlin")
        assert error.code == "duplicate_timestamps"
        assert "clock of Europe/Berlin" in error.details["problems"][0]["reason"]
        assert {p["value"] for p in error.details["problems"]} == {"2020-10-25 02:00:00"}

    def test_midnights_that_never_were(self, read: Reader) -> None:
        reading, frame = read(column([str(t.date()) for t in days("2017-10-01")]), timezone="America/Sao_Paulo")
        assert (reading["freq"], reading["gaps"]["num_missing_steps"]) == ("D", 0)
        assert any("clock put forward" in w for w in reading["warnings"])
        assert frame.lengths.tolist() == [40]

    def test_rows_without_offset_among_rows_with_one(self, read: Reader) -> None:
        times = [t.isoformat() + "Z" for t in hours("2020-01-01")]
        times[5] = times[5].removesuffix("Z")
        error = read.refused(column(times))
        assert [p["row"] for p in error.details["problems"]] == [7]


class TestFrequency:
    def test_series_that_disagree_are_named(self, read: Reader) -> None:
        rows = [f"a{k},{d.date()},1" for k in range(3) for d in days("2020-01-01")]
        rows += [f"b,{t},1" for t in hours("2020-01-01")]
        error = read.refused("id,date,y\n" + "\n".join(rows))
        assert (error.code, error.param) == ("mixed_freq", "freq")
        assert error.details["series"] == [{"item_id": "b", "freq": "h"}]

    def test_a_given_freq_wins_and_is_checked(self, read: Reader) -> None:
        text = column([str(t) for t in hours("2020-01-01")[::2]])
        reading, _ = read(text, freq="h")
        assert (reading["freq"], reading["gaps"]["num_missing_steps"]) == ("h", 19)
        error = read.refused(text, freq="D")
        assert error.code in {"off_grid", "invalid_file"}

    def test_month_sides_are_told_apart(self, read: Reader) -> None:
        reading, _ = read(column([f"2020-{m:02d}-01" for m in range(1, 13)]), freq="M")
        assert reading["freq"] == "MS"
        assert any("'ME'" in w for w in reading["warnings"])

    def test_short_series_abstain(self, read: Reader) -> None:
        rows = [f"a,{d.date()},1" for d in days("2020-01-01")] + ["b,2020-01-05,1", "b,2020-01-09,1", "c,2020-02-01,1"]
        reading, frame = read("id,date,y\n" + "\n".join(rows))
        assert (reading["freq"], frame.lengths.tolist()) == ("D", [40, 5, 1])
        assert any("fewer than 3" in w for w in reading["warnings"])

    def test_a_freq_without_times_is_refused(self, read: Reader) -> None:
        error = read.refused("y\n1\n2\n3\n", freq="h")
        assert (error.code, error.param) == ("freq_without_times", "freq")

    def test_order_of_rows_is_reported(self, read: Reader) -> None:
        times = [str(d.date()) for d in days("2020-01-01", 28)]
        assert read(column(times))[0]["order"] == "oldest_first"
        reading, frame = read(column(times[::-1]))
        assert (reading["order"], frame.values[0]) == ("newest_first", 27)
        assert read(column(times[::2] + times[1::2]))[0]["order"] == "unsorted"
