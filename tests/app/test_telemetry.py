"""The edge: silence, invented methods, errors nobody foresaw."""

import errno
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.exc import DataError

from app.db import SessionDep
from app.main import create_app
from app.queue import FakeQueue
from app.settings import Settings
from tests.backend import SCALE_OUT
from tests.server import serve

Connect = Callable[[str | None], httpx.Client]


def talk(url: str, request: bytes) -> bytes:
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(request)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return answer


def test_a_body_that_falls_silent_is_given_up(settings: Settings, queue: FakeQueue) -> None:
    impatient = settings.model_copy(update={"body_idle_seconds": 0.2})
    with serve(create_app(impatient, queue=queue)) as url:
        key = (settings.home / "api_key").read_text().strip()
        head = f"POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: 100\r\n\r\n1,2"
        answer = talk(url, head.encode())
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"code":"body_timeout"' in answer
    assert list(settings.tmp_dir.iterdir()) == []


def test_invented_methods_make_no_new_label(connect: Connect) -> None:
    anyone = connect(None)
    assert anyone.request("PROPFIND", "/healthz").status_code == 405
    assert "PROPFIND" not in anyone.get("/metrics").text


def test_an_unforeseen_error_says_nothing_of_itself(app: FastAPI, connect: Connect) -> None:
    @app.get("/test/broken")
    def broken() -> None:
        raise RuntimeError("password=hunter2")

    answer = connect(None).get("/test/broken")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert "hunter2" not in answer.text
    assert answer.headers["x-request-id"]


LOST_CONNECTION = "SELECT pg_terminate_backend(pg_backend_pid())" if SCALE_OUT else "SELECT * FROM no_such_table"
"""SQLite reports a damaged file and a lost one alike, as an error of operation."""


def test_a_database_that_is_away_is_503(app: FastAPI, connect: Connect) -> None:
    @app.get("/test/query")
    def query(session: SessionDep) -> None:
        session.execute(text(LOST_CONNECTION))

    answer = connect(None).get("/test/query")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert answer.headers["retry-after"] == "1"
    assert LOST_CONNECTION not in answer.text


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/secret/path"), 507, "storage_full"),
        (OSError(errno.EACCES, "Permission denied", "/secret/path"), 500, "internal_error"),
        (DataError("INSERT secret", {}, ValueError("text fields cannot contain NUL")), 422, "invalid_request"),
    ],
)
def test_what_disk_and_database_refuse(
    app: FastAPI, connect: Connect, error: Exception, status: int, code: str
) -> None:
    @app.get("/test/refused")
    def refused() -> None:
        raise error

    answer = connect(None).get("/test/refused")
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert "secret" not in answer.text


@pytest.mark.parametrize("content_length", ["-1", "abc", "1e9"])
def test_a_nonsense_length_is_refused(server: str, content_length: str) -> None:
    head = f"POST /v1/files HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {content_length}\r\n\r\n"
    assert talk(server, head.encode()).startswith(b"HTTP/1.1 400")
