"""Backtests through a live gateway: numbers, layouts, refusals, load, and a caller who leaves."""

import asyncio
import csv
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import httpx
import numpy as np
import pytest

from app.auth.keys import Principal
from app.backtests.parse import BacktestRequest
from app.backtests.schemas import BacktestOptions, Metric, Rival
from app.backtests.service import BacktestService, CallerGone
from app.cli.backtest import request, show, write_csv
from app.cli.client import Client
from app.forecasts.history import Given
from app.forecasts.levels import parse_levels
from app.forecasts.parse import ForecastRequest, InlineHistory
from app.forecasts.respond import Numbers
from app.forecasts.service import ForecastService
from app.registry.directory import Target, rival_target
from tests.app.forecasts.conftest import Gateway, gateway, series
from tests.app.tasks import Route, with_scopes
from tests.app.tuned import frame
from tsfm.backtest import WINDOW_METRICS
from tsfm.catalog import RIVALS
from tsfm.series.frame import SeriesFrame
from tsfm.serving.batcher import OverloadedError

__all__ = ["gateway"]
LENGTH = 100


def values(length: int = LENGTH, *, seed: int = 0) -> list[float]:
    rng = np.random.default_rng(seed)
    return (10 + np.sin(np.arange(length) * 2 * np.pi / 24) + 0.1 * rng.normal(size=length)).round(6).tolist()


def asked(model: str, *lengths: int, **more: Any) -> dict[str, Any]:
    many = [series(values(n, seed=i), item_id=f"s{i}") for i, n in enumerate(lengths or (LENGTH,))]
    return {"model": model, "prediction_length": 8, "series": many, **more}


ROUTE = Route("/v1/backtests")
post, ok, refused = ROUTE.post, ROUTE.ok, ROUTE.refused


class TestNumbers:
    def test_each_window_is_the_forecast_from_its_cutoff(self, gateway: Gateway) -> None:
        """The same numbers as /forecast on the history cut by hand."""
        answer = ok(gateway, asked(gateway.won.name, num_windows=3, stride=5, levels=[80]))
        own = answer["results"][0]
        truth = np.array(values())
        scale = np.abs(truth[24:82] - truth[:58]).mean()
        for k, window in enumerate(own["series"][0]["windows"]):
            end = LENGTH - 8 - (2 - k) * 5
            one = gateway.ok(
                {"model": gateway.won.name, "levels": [80], "series": [series(values()[:end])], "prediction_length": 8}
            )["forecasts"][0]
            error = np.abs(np.array(one["mean"]) - truth[end : end + 8])
            assert window["mae"] == pytest.approx(error.mean(), rel=1e-4)
            assert window["mase"] == pytest.approx(error.mean() / scale, rel=1e-4)
            band = one["intervals"]["80"]
            inside = (np.array(band["lo"]) <= truth[end : end + 8]) & (truth[end : end + 8] <= np.array(band["hi"]))
            assert window["coverage"] == {"80": pytest.approx(inside.mean())}
        assert answer["results"][0]["series"][0]["windows"][-1]["cutoff"] == "2026-01-04T19:00:00"

    def test_the_rivals_stand_beside_it(self, gateway: Gateway) -> None:
        answer = ok(gateway, asked(gateway.won.name, num_windows=2))
        names = [one["model"] for one in answer["results"]]
        assert names == [gateway.won.name, "naive", "seasonal_naive", "window_mean"]
        naive = answer["results"][1]["series"][0]["windows"][1]
        truth = np.array(values())
        assert naive["mae"] == pytest.approx(np.abs(truth[92:] - truth[91]).mean(), rel=1e-5)
        assert naive["coverage"] is None
        assert [one["calibrated"] for one in answer["results"]] == [True, False, False, False]
        assert answer["season"] == 24
        assert set(answer["timing_ms"]) == {"queue", "load", "compute", "total"}
        assert any("tuned on its training history" in note for note in answer["notes"])

    @pytest.mark.parametrize("model", ["toy", "naive"])
    def test_backbones_and_rivals_are_models_too(self, gateway: Gateway, model: str) -> None:
        answer = ok(gateway, asked(model, rivals=["naive"], metrics=["mase", "coverage"]))
        assert [one["model"] for one in answer["results"]] == list(dict.fromkeys([model, "naive"]))
        assert set(answer["results"][0]["metrics"]) == {"mase", "coverage"}
        has_quantiles = answer["results"][0]["metrics"]["coverage"] is not None
        assert has_quantiles == (model == "toy")

    def test_what_is_served_is_what_is_tested(self, gateway: Gateway) -> None:
        served = ok(gateway, asked(gateway.lost.name, rivals=["seasonal_naive"]))["results"]
        assert served[0]["fallback"] == "seasonal_naive"
        assert served[0]["metrics"]["mase"] == pytest.approx(served[1]["metrics"]["mase"])
        own = ok(gateway, asked(f"{gateway.lost.name}@1", rivals=[]))["results"]
        assert own[0]["fallback"] is None
        assert own[0]["metrics"]["mase"] != pytest.approx(served[0]["metrics"]["mase"])

    def test_short_series_give_fewer_windows_and_a_note(self, gateway: Gateway) -> None:
        answer = ok(gateway, asked("naive", 100, 20, 9, num_windows=4, rivals=[]))
        found = answer["results"][0]["series"]
        assert [(one["item_id"], len(one["windows"])) for one in found] == [("s0", 4), ("s1", 2)]
        assert answer["skipped"] == ["s2"]
        assert answer["num_windows"] == 6
        assert any(note.startswith("6 windows were left out") for note in answer["notes"])

    def test_many_windows_are_the_few_one_by_one(self, gateway: Gateway) -> None:
        """More than one chunk of the service and of the engine."""
        many = asked("toy", *[100] * 7, num_windows=45, stride=1, rivals=[], metrics=["mae"])
        together = ok(gateway, many)
        assert together["num_windows"] == 315
        alone = ok(gateway, {**many, "series": many["series"][6:]})
        one, other = (answer["results"][0]["series"][-1] for answer in (together, alone))
        np.testing.assert_allclose([w["mae"] for w in one["windows"]], [w["mae"] for w in other["windows"]], rtol=1e-5)


