"""What a run's process does when it is only to measure: a few steps of the request, nothing stored."""

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.settings import Settings
from app.storage import Store, series_key
from worker.protocol import Assignment

if TYPE_CHECKING:
    from worker.run_job import Orders


def execute(assignment: Assignment, settings: Settings, store: Store, orders: "Orders") -> dict[str, Any]:
    """The `result` message: `Estimate`'s figures. Starting up is part of what a run takes."""
    began = time.monotonic()
    from tsfm.measure import measure
    from tsfm.request import FinetuneRequest
    from tsfm.series.load import load_frame

    with tempfile.TemporaryDirectory(prefix="measure-") as work:  # where the supervisor removes it if this is killed
        parquet = Path(work) / "series.parquet"
        store.get_to(series_key(assignment.file_id), parquet)
        frame = load_frame(parquet, assignment.reading)
        starting_seconds = time.monotonic() - began
        found = measure(
            FinetuneRequest.from_mapping(assignment.request),
            frame,
            weights_dir=settings.weights_path,
            work_dir=Path(work) / "state",
            should_stop=orders.current,
        ).to_mapping()
    return {"result": {**found, "seconds": round(found["seconds"] + starting_seconds, 1)}}
