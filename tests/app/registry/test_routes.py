import hashlib
import io
import zipfile
from collections.abc import Callable

import httpx
from sqlalchemy import Engine, update

from app.db import session_scope
from app.registry.service import free_deleted_blobs
from app.storage import ObjectStore, blob_key
from app.tables import Job
from tests.app.registry.conftest import Register
from tests.app.tuned import Tuned
from tsfm import catalog
from tsfm.artifact import digest_of_files

Blobs = Callable[[], list[str]]


class TestList:
    def test_tuned_models_come_first_then_what_is_built_in(self, client: httpx.Client, registered: Register) -> None:
        names = [registered(suffix=f"m{i}").name for i in range(3)]
        answer = client.get("/v1/models").json()
        ids = [model["id"] for model in answer["data"]]
        assert ids[:3] == names[::-1]
        assert ids[3:] == [*catalog.BACKBONES, *catalog.RIVALS, *catalog.FILL_RIVALS]
        assert {"toy", "temper-tiny", "ttm-r2", "naive"} <= set(ids[3:])
        assert (answer["object"], answer["has_more"]) == ("list", False)
        first = answer["data"][0]
        assert first["object"] == "model"
        assert (first["kind"], first["owned_by"], first["backbone"]) == ("fine_tuned", "local", "toy")
        assert (first["latest_version"], first["aliases"]) == (1, {"production": 1})
        assert first["serves"] == "version 1"

    def test_pages_join_without_gap_or_repetition(self, client: httpx.Client, registered: Register) -> None:
        for i in range(3):
            registered(suffix=f"m{i}")
        whole = [model["id"] for model in client.get("/v1/models").json()["data"]]
        found: list[str] = []
        more = True
        while more:
            after = {"after": found[-1]} if found else {}
            page = client.get("/v1/models", params={"limit": 2, **after}).json()
            found += [model["id"] for model in page["data"]]
            more = page["has_more"]
            assert page["last_id"] == found[-1]
        assert found == whole

    def test_a_model_that_lost_says_what_serves_it(self, client: httpx.Client, registered: Register) -> None:
        name = registered(fallback="naive").name
        assert client.get(f"/v1/models/{name}").json()["serves"] == "naive"


class TestAliases:
    def test_moves_are_kept_as_history(self, client: httpx.Client, registered: Register) -> None:
        name = registered().name
        registered(register_as=name, fallback="zero_shot")
        assert client.put(f"/v1/models/{name}/aliases/production", json={"version": 2}).json()["aliases"] == {
            "production": 2
        }
        client.put(f"/v1/models/{name}/aliases/production", json={"version": 2})
        client.put(f"/v1/models/{name}/aliases/canary", json={"version": 1})
        removed = client.delete(f"/v1/models/{name}/aliases/canary").json()
        assert removed["aliases"] == {"production": 2}
        moves = [(move["alias"], move["previous"], move["version"]) for move in removed["history"]]
        assert moves == [("canary", 1, None), ("canary", None, 1), ("production", 1, 2), ("production", None, 1)]

    def test_a_wrong_move_is_refused(self, client: httpx.Client, registered: Register) -> None:
        name = registered().name
        wrong: list[tuple[str, dict[str, object], int]] = [
            ("production", {"version": 2}, 404),
            ("production", {"version": 0}, 422),
            ("production", {"version": "1"}, 422),
            ("production", {}, 422),
            ("production", {"version": 1, "why": "x"}, 422),
            ("3", {"version": 1}, 422),
            ("a b", {"version": 1}, 422),
        ]
        for alias, body, status in wrong:
            answer = client.put(f"/v1/models/{name}/aliases/{alias}", json=body)
            assert (alias, body, answer.status_code) == (alias, body, status)
        assert client.get(f"/v1/models/{name}").json()["aliases"] == {"production": 1}

    def test_removing_what_is_not_there_is_404(self, client: httpx.Client, registered: Register) -> None:
        assert client.delete(f"/v1/models/{registered().name}/aliases/canary").status_code == 404


