"""Long, wide, a series in each row; ids, targets and covariates given or found; what is open is refused."""

from datetime import date, timedelta

import duckdb
import numpy as np
import pytest

from tests.tsfm.series.conftest import Reader

DAYS = [str(date(2020, 1, 1) + timedelta(days=i)) for i in range(30)]


def long_text(header: str, names: list[str], *, extra: str = "") -> str:
    return header + "\n" + "\n".join(f"{name},{day},{i}{extra}" for name in names for i, day in enumerate(DAYS))


@pytest.mark.parametrize(
    "header",
    ["item_id,timestamp,target", "unique_id,ds,y", "id,date,value", "series_id,datetime,sales", "Sensor,When,Reading"],
)
def test_long_files_by_many_names(read: Reader, header: str) -> None:
    reading, frame = read(long_text(header, ["b", "a", "c d"]))
    identifier, stamp, target = header.split(",")
    assert reading["layout"] == "long"
    assert reading["columns"] | {"ignored": []} == {
        "id": identifier,
        "timestamp": stamp,
        "targets": [target],
        "past_covariates": [],
        "future_covariates": [],
        "static": [],
        "ignored": [],
    }
    assert frame.item_ids == ("a", "b", "c d")
    assert frame.series(1).tolist() == list(range(30))
    assert (reading["freq"], reading["num_rows"]) == ("D", 90)


def test_column_order_does_not_matter(read: Reader) -> None:
    rows = [f"{i},{day},{name}" for i, day in enumerate(DAYS) for name in "xy"]
    reading, frame = read("y,ds,unique_id\n" + "\n".join(rows))
    assert (reading["layout"], frame.item_ids) == ("long", ("x", "y"))


def test_numeric_ids_are_names(read: Reader) -> None:
    reading, frame = read(long_text("unique_id,ds,y", ["10", "9"]))
    assert frame.item_ids == ("10", "9")
    reading, frame = read(long_text("store,date,sales", ["10", "9"]))
    assert (reading["columns"]["id"], frame.item_ids) == ("store", ("10", "9"))


def test_names_that_are_numbers_beside_names_that_are_none(read: Reader) -> None:
    """Neither is the column taken for numbers, nor does 7 become 007."""
    _, frame = read(long_text("item_id,timestamp,target", ["007", "7", "12b"]))
    assert frame.item_ids == ("007", "12b", "7")


def test_a_series_may_be_called_na(read: Reader) -> None:
    _, frame = read(long_text("country,date,value", ["NA", "DE", "null"]))
    assert frame.item_ids == ("DE", "NA", "null")


def test_missing_spellings_are_counted(read: Reader) -> None:
    cells = ["", "NA", "NaN", "null", "None", "?", "-", "n/a"]
    text = "date,y\n" + "\n".join(f"{day},{cells[i] if i < 8 else i}" for i, day in enumerate(DAYS))
    reading, frame = read(text)
    assert reading["missing"] == {"count": 8, "spellings": dict.fromkeys(cells, 1)}
    assert np.isnan(frame.values).sum() == 8


def test_blanks_around_cells(read: Reader) -> None:
    reading, frame = read("date , y\n" + "\n".join(f"{day} , {'NA' if i == 4 else i} " for i, day in enumerate(DAYS)))
    assert (reading["missing"]["count"], frame.item_ids) == (1, ("y",))
    assert np.isnan(frame.values[4])


def test_a_delimiter_at_the_end_of_each_row(read: Reader) -> None:
    _, frame = read("date,y\n" + "\n".join(f"{day},{i}," for i, day in enumerate(DAYS)))
    assert frame.values.tolist() == list(range(30))


