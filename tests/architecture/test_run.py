"""`./run` on a machine of another kind: it says plainly what is missing, and never touches a good environment."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.architecture.repo import ROOT

TOOLS = ("sh", "dirname", "cat", "cksum", "cut", "ln", "rm", "readlink", "mkdir", "sleep", "basename")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the script in a folder with a space in its name, with the two files it hashes."""
    folder = tmp_path / "a checkout"
    folder.mkdir()
    for name in ("run", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A PATH with a shell's tools and no Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in TOOLS:
        (folder / name).symlink_to(shutil.which(name) or name)
    return folder


def fake_python(folder: Path, name: str, body: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def run(checkout: Path, path: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(checkout / "run"), *arguments],
        cwd=path,
        env={"PATH": str(path), "HOME": os.environ.get("HOME", "/"), **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_help_needs_nothing(checkout: Path, tools: Path) -> None:
    done = run(checkout, tools, "help")
    assert done.returncode == 0
    assert "./run demo" in done.stdout
    assert not (checkout / ".venv").exists()


def test_no_python_is_said_plainly(checkout: Path, tools: Path) -> None:
    done = run(checkout, tools, "demo")
    assert done.returncode == 1
    assert (
        done.stderr.strip()
        == "run: No Python 3.11, 3.12 or 3.13 was found. Install one, or set PYTHON=/path/to/python3."
    )
    assert not (checkout / ".venv.lock").is_symlink()


def test_an_old_python_is_not_used(checkout: Path, tools: Path) -> None:
    fake_python(tools, "python3", "exit 1")
    assert "No Python 3.11" in run(checkout, tools, "demo").stderr


def test_a_python_that_was_asked_for_and_is_wrong_is_refused(checkout: Path, tools: Path) -> None:
    wrong = fake_python(tools, "python2.7", "exit 1")
    done = run(checkout, tools, "demo", PYTHON=str(wrong))
    assert f"PYTHON={wrong} is not a Python 3.11, 3.12 or 3.13." in done.stderr


def test_a_missing_venv_module_is_named(checkout: Path, tools: Path) -> None:
    fake_python(tools, "python3", 'case "$2" in *ensurepip*) exit 1 ;; *) exit 0 ;; esac')
    done = run(checkout, tools, "demo")
    assert done.returncode == 1
    assert "python3 has no venv module" in done.stderr


INTERPRETER = """
case "$1" in
    -V) echo 'Python 3.12.0' ;;
    -m) [ "$2" = pip ] && { echo "$@" >>"$LOG"; [ -z "${BROKEN:-}" ] || exit 1; exit 0; }
        mkdir "$3/bin" && cp "$0" "$3/bin/python" && printf '#!/bin/sh\\necho temper "$@"\\n' >"$3/bin/temper"
        chmod +x "$3/bin/temper" && echo venv >>"$LOG" ;;
esac
"""


@pytest.fixture
def python(tools: Path) -> Path:
    """A stand-in interpreter that records what pip was asked to do."""
    for name in ("cp", "chmod"):
        (tools / name).symlink_to(shutil.which(name) or name)
    return fake_python(tools, "python3", INTERPRETER)


def test_the_second_start_installs_nothing(checkout: Path, tools: Path, python: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    first = run(checkout, tools, "models", "list", LOG=str(log), TORCH_INDEX_URL="https://wheels.example/cpu")
    assert first.returncode == 0, first.stderr
    assert first.stdout == "temper models list\n"
    pip = log.read_text().splitlines()[1]
    assert "--extra-index-url https://wheels.example/cpu" in pip
    assert "-c constraints.txt -e .[dev]" in pip
    again = run(checkout, tools, "models", "list", LOG=str(log), TORCH_INDEX_URL="https://wheels.example/cpu")
    assert again.stdout == first.stdout
    assert len(log.read_text().splitlines()) == 2
    (checkout / "constraints.txt").write_text("changed==1\n")
    run(checkout, tools, "models", LOG=str(log), TORCH_INDEX_URL="https://wheels.example/cpu")
    assert log.read_text().splitlines()[2].startswith("-m pip install"), "new constraints install into the same .venv"


def test_a_half_made_environment_is_made_again(checkout: Path, tools: Path, python: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    broken = run(checkout, tools, "models", LOG=str(log), BROKEN="yes")
    assert broken.returncode == 1
    assert "pip could not install" in broken.stderr
    assert not (checkout / ".venv.lock").is_symlink()
    (checkout / ".venv" / "left-over").write_text("from the broken install")
    assert run(checkout, tools, "models", LOG=str(log)).returncode == 0
    assert not (checkout / ".venv" / "left-over").exists()


def test_a_lock_whose_owner_is_gone_is_taken_over(checkout: Path, tools: Path, python: Path, tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    (checkout / ".venv.lock").symlink_to(str(gone.pid))
    assert run(checkout, tools, "models", LOG=str(tmp_path / "log")).returncode == 0
