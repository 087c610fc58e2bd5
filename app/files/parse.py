"""Runs the reader of `tsfm.series` in a process of its own: its time, memory and crashes are not the gateway's."""

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from app.limits import series_limits
from app.settings import Settings
from tsfm.errors import DataError
from tsfm.series.options import Limits, ReadOptions

log = structlog.get_logger(__name__)

COMMAND = (sys.executable, "-m", "tsfm.series.parse")
WORK_PREFIX = "parse-"
_INHERITED = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR", "VIRTUAL_ENV")


class ReaderFailed(RuntimeError):
    """A fault of ours: the reader ended without an answer. Its trace is in the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    reading: dict[str, Any]
    series: Path
    """Canonical Parquet; gone when the `parsed` block ends."""


@contextmanager
def parsed(
    path: Path,
    *,
    settings: Settings,
    filename: str,
    options: ReadOptions,
    timeout_seconds: float,
    limits: Limits | None = None,
    command: tuple[str, ...] = COMMAND,
) -> Iterator[Parsed]:
    """The file at `path`, understood. `DataError` says everything that is wrong with it. `limits` are those of an
    upload where none are given."""
    with tempfile.TemporaryDirectory(dir=settings.tmp_dir, prefix=WORK_PREFIX) as work:
        out = Path(work) / "series.parquet"
        scratch = Path(work) / "scratch"
        scratch.mkdir()
        request = {
            "path": str(path),
            "filename": filename,
            "options": options.to_mapping(),
            "limits": (limits or series_limits(settings)).to_mapping(),
            "out": str(out),
            "work_dir": str(scratch),
        }
        answer = _run(command, request, timeout_seconds=timeout_seconds, memory_bytes=settings.parse_memory_bytes)
        if not answer["ok"]:
            error = answer["error"]
            raise DataError(
                error["message"], code=error["code"], param=error.get("param"), details=error.get("details")
            )
        yield Parsed(reading=answer["reading"], series=out)


def _run(
    command: tuple[str, ...], request: Mapping[str, Any], *, timeout_seconds: float, memory_bytes: int
) -> dict[str, Any]:
    """The reader's answer. Killed with its whole group at the time limit."""
    environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    _limit_memory(process.pid, memory_bytes)
    try:
        output, complaint = process.communicate(json.dumps(request).encode(), timeout=timeout_seconds)
    except subprocess.TimeoutExpired:
        raise DataError(
            f"Reading the file took longer than {timeout_seconds:g} s. Send fewer rows, or Parquet.",
            code="parse_timeout",
        ) from None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    return _answer(output, complaint, process.returncode)


def _limit_memory(pid: int, memory_bytes: int) -> None:
    """RLIMIT_AS from outside, on Linux: a `preexec_fn` is unsafe in a process with threads."""
    if sys.platform == "linux":
        import resource

        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def _answer(output: bytes, complaint: bytes, exit_code: int) -> dict[str, Any]:
    lines = output.strip().splitlines()
    if exit_code == 0 and lines:
        answer: dict[str, Any] = json.loads(lines[-1])
        return answer
    text = complaint.decode(errors="replace")[-2000:]
    if exit_code < 0 or "MemoryError" in text or "std::bad_alloc" in text:
        log.warning("parser_killed", exit_code=exit_code, stderr=text)
        raise DataError(
            "Reading the file needed more memory than one file may use. Send fewer rows or columns, or Parquet.",
            code="parse_memory",
        )
    if os.strerror(errno.ENOSPC) in text:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    log.error("parser_failed", exit_code=exit_code, stderr=text)
    raise ReaderFailed(f"the reader exited with {exit_code}")
