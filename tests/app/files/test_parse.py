"""The reader's process: killed in time, held in memory, its crashes told apart. Stand-in readers are real processes."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from app.files.parse import parsed
from app.settings import Settings
from tests.app.files.conftest import hourly_csv
from tsfm.errors import DataError
from tsfm.series.options import ReadOptions

Read = Callable[..., dict[str, object]]


@pytest.fixture
def read(settings: Settings, tmp_path: Path) -> Read:
    """`read(data, script=…)` → the reading; `script` stands in for the reader."""

    def run(data: bytes = b"", *, script: str | None = None, timeout_seconds: float = 60.0) -> dict[str, object]:
        path = tmp_path / "upload"
        path.write_bytes(data)
        given = {"settings": settings, "filename": "x.csv", "options": ReadOptions()}
        command = {} if script is None else {"command": (sys.executable, "-c", script)}
        with parsed(path, timeout_seconds=timeout_seconds, **given, **command) as result:
            assert result.series.stat().st_size > 0
            return result.reading

    return run


def test_the_real_reader(read: Read, settings: Settings) -> None:
    reading = read(hourly_csv(num_series=3))
    assert (reading["freq"], reading["num_series"], reading["max_length"]) == ("h", 3, 400)
    assert list(settings.tmp_dir.iterdir()) == []


def test_a_reader_that_hangs_is_killed_with_its_children(read: Read, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    child = f"import time; time.sleep(1.5); open({str(mark)!r}, 'w')"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with pytest.raises(DataError) as refused:
        read(script=script, timeout_seconds=0.5)
    assert refused.value.code == "parse_timeout"
    time.sleep(1.6)
    assert not mark.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the memory limit is set by prlimit, which only Linux has")
@pytest.mark.parametrize("script", ["x = bytearray(1 << 40)", "import os; os.kill(os.getpid(), 9)"])
def test_a_reader_out_of_memory_is_the_files_fault(read: Read, script: str) -> None:
    with pytest.raises(DataError) as refused:
        read(script=script)
    assert refused.value.code == "parse_memory"


def test_a_crash_is_ours(read: Read) -> None:
    with pytest.raises(RuntimeError, match="exited with 3"):
        read(script="raise SystemExit(3)")


def test_the_reader_sees_no_secrets(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_API_KEY", "a-very-secret-value")
    script = (
        "import json, os, sys; r = json.load(sys.stdin); open(r['out'], 'w').write('x'); "
        "print(json.dumps({'ok': True, 'reading': dict(os.environ)}))"
    )
    assert "TEMPER_API_KEY" not in read(script=script)
