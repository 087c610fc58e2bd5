"""How a task may ask a backbone: which scorings, horizons and contexts, and what is said of the others."""

from typing import Any

import numpy as np
import pytest

from tsfm import catalog, setting
from tsfm.errors import ConfigError, SeriesTooShort, TemperError, UnknownName
from tsfm.request import FinetuneRequest, resolve
from tsfm.setting import Setting, longest_gap, scoring_setting, side_length, tuned_setting
from tsfm.spec import SCORINGS, Scoring, Task

READING = {"freq": "h", "max_length": 5_000}


def request(**changes: Any) -> FinetuneRequest:
    base = {"backbone": "temper-tiny", "method": "full", "prediction_length": 32}
    return FinetuneRequest.from_mapping({**base, **changes})


def anomalies(**changes: Any) -> FinetuneRequest:
    return request(task="anomaly_detection", **changes)


def refused(**changes: Any) -> TemperError:
    with pytest.raises(TemperError) as caught:
        request(**changes)
    return caught.value


class TestScoringOfAJob:
    @pytest.mark.parametrize(
        ("backbone", "scoring"),
        [
            ("temper-tiny", "forecast"),
            ("ttm-r2", "forecast"),
            ("chronos-bolt-tiny", "forecast"),
            ("timesfm-2.5", "every_patch"),
            ("moirai-2-small", "every_patch"),
            ("moment-small", "reconstruction"),
            ("moirai-1.1-small", "reconstruction"),
            ("units-x32", "reconstruction"),
        ],
    )
    def test_each_backbone_has_its_own(self, backbone: str, scoring: str) -> None:
        assert resolve(anomalies(backbone=backbone), READING)["scoring"] == scoring

    @pytest.mark.parametrize(("steps", "scoring"), [(24, "forecast"), (32, "every_patch"), (64, "every_patch")])
    def test_blocks_that_are_no_whole_patches_are_forecast(self, steps: int, scoring: str) -> None:
        asked = anomalies(backbone="timesfm-2.5", prediction_length=steps)
        assert resolve(asked, READING)["scoring"] == scoring

    def test_asked_whole_patches_that_do_not_fit_are_refused(self) -> None:
        found = refused(task="anomaly_detection", backbone="timesfm-2.5", scoring="every_patch", prediction_length=24)
        assert found.param == "prediction_length"
        assert "32 or a multiple of it" in found.message
        assert '"scoring": "forecast"' in found.message

    def test_a_scoring_the_backbone_lacks_lists_what_it_has(self) -> None:
        found = refused(task="anomaly_detection", scoring="every_patch")
        assert (found.param, found.code) == ("scoring", "unsupported_scoring")
        assert "forecast, reconstruction" in found.message

    def test_an_unknown_scoring_lists_the_known(self) -> None:
        with pytest.raises(UnknownName) as caught:
            anomalies(scoring="distance")
        assert caught.value.param == "scoring"
        assert set(SCORINGS) <= set(caught.value.details["known"])

    @pytest.mark.parametrize("task", ["forecast", "imputation"])
    def test_scoring_belongs_to_anomaly_detection(self, task: str) -> None:
        found = refused(task=task, scoring="forecast")
        assert (found.param, type(found)) == ("scoring", ConfigError)
        assert task in found.message

    @pytest.mark.parametrize("task", ["forecast", "imputation"])
    def test_other_tasks_resolve_to_none(self, task: str) -> None:
        assert resolve(request(task=task), READING)["scoring"] is None


