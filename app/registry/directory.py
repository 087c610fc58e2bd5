"""What a model name means right now: what was asked, and what answers. Known names need no query for up to a second.

An entry younger than half a second is used as it is; an older one is used while it is fetched again in the background;
at one second it is fetched before it is used. So a moved alias, also one moved by another process, is seen within a
second, and a busy name costs one query per half second.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool

from app.db import session_scope
from app.errors import NotFound
from app.ids import CHECKPOINT
from app.registry.names import MAX_NAME_CHARS, parse_reference
from app.registry.register import INCUMBENT
from app.registry.repository import Registry
from app.registry.service import meaning_of
from app.tables import ModelVersion
from tsfm import calibration, catalog, null
from tsfm.backbones.places import find_weights
from tsfm.errors import WeightsError

SCORED_BY_RIVALS: tuple[catalog.Task, ...] = ("forecast", "anomaly_detection")
REFRESH_SECONDS = 0.5
MAX_AGE_SECONDS = 1.0
MAX_ENTRIES = 10_000


class SourceKind(StrEnum):
    TUNED = "tuned"
    ZERO_SHOT = "zero_shot"
    RIVAL = "rival"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One thing that can forecast. Immutable: the same key always gives the same numbers."""

    kind: SourceKind
    name: str
    """The backbone's name (tuned and zero-shot) or the rival's."""
    digest: str | None
    """Of the artifact, or of the backbone's weights; rivals have none."""
    version: int | None = None
    files: Mapping[str, str] | None = None
    """Artifact path → sha256, tuned only."""
    backbone_digest: str | None = None
    """Of the weights it was tuned from, tuned versions only."""
    context_length: int | None = None
    """What a rival was judged with; None for the source's own default."""
    period: int | None = None
    """Season a rival was judged with; None for the season of the series' frequency."""
    calibration: "CalibrationRef | None" = None
    """Where the job that judged a fallback calibrated it; tuned weights carry their own."""
    judged: "JudgedRef | None" = None
    """How, and by which artifact's nulls, a fallback scores points or fills gaps; None of forecasts."""

    @property
    def key(self) -> str:
        if self.kind is SourceKind.TUNED and self.digest:
            return self.digest
        return f"{self.kind.value}:{self.name}:{self.digest}:{self.context_length}:{self.period}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationRef:
    """One source of an artifact's calibration file. Immutable, like the artifact."""

    digest: str
    """Of the artifact."""
    sha256: str
    """Of its calibration file."""
    name: str
    """Source: "zero_shot", "naive", "seasonal_naive:24", …"""

    @property
    def key(self) -> str:
        return f"{self.digest}:{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedRef:
    """What another task than forecasting has to know of the job that judged a fallback."""

    facts: Mapping[str, Any]
    """Of its manifest: the task's setting, `fill` and `schema`."""
    digest: str
    null_sha256: str | None
    """Of its file of nulls."""
    name: str
    """Source: "zero_shot", "naive", …"""


JUDGED_FACTS = ("task", "scoring", "prediction_length", "context_length", "fill", "levels", "schema")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A resolved name."""

    model: str
    """Full name, as the answer shows it."""
    version: int | None
    digest: str | None
    source: Source
    """What answers: the version's own weights, or its fallback."""
    fallback: str | None
    tasks: tuple[catalog.Task, ...]
    """What it answers."""
    prediction_length: int | None = None
    """The horizon it was tuned for."""
    freq: str | None = None
    """The frequency it was tuned on."""
    training_file: str | None = None
    notes: tuple[str, ...] = ()
    """What a reader of the forecast should know about what answers."""


def catalogue_target(name: str, *, weights_dir: Path | None) -> Target | None:
    """Backbones (zero-shot) and rivals; None for any other name. `WeightsError` where a backbone's are not here."""
    if name in (*catalog.RIVALS, *catalog.FILL_RIVALS):
        return rival_target(name)
    if name not in catalog.BACKBONES:
        return None
    try:
        source = _zero_shot(name, find_weights(catalog.backbone(name), weights_dir=weights_dir).digest)
    except WeightsError as error:
        error.param = "model"
        raise
    tasks = catalog.backbone(name).tasks
    return Target(model=name, version=None, digest=source.digest, source=source, fallback=None, tasks=tasks)


def rival_target(name: str) -> Target:
    tasks: tuple[catalog.Task, ...] = ("imputation",) if name in catalog.FILL_RIVALS else SCORED_BY_RIVALS
    return Target(model=name, version=None, digest=None, source=_rival(name), fallback=None, tasks=tasks)


def find_target(engine: Engine, tenant_id: str, name: str) -> Target:
    """Resolves a tuned name or a checkpoint with one short read transaction, or 404."""
    with session_scope(engine, read_only=True) as session:
        if name.startswith(CHECKPOINT):
            return _checkpoint_target(Registry(session=session, tenant_id=tenant_id), name)
        meaning = meaning_of(session, tenant_id=tenant_id, reference=parse_reference(name))
        job = Registry(session=session, tenant_id=tenant_id).job(meaning.version.job_id)
    asked, served, fallback = meaning.version, meaning.served, meaning.fallback
    source = _tuned(served) if fallback in (None, INCUMBENT) else _calibrated(str(fallback), served)
    return Target(
        model=meaning.model.name,
        version=asked.version,
        digest=asked.digest,
        source=source,
        fallback=fallback,
        tasks=(_task(meaning.model.task),),
        prediction_length=meaning.model.prediction_length,
        freq=job.resolved.get("freq") if job else None,
        training_file=job.training_file if job else None,
        notes=() if meaning.lost is None else (f"Version {meaning.lost} did not beat version {served.version}.",),
    )


