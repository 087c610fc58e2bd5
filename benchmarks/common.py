"""What every benchmark shares: facts of the machine, results as JSON lines, one table, a live service, process meters.

A benchmark is one runnable file that answers one question. It measures ours and a baseline by turns in one run, so that
a busy machine hurts both alike, and answers `Row`s: figures that can stand beside their bar.
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
READY_SECONDS = 120.0
MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure of a benchmark. `bar` is a limit in the unit of `figure`; None where the project names none."""

    question: str
    figure: float
    unit: str
    """"×" for a ratio, else "ms", "s", "MB"."""
    bar: float | None = None
    higher_is_better: bool = False
    ours: str = ""
    baseline: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        if self.bar is None:
            return None
        return self.figure >= self.bar if self.higher_is_better else self.figure <= self.bar


Measure = Callable[[argparse.Namespace], list[Row]]


def run(
    name: str, description: str | None, arguments: Callable[[argparse.ArgumentParser], None], measure: Measure
) -> None:
    """The command line of a benchmark: measure, append to `results/NAME.jsonl`, print the table."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments(parser)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON lines")
    options = parser.parse_args()
    before = facts()
    started = time.monotonic()
    rows = measure(options)
    seconds = round(time.monotonic() - started, 1)
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items() if k != "results"}
    line = {
        "benchmark": name,
        "machine": before,
        "settings": settings,
        "seconds": seconds,
        "rows": [as_json(r) for r in rows],
    }
    append(options.results / f"{name}.jsonl", line)
    print(table(rows))


def as_json(row: Row) -> dict[str, Any]:
    return {**asdict(row), "met": row.met}


def append(path: Path, line: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as out:
        out.write(json.dumps(line) + "\n")


def table(rows: Sequence[Row | Mapping[str, Any]]) -> str:
    """Markdown, as it stands in docs/benchmarks.md."""
    lines = ["| question | ours | baseline | figure | bar | met |", "|---|---|---|---|---|---|"]
    for row in rows:
        r = as_json(row) if isinstance(row, Row) else row
        sign = "≥" if r["higher_is_better"] else "≤"
        bar = "" if r["bar"] is None else f"{sign} {r['bar']:g} {r['unit']}"
        met = {None: "", True: "yes", False: "**no**"}[r["met"]]
        figure = f"**{_number(r['figure'])} {r['unit']}**"
        lines.append(f"| {' | '.join([r['question'], r['ours'], r['baseline'], figure, bar, met])} |")
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def facts() -> dict[str, Any]:
    """What a reader needs to know of the machine; nothing that names it."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "git_commit": _git("rev-parse", "--short", "HEAD"),
        "git_changes": len(_git("status", "--porcelain", "--untracked-files=no").splitlines()),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("torch", "numpy", "duckdb", "uvicorn", "fastapi")},
    }


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in path.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def median(values: Sequence[float]) -> float:
    return float(statistics.median(values))


def spread(values: Sequence[float]) -> str:
    """`median (lowest to highest)`."""
    return f"{_number(median(values))} ({_number(min(values))} to {_number(max(values))})"


# A live service -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A running `temper serve`."""

    host: str
    port: int
    key: str
    home: Path
    gateway_pid: int

    def connect(self, timeout_seconds: float = 600.0) -> HTTPConnection:
        """A kept-alive connection of the standard library: the client that costs least."""
        return HTTPConnection(self.host, self.port, timeout=timeout_seconds)

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    def get(self, path: str) -> Any:
        connection = self.connect()
        try:
            connection.request("GET", path, headers=self.headers)
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 200, f"{path}: {answer.status} {body[:500]!r}"
            return json.loads(body)
        finally:
            connection.close()


