"""Saved states across machines: where storage is remote, a run's `state/` is copied there, so that any worker goes on.

On the embedded default (storage on the local disk) the folder itself is the saved state and nothing is copied.
"""

import io
import shutil
import tarfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from app.settings import Settings
from app.storage import MissingObject, Store

PUSH_SECONDS = 60.0


def is_remote(storage_url: str) -> bool:
    return not storage_url.startswith("file:")


def state_key(job_id: str) -> str:
    return f"runs/{job_id}/state.tar"


def drop_remote_state(store: Store, settings: Settings, job_id: str) -> None:
    """Once a job has ended, nobody continues it."""
    if is_remote(settings.storage_url):
        store.delete(state_key(job_id))


@dataclass(slots=True, kw_only=True)
class StateKeeper:
    """Keeps the remote copy of `folder` at most `PUSH_SECONDS` behind."""

    store: Store
    job_id: str
    folder: Path
    remote: bool
    pushed: tuple[tuple[str, int, int], ...] = ()
    pushed_at: float = field(default_factory=time.monotonic)

    def pull(self) -> None:
        """Replaces the local folder by the remote copy, if there is one: another machine may have got further."""
        if not self.remote:
            return
        try:
            packed = self.store.get_bytes(state_key(self.job_id))
        except MissingObject:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(mode=0o700)
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(self.folder, filter="data")
        self.pushed = self._fingerprint()

    def push(self, *, now: bool = False) -> None:
        """Copies the folder if it changed; `now` does not wait for the interval. Call it between two steps."""
        if not self.remote or (not now and time.monotonic() - self.pushed_at < PUSH_SECONDS):
            return
        found = self._fingerprint()
        if not found or found == self.pushed:
            return
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            archive.add(self.folder, arcname=".")
        self.store.put_bytes(state_key(self.job_id), packed.getvalue())
        self.pushed, self.pushed_at = found, time.monotonic()

    def _fingerprint(self) -> tuple[tuple[str, int, int], ...]:
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return tuple((str(p.relative_to(self.folder)), p.stat().st_size, p.stat().st_mtime_ns) for p in files)
