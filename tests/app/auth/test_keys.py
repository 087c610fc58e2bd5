"""Who may do what, and how the first key comes to be."""

import stat
import subprocess
import sys
from collections.abc import Callable

import httpx
import pytest
from sqlalchemy import Engine, func, select

from app.auth.bootstrap import bootstrap
from app.auth.cache import KEEP_SECONDS, MAX_ENTRIES, KeyCache
from app.auth.keys import Principal, digest
from app.db import session_scope
from app.settings import Settings
from app.tables import ApiKey

Connect = Callable[[str | None], httpx.Client]
NewKey = Callable[..., str]


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


class TestAuthentication:
    def test_no_key_an_unknown_key_and_another_scheme(self, connect: Connect) -> None:
        assert code_of(connect(None).get("/v1/files")) == (401, "missing_api_key")
        answer = connect("tmpr_unknown_key").get("/v1/files")
        assert code_of(answer) == (401, "invalid_api_key")
        assert answer.headers["www-authenticate"] == "Bearer"
        basic = connect(None).get("/v1/files", headers={"authorization": "Basic abc"})
        assert code_of(basic) == (401, "missing_api_key")

    def test_a_scope_that_is_missing(self, connect: Connect, new_key: NewKey) -> None:
        client = connect(new_key("local", ["files"]))
        assert client.get("/v1/files").status_code == 200
        assert code_of(client.get("/v1/keys")) == (403, "missing_scope")
        assert code_of(client.post("/v1/keys", json={})) == (403, "missing_scope")

    def test_the_key_of_the_home_works(self, connect: Connect, settings: Settings) -> None:
        key = (settings.home / "api_key").read_text().strip()
        assert connect(key).get("/v1/keys").status_code == 200


class TestKeys:
    def test_made_used_listed_revoked(self, client: httpx.Client, connect: Connect) -> None:
        made = client.post("/v1/keys", json={"name": "ci", "tenant": "acme", "scopes": ["files"]}).json()
        assert made["key"].startswith("tmpr_")
        assert (made["tenant"], made["scopes"], made["revoked_at"]) == ("acme", ["files"], None)
        user = connect(made["key"])
        assert user.get("/v1/files").status_code == 200
        listed = {item["id"]: item for item in client.get("/v1/keys").json()["data"]}
        assert "key" not in listed[made["id"]]
        revoked = client.post(f"/v1/keys/{made['id']}/revoke").json()
        assert revoked["revoked_at"] is not None
        assert code_of(user.get("/v1/files")) == (401, "invalid_api_key")
        assert client.post(f"/v1/keys/{made['id']}/revoke").json() == revoked

    def test_an_unknown_key_cannot_be_revoked(self, client: httpx.Client) -> None:
        assert code_of(client.post("/v1/keys/key-absent/revoke")) == (404, "key_not_found")

    def test_only_hashes_are_stored(self, client: httpx.Client, engine: Engine) -> None:
        secret = client.post("/v1/keys", json={"name": "x"}).json()["key"]
        with session_scope(engine, read_only=True) as session:
            row = session.scalars(select(ApiKey).where(ApiKey.secret_sha256 == digest(secret))).one()
            assert secret not in str(vars(row))


class TestBootstrap:
    def test_the_file_is_private_and_stays(self, engine: Engine, settings: Settings) -> None:
        path = settings.home / "api_key"
        first = path.read_text()
        bootstrap(engine, settings)
        assert path.read_text() == first
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert [p.name for p in settings.home.glob(".api_key*")] == []

    def test_the_variable_is_the_key(self, engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TEMPER_API_KEY", "a-key-of-my-own-choosing")
        for _ in range(2):
            bootstrap(engine, Settings(home=settings.home))
        with session_scope(engine, read_only=True) as session:
            hashes = session.scalars(select(ApiKey.secret_sha256)).all()
        assert sorted(hashes).count(digest("a-key-of-my-own-choosing")) == 1

    def test_a_short_key_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TEMPER_API_KEY", "short")
        with pytest.raises(ValueError, match="api_key"):
            Settings()

    def test_two_gateways_may_start_at_once(self, settings: Settings, engine: Engine) -> None:
        (settings.home / "api_key").unlink()
        with session_scope(engine) as session:
            before = session.scalar(select(func.count()).select_from(ApiKey)) or 0
        code = f"""
from app.settings import Settings
from app.db import make_engine
from app.auth.bootstrap import bootstrap
settings = Settings(home={str(settings.home)!r}, database_url={settings.database_url!r})
bootstrap(make_engine(settings.database_url), settings)
"""
        running = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
        assert [process.wait(timeout=60) for process in running] == [0, 0]
        with session_scope(engine, read_only=True) as session:
            assert session.scalar(select(func.count()).select_from(ApiKey)) == before + 1


class TestKeyCache:
    OWNER = Principal(tenant_id="t", tenant="t", key_id="k", scopes=frozenset())

    def test_an_entry_lives_for_a_second(self) -> None:
        now = [0.0]
        cache = KeyCache(clock=lambda: now[0])
        cache.put("hash", self.OWNER)
        now[0] = KEEP_SECONDS
        assert cache.get("hash") == self.OWNER
        now[0] = KEEP_SECONDS + 0.01
        assert cache.get("hash") is None

    def test_it_stays_small(self) -> None:
        cache = KeyCache()
        for i in range(3 * MAX_ENTRIES):
            cache.put(str(i), self.OWNER)
        assert sum(cache.get(str(i)) is not None for i in range(3 * MAX_ENTRIES)) <= MAX_ENTRIES