class TestLengthsOfAJob:
    @pytest.mark.parametrize(
        ("changes", "longest"),
        [
            ({}, 512),
            ({"task": "anomaly_detection"}, 512),
            ({"task": "anomaly_detection", "scoring": "reconstruction"}, 480),
            ({"task": "imputation"}, 480),
            ({"task": "imputation", "backbone": "ttm-r2"}, 720),
            ({"task": "imputation", "backbone": "moment-small"}, 496),
            ({"task": "imputation", "backbone": "timesfm-2.5"}, 1_024),
        ],
    )
    def test_the_longest_block_is_taken_and_one_more_refused(self, changes: dict[str, Any], longest: int) -> None:
        request(**changes, prediction_length=longest)
        found = refused(**changes, prediction_length=longest + 1)
        assert found.param == "prediction_length"
        assert f"1 and {longest}" in found.message

    def test_blocks_too_long_to_be_reconstructed_are_forecast(self) -> None:
        asked = anomalies(backbone="moment-small", prediction_length=600)
        assert resolve(asked, {"freq": "h", "max_length": 20_000})["scoring"] == "forecast"

    @pytest.mark.parametrize(
        ("changes", "limit"),
        [
            ({}, 512),
            ({"task": "imputation"}, 240),
            ({"task": "imputation", "prediction_length": 128}, 192),
            ({"task": "imputation", "prediction_length": 480}, 16),
            ({"task": "imputation", "backbone": "ttm-r2"}, 512),
            ({"task": "anomaly_detection", "scoring": "reconstruction"}, 240),
            ({"task": "anomaly_detection", "backbone": "moirai-2-small"}, 2_016),
            ({"task": "anomaly_detection", "backbone": "moirai-2-small", "scoring": "forecast"}, 2_048),
        ],
    )
    def test_the_longest_context_leaves_room_for_what_is_scored(self, changes: dict[str, Any], limit: int) -> None:
        assert resolve(request(**changes), {"freq": "h", "max_length": 50_000})["context_length"] == limit
        request(**changes, context_length=limit)
        found = refused(**changes, context_length=limit + 1)
        assert found.param == "context_length"
        assert str(limit) in found.message

    def test_both_sides_and_the_gap_fit_into_the_network(self) -> None:
        for spec in catalog.BACKBONES.values():
            if spec.reconstructs:
                for steps in (1, 24, longest_gap(spec)):
                    assert 2 * side_length(spec, steps) + steps <= spec.context_length
                    assert side_length(spec, steps) % spec.patch_length == 0

    def test_short_histories_show_less_on_each_side(self) -> None:
        resolved = resolve(request(task="imputation", prediction_length=12), {"freq": "MS", "max_length": 144})
        assert 32 <= resolved["context_length"] < 144
        with pytest.raises(SeriesTooShort):
            resolve(request(task="imputation"), {"freq": "h", "max_length": 100})


class TestOtherRefusals:
    @pytest.mark.parametrize("changes", [{"task": "imputation"}, {"task": "anomaly_detection"}])
    def test_a_landscape_is_measured_on_forecasts(self, changes: dict[str, Any]) -> None:
        if changes["task"] == "anomaly_detection":
            request(**changes, landscape=True)
            changes = {**changes, "scoring": "reconstruction"}
        assert refused(**changes, landscape=True).param == "landscape"

    def test_the_pretrained_head_that_reconstructs_is_not_replaced(self) -> None:
        found = refused(task="imputation", backbone="moment-small", method={"type": "trace", "head": "H1"})
        assert (found.param, found.code) == ("method.head", "unsupported_method")
        request(task="imputation", backbone="moment-small", method={"type": "trace", "head": "lora"})

    def test_a_head_that_was_never_published_is_needed_by_forecasts_alone(self) -> None:
        for head in ("keep", "lora"):
            trace = {"backbone": "moment-small", "method": {"type": "trace", "head": head}}
            assert refused(**trace).param == "method.head"
            request(**trace, task="imputation")
            assert refused(**trace, task="anomaly_detection", scoring="forecast").param == "method.head"

    def test_pinball_is_no_metric_to_ask_for(self) -> None:
        assert refused(task="anomaly_detection", metric="pinball").param == "gate.metric"


@pytest.mark.parametrize(
    "changes",
    [
        {"task": "imputation"},
        {"task": "anomaly_detection"},
        {"task": "anomaly_detection", "scoring": "reconstruction"},
        {"task": "anomaly_detection", "backbone": "timesfm-2.5", "prediction_length": 64},
        {"task": "anomaly_detection", "backbone": "timesfm-2.5", "prediction_length": 24, "method": "lora"},
    ],
)
def test_a_resolved_mapping_is_a_request_that_resolves_to_itself(changes: dict[str, Any]) -> None:
    once = resolve(request(**changes), READING)
    assert resolve(FinetuneRequest.from_mapping(once), READING) == once
    assert Setting.of(once).scoring == once["scoring"]


