"""The reader as a process of its own, the sandbox it runs in, and files of unusual shape."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.tsfm.series.conftest import Reader
from tsfm.series import duck
from tsfm.series.options import Limits, ReadOptions

KEYS = (
    "format compression encoding delimiter decimal layout columns timestamp_format timezone freq freq_evidence "
    "num_series num_rows num_points start end min_length max_length gaps duplicates missing suspects warnings items "
    "order"
)


def run(request: dict[str, object]) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", "tsfm.series.parse"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def request_for(folder: Path, text: str, **options: object) -> dict[str, object]:
    (folder / "in").write_text(text)
    return {
        "path": str(folder / "in"),
        "filename": "data.xlsx",
        "options": options,
        "limits": {},
        "out": str(folder / "out.parquet"),
        "work_dir": str(folder),
    }


def test_a_reading_has_every_key(tmp_path: Path) -> None:
    answer = run(request_for(tmp_path, "date,y\n" + "\n".join(f"2020-01-{d:02d},{d}" for d in range(1, 29))))
    assert answer["ok"] is True
    reading = answer["reading"]
    assert isinstance(reading, dict)
    assert set(reading) == set(KEYS.split())
    assert any("data.xlsx" in w for w in reading["warnings"])
    assert (tmp_path / "out.parquet").exists()


def test_a_refusal_is_an_answer(tmp_path: Path) -> None:
    answer = run(request_for(tmp_path, "date,y\n2020-01-01,1\n2020-01-02,abc\n2020-01-03,3\n2020-01-04,4\n"))
    assert answer["ok"] is False
    error = answer["error"]
    assert isinstance(error, dict)
    assert (error["code"], error["param"], error["details"]["problems"][0]["row"]) == ("not_a_number", "file", 3)
    assert not (tmp_path / "out.parquet").exists()


def test_reading_loads_no_torch() -> None:
    code = "import sys, tsfm.series.parse, tsfm.series.windows; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_sandbox_opens_nothing_else(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "a.csv").write_text("x\n1\n")
    con = duck.connect(directories=[inside])
    assert con.execute(f"SELECT x FROM read_csv('{inside}/a.csv')").fetchall() == [(1,)]
    for statement in (
        f"SELECT * FROM read_csv('{outside}/a.csv')",
        "SELECT * FROM read_text('/etc/passwd')",
        f"COPY (SELECT 1) TO '{outside}/b.csv'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
    ):
        with pytest.raises(duck.Error):
            con.execute(statement)


def test_options_and_limits_go_there_and_back() -> None:
    options = ReadOptions.from_mapping(
        {"timestamp_column": ["a", "b"], "target_columns": "y", "freq": None, "duplicates": "last"}
    )
    assert options.timestamp_column == ("a", "b")
    assert ReadOptions.from_mapping(options.to_mapping()) == options
    assert Limits.from_mapping(Limits().to_mapping()) == Limits()


def test_ten_thousand_series(read: Reader) -> None:
    values = np.round(np.random.default_rng(0).normal(size=(10_000, 12)), 3)
    lines = [f"s{i:05d},2020-{m + 1:02d}-01,{values[i, m]}" for i in range(10_000) for m in range(12)]
    reading, frame = read("unique_id,ds,y\n" + "\n".join(lines))
    assert (reading["num_series"], reading["freq"], len(reading["items"])) == (10_000, "MS", 20)
    assert np.array_equal(frame.values.reshape(10_000, 12), values)


def test_five_hundred_columns(read: Reader) -> None:
    values = np.arange(500 * 60).reshape(60, 500)
    header = "date," + ",".join(f"c{j:03d}" for j in range(500))
    lines = [f"2020-{1 + i // 28:02d}-{1 + i % 28:02d}," + ",".join(map(str, values[i])) for i in range(28)]
    reading, frame = read("\n".join([header, *lines]))
    assert (reading["layout"], reading["num_series"], reading["freq"]) == ("wide", 500, "D")
    assert np.array_equal(frame.values.reshape(500, 28), values[:28].T)


def test_more_columns_than_unions(read: Reader) -> None:
    header = "date," + ",".join(f"c{j}" for j in range(2100))
    lines = [f"2020-01-{1 + i:02d}," + ",".join(str(j + i) for j in range(2100)) for i in range(5)]
    _, frame = read("\n".join([header, *lines]))
    assert all(frame.series(k)[0] == int(name[1:]) for k, name in enumerate(frame.item_ids))


def test_suspects_that_nobody_listed(read: Reader) -> None:
    values = np.random.default_rng(0).normal(20, 2, 300).round(2).tolist()
    values[50:55] = [7777.0] * 5
    reading, frame = read("y\n" + "\n".join(map(str, values)))
    assert [(s["column"], s["value"], s["count"]) for s in reading["suspects"]] == [("y", 7777.0, 5)]
    assert (frame.values == 7777).sum() == 5, "reported, never changed"


@pytest.mark.parametrize("values", [[0, 1] * 50, list(range(100)), [0] * 50 + list(range(50)), [5] * 100])
def test_ordinary_values_are_no_suspects(read: Reader, values: list[int]) -> None:
    assert read("y\n" + "\n".join(map(str, values)))[0]["suspects"] == []
