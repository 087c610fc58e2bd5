"""Children that die are started again, and none outlives its supervisor."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from app.cli.supervisor import Child, Supervisor, ended

WAIT_SECONDS = 20.0
SLEEPER = "import time, pathlib, os; pathlib.Path(r'{path}').write_text(str(os.getpid())); time.sleep(60)"


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z" if _PROC else True


_PROC = Path("/proc/self/stat").exists()


def child(tmp_path: Path, code: str) -> Child:
    return Child(
        name="child", arguments=["-c", code], log=tmp_path / "logs" / "child.log", environment=dict(os.environ)
    )


@pytest.fixture
def said() -> list[str]:
    return []


def test_a_dead_child_is_started_again_and_it_is_said(tmp_path: Path, said: list[str]) -> None:
    path = tmp_path / "pid"
    supervisor = Supervisor(say=said.append)
    supervisor.add(child(tmp_path, SLEEPER.format(path=path)))
    try:
        wait_for(lambda: path.exists() and path.read_text() != "")
        first = int(path.read_text())
        os.kill(first, signal.SIGKILL)

        def again() -> bool:
            supervisor.tend()
            return path.read_text() not in ("", str(first))

        wait_for(again)
        assert said[0].startswith("child was ended by SIGKILL; starting it again in 0.5 s")
    finally:
        supervisor.stop(grace_seconds=5)
    assert not alive(int(path.read_text()))


def test_a_child_that_dies_at_once_is_started_ever_later(tmp_path: Path, said: list[str]) -> None:
    supervisor = Supervisor(say=said.append)
    supervisor.add(child(tmp_path, "import sys; print('because'); sys.exit(3)"))

    def three_times() -> bool:
        supervisor.tend()
        return len(said) >= 3

    wait_for(three_times)
    supervisor.stop(grace_seconds=1)
    assert [line.split("again in ")[1].split(" s.")[0] for line in said[:3]] == ["0.5", "1", "2"]
    assert "stopped with exit code 3" in said[0]
    assert supervisor.children[0].tail().splitlines()[-1] == "because"


def test_what_ignores_the_polite_request_is_killed(tmp_path: Path, said: list[str]) -> None:
    path = tmp_path / "pid"
    stubborn = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER.format(path=path)}"
    supervisor = Supervisor(say=said.append)
    supervisor.add(child(tmp_path, stubborn))
    wait_for(lambda: path.exists() and path.read_text() != "")
    supervisor.stop(grace_seconds=0.2)
    assert not alive(int(path.read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent has died")
def test_children_die_with_a_killed_supervisor(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    script = f"""
import os, time
from pathlib import Path
from app.cli.supervisor import Child, Supervisor
supervisor = Supervisor(say=print)
supervisor.add(Child(name="c", arguments=["-c", {SLEEPER.format(path=path)!r}], log=Path({str(tmp_path / "l")!r}),
    environment=dict(os.environ)))
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", script])
    wait_for(lambda: path.exists() and path.read_text() != "")
    parent.kill()
    parent.wait()
    wait_for(lambda: not alive(int(path.read_text())))


def test_exit_codes_in_words() -> None:
    assert ended(-9) == "was ended by SIGKILL"
    assert ended(2) == "stopped with exit code 2"
