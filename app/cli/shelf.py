"""The weights folder of this machine, as `temper backbones show|pull|add` see it. No service is asked.

The one part of the command that uses the core: what a service may serve is decided there, by whoever puts it in place.
"""

import getpass
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from app.backbones import service
from app.cli.client import CommandError
from app.cli.output import err, say
from app.errors import NotFound
from app.settings import Settings
from tsfm import catalog
from tsfm.backbones import shelf
from tsfm.backbones.hub import Download
from tsfm.backbones.places import find_weights, read_lock
from tsfm.backbones.shelf import Consent
from tsfm.errors import TemperError

SAY_SECONDS = 10.0
"""How often a download is heard of where no bar can be drawn."""


class Shelf:
    def __init__(self, home: Path) -> None:
        try:
            self._weights_dir = Settings(home=home).weights_path
        except ValidationError as error:
            raise CommandError(f"The settings are wrong: {error}") from error

    def show(self, name: str) -> dict[str, Any]:
        """What `/v1/backbones/{name}` answers, and what lies in the folder."""
        with _plainly():
            spec = catalog.backbone(name)
            found = service.get_backbone(name, self._weights_dir).model_dump(mode="json")
            folder = self._weights_dir / name
            if found["weights_available"]:
                folder = find_weights(spec, weights_dir=self._weights_dir).folder
            return {**found, "weights": {"folder": str(folder), "lock": read_lock(folder) or None}}

    def pull(self, name: str, *, revision: str | None, accept_license: bool) -> dict[str, Any]:
        with _plainly(), _shown() as watch:
            spec = catalog.backbone(name)
            shelf.pull(spec, self._weights_dir, _consent(accept_license), revision=revision, watch=watch)
        return self.show(name)

    def add(self, name: str, path: Path, *, accept_license: bool) -> dict[str, Any]:
        with _plainly():
            shelf.add(catalog.backbone(name), self._weights_dir, path, _consent(accept_license))
        return self.show(name)


def _consent(accept_license: bool) -> Consent:
    return Consent(by=getpass.getuser(), accept_license=accept_license)


@contextmanager
def _plainly() -> Iterator[None]:
    """Errors of the core as the command says them."""
    try:
        yield
    except (TemperError, NotFound) as error:
        raise CommandError(error.message) from error


@contextmanager
def _shown() -> Iterator[Callable[[Download], None]]:
    """A bar for each file on a terminal, else a line now and then."""
    if not err.is_terminal:
        yield _Lines()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        tasks: dict[str, Any] = {}

        def draw(download: Download) -> None:
            if download.name not in tasks:
                tasks[download.name] = progress.add_task(download.name)
            progress.update(tasks[download.name], completed=download.done_bytes, total=download.total_bytes)

        yield draw


class _Lines:
    def __init__(self) -> None:
        self._said_at = time.monotonic()

    def __call__(self, download: Download) -> None:
        if time.monotonic() - self._said_at >= SAY_SECONDS:
            self._said_at = time.monotonic()
            total = "?" if download.total_bytes is None else f"{download.total_bytes:,}"
            say(f"{download.name}: {download.done_bytes:,} of {total} bytes")
