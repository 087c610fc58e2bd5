"""Verdicts on the same test rows are numbered, each number once."""

import threading

from sqlalchemy import Engine

from app.auth.repository import tenant_named
from app.db import session_scope
from app.registry.verdicts import verdict_number
from tests.app.jobs.factories import add_file, add_job

ROWS, OTHER_ROWS = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def jobs(engine: Engine, tenant: str, count: int) -> tuple[str, list[str]]:
    with session_scope(engine) as session:
        tenant_id = tenant_named(session, tenant).id
        file_id = add_file(session, tenant_id)
        return tenant_id, [add_job(session, file_id, tenant_id=tenant_id) for _ in range(count)]


def number(engine: Engine, tenant_id: str, job_id: str, rows: str = ROWS) -> int:
    with session_scope(engine) as session:
        return verdict_number(session, tenant_id=tenant_id, job_id=job_id, test_sha256=rows)


def test_each_job_gets_the_next_number_and_keeps_it(engine: Engine) -> None:
    tenant_id, (first, second) = jobs(engine, "local", 2)
    assert [number(engine, tenant_id, job) for job in (first, second, first, second)] == [1, 2, 1, 2]
    assert number(engine, tenant_id, second, OTHER_ROWS) == 1


def test_tenants_are_counted_apart(engine: Engine) -> None:
    for tenant in ("local", "other"):
        tenant_id, (job,) = jobs(engine, tenant, 1)
        assert number(engine, tenant_id, job) == 1


def test_jobs_at_once_never_share_a_number(engine: Engine) -> None:
    tenant_id, ids = jobs(engine, "local", 4)
    found: list[int] = []
    threads = [threading.Thread(target=lambda job=job: found.append(number(engine, tenant_id, job))) for job in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [1, 2, 3, 4]
