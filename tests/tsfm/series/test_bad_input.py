"""Every refusal names the place, the reason and the mend, lists all problems, and leaves nothing behind."""

import gzip
from datetime import date, timedelta

import pytest
import zstandard

from tests.tsfm.series.conftest import Reader
from tsfm.series.options import Limits

ROWS = [f"{date(2020, 1, 1) + timedelta(days=i)},{i}" for i in range(60)]
GOOD = "timestamp,y\n" + "\n".join(ROWS) + "\n"


def with_rows(*replaced: str) -> str:
    """The good file with its rows from line 5 on replaced."""
    return "timestamp,y\n" + "\n".join([*ROWS[:3], *replaced, *ROWS[3 + len(replaced) :]]) + "\n"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty_file"),
        (b"\n \r\n\n", "empty_file"),
        (b"timestamp,y\n", "header_only"),
        (b"timestamp,y\n\n\n", "header_only"),
        (bytes(range(256)) * 8, "binary"),
        (b"timestamp,y\n2020-01-01,1\x00\n", "binary"),
        (GOOD.encode("utf-16"), "unsupported_encoding"),
        (GOOD.encode("utf-16-le"), "unsupported_encoding"),
        (GOOD.encode("utf-16-be"), "unsupported_encoding"),
        (GOOD.replace("y\n", "Größe\n").encode("latin-1"), "unsupported_encoding"),
        (b"PK\x03\x04rest of a workbook", "unsupported_format"),
        (b'[{"timestamp": "2020-01-01", "y": 1}]', "unsupported_format"),
        (gzip.compress(GOOD.encode(), mtime=0)[:-9], "truncated"),
        (gzip.compress(GOOD.encode(), mtime=0)[:12], "truncated"),
        (zstandard.ZstdCompressor().compress(GOOD.encode() * 50)[:-9], "truncated"),
        (gzip.compress(b"", mtime=0), "empty_file"),
        (b"PAR1 and then it was cut off", "truncated"),
        (b"a b c\n1 2 3\n4 5 6\n", "no_target"),
        (b"name,colour\nx,red\ny,blue\n", "no_target"),
        (b'timestamp,y\n2020-01-01,"1\n2020-01-02,2\n', "open_quote"),
        (b"timestamp,y,y\n2020-01-01,1,2\n2020-01-02,1,2\n", "duplicate_columns"),
        (b"timestamp,y\n2020-01-01,5\n", "too_few_points"),
        (b"y\n5\n", "too_few_points"),
        (b"timestamp,y\n2020-01-01,\n2020-01-02,\n2020-01-03,\n", "all_missing"),
        (b"timestamp,y\n2020-01-01,NaN\n2020-01-02,NA\n2020-01-03,null\n", "all_missing"),
    ],
)
def test_refused_with_code(read: Reader, data: bytes, code: str) -> None:
    error = read.refused(data)
    assert error.code == code
    assert error.message
    assert error.details["problems"][0]["fix"]


def test_latin_1_says_where_and_how_to_convert(read: Reader) -> None:
    error = read.refused("timestamp,y\n2020-01-01,1\n2020-01-02,Maß\n".encode("latin-1"))
    assert "line 3" in error.message
    assert "Maß" in error.message
    assert "iconv" in error.message


def test_gzip_bomb_stops_at_the_limit(read: Reader) -> None:
    bomb = gzip.compress(b"0" * 40_000_000)
    assert len(bomb) < 100_000
    error = read.refused(bomb, limits=Limits(max_decompressed_bytes=1_000_000))
    assert error.code == "too_large"


def test_zstd_bomb_stops_at_the_limit(read: Reader) -> None:
    bomb = zstandard.ZstdCompressor(level=19).compress(b"0" * 40_000_000)
    assert read.refused(bomb, limits=Limits(max_decompressed_bytes=1_000_000)).code == "too_large"


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (Limits(max_bytes=100), "too_large"),
        (Limits(max_rows=10), "too_many_rows"),
        (Limits(max_columns=1), "too_many_columns"),
    ],
)
def test_limits_are_named(read: Reader, limits: Limits, code: str) -> None:
    assert read.refused(GOOD, limits=limits).code == code


def test_far_too_many_lines_are_refused_before_they_are_parsed(read: Reader) -> None:
    bomb = gzip.compress(b"a,b\n" + b"0,0\n" * 20_000)
    error = read.refused(bomb, limits=Limits(max_rows=100))
    assert (error.code, "lines" in error.message) == ("too_many_rows", True)