class TestSetting:
    def of(self, task: Task, scoring: Scoring | None = None) -> Setting:
        return Setting(task=task, scoring=scoring, prediction_length=6, context_length=20)

    def test_manifests_of_before_there_were_tasks_are_forecasts(self) -> None:
        found = Setting.of({"prediction_length": 6, "context_length": 20})
        assert found == self.of("forecast")

    def test_gaps_are_two_sided_and_have_rivals_of_their_own(self) -> None:
        for one in (self.of("imputation"), self.of("anomaly_detection", "reconstruction")):
            assert (one.is_two_sided, one.rivals, one.seasonal_rival) == (True, catalog.FILL_RIVALS, "seasonal_fill")
        for one in (self.of("forecast"), self.of("anomaly_detection", "forecast")):
            assert (one.is_two_sided, one.rivals, one.seasonal_rival) == (False, catalog.RIVALS, "seasonal_naive")

    def test_imputation_varies_gaps_and_scoring_does_not(self) -> None:
        limits = np.array([100])
        fills = self.of("imputation").around(24)
        scores = self.of("anomaly_detection", "reconstruction").around(24)
        assert self.of("forecast").around(24) is None
        assert fills is not None
        assert scores is not None
        shown, hidden = fills(limits), scores(limits)
        assert (shown.length, shown.period, shown.vary, shown.with_others) == (20, 24, True, True)
        assert (hidden.length, hidden.period, hidden.vary, hidden.with_others) == (20, None, False, False)
        assert shown.limits is hidden.limits is limits


class TestTunedSetting:
    FACTS = {"task": "anomaly_detection", "scoring": "forecast", "prediction_length": 6, "context_length": 20}

    def test_what_it_was_tuned_for_is_taken(self) -> None:
        for asked in ({}, {"scoring": "forecast", "prediction_length": 6}):
            assert tuned_setting("toy", self.FACTS, "anomaly_detection", **asked) == Setting.of(self.FACTS)

    def test_another_task_is_refused_and_says_both(self) -> None:
        with pytest.raises(ConfigError, match="for anomaly_detection, not for imputation") as caught:
            tuned_setting("toy", self.FACTS, "imputation")
        assert (caught.value.param, caught.value.code) == ("model", "wrong_task")

    @pytest.mark.parametrize("asked", [{"scoring": "reconstruction"}, {"prediction_length": 7}])
    def test_another_way_to_score_is_refused(self, asked: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match="tuned and calibrated") as caught:
            tuned_setting("toy", self.FACTS, "anomaly_detection", **asked)
        assert caught.value.param == next(iter(asked))


class TestScoringSetting:
    """Of what no job tuned."""

    def of(self, backbone: str | None, season: int = 24, **asked: Any) -> Setting:
        spec = None if backbone is None else catalog.backbone(backbone)
        return scoring_setting(spec, season, **{"scoring": None, "prediction_length": None, **asked})

    @pytest.mark.parametrize(("season", "steps"), [(1, 12), (24, 24), (1_440, 96)])
    def test_a_season_within_bounds_is_scored_at_once(self, season: int, steps: int) -> None:
        assert self.of("temper-tiny", season).prediction_length == steps
        assert self.of(None, season).prediction_length == steps

    @pytest.mark.parametrize(("backbone", "steps"), [("timesfm-2.5", 32), ("timer-84m", 96), ("moirai-2-small", 32)])
    def test_whole_patches_are_rounded_up(self, backbone: str, steps: int) -> None:
        found = self.of(backbone)
        assert (found.scoring, found.prediction_length) == ("every_patch", steps)

    def test_asked_steps_are_kept_and_decide_the_scoring(self) -> None:
        assert self.of("timesfm-2.5", prediction_length=20).scoring == "forecast"
        assert self.of("timesfm-2.5", prediction_length=64).scoring == "every_patch"
        with pytest.raises(ConfigError) as caught:
            self.of("timesfm-2.5", prediction_length=20, scoring="every_patch")
        assert caught.value.param == "prediction_length"

    @pytest.mark.parametrize(
        ("backbone", "asked", "param"),
        [
            ("temper-tiny", {"prediction_length": 513}, "prediction_length"),
            ("temper-tiny", {"prediction_length": 481, "scoring": "reconstruction"}, "prediction_length"),
            ("ttm-r2", {"scoring": "reconstruction"}, "scoring"),
            (None, {"scoring": "reconstruction"}, "scoring"),
        ],
    )
    def test_what_cannot_be_scored_is_refused(self, backbone: str | None, asked: dict[str, Any], param: str) -> None:
        with pytest.raises(ConfigError) as caught:
            self.of(backbone, **asked)
        assert caught.value.param == param

    def test_what_is_shown_is_bounded(self) -> None:
        assert self.of("timesfm-2.5", scoring="forecast").context_length == setting.UNTUNED_CONTEXT
        assert self.of("temper-tiny").context_length == 512
        assert self.of("temper-tiny", scoring="reconstruction").context_length == 240
        assert self.of(None).context_length == setting.RIVAL_CONTEXT
