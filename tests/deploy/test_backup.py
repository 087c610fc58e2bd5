"""The commands of docs/operations.md that back a service up while it runs, and bring it back."""

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx

from app.main import create_app
from app.queue import FakeQueue
from app.settings import Settings
from tests.app.files.conftest import hourly_csv
from tests.architecture.repo import ROOT
from tests.backend import only_embedded
from tests.server import serve


def blocks() -> list[str]:
    """Of the chapter on backups: embedded backup and restore, PostgreSQL's dump."""
    chapter = (ROOT / "docs" / "operations.md").read_text().partition("## Backup and restore")[2]
    return re.findall(r"```\n(.*?)```", chapter.partition("\n## ")[0], flags=re.DOTALL)


def shell(script: str, folder: Path, home: Path) -> None:
    subprocess.run(
        ["sh", "-eu", "-c", script.replace("HOME/", f"{home}/")],
        cwd=folder,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        check=True,
    )


@only_embedded
def test_a_service_comes_back_from_its_backup(settings: Settings, tmp_path: Path) -> None:
    backup, restore, _ = blocks()
    data = hourly_csv()
    with serve(create_app(settings, queue=FakeQueue())) as url, client_of(settings, url) as client:
        file_id = client.post("/v1/files", files={"file": ("load.csv", data)}).json()["id"]
        shell(backup, tmp_path, settings.home)
        later = client.post("/v1/files", files={"file": ("later.csv", data)}).json()["id"]
    shell(restore, tmp_path, settings.home)
    with serve(create_app(settings, queue=FakeQueue())) as url, client_of(settings, url) as client:
        assert client.get(f"/v1/files/{file_id}/content").content == data
        assert client.get(f"/v1/files/{later}").status_code == 404


def client_of(settings: Settings, url: str) -> httpx.Client:
    key = (settings.home / "api_key").read_text().strip()
    return httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=60.0, trust_env=False)
