"""What a job's end leaves in the registry: its judged version, its refit, and whether `production` moves.

It runs inside the transaction that ends the job: either both stand or neither does.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from sqlalchemy.orm import Session

from app.errors import Conflict, NotFound
from app.ids import MODEL, VERSION, new_id, utc_now
from app.registry.aliases import promote
from app.registry.repository import PRODUCTION, Registry
from app.tables import Job, Model, ModelVersion
from tsfm import catalog

ZERO_SHOT, INCUMBENT = "zero_shot", "incumbent"
RIVALS = (*catalog.RIVALS, *catalog.FILL_RIVALS)
FALLBACKS: frozenset[str] = frozenset({INCUMBENT, ZERO_SHOT, *RIVALS})
"""What may answer for a version that did not win."""
MAX_SUFFIX_CHARS = 64
COVARIATES = ("past_covariates", "future_covariates", "static")


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The version that a job has to beat: what `production` of its `register_as` pointed at when it was claimed."""

    name: str
    version: int
    digest: str
    files: dict[str, str]
    """Artifact path → sha256."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refit:
    """The winning recipe trained on all history: weights nobody judged."""

    digest: str
    manifest: Mapping[str, Any]
    files: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """What a job's end left in the registry."""

    name: str
    version: int
    version_id: str
    promoted: bool
    """Whether `production` points at this version now."""
    refit_version: int | None
    note: str | None
    """A sentence for the job's events where the caller got something else than asked; else None."""


def incumbent_of(session: Session, *, tenant_id: str, name: str | None) -> Standing | None:
    """What a job with this `register_as` has to beat; None: zero-shot (a fresh name, or nothing in production)."""
    if name is None:
        return None
    registry = Registry(session=session, tenant_id=tenant_id)
    model = registry.model(name)
    alias = registry.alias(model, PRODUCTION) if model else None
    if model is None or alias is None:
        return None
    version = registry.version(model, alias.version)
    assert version is not None, "aliases point at versions that exist"
    return Standing(name=name, version=version.version, digest=version.digest, files=dict(version.files))


def register_version(
    session: Session,
    *,
    tenant_id: str,
    job_row: Job,
    result: Mapping[str, Any],
    files: Mapping[str, str],
    incumbent: int | None = None,
    refit: Refit | None = None,
) -> Registered:
    """Adds the job's judged version: of a fresh name, or the next one of `job_row.register_as`.

    `result` is a `FinetuneResult` as a mapping (`digest`, `manifest`, `verdict`, `gate` are read); `files` maps each
    artifact path to the sha256 of its stored blob; `incumbent` is the version the gate was held against. Call it
    inside the transaction that ends the job, after the blobs are stored; the unique pair (job, refit) lets no second
    registration commit. `production` moves only when the gate was passed and still points at `incumbent`.
    """
    registry = Registry(session=session, tenant_id=tenant_id)
    verdict: Mapping[str, Any] = result["verdict"]
    model, is_fresh, note = _model_for(registry, job_row)
    if is_fresh:
        incumbent = None
    fallback = _fallback(result, has_incumbent=incumbent is not None)
    newest = registry.newest(model, refits=True)
    number = newest.version + 1 if newest else 1
    version = _version(model, number, job_row, digest=result["digest"], files=files, manifest=result["manifest"])
    version.verdict, version.gate, version.fallback = dict(verdict), result.get("gate"), fallback
    version.incumbent = incumbent
    version.judged = verdict.get("test_windows") != 0
    session.add(version)
    if refit is not None:
        again = _version(model, number + 1, job_row, digest=refit.digest, files=refit.files, manifest=refit.manifest)
        again.refit = True
        session.add(again)
    session.flush()
    promoted = False
    if verdict["promoted"]:
        standing = promote(registry, model, version, expected=incumbent)
        promoted = standing is None
        if standing is not None:
            note = _overtaken(model, version, judged_against=incumbent, standing=standing)
    version.verdict = {**as_registered(verdict, "reason", note), "promoted": promoted}
    if version.gate is not None:
        version.gate = as_registered(version.gate, "sentence", note)
    return Registered(
        name=model.name,
        version=version.version,
        version_id=version.id,
        promoted=promoted,
        refit_version=number + 1 if refit is not None else None,
        note=note,
    )


