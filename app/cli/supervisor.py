"""Keeps a few child processes alive, and stops them all together. Knows nothing of what they do."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

POLL_SECONDS = 0.1
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
HEALTHY_SECONDS = 30.0
"""A child that lived this long starts its pauses anew."""
MAX_LOG_BYTES = 16 << 20
TAIL_LINES = 15


@dataclass(slots=True, kw_only=True)
class Child:
    """A program to keep running. Its output is appended to `log`."""

    name: str
    arguments: Sequence[str]
    """What follows the interpreter: `-m package …`."""
    log: Path
    environment: Mapping[str, str]
    descriptors: tuple[int, ...] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    started_at: float = field(default=0.0, init=False)
    restart_at: float = field(default=0.0, init=False)
    pause_seconds: float = field(default=FIRST_PAUSE_SECONDS, init=False)
    num_failures: int = field(default=0, init=False)

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.log.exists() and self.log.stat().st_size > MAX_LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        attach = [sys.executable, "-P", "-m", "app.cli.attach", str(os.getpid())]
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [*attach, sys.executable, "-P", *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(self.environment),
                pass_fds=self.descriptors,
                # Ctrl-C in a terminal reaches the whole foreground group: only the supervisor shall hear it.
                start_new_session=True,
            )
        self.started_at = time.monotonic()

    def exit_code(self) -> int | None:
        """How it ended, or None while it runs (or waits to be started again)."""
        return self.process.poll() if self.process is not None else None

    def signal(self, number: signal.Signals) -> None:
        """To the whole group, so that a pool's processes hear it too."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it ended in this instant
                os.killpg(self.process.pid, number)

    def kill_rest(self) -> None:
        """Ends what a dead child left of its group, so that its successor does not work beside it."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def tail(self) -> str:
        """The last lines of its log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-TAIL_LINES:])


class Supervisor:
    """Starts children, starts them again when they die, and ends them on SIGINT, SIGTERM or SIGHUP."""

    def __init__(self, *, say: Callable[[str], None]) -> None:
        self.children: list[Child] = []
        self.also: list[Callable[[], None]] = []
        """Called with every look at the children: what looks after helpers that are no `Child`."""
        self.stopping = False
        self._say = say

    def listen(self) -> None:
        """Catches the signals that mean stop. A second one changes nothing: the stop has its own time limit."""
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup has asked to outlive the terminal
            signal.signal(signal.SIGHUP, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True

    def add(self, child: Child) -> None:
        child.start()
        self.children.append(child)

    def run(self) -> None:
        """Tends the children until a signal says stop."""
        while not self.stopping:
            self.tend()
            time.sleep(POLL_SECONDS)

    def tend(self) -> None:
        """One look at every child: what died is started again, later each time it dies young."""
        for look in self.also:
            look()
        now = time.monotonic()
        for child in self.children:
            code = child.exit_code()
            if code is not None:
                self._note_death(child, code, now)
            elif child.process is None and now >= child.restart_at:
                child.start()

    def _note_death(self, child: Child, code: int, now: float) -> None:
        if now - child.started_at > HEALTHY_SECONDS:
            child.pause_seconds, child.num_failures = FIRST_PAUSE_SECONDS, 0
        child.num_failures += 1
        child.kill_rest()
        child.process = None
        child.restart_at = now + child.pause_seconds
        self._say(f"{child.name} {ended(code)}; starting it again in {child.pause_seconds:g} s. Its log: {child.log}")
        child.pause_seconds = min(2 * child.pause_seconds, LONGEST_PAUSE_SECONDS)

    def stop(self, *, grace_seconds: float) -> None:
        """SIGTERM to all, then SIGKILL to what is left after the grace time."""
        for child in self.children:
            child.signal(signal.SIGTERM)
        deadline = time.monotonic() + grace_seconds
        for child in self.children:
            if child.process is None:
                continue
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.0, deadline - time.monotonic()))
            child.kill_rest()
            child.process.wait()


def ended(code: int) -> str:
    """An exit status in words."""
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"stopped with exit code {code}"
