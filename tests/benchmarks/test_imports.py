"""Serving, of adapters too, and SFF work without peft and transformers: nothing asks for them."""

import os
import subprocess
import sys

from tests.architecture.repo import ROOT

SCRIPT = """
import sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("peft", "transformers"):
            raise AssertionError(f"{name} was imported")

sys.meta_path.insert(0, Refused())

import json
import numpy as np
import torch
import app.forecasts.engine, worker.run_job, tsfm.finetune
from pathlib import Path
from tempfile import mkdtemp
from tsfm import catalog
from tsfm.adapter_files import LowRank, adapter_files
from tsfm.artifact import write_artifact
from tsfm.request import FinetuneRequest
from tsfm.series.frame import SeriesFrame
from tsfm.tasks.forecast import Forecaster

frame = SeriesFrame(
    item_ids=("a",), values=np.sin(np.arange(300.0) / 4), offsets=np.array([0, 300]), starts=np.array([0]), freq="h"
)
request = FinetuneRequest.from_mapping({
    "backbone": "temper-tiny", "method": {"type": "sff", "alpha": 0.9}, "prediction_length": 8, "context_length": 64,
    "hyperparameters": {"learning_rate": 1e-4, "max_epochs": 1, "max_windows_per_epoch": 4},
})
folder = Path(mkdtemp())
result = tsfm.finetune.run(
    request, frame, weights_dir=None, state_dir=folder / "state", out_dir=folder / "artifact",
    report=lambda _: None, should_stop=lambda: None,
)
answer = Forecaster.open(result.out_dir, digest=result.digest).predict(frame, 8, (0.1, 0.9))
assert np.isfinite(answer.point).all()

spec = catalog.backbone("temper-tiny")
change = LowRank(a=torch.full((2, 128), 0.1), b=torch.full((128, 2), 0.1), alpha=2.0)
files = adapter_files({"layers.0.attention.q": change}, spec, rank=2, alpha=2.0)
weights = {"kind": "adapter", "backbone_digest": f"sha256:{spec.sha256}"}
manifest = json.loads((result.out_dir / "manifest.json").read_bytes())
digest = write_artifact(folder / "adapter", files, {**manifest, "weights": weights, "calibration": None}, "")
adapted = Forecaster.open(folder / "adapter", digest=digest).predict(frame, 8)
assert np.isfinite(adapted.point).all()
assert (adapted.point != Forecaster.zero_shot("temper-tiny", context_length=64).predict(frame, 8).point).any()
print(sorted({"peft", "transformers"} & set(sys.modules)))
"""


def test_tuning_by_sff_and_serving_load_neither_peft_nor_transformers() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
