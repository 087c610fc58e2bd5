"""Parquet in: native types, text types, compression around it, limits on what it unpacks to."""

import gzip
from pathlib import Path

import duckdb
import numpy as np
import pytest
import zstandard

from tests.tsfm.series.conftest import Reader
from tsfm.series.options import Limits

LONG = (
    "SELECT 'item ' || (i % 3) AS item_id, TIMESTAMP '2020-01-01' + to_hours(i // 3) AS timestamp, "
    "CASE WHEN i % 10 <> 0 THEN i + 0.5 END AS target FROM range(300) t(i)"
)


@pytest.fixture
def write(tmp_path_factory: pytest.TempPathFactory) -> "Write":
    return Write(tmp_path_factory.mktemp("parquet"))


class Write:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "data.bin"

    def __call__(self, query: str) -> bytes:
        duckdb.sql(f"COPY ({query}) TO '{self.path}' (FORMAT parquet)")
        return self.path.read_bytes()


@pytest.mark.parametrize("compression", [None, "gzip", "zstd"])
def test_a_long_file(read: Reader, write: Write, compression: str | None) -> None:
    data = write(LONG)
    packed = {"gzip": gzip.compress, "zstd": zstandard.ZstdCompressor().compress}.get(compression or "", bytes)(data)
    reading, frame = read(packed)
    assert (reading["format"], reading["compression"], reading["delimiter"]) == ("parquet", compression, None)
    assert (reading["layout"], reading["freq"], frame.item_ids) == ("long", "h", ("item 0", "item 1", "item 2"))
    assert frame.series(1)[:2].tolist() == [1.5, 4.5]
    assert np.isnan(frame.values).sum() == 30 == reading["missing"]["count"]


@pytest.mark.parametrize(
    ("stamp", "zone", "freq"),
    [
        ("DATE '2020-01-01' + i::INT", None, "D"),
        ("TIMESTAMP '2020-01-01' + to_minutes(i)", None, "min"),
        ("(TIMESTAMP '2020-01-01' + to_hours(i))::TIMESTAMP_NS", None, "h"),
        ("make_timestamptz(1577836800000000 + i * 3600000000)", "UTC", "h"),
        ("'2020-01-' || lpad((i + 1)::VARCHAR, 2, '0')", None, "D"),
        ("1577836800 + i * 60", "UTC", "min"),
    ],
)
def test_kinds_of_time(read: Reader, write: Write, stamp: str, zone: str | None, freq: str) -> None:
    reading, _ = read(write(f"SELECT {stamp} AS ds, i AS a, i::FLOAT AS b, i::DECIMAL(9, 2) AS c FROM range(30) t(i)"))
    assert (reading["layout"], reading["num_series"]) == ("wide", 3)
    assert (reading["timezone"], reading["freq"], reading["start"][:10]) == (zone, freq, "2020-01-01")


def test_text_among_numbers_is_listed(read: Reader, write: Write) -> None:
    cell = "CASE WHEN i = 7 THEN 'oops' WHEN i = 9 THEN 'NA' ELSE i::VARCHAR END"
    error = read.refused(write(f"SELECT DATE '2020-01-01' + i::INT AS ds, {cell} AS y FROM range(30) t(i)"))
    assert error.code == "not_a_number"
    assert [(p["row"], p["value"]) for p in error.details["problems"]] == [(8, "oops")]


def test_nested_columns_are_refused(read: Reader, write: Write) -> None:
    error = read.refused(write("SELECT 'a' AS item_id, [1.0, 2.0] AS target"))
    assert (error.code, error.details["problems"][0]["column"]) == ("unsupported_type", "target")


def test_what_it_unpacks_to_is_limited(read: Reader, write: Write) -> None:
    data = write("SELECT DATE '2000-01-01' + i::INT AS ds, random() AS y FROM range(20000) t(i)")
    assert read.refused(data, limits=Limits(max_decompressed_bytes=1000)).code == "too_large"
    assert read.refused(data[:-100]).code == "truncated"
    assert read.refused(b"PAR1" + b"\x00" * 64 + b"PAR1").code == "truncated"


def test_no_rows(read: Reader, write: Write) -> None:
    assert read.refused(write("SELECT 1 AS ds, 2 AS y WHERE false")).code == "header_only"