def test_wide_files_give_a_series_per_column(read: Reader) -> None:
    text = 'when,"a, b",c%,"d ""e""",f.g\n' + "\n".join(f"{day},1,2,3,{i}" for i, day in enumerate(DAYS))
    reading, frame = read(text)
    assert reading["columns"]["targets"] == ["a, b", "c%", 'd "e"', "f.g"]
    assert set(frame.item_ids) == {"a, b", "c%", 'd "e"', "f.g"}
    assert frame.series(frame.item_ids.index("f.g")).tolist() == list(range(30))


def test_series_in_rows_with_dates_for_names(read: Reader) -> None:
    reading, frame = read("region,2020-01,2020-02,2020-03,2020-04\na,1,2,,4\nb,,2,3,\n")
    assert (reading["layout"], reading["freq"], reading["start"]) == ("series_per_row", "MS", "2020-01-01T00:00:00")
    assert np.array_equal(frame.series(0), [1, 2, np.nan, 4], equal_nan=True)
    assert frame.series(1).tolist() == [2, 3]


def test_numbered_columns_without_ids_stay_columns(read: Reader) -> None:
    reading, frame = read("s1,s2,s3\n" + "\n".join(f"{i},{i},{i}" for i in range(40)))
    assert (reading["layout"], len(frame), reading["freq"]) == ("wide", 3, "1")


def test_named_target_leaves_other_numbers_and_says_so(read: Reader) -> None:
    reading, frame = read(long_text("unique_id,ds,y,price", ["a"], extra=",7"))
    assert frame.item_ids == ("a",)
    assert reading["columns"]["ignored"] == ["price"]
    assert any("price" in w and "covariate" in w for w in reading["warnings"])


def test_wide_files_give_a_series_for_every_number(read: Reader) -> None:
    reading, frame = read("date,y,x\n" + "\n".join(f"{day},{i},7" for i, day in enumerate(DAYS)))
    assert frame.item_ids == ("x", "y")
    assert any("'y'" in w and "target_columns" in w for w in reading["warnings"])


def test_covariates_are_kept_when_named(read: Reader) -> None:
    text = long_text("unique_id,ds,y,price,colour", ["a", "b"], extra=",7,red")
    reading, _ = read(text, future_covariate_columns=["price"], static_columns="colour")
    assert reading["columns"]["future_covariates"] == ["price"]
    assert reading["columns"]["static"] == ["colour"]
    stored = duckdb.sql(f"SELECT DISTINCT price, colour FROM '{read.folder}/series.parquet'").fetchall()
    assert stored == [(7.0, "red")]


def test_several_targets_of_a_long_file(read: Reader) -> None:
    text = long_text("id,date,a,b", ["p", "q"], extra=",7")
    error = read.refused(text)
    assert (error.code, error.param) == ("ambiguous_target_columns", "target_columns")
    _, frame = read(text, target_columns=["a", "b"])
    assert frame.item_ids == ("p/a", "p/b", "q/a", "q/b")
    _, frame = read(text + "\np,2020-01-30,100,100", target_columns=["a", "b"], duplicates="last")
    assert [frame.series(k)[-1] for k in range(4)] == [100, 100, 29, 7]


def test_two_names_for_a_series_are_refused(read: Reader) -> None:
    rows = [f"{s},{k},{day},1" for s in "pq" for k in "uv" for day in DAYS]
    error = read.refused("store,sku,date,y\n" + "\n".join(rows))
    assert (error.code, error.details["candidates"]) == ("ambiguous_id_column", ["store", "sku"])


def test_given_roles_win(read: Reader) -> None:
    text = "a,b,c\n" + "\n".join(f"{i},{day},{i % 2}" for i, day in enumerate(DAYS))
    reading, frame = read(text, target_columns=["c"], timestamp_column="b")
    assert (reading["columns"]["targets"], frame.item_ids) == (["c"], ("c",))


def test_an_attribute_is_not_an_id(read: Reader) -> None:
    rows = [f"{day},{'sun' if i % 2 else 'rain'},{i}" for i, day in enumerate(DAYS)]
    reading, frame = read("date,weather,sales\n" + "\n".join(rows))
    assert (frame.item_ids, reading["columns"]["ignored"]) == (("sales",), ["weather"])


