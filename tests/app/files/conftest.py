"""Uploads for tests: small series, and a gateway with small limits."""

import csv
import hashlib
import io
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

import httpx
import pytest

from app.auth.repository import tenant_named
from app.db import session_scope
from app.files.repository import PROCESSED
from app.ids import FILE, new_id, utc_now
from app.main import create_app
from app.queue import FakeQueue
from app.services import Services
from app.settings import Settings
from app.storage import file_key, series_key
from app.tables import File
from tests.server import serve

START = datetime(2026, 1, 1)
Upload = Callable[..., httpx.Response]


def hourly_csv(num_points: int = 400, *, num_series: int = 1) -> bytes:
    """`item_id,timestamp,target`, hourly from 2026-01-01."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["item_id", "timestamp", "target"])
    for series in range(num_series):
        for step in range(num_points):
            stamp = (START + timedelta(hours=step)).isoformat(sep=" ")
            writer.writerow([f"s{series}", stamp, round(10 + series + (step % 24) * 0.5, 3)])
    return out.getvalue().encode()


@pytest.fixture
def upload(client: httpx.Client) -> Upload:
    """`upload(data, name=…, client=…, **fields)` posts a multipart form and returns the answer."""

    def post(data: bytes, *, name: str = "load.csv", client: httpx.Client = client, **fields: str) -> httpx.Response:
        return client.post("/v1/files", files={"file": (name, data)}, data=fields)

    return post


Keep = Callable[..., str]
READING = {"freq": "h", "max_length": 400}
"""As much of a reading as the gateway itself looks at."""


@pytest.fixture
def keep(services: Services, client: httpx.Client) -> Keep:
    """`keep(data, name=…)` → the id of a processed file of the client's tenant, stored without running the reader."""

    def store(data: bytes = b"1,2\n", *, name: str = "load.csv", **columns: object) -> str:
        file_id = new_id(FILE)
        with session_scope(services.engine) as session:
            tenant = tenant_named(session, "local")
            values = {"status": PROCESSED, "reading": READING, "expires_at": None, **columns}
            session.add(
                File(
                    id=file_id,
                    tenant_id=tenant.id,
                    filename=name,
                    purpose="fine-tune",
                    bytes=len(data),
                    sha256=hashlib.sha256(data).hexdigest(),
                    options={},
                    created_at=utc_now(),
                    **values,
                )
            )
        services.store.put_bytes(file_key(file_id), data)
        services.store.put_bytes(series_key(file_id), b"parquet")
        return file_id

    return store


@pytest.fixture
def connect_small(settings: Settings, queue: FakeQueue, new_key: Callable[..., str]) -> Iterator[httpx.Client]:
    """A client of a gateway that takes 200 kB and parses up to 50 kB (1 MB unpacked) before it answers."""
    small = settings.model_copy(
        update={"max_upload_bytes": 200_000, "inline_parse_bytes": 50_000, "max_decompressed_bytes": 10**6}
    )
    with serve(create_app(small, queue=queue)) as url:
        headers = {"authorization": f"Bearer {new_key('local')}"}
        with httpx.Client(base_url=url, headers=headers, timeout=60.0, trust_env=False) as client:
            yield client
