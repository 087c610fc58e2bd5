"""`temper finetune FILE`: upload, start a job, watch it, print the verdict."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.client import Client, CommandError
from app.cli.files import (
    Duplicates,
    Freq,
    IdColumn,
    TargetColumn,
    TimestampColumn,
    TimestampFormat,
    Timezone,
    roles,
    send,
)
from app.cli.follow import follow, require_success
from app.cli.options import DEFAULT_HOME, Home, Json, Url, connect
from app.cli.output import print_estimate, print_json, print_reading, print_verdict, say

FILE_ID = "file-"
SHOWN = ("alpha",)
"""Options of a method worth a word on the line that announces the job."""


PredictionLength = Annotated[
    int,
    typer.Option(
        "--prediction-length", min=1, help="Steps ahead; or points scored at once, or the longest gap, by task."
    ),
]
Task = Annotated[str | None, typer.Option(help="forecast, anomaly_detection or imputation.")]
Scoring = Annotated[str | None, typer.Option(help="Of anomaly_detection: forecast, every_patch or reconstruction.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A hyperparameter; repeatable.")
]


def finetune(
    file: Annotated[str, typer.Argument(metavar="FILE", help="CSV or Parquet file, or the id of an uploaded one.")],
    prediction_length: PredictionLength,
    model: Annotated[str | None, typer.Option(help="Backbone to tune; `temper backbones` lists them.")] = None,
    task: Task = None,
    scoring: Scoring = None,
    method: Annotated[str | None, typer.Option(help="How to tune it: sff, auto, lora, …")] = None,
    alpha: Annotated[str | None, typer.Option(help='SFF: weight on the pretrained side, 0 to 1, or "search".')] = None,
    context_length: Annotated[int | None, typer.Option(min=1, help="Steps of history the model sees.")] = None,
    settings: Settings = None,
    method_options: Annotated[
        list[str] | None, typer.Option("--method-option", metavar="NAME=VALUE", help="Of the method; repeatable.")
    ] = None,
    budget_seconds: Annotated[float | None, typer.Option(help="Cap on training time.")] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    test: Annotated[bool, typer.Option("--test/--no-test", help="Keep a test block to be judged on.")] = True,
    suffix: Annotated[str | None, typer.Option(help="Becomes part of the new model's name.")] = None,
    register_as: Annotated[str | None, typer.Option(help="Existing model to add a version to.")] = None,
    refit: Annotated[bool, typer.Option("--refit", help="Also train the winning recipe on all history.")] = False,
    accept_license: Annotated[
        bool, typer.Option("--accept-license", help="Accept weights that are not for commercial use.")
    ] = False,
    id_column: IdColumn = None,
    timestamp_column: TimestampColumn = None,
    target_column: TargetColumn = None,
    freq: Freq = None,
    timezone: Timezone = None,
    timestamp_format: TimestampFormat = None,
    duplicates: Duplicates = None,
    dry: Annotated[bool, typer.Option("--dry-run", help="Only say what it would take; nothing is created.")] = False,
    wait: Annotated[bool, typer.Option("--follow/--no-follow", help="Watch the job until it ends.")] = True,
    url: Url = None,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Fine-tune on a file, and say whether that beat what you had."""
    body: dict[str, Any] = {
        "prediction_length": prediction_length,
        "model": model,
        "task": task,
        "scoring": scoring,
        "method": method_of(method, alpha, method_options),
        "context_length": context_length,
        "hyperparameters": assignments("--set", settings),
        "budget": None if budget_seconds is None else {"seconds": budget_seconds},
        "seed": seed,
        "suffix": suffix,
        "register_as": register_as,
        "refit": refit or None,
        "accept_license": accept_license or None,
    }
    options = roles(
        id_column=id_column,
        timestamp_columns=timestamp_column,
        target_columns=target_column,
        freq=freq,
        timezone=timezone,
        timestamp_format=timestamp_format,
        duplicates=duplicates,
    )
    if dry:
        with connect(url, home) as api:
            shown = dry_run(api, file, body, options=options, test=test)
        if as_json:
            print_json(shown)
        else:
            print_estimate(shown)
        return
    with connect(url, home) as api:
        job = start(api, file, body, options=options, test=test, quiet=as_json)
        if wait:
            job = _watch(api, job["id"])
            require_success(job)
    if as_json:
        print_json(job)
    elif wait:
        print_verdict(job)
        say(f"\nNext: {next_command(job)}")
    else:
        typer.echo(job["id"])


