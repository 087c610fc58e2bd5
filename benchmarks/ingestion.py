"""How fast is an uploaded CSV understood, beside DuckDB's own typed, sorted copy of the same file to Parquet?

    python benchmarks/ingestion.py                 200 MB, long and wide
    python benchmarks/ingestion.py --megabytes 20

Ours (`tsfm.series.read.read_file`) is told nothing: it finds encoding, delimiter, layout, roles, time format,
frequency, gaps, duplicates and every bad cell, and writes the sorted canonical Parquet. DuckDB is told everything
(delimiter, names, types) and only copies: `COPY (SELECT … ORDER BY item_id, timestamp) TO … (FORMAT parquet)`, its own
defaults for threads, memory and compression. Each runs in a fresh process and times itself without its imports; they
take turns. Then the same file goes once through a live service: streamed to POST /v1/files, read by the worker, until
it is `processed`.
"""

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
from common import (
    MIB,
    Row,
    Service,
    median,
    peak_rss_bytes,
    reset_peak,
    rss_bytes,
    run,
    service,
    spread,
    wait_for_forecaster,
)

BAR = 0.5
NUM_ITEMS, NUM_COLUMNS = 500, 8
LONG_ROW_BYTES, WIDE_ROW_BYTES = 36.4, 80.4
"""As generated; only the number of rows is chosen by them."""
CHUNK_BYTES = 1 << 20


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(json.load(sys.stdin))))
        return
    run("ingestion", __doc__, arguments, measure)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--megabytes", type=float, default=200.0, help="size of each generated file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layouts", nargs="+", choices=["long", "wide"], default=["long", "wide"])
    parser.add_argument("--no-service", action="store_true", help="leave the live service out")


def measure(options: argparse.Namespace) -> list[Row]:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="temper-bench-") as name:
        folder = Path(name)
        for layout in options.layouts:
            path = folder / f"{layout}.csv"
            generate(path, layout, options.megabytes)
            typed = {"long": ["long"], "wide": ["wide", "wide_as_it_is"]}[layout]
            taken: dict[str, list[dict[str, Any]]] = {who: [] for who in ("ours", *typed)}
            for _ in range(options.rounds):
                for who, results in taken.items():
                    results.append(in_fresh_process(who, path, folder))
            rows += compared(layout, path, taken)
            if layout == "long" and not options.no_service:
                with service(TEMPER_PRELOAD="temper-tiny") as live:
                    rows += through_the_service(live, path, median([r["seconds"] for r in taken["long"]]))
            path.unlink()
    return rows


def generate(path: Path, layout: str, megabytes: float) -> None:
    """Hourly series. Long: item_id, timestamp, target in the order of time, as a log comes. Wide: a column each."""
    con = duckdb.connect()
    start = "TIMESTAMP '2015-01-01 00:00:00'"
    noise = "round(100 + 20 * sin(h * 0.2618 + {i}) + 5 * (hash(h * 7919 + {i}) % 1000) / 1000.0, 3)"
    if layout == "long":
        hours = max(int(megabytes * MIB / LONG_ROW_BYTES / NUM_ITEMS), 200)
        query = (
            f"SELECT format('item_{{:04d}}', i) AS item_id, {start} + to_hours(h) AS timestamp, "
            f"{noise.format(i='i')} AS target FROM range({hours}) a(h), range({NUM_ITEMS}) b(i) ORDER BY h, i"
        )
    else:
        hours = max(int(megabytes * MIB / WIDE_ROW_BYTES), 200)
        columns = ", ".join(f"{noise.format(i=i)} AS sensor_{i}" for i in range(NUM_COLUMNS))
        query = f"SELECT {start} + to_minutes(h) AS timestamp, {columns} FROM range({hours}) a(h) ORDER BY h"
    con.execute(f"COPY ({query}) TO '{path}' (FORMAT csv, HEADER, TIMESTAMPFORMAT '%Y-%m-%d %H:%M:%S')")
    con.close()


