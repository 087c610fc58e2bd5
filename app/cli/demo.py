"""`temper demo`: the whole road on `examples/`, in a service of its own that is stopped at the end."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.chart import Panel, draw
from app.cli.client import Client, CommandError
from app.cli.files import send
from app.cli.follow import follow, require_success
from app.cli.forecast import request, write_csv
from app.cli.options import connect
from app.cli.output import out, print_reading, print_verdict, say

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
HOME = Path(".temper-demo")
TRAINED = "hourly_demand.csv"
PREDICTION_LENGTH = 48
METHOD = "sff"
SUFFIX = "demo"
HYPERPARAMETERS: dict[str, Any] = {
    "learning_rate": 0.002,
    "batch_size": 16,
    "max_epochs": 4,
    "max_windows_per_epoch": 2560,
    "max_validation_windows": 256,
    "max_calibration_windows": 500,
    "max_test_windows": 1000,
}
"""One learning rate in place of a search, and caps on what is evaluated: minutes become one."""
SEED = 7
LEVEL = 80
HISTORY_SHOWN = 7 * 24
STOP_SECONDS = 60.0


def demo(
    home: Annotated[Path, typer.Option(help="Home of the demo's own service; kept for the next time.")] = HOME,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where forecast.csv and forecast.png go.")] = Path("."),
) -> None:
    """Fine-tune and forecast on the examples, end to end; writes forecast.csv and forecast.png."""
    started = time.monotonic()
    files = sorted(EXAMPLES.glob("*.csv"))
    if not files:
        raise CommandError(f"There is no example in {EXAMPLES}.", mend="Run the demo from a checkout: ./run demo")
    _title("Starting the service")
    with _service(home) as url, connect(url, home) as api:
        say(f"ready at {url} after {time.monotonic() - started:.1f} s")
        _title("Uploading the examples")
        uploaded = {path.name: send(api, path, {}) for path in files}
        for file in uploaded.values():
            print_reading(file)
        job = _tune(api, uploaded[TRAINED])
        _forecast(api, job, output)
        _title("Stopping")
    say(f"Done in {time.monotonic() - started:.0f} s. The model stays in {home}: ./run serve --home {home}")


def _title(text: str) -> None:
    out.print(f"\n[bold cyan]{text}[/]")


@contextlib.contextmanager
def _service(home: Path) -> Iterator[str]:
    """`temper serve` in a process of its own, on a free port; stopped on exit, whatever happened."""
    serve = [sys.executable, "-P", "-m", "app.cli.main", "serve", "--home", str(home), "--port", "0", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "app.cli.attach", str(os.getpid()), *serve],
        stdout=subprocess.PIPE,
        text=True,
        # Ctrl-C is ours: the service is stopped below, after the client has let go of it.
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        announced = process.stdout.readline()
        if not announced:
            raise CommandError("The service did not start; its reason stands above.")
        yield str(json.loads(announced)["url"])
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _tune(api: Client, file: dict[str, Any]) -> dict[str, Any]:
    _title(f"Fine-tuning on {file['filename']} ({METHOD}, {PREDICTION_LENGTH} hours ahead)")
    body = {
        "training_file": file["id"],
        "prediction_length": PREDICTION_LENGTH,
        "method": METHOD,
        "hyperparameters": HYPERPARAMETERS,
        "seed": SEED,
        "suffix": SUFFIX,
    }
    job = follow(api, api.post("/v1/jobs", body)["id"])
    require_success(job)
    _title("Judged on history it never saw")
    print_verdict(job)
    return job


def _forecast(api: Client, job: dict[str, Any], output: Path) -> None:
    _title(f"Forecasting with {job['fine_tuned_model']}")
    ahead = request(api, {"model": job["fine_tuned_model"], "levels": [LEVEL]}, None)
    write_csv(ahead, output / "forecast.csv")
    first = ahead["forecasts"][0]
    say(f"{len(ahead['forecasts'])} series, {first['timestamps'][0]} to {first['timestamps'][-1]}")
    draw(_panels(api, job, ahead), output / "forecast.png", prediction_length=PREDICTION_LENGTH)
    say(f"wrote {output / 'forecast.csv'} and {output / 'forecast.png'}")


def _panels(api: Client, job: dict[str, Any], ahead: dict[str, Any]) -> list[Panel]:
    """The last hours of the file, forecast again from the history before them, with the truth beside it."""
    series = _read(EXAMPLES / TRAINED)
    chosen = [one["item_id"] for one in ahead["forecasts"][:2]]
    inline = [
        {
            "item_id": name,
            "start": series[name][0][0],
            "freq": "h",
            "target": [value for _, value in series[name][:-PREDICTION_LENGTH]],
        }
        for name in chosen
    ]
    tuned = f"{job['fine_tuned_model']}@{job['model_version']}"
    answers = {
        name: request(
            api,
            {"model": name, "prediction_length": PREDICTION_LENGTH, "series": inline}
            | ({"levels": [LEVEL]} if name == tuned else {}),
            None,
        )
        for name in (tuned, job["model"], "seasonal_naive")
    }
    panels = []
    for place, name in enumerate(chosen):
        values = [value for _, value in series[name]]
        held_out = {model: answer["forecasts"][place] for model, answer in answers.items()}
        panels.append(
            Panel(
                item_id=name,
                history=values[-PREDICTION_LENGTH - HISTORY_SHOWN : -PREDICTION_LENGTH],
                truth=values[-PREDICTION_LENGTH:],
                tuned=held_out[tuned]["mean"],
                band=_band(held_out[tuned]),
                others={f"zero-shot {job['model']}": held_out[job["model"]]["mean"]}
                | {"seasonal naive": held_out["seasonal_naive"]["mean"]},
                ahead=ahead["forecasts"][place]["mean"],
                ahead_band=_band(ahead["forecasts"][place]),
            )
        )
    return panels


def _band(forecast: dict[str, Any]) -> tuple[list[float], list[float]] | None:
    bounds = next(iter((forecast.get("intervals") or {}).values()), None)
    return None if bounds is None else (bounds["lo"], bounds["hi"])


def _read(path: Path) -> dict[str, list[tuple[str, float]]]:
    series: dict[str, list[tuple[str, float]]] = {}
    with path.open(encoding="utf-8", newline="") as source:
        for line in csv.DictReader(source):
            moment = line["timestamp"].replace(" ", "T") + ":00"
            series.setdefault(line["item_id"], []).append((moment, float(line["target"])))
    return series
