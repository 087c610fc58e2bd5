"""Sources measured on gaps: the plain fills see as much of both sides as they can use."""

from dataclasses import replace

import numpy as np
import pytest

from tests.tsfm.series.frames import frame_of
from tsfm.evaluate import measure, rival
from tsfm.metrics import Scales
from tsfm.series.frame import SeriesFrame
from tsfm.series.split import Block, split
from tsfm.series.windows import Windows, cut
from tsfm.setting import Setting

ONE = Scales(mase=np.ones(1), rmsse=np.ones(1), season=1, num_fallbacks={})
PERIOD, CONTEXT, HORIZON = 24, 12, 6


def gaps(frame: SeriesFrame) -> Windows:
    """Of all of H steps, nothing else missing, each with two seasons of the block on both sides."""
    setting = Setting(
        task="anomaly_detection", scoring="reconstruction", prediction_length=HORIZON, context_length=CONTEXT
    )
    blocks = split(frame, context_length=CONTEXT, prediction_length=HORIZON, patch_length=4)
    around = setting.around(PERIOD)
    windows = cut(frame, blocks, Block.TRAIN, context_length=CONTEXT, prediction_length=HORIZON, around=around)
    end = int(blocks.block(Block.TRAIN)[1][0])
    inside = (windows.origin >= 2 * PERIOD) & (windows.origin + HORIZON + 2 * PERIOD < end)
    return replace(windows, series=windows.series[inside], origin=windows.origin[inside])


def test_a_season_longer_than_the_context_is_seen_on_both_sides() -> None:
    """A season on a trend: the mean of the seasons before and behind is exact, either alone is off by 24."""
    season = np.random.default_rng(0).standard_normal(PERIOD)
    frame = frame_of(np.arange(600.0) + np.tile(season, 25))
    asked = rival("seasonal_fill", context_length=CONTEXT, period=PERIOD)
    assert measure(asked, gaps(frame), ONE).result()["mae"] == pytest.approx(0.0, abs=1e-3)


def test_nothing_behind_the_block_is_seen_however_much_is_asked_for() -> None:
    values = np.arange(600.0)
    blocks = split(frame_of(values), context_length=CONTEXT, prediction_length=HORIZON, patch_length=4)
    end = int(blocks.block(Block.TRAIN)[1][0])
    other = np.where(np.arange(600) < end, values, -1e9)
    asked = rival("seasonal_fill", context_length=CONTEXT, period=PERIOD)
    one, two = (measure(asked, gaps(frame_of(y)), ONE).result() for y in (values, other))
    assert one == two


def test_showing_keeps_everything_else() -> None:
    windows = gaps(frame_of(np.arange(600.0)))
    wide = windows.showing(40)
    assert wide.around is not None
    assert (wide.context_length, wide.around.length, len(wide)) == (40, 40, len(windows))
    assert wide.around.limits is (windows.around.limits if windows.around else None)
    batch = wide.batch([0])
    assert batch.after is not None
    assert (batch.context.shape, batch.after.shape) == ((1, 40), (1, 40))
