"""The small parts of a run: what an error means, saved states on the move, the folder's lock, the lines."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from app.errors import ApiError
from app.storage import MissingObject, ObjectStore
from tsfm.errors import NonFinite, SeriesTooShort
from worker.celery_app import surviving_memory_errors
from worker.process import RunProcess
from worker.protocol import Assignment, message
from worker.run_job import verdict
from worker.runs import RunFolderBusy, run_folder
from worker.state import StateKeeper, is_remote, state_key
from worker.supervise import describe_exit


@pytest.mark.parametrize(
    ("error", "code", "retry"),
    [
        (NonFinite("step 3"), "non_finite", False),
        (SeriesTooShort("short", have=1, need=2), "series_too_short", False),
        (MemoryError(), "out_of_memory", False),
        (MissingObject("files/x"), "file_missing", False),
        (ApiError(507, "storage_full", "full"), "storage_full", False),
        (OSError("disk"), "unavailable", True),
        (OSError(errno.ENOSPC, "secret-path"), "storage_full", False),
        (RunFolderBusy("x"), "unavailable", True),
        (KeyError("secret-path"), "internal_error", False),
    ],
)
def test_what_an_error_of_a_run_means(error: Exception, code: str, retry: bool) -> None:
    found = verdict(error)
    assert (found["code"], found["retry"]) == (code, retry)
    assert "secret" not in found["message"]


def test_lines_hold_no_number_that_is_not_json() -> None:
    line = message("progress", {"train_loss": float("nan"), "metrics": {"mase": float("inf")}, "step": 3, "x": (1.5,)})
    assert json.loads(line) == {
        "type": "progress",
        "train_loss": None,
        "metrics": {"mase": None},
        "step": 3,
        "x": [1.5],
    }


def test_an_assignment_travels_as_one_line() -> None:
    sent = Assignment(job_id="j", file_id="f", request={"a": [1]}, reading={"freq": "h"})
    assert sent.line().count("\n") == 1
    assert Assignment.parse(sent.line()) == sent


class TestState:
    def keeper(self, store: ObjectStore, folder: Path) -> StateKeeper:
        folder.mkdir(exist_ok=True)
        return StateKeeper(store=store, job_id="j", folder=folder, remote=True)

    def test_another_machine_goes_on_from_the_copy(self, tmp_path: Path) -> None:
        store = ObjectStore("memory:///")
        here, there = tmp_path / "here", tmp_path / "there"
        first = self.keeper(store, here)
        (here / "run.safetensors").write_bytes(b"state")
        first.push(now=True)
        there.mkdir()
        (there / "stale").write_bytes(b"an earlier attempt")
        self.keeper(store, there).pull()
        assert {path.name: path.read_bytes() for path in there.iterdir()} == {"run.safetensors": b"state"}

    def test_nothing_is_copied_twice_or_too_often(self, tmp_path: Path) -> None:
        store = ObjectStore("memory:///")
        keeper = self.keeper(store, tmp_path / "here")
        keeper.push(now=True)
        assert not store.exists(state_key("j")), "an empty state is none"
        (keeper.folder / "a").write_bytes(b"1")
        keeper.push()
        assert not store.exists(state_key("j")), "the interval is not over"
        keeper.push(now=True)
        store.delete(state_key("j"))
        keeper.push(now=True)
        assert not store.exists(state_key("j")), "it has not changed"

    def test_local_storage_needs_no_copy(self) -> None:
        assert not is_remote("file:///data")
        assert is_remote("s3://bucket/prefix")


def test_a_run_folder_has_one_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.runs.LOCK_TIMEOUT_SECONDS", 0.1)
    folder = run_folder(tmp_path, "ftjob-1")
    folder.make()
    with folder.locked():
        (folder.state / "kept").touch()
        (folder.work / "scratch").touch()
        with pytest.raises(RunFolderBusy), folder.locked():
            pass
    with folder.locked():
        assert (folder.state / "kept").exists()
        assert not (folder.work / "scratch").exists()
    assert folder.path.stat().st_mode & 0o077 == 0


def test_a_run_ends_when_its_supervisor_is_gone(tmp_path: Path) -> None:
    """The supervisor is killed; the run's stdin ends, and so does the run, in the middle of whatever it does."""
    fake, stderr = str(Path(__file__).with_name("fake_run.py")), str(tmp_path / "stderr")
    with subprocess.Popen(
        [sys.executable, "-c", _SUPERVISOR, fake, stderr], stdout=subprocess.PIPE, text=True
    ) as supervisor:
        assert supervisor.stdout is not None
        pid = int(supervisor.stdout.readline())
        supervisor.kill()
    for _ in range(200):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return
        subprocess.run(["sleep", "0.05"], check=True)
    pytest.fail("the run outlived its supervisor")


_SUPERVISOR = """
import os, sys, time
from pathlib import Path
from worker.process import RunProcess
from worker.protocol import Assignment

assignment = Assignment(job_id="j", file_id="f", request={"behaviour": "obey"}, reading={})
run = RunProcess([sys.executable, sys.argv[1]], assignment, env=dict(os.environ), stderr=Path(sys.argv[2]))
assert run.next_message(20)
print(run.pid, flush=True)
time.sleep(60)
"""


def test_a_garbled_line_is_skipped(tmp_path: Path) -> None:
    code = 'import sys; sys.stdin.readline(); print(\'{"type"\'); print(\'{"type": "stopped"}\')'
    assignment = Assignment(job_id="j", file_id="f", request={}, reading={})
    process = RunProcess([sys.executable, "-c", code], assignment, env={}, stderr=tmp_path / "stderr")
    assert process.next_message(20) == {"type": "stopped"}
    assert process.close() in (0, -9)


def test_exits_in_words() -> None:
    assert describe_exit(-9) == "killed by SIGKILL"
    assert describe_exit(3) == "exit status 3 without a result"


def test_a_memory_error_of_a_task_spares_the_worker() -> None:
    """Celery would end the whole worker and hand the message to the next one."""
    with surviving_memory_errors():
        raise MemoryError
    with pytest.raises(KeyError), surviving_memory_errors():
        raise KeyError("everything else is Celery's to log")
