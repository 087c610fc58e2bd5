"""Nulls from the calibration block, and what test says of them."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from tests.tsfm.series.frames import frame_of
from tsfm import null
from tsfm.errors import Cancelled
from tsfm.evaluate import Asked, rival
from tsfm.gate_verdict import FalseAlarms
from tsfm.normal import alarms_of, fit_nulls, report, scores_on
from tsfm.null import EDGE, TOGETHER
from tsfm.series.frame import SeriesFrame
from tsfm.series.split import Block, split
from tsfm.series.windows import Windows, cut
from tsfm.setting import Setting
from tsfm.spec import Scoring

HORIZON, CONTEXT = 6, 24


def windows(frame: SeriesFrame, block: Block, *, scoring: Scoring = "forecast", horizon: int = HORIZON) -> Windows:
    setting = Setting(task="anomaly_detection", scoring=scoring, prediction_length=horizon, context_length=CONTEXT)
    blocks = split(frame, context_length=CONTEXT, prediction_length=horizon, patch_length=4)
    return cut(frame, blocks, block, context_length=CONTEXT, prediction_length=horizon, around=setting.around(1))


def noise(*lengths: int, seed: int = 0, freq: str = "D", walk: bool = False) -> SeriesFrame:
    rng = np.random.default_rng(seed)
    rows = [10 + rng.standard_normal(length) for length in lengths]
    return frame_of(*(row.cumsum() if walk else row for row in rows), freq=freq)


def naive() -> Asked:
    return rival("naive", context_length=CONTEXT)


class TestScoresOn:
    def test_they_are_distances_in_the_scale_of_what_the_block_is_shown(self) -> None:
        frame = noise(400)
        shown = windows(frame, Block.TEST)
        found, y = scores_on(naive(), shown), frame.series(0)
        for w in (0, 17, len(shown) - 1):
            at = int(shown.origin[w])
            want = np.abs(y[at : at + HORIZON] - y[at - 1]) / y[at - CONTEXT : at].std()
            assert found[w] == pytest.approx(want, rel=1e-4, abs=1e-5)

    def test_missing_targets_have_none(self) -> None:
        frame = noise(400)
        frame.values[390:395] = np.nan
        shown = windows(frame, Block.TEST)
        assert np.array_equal(np.isnan(scores_on(naive(), shown)), np.isnan(shown.raw_target(np.arange(len(shown)))))

    def test_a_source_is_shown_what_it_was_judged_with(self) -> None:
        shown = windows(noise(400), Block.TEST)
        mean = Asked(source=rival("window_mean", context_length=CONTEXT).source, context_length=4)
        short = dataclasses.replace(shown, context_length=4)
        assert np.array_equal(scores_on(mean, shown), scores_on(mean, short))

    def test_a_stop_is_seen(self) -> None:
        with pytest.raises(Cancelled, match="scoring"):
            scores_on(naive(), windows(noise(400), Block.TEST), should_stop=lambda: "cancelled")


class TestFitNulls:
    def test_every_source_has_its_own(self) -> None:
        asked = {"naive": naive(), "window_mean": rival("window_mean", context_length=CONTEXT)}
        found = fit_nulls(asked, windows(noise(400), Block.CALIBRATION))
        assert set(found) == set(asked)
        assert not np.array_equal(found["naive"].scores, found["window_mean"].scores)

    def test_nothing_outside_the_calibration_block_is_scored(self) -> None:
        frame = noise(400)
        blocks = split(frame, context_length=CONTEXT, prediction_length=HORIZON, patch_length=4)
        begin, end = (int(edge[0]) for edge in blocks.block(Block.CALIBRATION))
        other = frame_of(np.where(np.arange(400) < end, frame.values, 1e6), freq="D")
        for scoring, name in (("forecast", "naive"), ("reconstruction", "linear_fill")):
            asked = {name: rival(name, context_length=CONTEXT)}
            one, two = (fit_nulls(asked, windows(f, Block.CALIBRATION, scoring=scoring)) for f in (frame, other))
            assert null.to_bytes(one) == null.to_bytes(two)
            assert one[name].count == end - begin

    def test_blocks_seen_from_both_sides_have_a_null_of_the_edge_too(self) -> None:
        """On a walk a line between two neighbours is nearer than the last value alone."""
        asked = {"linear_fill": rival("linear_fill", context_length=CONTEXT)}
        found = fit_nulls(asked, windows(noise(900, walk=True), Block.CALIBRATION, scoring="reconstruction"))
        assert set(found) == {"linear_fill", f"linear_fill{EDGE}"}
        inner, edge = found["linear_fill"].units, found[f"linear_fill{EDGE}"].units
        assert edge[-1] > 1.5 * inner[-1]
        assert (np.diff(edge) > 0).all(), "farther from its only side, less is known"

    @pytest.mark.parametrize(("lengths", "there"), [((400,), False), ((400, 400), True), ((400, 390), False)])
    def test_only_series_that_share_a_clock_have_one_of_all_together(
        self, lengths: tuple[int, ...], there: bool
    ) -> None:
        found = fit_nulls({"naive": naive()}, windows(noise(*lengths), Block.CALIBRATION))
        assert (f"naive{TOGETHER}" in found) is there

    def test_the_one_of_all_together_is_of_mean_squares(self) -> None:
        """Two equal series: the aggregate of a moment is the score of either."""
        row = noise(400).series(0)
        found = fit_nulls({"naive": naive()}, windows(frame_of(row, row, freq="D"), Block.CALIBRATION))
        own, joint = found["naive"], found[f"naive{TOGETHER}"]
        assert joint.scores * joint.units == pytest.approx(own.scores[::2], rel=1e-5)
        assert joint.count == own.count / 2

    def test_moments_that_a_series_was_not_scored_at_are_no_part_of_it(self) -> None:
        frame = noise(400, 400)
        frame.series(1)[290:312] = np.nan  # whole targets of the calibration block, 280 to 320
        shown = windows(frame, Block.CALIBRATION)
        assert shown.num_dropped > 0
        joint = fit_nulls({"naive": naive()}, shown)[f"naive{TOGETHER}"]
        both = set(shown.origin[shown.series == 0].tolist()) & set(shown.origin[shown.series == 1].tolist())
        assert joint.count == len({origin + k for origin in both for k in range(HORIZON)})
        assert len(joint.scores) == len(both) * HORIZON

    def test_too_little_history_has_none(self) -> None:
        frame = noise(400)
        frame.values[:] = np.nan
        assert fit_nulls({"naive": naive()}, windows(frame, Block.CALIBRATION)) == {}


class TestResolution:
    """72 points in overlapping blocks of 24 are 1,176 scores, and still 72 points."""

    def test_a_point_counts_once_however_many_blocks_score_it(self) -> None:
        found = fit_nulls({"naive": naive()}, windows(noise(720), Block.CALIBRATION, horizon=24))["naive"]
        assert (len(found.scores), found.count, found.num_scores) == (49 * 24, 72, 72)
        assert [found.resolves(level) for level in (90.0, 98.0, 99.0, 99.9)] == [True, True, False, False]
        assert null.from_bytes(null.to_bytes({"naive": found}))["naive"].num_scores == 72

    def test_series_add_points_and_missing_ones_do_not(self) -> None:
        frame = noise(720, 720)
        frame.values[550:560] = np.nan  # the calibration block is 504 to 576
        found = fit_nulls({"naive": naive()}, windows(frame, Block.CALIBRATION, horizon=24))
        assert found["naive"].count == 2 * 72 - 10

    def test_far_levels_keep_within_a_few_times_their_rate(self) -> None:
        mean, rates = {"mean": rival("window_mean", context_length=CONTEXT)}, []
        for seed in range(60):
            frame = noise(720, seed=seed)
            known = fit_nulls(mean, windows(frame, Block.CALIBRATION, horizon=24))["mean"]
            raw = scores_on(mean["mean"], windows(frame, Block.TEST, horizon=24))
            scores = known.in_units(raw, np.broadcast_to(np.arange(24), raw.shape))
            rates.append((known.p_values(scores, np.full(raw.shape, 0.5), level=99.9) < 1e-3).mean())
        assert np.mean(rates) < 6e-3


class TestReport:
    def of(self, frame: SeriesFrame, *, with_test: bool = True) -> dict[str, Any]:
        asked = {"naive": naive()}
        nulls = fit_nulls(asked, windows(frame, Block.CALIBRATION))
        return report(nulls, asked, windows(frame, Block.TEST) if with_test else None)["naive"]

    def test_normal_points_are_called_anomalies_as_often_as_asked(self) -> None:
        found = self.of(noise(*[2_000] * 8, seed=1))
        assert found["false_alarms"]["90"] == pytest.approx(0.1, abs=0.02)
        assert found["false_alarms"]["99"] == pytest.approx(0.01, abs=0.004)
        assert found["extrapolated"] == []
        assert found["drift"]["drifted"] is False

    def test_what_has_changed_since_is_drift(self) -> None:
        frame = noise(*[2_000] * 8, seed=1)
        for i in range(8):
            frame.series(i)[1_580:] = np.arange(420.0)  # the last value is never far off a line
        found = self.of(frame)
        assert found["drift"]["drifted"] is True
        assert found["drift"]["share_beyond_90"] < 0.02
        assert alarms_of(found) == FalseAlarms(level=99.0, rate=0.0)

    def test_without_test_nothing_is_counted(self) -> None:
        found = self.of(noise(400), with_test=False)
        assert (found["false_alarms"], found["drift"]) == (None, None)
        assert found["extrapolated"] == [99.0]
        assert alarms_of(found) is None

    def test_a_test_block_without_values_counts_nothing(self) -> None:
        frame = noise(400)
        frame.values[320:] = np.nan
        assert self.of(frame)["false_alarms"] is None

    def test_a_source_without_a_null_is_left_out(self) -> None:
        assert report({}, {"naive": naive()}, windows(noise(400), Block.TEST)) == {}
        assert alarms_of(None) is None