def as_registered(found: Mapping[str, Any], sentence: str, note: str | None) -> dict[str, Any]:
    """What a run said of its verdict, and what became of it: the run cannot know that its name was overtaken."""
    return dict(found) if note is None else {**found, sentence: f"{found[sentence]} {note}"}


def _version(
    model: Model, number: int, job: Job, *, digest: str, files: Mapping[str, str], manifest: Mapping[str, Any]
) -> ModelVersion:
    return ModelVersion(
        id=new_id(VERSION),
        model_id=model.id,
        version=number,
        job_id=job.id,
        digest=digest,
        files=dict(files),
        manifest=dict(manifest),
        fallback=None,
        judged=False,
        refit=False,
        created_at=utc_now(),
    )


def _fallback(result: Mapping[str, Any], *, has_incumbent: bool) -> str | None:
    """What answers for the version. An incumbent that is gone (its name was deleted meanwhile) can answer nothing:
    then the next of those that were not beaten does, and the version itself where it beat all the others."""
    fallback: str | None = result["verdict"]["fallback"]
    assert fallback is None or fallback in FALLBACKS, f"unknown fallback {fallback!r}"
    if fallback != INCUMBENT or has_incumbent:
        return fallback
    gate = result.get("gate") or {}
    if gate.get("reason") == "false_alarms":
        return ZERO_SHOT
    versus = gate.get("versus", {})
    unbeaten = [name for name in (ZERO_SHOT, *RIVALS) if name in versus and not versus[name]["beaten"]]
    return next(iter(unbeaten), None)


def _overtaken(model: Model, version: ModelVersion, *, judged_against: int | None, standing: int) -> str:
    bar = "the zero-shot backbone" if judged_against is None else f"version {judged_against}"
    return (
        f"The gate was passed against {bar}, but {PRODUCTION} of {model.name} points at version {standing} by now, "
        f"which version {version.version} was not judged against: the alias was left alone."
    )


def check_register_as(
    session: Session,
    *,
    tenant_id: str,
    name: str,
    task: str,
    prediction_length: int,
    freq: str | None = None,
    columns: Mapping[str, Any] | None = None,
) -> None:
    """Refuses, before a job is created, a `register_as` that could not be registered: a request that the name answers
    today must be answerable by the new version too. `columns` and `freq` are of the job's reading."""
    registry = Registry(session=session, tenant_id=tenant_id)
    model = registry.model(name)
    if model is None:
        raise NotFound("model", name, param="register_as")
    if (model.task, model.prediction_length) != (task, prediction_length):
        raise _mismatch(
            f"{name} holds versions for task {model.task} at prediction_length {model.prediction_length}; this job is "
            f"for {task} at {prediction_length}."
        )
    newest = registry.newest(model)
    job = registry.job(newest.job_id) if newest else None
    if job is None:
        return
    known = job.resolved.get("freq")
    if freq is not None and known not in (None, freq):
        raise _mismatch(
            f"{name} holds versions for series of freq {known!r}; this file has {freq!r}, where {prediction_length} "
            "steps mean another span of time."
        )
    theirs = registry.reading(job.training_file).get("columns") or {}
    for role in COVARIATES:
        mine, known_names = set((columns or {}).get(role) or ()), set(theirs.get(role) or ())
        if columns is not None and mine != known_names:
            raise _mismatch(
                f"{name} was tuned with {role} {_listed(known_names)}; this job has {_listed(mine)}, so requests to "
                f"{name} would no longer fit."
            )


def _mismatch(why: str) -> Conflict:
    mend = "Register it under a name of its own (leave register_as out)."
    return Conflict("model_mismatch", f"{why} {mend}", param="register_as")


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _model_for(registry: Registry, job: Job) -> tuple[Model, bool, str | None]:
    """The model the version joins, whether it is a fresh one, and what to tell the caller about it."""
    note = None
    if job.register_as is not None:
        model = registry.model(job.register_as, lock=True)
        if model is not None:
            return model, False, None
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
    return model, True, note


def _file_stem(registry: Registry, job: Job) -> str:
    file = registry.file(job.training_file)
    return PurePath(file.filename).name.split(".")[0] if file else ""


def _suffix(text: str) -> str:
    """Only characters that cannot be mistaken for a part of a name: no colon, slash or at sign."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")[:MAX_SUFFIX_CHARS] or "model"
