"""Rules of the registry: what a job registers, what a name means, how an alias moves, what a deletion frees.

The registration runs inside the transaction that ends the job: either both stand or neither does.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from app.db import session_scope
from app.errors import Conflict, NotFound
from app.ids import EVENT, MODEL, VERSION, new_id, utc_now
from app.jobs.checkpoints import drop_checkpoints
from app.registry.names import Reference
from app.registry.repository import PRODUCTION, Registry, deleted_versions, living_blobs, num_held_jobs
from app.storage import Store, blob_key
from app.tables import Job, Model, ModelAlias, ModelVersion
from tsfm import catalog

FALLBACKS: frozenset[str] = frozenset({"zero_shot", *catalog.RIVALS})
"""What may answer for a version that did not win (the incumbent joins with the full gate, evaluation.md §3)."""
MAX_SUFFIX_CHARS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """What a job's end left in the registry."""

    name: str
    version: int
    version_id: str
    promoted: bool
    note: str | None
    """A sentence for the job's events where the caller got something else than asked; else None."""


def register_version(
    session: Session, *, tenant_id: str, job_row: Job, result: Mapping[str, Any], files: Mapping[str, str]
) -> Registered:
    """Adds the job's judged version: of a fresh name, or the next one of `job_row.register_as`.

    `result` is a `FinetuneResult` as a mapping (`digest`, `manifest`, `verdict` are read); `files` maps each artifact
    path to the sha256 of its stored blob. Call it inside the transaction that ends the job, after the blobs are
    stored; the unique pair (job, judged) lets no second registration commit.
    """
    registry = Registry(session=session, tenant_id=tenant_id)
    verdict: Mapping[str, Any] = result["verdict"]
    promoted, fallback = bool(verdict["promoted"]), verdict["fallback"]
    assert fallback is None or fallback in FALLBACKS, f"unknown fallback {fallback!r}"
    model, note = _model_for(registry, job_row)
    newest = registry.newest(model)
    version = ModelVersion(
        id=new_id(VERSION),
        model_id=model.id,
        version=newest.version + 1 if newest else 1,
        job_id=job_row.id,
        digest=result["digest"],
        files=dict(files),
        manifest=dict(result["manifest"]),
        verdict=dict(verdict),
        fallback=fallback,
        judged=True,
        created_at=utc_now(),
    )
    session.add(version)
    session.flush()
    if promoted:
        _point(registry, model, PRODUCTION, version, reason="the version won on the test block")
    return Registered(name=model.name, version=version.version, version_id=version.id, promoted=promoted, note=note)


def check_register_as(session: Session, *, tenant_id: str, name: str, task: str, prediction_length: int) -> None:
    """Refuses, before a job is created, a `register_as` that could not be registered."""
    model = Registry(session=session, tenant_id=tenant_id).model(name)
    if model is None:
        raise NotFound("model", name, param="register_as")
    if (model.task, model.prediction_length) != (task, prediction_length):
        raise Conflict(
            "model_mismatch",
            f"{name} holds versions for task {model.task} at prediction_length {model.prediction_length}; this job is "
            f"for {task} at {prediction_length}. Register it under a name of its own (leave register_as out).",
            param="register_as",
        )


def set_alias(session: Session, *, tenant_id: str, name: str, alias: str, version: int) -> Model:
    """Points `alias` at `version`: promoting and rolling back are this one move. Repeating it changes nothing."""
    registry = Registry(session=session, tenant_id=tenant_id)
    model = _existing(registry, name, lock=True)
    row = registry.version(model, version)
    if row is None:
        raise NotFound("version", f"{name}@{version}", param="version")
    _point(registry, model, alias, row, reason="moved by the API")
    return model


def remove_alias(session: Session, *, tenant_id: str, name: str, alias: str) -> Model:
    """Takes the alias away; without `production` a bare name means the newest version again."""
    registry = Registry(session=session, tenant_id=tenant_id)
    model = _existing(registry, name, lock=True)
    row = registry.alias(model, alias)
    if row is None:
        raise NotFound("alias", f"{name}@{alias}", param="alias")
    version = registry.version(model, row.version)
    assert version is not None, "aliases point at versions that exist"
    session.delete(row)
    _record(registry, model, alias, version, before=row.version, after=None, reason="removed by the API")
    return model