class TestLayouts:
    def test_a_csv_body(self, gateway: Gateway) -> None:
        times = np.datetime64("2026-01-01T00:00:00") + np.arange(LENGTH) * np.timedelta64(1, "h")
        text = "timestamp,target\n" + "".join(f"{t},{v}\n" for t, v in zip(times, values(), strict=True))
        fields = {"model": "toy", "prediction_length": "8", "num_windows": "3", "stride": "4", "metrics": "mase,wql"}
        response = gateway.clients["local"].post(
            "/v1/backtests",
            params={**fields, "rivals": "naive"},
            content=text.encode(),
            headers={"content-type": "text/csv"},
        )
        assert response.status_code == 200, response.text
        expected = ok(gateway, asked("toy", num_windows=3, stride=4, metrics=["mase", "wql"], rivals=["naive"]))
        found = response.json()
        assert found["results"][0]["metrics"] == pytest.approx(expected["results"][0]["metrics"])
        assert [len(one["series"][0]["windows"]) for one in found["results"]] == [3, 3]

    def test_the_mirror_without_prefix(self, gateway: Gateway) -> None:
        response = gateway.clients["local"].post("/backtests", json=asked("naive"))
        assert response.status_code == 200


class TestCommand:
    def test_it_prints_the_models_and_writes_every_window(
        self, gateway: Gateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        times = np.datetime64("2026-01-01T00:00:00") + np.arange(LENGTH) * np.timedelta64(1, "h")
        path, out = tmp_path / "load.csv", tmp_path / "windows.csv"
        path.write_text("timestamp,target\n" + "".join(f"{t},{v}\n" for t, v in zip(times, values(), strict=True)))
        client = gateway.clients["local"]
        key = client.headers["authorization"].removeprefix("Bearer ")
        with Client(str(client.base_url), key) as api:
            asked = {"model": gateway.won.name, "num_windows": 3, "levels": [80, 95]}
            answer = request(api, asked, path)
        write_csv(answer, out)
        rows = list(csv.DictReader(out.read_text().splitlines()))
        assert len(rows) == 3 * 4
        assert rows[0]["model"] == gateway.won.name
        assert 0 <= float(rows[0]["coverage-95"]) <= 1
        assert rows[3]["coverage-95"] == "", "a rival's point has no interval"
        show(answer)
        printed = capsys.readouterr()
        assert "seasonal_naive" in printed.out
        assert "in 95 %" in printed.out
        assert "3 windows of 8 steps, 8 apart" in printed.err


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "param"),
        [
            ({"num_windows": 0}, "num_windows"),
            ({"num_windows": 201}, "num_windows"),
            ({"num_windows": "3"}, "num_windows"),
            ({"stride": 0}, "stride"),
            ({"metrics": ["smape"]}, "metrics.0"),
            ({"metrics": []}, "metrics"),
            ({"rivals": ["theta"]}, "rivals.0"),
            ({"windows": 3}, "windows"),
            ({"levels": [100]}, "levels"),
        ],
    )
    def test_a_wrong_field_is_422_and_named(self, gateway: Gateway, change: dict[str, Any], param: str) -> None:
        status, _, found = refused(gateway, asked("toy", **change))
        assert (status, found) == (422, param)

    @pytest.mark.parametrize("text", ["x", "0", "-1", "1.5", "99999999999"])
    def test_of_a_csv_too(self, gateway: Gateway, text: str) -> None:
        response = gateway.clients["local"].post(
            "/v1/backtests",
            params={"model": "toy", "prediction_length": "2", "num_windows": text},
            content=b"target\n1\n2\n3\n4\n5\n",
            headers={"content-type": "text/csv"},
        )
        assert response.status_code == 422
        assert response.json()["error"]["param"] == "num_windows"

    def test_a_negative_number_in_a_query_is_a_number(self, gateway: Gateway) -> None:
        response = gateway.clients["local"].post(
            "/v1/backtests",
            params={"model": "naive", "prediction_length": "2", "stride": "-1"},
            content=b"timestamp,y\n",
            headers={"content-type": "text/csv"},
        )
        assert "greater than or equal to 1" in response.json()["error"]["message"]

    def test_series_too_short_for_one_window_say_have_and_need(self, gateway: Gateway) -> None:
        response = post(gateway, asked("toy", 9))
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (422, "series_too_short")
        assert error["details"] == {"have": 9, "need": 10}

    def test_more_forecasts_than_one_request_may_have(self, gateway: Gateway) -> None:
        body = asked("toy", *[100] * 3, num_windows=60, stride=1)
        assert refused(gateway, body) == (422, "backtest_too_large", "num_windows")
        assert post(gateway, {**body, "rivals": []}).status_code == 200

    def test_levels_a_model_cannot_answer(self, gateway: Gateway) -> None:
        assert refused(gateway, asked("toy", levels=[95]))[::2] == (422, "quantile_levels")
        assert ok(gateway, asked(gateway.won.name, levels=[95]))["results"][0]["metrics"]["coverage"].keys() == {"95"}

    def test_what_is_not_json_and_what_is_no_history(self, gateway: Gateway) -> None:
        client = gateway.clients["local"]
        headers = {"content-type": "application/json"}
        assert client.post("/v1/backtests", content=b"{", headers=headers).status_code == 400
        assert client.post("/v1/backtests", content=b"x", headers={"content-type": "text/html"}).status_code == 415
        assert refused(gateway, {"model": "toy", "prediction_length": 8})[:2] == (422, "missing_history")
        assert refused(gateway, {**asked("toy"), "file": "file-x"})[:2] == (422, "ambiguous_history")

    def test_another_tenants_model_and_file_are_404(self, gateway: Gateway) -> None:
        assert post(gateway, asked(gateway.won.name), tenant="other").status_code == 404
        body = {"model": "naive", "prediction_length": 2, "file": "file-" + "a" * 24}
        assert post(gateway, body, tenant="other").status_code == 404

    def test_the_scope_is_that_of_forecasts(self, gateway: Gateway) -> None:
        assert with_scopes(gateway, ROUTE.path, asked("naive"), ["files", "jobs", "models"]).status_code == 403
        assert with_scopes(gateway, ROUTE.path, asked("naive"), ["forecast"]).status_code == 200


