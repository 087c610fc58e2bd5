"""What is gained where a process keeps the memory it frees (`app.allocator`)?

    python benchmarks/allocator.py

The same work in fresh processes, by turns with and without the variables: training steps of `full` as a run does them
(`RUN`), and forecasts in a thread as the gateway does them (`SERVICE`). Random weights at the published size, one torch
thread. A figure is the ratio of the medians over all rounds; beside it the peak of resident memory of either.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable

import torch
from backbones import Subject, forecasts, gradients, milliseconds, prepared, stepper
from common import MIB, Row, median, peak_rss_bytes, plain_environment, run

from app import allocator
from tsfm import catalog

BATCHES = {"temper-tiny": 32, "chronos-bolt-tiny": 32, "units-x128": 32, "moirai-2-small": 32, "timer-v1-forecast": 8}
SERVED = 64
"""Series of a pass in the gateway at most."""
UNTIMED = 2


def main() -> None:
    if sys.argv[1:2] == ["--part"]:
        part, name, rounds = sys.argv[2:]
        print(json.dumps(PARTS[part](name, int(rounds))))
        return
    run("allocator", __doc__, arguments, measure)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backbones", nargs="+", default=list(BATCHES), choices=list(BATCHES))
    parser.add_argument("--rounds", type=int, default=3, help="processes of each kind")
    parser.add_argument("--calls", type=int, default=6, help="timed in a process, after some that are not")


def measure(options: argparse.Namespace) -> list[Row]:
    return [
        compared(part, name, kept, options)
        for part, kept in (("step", allocator.RUN), ("forecast", allocator.SERVICE))
        for name in options.backbones
    ]


def compared(part: str, name: str, kept: dict[str, str], options: argparse.Namespace) -> Row:
    times: dict[bool, list[float]] = {True: [], False: []}
    peaks: dict[bool, float] = {}
    for _ in range(options.rounds):
        for keeps in (True, False):
            found = in_process(part, name, kept if keeps else {}, options.calls)
            times[keeps] += found["ms"]
            peaks[keeps] = found["peak_bytes"] / MIB
    ours, baseline = (median(times[keeps]) for keeps in (True, False))
    what = f"{part}, batch {BATCHES[name] if part == 'step' else SERVED}"
    return Row(
        question=f"{name}: {what}, memory kept ÷ given back",
        figure=ours / baseline,
        unit="×",
        ours=f"{ours:.1f} ms, {peaks[True]:.0f} MB",
        baseline=f"{baseline:.1f} ms, {peaks[False]:.0f} MB",
    )


def in_process(part: str, name: str, kept: dict[str, str], calls: int) -> dict[str, list[float]]:
    given = {k: v for k, v in plain_environment().items() if not k.startswith("MALLOC_")}
    words = [sys.executable, __file__, "--part", part, name, str(calls)]
    done = subprocess.run(words, env=given | kept, capture_output=True, text=True, check=True)
    answer: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return answer


# In a process of its own ----------------------------------------------------------------------------------------------


def steps(name: str, calls: int) -> dict[str, object]:
    subject = Subject.of(catalog.backbone(name), "published")
    batch = subject.batch(BATCHES[name])
    method, model = prepared("full", subject)
    model.train()
    return timed(
        stepper([p for _, p in method.trainable_parameters(model)], lambda: gradients(method, model, batch)), calls
    )


def served(name: str, calls: int) -> dict[str, object]:
    subject = Subject.of(catalog.backbone(name), "published")
    ours, _ = forecasts(subject.network(), None, subject.batch(SERVED))
    answers: list[dict[str, object]] = []
    thread = threading.Thread(target=lambda: answers.append(timed(ours, calls)))
    thread.start()
    thread.join()
    return answers[0]


def timed(work: Callable[[], object], calls: int) -> dict[str, object]:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for _ in range(UNTIMED):
        work()
    return {"ms": [milliseconds(work) for _ in range(calls)], "peak_bytes": peak_rss_bytes(os.getpid())}


PARTS = {"step": steps, "forecast": served}


if __name__ == "__main__":
    main()
