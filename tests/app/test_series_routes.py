"""What the routes have in common that score and fill series: who may ask, what is read, load, callers who leave."""

import gzip
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from app.forecasts import respond
from app.forecasts.engine import Engine
from app.forecasts.service import ForecastService
from tests.app.forecasts.conftest import Gateway, gateway, series
from tests.app.tasks import Route, csv_of, few_points, said, upload, wave, with_scopes
from tsfm.serving.batcher import OverloadedError
from tsfm.tasks.anomaly import Scanning
from tsfm.tasks.impute import Filling

__all__ = ["gateway"]
LENGTH = 240
Values = list[float | None]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One of the routes, with a rival that answers there."""

    route: Route
    rival: str
    work: type[Scanning] | type[Filling]
    engine: str
    """Of its method."""
    of_many: dict[str, Any]
    """Fields that make many passes of a few series."""

    def asked(self, *many: Values, **more: Any) -> dict[str, Any]:
        sent = [series(one, item_id=f"s{i}") for i, one in enumerate(many or (holed(),))]
        return {"model": self.rival, "series": sent, **more}


def holed(*, seed: int = 0) -> Values:
    found: Values = [*wave(LENGTH, seed=seed)]
    found[100:105] = [None] * 5
    return found


KINDS = {
    "anomalies": Kind(
        route=Route("/v1/anomalies"),
        rival="seasonal_naive",
        work=Scanning,
        engine="detect",
        of_many={"prediction_length": 1},
    ),
    "imputations": Kind(route=Route("/v1/imputations"), rival="seasonal_fill", work=Filling, engine="fill", of_many={}),
}


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


def engine_of(gateway: Gateway, kind: Kind) -> Engine:
    """Opened, if need be."""
    kind.route.ok(gateway, kind.asked())
    service: ForecastService = gateway.app.state.forecasts
    assert service._opening is not None
    return service._opening.result()


class TestWhoAndWhat:
    def test_the_mirror_without_prefix(self, gateway: Gateway, kind: Kind) -> None:
        mirror = kind.route.path.removeprefix("/v1")
        assert kind.route.post(gateway, kind.asked(), route=mirror).status_code == 200

    def test_an_uploaded_file_answers_as_the_same_series_inline(self, gateway: Gateway, kind: Kind) -> None:
        file = upload(gateway, csv_of(holed()))
        (of_file,) = kind.route.ok(gateway, {"model": kind.rival, "file": file})["series"]
        (inline,) = kind.route.ok(gateway, kind.asked())["series"]
        assert {**of_file, "item_id": "s0"} == inline

    def test_unknown_models_and_those_and_the_files_of_others_are_404(self, gateway: Gateway, kind: Kind) -> None:
        refused = kind.route.refused
        assert refused(gateway, {**kind.asked(), "model": "nothing"})[::2] == (404, "model")
        assert refused(gateway, {**kind.asked(), "model": gateway.won.name}, tenant="other")[::2] == (404, "model")
        file = {"model": kind.rival, "file": upload(gateway, csv_of(holed()))}
        assert refused(gateway, file, tenant="other")[::2] == (404, "file")

    def test_the_scope_is_that_of_forecasts(self, gateway: Gateway, kind: Kind) -> None:
        path, body = kind.route.path, kind.asked()
        assert with_scopes(gateway, path, body, ["files", "jobs", "models"]).status_code == 403
        assert with_scopes(gateway, path, body, ["forecast"]).status_code == 200

    def test_what_is_not_json_and_what_is_no_history(self, gateway: Gateway, kind: Kind) -> None:
        client, path = gateway.clients["local"], kind.route.path
        assert client.post(path, content=b"{", headers={"content-type": "application/json"}).status_code == 400
        assert client.post(path, content=b"x", headers={"content-type": "text/html"}).status_code == 415
        refused = kind.route.refused
        assert refused(gateway, {"model": kind.rival})[:2] == (422, "missing_history")
        assert refused(gateway, {**kind.asked(), "file": "file-x"})[:2] == (422, "ambiguous_history")

    def test_a_body_that_is_no_object_is_named_as_the_body(self, gateway: Gateway, kind: Kind) -> None:
        response = gateway.clients["local"].post(kind.route.path, json=5)
        assert said(response) == (422, "invalid_request", None)
        assert response.json()["error"]["message"] == "The body: Input should be an object."

    def test_covariates(self, gateway: Gateway, kind: Kind) -> None:
        body = kind.asked()
        body["series"][0]["past_covariates"] = {"temperature": [1.0] * LENGTH}
        assert kind.route.refused(gateway, body) == (422, "covariates_unsupported", "past_covariates")

    def test_more_points_than_one_request_may_have(
        self, gateway: Gateway, kind: Kind, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = upload(gateway, csv_of(holed()))
        few_points(gateway, monkeypatch, LENGTH - 1)
        refused = kind.route.refused
        assert refused(gateway, kind.asked()) == (422, "too_many_points", "series")
        assert refused(gateway, {"model": kind.rival, "file": file}) == (422, "too_many_points", "file")
        few_points(gateway, monkeypatch, LENGTH)
        assert kind.route.post(gateway, kind.asked()).status_code == 200

    def test_series_that_end_beyond_the_calendar(self, gateway: Gateway, kind: Kind) -> None:
        """Times of five-digit years are no ISO 8601."""
        body = {"model": kind.rival, "series": [series(holed(), start="9999-12-31T00:00:00")]}
        assert kind.route.refused(gateway, body) == (422, "timestamps_out_of_range", "freq")

    def test_nothing_is_known_at_all(self, gateway: Gateway, kind: Kind) -> None:
        body = kind.asked([None] * LENGTH, [None] * LENGTH)
        assert kind.route.refused(gateway, body) == (422, "nothing_observed", "series")

    def test_a_series_of_which_nothing_is_known_beside_another_is_named(self, gateway: Gateway, kind: Kind) -> None:
        answer = kind.route.ok(gateway, kind.asked(holed(), [None] * LENGTH))
        assert "No value of these series is known: s1." in answer["notes"]
        assert not any("forecast" in note for note in answer["notes"]), "nobody asked for one"


def long_of(ids: list[str]) -> str:
    rows = csv_of(holed()).decode().splitlines()[1:]
    return "item_id,timestamp,target\n" + "".join(f"{name},{row}\n" for name in ids for row in rows)


def plain() -> str:
    return csv_of(holed()).decode()


class TestFiles:
    @pytest.mark.parametrize(
        "ugly",
        [
            lambda text: "\ufeff" + text,
            lambda text: text.replace(",", ";"),
            lambda text: text.replace(",", ";").replace(".", ","),
            lambda text: text.replace("\n", "\r\n"),
            lambda text: text.replace("\n", "\n\n"),
            lambda text: text.replace("timestamp,target", '"timestamp","target"'),
            lambda text: "\n".join([text.splitlines()[0], *text.splitlines()[:0:-1]]) + "\n",
            lambda text: text + "2026-01-05T04:00:00,NaN\n2026-01-05T05:00:00,#N/A\n",
        ],
        ids=["bom", "semicolon", "comma", "crlf", "blank lines", "quotes", "newest first", "nan"],
    )
    def test_however_it_is_written_the_answer_is_the_same(
        self, gateway: Gateway, kind: Kind, ugly: Callable[[str], str]
    ) -> None:
        query = {"model": kind.rival}
        expected = kind.route.send_csv(gateway, plain().encode(), **query).json()["series"]
        response = kind.route.send_csv(gateway, ugly(plain()).encode(), **query)
        assert response.status_code == 200, response.text
        assert response.json()["series"] == expected

    def test_gzip_is_known_by_its_bytes(self, gateway: Gateway, kind: Kind) -> None:
        packed = kind.route.send_csv(gateway, gzip.compress(plain().encode()), model=kind.rival)
        assert (
            packed.json()["series"] == kind.route.send_csv(gateway, plain().encode(), model=kind.rival).json()["series"]
        )

    def test_names_are_kept_letter_by_letter(self, gateway: Gateway, kind: Kind) -> None:
        names = ["007", "7", "日本 🚰", "=1+1"]
        response = kind.route.send_csv(gateway, long_of(names).encode(), model=kind.rival)
        assert {one["item_id"] for one in response.json()["series"]} == set(names)

    @pytest.mark.parametrize(
        ("data", "status", "code"),
        [
            (b"", 422, "empty_file"),
            (b"\n\n", 422, "empty_file"),
            (b"timestamp,target\n", 422, "header_only"),
            (b"timestamp,target\n2026-01-01T00:00:00,1\n", 422, "too_few_points"),
            (b"timestamp,target\n2026-01-01,\n2026-01-02,\n", 422, "all_missing"),
            (b"timestamp,target\n2026-01-01,1\n2026-01-01,2\n", 422, "duplicate_timestamps"),
            (b"timestamp,target\n2026-01-01,1\n2026-01-02,1e308\n", 422, "infinite_value"),
            (b"timestamp,target\n2026-01-01,1\n2026-01-02,-inf\n", 422, "infinite_value"),
            (b"timestamp,target\n2026-01-01,1\n2026-01-02,\xe9\n", 422, "unsupported_encoding"),
            (gzip.compress(b"timestamp,target\n" + b"x" * 5000, mtime=0)[:30], 422, "truncated"),
            (b"<html></html>", 415, "unsupported_format"),
        ],
    )
    def test_what_cannot_be_read(self, gateway: Gateway, kind: Kind, data: bytes, status: int, code: str) -> None:
        assert said(kind.route.send_csv(gateway, data, model=kind.rival))[:2] == (status, code)

    def test_what_was_decided_about_a_file_is_said(self, gateway: Gateway, kind: Kind) -> None:
        """Nobody saw its reading: a column left out, and a code for "missing" that was taken for a number."""
        rows = [f"{row},," for row in plain().splitlines()[1:]]
        rows[50:52] = [row.partition(",")[0] + ",-999,," for row in rows[50:52]]
        data = "\n".join(["timestamp,target,b,c", *rows]) + "\n"
        notes = kind.route.send_csv(gateway, data.encode(), model=kind.rival).json()["notes"]
        assert "Column 'b' is empty and is ignored." in notes
        (suspect,) = [note for note in notes if "-999" in note]
        assert suspect.startswith("'target' holds -999 (2 times): a usual code for 'missing'")


class TestLoad:
    def test_a_csv_answer_is_the_same_in_portions_of_any_size(
        self, gateway: Gateway, kind: Kind, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        body = kind.asked(holed(), holed(seed=1))
        whole = kind.route.as_csv(gateway, body).text
        monkeypatch.setattr(respond, "ROWS_AT_ONCE", 7)
        assert kind.route.as_csv(gateway, body).text == whole
        assert len(whole.splitlines()) > LENGTH

    def test_a_full_engine_answers_429(self, gateway: Gateway, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
        async def full(*_: Any, **__: Any) -> None:
            raise OverloadedError(retry_after_seconds=2.5)

        monkeypatch.setattr(engine_of(gateway, kind), kind.engine, full)
        response = kind.route.post(gateway, kind.asked())
        assert (response.status_code, response.headers["retry-after"]) == (429, "3")

    def test_a_caller_who_hangs_up_stops_it(
        self, gateway: Gateway, kind: Kind, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No more than the pass under way is computed, and the next caller is answered."""
        begun: list[int] = []
        whole: set[int] = set()
        compute = kind.work.compute

        def slow(work: Any, chunk: int) -> None:
            begun.append(chunk)
            whole.add(work.num_chunks)
            time.sleep(0.2)
            compute(work, chunk)

        engine_of(gateway, kind)
        monkeypatch.setattr(kind.work, "compute", slow)
        many = [[x if t % 2 else None for t, x in enumerate(wave(LENGTH, seed=k))] for k in range(5)]
        with pytest.raises(httpx.ReadTimeout):
            gateway.clients["local"].post(kind.route.path, json=kind.asked(*many, **kind.of_many), timeout=0.3)
        (num_chunks,) = whole
        assert num_chunks > 6
        assert settled(begun) <= 3
        monkeypatch.undo()
        assert kind.route.post(gateway, kind.asked()).status_code == 200


def settled(begun: list[int]) -> int:
    """How many passes have begun, once no more do."""
    seen = -1
    while seen < len(begun):
        seen = len(begun)
        time.sleep(0.6)
    return seen
