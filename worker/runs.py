"""Where a run works: `HOME/runs/{job_id}/`, private to this user and locked by the one run that uses it."""

import contextlib
import fcntl
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LOCK_TIMEOUT_SECONDS = 20.0


class RunFolderBusy(RuntimeError):
    """Another run of this job still holds the folder (its kill has not reached it yet)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """`state/` is kept from one attempt to the next; `work/` belongs to one attempt."""

    path: Path

    @property
    def state(self) -> Path:
        return self.path / "state"

    @property
    def work(self) -> Path:
        return self.path / "work"

    @property
    def stderr(self) -> Path:
        return self.path / "stderr.log"

    def make(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def remove_work(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Fresh `work/`, and nobody else in this folder. The lock goes with the process, however it ends."""
        with (self.path / "lock").open("w") as lock:
            deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise RunFolderBusy(str(self.path)) from None
                    time.sleep(0.05)
            self.remove_work()
            self.work.mkdir(mode=0o700)
            self.state.mkdir(mode=0o700, exist_ok=True)
            yield


def run_folder(home: Path, job_id: str) -> RunFolder:
    return RunFolder(path=home / "runs" / job_id)