def test_too_many_series(read: Reader) -> None:
    text = "item_id,timestamp,target\n" + "\n".join(f"s{i},{row}" for i in range(5) for row in ROWS)
    assert read.refused(text, limits=Limits(max_series=4)).code == "too_many_series"


def test_ragged_rows_are_all_listed(read: Reader) -> None:
    error = read.refused(with_rows("2020-01-04", "2020-01-05,4,5", "2020-01-06"))
    assert error.code == "ragged_row"
    assert [(p["row"], p["value"]) for p in error.details["problems"]] == [
        (5, "2020-01-04"),
        (6, "2020-01-05,4,5"),
        (7, "2020-01-06"),
    ]
    assert "1 cells; the file has 2 columns" in error.details["problems"][0]["reason"]


def test_all_problems_of_a_file_come_at_once(read: Reader) -> None:
    error = read.refused(
        with_rows("2020-01-04,abc", "someday,4", "2020-01-06,inf", "2020-01-07,1,5", "2020-01-08,$7", "2020-01-09,8 %")
    )
    found = {p["row"]: (p["code"], p["value"]) for p in error.details["problems"]}
    assert found == {
        5: ("not_a_number", "abc"),
        6: ("invalid_timestamp", "someday"),
        7: ("infinite_value", "inf"),
        8: ("ragged_row", "2020-01-07,1,5"),
        9: ("not_a_number", "$7"),
        10: ("not_a_number", "8 %"),
    }
    assert error.details["num_problems"] == 6
    assert "currency" in error.details["problems"][4]["reason"]


def test_text_in_a_number_column_lists_twenty_and_counts_all(read: Reader) -> None:
    text = "timestamp,y\n" + "\n".join(f"{r.split(',')[0]},{'x' if i % 2 else i}" for i, r in enumerate(ROWS))
    error = read.refused(text)
    assert error.code == "not_a_number"
    assert len(error.details["problems"]) == 20
    assert error.details["num_problems"] == 30
    assert error.details["problems"][0] | {"fix": ""} == {
        "row": 3,
        "column": "y",
        "value": "x",
        "reason": "This is text in a column of numbers.",
        "fix": "",
        "code": "not_a_number",
    }


def test_line_numbers_count_blank_lines_and_quoted_line_ends(read: Reader) -> None:
    rows = "\n".join(f"{row},x" for row in ROWS)
    text = f'timestamp,y,note\n2019-12-31,1,"a\nb"\n\n{rows}\n2020-01-01,4,e\n'
    error = read.refused(text, target_columns=["y"])
    assert error.code == "duplicate_timestamps"
    assert [p["row"] for p in error.details["problems"]] == [5, 65]


def test_lines_above_the_table_are_named(read: Reader) -> None:
    error = read.refused("made by a program\n\n" + GOOD)
    assert error.code == "unreadable_csv"
    assert "line 3" in error.message


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("5%", "percent"),
        ("$5", "currency"),
        ("5 kWh", "unit"),
        ("1 234.5", "thousands"),
        ("\u22125", "dash"),
        ("'5'", "text"),
        ("1.5D+02", "text"),
    ],
)
def test_dressed_numbers_are_told_what_they_wear(read: Reader, cell: str, reason: str) -> None:
    everywhere = "timestamp,y\n" + "\n".join(f"{r.split(',')[0]},{cell}" for r in ROWS)
    for text in (with_rows(f"2020-01-04,{cell}"), everywhere):
        error = read.refused(text)
        assert error.code == "not_a_number"
        assert reason in error.details["problems"][0]["reason"]


@pytest.mark.parametrize("value", ["inf", "-Infinity", "1e400", "1e101"])
def test_infinite_values_are_refused_with_their_rows(read: Reader, value: str) -> None:
    error = read.refused(with_rows(f"2020-01-04,{value}"))
    assert error.code == "infinite_value"
    assert error.details["problems"][0] | {"reason": "", "fix": ""} == {
        "row": 5,
        "column": "y",
        "value": value,
        "reason": "",
        "fix": "",
        "code": "infinite_value",
    }


