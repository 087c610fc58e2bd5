"""How often a test block was looked at: the k-th verdict on the same rows needs stronger evidence (evaluation §3)."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.ids import utc_now
from app.tables import Tenant, Verdict


def verdict_number(session: Session, *, tenant_id: str, job_id: str, test_sha256: str) -> int:
    """k, from 1, of this job's verdict on the test rows of that digest. Two jobs of a tenant never share one.

    A job that asks again (its run was lost after it had asked) keeps its number. One that was never judged after all
    has spent it: it may have seen the rows.
    """
    # Numbers of a tenant are given out one after the other (on SQLite every writer waits anyway).
    session.execute(select(Tenant.id).where(Tenant.id == tenant_id).with_for_update())
    mine = (Verdict.tenant_id == tenant_id, Verdict.test_sha256 == test_sha256)
    known = session.scalar(select(Verdict.number).where(*mine, Verdict.job_id == job_id))
    if known is not None:
        return known
    number = (session.scalar(select(func.max(Verdict.number)).where(*mine)) or 0) + 1
    session.add(
        Verdict(tenant_id=tenant_id, test_sha256=test_sha256, number=number, job_id=job_id, created_at=utc_now())
    )
    session.flush()
    return number