def _tuned(version: ModelVersion) -> Source:
    """Versions of one name may stem from different backbones: what a version is stands in its own manifest."""
    return Source(
        kind=SourceKind.TUNED,
        name=version.manifest["backbone"]["name"],
        digest=version.digest,
        version=version.version,
        files=version.files,
        backbone_digest=version.manifest["backbone"]["digest"],
    )


def _checkpoint_target(registry: Registry, name: str) -> Target:
    """What a run had come to at its best so far; nobody judged it, so nothing answers instead of it."""
    found = registry.checkpoint(name)
    if found is None:
        raise NotFound("checkpoint", name, param="model")
    checkpoint, job = found
    backbone = str(job.resolved["backbone"])
    return Target(
        model=name,
        version=None,
        digest=checkpoint.digest,
        source=Source(kind=SourceKind.TUNED, name=backbone, digest=checkpoint.digest, files=checkpoint.files),
        fallback=None,
        tasks=(_task(job.resolved["task"]),),
        prediction_length=int(job.resolved["prediction_length"]),
        freq=job.resolved.get("freq"),
        training_file=job.training_file,
    )


def _calibrated(fallback: str, judge: ModelVersion) -> Source:
    """A fallback with the quantiles that the job which judged it measured for it."""
    source = _fallback_source(fallback, judge.manifest)
    name = calibration.source_name(fallback, source.period)
    if judge.manifest["task"] != "forecast":
        facts = {fact: judge.manifest.get(fact) for fact in JUDGED_FACTS}
        nulls = judge.files.get(null.FILE)
        source = replace(source, judged=JudgedRef(facts=facts, digest=judge.digest, null_sha256=nulls, name=name))
    sha256 = judge.files.get(calibration.FILE)
    if sha256 is None:
        return source
    return replace(source, calibration=CalibrationRef(digest=judge.digest, sha256=sha256, name=name))


def _fallback_source(fallback: str, manifest: Mapping[str, Any]) -> Source:
    """What was not beaten, exactly as it was judged: zero-shot with all the context it can take, whatever the job's."""
    if fallback == "zero_shot":
        return _zero_shot(manifest["backbone"]["name"], manifest["backbone"]["digest"])
    context_length = int(manifest["context_length"])
    period = manifest["rivals"][fallback]["period"] if fallback in catalog.SEASONAL_RIVALS else None
    return replace(_rival(fallback), context_length=context_length, period=period)


def _task(name: str) -> catalog.Task:
    return next(task for task in catalog.TASKS if task == name)


def _zero_shot(backbone: str, digest: str) -> Source:
    return Source(kind=SourceKind.ZERO_SHOT, name=backbone, digest=digest)


def _rival(name: str) -> Source:
    return Source(kind=SourceKind.RIVAL, name=name, digest=None)


def native_quantiles(source: Source) -> bool:
    """Whether the source knows quantiles by itself; rivals and point backbones do not."""
    return source.kind is not SourceKind.RIVAL and bool(catalog.backbone(source.name).quantile_levels)


class Directory:
    """The cache in front of `find_target`; lives on one event loop. `find(tenant_id, name)` does the query."""

    def __init__(
        self,
        find: Callable[[str, str], Target],
        *,
        weights_dir: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._find = find
        self._weights_dir = weights_dir
        self._clock = clock
        self._entries: dict[tuple[str, str], tuple[float, Target]] = {}
        self._fetching: dict[tuple[str, str], asyncio.Task[Target]] = {}

    async def target(self, tenant_id: str, name: str) -> Target:
        """What `name` means for this tenant, at most a second old; 404 when it means nothing, `WeightsError` when it is
        a backbone whose weights are not on this machine."""
        if (built_in := catalogue_target(name, weights_dir=self._weights_dir)) is not None:
            return built_in
        if not 0 < len(name) <= MAX_NAME_CHARS:
            raise NotFound("model", name[:MAX_NAME_CHARS], param="model")
        key = (tenant_id, name)
        entry = self._entries.get(key)
        age = self._clock() - entry[0] if entry else MAX_AGE_SECONDS
        if entry is None or age >= MAX_AGE_SECONDS:
            return await asyncio.shield(self._fetch(key))
        if age >= REFRESH_SECONDS:
            self._fetch(key)
        return entry[1]

    def forget(self, tenant_id: str) -> None:
        """Drops this tenant's names, so that a change made here is seen by the next request. Any thread may call."""
        for key in list(self._entries):
            if key[0] == tenant_id:
                self._entries.pop(key, None)

    def _fetch(self, key: tuple[str, str]) -> asyncio.Task[Target]:
        if (running := self._fetching.get(key)) is None:
            running = self._fetching[key] = asyncio.create_task(self._refresh(key))
            running.add_done_callback(lambda task: self._done(key, task))
        return running

    async def _refresh(self, key: tuple[str, str]) -> Target:
        asked_at = self._clock()  # the age counts from before the query
        target = await run_in_threadpool(self._find, *key)
        if len(self._entries) >= MAX_ENTRIES:
            self._entries.clear()
        self._entries[key] = (asked_at, target)
        return target

    def _done(self, key: tuple[str, str], task: asyncio.Task[Target]) -> None:
        del self._fetching[key]
        if task.cancelled() or task.exception() is not None:
            self._entries.pop(key, None)