def next_command(job: Mapping[str, Any]) -> str:
    """What asks the model that a job made; a model answers questions of its own task alone."""
    command, rest = {
        "anomaly_detection": ("anomalies", "-o anomalies.csv"),
        "imputation": ("impute", "-o filled.csv"),
    }.get(job["task"], ("forecast", "-o forecast.csv"))
    return f"temper {command} {job['fine_tuned_model']} {rest}"


def _watch(api: Client, job_id: str) -> dict[str, Any]:
    try:
        return follow(api, job_id)
    except KeyboardInterrupt:
        say(f"{job_id} goes on. `temper jobs follow {job_id}` watches it, `temper jobs cancel {job_id}` stops it.")
        raise


def dry_run(api: Client, file: str, body: dict[str, Any], *, options: dict[str, Any], test: bool) -> dict[str, Any]:
    """What the job would be and take. A local file goes along with the question and is not kept."""
    asked = _asked(body, test=test) | {"dry_run": True}
    if _is_uploaded(file):
        _refuse_roles(file, options)
        return api.post("/v1/jobs", {"training_file": file, **asked})
    fields = {name: value if isinstance(value, str) else json.dumps(value) for name, value in asked.items()}
    if not Path(file).is_file():
        raise CommandError(f"There is no file {file}.")
    return api.ask_with_file("/v1/jobs", Path(file), {**fields, **options})


def start(
    api: Client, file: str, body: dict[str, Any], *, options: dict[str, Any], test: bool, quiet: bool
) -> dict[str, Any]:
    """Uploads what is not uploaded yet and creates the job; None means that the service decides."""
    if _is_uploaded(file):
        _refuse_roles(file, options)
    else:
        uploaded = send(api, Path(file), options)
        if not quiet:
            print_reading(uploaded)
        file = uploaded["id"]
    job = api.post("/v1/jobs", {"training_file": file, **_asked(body, test=test)})
    if not quiet:
        details = ", ".join(f"{name} {value}" for name, value in job["method"].items() if name in SHOWN)
        chosen = job["method"]["type"] + (f" ({details})" if details else "")
        lengths = f"context {job['context_length']} → {job['prediction_length']} steps"
        say(f"{job['id']}: {job['model']}, {chosen}, {lengths}")
    return job


def _is_uploaded(file: str) -> bool:
    return file.startswith(FILE_ID) and not Path(file).exists()


def _refuse_roles(file: str, options: dict[str, Any]) -> None:
    if options:
        raise CommandError(f"{file} is uploaded already: column options belong to the upload.")


def _asked(body: dict[str, Any], *, test: bool) -> dict[str, Any]:
    asked = {name: value for name, value in body.items() if value not in (None, {})}
    return asked if test else {**asked, "gate": None}


def method_of(method: str | None, alpha: str | None, options: list[str] | None) -> str | dict[str, Any] | None:
    """The job's `method`: a bare name, or an object where options are given. `--alpha` alone means SFF."""
    chosen = assignments("--method-option", options)
    if alpha is not None:
        if method not in (None, "sff"):
            raise CommandError(f"--alpha is an option of sff, not of {method}.")
        method = "sff"
        chosen["alpha"] = parsed(alpha)
    if not chosen:
        return method
    if method is None:
        raise CommandError("--method-option needs --method.")
    return {"type": method, **chosen}


def assignments(option: str, pairs: list[str] | None) -> dict[str, Any]:
    """`name=value` pairs; a value is JSON where it reads as JSON, else text."""
    found = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise CommandError(f"{option} {pair!r} is not NAME=VALUE.")
        found[name] = parsed(value)
    return found


def parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
