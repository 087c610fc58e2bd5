"""Frames from series given inline."""

from datetime import datetime, timedelta

import numpy as np
import pytest

from tests.tsfm.series.conftest import Reader
from tests.tsfm.series.frames import micros
from tsfm.errors import DataError
from tsfm.series.freq import format_timestamps
from tsfm.series.load import InlineSeries, frame_from_inline, load_frame


def test_series_become_a_frame() -> None:
    frame = frame_from_inline(
        [
            InlineSeries(item_id="a", start="2026-01-01T00:00:00", freq="H", target=[1, None, 3]),
            InlineSeries(item_id="b", start="2026-01-02", freq="h", target=[4.5]),
        ]
    )
    assert (frame.item_ids, frame.freq, frame.timezone) == (("a", "b"), "h", None)
    assert np.array_equal(frame.values, [1, np.nan, 3, 4.5], equal_nan=True)
    assert frame.starts.tolist() == [micros("2026-01-01"), micros("2026-01-02")]


def test_offsets_are_moments() -> None:
    frame = frame_from_inline([InlineSeries(item_id="a", start="2026-01-01T00:00:00+02:00", freq="h", target=[1])])
    assert (frame.timezone, frame.starts[0]) == ("+02:00", micros("2025-12-31T22:00"))


def test_a_zone_places_naive_starts() -> None:
    items = [InlineSeries(item_id="a", start="2026-07-01T00:00:00", target=[1])]
    frame = frame_from_inline(items, freq="D", timezone="Europe/Berlin")
    assert (frame.freq, frame.starts[0]) == ("D", micros("2026-06-30T22:00"))


def test_without_start_and_freq_the_index_counts() -> None:
    frame = frame_from_inline(
        [InlineSeries(item_id="a", target=[1, 2]), InlineSeries(item_id="b", start=7, target=[3])]
    )
    assert (frame.freq, frame.starts.tolist()) == ("1", [0, 7])


@pytest.mark.parametrize(
    ("items", "code", "param"),
    [
        ([], "no_series", "series"),
        ([InlineSeries(item_id="a", target=[])], "invalid_values", "series.0.target"),
        ([InlineSeries(item_id="a", target=[1, float("inf")])], "invalid_values", "series.0.target"),
        ([InlineSeries(item_id="a", start="2026-01-01", target=[1])], "freq_required", "series.0.freq"),
        ([InlineSeries(item_id="a", start="yesterday", freq="h", target=[1])], "invalid_timestamp", "series.0.start"),
        ([InlineSeries(item_id="a", start="2026-01-01", freq="1", target=[1])], "invalid_timestamp", "series.0.start"),
        ([InlineSeries(item_id="a", start=3, freq="h", target=[1])], "invalid_timestamp", "series.0.start"),
        ([InlineSeries(item_id="a", start="2026-01-03", freq="B", target=[1])], "invalid_timestamp", "series.0.start"),
        ([InlineSeries(item_id="a", target=[1])] * 2, "duplicate_item_id", "series.1.item_id"),
        (
            [
                InlineSeries(item_id="a", start="2026-01-01", freq="h", target=[1]),
                InlineSeries(item_id="b", start="2026-01-01", freq="D", target=[1]),
            ],
            "mixed_freq",
            "freq",
        ),
        (
            [
                InlineSeries(item_id="a", start="2026-01-01", freq="h", target=[1]),
                InlineSeries(item_id="b", start="2026-01-01T00:00Z", freq="h", target=[1]),
            ],
            "mixed_timezones",
            "timezone",
        ),
    ],
)  # fmt: skip
def test_refusals_name_the_place(items: list[InlineSeries], code: str, param: str) -> None:
    with pytest.raises(DataError) as caught:
        frame_from_inline(items)
    assert (caught.value.code, caught.value.param) == (code, param)


def test_only_the_ends_of_series_are_held(read: Reader) -> None:
    hours = [datetime(2023, 1, 1) + timedelta(hours=i) for i in range(80)]
    rows = [f"s{k},{t},{i + k}" for k in range(3) for i, t in enumerate(hours[: 50 + 10 * k]) if (i + k) % 5]
    reading, whole = read("id,t,y\n" + "\n".join(rows))
    ends = load_frame(read.folder / "series.parquet", reading, last=10)
    assert ends.item_ids == whole.item_ids
    for i, length in enumerate(ends.lengths.tolist()):
        assert int((~np.isnan(ends.series(i))).sum()) == 10 < length, "ten points and the missing steps between them"
        np.testing.assert_array_equal(ends.series(i), whole.series(i)[-length:])
        assert format_timestamps(ends, i, length, 2) == format_timestamps(whole, i, int(whole.lengths[i]), 2)
