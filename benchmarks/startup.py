"""How long does it take until something happens: `./run serve` to a ready service, and the imports of each program?

    python benchmarks/startup.py

Cold start: `./run serve` in a fresh home until /readyz answers 200 (broker, migrations, first key and gateway; the
files are in the disk's cache after the first round, which does not count). Imports: each in a fresh interpreter, by
turns with one that imports nothing; the figure is the whole time of the process. Beside it stand the heavy packages
that it has loaded: serving and SFF load neither peft nor transformers (a test keeps that so).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, Row, free_port, median, plain_environment, run, spread, start_serve, wait_until_ready

HEAVY = ("torch", "peft", "transformers", "matplotlib", "pandas", "duckdb", "celery", "sqlalchemy")
PROGRAMS = {
    "the gateway": "import app.main",
    "the command": "import app.cli.main",
    "the worker's parent": "import worker.__main__",
    "the reader of files": "import tsfm.series.parse",
    "a run (SFF, from pretrained weights to a prepared network)": (
        "import tsfm.finetune; from tsfm import catalog, methods, configs; "
        "from tsfm.backbones.weights import load_backbone; "
        "methods.create('sff', configs.SFFConfig()).prepare(load_backbone(catalog.backbone('temper-tiny')))"
    ),
    "serving (a forecaster opened)": (
        "import app.forecasts.engine; from tsfm.tasks.forecast import Forecaster; Forecaster.zero_shot('temper-tiny')"
    ),
}


def main() -> None:
    run("startup", __doc__, arguments, measure)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--programs", nargs="+", choices=list(PROGRAMS), default=list(PROGRAMS))
    parser.add_argument("--no-serve", action="store_true", help="imports only")


def measure(options: argparse.Namespace) -> list[Row]:
    rows = [] if options.no_serve else [cold_start(options.rounds)]
    return rows + [started(program, options.rounds) for program in options.programs]


def cold_start(rounds: int) -> Row:
    serve, bare = [], []
    for i in range(rounds + 1):
        one, other = seconds_until_ready(), interpreter("")[0]
        if i > 0:
            serve.append(one)
            bare.append(other)
    return Row(
        question="`./run serve` in a fresh home until /readyz answers 200",
        figure=median(serve),
        unit="s",
        ours=spread(serve) + " s",
        baseline=f"{median(bare):.3f} s for an interpreter that does nothing",
        details={"serve": serve, "interpreter": bare},
    )


def seconds_until_ready() -> float:
    with tempfile.TemporaryDirectory(prefix="tb", ignore_cleanup_errors=True) as folder:
        log, port = Path(folder) / "log", free_port()
        begun = time.perf_counter()
        with (
            log.open("wb") as output,
            start_serve([str(ROOT / "run")], home=Path(folder) / "home", port=port, output=output) as process,
        ):
            wait_until_ready(port, process, log_path=log)
            return time.perf_counter() - begun


def started(program: str, rounds: int) -> Row:
    whole, bare = [], []
    loaded: list[str] = []
    interpreter(PROGRAMS[program])  # compiled files and the disk's cache are there from now on
    for _ in range(rounds):
        seconds, loaded = interpreter(PROGRAMS[program])
        whole.append(seconds)
        bare.append(interpreter("")[0])
    return Row(
        question=f"start of {program}",
        figure=median(whole),
        unit="s",
        ours=f"{spread(whole)} s; loads {', '.join(loaded) or 'none of the heavy packages'}",
        baseline=f"{median(bare):.3f} s",
        details={"seconds": whole, "interpreter": bare, "loaded": loaded},
    )


def interpreter(script: str) -> tuple[float, list[str]]:
    """(seconds, heavy packages in its memory at the end) of a fresh interpreter."""
    tell = f"import sys, json; print(json.dumps([n for n in {HEAVY!r} if n in sys.modules]))"
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", f"{script}\n{tell}"],
        cwd=ROOT,
        env=plain_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - begun
    if done.returncode:
        raise RuntimeError(done.stderr)
    return seconds, json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
