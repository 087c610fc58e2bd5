"""What does `/v1/anomalies` cost beside the model's own forward passes, and how much memory does it hold?

    python benchmarks/scoring.py

One series of 100,000 hourly points through a live service, scored by temper-tiny in blocks of 24 steps; the raw model
is the same number of forward passes of 64 windows of 512 steps each, in this process, by turns. Both in CPU time and
by the clock, one torch thread.
"""

import argparse
import json
import time

import numpy as np
import torch
from common import MIB, Row, Service, cpu_seconds, median, needs_proc, peak_rss_bytes, rss_bytes, run, service

from tsfm.backbones.weights import pretrained
from tsfm.catalog import backbone

POINTS, BLOCK, CONTEXT, BATCH = 100_000, 24, 512, 64
BAR = 1.5


def main() -> None:
    run("scoring", __doc__, arguments, measure)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--points", type=int, default=POINTS)
    parser.add_argument("--rounds", type=int, default=3)


def measure(options: argparse.Namespace) -> list[Row]:
    needs_proc()
    torch.set_num_threads(1)
    model = pretrained(backbone("temper-tiny"), weights_dir=None).fresh().eval()
    hours = np.arange(options.points)
    values = 50 + 10 * np.sin(2 * np.pi * hours / 24) + np.random.default_rng(7).standard_normal(options.points)
    series = [{"start": "2010-01-01T00:00:00", "freq": "h", "target": np.round(values, 4).tolist()}]
    body = json.dumps({"model": "temper-tiny", "series": series}).encode()
    num_passes = -(-((options.points - 48) // BLOCK) // BATCH)
    context = torch.randn(BATCH, CONTEXT)
    ours, theirs, cpu, raw_cpu = list[float](), list[float](), list[float](), list[float]()
    with service(
        TEMPER_FORECAST_THREADS="1", TEMPER_PRELOAD="temper-tiny", TEMPER_MAX_BODY_BYTES=str(64 * MIB)
    ) as live:
        _ask(live, body)  # opens what is opened once
        before = rss_bytes(live.gateway_pid)
        for _ in range(options.rounds):
            began, cpu_before = time.perf_counter(), cpu_seconds(live.gateway_pid)
            answer = _ask(live, body)
            ours.append(time.perf_counter() - began)
            cpu.append(cpu_seconds(live.gateway_pid) - cpu_before)
            began, cpu_began = time.perf_counter(), time.process_time()
            with torch.inference_mode():
                for _ in range(num_passes):
                    model.predict(context, BLOCK)
            theirs.append(time.perf_counter() - began)
            raw_cpu.append(time.process_time() - cpu_began)
        peak = peak_rss_bytes(live.gateway_pid)
    scored = len(json.loads(answer)["series"][0]["score"])
    assert scored > 0.99 * options.points - CONTEXT, scored
    return [
        *(
            Row(
                question=question,
                figure=median([a / b for a, b in zip(mine, raw, strict=True)]),
                unit="×",
                bar=BAR,
                ours=f"{median(mine):.2f} s",
                baseline=f"{median(raw):.2f} s",
            )
            for question, mine, raw in (
                (f"`/v1/anomalies` on {options.points:,} points ÷ raw forward passes, CPU time", cpu, raw_cpu),
                ("the same by the clock", ours, theirs),
            )
        ),
        Row(
            question="most resident memory of the gateway over what it held before the first",
            figure=(peak - before) / MIB,
            unit="MB",
            ours=f"{peak / MIB:.0f} MB",
            baseline=f"{before / MIB:.0f} MB",
        ),
    ]


def _ask(live: Service, body: bytes) -> bytes:
    connection = live.connect()
    connection.request("POST", "/v1/anomalies", body=body, headers={**live.headers, "content-type": "application/json"})
    answer = connection.getresponse()
    data: bytes = answer.read()
    connection.close()
    if answer.status != 200:
        raise RuntimeError(f"{answer.status} {data[:300]!r}")
    return data


if __name__ == "__main__":
    main()
