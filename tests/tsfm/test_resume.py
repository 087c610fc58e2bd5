"""kill -9 in the middle of an epoch, dropout on: the run that continues ends with the weights of the unbroken one."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("backbone", "method", "task"),
    [
        ("toy", "sff", "forecast"),
        ("small", "sff", "forecast"),
        ("toy", "trace", "forecast"),
        ("toy", "auto", "forecast"),
        ("toy", "full", "anomaly_detection"),
        ("toy", "full", "imputation"),
    ],
)
def test_three_kills_change_nothing(tmp_path: Path, backbone: str, method: str, task: str) -> None:
    # Somewhere in the search, in the run, and wherever the third falls on what is then left.
    kills = [random.uniform(0, 0.25), random.uniform(0.25, 0.5), random.uniform(0, 0.25)]
    shares = ",".join(map(str, kills))
    process = subprocess.run(
        [sys.executable, "-m", "tests.tsfm.runner", str(tmp_path), backbone, method, shares, task],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        check=True,
    )
    answer = json.loads(process.stdout)
    assert answer["found"] == answer["expected"], f"killed after {answer['killed']} of {answer['ticks']} ticks"
    assert answer["expected"].startswith("sha256:")
    assert answer["left"] < answer["ticks"], "nothing was continued"