def in_fresh_process(who: str, path: Path, folder: Path) -> dict[str, Any]:
    request = {"who": who, "path": str(path), "folder": str(folder)}
    done = subprocess.run(
        [sys.executable, __file__, "--child"], input=json.dumps(request), capture_output=True, text=True, check=True
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def child(request: dict[str, str]) -> dict[str, Any]:
    """Runs in a process of its own; what is timed excludes imports."""
    path, folder = Path(request["path"]), Path(request["folder"])
    out = folder / f"{request['who']}.parquet"
    if request["who"] == "ours":
        from tsfm.series.options import Limits, ReadOptions
        from tsfm.series.read import read_file

        begun, cpu = time.perf_counter(), time.process_time()
        reading = read_file(path, filename=path.name, options=ReadOptions(), limits=Limits(), out=out, work_dir=folder)
        rows = reading["num_points"]
    else:
        begun, cpu = time.perf_counter(), time.process_time()
        con = duckdb.connect()
        con.execute(f"SET temp_directory = '{folder}/spill'")
        con.execute(f"COPY ({typed_query(request['who'], path)}) TO '{out}' (FORMAT parquet)")
        con.close()
    seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - cpu
    if request["who"] != "ours":
        rows = duckdb.execute(f"SELECT count(*) FROM '{out}'").fetchall()[0][0]
    out.unlink()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_rss_bytes": peak, "rows": rows}


def typed_query(who: str, path: Path) -> str:
    sensors = [f"sensor_{i}" for i in range(NUM_COLUMNS)]
    types = {"timestamp": "TIMESTAMP", **dict.fromkeys(sensors, "DOUBLE")}
    if who == "long":
        types = {"item_id": "VARCHAR", "timestamp": "TIMESTAMP", "target": "DOUBLE"}
    columns = ", ".join(f"'{name}': '{kind}'" for name, kind in types.items())
    source = f"read_csv('{path}', auto_detect=false, header=true, delim=',', columns={{{columns}}})"
    if who == "wide":
        source = f"(SELECT * FROM {source} UNPIVOT INCLUDE NULLS (target FOR item_id IN ({', '.join(sensors)})))"
    order = "timestamp" if who == "wide_as_it_is" else "item_id, timestamp"
    return f"SELECT * FROM {source} ORDER BY {order}"


def compared(layout: str, path: Path, taken: dict[str, list[dict[str, Any]]]) -> list[Row]:
    ours = [r["seconds"] for r in taken["ours"]]
    rows = []
    for who, results in taken.items():
        if who == "ours":
            continue
        theirs = [r["seconds"] for r in results]
        ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
        unsorted = who == "wide_as_it_is"
        what = "typed copy left wide, sorted by time alone" if unsorted else "typed sorted copy"
        rows.append(
            Row(
                question=f"{layout} CSV of {path.stat().st_size / MIB:.0f} MB: speed ÷ DuckDB's {what}",
                figure=median(ratios),
                unit="×",
                bar=None if unsorted else BAR,
                higher_is_better=True,
                ours=f"{median(ours):.2f} s",
                baseline=f"{median(theirs):.2f} s",
                details={"spread": spread(ratios), "ours": taken["ours"], "baseline": results},
            )
        )
    return rows


def through_the_service(live: Service, path: Path, baseline_seconds: float) -> list[Row]:
    """Upload to `processed`, and what it does to the gateway's memory."""
    wait_for_forecaster(live)
    warm(live)
    reset_peak(live.gateway_pid)
    before = rss_bytes(live.gateway_pid)
    begun = time.perf_counter()
    file_id, status = post(live, path)
    uploaded = time.perf_counter() - begun
    while status == "processing":
        time.sleep(0.02)
        status = live.get(f"/v1/files/{file_id}")["status"]
    seconds = time.perf_counter() - begun
    peak = peak_rss_bytes(live.gateway_pid)
    assert status == "processed", status
    megabytes = path.stat().st_size / MIB
    return [
        Row(
            question=f"the same through a live service, until `processed`: speed ÷ DuckDB's copy ({megabytes:.0f} MB)",
            figure=baseline_seconds / seconds,
            unit="×",
            higher_is_better=True,
            ours=f"{seconds:.2f} s, {uploaded:.2f} s of it until the POST is answered",
            baseline=f"{baseline_seconds:.2f} s",
        ),
        Row(
            question="growth of the gateway's memory meanwhile",
            figure=(peak - before) / MIB,
            unit="MB",
            ours=f"{peak / MIB:.0f} MB at most",
            baseline=f"{before / MIB:.0f} MB before",
        ),
    ]


def warm(live: Service) -> None:
    """A small file first, so that what every upload imports is there."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.csv"
        path.write_text("timestamp,target\n" + "".join(f"2024-01-{day:02d},{day}\n" for day in range(1, 31)))
        post(live, path)


def post(live: Service, path: Path) -> tuple[str, str]:
    """(id, status) of a file streamed to POST /v1/files with the standard library."""
    with contextlib.closing(live.connect()) as connection:
        size = path.stat().st_size
        headers = {**live.headers, "content-type": "text/csv", "content-length": str(size)}
        connection.request("POST", f"/v1/files?filename={path.name}", body=chunks(path), headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == 200, f"{answer.status} {body[:500]!r}"
        created = json.loads(body)
        return created["id"], created["status"]


def chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as source:
        while chunk := source.read(CHUNK_BYTES):
            yield chunk


if __name__ == "__main__":
    main()
