"""What the client's `model` and `finetuned_model_id` mean here."""

import math

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from app.auth.keys import Principal
from app.backtests.service import history_seen
from app.db import session_scope
from app.errors import NotFound
from app.faces.nixtla.repository import Tunings
from app.faces.nixtla.schemas import ModelParamsIn
from app.faces.nixtla.series import client_version, clock_of, usual_horizon
from app.ids import VERSION
from app.jobs.schemas import JobCreate
from app.registry.directory import SourceKind
from app.registry.state import registry_state
from tsfm import catalog
from tsfm.serving.context_quantiles import MAX_ORIGINS

DEFAULT_MODEL = str(JobCreate.model_fields["model"].default)
THEIRS = ("timegpt-1", "timegpt-1-long-horizon", "timegpt-2.1")
"""Names that clients send by default, and that old ones insist on."""
PREFIX = "timegpt-"


def our_name(model: str) -> str:
    """The client's own names mean the default backbone; `timegpt-` before one of ours is for clients that insist."""
    return DEFAULT_MODEL if model in THEIRS else model.removeprefix(PREFIX)


async def served_name(request: Request, principal: Principal, *, model: str, finetuned_model_id: str | None) -> str:
    """The name to ask the registry for; 404 for an id that is none of this tenant's."""
    if finetuned_model_id is None:
        return our_name(model)
    if finetuned_model_id.startswith(VERSION):
        return finetuned_model_id
    return await run_in_threadpool(_version_of, request, principal, finetuned_model_id)


def _version_of(request: Request, principal: Principal, output_model_id: str) -> str:
    with session_scope(request.app.state.services.engine, read_only=True) as session:
        found = Tunings(session=session, tenant_id=principal.tenant_id).find(output_model_id)
    if found is None:
        raise NotFound("model", output_model_id, param="finetuned_model_id")
    return found.version.id


async def model_params(request: Request, principal: Principal, asked: ModelParamsIn) -> dict[str, int]:
    """`input_size`, the points of history that the client then sends, and `horizon`, beyond which it warns.

    404 for an unknown model, 422 for an unknown frequency.
    """
    target = await registry_state(request.app).directory.target(principal.tenant_id, our_name(asked.model))
    freq = clock_of(asked.freq, client_version=client_version(request), has_times=True).freq
    source, horizon = target.source, target.prediction_length or usual_horizon(freq)
    if source.kind is SourceKind.ZERO_SHOT:  # no season is looked for: a backbone sees its context
        spec = catalog.backbone(source.name)
        seen, horizon = spec.context_length, min(horizon, spec.prediction_length)
    else:
        seen = history_seen(source, freq)
    # With levels the client sends three times as much, and it is then that rolling origins may be needed.
    return {"input_size": max(seen, math.ceil((seen + MAX_ORIGINS) / 3)), "horizon": horizon}
