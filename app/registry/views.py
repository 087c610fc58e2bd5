"""Answers of the registry's reading routes, put together from its rows."""

from sqlalchemy.orm import Session

from app.auth.keys import Principal
from app.errors import NotFound
from app.paging import Page, PageQuery, list_rows, to_page
from app.registry.repository import Registry
from app.registry.schemas import ModelDetail, ModelObject, VersionDetail, VersionObject
from app.registry.show import alias_change, catalogue_models, tuned_model, version_detail, version_object
from app.tables import Model, ModelVersion

MAX_HISTORY = 100


def list_models(session: Session, principal: Principal, query: PageQuery) -> Page[ModelObject]:
    """The tenant's models, newest first, then backbones and rivals."""
    built_in = catalogue_models()
    names = [model.id for model in built_in]
    tuned: list[ModelObject] = []
    more = False
    if query.after in names:
        built_in = built_in[names.index(query.after) + 1 :]
    else:
        tuned, more = _tuned_page(session, principal, query)
    shown = tuned if more else [*tuned, *built_in]
    page = shown[: query.limit]
    return Page(
        object="list",
        data=page,
        has_more=more or len(shown) > len(page),
        first_id=page[0].id if page else None,
        last_id=page[-1].id if page else None,
    )


def _tuned_page(session: Session, principal: Principal, query: PageQuery) -> tuple[list[ModelObject], bool]:
    registry = Registry(session=session, tenant_id=principal.tenant_id)
    found = list_rows(
        session,
        registry.living(),
        query,
        keys=(Model.created_at, Model.id),
        id_column=Model.name,
        cursors=registry.every(),
    )
    models = [row[0] for row in found.rows]
    aliases = registry.aliases([model.id for model in models])
    versions: dict[str, list[ModelVersion]] = {}
    for version in registry.versions(list(aliases)):
        versions.setdefault(version.model_id, []).append(version)
    shown = [
        tuned_model(model, tenant=principal.tenant, aliases=aliases[model.id], versions=versions[model.id])
        for model in models
    ]
    return shown, found.has_more


def model_detail(session: Session, principal: Principal, name: str) -> ModelDetail:
    """One model with the history of its aliases; backbones and rivals too."""
    for built_in in catalogue_models():
        if built_in.id == name:
            return ModelDetail(**built_in.model_dump(), history=[])
    registry = Registry(session=session, tenant_id=principal.tenant_id)
    model = _living(registry, name)
    versions = registry.versions([model.id])
    aliases = registry.aliases([model.id])[model.id]
    events = registry.alias_events([version.job_id for version in versions], limit=MAX_HISTORY)
    shown = tuned_model(model, tenant=principal.tenant, aliases=aliases, versions=versions)
    return ModelDetail(**shown.model_dump(), history=[alias_change(event) for event in events])


def list_versions(session: Session, principal: Principal, name: str, query: PageQuery) -> Page[VersionObject]:
    registry = Registry(session=session, tenant_id=principal.tenant_id)
    model = _living(registry, name)
    aliases = registry.aliases([model.id])[model.id]
    found = list_rows(
        session, registry.versions_of(model), query, keys=(ModelVersion.version,), id_column=ModelVersion.id
    )
    return to_page(found, lambda row: version_object(model, row[0], aliases), id_of=lambda version: version.id)


def one_version(session: Session, principal: Principal, name: str, number: int) -> VersionDetail:
    registry = Registry(session=session, tenant_id=principal.tenant_id)
    model = _living(registry, name)
    version = registry.version(model, number)
    if version is None:
        raise NotFound("version", f"{name}@{number}", param="version")
    return version_detail(model, version, registry.aliases([model.id])[model.id])


def _living(registry: Registry, name: str) -> Model:
    model = registry.model(name)
    if model is None:
        raise NotFound("model", name, param="name")
    return model
