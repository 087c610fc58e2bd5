"""The embedded broker: started once, reused, stopped with its launcher, and kept over a kill."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from app import broker


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir()
    return path


@pytest.fixture
def started(home: Path) -> Iterator[broker.Broker]:
    server = broker.start_broker(home)
    yield server
    server.close()


def client_of(server: broker.Broker) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(server.socket_path))


def test_a_started_broker_answers_and_its_socket_is_private(started: broker.Broker) -> None:
    assert broker.answers(started.socket_path)
    assert started.socket_path.stat().st_mode & 0o077 == 0
    assert started.url == f"redis+socket://{started.socket_path}"


def test_a_second_start_reuses_the_first_and_leaves_it_running(home: Path, started: broker.Broker) -> None:
    second = broker.start_broker(home)
    assert second.process is None
    second.close()
    assert broker.answers(started.socket_path)


def test_a_stale_socket_is_replaced_and_the_queue_survives_a_kill(home: Path, started: broker.Broker) -> None:
    assert started.process is not None
    with client_of(started) as client:
        client.rpush("train", "ftjob-1")
        time.sleep(1.1)  # appendfsync everysec
    started.process.kill()
    started.process.wait()
    assert started.socket_path.exists()
    again = broker.start_broker(home)
    try:
        with client_of(again) as client:
            assert client.lrange("train", 0, -1) == [b"ftjob-1"]
    finally:
        again.close()


def test_a_long_home_gets_a_short_private_socket_path(tmp_path: Path) -> None:
    home = tmp_path / ("deep" * 30)
    home.mkdir(parents=True)
    server = broker.start_broker(home)
    try:
        assert len(os.fsencode(server.socket_path)) <= broker.MAX_SOCKET_PATH_BYTES
        assert server.socket_path.parent.stat().st_mode & 0o077 == 0
        assert broker.answers(server.socket_path)
    finally:
        server.close()
        server.socket_path.parent.rmdir()


@pytest.mark.skipif(sys.platform != "linux", reason="the death signal of a parent exists on Linux only")
def test_the_server_goes_with_a_killed_launcher(home: Path) -> None:
    code = f"import time; from pathlib import Path; from app.broker import start_broker; \
print(start_broker(Path({str(home)!r})).url, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as launcher:
        assert launcher.stdout is not None
        assert launcher.stdout.readline()
        launcher.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while broker.answers(broker.socket_path(home)):
        assert time.monotonic() < deadline, "the server outlived its launcher"
        time.sleep(0.05)


def test_without_any_server_program_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(broker.BrokerUnavailable, match="TEMPER_BROKER_URL"):
        broker.server_program()