def test_blocks_of_text_that_never_meet_are_refused(read: Reader) -> None:
    rows = [f"{day},{'first' if i < 15 else 'second'},{i}" for i, day in enumerate(DAYS)]
    error = read.refused("date,phase,sales\n" + "\n".join(rows))
    assert (error.code, error.param) == ("ambiguous_id_column", "id_column")


def test_row_counts_of_data_frames_are_ignored(read: Reader) -> None:
    reading, frame = read(",ds,y\n" + "\n".join(f"{i},{day},{i * 2}" for i, day in enumerate(DAYS)))
    assert (frame.item_ids, reading["columns"]["ignored"]) == (("y",), ["column_1"])


def test_a_nameless_first_column_of_dates_is_the_time(read: Reader) -> None:
    reading, _ = read(",a,b\n" + "\n".join(f"{day},1,{i}" for i, day in enumerate(DAYS)))
    assert (reading["columns"]["timestamp"], reading["num_series"]) == ("column_1", 2)


def test_empty_columns_and_rows_of_spreadsheets_are_ignored(read: Reader) -> None:
    rows = [f"{10 + i // 24:02d}/03/2004;{i % 24:02d}.00.00;{i},6;{i};;" for i in range(100)]
    reading, frame = read("Date;Time;CO(GT);X;;\n" + "\n".join(rows) + "\n;;;;;\n;;;;;\n")
    assert (reading["delimiter"], reading["decimal"], reading["freq"]) == (";", ",", "h")
    assert reading["columns"]["timestamp"] == ["Date", "Time"]
    assert reading["columns"]["ignored"] == ["column_5", "column_6"]
    assert frame.series(0)[:2].tolist() == [0.6, 1.6]
    assert frame.lengths.tolist() == [100, 100]


def test_files_without_header(read: Reader) -> None:
    reading, frame = read("\n".join(f"{name},{day},{i}" for name in "ab" for i, day in enumerate(DAYS)))
    assert (reading["columns"]["id"], reading["columns"]["timestamp"]) == ("column_1", "column_2")
    assert frame.item_ids == ("a", "b")
    assert any("no" in w and "column_1" in w for w in reading["warnings"])


def test_a_blank_line_is_a_missing_value_where_rows_are_counted(read: Reader) -> None:
    _, frame = read("y\n1\n2\n\n4\n5\n\n\n")
    assert np.array_equal(frame.values, [1, 2, np.nan, 4, 5], equal_nan=True)


def test_long_without_times_counts_the_rows_of_each_series(read: Reader) -> None:
    reading, frame = read("unique_id,y\n" + "\n".join(f"{'ab'[i % 2]},{i}" for i in range(20)))
    assert (reading["freq"], frame.series(1).tolist()) == ("1", list(range(1, 20, 2)))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_dialects(read: Reader, delimiter: str, line_end: str) -> None:
    text = line_end.join(["date" + delimiter + "y", *(f"{day}{delimiter}{i}.5" for i, day in enumerate(DAYS))])
    reading, frame = read(b"\xef\xbb\xbf" + text.encode())
    assert (reading["delimiter"], reading["encoding"]) == (delimiter, "utf-8-sig")
    assert frame.values.tolist() == [i + 0.5 for i in range(30)]


def test_mixed_line_ends(read: Reader) -> None:
    lines = ["date,y", *(f"{day},{i}" for i, day in enumerate(DAYS))]
    _, frame = read("\r\n".join(lines[:10]) + "\n" + "\n".join(lines[10:20]) + "\r" + "\r".join(lines[20:]))
    assert frame.values.tolist() == list(range(30))


def test_a_constant_series_works(read: Reader) -> None:
    reading, frame = read("date,y\n" + "\n".join(f"{day},5" for day in DAYS))
    assert set(frame.values) == {5.0}
    assert reading["suspects"] == []
