"""Histories that are not inline: a file sent as the body, an uploaded file, the model's own training file.

Everything here blocks (disk, database, parser) and runs in a worker thread.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from app.db import session_scope
from app.errors import ApiError, Conflict, NotFound
from app.files.parse import Parsed, parsed
from app.files.repository import PROCESSED, UPLOADED
from app.files.service import no_series
from app.forecasts.parse import BodyHistory, check_num_series
from app.registry.repository import Registry
from app.settings import Settings
from app.storage import MissingObject, Store, series_key
from tsfm.series.frame import SeriesFrame
from tsfm.series.load import load_frame
from tsfm.series.options import Limits
from tsfm.series.read import read_file

MAX_LISTED = 20
MAX_SUSPECTS = 5
"""That the notes of an answer name."""
LARGE_POINTS = 1_000_000
"""A file of more points is not held in memory whole."""
SMALL_BYTES = 1 << 20
SMALL_PACKED_BYTES = 1 << 15
"""A packed file may hold a thousand times its size."""
_PACKED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1")
"""How gzip, zstd and Parquet begin."""
MAX_HISTORY = 65_536
"""More points than any source looks at: three weeks of minutes, and rolling origins before them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The series of a request."""

    frame: SeriesFrame
    notes: tuple[str, ...] = ()
    """What was decided or is suspect in a file that nobody has seen the reading of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryReader:
    settings: Settings
    engine: Engine
    store: Store

    def from_body(self, history: BodyHistory) -> Given:
        """Parses the sent file as an upload is parsed, keeping nothing. `DataError` lists every problem."""
        with self._work_dir() as folder, self._read(folder, history) as found:
            check_num_series(int(found.reading["num_series"]), self.settings.max_forecast_series)
            return Given(frame=load_frame(found.series, found.reading), notes=_notes(found.reading))

    @contextmanager
    def _read(self, folder: Path, history: BodyHistory) -> Iterator[Parsed]:
        """Small bodies here, since starting a process takes longer than reading them; others as uploads are read: what
        they take of time and memory is not the gateway's."""
        path = folder / "body"
        path.write_bytes(history.data)
        limits = self._limits()
        if len(history.data) <= (SMALL_PACKED_BYTES if history.data.startswith(_PACKED) else SMALL_BYTES):
            out = folder / "series.parquet"
            reading = read_file(path, filename=None, options=history.options, limits=limits, out=out, work_dir=folder)
            yield Parsed(reading=reading, series=out)
            return
        settings, options = self.settings, history.options
        with parsed(
            path,
            settings=settings,
            filename="body",
            options=options,
            timeout_seconds=settings.parse_seconds,
            limits=limits,
        ) as found:
            yield found

    def from_file(self, tenant_id: str, file_id: str, *, training: bool = False, whole: bool = False) -> SeriesFrame:
        """An uploaded file's series, as read at upload; of a large file as much as any model looks at, unless the
        `whole` is wanted, which has a limit. 404 when the tenant has no such file."""
        reading = self._reading(tenant_id, file_id, training=training)
        if whole:
            check_num_points(int(reading["num_points"]), self.settings.max_scored_points, param="file")
        with self._work_dir() as folder:
            parquet = folder / "series.parquet"
            try:
                self.store.get_to(series_key(file_id), parquet)
            except MissingObject as error:
                raise NotFound("file", file_id, param="file") from error
            is_large = int(reading["num_points"]) > LARGE_POINTS and not whole
            return load_frame(parquet, reading, last=MAX_HISTORY if is_large else None)

    def _reading(self, tenant_id: str, file_id: str, *, training: bool) -> dict[str, Any]:
        with session_scope(self.engine, read_only=True) as session:
            file = Registry(session=session, tenant_id=tenant_id).file(file_id)
        if file is None and training:
            raise Conflict(
                "training_file_deleted", "The model's training file was deleted: send the history.", param="series"
            )
        if file is None:
            raise NotFound("file", file_id, param="file")
        if file.reading is None and file.status == PROCESSED:
            raise no_series(file, param="file")
        if file.reading is None:
            raise Conflict(
                "file_not_ready",
                f"{file_id} is {file.status}: forecast once it is processed.",
                param="file",
                retry_after=2 if file.status == UPLOADED else None,
            )
        return file.reading

    def _work_dir(self) -> "_Folder":
        return _Folder(self.settings.tmp_dir)

    def _limits(self) -> Limits:
        settings = self.settings
        return Limits(
            max_bytes=settings.max_body_bytes,
            max_decompressed_bytes=min(settings.max_decompressed_bytes, 8 * settings.max_body_bytes),
            max_rows=settings.max_rows,
            max_series=settings.max_series,
            max_columns=settings.max_columns,
            threads=1,
        )


def _notes(reading: Mapping[str, Any]) -> tuple[str, ...]:
    """Warnings and suspect values, which the answer to an upload would show."""
    suspects = [
        f"{one['column'] or one['item_id']!r} holds {one['value']:g} ({one['count']:,} times): {one['reason']}. "
        "It was taken for a number."
        for one in reading["suspects"]
    ]
    more = [f"{len(suspects) - MAX_SUSPECTS} more values are suspect."] if len(suspects) > MAX_SUSPECTS else []
    return (*reading["warnings"], *suspects[:MAX_SUSPECTS], *more)


class _Folder(tempfile.TemporaryDirectory[str]):
    """A private folder that goes with the block."""

    def __init__(self, parent: Path) -> None:
        super().__init__(prefix="forecast-", dir=parent)

    def __enter__(self) -> Path:  # type: ignore[override]  # a Path is what every caller needs
        return Path(super().__enter__())


def check_num_points(number: int, most: int, *, param: str) -> None:
    """Refuses more points than one request may score or fill."""
    if number > most:
        raise ApiError(
            422,
            "too_many_points",
            f"The series hold {number:,} points; at most {most:,} are taken at once. Send fewer series, or less of "
            "their history.",
            param=param,
            details={"points": number, "max_points": most},
        )


def selected(frame: SeriesFrame, item_ids: Sequence[str] | None) -> SeriesFrame:
    """The named series in the order named, or all; 422 lists names that are not there."""
    if item_ids is None:
        return frame
    place = {item_id: i for i, item_id in enumerate(frame.item_ids)}
    wanted = list(dict.fromkeys(item_ids))
    if missing := [item_id for item_id in wanted if item_id not in place]:
        raise ApiError(
            422,
            "unknown_item_id",
            f"The history has no series {', '.join(map(repr, missing[:MAX_LISTED]))}.",
            param="item_ids",
            details={"missing": missing[:MAX_LISTED], "known": list(frame.item_ids[:MAX_LISTED])},
        )
    return frame.take(place[item_id] for item_id in wanted)
