"""`temper serve`: broker, gateway and workers under one roof, in one home; one Ctrl-C stops them all."""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from pydantic import ValidationError

from app import allocator
from app.broker import Broker, BrokerUnavailable, socket_path, start_broker
from app.cli.client import CommandError
from app.cli.options import ADDRESS_FILE, KEY_FILE
from app.cli.supervisor import POLL_SECONDS, Child, Supervisor
from app.settings import Settings

READY_SECONDS = 120.0
MAX_EARLY_FAILURES = 2
WORKERS = {"worker": "train", "reader": "default,measure"}
"""Child → its queues: a large file is read, and a dry run measured, while a job runs, not after it."""
BACKLOG = 2048
BROKER_PAUSE_SECONDS = 5.0
STOP_MARGIN_SECONDS = 5.0
"""Beyond the worker's own grace time, before what is left is killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """What a caller may know of a service that is up."""

    url: str
    home: Path
    key_file: Path | None
    """None where TEMPER_API_KEY is the key."""


@contextlib.contextmanager
def service(*, home: Path, host: str, port: int, say: Callable[[str], None]) -> Iterator[tuple[Running, Supervisor]]:
    """The whole service, ready on entry and gone on exit. `port` 0 takes a free one. A signal ends `Supervisor.run`."""
    settings = _settings(home, host, port)
    settings.make_directories()
    settings.home.chmod(0o700)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_only_one(settings.home))
        listener = stack.enter_context(_listener(host, port))
        url = _url(host, listener.getsockname()[1])
        supervisor = Supervisor(say=say)
        supervisor.listen()
        _embedded_broker(settings, supervisor, stack, say)
        stack.callback(supervisor.stop, grace_seconds=settings.stop_grace_seconds + STOP_MARGIN_SECONDS)
        environment = _environment(settings, host, listener.getsockname()[1])
        logs = settings.home / "logs"
        gateway = Child(
            name="gateway",
            arguments=["-m", "app.cli.gateway", str(listener.fileno())],
            log=logs / "gateway.log",
            environment=environment,
            descriptors=(listener.fileno(),),
        )
        supervisor.add(gateway)
        _wait_until_ready(url, gateway, supervisor)
        # After the gateway, which brings the schema up to date when it starts.
        for name, queue in WORKERS.items():
            arguments = ["-m", "worker", "--queues", queue]
            supervisor.add(Child(name=name, arguments=arguments, log=logs / f"{name}.log", environment=environment))
        address = settings.home / ADDRESS_FILE
        address.write_text(url + "\n", encoding="utf-8")
        stack.callback(address.unlink, missing_ok=True)
        key_file = None if settings.api_key else settings.home / KEY_FILE
        yield Running(url=url, home=settings.home, key_file=key_file), supervisor


def _settings(home: Path, host: str, port: int) -> Settings:
    try:
        return Settings(home=home, host=host, port=port)
    except ValidationError as error:
        wrong = "; ".join(f"TEMPER_{str(item['loc'][0]).upper()}: {item['msg']}" for item in error.errors())
        raise CommandError(
            f"A setting is wrong: {wrong}.", mend="docs/operations.md explains every setting."
        ) from error
    except BrokerUnavailable as error:
        raise CommandError(str(error)) from error


def _environment(settings: Settings, host: str, port: int) -> dict[str, str]:
    """What the children read their settings from."""
    return {
        # OpenMP's threads wait by spinning, and the forecaster's would take the core of the run (worker/supervise.py).
        "OMP_WAIT_POLICY": "PASSIVE",
        **allocator.SERVICE,
        **os.environ,
        "TEMPER_HOME": str(settings.home),
        "TEMPER_HOST": host,
        "TEMPER_PORT": str(port),
        # The folder `serve` was started in may hold a package of one of our names; it must not shadow ours.
        "PYTHONSAFEPATH": "1",
    }


@contextlib.contextmanager
def _only_one(home: Path) -> Iterator[None]:
    """Holds the home's lock: two services in one home would each believe the broker to be theirs."""
    try:
        lock = (home / "serve.lock").open("a+")
    except OSError as error:
        raise CommandError(f"{home} is not writable ({error.strerror}).", mend="Choose another --home.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise CommandError(
                f"Another `temper serve` (process {lock.read().strip() or '?'}) runs in {home}.",
                mend="Stop it, or start this one in a home of its own with --home DIR --port PORT.",
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise CommandError(
            f"{host}:{port} cannot be listened on ({error.strerror or error}).",
            mend="Choose another port with --port; 0 takes a free one.",
        ) from error


def _url(host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"


def _embedded_broker(
    settings: Settings, supervisor: Supervisor, stack: contextlib.ExitStack, say: Callable[[str], None]
) -> None:
    """Starts this home's own broker, unless TEMPER_BROKER_URL names another, and starts it again if it dies. The
    service goes on without it meanwhile: its messages are only hints."""
    if settings.broker_url != f"redis+socket://{socket_path(settings.home)}":
        return
    running: list[Broker] = []

    def start() -> None:
        try:
            running[:] = [start_broker(settings.home)]
        except BrokerUnavailable as error:
            raise CommandError(str(error)) from error

    retry_at = 0.0

    def tend() -> None:
        nonlocal retry_at
        if time.monotonic() < retry_at or running[0].is_up():
            return
        try:
            start()
        except CommandError as error:
            say(f"{error} Trying again in {BROKER_PAUSE_SECONDS:g} s.")
            retry_at = time.monotonic() + BROKER_PAUSE_SECONDS

    start()
    stack.callback(lambda: running[0].close())
    supervisor.also.append(tend)


def _wait_until_ready(url: str, gateway: Child, supervisor: Supervisor) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and not supervisor.stopping:
        supervisor.tend()
        if gateway.num_failures > MAX_EARLY_FAILURES:
            raise CommandError(f"The gateway does not start. The end of its log ({gateway.log}):\n{gateway.tail()}")
        if _ready(url):
            return
        time.sleep(POLL_SECONDS)
    if supervisor.stopping:
        raise KeyboardInterrupt
    raise CommandError(f"The gateway is not ready after {READY_SECONDS:.0f} s. Its log: {gateway.log}")


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=2.0).status_code == 200
    except httpx.TransportError:
        return False
