"""`python -m worker.run_job JOB_ID OWNER`: one run in a process of its own, the only part of a worker that loads torch.

It reads its assignment from stdin, speaks JSON lines on stdout (`worker/protocol.py`), keeps its state in
`HOME/runs/{job_id}` and stores the artifact's blobs before it reports the result. It dies with its supervisor: its
stdin ends, and on Linux the kernel signals it as well.
"""

import contextlib
import errno
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from app.errors import ApiError, StorageUnavailable
from app.files.results import store_results
from app.registry.artifacts import LocalArtifacts
from app.settings import Settings
from app.storage import MissingObject, ObjectStore, Store, blob_key, series_key
from tsfm.artifact import files_of
from tsfm.errors import ArtifactError, Cancelled, TemperError
from worker import fetching, measuring
from worker.asking import Answers, PriorVerdicts
from worker.attach import die_with_parent
from worker.protocol import Assignment, message
from worker.runs import RunFolder, RunFolderBusy, run_folder
from worker.state import StateKeeper, is_remote

_STARTED_AT = time.monotonic()
if TYPE_CHECKING:
    from tsfm.finetune import FinetuneResult

ALIVE_SECONDS = 5.0
"""How often a run that has nothing else to say lets hear of it."""
SUPERVISOR_GONE = 70
"""Exit status when stdin ended: nobody reads it, it only helps in a process listing."""


class Orders:
    """What the supervisor wants; a thread reads stdin, the training loop asks between two steps."""

    def __init__(self, lines: IO[str]) -> None:
        self._lines = lines
        self.answers = Answers()
        self._order: str | None = None

    def listen(self) -> None:
        threading.Thread(target=self._listen, daemon=True).start()

    def current(self) -> str | None:
        return self._order

    def _listen(self) -> None:
        for line in self._lines:
            if not self.answers.take(line.strip()):
                self._order = line.strip()
        os._exit(SUPERVISOR_GONE)  # no clean-up: the claim is or will be somebody else's


def main() -> int:
    die_with_parent()
    speak = _own_stdout()
    assignment = Assignment.parse(sys.stdin.readline())
    orders = Orders(sys.stdin)
    orders.listen()
    settings = Settings()
    store = ObjectStore(settings.storage_url)
    try:
        if assignment.measures:
            speak("result", measuring.execute(assignment, settings, store, orders))
        else:
            speak("result", execute(assignment, settings, store, orders, speak))
    except Cancelled:
        speak("stopped", {})
    except Exception as error:  # the one place where a run's failure becomes a verdict
        speak("error", verdict(error))
        print_trace()
        return 1
    return 0


def print_trace() -> None:
    """Of the current exception. stderr is a file, and its disk may be the full one."""
    with contextlib.suppress(OSError):
        traceback.print_exc()


def verdict(error: BaseException) -> dict[str, Any]:
    """Whether another attempt may help, and what the user is told. Foreign texts stay in the log."""
    match error:
        case TemperError():
            return _error(code=error.code, text=error.message, param=error.param, details=error.details)
        case ApiError():  # storage is full
            return _error(code=error.code, text=error.message)
        case MissingObject():
            text = "The training file is no longer stored. Upload it again."
            return _error(code="file_missing", text=text, param="training_file")
        case MemoryError():
            text = "The run did not fit into memory. Use a smaller batch_size, fewer or shorter series."
            return _error(code="out_of_memory", text=text)
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            text = "The disk of the worker is full. Free some of it, then submit the job again."
            return _error(code="storage_full", text=text)
        case OSError() | RunFolderBusy():
            return _error(
                code="unavailable", text=f"storage or disk did not answer ({type(error).__name__})", retry=True
            )
    if type(error).__module__.startswith("obstore"):
        return _error(code="unavailable", text=f"storage did not answer ({type(error).__name__})", retry=True)
    name = type(error).__name__
    text = f"The run stopped on an unexpected {name}; the worker's log has the details."
    return _error(code="internal_error", text=text)


def _error(
    *, code: str, text: str, param: str | None = None, details: dict[str, Any] | None = None, retry: bool = False
) -> dict[str, Any]:
    return {"code": code, "message": text, "param": param, "details": details or None, "retry": retry}


def execute(
    assignment: Assignment, settings: Settings, store: Store, orders: Orders, speak: Callable[[str, Any], None]
) -> dict[str, Any]:
    """Fetches the series, trains and judges, stores the artifact's files; answers the `result` message."""
    folder = run_folder(settings.home, assignment.job_id)
    folder.make()
    with folder.locked():
        return _run(assignment, settings, store, folder, orders, speak)


