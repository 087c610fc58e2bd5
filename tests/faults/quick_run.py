"""`python -m tests.faults.quick_run JOB_ID OWNER`: the real run, but for its training: a stand-in without torch.

Assignment, orders, lock, saved state, blobs and verdicts are those of `worker.run_job`; only `tsfm.finetune.run` is
replaced. What it does is written in `HOME/script/JOB_ID` (or `HOME/script/default`), one word a line:

    steps N      so many steps of 50 ms (20 without this line)
    memory       MemoryError after the first step
    die          SIGKILL to itself after the first step
    sleep        no sign of life after the first step
    disk         the disk is full after the first step
    hold         before the end, waits until the script is gone
    refit        leaves a second artifact
    flaky N      storage refuses the next N puts
"""

import errno
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from app.storage import ObjectStore
from tsfm.artifact import write_artifact
from tsfm.errors import Cancelled
from tsfm.progress import Progress
from worker import run_job

STEP_SECONDS = 0.05
DEFAULT_STEPS = 20
SCRIPTS = "script"


def script_of(home: Path, job_id: str) -> dict[str, str]:
    for name in (job_id, "default"):
        path = home / SCRIPTS / name
        if path.exists():
            words = [line.split() for line in path.read_text().splitlines()]
            return {word: (value or [""])[0] for word, *value in words}
    return {}


def finetune(
    request: object,
    frame: Any,
    *,
    weights_dir: Path,
    state_dir: Path,
    out_dir: Path,
    report: Callable[[Progress], None],
    should_stop: Callable[[], str | None],
    checkpoints: object,
    incumbent: object,
    prior_verdicts: object,
) -> SimpleNamespace:
    """Counts steps, keeps the count, and writes an artifact that is the job's own and the same at each attempt."""
    job_id, home = state_dir.parent.name, state_dir.parents[2]
    script = script_of(home, job_id)
    saved = state_dir / "step"
    step = int(saved.read_text()) if saved.exists() else 0
    total = int(script.get("steps") or DEFAULT_STEPS)
    assert len(frame.values) > 0
    while step < total:
        if reason := should_stop():
            raise Cancelled(f"Stopped at step {step}.", code=reason)
        time.sleep(STEP_SECONDS)
        step += 1
        draft = state_dir / "step.partial"
        draft.write_text(str(step))
        draft.replace(saved)
        report(Progress(phase="training", step=step, total_steps=total, fraction=step / total))
        misbehave(script)
    while "hold" in script and (home / SCRIPTS / job_id).exists():
        time.sleep(0.02)
    weights = {"model.safetensors": f"weights of {job_id}".encode() * 1000}
    digest = write_artifact(out_dir, weights, {"job": job_id}, f"# {job_id}\n")
    verdict = {"promoted": False, "fallback": "zero_shot", "reason": "A stand-in never wins."}
    found = {"digest": digest, "manifest": {"job": job_id}, "verdict": verdict, "timing": {}}
    metrics = out_dir.with_name("step_metrics.csv")
    metrics.write_text(f"step,train_loss,valid_loss\n{total},1.0,1.0\n")
    return SimpleNamespace(
        out_dir=out_dir,
        result_files={"step_metrics.csv": metrics},
        refit=refit(job_id, out_dir.with_name("refit")) if "refit" in script else None,
        to_mapping=lambda: found,
    )


def refit(job_id: str, out_dir: Path) -> SimpleNamespace:
    weights = {"model.safetensors": f"weights of {job_id} on all history".encode() * 1000}
    manifest = {"job": job_id, "refit": True}
    digest = write_artifact(out_dir, weights, manifest, f"# {job_id} on all history\n")
    return SimpleNamespace(out_dir=out_dir, digest=digest, manifest=manifest)


def misbehave(script: dict[str, str]) -> None:
    if "memory" in script:
        raise MemoryError
    if "die" in script:
        os.kill(os.getpid(), signal.SIGKILL)
    if "sleep" in script:
        time.sleep(3600)
    if "disk" in script:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class FlakyStore(ObjectStore):
    """Refuses as many puts as the job's script says; the count is kept in a file, over attempts."""

    def put_file(self, key: str, path: Path) -> None:
        home, job_id = Path(os.environ["TEMPER_HOME"]), sys.argv[1]
        counter = home / SCRIPTS / f"{job_id}.puts"
        refused = int(counter.read_text()) if counter.exists() else 0
        if refused < int(script_of(home, job_id).get("flaky") or 0):
            counter.write_text(str(refused + 1))
            raise ConnectionResetError("the storage hung up")
        super().put_file(key, path)


if __name__ == "__main__":
    stand_in = ModuleType("tsfm.finetune")
    stand_in.run = finetune  # type: ignore[attr-defined]
    sys.modules["tsfm.finetune"] = stand_in
    device = ModuleType("tsfm.device")  # the real one loads torch
    device.default_device = lambda: "cpu"  # type: ignore[attr-defined]
    device.peak_memory_bytes = lambda _: 0  # type: ignore[attr-defined]
    sys.modules["tsfm.device"] = device
    run_job.ObjectStore = FlakyStore  # type: ignore[misc]
    sys.exit(run_job.main())
