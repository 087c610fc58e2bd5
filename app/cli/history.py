"""A question to a model from a terminal: the history is a file's bytes, else the tuned model's own training file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from app.cli.client import Client, CommandError
from app.cli.output import say

CSV = {"accept": "text/csv"}


def ask(
    api: Client, route: str, asked: Mapping[str, Any], file: Path | None, *, as_csv: bool = False
) -> httpx.Response:
    """The answer of `route`; what is None in `asked` is left out. `CommandError` for a file that is not there."""
    fields = {name: value for name, value in asked.items() if value is not None}
    headers = CSV if as_csv else {}
    if file is None:
        return api.request("POST", route, json=fields, headers=headers)
    if not file.is_file():
        raise CommandError(f"There is no file {file}.")
    # What the file is, CSV or Parquet or gzip of either, is read from its bytes; the type only says "a file".
    params = {name: str(value).lower() if isinstance(value, bool) else value for name, value in fields.items()}
    kind = {**headers, "content-type": "text/csv"}
    return api.request("POST", route, params=params, content=file.read_bytes(), headers=kind)


def write_csv(api: Client, route: str, asked: Mapping[str, Any], file: Path | None, output: Path) -> None:
    """The answer of `route` as a CSV file, and a line that says so."""
    output.write_bytes(ask(api, route, asked, file, as_csv=True).content)
    say(f"wrote {output}")
