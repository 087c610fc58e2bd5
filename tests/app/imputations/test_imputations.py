"""Gaps filled through a live gateway: numbers, layouts, what answers, refusals, load."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.forecasts import limits
from tests.app.forecasts.conftest import Gateway, gateway, series
from tests.app.tasks import Models, Route, csv_of, models_for, wave

__all__ = ["gateway"]
LENGTH = 240
GAPS = {40: 1, 100: 5, 160: 8}
"""First point → points."""
MISSING = [first + i for first, points in GAPS.items() for i in range(points)]
ROUTE = Route("/v1/imputations")
post, ok, refused = ROUTE.post, ROUTE.ok, ROUTE.refused


@pytest.fixture(scope="module", autouse=True)
def models(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory, toy_weights: Path) -> Iterator[Models]:
    with models_for("imputation", gateway, tmp_path_factory.mktemp("filled"), toy_weights) as found:
        yield found


def holed(missing: list[int] | None = None, *, seed: int = 0) -> list[float | None]:
    found: list[float | None] = [*wave(LENGTH, seed=seed)]
    for i in MISSING if missing is None else missing:
        found[i] = None
    return found


def asked(model: str = "toy", *many: list[float | None], **more: Any) -> dict[str, Any]:
    sent = [series(one, item_id=f"s{i}") for i, one in enumerate(many or (holed(),))]
    return {"model": model, "series": sent, **more}


class TestNumbers:
    @pytest.mark.parametrize("model", ["toy", "temper-tiny", "linear_fill", "seasonal_fill"])
    def test_gaps_are_filled_and_what_was_observed_stays(self, gateway: Gateway, model: str) -> None:
        answer = ok(gateway, asked(model))
        (one,) = answer["series"]
        sent = holed()
        assert [value for i, value in enumerate(one["values"]) if i not in MISSING] == [
            v for v in sent if v is not None
        ]
        assert [i for i, filled in enumerate(one["imputed"]) if filled] == MISSING
        truth = np.array(wave(LENGTH))[MISSING]
        assert np.abs(np.array(one["values"])[MISSING] - truth).mean() < 1.0
        assert [(gap["points"], gap["filled"], gap["one_sided"], gap["calibrated"]) for gap in one["gaps"]] == [
            (points, True, False, False) for points in GAPS.values()
        ]
        assert one["gaps"][1]["start"] == one["timestamps"][100] == "2026-01-05T04:00:00"
        assert one["gaps"][1]["end"] == "2026-01-05T08:00:00"
        assert (answer["object"], answer["num_imputed"], answer["num_left"]) == ("imputations", len(MISSING), 0)
        assert (answer["calibrated"], one["fallback"]) == (False, None)
        assert set(answer["timing_ms"]) == {"queue", "load", "compute"}

    @pytest.mark.parametrize("model", ["toy", "temper-tiny", "linear_fill", "seasonal_fill"])
    def test_intervals_stand_around_what_was_filled_and_nowhere_else(self, gateway: Gateway, model: str) -> None:
        (one,) = ok(gateway, asked(model, levels=[50, 95], quantile_levels=[0.5]))["series"]
        assert set(one["intervals"]) == {"50", "95"}
        assert set(one["quantiles"]) == {"0.5"}
        rows = [one["intervals"]["95"]["lo"], one["intervals"]["50"]["lo"], one["quantiles"]["0.5"]]
        rows += [one["intervals"]["50"]["hi"], one["intervals"]["95"]["hi"]]
        for row in rows:
            assert [i for i, value in enumerate(row) if value is not None] == MISSING
        inside = np.array([[row[i] for i in MISSING] for row in rows])
        assert (np.diff(inside, axis=0) >= 0).all()
        assert (inside[-1] > inside[0]).all()

    def test_80_is_the_default_and_numbers_do_not_depend_on_it(self, gateway: Gateway) -> None:
        one, other = (ok(gateway, body)["series"][0] for body in (asked(), asked(quantile_levels=[0.9])))
        assert (set(one["intervals"]), set(one["quantiles"])) == ({"80"}, set())
        assert (set(other["intervals"]), set(other["quantiles"])) == (set(), {"0.9"})
        assert one["values"] == pytest.approx(other["values"])
        hi, quantile = (
            np.array(row, dtype=np.float64) for row in (one["intervals"]["80"]["hi"], other["quantiles"]["0.9"])
        )
        np.testing.assert_allclose(hi, quantile, rtol=1e-6)

    def test_the_linear_fill_is_a_line(self, gateway: Gateway) -> None:
        (one,) = ok(gateway, asked("linear_fill"))["series"]
        truth = wave(LENGTH)
        line = np.interp(np.arange(99, 106), [99, 105], [truth[99], truth[105]])
        np.testing.assert_allclose(one["values"][99:106], line, rtol=1e-5)

    def test_without_gaps_nothing_is_done(self, gateway: Gateway) -> None:
        answer = ok(gateway, asked("toy", holed([])))
        (one,) = answer["series"]
        assert (one["values"], one["gaps"], answer["num_imputed"]) == (wave(LENGTH), [], 0)
        assert not any(one["imputed"])

    def test_ends_have_one_side(self, gateway: Gateway) -> None:
        answer = ok(gateway, asked("toy", holed([0, 1, 120, LENGTH - 1])))
        (one,) = answer["series"]
        assert [gap["one_sided"] for gap in one["gaps"]] == [True, False, True]
        assert None not in one["values"]
        assert any(note.startswith("2 gaps at the beginning or end") for note in answer["notes"])

    def test_many_series_keep_their_order(self, gateway: Gateway) -> None:
        many = [holed([10 + k], seed=k) for k in range(5)]
        answer = ok(gateway, asked("toy", *many))
        assert [one["item_id"] for one in answer["series"]] == [f"s{k}" for k in range(5)]
        for k, one in enumerate(answer["series"]):
            assert [i for i, filled in enumerate(one["imputed"]) if filled] == [10 + k]

    def test_large_numbers_come_back_as_they_came(self, gateway: Gateway) -> None:
        """32 bits hold seven digits."""
        values = [None if value is None else 1e9 + value for value in holed()]
        (one,) = ok(gateway, asked("linear_fill", values))["series"]
        assert [value for i, value in enumerate(one["values"]) if i not in MISSING] == [
            v for v in values if v is not None
        ]
        assert one["values"][100] == pytest.approx(1e9 + 10, abs=2.0)


class TestLongGaps:
    LONG = list(range(100, 160))
    """The toy forecasts 40 steps at most."""

    def test_they_are_refused_and_named(self, gateway: Gateway) -> None:
        body = asked("toy", holed([20, *self.LONG]))
        assert refused(gateway, body) == (422, "gap_too_long", "series")
        assert "'s0' from 2026-01-05T04:00:00 on (60 points)" in post(gateway, body).json()["error"]["message"]

    def test_or_left_alone(self, gateway: Gateway) -> None:
        answer = ok(gateway, asked("toy", holed([20, *self.LONG]), long_gaps="leave"))
        (one,) = answer["series"]
        assert [gap["filled"] for gap in one["gaps"]] == [True, False]
        assert (answer["num_imputed"], answer["num_left"]) == (1, 60)
        assert one["values"][100:160] == [None] * 60
        assert not any(one["imputed"][100:160])
        assert one["intervals"]["80"]["lo"][100:160] == [None] * 60
        assert any(note.startswith("1 gaps were left") for note in answer["notes"])

    def test_a_plain_fill_has_no_limit(self, gateway: Gateway) -> None:
        assert ok(gateway, asked("seasonal_fill", holed(self.LONG)))["num_left"] == 0

    def test_a_series_without_any_value_is_left_beside_others(self, gateway: Gateway) -> None:
        answer = ok(gateway, asked("toy", holed(), [None] * LENGTH))
        assert (answer["num_imputed"], answer["num_left"]) == (len(MISSING), LENGTH)
        assert answer["series"][1]["gaps"][0]["filled"] is False
        assert set(answer["series"][1]["values"]) == {None}


class TestTuned:
    def test_a_job_calibrated_its_intervals(self, gateway: Gateway, models: Models) -> None:
        answer = ok(gateway, asked(models.won.name))
        assert (answer["model"], answer["version"], answer["calibrated"]) == (models.won.name, 1, True)
        (one,) = answer["series"]
        assert [gap["calibrated"] for gap in one["gaps"]] == [True] * 3
        assert (one["fallback"], one["digest"]) == (None, answer["digest"])
        assert answer["notes"] == []

    def test_a_level_that_the_job_s_scores_do_not_resolve_is_named(self, gateway: Gateway, models: Models) -> None:
        answer = ok(gateway, asked(models.won.name, levels=[99.9]))
        assert answer["calibrated"] is False
        (note,) = [note for note in answer["notes"] if note.startswith("Not calibrated: 0.0005, 0.9995 (")]
        assert "scores a step resolve" in note

    def test_longer_gaps_than_tuned_are_filled_and_marked(self, gateway: Gateway, models: Models) -> None:
        answer = ok(gateway, asked(models.won.name, holed([40, *range(100, 120)])))
        assert [gap["calibrated"] for gap in answer["series"][0]["gaps"]] == [True, False]
        assert answer["calibrated"] is False
        assert "1 gaps are longer than the 8 steps the model was tuned for." in answer["notes"]

    def test_what_is_served_is_what_was_not_beaten_as_the_job_calibrated_it(
        self, gateway: Gateway, models: Models
    ) -> None:
        served = ok(gateway, asked(models.lost.name))
        (one,) = served["series"]
        assert (one["fallback"], served["calibrated"], one["version"]) == ("zero_shot", True, None)
        (own,) = ok(gateway, asked(f"{models.lost.name}@1"))["series"]
        assert (own["fallback"], own["version"]) == (None, 1)
        assert own["digest"] != one["digest"]

    @pytest.mark.parametrize("fallback", ["linear_fill", "seasonal_fill"])
    def test_a_plain_fill_that_was_not_beaten_is_calibrated_too(
        self, gateway: Gateway, models: Models, fallback: str
    ) -> None:
        answer = ok(gateway, asked(models.beaten_by(fallback).name))
        (one,) = answer["series"]
        assert (one["fallback"], answer["calibrated"]) == (fallback, True)
        plain = ok(gateway, asked(fallback))
        assert plain["calibrated"] is False
        assert plain["series"][0]["values"] == pytest.approx(one["values"])

    def test_the_version_before_answers_as_its_own_job_calibrated_it_where_it_was_not_beaten(
        self, gateway: Gateway, models: Models
    ) -> None:
        name = models.not_succeeded()
        answer = ok(gateway, asked(name))
        (one,) = answer["series"]
        assert (answer["model"], one["version"], one["fallback"]) == (name, 1, "incumbent")
        assert answer["calibrated"] is True
        assert "Version 2 did not beat version 1." in answer["notes"]
        (itself,) = ok(gateway, asked(f"{name}@1"))["series"]
        assert (itself["fallback"], itself["values"]) == (None, one["values"])

    def test_another_frequency_is_noted(self, gateway: Gateway, models: Models) -> None:
        sent = series(holed(), freq="15min")
        answer = ok(gateway, {"model": models.won.name, "series": [sent]})
        assert any("tuned on series of freq 'h'" in note for note in answer["notes"])


class TestLayouts:
    def test_times_that_a_csv_leaves_out_are_filled(self, gateway: Gateway) -> None:
        query = {"model": "toy", "levels": "80,95", "quantile_levels": "0.5", "long_gaps": "leave"}
        response = ROUTE.send_csv(gateway, csv_of(holed()), **query)
        assert response.status_code == 200, response.text
        (one,) = response.json()["series"]
        (other,) = ok(gateway, asked("toy", levels=[80, 95], quantile_levels=[0.5]))["series"]
        for name in ("timestamps", "imputed", "gaps"):
            assert one[name] == other[name]
        assert one["values"] == pytest.approx(other["values"])
        assert set(one["intervals"]) == {"80", "95"}

    def test_the_csv_answer_says_what_the_json_does(self, gateway: Gateway) -> None:
        body = asked(
            "toy", holed([40, *range(100, 160)]), holed(seed=1), levels=[80], quantile_levels=[0.5], long_gaps="leave"
        )
        response = ROUTE.as_csv(gateway, body)
        assert response.headers["content-type"] == "text/csv; charset=utf-8"
        rows = list(csv.DictReader(io.StringIO(response.text)))
        assert list(rows[0]) == ["item_id", "timestamp", "value", "imputed", "0.5", "lo-80", "hi-80"]
        assert [row["item_id"] for row in rows] == ["s0"] * LENGTH + ["s1"] * LENGTH
        for k, one in enumerate(ok(gateway, body)["series"]):
            mine = rows[LENGTH * k : LENGTH * (k + 1)]
            columns = {"value": one["values"], "0.5": one["quantiles"]["0.5"], "hi-80": one["intervals"]["80"]["hi"]}
            for name, expected in columns.items():
                found = [float(row[name] or "nan") for row in mine]
                np.testing.assert_allclose(found, np.array(expected, dtype=np.float64), rtol=1e-6, err_msg=name)
            assert [row["timestamp"] for row in mine] == one["timestamps"]
            assert [row["imputed"] == "true" for row in mine] == one["imputed"]

    def test_what_comes_back_is_a_csv_that_can_be_sent(self, gateway: Gateway) -> None:
        response = ROUTE.as_csv(gateway, asked())
        sent = gateway.clients["local"].post(
            "/v1/forecast",
            params={"model": "naive", "prediction_length": "1", "target_columns": "value"},
            content=response.content,
            headers={"content-type": "text/csv"},
        )
        assert sent.status_code == 200, sent.text
        assert sent.json()["forecasts"][0]["mean"] == pytest.approx([holed()[-1]])


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "param"),
        [
            ({"levels": [100]}, "levels"),
            ({"levels": "80"}, "levels"),
            ({"quantile_levels": [1.5]}, "quantile_levels"),
            ({"long_gaps": "cut"}, "long_gaps"),
            ({"prediction_length": 8}, "prediction_length"),
            ({"level": 80}, "level"),
        ],
    )
    def test_a_wrong_field_is_422_and_named(self, gateway: Gateway, change: dict[str, Any], param: str) -> None:
        status, _, found = refused(gateway, asked("toy", **change))
        assert (status, found) == (422, param)

    @pytest.mark.parametrize(
        ("name", "text"),
        [("levels", "x"), ("levels", "100"), ("quantile_levels", "2"), ("long_gaps", "cut"), ("no", "1")],
    )
    def test_of_a_csv_too(self, gateway: Gateway, name: str, text: str) -> None:
        response = ROUTE.send_csv(gateway, csv_of(holed()), **{"model": "toy", name: text})
        assert response.status_code == 422, response.text
        assert response.json()["error"]["param"] == name

    def test_an_answer_of_more_numbers_than_are_sent(self, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every level is a number a point, before anything is laid out for them."""
        monkeypatch.setattr(limits, "MAX_VALUES", 3 * LENGTH)
        assert post(gateway, asked("linear_fill", levels=[80])).status_code == 200
        body = asked("linear_fill", levels=[80], quantile_levels=[0.5])
        assert refused(gateway, body) == (422, "forecast_too_large", "series")

    def test_nothing_to_fill_from(self, gateway: Gateway) -> None:
        assert refused(gateway, asked("toy", [None] * 50)) == (422, "nothing_observed", "series")

    def test_models_of_another_task(self, gateway: Gateway, models: Models) -> None:
        wrong = (422, "wrong_task", "model")
        assert refused(gateway, asked(gateway.won.name)) == wrong
        assert refused(gateway, asked("naive")) == wrong
        assert refused(gateway, asked(models.won.name), route="/v1/anomalies") == wrong
        assert refused(gateway, {**asked(models.won.name), "prediction_length": 8}, route="/v1/forecast") == wrong
        for model in (models.won.name, "linear_fill"):
            assert refused(gateway, {**asked(model), "prediction_length": 8}, route="/v1/backtests") == wrong
