"""Uploads of a small file in parts."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from openai import OpenAI

from tests.app.files.conftest import hourly_csv

DATA = hourly_csv()
Open = Callable[..., OpenAI]
Announce = Callable[..., str]
Send = Callable[[str, bytes], str]


def thirds(data: bytes = DATA) -> list[bytes]:
    """Cut without regard to lines."""
    size = len(data) // 3 + 1
    return [data[start : start + size] for start in range(0, len(data), size)]


@pytest.fixture
def open_client(server: str) -> Iterator[Open]:
    clients: list[OpenAI] = []

    def connect(key: str) -> OpenAI:
        clients.append(OpenAI(api_key=key, base_url=f"{server}/v1", max_retries=0))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


@pytest.fixture
def openai(open_client: Open, new_key: Callable[..., str]) -> OpenAI:
    return open_client(new_key("local"))


@pytest.fixture
def announce(openai: OpenAI) -> Announce:
    """`announce(bytes=…, …)` → the id of a pending upload of DATA."""

    def create(**fields: Any) -> str:
        asked: dict[str, Any] = {"filename": "load.csv", "mime_type": "text/csv", "purpose": "fine-tune"}
        return openai.uploads.create(**{**asked, "bytes": len(DATA), **fields}).id

    return create


@pytest.fixture
def send(openai: OpenAI) -> Send:
    """`send(upload_id, data)` → the id of the part."""
    return lambda upload_id, data: openai.uploads.parts.create(upload_id, data=data).id
