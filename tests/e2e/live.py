"""A real `temper serve` in a process of its own, and the console script as a user calls it."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.architecture.repo import ROOT

STOP_SECONDS = 60.0
TEMPER = Path(sys.executable).with_name("temper")


def environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours, without what a developer may have set for a service of theirs; one thread, for the cores are shared."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TEMPER_")}
    return {**kept, "TEMPER_HOME": str(home), "OMP_NUM_THREADS": "1", **(extra or {})}


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    url: str
    home: Path
    process: subprocess.Popen[str]
    environment: Mapping[str, str]

    def temper(self, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """`temper …` against this service, found by its home."""
        return run(*arguments, environment=self.environment, cwd=cwd)


def run(*arguments: str, environment: Mapping[str, str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(TEMPER), *arguments],
        cwd=cwd or ROOT,
        env=dict(environment),
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


@contextlib.contextmanager
def serving(home: Path, *, port: int = 0, cwd: Path = ROOT, extra: Mapping[str, str] | None = None) -> Iterator[Live]:
    """The whole service, started in `cwd`, until the block ends; port 0 takes a free one."""
    env = environment(home, extra)
    arguments = [str(TEMPER), "serve", "--home", str(home), "--port", str(port), "--json"]
    process = subprocess.Popen(arguments, cwd=cwd, env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        announced = json.loads(process.stdout.readline() or "{}")
        assert announced, "temper serve did not become ready; its reason is on stderr"
        yield Live(url=announced["url"], home=home, process=process, environment=env)
    finally:
        stop(process)


def stop(process: subprocess.Popen[str]) -> int:
    """SIGTERM, and the exit code."""
    process.terminate()
    try:
        code = process.wait(STOP_SECONDS)
    finally:
        process.kill()
        if process.stdout is not None:
            process.stdout.close()
    return code
