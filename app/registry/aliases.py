"""How an alias moves. Each move is one conditional update and one event in the history kept with the version's job."""

from sqlalchemy import update
from sqlalchemy.orm import Session

from app.errors import Conflict, NotFound
from app.ids import EVENT, new_id, utc_now
from app.registry.repository import PRODUCTION, Registry
from app.tables import Model, ModelAlias, ModelVersion
from tsfm import catalog


def set_alias(session: Session, *, tenant_id: str, name: str, alias: str, version: int) -> Model:
    """Points `alias` at `version`: promoting and rolling back are this one move. Repeating it changes nothing."""
    registry = Registry(session=session, tenant_id=tenant_id)
    model = existing(registry, name, lock=True)
    row = registry.version(model, version)
    if row is None:
        raise NotFound("version", f"{name}@{version}", param="version")
    found = registry.alias(model, alias)
    _point(registry, model, alias, row, expected=found.version if found else None, reason="moved by the API")
    return model


def remove_alias(session: Session, *, tenant_id: str, name: str, alias: str) -> Model:
    """Takes the alias away; without `production` a bare name means the newest version again."""
    registry = Registry(session=session, tenant_id=tenant_id)
    model = existing(registry, name, lock=True)
    row = registry.alias(model, alias)
    if row is None:
        raise NotFound("alias", f"{name}@{alias}", param="alias")
    version = registry.version(model, row.version)
    assert version is not None, "aliases point at versions that exist"
    session.delete(row)
    _record(registry, model, alias, version, before=row.version, after=None, reason="removed by the API")
    return model


def promote(registry: Registry, model: Model, version: ModelVersion, *, expected: int | None) -> int | None:
    """Points `production` at a version that passed its gate, if it still points at `expected` (None: nowhere).

    None: it was moved. Else it points at the answered version, which somebody else put there meanwhile. Hold the
    model's row (`Registry.model(lock=True)`), or have just made it.
    """
    row = registry.alias(model, PRODUCTION)
    if row is not None and row.version != expected:
        return row.version
    if row is None:
        expected = None
    _point(registry, model, PRODUCTION, version, expected=expected, reason="the version passed its gate")
    return None


def existing(registry: Registry, name: str, *, lock: bool = False) -> Model:
    model = registry.model(name, lock=lock)
    if model is None:
        raise NotFound("model", name, param="model")
    return model


def _point(
    registry: Registry, model: Model, alias: str, version: ModelVersion, *, expected: int | None, reason: str
) -> None:
    if expected == version.version:
        return
    now = utc_now()
    if expected is None:
        registry.session.add(ModelAlias(model_id=model.id, alias=alias, version=version.version, updated_at=now))
    else:
        statement = (
            update(ModelAlias)
            .where(ModelAlias.model_id == model.id, ModelAlias.alias == alias, ModelAlias.version == expected)
            .values(version=version.version, updated_at=now)
            .returning(ModelAlias.version)
        )
        moved = registry.session.execute(statement, execution_options={"synchronize_session": "fetch"}).one_or_none()
        assert moved is not None, "the model's row is held, so nobody else moves its aliases"
    _record(registry, model, alias, version, before=expected, after=version.version, reason=reason)


def _record(
    registry: Registry,
    model: Model,
    alias: str,
    version: ModelVersion,
    *,
    before: int | None,
    after: int | None,
    reason: str,
) -> None:
    was = f" (was {before})" if before is not None else ""
    where = "points nowhere" if after is None else f"points at version {after}"
    registry.add_event(
        event_id=new_id(EVENT),
        job_id=version.job_id,
        at=utc_now(),
        message=f"{model.name}: {alias} now {where}{was}: {reason}.",
        data={"model": model.name, "alias": alias, "version": after, "previous": before, "reason": reason},
    )


def refuse_catalogue_name(name: str) -> None:
    """Backbones and rivals are part of the program: nothing about them can be changed or deleted."""
    if name in catalog.BACKBONES or name in (*catalog.RIVALS, *catalog.FILL_RIVALS):
        raise Conflict("model_is_built_in", f"{name} is built in; only fine-tuned models can be changed.", param="name")