@contextlib.contextmanager
def service(**variables: str) -> Iterator[Service]:
    """`temper serve` in a fresh home, ready on entry, stopped and its home deleted on exit."""
    needs_proc()
    with tempfile.TemporaryDirectory(prefix="tb", ignore_cleanup_errors=True) as folder:
        home, port = Path(folder) / "home", free_port()
        log = Path(folder) / "serve.log"
        with (
            log.open("wb") as output,
            start_serve([temper()], home=home, port=port, output=output, variables=variables) as process,
        ):
            wait_until_ready(port, process, log_path=log)
            yield Service(
                host="127.0.0.1",
                port=port,
                key=(home / "api_key").read_text().strip(),
                home=home,
                gateway_pid=one_descendant(process.pid, "app.cli.gateway"),
            )


@contextlib.contextmanager
def start_serve(
    command: Sequence[str], *, home: Path, port: int, output: Any, variables: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """`COMMAND serve` as a child, stopped by the signal a user would send."""
    environment = plain_environment() | dict(variables or {})
    words = [*command, "serve", "--home", str(home), "--port", str(port)]
    process = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=ROOT)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def plain_environment() -> dict[str, str]:
    """Ours without what changes the thing measured: settings of Temper, and Python told to keep no compiled files."""
    return {k: v for k, v in os.environ.items() if not k.startswith("TEMPER_") and k != "PYTHONDONTWRITEBYTECODE"}


def wait_until_ready(port: int, process: "subprocess.Popen[bytes]", *, log_path: Path | None = None) -> None:
    """Until /readyz answers 200; looks every 5 ms."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            said = log_path.read_text(errors="replace")[-2000:] if log_path else ""
            raise RuntimeError(f"temper serve ended with {process.returncode}. {said}")
        connection = HTTPConnection("127.0.0.1", port, timeout=2.0)
        try:
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass  # nobody listens yet
        finally:
            connection.close()
        time.sleep(0.005)
    raise RuntimeError(f"temper serve was not ready after {READY_SECONDS:.0f} s")


def wait_for_forecaster(live: Service) -> None:
    """Until the backbone that the service was told to preload is open and has run once."""
    log = live.home / "logs" / "gateway.log"
    deadline = time.monotonic() + READY_SECONDS
    while "forecaster_opened" not in log.read_text(errors="replace"):
        assert time.monotonic() < deadline, "the gateway did not open its default backbone"
        time.sleep(0.1)
    time.sleep(1)


def temper() -> str:
    """The console command of this environment."""
    path = Path(sys.executable).with_name("temper")
    assert path.exists(), "the command `temper` is not installed beside this interpreter: run ./run once"
    return str(path)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# Meters of other processes (Linux) ------------------------------------------------------------------------------------


def needs_proc() -> None:
    if not Path("/proc/self/stat").exists():
        raise SystemExit("This benchmark reads CPU time and memory of other processes from /proc, so it needs Linux.")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, all its threads, without its children."""
    return _cpu_seconds(Path(f"/proc/{pid}/stat"))


def thread_cpu_seconds(pid: int) -> float:
    """The same of its main thread alone: in a gateway that is the event loop."""
    return _cpu_seconds(Path(f"/proc/{pid}/task/{pid}/stat"))


def _cpu_seconds(path: Path) -> float:
    fields = path.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_rss_bytes(pid: int) -> int:
    """The most memory a process has held (VmHWM) since its start or `reset_peak`."""
    return _status(pid, "VmHWM")


def rss_bytes(pid: int) -> int:
    return _status(pid, "VmRSS")


def private_bytes(pid: int) -> int:
    """What a process holds for itself: resident memory that is not mapped from a file."""
    return _status(pid, "RssAnon")


def reset_peak(pid: int) -> None:
    """Lets VmHWM begin anew from what is held now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/{pid}/status has no {name}")


def one_descendant(pid: int, word: str) -> int:
    """The process below `pid` whose command line holds `word`."""
    found = [child for child in descendants(pid) if word in _command_line(child)]
    assert len(found) == 1, f"{len(found)} processes below {pid} name {word}"
    return found[0]


def descendants(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it ended while we looked
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, waiting = list[int](), [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:  # it ended while we looked
        return ""
