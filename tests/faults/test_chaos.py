"""The benchmark of random kills, in small: nothing accepted is lost or doubled, nothing is left behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.repo import ROOT
from tests.backend import SCALE_OUT
from tsfm import catalog


@pytest.mark.slow
def test_random_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    database = "postgresql" if SCALE_OUT else "sqlite"
    words = ["benchmarks/chaos.py", "--kills", "25", "--database", database, "--results", str(tmp_path)]
    words += ["--tasks", ",".join(catalog.TASKS)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    found = json.loads(done.stdout)
    assert (found["lost"], found["doubled"], found["left_behind"]) == (0, 0, ""), found
    assert found["num_kills"] == 25
    assert set(found["jobs_by_task"]) == set(catalog.TASKS)
    assert done.returncode == 0