class TestVersions:
    def test_they_are_listed_newest_first_with_their_verdicts(
        self, client: httpx.Client, registered: Register, tuned: Tuned
    ) -> None:
        name = registered().name
        registered(register_as=name, fallback="zero_shot")
        data = client.get(f"/v1/models/{name}/versions").json()["data"]
        assert [(one["version"], one["fallback"], one["aliases"]) for one in data] == [
            (2, "zero_shot", []),
            (1, None, ["production"]),
        ]
        assert all(one["digest"] == tuned.digest and one["judged"] for one in data)
        page = client.get(f"/v1/models/{name}/versions", params={"limit": 1, "after": data[0]["id"]}).json()
        assert [one["version"] for one in page["data"]] == [1]

    def test_one_version_shows_its_manifest(self, client: httpx.Client, registered: Register, tuned: Tuned) -> None:
        answer = client.get(f"/v1/models/{registered().name}/versions/1").json()
        assert answer["manifest"] == tuned.result["manifest"]
        assert digest_of_files(answer["files"]) == answer["digest"]


class TestDownload:
    def test_the_zip_holds_exactly_the_artifact(self, client: httpx.Client, registered: Register, tuned: Tuned) -> None:
        url = f"/v1/models/{registered().name}/versions/1/download"
        answer = client.get(url)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/zip"
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert archive.testzip() is None
            found = {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}
        assert sorted(found) == ["README.md", "calibration.safetensors", "manifest.json", "model.safetensors"]
        assert {path: hashlib.sha256(data).hexdigest() for path, data in found.items()} == tuned.files
        assert client.get(url).content == answer.content

    def test_a_damaged_blob_is_never_sent(
        self, client: httpx.Client, registered: Register, store: ObjectStore, tuned: Tuned
    ) -> None:
        name = registered().name
        store.put_bytes(blob_key(tuned.files["README.md"]), b"another card")
        answer = client.get(f"/v1/models/{name}/versions/1/download")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "artifact_damaged")

    def test_a_version_that_is_not_there_is_404(self, client: httpx.Client, registered: Register) -> None:
        assert client.get(f"/v1/models/{registered().name}/versions/2/download").status_code == 404


class TestDelete:
    def test_blobs_go_with_the_last_model_that_uses_them(
        self, client: httpx.Client, registered: Register, blobs: Blobs
    ) -> None:
        first, second = registered().name, registered().name
        assert client.delete(f"/v1/models/{first}").json() == {"id": first, "object": "model", "deleted": True}
        assert len(blobs()) == 4
        assert client.get(f"/v1/models/{second}/versions/1/download").status_code == 200
        client.delete(f"/v1/models/{second}")
        assert blobs() == []
        assert client.get(f"/v1/models/{first}").status_code == 404
        assert client.delete(f"/v1/models/{first}").status_code == 404

    def test_while_a_worker_holds_a_job_blobs_wait_for_the_sweep(
        self, client: httpx.Client, registered: Register, engine: Engine, store: ObjectStore, blobs: Blobs
    ) -> None:
        name = registered().name
        with session_scope(engine) as session:
            session.execute(update(Job).values(status="running"))
        client.delete(f"/v1/models/{name}")
        assert len(blobs()) == 4
        with session_scope(engine) as session:
            session.execute(update(Job).values(status="succeeded"))
        free_deleted_blobs(engine, store)
        assert blobs() == []

    def test_what_is_built_in_stays(self, client: httpx.Client, toy_backbone: str) -> None:
        for name in (toy_backbone, "naive"):
            answer = client.delete(f"/v1/models/{name}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (409, "model_is_built_in")
            assert client.put(f"/v1/models/{name}/aliases/x", json={"version": 1}).status_code == 409


def test_another_tenants_model_is_404_on_every_route(
    other_client: httpx.Client, client: httpx.Client, registered: Register
) -> None:
    name = registered().name
    routes = [
        ("GET", "", None),
        ("DELETE", "", None),
        ("GET", "/versions", None),
        ("GET", "/versions/1", None),
        ("GET", "/versions/1/download", None),
        ("PUT", "/aliases/production", {"version": 1}),
        ("DELETE", "/aliases/production", None),
    ]
    for method, path, body in routes:
        answer = other_client.request(method, f"/v1/models/{name}{path}", json=body)
        assert (method, path, answer.status_code) == (method, path, 404)
        assert answer.json()["error"]["code"] == "model_not_found"
    assert name not in {model["id"] for model in other_client.get("/v1/models").json()["data"]}
    assert client.get(f"/v1/models/{name}").json()["aliases"] == {"production": 1}


def test_a_key_without_the_scope_is_403(
    connect: Callable[[str | None], httpx.Client], new_key: Callable[..., str]
) -> None:
    answer = connect(new_key("local", ["jobs"])).get("/v1/models")
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "missing_scope")
