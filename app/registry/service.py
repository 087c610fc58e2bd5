"""Rules of the registry: what a name means, and what a deletion frees.

What a job's end registers stands in `register.py`, how an alias moves in `aliases.py`.
"""

from dataclasses import dataclass

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from app.db import session_scope
from app.errors import NotFound
from app.files.results import drop_results
from app.ids import utc_now
from app.jobs.checkpoints import drop_checkpoints
from app.registry.aliases import existing
from app.registry.names import Reference
from app.registry.register import INCUMBENT
from app.registry.repository import PRODUCTION, Registry, deleted_versions, living_blobs, num_held_jobs
from app.storage import Store, blob_key
from app.tables import Model, ModelVersion


def delete_model(session: Session, *, tenant_id: str, name: str) -> list[str]:
    """Takes the model, all its versions, their checkpoints and result files away; answers the ids of those files,
    whose objects may go after the commit.

    The rows stay (a job's verdict must remain explainable, and its one registration used up); the name is never reused.
    """
    registry = Registry(session=session, tenant_id=tenant_id)
    model = existing(registry, name, lock=True)
    model.deleted_at = utc_now()
    job_ids = [version.job_id for version in registry.versions([model.id])]
    drop_checkpoints(session, job_ids)
    return drop_results(session, job_ids)


def free_deleted_blobs(engine: Engine, store: Store) -> None:
    """Deletes the blobs of deleted models that no living version of any tenant uses.

    While any worker holds a job it does nothing, since that job may just have stored the same content and not yet
    registered it. Called after each deletion and by the sweeper, so what is left now goes later.
    """
    with session_scope(engine) as session:
        versions = deleted_versions(session)
        if not versions or num_held_jobs(session):
            return
        free = {sha256 for version in versions for sha256 in version.files.values()} - living_blobs(session)
        for sha256 in sorted(free):
            store.delete(blob_key(sha256))
        for version in versions:
            version.files = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What a tuned name means right now."""

    model: Model
    version: ModelVersion
    """What was asked for."""
    served: ModelVersion
    """Whose weights answer, unless `fallback` names zero-shot or a rival: the same version, or the incumbent."""
    fallback: str | None
    """What answers in place of a version that did not win; null where the asked version's own weights do."""
    lost: int | None = None
    """The newer version that did not beat the one served."""


def meaning_of(session: Session, *, tenant_id: str, reference: Reference) -> Meaning:
    """The version a tuned name means, and what answers for it.

    A bare name means its `production` version, else the newest one (a refit is never the newest). Whoever put a version
    into production (the gate, or a person) wants its weights, as does who names a version or an alias; only a newest
    version that never got there answers through its fallback. A bare name whose newest version lost to the one in
    production says so: `fallback` is `incumbent`.
    """
    registry = Registry(session=session, tenant_id=tenant_id)
    if reference.selector is None and (found := registry.by_short_id(reference.name)) is not None:
        return Meaning(model=found[0], version=found[1], served=found[1], fallback=None)
    model = existing(registry, reference.name)
    if reference.selector is None:
        return _bare(registry, model)
    number = _version_number(registry, model, reference.selector)
    version = registry.version(model, number)
    if version is None:
        raise NotFound("version", f"{model.name}@{reference.selector}", param="model")
    return Meaning(model=model, version=version, served=version, fallback=None)


def _bare(registry: Registry, model: Model) -> Meaning:
    newest, alias = registry.newest(model), registry.alias(model, PRODUCTION)
    assert newest is not None, "a model always has a judged version"
    lost_to = newest.incumbent if newest.fallback == INCUMBENT else None
    if alias is not None:
        version = registry.version(model, alias.version)
        assert version is not None, "aliases point at versions that exist"
        if alias.version != lost_to:
            return Meaning(model=model, version=version, served=version, fallback=None)
        return Meaning(model=model, version=version, served=version, fallback=INCUMBENT, lost=newest.version)
    if lost_to is None:
        return Meaning(model=model, version=newest, served=newest, fallback=newest.fallback)
    served = registry.version(model, lost_to)
    assert served is not None, "versions go with their model only"
    return Meaning(model=model, version=newest, served=served, fallback=INCUMBENT, lost=newest.version)


def _version_number(registry: Registry, model: Model, selector: str) -> int:
    if selector.isdecimal():
        return int(selector) if len(selector) < 10 else 0
    alias = registry.alias(model, selector)
    if alias is None:
        raise NotFound("alias", f"{model.name}@{selector}", param="model")
    return alias.version
