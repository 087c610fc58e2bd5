"""How much memory does the gateway need while a 2 GB CSV streams to storage, and how fast is it?

    python benchmarks/upload.py

The file is never on the client's disk: rows are made while they are sent, in a chunked body without a declared length,
to a live gateway that has only just started, then once more to one that has a backbone open. Beside it the least that
storing safely means: one process that hashes (sha256), writes and fsyncs the same bytes once. (The gateway writes
twice: to a private file while the body may still break off, then to storage.) The file is deleted afterwards.
"""

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from common import (
    Row,
    Service,
    needs_proc,
    peak_rss_bytes,
    private_bytes,
    reset_peak,
    rss_bytes,
    run,
    service,
    wait_for_forecaster,
)

BAR_MB = 300
MB = 1_000_000
BLOCK_ROWS = 25_000


def main() -> None:
    run("upload", __doc__, arguments, measure)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--megabytes", type=int, default=2_000)


def measure(options: argparse.Namespace) -> list[Row]:
    needs_proc()
    num_bytes = options.megabytes * MB
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < 4 * num_bytes:
        raise SystemExit(f"{4 * num_bytes / MB:,.0f} MB of free disk are needed, {free / MB:,.0f} MB are there.")
    baseline_seconds = stored_plainly(num_bytes)
    with service() as live:
        rows = streamed(live, num_bytes, baseline_seconds)
    with service(TEMPER_PRELOAD="temper-tiny") as live:
        wait_for_forecaster(live)
        return [*rows, growth_beside_a_forecaster(live, num_bytes)]


def growth_beside_a_forecaster(live: Service, num_bytes: int) -> Row:
    reset_peak(live.gateway_pid)
    before = rss_bytes(live.gateway_pid)
    send(live, num_bytes)
    peak = peak_rss_bytes(live.gateway_pid)
    return Row(
        question=f"{num_bytes / MB:,.0f} MB CSV while a backbone is open: growth of the gateway's resident memory",
        figure=(peak - before) / MB,
        unit="MB",
        ours=f"{peak / MB:.0f} MB at most",
        baseline=f"{before / MB:.0f} MB before the upload",
    )


def streamed(live: Service, num_bytes: int, baseline_seconds: float) -> list[Row]:
    reset_peak(live.gateway_pid)
    before, private_before = rss_bytes(live.gateway_pid), private_bytes(live.gateway_pid)
    begun = time.perf_counter()
    stored = send(live, num_bytes)
    seconds = time.perf_counter() - begun
    peak, private_after = peak_rss_bytes(live.gateway_pid), private_bytes(live.gateway_pid)
    assert stored >= num_bytes, f"{stored} of {num_bytes} bytes were stored"
    what = f"{num_bytes / MB:,.0f} MB CSV streamed to storage"
    return [
        Row(
            question=f"{what}: resident memory of the gateway at most",
            figure=peak / MB,
            unit="MB",
            bar=BAR_MB,
            ours=f"{peak / MB:.0f} MB",
            baseline=f"{before / MB:.0f} MB before the upload",
        ),
        Row(
            question=f"{what}: growth of the gateway's resident memory",
            figure=(peak - before) / MB,
            unit="MB",
            ours=f"private (not mapped from files): {private_after / MB:.0f} MB after",
            baseline=f"private: {private_before / MB:.0f} MB before",
        ),
        Row(
            question=f"{what}: speed ÷ one process that hashes, writes and fsyncs once",
            figure=baseline_seconds / seconds,
            unit="×",
            higher_is_better=True,
            ours=f"{stored / MB / seconds:.0f} MB/s",
            baseline=f"{stored / MB / baseline_seconds:.0f} MB/s",
        ),
    ]


def rows_of(num_bytes: int) -> Iterator[bytes]:
    """A long CSV of at least `num_bytes`, block by block: item_id, timestamp, target."""
    yield b"item_id,timestamp,target\n"
    sent, block = 0, 0
    body = "".join(f"item_%07d,{1_500_000_000 + 3600 * i},{i % 977 / 8}\n" for i in range(BLOCK_ROWS))
    while sent < num_bytes:
        data = body.replace("%07d", f"{block:07d}").encode()
        yield data
        sent, block = sent + len(data), block + 1


def stored_plainly(num_bytes: int) -> float:
    hasher = hashlib.sha256()
    with tempfile.NamedTemporaryFile() as out:
        begun = time.perf_counter()
        for data in rows_of(num_bytes):
            hasher.update(data)
            out.write(data)
        out.flush()
        os.fsync(out.fileno())
        return time.perf_counter() - begun


def send(live: Service, num_bytes: int) -> int:
    """Streams the file; its size as the service counted it. What a worker then does with it is not waited for."""
    with contextlib.closing(live.connect()) as connection:
        headers = {**live.headers, "content-type": "text/csv"}
        path = "/v1/files?filename=large.csv"
        connection.request("POST", path, body=rows_of(num_bytes), headers=headers, encode_chunked=True)
        answer = connection.getresponse()
        body = answer.read()
    assert answer.status == 200, f"{answer.status} {body[:500]!r}"
    created = json.loads(body)
    stored = Path(live.home / "storage" / "files" / created["id"] / "raw")
    assert stored.stat().st_size == created["bytes"]
    return int(created["bytes"])


if __name__ == "__main__":
    main()