@pytest.mark.parametrize("number", ["1,234", "12,500", "999,000"])
def test_a_comma_before_three_digits_is_ambiguous(read: Reader, number: str) -> None:
    text = "timestamp;y\n" + "\n".join(f"{r.split(',')[0]};{number}" for r in ROWS)
    error = read.refused(text)
    assert error.code == "ambiguous_decimal"
    assert number in error.message


def test_thousands_separators_are_explained(read: Reader) -> None:
    text = "timestamp,y\n" + "\n".join(f'{r.split(",")[0]},"1,{i:03d}.5"' for i, r in enumerate(ROWS))
    error = read.refused(text)
    assert error.code == "not_a_number"
    assert error.details["num_problems"] == 60
    assert "thousands" in error.details["problems"][0]["reason"]


def test_duplicates_are_refused_with_every_row(read: Reader) -> None:
    error = read.refused(GOOD + "2020-01-05,9\n")
    assert error.code == "duplicate_timestamps"
    assert [p["row"] for p in error.details["problems"]] == [6, 62]


@pytest.mark.parametrize(("policy", "value"), [("first", 4), ("last", 10), ("mean", 7), ("sum", 14)])
def test_duplicates_are_merged_as_asked(read: Reader, policy: str, value: float) -> None:
    reading, frame = read(GOOD + "2020-01-05,10\n", duplicates=policy)
    assert frame.values[4] == value
    assert reading["duplicates"]["count"] == 1
    assert reading["num_rows"] == 61


def test_off_grid_times_are_refused_with_their_rows(read: Reader) -> None:
    error = read.refused(GOOD + "2020-01-10 07:00,5\n")
    assert error.code == "off_grid"
    assert [(p["row"], p["value"]) for p in error.details["problems"]] == [(62, "2020-01-10 07:00")]


def test_irregular_times_are_refused(read: Reader) -> None:
    moments = ["00:01:02", "00:07:09", "01:03:04", "05:06:07", "05:59:01", "09:03:02", "12:01:01"]
    error = read.refused("timestamp,y\n" + "\n".join(f"2020-01-01 {m},1" for m in moments))
    assert error.code == "irregular_timestamps"
    assert error.param == "freq"


def test_a_mistyped_year_is_not_a_gap(read: Reader) -> None:
    error = read.refused(GOOD + "2920-03-01,5\n")
    assert error.code == "too_sparse"
    assert "2920-03-01" in error.message


def test_an_all_missing_series_among_others_is_named(read: Reader) -> None:
    text = "item_id,timestamp,target\n" + "\n".join(f"a,{r}" for r in ROWS) + "\n"
    text += "\n".join(f"b,{r.split(',')[0]}," for r in ROWS)
    error = read.refused(text)
    assert error.code == "all_missing"
    assert "'b'" in error.message


def test_missing_ids_and_times_are_listed(read: Reader) -> None:
    text = "item_id,timestamp,target\na,2020-01-01,1\n,2020-01-02,2\na,,3\na,2020-01-04,4\na,2020-01-05,4\n"
    found = {(p["row"], p["code"]) for p in read.refused(text).details["problems"]}
    assert found == {(3, "missing_id"), (4, "missing_timestamp")}


@pytest.mark.parametrize(
    ("options", "code", "param"),
    [
        ({"target_columns": ["nope"]}, "unknown_column", "target_columns"),
        ({"id_column": "nope"}, "unknown_column", "id_column"),
        ({"timestamp_column": "y", "target_columns": ["y"]}, "column_named_twice", "target_columns"),
        ({"freq": "fortnight"}, "unknown_freq", "freq"),
        ({"timezone": "Mars/Base"}, "unknown_timezone", "timezone"),
        ({"timestamp_format": "dd.mm.yyyy"}, "invalid_timestamp_format", "timestamp_format"),
        ({"timestamp_format": "%Q"}, "invalid_timestamp_format", "timestamp_format"),
        ({"duplicates": "drop"}, "invalid_option", "duplicates"),
        ({"colour": "red"}, "unknown_field", "colour"),
        ({"target_columns": [3]}, "invalid_option", "target_columns"),
    ],
)
def test_options_that_cannot_be(read: Reader, options: dict[str, object], code: str, param: str) -> None:
    error = read.refused(GOOD, **options)
    assert (error.code, error.param) == (code, param)


def test_an_unknown_column_lists_the_known_ones(read: Reader) -> None:
    assert read.refused(GOOD, target_columns=["nope"]).details["columns"] == ["timestamp", "y"]
