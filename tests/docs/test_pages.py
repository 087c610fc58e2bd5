"""The quickstart, the README's curl lines and the example scripts work as printed."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.repo import ROOT
from tests.docs.blocks import blocks, execute, stage
from tests.e2e.live import Live, serving

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="the pages use curl, which is not here")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reader")
    stage(path)
    return path


@pytest.fixture(scope="module")
def live(folder: Path) -> Iterator[Live]:
    with serving(folder / ".temper", cwd=folder) as service:
        yield service


def test_the_quickstart_works_as_printed(live: Live, folder: Path) -> None:
    script = blocks(ROOT / "docs" / "quickstart.md")
    assert len(script) >= 8
    shown = []
    for block, done in zip(script, execute(script, live, folder), strict=True):
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        shown.append(done.stdout + done.stderr)
    everything = "\n".join(shown)
    for text in ("freq MS", "refused, as it should be", "Verdict", "item_id,timestamp,mean", '"object":"forecast"'):
        assert text in everything
    assert (folder / "forecast.csv").exists()


def test_the_readme_s_curl_lines_work_as_printed(live: Live, folder: Path) -> None:
    script = [block for block in blocks(ROOT / "README.md") if "curl" in block]
    assert len(script) == 1, "one block, to be pasted whole"
    (done,) = execute(script, live, folder)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "item_id,timestamp,mean,lo-80,hi-80"
    assert len(lines) == 13
    assert "1961-01-01" in lines[1]


def test_every_command_the_readme_names_for_the_shell_exists() -> None:
    script = "\n".join(blocks(ROOT / "README.md"))
    assert {"./run demo", "./run test", "./run serve"} <= {line.split("  ")[0].strip() for line in script.splitlines()}


def test_the_curl_example_works(live: Live, folder: Path) -> None:
    done = subprocess.run(
        ["sh", str(ROOT / "examples" / "curl.sh"), live.url, str(live.home / "api_key")],
        cwd=folder,
        env=dict(live.environment),
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("item_id,timestamp,mean,lo-80,hi-80\n")
    assert "romoted: " in done.stderr


def test_the_openai_client_s_example_is_that_of_its_page_and_works(live: Live, folder: Path) -> None:
    page = ROOT / "docs" / "clients.md"
    example = (ROOT / "examples" / "openai_client.py").read_text(encoding="utf-8")
    assert f"```python\n{example}```" in page.read_text(encoding="utf-8")
    (script,) = [block for block in blocks(page) if "openai_client.py" in block]
    (done,) = execute([script], live, folder)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 12
    assert "1961-01-01" in lines[0]
    assert "Job created and queued." in done.stderr


def test_the_nixtla_example_works(live: Live, folder: Path) -> None:
    pytest.importorskip("nixtla", reason="the nixtla client is not installed")
    csv = str(ROOT / "examples" / "air_passengers.csv")
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "nixtla_client.py"), live.url, str(live.home / "api_key"), csv, "12"],
        cwd=folder,
        env={**live.environment, "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "timestamp,TimeGPT,TimeGPT-hi-80,TimeGPT-lo-80"
    assert len(done.stdout.splitlines()) == 13
    assert "ft:temper-tiny:local:nixtla:" in done.stderr


def test_the_generated_example_is_what_its_script_makes() -> None:
    script = ROOT / "examples" / "make_hourly.py"
    made = subprocess.run([sys.executable, str(script)], capture_output=True, check=True, env=dict(os.environ))
    assert made.stdout == (ROOT / "examples" / "hourly_demand.csv").read_bytes()
    assert len(made.stdout) < 1_000_000
