"""Anomaly scores through a live gateway: numbers, layouts, what answers, refusals, load."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.app.forecasts.conftest import Gateway, gateway, series
from tests.app.tasks import LENGTH, Models, Route, csv_of, models_for, wave
from tests.app.tuned import frame

__all__ = ["gateway"]
SPIKE = 380
CAPS = ("max_windows_per_epoch", "max_validation_windows", "max_calibration_windows", "max_test_windows")
ROUTE = Route("/v1/anomalies")
post, ok, refused = ROUTE.post, ROUTE.ok, ROUTE.refused


@pytest.fixture(scope="module", autouse=True)
def models(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory, toy_weights: Path) -> Iterator[Models]:
    with models_for("anomaly_detection", gateway, tmp_path_factory.mktemp("scored"), toy_weights) as found:
        yield found


@pytest.fixture(scope="module")
def rebuilt(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory, toy_weights: Path) -> Iterator[Models]:
    few = {"max_epochs": 1, "learning_rate": 1e-3, **dict.fromkeys(CAPS, 24)}
    how = {"backbone": "temper-tiny", "scoring": "reconstruction", "hyperparameters": few}
    with models_for("anomaly_detection", gateway, tmp_path_factory.mktemp("rebuilt"), toy_weights, **how) as found:
        yield found


def spiked(*, seed: int = 0, at: int = SPIKE) -> list[float | None]:
    found: list[float | None] = [*wave(seed=seed)]
    found[at] = 60.0
    return found


def asked(model: str = "toy", *many: list[float | None], **more: Any) -> dict[str, Any]:
    sent = [series(one, item_id=f"s{i}") for i, one in enumerate(many or (spiked(),))]
    return {"model": model, "series": sent, "detection_size": 48, **more}


class TestNumbers:
    @pytest.mark.parametrize("model", ["toy", "temper-tiny", "seasonal_naive", "naive", "window_mean"])
    def test_a_spike_is_an_alarm_and_an_event(self, gateway: Gateway, model: str) -> None:
        answer = ok(gateway, asked(model))
        (one,) = answer["series"]
        at = SPIKE - (LENGTH - 48)
        assert (len(one["value"]), one["value"][at]) == (48, 60.0)
        assert one["timestamps"][at] == "2026-01-16T20:00:00"
        assert one["is_anomaly"][at] is True
        assert one["score"][at] == max(one["score"]) > 1.0
        assert one["severity"][at] == max(one["severity"]) > 1.0
        assert one["p_value"][at] < 0.01
        assert not one["lower"][at] <= 60.0 <= one["upper"][at]
        assert one["num_anomalies"] == sum(one["is_anomaly"])
        (event,) = [e for e in one["events"] if e["start"] <= one["timestamps"][at] <= e["end"]]
        assert event["peak_score"] == pytest.approx(one["score"][at])
        assert event["peak_severity"] == pytest.approx(one["severity"][at])
        assert sum(e["points"] for e in one["events"]) == one["num_anomalies"]
        assert answer["object"] == "anomalies"
        assert answer["null"]["source"] == "history"
        assert (answer["calibrated"], one["fallback"]) == (False, None)
        assert answer["drift"]["points"] == 48
        assert set(answer["timing_ms"]) == {"queue", "load", "compute"}

    def test_what_lies_outside_of_the_bounds_is_an_alarm(self, gateway: Gateway) -> None:
        """Inside, only what the last rank of the null leaves to chance, so that the rate is exact."""
        answer = ok(gateway, asked("toy", level=90, detection_size=100))
        (one,) = answer["series"]
        low, value, high = (np.array(one[name]) for name in ("lower", "value", "upper"))
        sure = np.minimum(abs(value - low), abs(value - high)) > 1e-4  # not within the rounding of the answer
        outside = (value < low) | (value > high)
        alarm, p = np.array(one["is_anomaly"]), np.array(one["p_value"])
        assert alarm[sure & outside].all()
        assert outside.any()
        assert (p[alarm & sure & ~outside] > 0.1 - 1.0 / (answer["null"]["num_scores"] + 1) - 1e-6).all()
        np.testing.assert_array_equal(np.array(one["score"]) > 1.0, one["is_anomaly"])

    def test_without_a_window_everything_with_history_is_scored(self, gateway: Gateway) -> None:
        answer = ok(gateway, asked("toy", detection_size=None))
        (one,) = answer["series"]
        assert 300 < len(one["value"]) < LENGTH
        assert one["value"] == spiked()[-len(one["value"]) :]
        assert answer["drift"] is None, "the points are the null themselves"

    def test_a_lower_level_alarms_more_often(self, gateway: Gateway) -> None:
        low, high = (ok(gateway, asked("toy", level=level, detection_size=200)) for level in (60, 99))
        assert (low["level"], high["level"]) == (60.0, 99.0)
        assert low["series"][0]["num_anomalies"] > 3 * high["series"][0]["num_anomalies"]
        assert low["series"][0]["p_value"] == pytest.approx(high["series"][0]["p_value"], abs=1e-6)

    def test_a_level_beyond_the_history_is_extrapolated_and_said(self, gateway: Gateway) -> None:
        answer = ok(gateway, asked("toy", level=99.9))
        assert answer["extrapolated"] is True
        assert any(note.startswith("Level 99.9 needs 1,000 null scores") for note in answer["notes"])
        assert ok(gateway, asked("toy", level=90))["extrapolated"] is False

    def test_a_constant_series_has_no_alarm(self, gateway: Gateway) -> None:
        answer = ok(gateway, asked("naive", [5.0] * LENGTH))
        assert answer["series"][0]["num_anomalies"] == 0
        assert answer["series"][0]["events"] == []

    def test_where_a_constant_ends_the_severity_is_the_largest_number(self, gateway: Gateway) -> None:
        (one,) = ok(gateway, asked("naive", [5.0] * (LENGTH - 1) + [6.0]))["series"]
        assert one["is_anomaly"][-1] is True
        assert one["severity"][-1] == pytest.approx(np.finfo(np.float32).max)
        assert one["events"][-1]["peak_severity"] == pytest.approx(np.finfo(np.float32).max)

    def test_a_missing_value_has_no_score(self, gateway: Gateway) -> None:
        values = spiked()
        values[-3] = None
        (one,) = ok(gateway, asked("toy", values))["series"]
        for name in ("value", "score", "p_value", "severity"):
            assert one[name][-3] is None, name
            assert None not in one[name][:-3], name
        assert one["is_anomaly"][-3] is False

    def test_series_too_short_are_skipped_and_named(self, gateway: Gateway) -> None:
        answer = ok(gateway, asked("toy", spiked(), [1.0] * 20))
        assert [one["item_id"] for one in answer["series"]] == ["s0"]
        assert answer["skipped"] == ["s1"]

    def test_alarms_next_to_each_other_are_one_event(self, gateway: Gateway) -> None:
        values = spiked()
        values[SPIKE + 1] = values[SPIKE + 3] = 60.0
        (one,) = ok(gateway, asked("seasonal_naive", values))["series"]
        (event,) = [e for e in one["events"] if e["start"] <= "2026-01-16T20:00:00" <= e["end"]]
        assert event["end"] >= "2026-01-16T23:00:00"

    def test_prediction_length_and_scoring_of_a_backbone(self, gateway: Gateway) -> None:
        answer = ok(gateway, asked("temper-tiny", scoring="reconstruction", prediction_length=16))
        assert (answer["scoring"], answer["prediction_length"]) == ("reconstruction", 16)
        assert ok(gateway, asked("temper-tiny"))["scoring"] == "forecast"


class TestSystem:
    def test_contributions_add_up_to_1_and_name_the_cause(self, gateway: Gateway) -> None:
        answer = ok(gateway, asked("toy", spiked(), [*wave(seed=1)], [*wave(seed=2)], multivariate=True))
        system, at = answer["system"], SPIKE - (LENGTH - 48)
        assert system["timestamps"] == answer["series"][0]["timestamps"]
        shares = np.array([system["contributions"][name] for name in ("s0", "s1", "s2")])
        np.testing.assert_allclose(shares.sum(0), 1.0, rtol=1e-5)
        assert shares[:, at].argmax() == 0
        assert shares[0, at] > 0.9
        assert system["is_anomaly"][at] is True
        assert system["num_anomalies"] == sum(system["is_anomaly"])
        assert (system["calibrated"], answer["calibrated"]) == (False, False)
        assert ok(gateway, asked("toy", spiked(), [*wave(seed=1)]))["system"] is None

    def test_series_without_a_common_clock_are_refused(self, gateway: Gateway) -> None:
        body = asked("toy", spiked(), [*wave(300, seed=1)], multivariate=True)
        assert refused(gateway, body) == (422, "invalid_config", "multivariate")
        assert refused(gateway, asked("toy", multivariate=True)) == (422, "invalid_config", "multivariate")


class TestTuned:
    def test_a_job_says_what_is_normal(self, gateway: Gateway, models: Models) -> None:
        """So that one context of history is enough."""
        short = spiked()[-90:]
        answer = ok(gateway, asked(models.won.name, short, detection_size=24))
        assert (answer["model"], answer["version"]) == (models.won.name, 1)
        assert answer["calibrated"] is True
        assert answer["null"]["source"] == "calibration"
        assert answer["prediction_length"] == 8
        (one,) = answer["series"]
        assert one["is_anomaly"][24 - (LENGTH - SPIKE)] is True
        assert (one["fallback"], one["digest"]) == (None, answer["digest"])
        assert not any(one["in_sample"]), "another series than it was trained with"

    def test_what_is_served_is_what_was_not_beaten_with_the_job_s_nulls(self, gateway: Gateway, models: Models) -> None:
        served = ok(gateway, asked(models.lost.name))
        (one,) = served["series"]
        assert (one["fallback"], served["calibrated"], one["version"]) == ("zero_shot", True, None)
        assert served["null"]["source"] == "calibration"
        assert one["is_anomaly"][SPIKE - (LENGTH - 48)] is True
        (own,) = ok(gateway, asked(f"{models.lost.name}@1"))["series"]
        assert own["fallback"] is None
        assert own["expected"] != one["expected"]
        plain = ok(gateway, asked("toy", prediction_length=8))
        assert plain["series"][0]["expected"] == pytest.approx(one["expected"], rel=1e-5)
        assert plain["calibrated"] is False

    @pytest.mark.parametrize("fallback", ["naive", "seasonal_naive", "window_mean"])
    def test_a_rival_that_was_not_beaten_has_the_job_s_null_too(
        self, gateway: Gateway, models: Models, fallback: str
    ) -> None:
        answer = ok(gateway, asked(models.beaten_by(fallback).name))
        (one,) = answer["series"]
        assert (one["fallback"], answer["calibrated"], answer["prediction_length"]) == (fallback, True, 8)
        assert one["is_anomaly"][SPIKE - (LENGTH - 48)] is True
        plain = ok(gateway, asked(fallback, prediction_length=8))
        assert plain["calibrated"] is False

    def test_the_version_before_answers_with_its_own_null_where_it_was_not_beaten(
        self, gateway: Gateway, models: Models
    ) -> None:
        name = models.not_succeeded()
        answer = ok(gateway, asked(name))
        (one,) = answer["series"]
        assert (answer["model"], one["version"], one["fallback"]) == (name, 1, "incumbent")
        assert (answer["calibrated"], answer["null"]["source"]) == (True, "calibration")
        assert "Version 2 did not beat version 1." in answer["notes"]
        assert one["is_anomaly"][SPIKE - (LENGTH - 48)] is True
        (itself,) = ok(gateway, asked(f"{name}@1"))["series"]
        assert (itself["fallback"], itself["score"]) == (None, one["score"])

    def test_a_system_of_as_many_series_has_the_job_s_null(self, gateway: Gateway, models: Models) -> None:
        two = asked(models.won.name, spiked(), [*wave(seed=1)], multivariate=True)
        assert ok(gateway, two)["system"]["calibrated"] is True
        three = asked(models.won.name, spiked(), [*wave(seed=1)], [*wave(seed=2)], multivariate=True)
        assert ok(gateway, three)["system"]["calibrated"] is False

    def test_training_points_are_marked(self, gateway: Gateway, models: Models) -> None:
        whole = frame()
        sent = [series(whole.series(i).tolist(), item_id=f"s{i}", start="1970-01-01T00:00:00") for i in range(2)]
        body = {"model": models.won.name, "series": sent}
        seen = ok(gateway, body)["series"][0]["in_sample"]
        assert seen[0] is True
        assert seen[-1] is False
        assert seen == sorted(seen, reverse=True)

    def test_the_job_s_setting_is_not_to_be_changed(self, gateway: Gateway, models: Models) -> None:
        assert refused(gateway, asked(models.won.name, prediction_length=5))[::2] == (422, "prediction_length")


class TestReconstruction:
    @pytest.mark.parametrize("fallback", [None, "zero_shot", "linear_fill", "seasonal_fill"])
    def test_what_answers_for_it_reconstructs_too(
        self, gateway: Gateway, rebuilt: Models, fallback: str | None
    ) -> None:
        name = rebuilt.won.name if fallback is None else rebuilt.beaten_by(fallback).name
        answer = ok(gateway, asked(name))
        (one,) = answer["series"]
        assert (answer["scoring"], answer["calibrated"], one["fallback"]) == ("reconstruction", True, fallback)
        assert one["score"][SPIKE - (LENGTH - 48)] == max(one["score"])


class TestLayouts:
    def test_a_csv_body_is_scored_like_the_same_series_inline(self, gateway: Gateway) -> None:
        query = {"model": "toy", "detection_size": "48", "level": "97.5", "multivariate": "false"}
        response = ROUTE.send_csv(gateway, csv_of(spiked()), **query)
        assert response.status_code == 200, response.text
        expected = ok(gateway, asked("toy", level=97.5))
        (one,), (other,) = response.json()["series"], expected["series"]
        assert response.json()["level"] == 97.5
        assert one["timestamps"] == other["timestamps"]
        assert one["score"] == pytest.approx(other["score"])

    @pytest.mark.parametrize("gap", [False, True])
    def test_the_csv_answer_says_what_the_json_does(self, gateway: Gateway, gap: bool) -> None:
        values = spiked()
        if gap:
            values[-5] = None
        body = asked("toy", values, [*wave(seed=1)])
        response = ROUTE.as_csv(gateway, body)
        assert response.headers["content-type"] == "text/csv; charset=utf-8"
        rows = list(csv.DictReader(io.StringIO(response.text)))
        expected = ok(gateway, body)["series"]
        assert [row["item_id"] for row in rows] == ["s0"] * 48 + ["s1"] * 48
        for k, one in enumerate(expected):
            mine = rows[48 * k : 48 * (k + 1)]
            assert [row["timestamp"] for row in mine] == one["timestamps"]
            for name in ("value", "expected", "lower", "upper", "score", "p_value", "severity"):
                found = [float(row[name] or "nan") for row in mine]
                np.testing.assert_allclose(found, np.array(one[name], dtype=np.float64), rtol=1e-6, err_msg=name)
            for name in ("is_anomaly", "in_sample"):
                assert [row[name] == "true" for row in mine] == one[name]


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "param"),
        [
            ({"level": 30}, "level"),
            ({"level": 100}, "level"),
            ({"level": "99"}, "level"),
            ({"detection_size": 0}, "detection_size"),
            ({"detection_size": 10**30}, "detection_size"),
            ({"prediction_length": 0}, "prediction_length"),
            ({"prediction_length": 100_000}, "prediction_length"),
            ({"scoring": "guess"}, "scoring"),
            ({"multivariate": "yes"}, "multivariate"),
            ({"window": 3}, "window"),
            ({"levels": [80]}, "levels"),
        ],
    )
    def test_a_wrong_field_is_422_and_named(self, gateway: Gateway, change: dict[str, Any], param: str) -> None:
        status, _, found = refused(gateway, asked("toy", **change))
        assert (status, found) == (422, param)

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("level", "x"),
            ("level", "nan"),
            ("level", "100"),
            ("detection_size", "0"),
            ("detection_size", "1.5"),
            ("detection_size", "99999999999"),
            ("prediction_length", "-1"),
            ("multivariate", "perhaps"),
            ("scoring", "7"),
            ("levels", "80"),
        ],
    )
    def test_of_a_csv_too(self, gateway: Gateway, name: str, text: str) -> None:
        response = ROUTE.send_csv(gateway, csv_of(spiked()), **{"model": "toy", name: text})
        assert response.status_code == 422, response.text
        assert response.json()["error"]["param"] == name

    def test_no_more_than_the_longest_block_is_scored_at_once(self, gateway: Gateway) -> None:
        """Of a rival, too, which itself has no limit: a block that long would be laid out in memory."""
        for length in (gateway.settings.max_prediction_length + 1, 10**12, 10**30):
            body = asked("naive", prediction_length=length)
            assert refused(gateway, body) == (422, "prediction_length_too_long", "prediction_length")

    def test_a_short_series_says_have_and_need(self, gateway: Gateway) -> None:
        body = asked("toy", [1.0, 2.0, 3.0] * 3, detection_size=None)
        error = post(gateway, body).json()["error"]
        assert (error["code"], error["details"]["have"]) == ("series_too_short", 9)
        assert error["details"]["need"] > 9
        assert refused(gateway, body) == (422, "series_too_short", "series")

    def test_a_history_too_short_for_a_null(self, gateway: Gateway) -> None:
        """One context is there, and fewer than twenty points behind it."""
        status, code, _ = refused(gateway, asked("toy", [*wave(90)], detection_size=48))
        assert (status, code) == (422, "series_too_short")

    def test_nothing_observed_where_it_was_to_be_scored(self, gateway: Gateway) -> None:
        values = [*wave(LENGTH - 48), *[None] * 48]
        assert refused(gateway, asked("toy", values)) == (422, "nothing_observed", "detection_size")

    def test_models_of_another_task(self, gateway: Gateway, models: Models) -> None:
        wrong = (422, "wrong_task", "model")
        assert refused(gateway, asked(gateway.won.name)) == wrong
        assert refused(gateway, asked("linear_fill")) == wrong
        plain = {"model": models.won.name, "series": [series(spiked())], "prediction_length": 8}
        assert refused(gateway, plain, route="/v1/forecast") == wrong
        assert refused(gateway, plain, route="/v1/backtests") == wrong
        assert refused(gateway, {key: plain[key] for key in ("model", "series")}, route="/v1/imputations") == wrong

    @pytest.mark.parametrize(
        ("model", "scoring", "code"),
        [
            ("toy", "reconstruction", "unsupported_scoring"),
            ("temper-tiny", "every_patch", "unsupported_scoring"),
            ("naive", "every_patch", "unsupported_scoring"),
            ("temper-tiny", "guess", "unknown_scoring"),
        ],
    )
    def test_a_scoring_that_it_lacks(self, gateway: Gateway, model: str, scoring: str, code: str) -> None:
        assert refused(gateway, asked(model, scoring=scoring)) == (422, code, "scoring")
