"""Full disks, real ones: a small tmpfs over one folder of the home. The caller is told, nothing half is kept, and with
room again the same request succeeds."""

import contextlib
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.backend import SCALE_OUT
from tests.faults.deployment import Deployment

KIB = 1 << 10
ROWS = 30_000


@contextlib.contextmanager
def small(folder: Path, num_bytes: int) -> Iterator[None]:
    """`folder` is a disk of that size until the block ends."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module", autouse=True)
def may_mount(tmp_path_factory: pytest.TempPathFactory) -> None:
    """tests/app/test_telemetry.py and tests/worker/test_parts.py have the same faults without a real disk."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root on Linux can mount a small disk")
    try:
        with small(tmp_path_factory.mktemp("disk"), 64 * KIB):
            pass
    except subprocess.CalledProcessError:
        pytest.skip("this machine lets nobody mount a tmpfs")


@pytest.fixture(scope="module")
def csv() -> str:
    """A megabyte that does not compress."""
    generator = random.Random(0)
    return "timestamp,load\n" + "".join(f"{1_600_000_000 + i * 3600},{generator.random()}\n" for i in range(ROWS))


@pytest.fixture(scope="module")
def client(deployment: Deployment) -> Iterator[httpx.Client]:
    with deployment.gateway(), deployment.client() as client:
        yield client


def post(client: httpx.Client, csv: str) -> tuple[int, str]:
    """Status, and the error's code."""
    response = client.post("/v1/files", files={"file": ("load.csv", csv)})
    return response.status_code, (response.json()["error"] or {"code": ""})["code"]


@pytest.mark.parametrize(
    ("folder", "num_bytes"),
    [
        pytest.param("tmp", 256 * KIB, id="while the upload arrives"),
        pytest.param("tmp", 1100 * KIB, id="while it is read"),
        pytest.param(
            "storage",
            256 * KIB,
            id="while it is stored",
            marks=pytest.mark.skipif(SCALE_OUT, reason="storage is not on this disk"),
        ),
    ],
)
def test_a_full_disk_is_507_and_leaves_nothing(
    deployment: Deployment, client: httpx.Client, csv: str, folder: str, num_bytes: int
) -> None:
    with small(deployment.settings.home / folder, num_bytes):
        assert post(client, csv) == (507, "storage_full")
    deployment.settled()
    assert post(client, csv) == (200, "")
    deployment.settled()


def test_a_run_on_a_full_disk_says_so_and_the_worker_lives_on(deployment: Deployment) -> None:
    with deployment.worker() as worker:
        for num_bytes in (4 * KIB, 40 * KIB):  # not even a folder for the run; too little for its artifact
            with small(deployment.settings.home / "runs", num_bytes):
                job = deployment.wait_for_end(deployment.submit("steps 1"))
                assert (job.status, (job.error or {}).get("code")) == ("failed", "storage_full"), deployment.log()
        deployment.succeeds(deployment.submit("steps 1"))
        assert worker.poll() is None
