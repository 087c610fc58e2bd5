"""`GET /v1/usage`: what a tenant holds, and the limits it meets."""

from typing import Annotated, Literal

from fastapi import APIRouter
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.auth.dependencies import require
from app.auth.keys import Principal
from app.db import ReadSessionDep
from app.errors import responses
from app.files import repository as files
from app.ids import utc_now
from app.schemas import ResponseModel
from app.services import ServicesDep
from app.settings import Settings
from app.tables import Job, Model, ModelVersion

router = APIRouter(tags=["usage"])


class UsageLimits(ResponseModel):
    max_upload_bytes: int
    inline_parse_bytes: int
    max_body_bytes: int
    max_rows: int
    max_series: int
    max_columns: int
    max_prediction_length: int
    max_queued_jobs: int
    max_concurrent_jobs: int


class Usage(ResponseModel):
    object: Literal["usage"]
    tenant: str
    num_files: int
    file_bytes: int
    jobs: dict[str, int]
    """Status → number of jobs."""
    num_models: int
    num_versions: int
    limits: UsageLimits


@router.get("/usage", responses=responses(), summary="What you hold, and your limits")
def get_usage(principal: Annotated[Principal, require(None)], session: ReadSessionDep, services: ServicesDep) -> Usage:
    return usage_of(session, services.settings, principal)


def usage_of(session: Session, settings: Settings, principal: Principal) -> Usage:
    num_files, file_bytes = files.totals(session, principal.tenant_id, now=utc_now())
    by_status = select(Job.status, func.count()).where(Job.tenant_id == principal.tenant_id).group_by(Job.status)
    mine = (Model.tenant_id == principal.tenant_id, Model.deleted_at.is_(None))
    versions = select(func.count()).select_from(ModelVersion).join(Model, Model.id == ModelVersion.model_id)
    return Usage(
        object="usage",
        tenant=principal.tenant,
        num_files=num_files,
        file_bytes=file_bytes,
        jobs={row[0]: row[1] for row in session.execute(by_status)},
        num_models=session.scalar(select(func.count()).select_from(Model).where(*mine)) or 0,
        num_versions=session.scalar(versions.where(*mine)) or 0,
        limits=UsageLimits.model_validate(settings),
    )
