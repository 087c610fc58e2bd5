"""Rolling-origin scores against arithmetic by hand."""

import numpy as np
import pytest

from tests import toy
from tsfm.evaluate import judge_rivals, score, score_rival
from tsfm.metrics import scales_of
from tsfm.series.frame import SeriesFrame
from tsfm.series.split import Block, split
from tsfm.series.windows import Windows, cut
from tsfm.tasks.forecast import RivalSource


def series(*rows: np.ndarray) -> SeriesFrame:
    return SeriesFrame(
        item_ids=tuple(str(i) for i in range(len(rows))),
        values=np.concatenate(rows),
        offsets=np.concatenate([[0], np.cumsum([len(r) for r in rows])]).astype(np.int64),
        starts=np.zeros(len(rows), dtype=np.int64),
        freq="h",
    )


def block_of(frame: SeriesFrame, block: Block, *, context_length: int = 48) -> Windows:
    blocks = split(frame, context_length=context_length, prediction_length=6, patch_length=4)
    return cut(frame, blocks, block, context_length=context_length, prediction_length=6)


def test_scores_are_the_mean_over_origins() -> None:
    y = np.random.default_rng(0).normal(size=400)
    frame = series(y)
    windows = block_of(frame, Block.TEST)
    scales = scales_of(frame, split(frame, context_length=48, prediction_length=6, patch_length=4), season=24)
    found = score(RivalSource("naive", period=1), windows, scales)
    by_hand = np.mean([np.abs(y[o : o + 6] - y[o - 1]) for o in windows.origin])
    assert found["mae"] == pytest.approx(by_hand, rel=1e-6)
    assert found["mase"] == pytest.approx(by_hand / scales.mase[0], rel=1e-6)


def test_seasonal_naive_sees_past_a_short_context() -> None:
    y = np.tile(np.random.default_rng(0).normal(size=168), 8)
    frame = series(y)
    windows = block_of(frame, Block.TEST, context_length=48)
    scales = scales_of(frame, split(frame, context_length=48, prediction_length=6, patch_length=4), season=24)
    assert score_rival("seasonal_naive", windows, scales, period=168)["mae"] == pytest.approx(0.0, abs=1e-6)


def test_the_period_of_seasonal_naive_is_chosen_on_validation() -> None:
    weekly = np.tile(np.random.default_rng(0).normal(size=168), 12)
    end_of_validation = int(0.7 * len(weekly))
    daily_later = weekly.copy()
    daily_later[end_of_validation:] = np.tile(weekly[:24], 50)[: len(weekly) - end_of_validation]
    for y in (weekly, daily_later):
        frame = series(y)
        scales = scales_of(frame, split(frame, context_length=48, prediction_length=6, patch_length=4), season=24)
        found = judge_rivals(
            block_of(frame, Block.VALIDATION), block_of(frame, Block.TEST), scales, metric="mase", periods=(24, 168)
        )
        assert [c["name"] for c in found] == ["naive", "seasonal_naive", "window_mean"]
        assert found[1]["period"] == 168


def test_more_series_weigh_the_same_whatever_their_windows() -> None:
    frame = toy.frame(num_series=2)
    short = SeriesFrame(
        item_ids=("long", "short"),
        values=np.concatenate([frame.series(0), frame.series(1)[-150:]]),
        offsets=np.array([0, 240, 390], dtype=np.int64),
        starts=np.array([0, 90 * 3_600_000_000], dtype=np.int64),
        freq="h",
    )
    blocks = split(short, context_length=32, prediction_length=6, patch_length=4)
    windows = cut(short, blocks, Block.VALIDATION, context_length=32, prediction_length=6)
    scales = scales_of(short, blocks, season=24)
    together = score(RivalSource("naive", period=1), windows, scales)
    alone = []
    for i in range(2):
        chosen = np.flatnonzero(windows.series == i)
        assert len(chosen)
        errors = []
        for k in chosen:
            target = windows.raw_target([k])[0]
            history = short.series(i)[: windows.origin[k]]
            last = history[~np.isnan(history)][-1]
            errors.append(np.abs(target - last)[~np.isnan(target)])
        alone.append(np.concatenate(errors).mean())
    assert together["mae"] == pytest.approx(np.mean(alone), rel=1e-6)