def delete_model(session: Session, *, tenant_id: str, name: str) -> None:
    """Takes the model, all its versions and their checkpoints away.

    The rows stay (a job's verdict must remain explainable, and its one registration used up); the name is never reused.
    """
    registry = Registry(session=session, tenant_id=tenant_id)
    model = _existing(registry, name, lock=True)
    model.deleted_at = utc_now()
    drop_checkpoints(session, [version.job_id for version in registry.versions([model.id])])


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


def version_of(session: Session, *, tenant_id: str, reference: Reference) -> tuple[Model, ModelVersion, bool]:
    """The version a tuned name means, and whether its own weights are asked for rather than what was not beaten.

    A bare name means its `production` version, else the newest one. Whoever put a version into production (the verdict,
    or a person) wants its weights; only a newest version that never got there answers through its fallback.
    """
    registry = Registry(session=session, tenant_id=tenant_id)
    if reference.selector is None and (found := registry.by_short_id(reference.name)) is not None:
        return *found, True
    model = _existing(registry, reference.name)
    if reference.selector is None:
        alias = registry.alias(model, PRODUCTION)
        version = registry.version(model, alias.version) if alias else registry.newest(model)
        assert version is not None, "a model always has a version"
        return model, version, alias is not None
    number = _version_number(registry, model, reference.selector)
    version = registry.version(model, number)
    if version is None:
        raise NotFound("version", f"{model.name}@{reference.selector}", param="model")
    return model, version, True


def _version_number(registry: Registry, model: Model, selector: str) -> int:
    if selector.isdecimal():
        return int(selector) if len(selector) < 10 else 0
    alias = registry.alias(model, selector)
    if alias is None:
        raise NotFound("alias", f"{model.name}@{selector}", param="model")
    return alias.version


def _existing(registry: Registry, name: str, *, lock: bool = False) -> Model:
    model = registry.model(name, lock=lock)
    if model is None:
        raise NotFound("model", name, param="model")
    return model


def _model_for(registry: Registry, job: Job) -> tuple[Model, str | None]:
    note = None
    if job.register_as is not None:
        model = registry.model(job.register_as, lock=True)
        if model is not None:
            return model, None
        note = f"{job.register_as} was deleted while the job ran, so the version got a name of its own."
    resolved = job.resolved
    suffix = _suffix(job.suffix or _file_stem(registry, job))
    model = Model(
        id=new_id(MODEL),
        tenant_id=registry.tenant_id,
        name=f"ft:{resolved['backbone']}:{registry.tenant_name()}:{suffix}:{new_id('', length=8)}",
        backbone=resolved["backbone"],
        task=resolved["task"],
        prediction_length=resolved["prediction_length"],
        created_at=utc_now(),
        deleted_at=None,
    )
    registry.session.add(model)
    registry.session.flush()
    return model, note


def _file_stem(registry: Registry, job: Job) -> str:
    file = registry.file(job.training_file)
    return PurePath(file.filename).name.split(".")[0] if file else ""


def _suffix(text: str) -> str:
    """Only characters that cannot be mistaken for a part of a name: no colon, slash or at sign."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")[:MAX_SUFFIX_CHARS] or "model"


def _point(registry: Registry, model: Model, alias: str, version: ModelVersion, *, reason: str) -> None:
    """Moves the alias and writes the move into the history kept with the version's job."""
    row = registry.alias(model, alias)
    before = row.version if row else None
    if before == version.version:
        return
    now = utc_now()
    if row is None:
        registry.session.add(ModelAlias(model_id=model.id, alias=alias, version=version.version, updated_at=now))
    else:
        row.version, row.updated_at = version.version, now
    _record(registry, model, alias, version, before=before, after=version.version, reason=reason)


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
    if name in catalog.BACKBONES or name in catalog.RIVALS:
        raise Conflict("model_is_built_in", f"{name} is built in; only fine-tuned models can be changed.", param="name")