def _run(
    assignment: Assignment,
    settings: Settings,
    store: Store,
    folder: RunFolder,
    orders: Orders,
    speak: Callable[[str, Any], None],
) -> dict[str, Any]:
    # Here and not at the top: torch takes a second or two to import, and the watch on stdin must stand before.
    from tsfm import finetune
    from tsfm.device import default_device, peak_memory_bytes
    from tsfm.incumbent import Incumbent
    from tsfm.progress import Checkpoint, Checkpoints, Progress
    from tsfm.request import FinetuneRequest
    from tsfm.series.load import load_frame

    keeper = StateKeeper(
        store=store, job_id=assignment.job_id, folder=folder.state, remote=is_remote(settings.storage_url)
    )
    keeper.pull()
    parquet = folder.work / "series.parquet"
    store.get_to(series_key(assignment.file_id), parquet)
    incumbent = None
    if (standing := assignment.incumbent) is not None:
        incumbent = Incumbent(**_fetched(store, folder.work / "incumbent", standing))

    said_at = time.monotonic()

    def report(progress: Progress) -> None:
        nonlocal said_at
        speak("progress", progress.to_mapping())
        said_at = time.monotonic()
        keeper.push()

    def should_stop() -> str | None:
        """Asked at every step and batch, so the asking itself shows that the run gets on."""
        nonlocal said_at
        if time.monotonic() - said_at > ALIVE_SECONDS:
            speak("alive", {})
            said_at = time.monotonic()
        return orders.current()

    def take(checkpoint: Checkpoint) -> None:
        files: dict[str, str] | None = None
        try:
            files = _store(store, checkpoint.out_dir)
        except (StorageUnavailable, ApiError):
            print_trace()  # a store that is away or full for now costs the checkpoint, not the run
        at = checkpoint.at
        metrics = {"step": at.step, "train_loss": at.train_loss, "validation_loss": at.validation_loss}
        speak("checkpoint", {"metrics": metrics, "digest": checkpoint.digest, "files": files})

    try:
        if settings.pull_weights:
            fetching.fetch_missing(assignment, settings, report, should_stop)
        result = finetune.run(
            FinetuneRequest.from_mapping(assignment.request),
            load_frame(parquet, assignment.reading),
            weights_dir=settings.weights_path,
            state_dir=folder.state,
            out_dir=folder.work / "artifact",
            report=report,
            should_stop=should_stop,
            checkpoints=Checkpoints(every_seconds=settings.checkpoint_seconds, take=take),
            incumbent=incumbent,
            prior_verdicts=PriorVerdicts(speak, orders.answers, should_stop),
        )
    except Cancelled:
        keeper.push(now=True)
        raise
    cost = {
        "seconds": round(time.monotonic() - _STARTED_AT, 1),
        "peak_memory_bytes": peak_memory_bytes(default_device()),
    }
    return _stored(store, assignment.job_id, result, cost)


def _stored(store: Store, job_id: str, result: "FinetuneResult", cost: Mapping[str, Any]) -> dict[str, Any]:
    """The `result` message, once everything that it names lies in the store."""
    found, again = result.to_mapping(), result.refit
    refit = None
    if again is not None:
        refit = {"digest": again.digest, "manifest": again.manifest, "files": _store(store, again.out_dir)}
    return {
        "result": {**found, "timing": {**found["timing"], **cost}},
        "files": _store(store, result.out_dir),
        "result_files": [one.to_mapping() for one in store_results(store, job_id, result.result_files)],
        "refit": refit,
    }


def _fetched(store: Store, folder: Path, standing: Mapping[str, Any]) -> dict[str, Any]:
    """The version to beat, its artifact verified. A damaged one fails the job: it cannot be beaten unseen."""
    try:
        place = LocalArtifacts(store, folder, budget_bytes=0).fetch(standing["digest"], standing["files"])
    except ApiError as error:
        text = f"The version in production cannot be compared with: {error.message}"
        raise ArtifactError(text, code=error.code, param="register_as") from error
    return {"folder": place, **{name: standing[name] for name in ("name", "version", "digest")}}


def _store(store: Store, directory: Path) -> dict[str, str]:
    """Puts an artifact's files; answers path → sha256."""
    files = files_of(directory)
    for path, sha256 in files.items():
        # Always written, even if the blob is there already: its age tells the sweeper that it is wanted.
        store.put_file(blob_key(sha256), directory / path)
    return files


def _own_stdout() -> Callable[[str, Any], None]:
    """The channel to the supervisor. Whatever a library prints goes to stderr instead and cannot garble it."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    lock = threading.Lock()

    def speak(kind: str, content: Any) -> None:
        with lock, contextlib.suppress(BrokenPipeError):  # a dead supervisor is noticed on stdin
            channel.write(message(kind, content))
            channel.flush()

    return speak


if __name__ == "__main__":
    sys.exit(main())
