"""`temper backtest MODEL`: how a model would have done on history, beside the plain rivals."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.client import Client, CommandError
from app.cli.options import DEFAULT_HOME, Home, Json, Url, connect
from app.cli.output import number, print_json, print_table, row, say, table

ERRORS = (("mase", "MASE"), ("rmsse", "RMSSE"), ("mae", "MAE"), ("mse", "MSE"), ("wql", "WQL"))


def backtest(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Fine-tuned model, NAME@ALIAS, NAME@VERSION, backbone or rival.")
    ],
    file: Annotated[
        Path | None, typer.Option(help="CSV or Parquet with the history; default: the model's training file.")
    ] = None,
    prediction_length: Annotated[
        int | None, typer.Option("--prediction-length", min=1, help="Steps ahead; default: what it was tuned for.")
    ] = None,
    num_windows: Annotated[int, typer.Option("--num-windows", min=1, help="Cut-offs of each series.")] = 5,
    stride: Annotated[
        int | None, typer.Option(min=1, help="Steps between two cut-offs; default: the prediction length.")
    ] = None,
    levels: Annotated[
        list[float] | None, typer.Option("--levels", help="Intervals whose coverage is measured; repeatable.")
    ] = None,
    item_id: Annotated[list[str] | None, typer.Option(help="Only these series; repeatable.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write every window to this CSV file.")] = None,
    url: Url = None,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Evaluate a model at rolling origins of history: at each it forecasts what came next, knowing nothing of it."""
    asked = {
        "model": model,
        "prediction_length": prediction_length,
        "num_windows": num_windows,
        "stride": stride,
        "levels": levels or None,
        "item_ids": item_id or None,
    }
    with connect(url, home) as api:
        answer = request(api, {name: value for name, value in asked.items() if value is not None}, file)
    if output is not None:
        write_csv(answer, output)
        say(f"wrote {output}")
    if as_json:
        print_json(answer)
        return
    show(answer)


def request(api: Client, asked: Mapping[str, Any], file: Path | None) -> dict[str, Any]:
    """The history is `file` as the body, else the tuned model's own training file."""
    if file is None:
        return api.post("/v1/backtests", asked)
    if not file.is_file():
        raise CommandError(f"There is no file {file}.")
    headers = {"content-type": "text/csv"}
    response = api.request("POST", "/v1/backtests", params=asked, content=file.read_bytes(), headers=headers)
    answer: dict[str, Any] = response.json()
    return answer


def write_csv(answer: Mapping[str, Any], path: Path) -> None:
    """One row per model, series and window."""
    names = [name for name, _ in ERRORS]
    shares = _shares(answer)
    with path.open("w", encoding="utf-8", newline="") as sink:
        writer = csv.writer(sink, lineterminator="\n")
        writer.writerow(["model", "item_id", "cutoff", *names, *(f"coverage-{share}" for share in shares)])
        for tested, one, window in _windows(answer):
            covered = window["coverage"] or {}
            errors = [window[name] for name in names]
            writer.writerow(
                [tested["model"], one["item_id"], window["cutoff"], *errors, *(covered.get(share) for share in shares)]
            )


def _windows(answer: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]]:
    for tested in answer["results"]:
        for one in tested["series"]:
            for window in one["windows"]:
                yield tested, one, window


def _shares(answer: Mapping[str, Any]) -> list[str]:
    """Intervals that anybody has a coverage for."""
    found = (tested["metrics"]["coverage"] or {} for tested in answer["results"])
    return list(dict.fromkeys(share for one in found for share in one))


def show(answer: Mapping[str, Any]) -> None:
    """The models as a table; everything else that is to be said on stderr."""
    shares = _shares(answer)
    shown = table("model", *(f"{title}>" for _, title in ERRORS), *(f"in {share} %>" for share in shares))
    for tested in answer["results"]:
        found, covered = tested["metrics"], tested["metrics"]["coverage"] or {}
        name = tested["model"] if tested["fallback"] is None else f"{tested['model']} (by {tested['fallback']})"
        inside = (f"{100 * covered[share]:.1f} %" if share in covered else None for share in shares)
        row(shown, name, *(number(found[key]) for key, _ in ERRORS), *inside)
    print_table(shown)
    say(f"{answer['num_windows']} windows of {answer['prediction_length']} steps, {answer['stride']} apart")
    for note in answer["notes"]:
        say(f"  {note}")
