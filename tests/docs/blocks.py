"""Runs the shell blocks of a page of documentation, as printed, against a service of their own.

The page assumes the folder of the checkout, a home in `.temper` and port 8000. The test gives it a folder with the same
examples and its own `.temper`; the port alone is replaced, since another service may hold 8000 where the tests run.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.architecture.repo import ROOT
from tests.e2e.live import Live

BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DEFAULT_URL = "http://127.0.0.1:8000"
BLOCK_SECONDS = 240


def blocks(page: Path) -> list[str]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def stage(folder: Path) -> None:
    """What a reader has in the folder of the checkout, as far as the pages use it."""
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / ".venv").symlink_to(Path(sys.executable).parent.parent)


def execute(script: list[str], live: Live, folder: Path) -> Iterator[subprocess.CompletedProcess[str]]:
    """Each block's outcome, in one shell's order: later blocks see the variables of earlier ones."""
    state = folder / "shell-state"
    state.touch()
    for block in script:
        # All variables travel to the next block, as they would in one terminal.
        text = f'set -eu\n. "{state}"\n{block}\nexport -p > "{state}"\n'
        text = text.replace(DEFAULT_URL, live.url)
        yield subprocess.run(
            ["sh", "-c", f"set -a\n{text}"],
            cwd=folder,
            env={name: value for name, value in live.environment.items() if name != "TEMPER_HOME"},
            capture_output=True,
            text=True,
            check=False,
            timeout=BLOCK_SECONDS,
        )
