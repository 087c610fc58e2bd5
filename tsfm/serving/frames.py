"""Frames put together and cut for serving."""

from collections.abc import Sequence

import numpy as np

from tsfm.series.frame import SeriesFrame


def joined(frames: Sequence[SeriesFrame]) -> SeriesFrame:
    """All series of all frames, in order. `freq` and `timezone` are the first frame's: the caller groups by them.

    Names may repeat; nothing here looks series up by name.
    """
    if len(frames) == 1:
        return frames[0]
    ends = np.cumsum([len(frame.values) for frame in frames])
    shifts = [0, *ends[:-1].tolist()]
    return SeriesFrame(
        item_ids=tuple(item_id for frame in frames for item_id in frame.item_ids),
        values=np.concatenate([frame.values for frame in frames]),
        offsets=np.concatenate(
            [np.zeros(1, dtype=np.int64), *(f.offsets[1:] + shift for f, shift in zip(frames, shifts, strict=True))]
        ),
        starts=np.concatenate([frame.starts for frame in frames]),
        freq=frames[0].freq,
        timezone=frames[0].timezone,
    )


def rolled_back(frame: SeriesFrame, *, ends: Sequence[Sequence[int]], keep: int) -> SeriesFrame:
    """For series i one series per entry of `ends[i]`: its history up to that index, at most `keep` points of it."""
    slices = [(i, max(end - keep, 0), end) for i, chosen in enumerate(ends) for end in chosen]
    parts = [frame.series(i)[begin:end] for i, begin, end in slices]
    return SeriesFrame(
        item_ids=tuple(frame.item_ids[i] for i, _, _ in slices),
        values=np.concatenate(parts) if parts else np.empty(0),
        offsets=np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64),
        starts=frame.starts[[i for i, _, _ in slices]],
        freq=frame.freq,
        timezone=frame.timezone,
    )
