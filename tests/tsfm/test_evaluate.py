"""The verdict from numbers alone, and rolling-origin scores against arithmetic by hand."""

from typing import Any

import numpy as np
import pytest

from tests import toy
from tsfm.evaluate import judge_rivals, score, score_rival, verdict
from tsfm.metrics import scales_of
from tsfm.series.frame import SeriesFrame
from tsfm.series.split import Block, split
from tsfm.series.windows import Windows, cut
from tsfm.tasks.forecast import RivalSource


def candidates(**test_errors: float) -> list[dict[str, Any]]:
    base = {"tuned": 1.0, "zero_shot": 1.0, "naive": 2.0, "seasonal_naive": 2.0, "window_mean": 2.0}
    return [
        {"name": name, "validation": {"mase": 9.0}, "test": {"mase": error, "num_windows": 50}}
        for name, error in {**base, **test_errors}.items()
    ]


class TestVerdict:
    def test_below_everything_is_promoted(self) -> None:
        found = verdict(candidates(tuned=0.9), metric="mase", method="full")
        assert (found["promoted"], found["winner"], found["fallback"]) == (True, "tuned", None)
        assert "0.9" in found["reason"]
        assert "50 test windows" in found["reason"]

    def test_a_tie_with_zero_shot_is_not_a_win(self) -> None:
        found = verdict(candidates(), metric="mase", method="full")
        assert (found["promoted"], found["winner"], found["fallback"]) == (False, "zero_shot", "zero_shot")

    def test_zero_shot_unbeaten_is_served_even_where_a_rival_is_best(self) -> None:
        found = verdict(candidates(tuned=1.1, naive=0.5), metric="mase", method="full")
        assert (found["winner"], found["fallback"]) == ("naive", "zero_shot")

    def test_one_unbeaten_rival_blocks_promotion(self) -> None:
        found = verdict(candidates(tuned=0.9, window_mean=0.8, naive=0.85), metric="mase", method="full")
        assert (found["promoted"], found["winner"], found["fallback"]) == (False, "window_mean", "window_mean")
        assert "did not beat naive, window_mean, so window_mean is served" in found["reason"]

    def test_without_test_windows_nothing_is_promoted(self) -> None:
        asked = [{**c, "test": None} for c in candidates(tuned=0.1)]
        found = verdict(asked, metric="mase", method="full")
        assert (found["promoted"], found["fallback"], found["test_windows"]) == (False, None, 0)


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
