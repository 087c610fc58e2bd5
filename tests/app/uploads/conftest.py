"""Uploads of a small file in parts."""

from collections.abc import Callable
from typing import Any

import pytest
from openai import OpenAI

from tests.app.files.conftest import hourly_csv

DATA = hourly_csv()
Announce = Callable[..., str]
Send = Callable[[str, bytes], str]


def thirds(data: bytes = DATA) -> list[bytes]:
    """Cut without regard to lines."""
    size = len(data) // 3 + 1
    return [data[start : start + size] for start in range(0, len(data), size)]


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
