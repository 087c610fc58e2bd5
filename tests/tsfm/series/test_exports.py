"""Files as programs export them: read right, with a warning where that takes a guess, or refused with the mend."""

from datetime import date, datetime, timedelta

import pytest

from tests.tsfm.series.conftest import Reader

DAYS = [date(2023, 1, 1) + timedelta(days=i) for i in range(40)]
ROWS = [f"{day},{i}.5" for i, day in enumerate(DAYS)]
EPOCH = 1_672_531_200  # 2023-01-01


def lines(*parts: str) -> str:
    return "\n".join(parts) + "\n"


class TestLinesAboveTheTable:
    @pytest.mark.parametrize("marks", [["# made by X", "# unit: MW"], ["", "# made by X", "", "#"]])
    def test_comments_are_skipped_and_said(self, read: Reader, marks: list[str]) -> None:
        reading, frame = read(lines(*marks, "date,load", *ROWS))
        assert reading["columns"]["targets"] == ["load"]
        assert frame.values.tolist() == [i + 0.5 for i in range(40)]
        assert any("'# made by X'" in warning for warning in reading["warnings"])

    def test_lines_of_problems_are_counted_from_the_top(self, read: Reader) -> None:
        error = read.refused(lines("# a", "", "# b", "date,load", *ROWS, "", "2023-03-01,many"))
        (problem,) = error.details["problems"]
        assert (problem["row"], problem["value"]) == (46, "many")

    def test_the_header_itself_may_be_marked(self, read: Reader) -> None:
        reading, frame = read(lines("# made by X", "#date,load", *ROWS))
        assert (reading["columns"]["timestamp"], reading["columns"]["targets"]) == ("date", ["load"])
        assert len(frame.values) == 40

    def test_annotated_exports_of_influx(self, read: Reader) -> None:
        above = ["#group,false,false,true", "#datatype,string,dateTime:RFC3339,double", "#default,_result,,"]
        rows = [f",,{day}T00:00:00Z,{i}" for i, day in enumerate(DAYS)]
        reading, frame = read(lines(*above, ",result,_time,_value", *rows))
        assert (reading["columns"]["timestamp"], reading["columns"]["targets"]) == ("_time", ["_value"])
        assert frame.values.tolist() == list(range(40))

    def test_excels_separator_line(self, read: Reader) -> None:
        reading, frame = read(lines("sep=;", "date;load", *(f"{day};{i},5" for i, day in enumerate(DAYS))))
        assert (reading["delimiter"], reading["decimal"]) == (";", ",")
        assert frame.values.tolist() == [i + 0.5 for i in range(40)]

    def test_what_cannot_be_skipped_names_the_mend(self, read: Reader) -> None:
        assert read.refused(lines('# a 5" pipe', "date,load", *ROWS)).code == "unreadable_csv"
        assert read.refused(lines("# a", "# b")).code == "header_only"


class TestTimesInNumbers:
    @pytest.mark.parametrize("name", ["epoch", "unix", "Unix time", "x", "column without a meaning"])
    @pytest.mark.parametrize("scale", [1, 1_000, 1_000_000, 1_000_000_000])
    def test_counts_since_1970_are_the_time_whatever_the_column_is_called(
        self, read: Reader, name: str, scale: int
    ) -> None:
        reading, frame = read(lines(f"{name},v", *(f"{(EPOCH + 3600 * i) * scale},{i}" for i in range(50))))
        assert (reading["columns"]["timestamp"], reading["columns"]["targets"]) == (name, ["v"])
        assert (reading["freq"], reading["start"]) == ("h", "2023-01-01T00:00:00+00:00")
        assert frame.values.tolist() == list(range(50))

    def test_a_guess_by_the_numbers_alone_is_said(self, read: Reader) -> None:
        reading, _ = read(lines("x,v", *(f"{EPOCH + 60 * i},{i}" for i in range(50))))
        assert any("'x'" in warning and "target_columns" in warning for warning in reading["warnings"])

    def test_large_numbers_that_do_not_tick_stay_series(self, read: Reader) -> None:
        reading, _ = read(lines("a,b", *(f"{EPOCH + i * i},{i}" for i in range(50))))
        assert reading["columns"]["targets"] == ["a", "b"]

    @pytest.mark.parametrize("pattern", ["%d%m%Y", "%y%m%d"])
    def test_dates_in_digits_are_no_index(self, read: Reader, pattern: str) -> None:
        text = lines("date,v", *(f"{day.strftime(pattern)},{i}" for i, day in enumerate(DAYS)))
        error = read.refused(text)
        assert (error.code, error.param) == ("unknown_timestamp_format", "timestamp_format")
        assert pattern in error.message
        reading, _ = read(text, timestamp_format=pattern)
        assert (reading["freq"], reading["start"]) == ("D", "2023-01-01T00:00:00")

    @pytest.mark.parametrize("form", ["%Y-%m-%d 00:00 - 01:00", "week of %d.%m.%Y", "FY%Y/%j"])
    def test_times_in_an_unknown_form_are_not_ignored(self, read: Reader, form: str) -> None:
        error = read.refused(lines("slot,v", *(f"{day.strftime(form)},{i}" for i, day in enumerate(DAYS))))
        assert error.code == "unknown_timestamp_format"
        assert "'slot'" in error.message


