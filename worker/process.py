"""A run's subprocess as its supervisor sees it: started in its own group, fed orders, read line by line, killed."""

import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import structlog

from worker.protocol import Assignment, Order

log = structlog.get_logger(__name__)

STDERR_TAIL_BYTES = 4_000


class RunProcess:
    """Owns the subprocess and the thread that reads its stdout. `kill` and `close` are safe at any time."""

    def __init__(self, command: Sequence[str], assignment: Assignment, *, env: Mapping[str, str], stderr: Path) -> None:
        self._stderr = stderr
        with stderr.open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=dict(env),
                text=True,
                # A group of its own: killed whole, and Ctrl-C in a terminal does not reach it behind our back.
                start_new_session=True,
            )
        self._messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin: IO[str] = self._process.stdin
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()
        self._write(assignment.line())

    @property
    def pid(self) -> int:
        return self._process.pid

    def next_message(self, timeout_seconds: float) -> dict[str, Any] | None:
        """The next line the run wrote; None when none came in time. `ended` tells whether more can come."""
        try:
            message = self._messages.get(timeout=timeout_seconds)
        except queue.Empty:
            return None
        if message is None:
            self._messages.put(None)
        return message

    @property
    def ended(self) -> bool:
        """Whether stdout is at its end; the lines already read may still wait in `next_message`."""
        return not self._reader.is_alive()

    def order(self, order: Order) -> None:
        self._write(f"{order}\n")

    def answer(self, word: str, number: int) -> None:
        """What the run asked for."""
        self._write(f"{word} {number}\n")

    def signal(self, number: signal.Signals) -> None:
        """To the whole group; a group that is gone already is fine."""
        if self._process.poll() is None:
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                log.debug("run_already_gone", pid=self._process.pid)

    def close(self) -> int:
        """Kills what is left of the group and answers the exit status (negative: by that signal)."""
        self.signal(signal.SIGKILL)
        status = self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:  # an order nobody read any more
                    log.debug("order_unread", pid=self._process.pid)
        return status

    def stderr_tail(self) -> str:
        """The end of what the run wrote to stderr: for our log, never for a user."""
        with self._stderr.open("rb") as errors:
            errors.seek(0, os.SEEK_END)
            errors.seek(max(0, errors.tell() - STDERR_TAIL_BYTES))
            return errors.read().decode(errors="replace")

    def _write(self, line: str) -> None:
        try:
            self._stdin.write(line)
            self._stdin.flush()
        except BrokenPipeError:  # the run is gone: its exit is noticed by the reader
            log.debug("order_unread", pid=self._process.pid)

    def _read(self, stdout: IO[str]) -> None:
        for line in stdout:
            try:
                message = json.loads(line)
            except ValueError:  # a run killed in mid-line
                log.warning("unreadable_line_from_run", pid=self._process.pid)
                continue
            self._messages.put(message)
        self._messages.put(None)
