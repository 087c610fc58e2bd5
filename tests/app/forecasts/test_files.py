"""Histories that are files: the body itself, an upload, the model's own training file; and answers as CSV."""

import csv
import gzip
import io

import httpx
import numpy as np
import pytest

from app.forecasts import history
from tests.app.forecasts.conftest import Gateway, ramp, series
from tests.app.tuned import Tuned, register


def long_csv(num_series: int = 2, length: int = 80) -> bytes:
    rows = ["item_id,timestamp,target"]
    for k in range(num_series):
        rows += [f"s{k},2026-01-{1 + i // 24:02d} {i % 24:02d}:00:00,{k * 100 + i % 24}" for i in range(length)]
    return ("\n".join(rows) + "\n").encode()


def post_csv(gateway: Gateway, body: bytes, **params: str) -> httpx.Response:
    kind = {"content-type": params.pop("content_type", "text/csv")}
    return gateway.clients["local"].post("/v1/forecast", content=body, params=params, headers=kind)


def read(response: httpx.Response) -> list[dict[str, str]]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    return list(csv.DictReader(io.StringIO(response.text)))


def test_a_large_file_is_forecast_from_its_end_alone(
    gateway: Gateway, tuned: Tuned, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = gateway.clients["local"].post("/v1/files", files={"file": ("a.csv", long_csv(length=300))})
    models = ("toy", "seasonal_naive", gateway.won.name)
    bodies = [{"model": model, "file": sent.json()["id"], "prediction_length": 4} for model in models]
    whole = [gateway.ok(body)["forecasts"] for body in bodies]
    monkeypatch.setattr(history, "LARGE_POINTS", 100)
    monkeypatch.setattr(history, "MAX_HISTORY", 250)
    assert [gateway.ok(body)["forecasts"] for body in bodies] == whole


class TestBody:
    def test_a_csv_is_forecast_like_the_same_series_inline(self, gateway: Gateway) -> None:
        answer = post_csv(gateway, long_csv(), model="toy", prediction_length="3", levels="80").json()
        inline = [series([float(k * 100 + i % 24) for i in range(80)], item_id=f"s{k}") for k in range(2)]
        expected = gateway.ok({"model": "toy", "prediction_length": 3, "levels": [80], "series": inline})
        assert [one["item_id"] for one in answer["forecasts"]] == ["s0", "s1"]
        for one, other in zip(answer["forecasts"], expected["forecasts"], strict=True):
            assert one["timestamps"] == other["timestamps"] == [f"2026-01-04T{h:02d}:00:00" for h in (8, 9, 10)]
            np.testing.assert_allclose(one["mean"], other["mean"], rtol=1e-6)
            np.testing.assert_allclose(one["intervals"]["80"]["hi"], other["intervals"]["80"]["hi"], rtol=1e-6)

    def test_gzip_of_it_is_the_same(self, gateway: Gateway) -> None:
        body = gzip.compress(long_csv())
        answer = post_csv(gateway, body, model="naive", prediction_length="1", content_type="application/gzip").json()
        assert [one["mean"] for one in answer["forecasts"]] == [[7.0], [107.0]]

    def test_a_large_body_is_read_in_a_process_of_its_own_with_the_same_answers(
        self, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def forecasts() -> object:
            return post_csv(gateway, long_csv(), model="toy", prediction_length="3").json()["forecasts"]

        def refused() -> object:
            answer = post_csv(gateway, b"timestamp,load\n2026-01-01,ten\n", model="toy", prediction_length="3")
            error = answer.json()["error"]
            return answer.status_code, error["code"], error["param"], error["message"]

        here = (forecasts(), refused())
        monkeypatch.setattr(history, "SMALL_BYTES", 10)
        monkeypatch.setattr(history, "read_file", None)  # nothing is read in this process
        assert (forecasts(), refused()) == here
        assert list(gateway.settings.tmp_dir.iterdir()) == []

    def test_roles_and_lists_are_query_parameters(self, gateway: Gateway) -> None:
        rows = ["when;a;b"] + [f"{1 + i:02d}.03.2026;{i},5;{2 * i}" for i in range(20)]
        answer = post_csv(
            gateway,
            "\n".join(rows).encode(),
            model="naive",
            prediction_length="2",
            timestamp_column="when",
            timestamp_format="%d.%m.%Y",
            target_columns="b,a",
            item_ids="a",
        ).json()
        assert [(one["item_id"], one["mean"]) for one in answer["forecasts"]] == [("a", [19.5, 19.5])]
        assert answer["forecasts"][0]["timestamps"] == ["2026-03-21T00:00:00", "2026-03-22T00:00:00"]

    @pytest.mark.parametrize(
        ("params", "param"),
        [
            ({}, "model"),
            ({"model": "naive", "prediction_lenght": "1"}, "prediction_lenght"),
            ({"model": "naive", "prediction_length": "1.5"}, "prediction_length"),
            ({"model": "naive", "prediction_length": "0"}, "prediction_length"),
            ({"model": "naive", "prediction_length": "1", "levels": "80,high"}, "levels"),
            ({"model": "naive", "prediction_length": "1", "item_ids": "s9"}, "item_ids"),
            ({"model": "naive", "prediction_length": "1", "past_covariate_columns": "target"}, "past_covariates"),
        ],
    )
    def test_a_wrong_parameter_is_422_and_named(self, gateway: Gateway, params: dict[str, str], param: str) -> None:
        response = post_csv(gateway, long_csv(), **params)
        assert (response.status_code, response.json()["error"]["param"]) == (422, param), response.text

    @pytest.mark.parametrize("body", [b"", b"a,b\n", b"\x00\x01\x02\x03" * 50, b"t,y\n2026-01-01,1\n2026-01-02,oops\n"])
    def test_a_bad_file_is_4xx_and_leaves_nothing_behind(self, gateway: Gateway, body: bytes) -> None:
        response = post_csv(gateway, body, model="naive", prediction_length="1")
        assert 400 <= response.status_code < 500
        assert response.json()["error"]["code"] not in {"bad_request", "invalid_request"}
        assert list(gateway.settings.tmp_dir.iterdir()) == []


class TestUploads:
    def test_an_uploaded_file_is_continued(self, gateway: Gateway) -> None:
        file_id = upload(gateway, long_csv(3))
        whole = gateway.ok({"model": "toy", "prediction_length": 2, "file": file_id})
        assert [one["item_id"] for one in whole["forecasts"]] == ["s0", "s1", "s2"]
        some = gateway.ok({"model": "toy", "prediction_length": 2, "file": file_id, "item_ids": ["s2", "s0"]})
        assert [one["item_id"] for one in some["forecasts"]] == ["s2", "s0"]
        np.testing.assert_allclose(some["forecasts"][0]["mean"], whole["forecasts"][2]["mean"], rtol=1e-6)

    def test_another_tenants_file_does_not_exist(self, gateway: Gateway) -> None:
        body = {"model": "toy", "prediction_length": 2, "file": upload(gateway, long_csv())}
        status, error = gateway.refused(body, tenant="other")
        assert (status, error["code"]) == (404, "file_not_found")
        assert gateway.refused({**body, "file": "file-nothing"})[0] == 404

    def test_unknown_items_are_listed(self, gateway: Gateway) -> None:
        body = {"model": "toy", "prediction_length": 2, "file": upload(gateway, long_csv()), "item_ids": ["s0", "s7"]}
        status, error = gateway.refused(body)
        assert (status, error["code"]) == (422, "unknown_item_id")
        assert error["details"]["missing"] == ["s7"]


class TestTrainingFile:
    def test_without_history_the_model_continues_its_training_file(self, gateway: Gateway, tuned: Tuned) -> None:
        file_id = upload(gateway, long_csv())
        model = register(gateway.engine, gateway.store, tuned, training_file=file_id)
        answer = gateway.ok({"model": model.name})
        named = gateway.ok({"model": model.name, "file": file_id})
        assert answer["forecasts"] == named["forecasts"]
        assert [one["timestamps"][0] for one in answer["forecasts"]] == ["2026-01-04T08:00:00"] * 2
        assert [one["item_id"] for one in gateway.ok({"model": model.name, "item_ids": ["s1"]})["forecasts"]] == ["s1"]

    def test_once_the_file_is_deleted_the_history_must_be_sent(self, gateway: Gateway, tuned: Tuned) -> None:
        file_id = upload(gateway, long_csv())
        model = register(gateway.engine, gateway.store, tuned, training_file=file_id)
        assert gateway.clients["local"].delete(f"/v1/files/{file_id}").status_code == 200
        status, error = gateway.refused({"model": model.name})
        assert (status, error["code"]) == (409, "training_file_deleted")
        assert gateway.ok({"model": model.name, "series": [series(ramp())]})["version"] == 1


class TestCsvAnswer:
    def test_one_row_per_series_and_step(self, gateway: Gateway) -> None:
        body = {"model": "toy", "prediction_length": 2, "quantile_levels": [0.5], "levels": [80]}
        client = gateway.clients["local"]
        request = {**body, "series": [series(ramp()), series(ramp(), item_id='b,"c"')]}
        rows = read(client.post("/v1/forecast", json=request, headers={"accept": "text/csv"}))
        assert list(rows[0]) == ["item_id", "timestamp", "mean", "0.5", "lo-80", "hi-80"]
        assert [(row["item_id"], row["timestamp"]) for row in rows] == [
            ("a", "2026-01-06T00:00:00"),
            ("a", "2026-01-06T01:00:00"),
            ('b,"c"', "2026-01-06T00:00:00"),
            ('b,"c"', "2026-01-06T01:00:00"),
        ]
        one = gateway.ok(request)["forecasts"][0]
        assert [float(row["mean"]) for row in rows[:2]] == pytest.approx(one["mean"], rel=1e-6)
        assert [float(row["hi-80"]) for row in rows[:2]] == pytest.approx(one["intervals"]["80"]["hi"], rel=1e-6)

    def test_csv_in_and_out_is_one_request(self, gateway: Gateway) -> None:
        response = gateway.clients["local"].post(
            "/v1/forecast?model=naive&prediction_length=1&quantile_levels=0.5",
            content=long_csv(),
            headers={"content-type": "text/csv", "accept": "text/csv"},
        )
        assert [(row["item_id"], row["mean"]) for row in read(response)] == [("s0", "7.0"), ("s1", "107.0")]

    def test_errors_stay_json(self, gateway: Gateway) -> None:
        response = gateway.clients["local"].post(
            "/v1/forecast", json={"model": "nobody"}, headers={"accept": "text/csv"}
        )
        assert response.json()["error"]["code"] == "model_not_found"


def upload(gateway: Gateway, body: bytes) -> str:
    response = gateway.clients["local"].post("/v1/files", files={"file": ("load.csv", body, "text/csv")})
    assert response.status_code == 200, response.text
    file_id: str = response.json()["id"]
    assert response.json()["status"] == "processed"
    return file_id
