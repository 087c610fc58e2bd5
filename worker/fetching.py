"""Weights that a run fetches itself, where the operator allows it (`TEMPER_PULL_WEIGHTS`), as a part of loading."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from app.settings import Settings
from tsfm import catalog
from tsfm.backbones import shelf
from tsfm.backbones.hub import Download
from tsfm.backbones.places import find_weights, may_be_pulled
from tsfm.errors import Cancelled, WeightsError
from tsfm.request import random_start
from worker.protocol import Assignment

if TYPE_CHECKING:
    from tsfm.progress import Progress

MESSAGE_SECONDS = 5.0
"""How often a download is heard of in the job's events."""


def fetch_missing(
    assignment: Assignment,
    settings: Settings,
    report: "Callable[[Progress], None]",
    should_stop: Callable[[], str | None],
) -> None:
    """Fetches the backbone's weights if they are not here; another run that does so already is waited for.

    Raises `WeightsError` when that fails, and `Cancelled`: what was fetched so far is kept for the next try.
    """
    from tsfm.progress import Progress

    spec = catalog.backbone(assignment.request["backbone"])
    if random_start(assignment.request["initialisation"]) is not None or not may_be_pulled(spec):
        return
    try:
        find_weights(spec, weights_dir=settings.weights_path)
    except WeightsError as error:
        if error.code != "weights_unavailable":
            raise
    else:
        return

    def say(text: str) -> None:
        report(Progress(phase="loading", message=text))

    said_at = time.monotonic()

    def watch(download: Download) -> None:
        nonlocal said_at
        if reason := should_stop():
            raise Cancelled(f"Stopped while fetching weights: {reason}.", code=reason)
        if time.monotonic() - said_at >= MESSAGE_SECONDS:
            said_at = time.monotonic()
            total = "?" if download.total_bytes is None else f"{download.total_bytes:,}"
            say(f"{download.name}: {download.done_bytes:,} of {total} bytes.")

    say(f"Fetching the weights of {spec.name} ({spec.licence}) from {spec.repo}, revision {spec.revision}.")
    placed = shelf.pull(spec, settings.weights_path, shelf.Consent(by=assignment.job_id), watch=watch)
    say(f"The weights of {spec.name} are here: {placed.digest}.")
