"""`temper files`: upload, look at and delete files. `send` is shared with the commands that take a file."""

import shutil
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.client import Client, CommandError
from app.cli.options import DEFAULT_HOME, Home, Json, Limit, Url, connect
from app.cli.output import moment, print_json, print_reading, print_table, row, say, table

POLL_SECONDS = 0.5

IdColumn = Annotated[str | None, typer.Option(help="Column that names the series.")]
TimestampColumn = Annotated[
    list[str] | None, typer.Option(help="Column that holds the time; given twice for a date and a time column.")
]
TargetColumn = Annotated[list[str] | None, typer.Option(help="Column to forecast; repeatable.")]
Freq = Annotated[str | None, typer.Option(help="Frequency, such as h, 15min, D, W-SUN, MS.")]
Timezone = Annotated[str | None, typer.Option(help="Time zone of the timestamps, such as Europe/Berlin.")]
TimestampFormat = Annotated[str | None, typer.Option(help="Format of the timestamps, such as %d/%m/%Y %H:%M.")]
Duplicates = Annotated[str | None, typer.Option(help="What to do with repeated times: first, last, mean or sum.")]

app = typer.Typer(help="Upload, list and delete files.", no_args_is_help=True)


def roles(
    *,
    id_column: str | None,
    timestamp_columns: list[str] | None,
    target_columns: list[str] | None,
    freq: str | None,
    timezone: str | None,
    timestamp_format: str | None,
    duplicates: str | None,
) -> dict[str, Any]:
    """Column roles as query parameters; what is None is inferred by the service."""
    given = {
        "id_column": id_column,
        "timestamp_column": timestamp_columns or None,
        "target_columns": target_columns or None,
        "freq": freq,
        "timezone": timezone,
        "timestamp_format": timestamp_format,
        "duplicates": duplicates,
    }
    return {name: value for name, value in given.items() if value is not None}


def send(api: Client, path: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Uploads a file and waits until it is read; answers the file object. Refuses what is not a file."""
    if not path.is_file():
        raise CommandError(f"There is no file {path}.")
    file = api.upload(path, options)
    while file["status"] == "processing":
        time.sleep(POLL_SECONDS)
        file = api.get(f"/v1/files/{file['id']}")
    if file["status"] == "error":
        error = file.get("error") or {}
        raise CommandError(f"{path} cannot be used: {error.get('message', 'no reason was given')}")
    return file


@app.command("upload")
def upload(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="CSV or Parquet, also as gzip or zstd.")],
    id_column: IdColumn = None,
    timestamp_column: TimestampColumn = None,
    target_column: TargetColumn = None,
    freq: Freq = None,
    timezone: Timezone = None,
    timestamp_format: TimestampFormat = None,
    duplicates: Duplicates = None,
    url: Url = None,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Upload a file and show how it was read."""
    options = roles(
        id_column=id_column,
        timestamp_columns=timestamp_column,
        target_columns=target_column,
        freq=freq,
        timezone=timezone,
        timestamp_format=timestamp_format,
        duplicates=duplicates,
    )
    with connect(url, home) as api:
        file = send(api, path, options)
    if as_json:
        print_json(file)
        return
    print_reading(file)
    typer.echo(file["id"])


@app.command("list")
def list_files(limit: Limit = 20, url: Url = None, home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """Uploaded files, newest first."""
    with connect(url, home) as api:
        found = api.pages("/v1/files", limit=limit)
    if as_json:
        print_json(found)
        return
    shown = table("file", "name", "bytes>", "status", "series>", "freq", "made")
    for file in found:
        reading = file.get("reading") or {}
        row(
            shown,
            file["id"],
            file["filename"],
            f"{file['bytes']:,}",
            file["status"],
            reading.get("num_series"),
            reading.get("freq"),
            moment(file["created_at"]),
        )
    print_table(shown)


@app.command("show")
def show(file_id: str, url: Url = None, home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """How a file was read."""
    with connect(url, home) as api:
        file = api.get(f"/v1/files/{file_id}")
    if as_json:
        print_json(file)
    else:
        print_reading(file)


@app.command("download")
def download(
    file_id: str,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write it.")],
    url: Url = None,
    home: Home = DEFAULT_HOME,
) -> None:
    """The file's bytes, as they were uploaded."""
    with connect(url, home) as api:
        save(api, f"/v1/files/{file_id}/content", output)


@app.command("delete")
def delete(file_id: str, url: Url = None, home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """Delete a file."""
    with connect(url, home) as api:
        answer = api.delete(f"/v1/files/{file_id}")
    if as_json:
        print_json(answer)
    else:
        say(f"{file_id} is deleted.")


def save(api: Client, path: str, output: Path, **params: Any) -> None:
    """Streams an answer into a file that appears only when it is whole."""
    draft = output.with_name(output.name + ".part")
    with draft.open("wb") as sink:
        api.stream_to(path, sink, **params)
    shutil.move(draft, output)
    say(f"wrote {output} ({output.stat().st_size:,} bytes)")
