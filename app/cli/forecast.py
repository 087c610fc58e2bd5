"""`temper forecast MODEL`: from the model's own training file, or from a CSV of yours."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.client import Client, CommandError
from app.cli.options import DEFAULT_HOME, Home, Json, Url, connect
from app.cli.output import number, print_json, print_table, row, say, table

ROWS_SHOWN = 12


def forecast(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Fine-tuned model, NAME@ALIAS, NAME@VERSION, backbone or rival.")
    ],
    prediction_length: Annotated[
        int | None, typer.Option("--prediction-length", min=1, help="Steps ahead; default: what it was tuned for.")
    ] = None,
    levels: Annotated[
        list[float] | None, typer.Option("--levels", help="Prediction intervals in per cent, such as 80; repeatable.")
    ] = None,
    quantile_levels: Annotated[
        list[float] | None, typer.Option("--quantile-levels", help="Quantiles, such as 0.9; repeatable.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="CSV or Parquet with the history; default: the model's training file."),
    ] = None,
    item_id: Annotated[list[str] | None, typer.Option(help="Only these series; repeatable.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the forecast to this CSV file.")] = None,
    url: Url = None,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Forecast. Says which version answered, and what stands in for it where it did not win."""
    asked = {
        "model": model,
        "prediction_length": prediction_length,
        "levels": levels or None,
        "quantile_levels": quantile_levels or None,
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
    _print_provenance(answer)
    if output is None:
        _print_rows(answer)


def request(api: Client, asked: Mapping[str, Any], file: Path | None) -> dict[str, Any]:
    """A forecast; the history is `file` as a CSV body, else the tuned model's own training file."""
    if file is None:
        return api.post("/v1/forecast", asked)
    if not file.is_file():
        raise CommandError(f"There is no file {file}.")
    # What the file is, CSV or Parquet or gzip of either, is read from its bytes; the type only says "a file".
    headers = {"content-type": "text/csv"}
    response = api.request("POST", "/v1/forecast", params=asked, content=file.read_bytes(), headers=headers)
    answer: dict[str, Any] = response.json()
    return answer


def write_csv(answer: Mapping[str, Any], path: Path) -> None:
    """One row per series and step."""
    with path.open("w", encoding="utf-8", newline="") as sink:
        writer = csv.writer(sink, lineterminator="\n")
        writer.writerow(columns(answer["forecasts"]))
        writer.writerows(rows(answer["forecasts"]))


def columns(forecasts: Sequence[Mapping[str, Any]]) -> list[str]:
    """As the service's own CSV answers: item_id, timestamp, mean, one per quantile, then lo-80 and hi-80."""
    first = forecasts[0]
    bounds = [f"{side}-{level}" for level in first["intervals"] for side in ("lo", "hi")]
    return ["item_id", "timestamp", "mean", *first["quantiles"], *bounds]


def rows(forecasts: Sequence[Mapping[str, Any]]) -> Iterator[list[Any]]:
    for one in forecasts:
        series = [one["mean"], *one["quantiles"].values()]
        for bounds in one["intervals"].values():
            series += [bounds["lo"], bounds["hi"]]
        for step, timestamp in enumerate(one["timestamps"]):
            yield [_safe(one["item_id"]), timestamp, *(values[step] for values in series)]


def _safe(item_id: str) -> str:
    """A spreadsheet must not run a name as a formula."""
    return "'" + item_id if item_id[:1] in {"=", "@", "\t", "\r"} else item_id


def _print_provenance(answer: Mapping[str, Any]) -> None:
    forecasts = answer["forecasts"]
    version = f", version {answer['version']}" if answer["version"] else ""
    say(f"{answer['model']}{version}: {len(forecasts)} series, {len(forecasts[0]['timestamps'])} steps")
    fallbacks = sorted({one["fallback"] for one in forecasts if one["fallback"]})
    if fallbacks:
        say(f"  answered by {', '.join(fallbacks)}, which the tuned weights did not beat")
    for note in answer["notes"]:
        say(f"  {note}")
    if left := answer["uncalibrated_levels"]:
        say(f"  not calibrated: the quantiles {', '.join(f'{level:g}' for level in left)}")


def _print_rows(answer: Mapping[str, Any]) -> None:
    shown = table(*columns(answer["forecasts"])[:2], *(f"{name}>" for name in columns(answer["forecasts"])[2:]))
    num_rows = 0
    for num_rows, cells in enumerate(rows(answer["forecasts"]), start=1):
        if num_rows <= ROWS_SHOWN:
            row(shown, *cells[:2], *(number(value, 6) for value in cells[2:]))
    print_table(shown)
    if num_rows > ROWS_SHOWN:
        say(f"… {num_rows - ROWS_SHOWN} more rows; -o forecast.csv writes them all")
