"""Watching a job: a live bar in a terminal, a line now and then elsewhere."""

import time
from collections.abc import Mapping
from typing import Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from app.cli.client import EXIT_JOB_FAILED, Client, CommandError, Refused, Unreachable
from app.cli.output import err, number, say

POLL_SECONDS = 0.5
PATIENCE_SECONDS = 60.0
"""How long a service may be away (it is being started again) before watching gives up."""
LINE_EVERY = 0.25
TERMINAL = frozenset({"succeeded", "failed", "cancelled"})
PAUSED = "paused"


def follow(api: Client, job_id: str) -> dict[str, Any]:
    """Shows progress until the job has ended or is paused; answers the job. Ctrl-C stops watching, not the job."""
    watch = _Bar() if err.is_terminal else _Lines()
    with watch:
        while True:
            job = _patient(api, job_id)
            watch.show(job)
            if job["status"] in TERMINAL or job["status"] == PAUSED:
                return job
            time.sleep(POLL_SECONDS)


def _patient(api: Client, job_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return api.get(f"/v1/jobs/{job_id}")
        except (Unreachable, Refused) as failure:
            passing = isinstance(failure, Unreachable) or failure.status in {429, 502, 503, 504}
            if not passing or time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS)


def require_success(job: Mapping[str, Any]) -> None:
    """A failure with the job's own reason, unless it succeeded."""
    if job["status"] == "succeeded":
        return
    if job["status"] == PAUSED:
        mend = f"`temper jobs resume {job['id']}` goes on from its saved state."
        raise CommandError(f"Job {job['id']} is paused.", mend=mend, exit_code=EXIT_JOB_FAILED)
    error = job.get("error") or {}
    reason = error.get("message") or "no reason was given"
    code = f" [{error['code']}]" if error.get("code") else ""
    raise CommandError(
        f"Job {job['id']} {job['status']}{code}" + (f": {reason}" if job["status"] == "failed" else "."),
        mend=f"`temper jobs events {job['id']}` shows what it did." if job["status"] == "failed" else None,
        exit_code=EXIT_JOB_FAILED,
    )


def describe(job: Mapping[str, Any]) -> str:
    """State and losses of a job in a few words."""
    progress = job.get("progress") or {}
    phase = progress.get("phase") if job["status"] == "running" else None
    words = [str(phase or job["status"])]
    if phase == "training" and progress.get("total_steps"):
        words.append(f"step {progress.get('step') or 0}/{progress['total_steps']}")
    for key, label in (("train_loss", "loss"), ("validation_loss", "validation")):
        if progress.get(key) is not None:
            words.append(f"{label} {number(progress[key])}")
    return "  ".join(words)


def remaining(job: Mapping[str, Any]) -> str:
    seconds = (job.get("progress") or {}).get("eta_seconds")
    if seconds is None or job["status"] != "running":
        return ""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    return f"about {minutes}:{rest:02d} left"


def fraction(job: Mapping[str, Any]) -> float:
    if job["status"] == "succeeded":
        return 1.0
    return float((job.get("progress") or {}).get("fraction") or 0.0)


class _Bar:
    def __init__(self) -> None:
        self._progress = Progress(
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=err,
        )
        self._task: TaskID = self._progress.add_task("queued", total=1.0, left="")

    def __enter__(self) -> None:
        self._progress.start()

    def __exit__(self, *failure: object) -> None:
        self._progress.stop()

    def show(self, job: Mapping[str, Any]) -> None:
        self._progress.update(self._task, description=describe(job), completed=fraction(job), left=remaining(job))


class _Lines:
    """A line when the phase changes, and at every quarter of the way."""

    def __init__(self) -> None:
        self._last: tuple[str, int] | None = None

    def __enter__(self) -> None:
        return

    def __exit__(self, *failure: object) -> None:
        return

    def show(self, job: Mapping[str, Any]) -> None:
        phase = str((job.get("progress") or {}).get("phase") if job["status"] == "running" else job["status"])
        here = (phase, int(fraction(job) / LINE_EVERY))
        if here != self._last:
            self._last = here
            say(f"{100 * fraction(job):3.0f} %  {describe(job)}  {remaining(job)}".rstrip())