class TestColumns:
    def test_rows_of_several_ids_name_the_columns_to_join(self, read: Reader) -> None:
        rows = [f"{day},{store},{item},{i}.5" for i, day in enumerate(DAYS) for store in (1, 2) for item in (7, 8)]
        error = read.refused(lines("date,store,item,sales", *rows))
        assert error.code == "duplicate_timestamps"
        assert "'item', 'store' together tell the rows apart" in error.message

    def test_a_column_without_a_telling_name_is_proposed(self, read: Reader) -> None:
        rows = [f"{day},{kind},{i}.5" for i, day in enumerate(DAYS) for kind in (1, 2)]
        assert "'kind' could name them" in read.refused(lines("date,kind,load", *rows), target_columns=["load"]).message

    def test_a_number_that_names_the_one_meter_is_no_series(self, read: Reader) -> None:
        rows = [f"4711,{datetime(2023, 1, 1) + timedelta(hours=i)},{i}" for i in range(50)]
        reading, frame = read(lines("meter_id,time,load", *rows))
        assert (reading["columns"]["targets"], reading["columns"]["ignored"]) == (["load"], ["meter_id"])
        assert frame.item_ids == ("load",)

    def test_a_key_of_rows_names_no_series(self, read: Reader) -> None:
        reading, frame = read(lines("id,date,load", *(f"{1000 + 7 * i},{row}" for i, row in enumerate(ROWS))))
        assert (reading["layout"], reading["columns"]["ignored"], frame.item_ids) == ("wide", ["id"], ("load",))
        assert any("'id' differs in every row" in warning for warning in reading["warnings"])

    def test_row_numbers_by_other_names(self, read: Reader) -> None:
        reading, _ = read(lines("No,date,load", *(f"{i + 1},{row}" for i, row in enumerate(ROWS))))
        assert (reading["columns"]["targets"], reading["columns"]["ignored"]) == (["load"], ["No"])

    @pytest.mark.parametrize("name", ["Week", "Quarter"])
    def test_a_year_and_a_part_of_it_name_no_series(self, read: Reader, name: str) -> None:
        error = read.refused(lines(f"Year,{name},Value", *(f"{2000 + i // 4},{1 + i % 4},{i}" for i in range(60))))
        assert error.code == "unknown_timestamp_format"
        assert f"'Year' and '{name}' hold the time together" in error.message

    def test_hours_in_words_name_no_series(self, read: Reader) -> None:
        rows = [f"{day},{h:02d}-{h + 1:02d},{h}" for day in DAYS for h in range(24)]
        assert "'hour'" in read.refused(lines("date,hour,load", *rows)).message

    def test_a_year_a_row_is_refused(self, read: Reader) -> None:
        months = "Jan,Feb,Mar,Apr,May,Jun,Jul,Aug,Sep,Oct,Nov,Dec"
        rows = [f"{2000 + y}," + ",".join(str(y + m) for m in range(12)) for y in range(20)]
        assert read.refused(lines(f"Year,{months}", *rows)).code == "unsupported_layout"

    def test_blanks_separate_nothing(self, read: Reader) -> None:
        for header, row in (("date v", "{} 1"), ("date   v  w", "{}   1.5  2")):
            error = read.refused(lines(header, *(row.format(day) for day in DAYS)))
            assert "commas, semicolons, tabs or bars" in error.message

    def test_a_page_is_no_table(self, read: Reader) -> None:
        assert (
            read.refused("<!DOCTYPE html>\n<html><table><tr><td>1</td></tr></table></html>\n").code
            == "unsupported_format"
        )


class TestNumbers:
    @pytest.mark.parametrize(
        ("cell", "said"),
        [("(5.00)", "parentheses"), ("5.00-", "minus sign stands behind"), ("$5", "currency"), ("n.a.", "text")],
    )
    def test_how_accounts_write_them(self, read: Reader, cell: str, said: str) -> None:
        error = read.refused(lines("date,v", *ROWS, f"2023-03-01,{cell}"))
        assert error.code == "not_a_number"
        assert said in error.message

    def test_a_dot_that_may_stand_between_thousands_is_said(self, read: Reader) -> None:
        rows = [f"{day};{1 + i % 9}.{100 + i}" for i, day in enumerate(DAYS)]
        reading, frame = read(lines("date;v", *rows))
        assert frame.values[0] == 1.1
        assert any("'1.100'" in warning and "1100" in warning for warning in reading["warnings"])
        reading, _ = read(lines("date;v", *rows[:-1], f"{DAYS[-1]};0.25"))
        assert reading["warnings"] == []
