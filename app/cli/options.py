"""Options every command shares, and how they become a client: address, key and form of the answer."""

import os
from pathlib import Path
from typing import Annotated

import typer

from app.cli.client import DEFAULT_URL, Client

DEFAULT_HOME = Path(".temper")
ADDRESS_FILE = "address"
"""`temper serve` writes its address here, so that `--home` alone finds a service on any port."""
KEY_FILE = "api_key"

Home = Annotated[Path, typer.Option("--home", envvar="TEMPER_HOME", help="Home of the service to talk to.")]
Url = Annotated[
    str | None, typer.Option("--url", envvar="TEMPER_URL", help="Address of the service; default: that of --home.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the service's own JSON and nothing else.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many at most, newest first.")]


def connect(url: str | None, home: Path) -> Client:
    """A client for `url`, else for the service of `home`; the key is TEMPER_API_KEY, else the one in `home`."""
    return Client(url or _written(home / ADDRESS_FILE) or DEFAULT_URL, _key(home))


def _key(home: Path) -> str | None:
    return os.environ.get("TEMPER_API_KEY") or _written(home / KEY_FILE)


def _written(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except OSError:  # absent, or another user's: the service then says that a key is missing
        return None
