"""What does serving add to a forecast: latency alone, and CPU time when the service is saturated?

    python benchmarks/forecast.py

A live `temper serve` answers POST /v1/forecast for temper-tiny: context 512, horizon 96, three quantiles, values
inline.
*Latency*: one connection, one request at a time, taking turns with the raw forward pass of the same backbone on the
same numbers in this process, with as many threads as the gateway uses; the figure is the difference of the medians.
*Saturation*: clients in a process of their own keep many requests waiting; the figure is CPU seconds of the gateway's
process per series, over CPU seconds per series of the raw forward pass in its cheapest batch. Load and raw passes take
turns, round by round. The client costs the gateway nothing: bodies are made before, answers are not read as JSON.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection
from typing import Any

import numpy as np
import torch
from common import Row, Service, cpu_seconds, median, run, service, spread, thread_cpu_seconds, wait_for_forecaster

from tsfm import catalog
from tsfm.backbones.base import Backbone
from tsfm.backbones.weights import load_backbone

CONTEXT, HORIZON = 512, 96
LEVELS = [0.1, 0.5, 0.9]
LATENCY_BAR_MS = 3.0
WARM_UP = 20
CPU_BARS = {1: 2.0, 32: 1.4}
BATCHES = (16, 32, 64, 128)


def main() -> None:
    if sys.argv[1:2] == ["--client"]:
        client(json.load(sys.stdin))
        return
    run("forecast", __doc__, arguments, measure)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--requests", type=int, default=400, help="at concurrency 1")
    parser.add_argument("--rounds", type=int, default=5, help="of saturation")
    parser.add_argument("--seconds", type=float, default=6.0, help="of load in each round")
    parser.add_argument("--concurrency", type=int, nargs=2, default=[64, 8], help="for 1 and for 32 series a request")


def measure(options: argparse.Namespace) -> list[Row]:
    torch.set_num_threads(1)
    model = load_backbone(catalog.backbone("temper-tiny"))
    with service(TEMPER_FORECAST_THREADS="1", TEMPER_PRELOAD="temper-tiny") as live:
        wait_for_forecaster(live)
        rows = latency(live, model, options.requests)
        for num_series, concurrency in zip(CPU_BARS, options.concurrency, strict=True):
            rows.append(saturation(live, model, num_series, concurrency, options))
    return rows


def histories(num_series: int) -> np.ndarray:
    """[S, 512] daily cycles with noise."""
    rng = np.random.default_rng(7)
    hours = np.arange(CONTEXT)
    return (
        50
        + 10 * np.sin(2 * np.pi * hours / 24 + rng.random((num_series, 1)) * 6)
        + rng.standard_normal((num_series, CONTEXT))
    )


def body_of(values: np.ndarray) -> bytes:
    series = [
        {"item_id": f"s{i}", "start": "2026-01-01T00:00:00", "freq": "h", "target": [round(v, 4) for v in row]}
        for i, row in enumerate(values.tolist())
    ]
    asked = {"model": "temper-tiny", "prediction_length": HORIZON, "quantile_levels": LEVELS, "series": series}
    return json.dumps(asked).encode()


def scaled(values: np.ndarray) -> torch.Tensor:
    """What the backbone sees of them."""
    mean, deviation = values.mean(1, keepdims=True), values.std(1, keepdims=True)
    return torch.from_numpy(((values - mean) / deviation).astype(np.float32))


def ask(connection: HTTPConnection, body: bytes, headers: dict[str, str]) -> bytes:
    connection.request("POST", "/v1/forecast", body=body, headers=headers)
    answer = connection.getresponse()
    data = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{answer.status} {data[:300]!r}")
    return data


def latency(live: Service, model: Backbone, num_requests: int) -> list[Row]:
    values = histories(1)
    body, context = body_of(values), scaled(values)
    headers = {**live.headers, "content-type": "application/json"}
    connection = live.connect()
    asked, raw, inside = list[float](), list[float](), list[dict[str, float]]()
    raw_cpu = 0.0
    for i in range(num_requests + WARM_UP):
        if i == WARM_UP:
            asked, raw, inside, raw_cpu = [], [], [], 0.0
            cpu_before = cpu_seconds(live.gateway_pid)
        begun = time.perf_counter()
        data = ask(connection, body, headers)
        middle, cpu = time.perf_counter(), time.process_time()
        with torch.inference_mode():
            model.predict(context, HORIZON)
        ended = time.perf_counter()
        raw_cpu += time.process_time() - cpu
        asked.append(1e3 * (middle - begun))
        raw.append(1e3 * (ended - middle))
        inside.append(json.loads(data)["timing_ms"])
    cpu_ms = 1e3 * (cpu_seconds(live.gateway_pid) - cpu_before) / num_requests
    connection.close()
    assert len(json.loads(data)["forecasts"][0]["mean"]) == HORIZON
    timing = {name: median([t[name] for t in inside]) for name in ("queue", "compute")}

    def least_disturbed(values: list[float]) -> float:
        return float(np.quantile(values, 0.05))

    return [
        Row(
            question="`/forecast` alone, 1 series: p50 − raw forward pass",
            figure=median(asked) - median(raw),
            unit="ms",
            bar=LATENCY_BAR_MS,
            ours=f"p50 {median(asked):.2f} ms, p99 {np.quantile(asked, 0.99):.1f} ms",
            baseline=f"p50 {median(raw):.2f} ms, p99 {np.quantile(raw, 0.99):.1f} ms",
            details={"timing_ms": timing, "requests": num_requests},
        ),
        Row(
            question="the same by the 5 % quantile: what a busy machine disturbs least",
            figure=least_disturbed(asked) - least_disturbed(raw),
            unit="ms",
            ours=f"{least_disturbed(asked):.2f} ms",
            baseline=f"{least_disturbed(raw):.2f} ms",
        ),
        Row(
            question="the same in CPU time of the gateway's process",
            figure=cpu_ms - 1e3 * raw_cpu / num_requests,
            unit="ms",
            ours=f"{cpu_ms:.2f} ms",
            baseline=f"{1e3 * raw_cpu / num_requests:.2f} ms",
        ),
    ]


def saturation(live: Service, model: Backbone, num_series: int, concurrency: int, options: argparse.Namespace) -> Row:
    ratios, ours, theirs, rates, loop = [], [], [], [], []
    for _ in range(options.rounds):
        served, cpu, on_loop = under_load(live, num_series, concurrency, options.seconds)
        loop.append(1e3 * on_loop / served)
        ours.append(1e3 * cpu / served)
        rates.append(served / options.seconds)
        theirs.append(1e3 * raw_cpu_seconds(model, options.seconds / 4))
        ratios.append(ours[-1] / theirs[-1])
    return Row(
        question=f"`/forecast` saturated, {num_series} series a request: CPU per series ÷ raw batched forward pass",
        figure=median(ratios),
        unit="×",
        bar=CPU_BARS[num_series],
        ours=f"{median(ours):.2f} ms ({median(loop):.2f} on the event loop), {median(rates):.0f} series/s",
        baseline=f"{median(theirs):.2f} ms",
        details={"spread": spread(ratios), "concurrency": concurrency, "ours": ours, "baseline": theirs},
    )


def under_load(live: Service, num_series: int, concurrency: int, seconds: float) -> tuple[float, float, float]:
    """(series served, CPU seconds of the gateway, those of its event loop) while another process keeps it busy."""
    request = {
        "host": live.host,
        "port": live.port,
        "headers": {**live.headers, "content-type": "application/json"},
        "num_series": num_series,
        "concurrency": concurrency,
        "seconds": seconds,
    }
    command = [sys.executable, __file__, "--client"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(request))
        process.stdin.close()
        assert process.stdout.readline() == "warm\n"
        before, loop_before = cpu_seconds(live.gateway_pid), thread_cpu_seconds(live.gateway_pid)
        answer: dict[str, Any] = json.loads(process.stdout.readline())
        after, loop_after = cpu_seconds(live.gateway_pid), thread_cpu_seconds(live.gateway_pid)
    assert process.returncode == 0
    return answer["series"], after - before, loop_after - loop_before


def client(request: dict[str, Any]) -> None:
    """The load: connections that ask again at once. Says "warm" when the measured time begins, then how much it got.

    Requests that are under way at either end count as half.
    """
    body = body_of(histories(request["num_series"]))
    stop, counting = threading.Event(), threading.Event()
    done = [0.0] * request["concurrency"]

    def keep_asking(mine: int) -> None:
        connection = HTTPConnection(request["host"], request["port"], timeout=120)
        while not stop.is_set():
            counted = counting.is_set()
            ask(connection, body, request["headers"])
            if counting.is_set() and not stop.is_set():
                done[mine] += 1.0 if counted else 0.5
            elif counted:
                done[mine] += 0.5
        connection.close()

    threads = [threading.Thread(target=keep_asking, args=(i,)) for i in range(request["concurrency"])]
    for thread in threads:
        thread.start()
    time.sleep(min(1.0, request["seconds"]))
    counting.set()
    print("warm", flush=True)
    time.sleep(request["seconds"])
    served = sum(done)
    stop.set()
    print(json.dumps({"series": served * request["num_series"]}), flush=True)
    for thread in threads:
        thread.join()


def raw_cpu_seconds(model: Backbone, seconds: float) -> float:
    """CPU seconds per series of the forward pass in its cheapest batch."""
    best = float("inf")
    for size in BATCHES:
        context = scaled(histories(size))
        with torch.inference_mode():
            model.predict(context, HORIZON)
            deadline, passes, begun = time.monotonic() + seconds / len(BATCHES), 0, time.process_time()
            while passes < 2 or time.monotonic() < deadline:
                model.predict(context, HORIZON)
                passes += 1
        best = min(best, (time.process_time() - begun) / passes / size)
    return best


if __name__ == "__main__":
    main()
