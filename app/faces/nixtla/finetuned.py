"""`/v2/finetuned_models`, onto the registry."""

from typing import Any

from sqlalchemy.orm import Session

from app.auth.keys import Principal
from app.errors import ApiError, NotFound
from app.faces.nixtla.finetune import DEPTH, STEPS
from app.faces.nixtla.names import THEIRS
from app.faces.nixtla.repository import Tuning, Tunings

_DEPTHS = {"zero_shot": 1, "linear_probe": 1, "lora": 2, "adalora": 2, "trace": 3}
"""Of jobs that were asked for elsewhere: what the depth of their method would have been; 5 of all others."""


def listed(session: Session, principal: Principal, *, names_itself: bool) -> dict[str, Any]:
    found = Tunings(session=session, tenant_id=principal.tenant_id).newest()
    return {"finetuned_models": [shown(one, principal, names_itself=names_itself) for one in found]}


def found(session: Session, principal: Principal, model_id: str) -> Tuning:
    """By the id a caller chose, or a version's short one; 404 for none of this tenant's."""
    tuning = Tunings(session=session, tenant_id=principal.tenant_id).find(model_id)
    if tuning is None:
        raise NotFound("model", model_id, param="finetuned_model_id")
    return tuning


def check_alone(session: Session, principal: Principal, tuning: Tuning) -> None:
    """A model is deleted whole. 422 where that would take versions of other jobs with it."""
    others = Tunings(session=session, tenant_id=principal.tenant_id).in_model(tuning.model)
    if any(one.job.id != tuning.job.id for one in others):
        raise ApiError(
            422,
            "model_has_versions",
            f"{tuning.model.name} holds versions of other jobs, which would go, too: DELETE /v1/models/{{name}} says "
            "that all shall.",
            param="finetuned_model_id",
        )


def shown(tuning: Tuning, principal: Principal, *, names_itself: bool) -> dict[str, Any]:
    """The client's object, and under its own names what this service knows beyond it.

    `names_itself`: whether the client says its version. Those that do not check `model` against the names they know.
    """
    version, job = tuning.version, tuning.job
    asked, resolved = job.user_metadata or {}, (job.result or {}).get("resolved") or job.resolved
    backbone = str(version.manifest.get("backbone", {}).get("name", tuning.model.backbone))
    verdict = version.verdict or {}
    return {
        "id": tuning.id,
        "created_at": version.created_at.isoformat(),
        "created_by": principal.tenant,
        "base_model_id": backbone,
        "steps": int(asked.get(STEPS) or (job.progress or {}).get("total_steps") or 0),
        "depth": int(asked.get(DEPTH) or _DEPTHS.get(resolved["method"], 5)),
        "loss": "default",
        "model": backbone if names_itself else THEIRS[0],
        "freq": str(job.resolved.get("freq", "")),
        "served_model": tuning.model.name,
        "version": version.version,
        "version_id": version.id,
        "job_id": job.id,
        "task": tuning.model.task,
        "method": resolved["method"],
        "prediction_length": tuning.model.prediction_length,
        "refit": version.refit,
        "promoted": verdict.get("promoted"),
        "reason": verdict.get("reason"),
    }
