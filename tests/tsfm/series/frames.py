"""Frames for tests, made in one line."""

from collections.abc import Sequence

import numpy as np

from tsfm.series.frame import SeriesFrame


def micros(text: str) -> int:
    return int(np.datetime64(text, "us").astype(np.int64))


def frame_of(
    *series: Sequence[float] | np.ndarray,
    freq: str = "h",
    starts: Sequence[str] | None = None,
    timezone: str | None = None,
) -> SeriesFrame:
    parts = [np.asarray(s, dtype=np.float64) for s in series]
    begins = [0] * len(parts) if freq == "1" else [micros(t) for t in starts or ["2020-01-01"] * len(parts)]
    return SeriesFrame(
        item_ids=tuple(f"s{i}" for i in range(len(parts))),
        values=np.concatenate(parts),
        offsets=np.concatenate([[0], np.cumsum([len(p) for p in parts])]).astype(np.int64),
        starts=np.array(begins, dtype=np.int64),
        freq=freq,
        timezone=timezone,
    )