class TestLoad:
    def test_a_full_engine_answers_429(self, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
        async def full(*_: Any) -> None:
            raise OverloadedError(retry_after_seconds=2.5)

        post(gateway, asked("naive"))  # opens the engine
        service: ForecastService = gateway.app.state.forecasts
        assert service._opening is not None
        monkeypatch.setattr(service._opening.result(), "forecast", full)
        response = post(gateway, asked("naive"))
        assert (response.status_code, response.headers["retry-after"]) == (429, "3")

    def test_a_caller_who_hangs_up_stops_it(self, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
        post(gateway, asked("naive"))  # opens the engine
        service: ForecastService = gateway.app.state.forecasts
        assert service._opening is not None
        engine = service._opening.result()
        chunks, hung_up = [], asyncio.Event()
        forecast = engine.forecast

        async def slow(source: Any, histories: SeriesFrame, *more: Any) -> Numbers:
            chunks.append(len(histories))
            await asyncio.sleep(0.5)
            found: Numbers = await forecast(source, histories, *more)
            return found

        monkeypatch.setattr(engine, "forecast", slow)
        monkeypatch.setattr(BacktestService, "backtest", told(BacktestService.backtest, hung_up))
        body = asked("naive", *[100] * 5, num_windows=90, stride=1, rivals=[])
        with pytest.raises(httpx.ReadTimeout):
            gateway.clients["local"].post("/v1/backtests", json=body, timeout=0.3)
        assert wait_until(hung_up.is_set), "it was noticed"
        assert len(chunks) < 2

    def test_a_caller_who_leaves_stops_it(self, gateway: Gateway) -> None:
        """Between two chunks; no more than was under way is computed."""
        forecasts = Counting()
        service = BacktestService(forecasts, gateway.settings)  # type: ignore[arg-type]  # only these two are asked
        options = BacktestOptions(num_windows=90, stride=1, rivals=[])
        request = BacktestRequest(forecast=forecasts.request, options=options)
        answers = iter([False, True])

        async def gone() -> bool:
            return next(answers)

        principal = Principal(tenant_id="t", tenant="t", key_id="k", scopes=frozenset())
        with pytest.raises(CallerGone):
            asyncio.run(service.backtest(principal, request, gone=gone))
        assert forecasts.seen == [256]


def told(backtest: Any, hung_up: asyncio.Event) -> Any:
    """`backtest`, setting the event when it stops because nobody listens."""

    async def watched(*args: Any, **named: Any) -> Any:
        try:
            return await backtest(*args, **named)
        except CallerGone:
            hung_up.set()
            raise

    return watched


def wait_until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


class Counting:
    """Stands for the forecast service: five series of a hundred points, and zeros for an answer."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        history = InlineHistory(frame=frame(5, 100), num_covariates=0)
        levels = parse_levels([0.5], [80])
        self.request = ForecastRequest(
            model="naive", prediction_length=8, levels=levels, history=history, item_ids=None
        )

    async def read(self, *_: Any) -> tuple[Target, int, Given]:
        return rival_target("naive"), 8, Given(frame=frame(5, 100))

    async def numbers(self, _: Any, histories: SeriesFrame, prediction_length: int, levels: Sequence[float]) -> Numbers:
        self.seen.append(len(histories))
        return Numbers(
            point=np.zeros((len(histories), prediction_length)),
            quantiles=np.zeros((len(histories), len(levels), prediction_length)),
            point_kind="median",
            calibrated=False,
            uncalibrated_levels=(),
            notes=(),
            sent=None,
            queue_seconds=0.0,
            load_seconds=0.0,
            compute_seconds=0.0,
        )


def test_the_schema_names_what_the_core_knows() -> None:
    assert get_args(Metric) == WINDOW_METRICS
    assert get_args(Rival) == RIVALS
