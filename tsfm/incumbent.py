"""The version that served before: what a new one must beat. Torch-free."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsfm.series import freq as frequencies
from tsfm.series.frame import SeriesFrame
from tsfm.series.split import Block, Split


@dataclass(frozen=True, slots=True, kw_only=True)
class Incumbent:
    """A stored version, its artifact unpacked in `folder`; what it has seen stands in its manifest (`judged_until`)."""

    folder: Path
    name: str
    version: int
    digest: str


def judged_until(frame: SeriesFrame, split: Split) -> dict[str, Any]:
    """From when on nothing was trained on, selected by or calibrated with: the manifest's `judged_until`.

    `latest` is that time over all series, in microseconds since 1970 as in `SeriesFrame.starts`: what one series did at
    a moment says something about the others at that moment. Series of an integer index share no clock: `latest` is None
    and `items` holds the index of each. Without a test block it is the end of the history.
    """
    ends = split.block(Block.CALIBRATION)[1]
    freq = frequencies.parse(frame.freq)
    at = [
        int(freq.timestamps(int(start), 1, frame.timezone, first=int(end))[0])
        for start, end in zip(frame.starts, ends, strict=True)
    ]
    if freq.unit is frequencies.Unit.INTEGER:
        return {"latest": None, "items": dict(zip(frame.item_ids, at, strict=True))}
    return {"latest": max(at, default=0), "items": {}}


def first_unseen(facts: Mapping[str, Any], frame: SeriesFrame) -> NDArray[np.int64]:
    """[S] index of the first point of each series that a version with these `judged_until` facts has not seen.

    A series of an integer index that it does not know is unseen from its first point on.
    """
    freq = frequencies.parse(frame.freq)
    first = np.zeros(len(frame), dtype=np.int64)
    for i, (item_id, start, length) in enumerate(zip(frame.item_ids, frame.starts, frame.lengths, strict=True)):
        until = facts["items"].get(item_id) if facts["latest"] is None else facts["latest"]
        if until is not None:
            times = freq.timestamps(int(start), int(length), frame.timezone)
            first[i] = np.searchsorted(times, until)
    return first
