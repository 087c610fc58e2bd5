"""Files a run leaves for a reader, beside the artifact: name → path in `FinetuneResult.result_files`."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tsfm.artifact import write_synced

STEP_METRICS, METRICS, MODEL_CARD = "step_metrics.csv", "metrics.json", "model_card.md"
_MEASURED = ("candidates", "verdict", "gate", "calibration")


def write_results(
    folder: Path, training: Mapping[str, Any], manifest: Mapping[str, Any], card: Path
) -> dict[str, Path]:
    """Step metrics (first: what readers of OpenAI's jobs look for), the measurements, and the artifact's card."""
    folder.mkdir(parents=True, exist_ok=True)
    measured = {name: manifest[name] for name in _MEASURED} | {"data_report": manifest["data"]["report"]}
    text = json.dumps(measured, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
    write_synced(folder / METRICS, (text + "\n").encode())
    write_synced(folder / MODEL_CARD, card.read_bytes())
    return {**write_step_metrics(folder, training), METRICS: folder / METRICS, MODEL_CARD: folder / MODEL_CARD}


def write_step_metrics(folder: Path, training: Mapping[str, Any]) -> dict[str, Path]:
    """`step_metrics.csv`: a row for each evaluation of the run; empty where nothing was trained.

    Columns step, train_loss (the backbone's own loss at that step), valid_loss (the job's metric on the validation
    block, by which the weights were chosen); a cell is empty where there was nothing to measure. `training` is an
    `Outcome`'s.
    """
    history = training.get("history") or []
    if not history:
        return {}
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["step", "train_loss", "valid_loss"])
    for row in history:
        writer.writerow([row["step"], _cell(row["train_loss"]), _cell(row["validation"])])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / STEP_METRICS
    write_synced(path, out.getvalue().encode())
    return {STEP_METRICS: path}


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.9g}"
