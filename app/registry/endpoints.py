"""`/v1/models`: what can be asked to forecast, its versions and aliases.

Names contain colons and may contain slashes, so they are path parameters; longer paths are declared first.
"""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query
from fastapi.responses import StreamingResponse

from app.auth.dependencies import require
from app.auth.keys import Principal
from app.db import ReadSessionDep, SessionDep, after_commit, session_scope
from app.errors import responses
from app.files.service import remove_objects
from app.paging import MAX_LIMIT, Page, PageDep, PageQuery
from app.registry import aliases, service, views
from app.registry.download import zip_stream
from app.registry.names import ALIAS_PATTERN, MAX_NAME_CHARS
from app.registry.schemas import AliasMove, ModelDetail, ModelObject, VersionDetail, VersionObject
from app.registry.state import RegistryState, get_registry
from app.schemas import Deleted
from app.services import ServicesDep

router = APIRouter(prefix="/models", tags=["models"])
ModelsDep = Annotated[Principal, require("models")]
NameDep = Annotated[str, Path(min_length=1, max_length=MAX_NAME_CHARS)]
AliasDep = Annotated[str, Path(pattern=ALIAS_PATTERN)]
VersionDep = Annotated[int, Path(ge=1, le=2**31 - 1)]


async def _registry(state: Annotated[RegistryState, Depends(get_registry)]) -> RegistryState:
    return state


RegistryDep = Annotated[RegistryState, Depends(_registry)]


def _model_page(
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="How many objects at most.")] = 1_000,
    after: Annotated[
        str | None, Query(max_length=MAX_NAME_CHARS, description="The last id of the page before.")
    ] = None,
) -> PageQuery:
    """The openai client lists models without paging, so that a page holds many by default."""
    return PageQuery(limit=limit, after=after)


@router.get("", responses=responses(), summary="Fine-tuned models, backbones and rivals")
def list_models(
    principal: ModelsDep, session: ReadSessionDep, page: Annotated[PageQuery, Depends(_model_page)]
) -> Page[ModelObject]:
    return views.list_models(session, principal, page)


@router.get("/{name:path}/versions/{version}/download", responses=responses(404, 503), summary="Download as a zip")
def download(
    name: NameDep, version: VersionDep, principal: ModelsDep, services: ServicesDep, registry: RegistryDep
) -> StreamingResponse:
    """The weights (safetensors), the manifest and the model card, verified by hash before the first byte is sent."""
    with session_scope(services.engine, read_only=True) as session:
        shown = views.one_version(session, principal, name, version)
    folder = registry.artifacts.fetch_verified(shown.digest, shown.files)
    root = f"{name.replace(':', '-').replace('/', '-')}-v{version}"
    return StreamingResponse(
        zip_stream(folder, shown.files, root=root),
        media_type="application/zip",
        headers={"content-disposition": f'attachment; filename="{root}.zip"', "etag": f'"{shown.digest}"'},
    )


@router.get("/{name:path}/versions/{version}", responses=responses(404), summary="One version with its manifest")
def get_version(name: NameDep, version: VersionDep, principal: ModelsDep, session: ReadSessionDep) -> VersionDetail:
    return views.one_version(session, principal, name, version)


@router.get("/{name:path}/versions", responses=responses(404), summary="Versions, newest first")
def list_versions(name: NameDep, principal: ModelsDep, session: ReadSessionDep, page: PageDep) -> Page[VersionObject]:
    return views.list_versions(session, principal, name, page)


@router.put("/{name:path}/aliases/{alias}", responses=responses(404, 409), summary="Promote or roll back")
def set_alias(
    name: NameDep, alias: AliasDep, body: AliasMove, principal: ModelsDep, session: SessionDep, registry: RegistryDep
) -> ModelDetail:
    """Points the alias at a version; `production` is what a bare name serves. Repeating the call changes nothing."""
    aliases.refuse_catalogue_name(name)
    aliases.set_alias(session, tenant_id=principal.tenant_id, name=name, alias=alias, version=body.version)
    after_commit(session, lambda: registry.directory.forget(principal.tenant_id))
    session.flush()
    return views.model_detail(session, principal, name)


@router.delete("/{name:path}/aliases/{alias}", responses=responses(404, 409), summary="Remove an alias")
def remove_alias(
    name: NameDep, alias: AliasDep, principal: ModelsDep, session: SessionDep, registry: RegistryDep
) -> ModelDetail:
    aliases.refuse_catalogue_name(name)
    aliases.remove_alias(session, tenant_id=principal.tenant_id, name=name, alias=alias)
    after_commit(session, lambda: registry.directory.forget(principal.tenant_id))
    session.flush()
    return views.model_detail(session, principal, name)


@router.get("/{name:path}", responses=responses(404), summary="One model")
def get_model(name: NameDep, principal: ModelsDep, session: ReadSessionDep) -> ModelDetail:
    return views.model_detail(session, principal, name)


@router.delete("/{name:path}", responses=responses(404, 409), summary="Delete a model and all its versions")
def delete_model(
    name: NameDep, principal: ModelsDep, session: SessionDep, services: ServicesDep, registry: RegistryDep
) -> Deleted:
    aliases.refuse_catalogue_name(name)
    file_ids = service.delete_model(session, tenant_id=principal.tenant_id, name=name)
    after_commit(session, lambda: registry.directory.forget(principal.tenant_id))
    after_commit(session, lambda: service.free_deleted_blobs(services.engine, services.store))
    for file_id in file_ids:
        after_commit(session, partial(remove_objects, services.store, file_id))
    return Deleted(id=name, object="model", deleted=True)
