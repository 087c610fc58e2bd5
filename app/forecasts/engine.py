"""The only place of the gateway where torch is imported: open forecasters, batched.

Import it in a thread once the application runs (`service.py` does). A request pins its forecaster (loading it outside
the compute thread if need be), then joins a batch of everything with the same source, horizon and levels.
"""

import asyncio
import gc
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol, TypeVar

import numpy as np
import structlog
import torch
from starlette.concurrency import run_in_threadpool

from app.forecasts.ran import CallerGone, Gone, Ran
from app.forecasts.respond import Numbers
from app.registry.artifacts import LocalArtifacts, artifact_damaged
from app.registry.directory import (
    CalibrationRef,
    JudgedRef,
    Source,
    SourceKind,
    catalogue_target,
    native_quantiles,
)
from tsfm import catalog
from tsfm.calibration import TUNED, Calibration, from_bytes
from tsfm.errors import ArtifactError, TemperError
from tsfm.filled import Filled, LongGaps
from tsfm.null import Null
from tsfm.null import from_bytes as nulls_from_bytes
from tsfm.scores import Anomalies, ScoringAsk
from tsfm.series.frame import SeriesFrame
from tsfm.serving.batcher import Answer, Batcher, BatcherConfig
from tsfm.serving.cache import Cache, Pin
from tsfm.serving.context_quantiles import context_quantiles
from tsfm.serving.frames import joined
from tsfm.tasks import anomaly, impute
from tsfm.tasks.forecast import Forecast, Forecaster, nulls_for
from tsfm.tasks.routed import RoutedForecaster, merged, open_served

log = structlog.get_logger(__name__)

Opened = Forecaster | RoutedForecaster
"""What answers for a source: a version whose series have routes asks several."""

CHUNK_SERIES = 64
"""A large request is computed in pieces of this size, so that small ones come in between."""
CHUNKS_IN_FLIGHT = 2
LOADERS = 2
COLLECTOR_THRESHOLDS = (20_000, 20, 50)
"""Of Python's cycle collector. A request makes some hundred objects that die with it, without cycles; with Python's own
thresholds the collector walks all that torch's import left behind so often that it takes a third of the event loop."""
CALIBRATION_BYTES = 64 * 1024 * 1024
"""Budget of calibrations of fallbacks in memory; those of tuned weights lie in their forecasters."""
CONFORMAL_NOTE = "Quantiles are conformal over rolling origins inside the history that was given."


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    num_threads: int
    """Threads of one forward pass; 0 = half the cores."""
    memory_bytes: int
    """Budget of open forecasters; those in use may exceed it."""
    batcher: BatcherConfig


@dataclass(frozen=True, slots=True)
class _Key:
    """Requests with the same key may share a forward pass."""

    source: str
    freq: str | None
    """Only where the source looks at it."""
    prediction_length: int
    levels: tuple[float, ...]
    history_length: int | None
    """Points looked at by a source without quantiles of its own; None where it has them or a calibration."""
    calibration: str | None
    """What a job calibrated for a source that others use, too."""


@dataclass(frozen=True, slots=True)
class _Work:
    forecaster: Forecaster
    frame: SeriesFrame
    calibration: Calibration | None = None


class Chunked(Protocol):
    """Work that is done in passes of `BATCH_SIZE` windows, in order."""

    @property
    def num_chunks(self) -> int: ...
    def compute(self, chunk: int) -> None: ...


C = TypeVar("C", bound=Chunked)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """One pass of somebody's own work; it shares a batch with nobody's."""

    work: Chunked
    number: int


class _Alone:
    """The key of a request whose passes meet no others'."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What the job that judged a fallback says of it, for other tasks than forecasting."""

    facts: dict[str, Any]
    calibration: Calibration | None
    nulls: dict[str, Null]


class Engine:
    def __init__(self, *, artifacts: LocalArtifacts, weights_dir: Path, config: EngineConfig) -> None:
        self._artifacts = artifacts
        self._weights_dir = weights_dir
        self._num_threads = config.num_threads or max((os.cpu_count() or 2) // 2, 1)
        self._cache: Cache[str, Opened] = Cache(budget_bytes=config.memory_bytes)
        self._calibrations: Cache[str, Calibration | None] = Cache(budget_bytes=CALIBRATION_BYTES)
        self._loaders = ThreadPoolExecutor(LOADERS, thread_name_prefix="forecast-load")
        self._nulls: Cache[str, dict[str, Null]] = Cache(budget_bytes=CALIBRATION_BYTES)
        self._batcher: Batcher[_Key | _Alone, _Work | _Chunk, Forecast | None] = Batcher(
            self._compute, config=config.batcher
        )

    def start(self, preload: Sequence[str] = ()) -> None:
        """Starts the compute thread and opens the backbones named by `preload` in the background."""
        torch.set_num_threads(self._num_threads)
        gc.set_threshold(*COLLECTOR_THRESHOLDS)
        self._batcher.start()
        for name in preload:
            self._loaders.submit(self._preload, name)

    def close(self) -> None:
        self._loaders.shutdown(wait=True, cancel_futures=True)
        self._batcher.close()
        self._cache.clear()

    async def forecast(
        self, source: Source, frame: SeriesFrame, prediction_length: int, levels: tuple[float, ...]
    ) -> Numbers:
        """Forecasts every series of `frame`. Raises `OverloadedError`, or what loading or the core raised."""
        begun = perf_counter()
        with await self._pin(source) as pin:
            loaded = perf_counter()
            if isinstance(pin.value, RoutedForecaster):
                whole, answers, sent = await self._routed(source, pin.value, frame, prediction_length, levels)
            else:
                calibration = await self._calibration(source)
                key = _key(source, pin.value, frame, prediction_length, levels, calibration)
                answers, sent = await self._submit(key, _Work(pin.value, frame, calibration)), None
                whole = _joined([answer.value for answer in answers])
        return Numbers(
            point=whole.point,
            quantiles=np.empty((len(frame), 0, prediction_length)) if whole.quantiles is None else whole.quantiles,
            point_kind=whole.point_kind,
            calibrated=whole.calibrated,
            uncalibrated_levels=whole.uncalibrated_levels,
            notes=whole.notes,
            sent=sent,
            queue_seconds=sum(answer.queue_seconds for answer in answers),
            load_seconds=loaded - begun,
            compute_seconds=sum(answer.compute_seconds for answer in answers),
        )

    async def detect(self, source: Source, frame: SeriesFrame, asked: ScoringAsk, *, gone: Gone) -> Ran[Anomalies]:
        """Scores the points of `frame`. Raises what `_run` raises."""

        def begin(forecaster: Forecaster, judged: Judged | None) -> anomaly.Scanning:
            like, nulls = (None, None) if judged is None else (judged.facts, judged.nulls)
            return anomaly.begin(forecaster, frame, asked, like=like, nulls=nulls)

        ran = await self._run(source, begin, gone=gone)
        return ran.of(await run_in_threadpool(ran.value.finish))

    async def fill(
        self,
        source: Source,
        frame: SeriesFrame,
        levels: tuple[float, ...],
        long_gaps: LongGaps,
        *,
        gone: Gone,
    ) -> Ran[Filled]:
        """Fills the gaps of `frame`. Raises what `_run` raises."""

        def begin(forecaster: Forecaster, judged: Judged | None) -> impute.Filling:
            like, known = (None, None) if judged is None else (judged.facts, judged.calibration)
            return impute.begin(forecaster, frame, levels, long_gaps=long_gaps, like=like, calibration=known)

        ran = await self._run(source, begin, gone=gone)
        return ran.of(await run_in_threadpool(ran.value.finish))

    async def _run(
        self,
        source: Source,
        begin: Callable[[Forecaster, Judged | None], C],
        *,
        gone: Gone,
    ) -> Ran[C]:
        """Starts work on an opened source and computes its passes one by one, between others' batches.

        Raises `OverloadedError`, `CallerGone` once `gone` says so, or what loading or the work raised.
        """
        begun = perf_counter()
        queue = compute = 0.0
        with await self._pin(source) as pin:
            opened = pin.value
            forecaster = opened.forecasters[TUNED] if isinstance(opened, RoutedForecaster) else opened
            judged = await self._judged(source)
            loaded = perf_counter()
            work = await run_in_threadpool(begin, forecaster, judged)
            key = _Alone()
            for number in range(work.num_chunks):
                if await gone():
                    raise CallerGone
                weight = self._batcher.max_batch_weight
                answer = await asyncio.wrap_future(self._batcher.submit(key, _Chunk(work, number), weight=weight))
                queue += answer.queue_seconds
                compute += answer.compute_seconds
        return Ran(value=work, queue_seconds=queue, load_seconds=loaded - begun, compute_seconds=compute)

    async def _judged(self, source: Source) -> Judged | None:
        """What a fallback of another task was judged with; None of everything else."""
        ref = source.judged
        if ref is None:
            return None
        nulls: dict[str, Null] = {}
        if ref.null_sha256 is not None:
            key = f"{ref.digest}:{ref.name}"
            if (pin := self._nulls.peek(key)) is None:
                load = partial(self._load_nulls, ref)
                pin = await asyncio.wrap_future(self._loaders.submit(self._nulls.acquire, key, load))
            with pin:
                nulls = pin.value
        return Judged(facts=dict(ref.facts), calibration=await self._calibration(source), nulls=nulls)

    def _load_nulls(self, ref: JudgedRef, _: str) -> tuple[dict[str, Null], int]:
        assert ref.null_sha256 is not None, "there is a file to load"
        try:
            found = nulls_for(ref.name, nulls_from_bytes(self._artifacts.read(ref.digest, ref.null_sha256)))
        except ArtifactError as error:
            raise artifact_damaged(ref.digest) from error
        return found, sum(one.scores.nbytes for one in found.values())

    async def _routed(
        self,
        source: Source,
        routed: RoutedForecaster,
        frame: SeriesFrame,
        prediction_length: int,
        levels: tuple[float, ...],
    ) -> tuple[Forecast, list[Answer[Forecast]], list[str]]:
        """Each source's series in a batch with others for the same source: what one request gets does not depend on
        where another one's series are sent. Also answers the source of each series."""
        sent = routed.sent(frame.item_ids)
        names = list(dict.fromkeys(sent))
        places = [[i for i, name in enumerate(sent) if name == one] for one in names]

        async def ask(name: str, place: list[int]) -> list[Answer[Forecast]]:
            forecaster = routed.forecasters[name]
            part = frame.take(place)
            asked = source if name not in catalog.RIVALS else replace(source, kind=SourceKind.RIVAL, name=name)
            key = _key(asked, forecaster, part, prediction_length, levels, None)
            return await self._submit(replace(key, source=f"{source.key}#{name}"), _Work(forecaster, part))

        asking = [asyncio.create_task(ask(name, place)) for name, place in zip(names, places, strict=True)]
        try:
            found = await asyncio.gather(*asking)
        finally:  # after a failure nothing of the rest is computed
            for task in asking:
                task.cancel()
        parts = [_joined([answer.value for answer in answers]) for answers in found]
        return merged(frame, places, parts), [answer for answers in found for answer in answers], sent

    async def _submit(self, key: _Key, work: _Work) -> list[Answer[Forecast]]:
        frame = work.frame
        if len(frame) <= CHUNK_SERIES:
            return [await self._one(key, work)]
        slots = asyncio.Semaphore(CHUNKS_IN_FLIGHT)

        async def chunk(begin: int) -> Answer[Forecast]:
            async with slots:
                part = frame.take(range(begin, min(begin + CHUNK_SERIES, len(frame))))
                return await self._one(key, replace(work, frame=part))

        tasks = [asyncio.create_task(chunk(begin)) for begin in range(0, len(frame), CHUNK_SERIES)]
        try:
            return await asyncio.gather(*tasks)
        finally:  # after a failure, or when the caller has gone, nothing of the rest is computed
            for task in tasks:
                task.cancel()

    async def _one(self, key: _Key, work: _Work) -> Answer[Forecast]:
        answer = await asyncio.wrap_future(self._batcher.submit(key, work, weight=len(work.frame)))
        assert answer.value is not None, "a forecast is answered with one"
        return Answer(answer.value, answer.queue_seconds, answer.compute_seconds)

    async def _pin(self, source: Source) -> Pin[Opened]:
        if (pin := self._cache.peek(source.key)) is not None:
            return pin
        load = partial(self._load, source)
        future: Future[Pin[Opened]] = self._loaders.submit(self._cache.acquire, source.key, load)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            future.add_done_callback(_release)  # nobody will use what is being loaded
            raise

    async def _calibration(self, source: Source) -> Calibration | None:
        """What the job stored for a fallback; None for tuned weights, and where it stored nothing."""
        ref = source.calibration
        if ref is None:
            return None
        if (pin := self._calibrations.peek(ref.key)) is None:
            load = partial(self._load_calibration, ref)
            pin = await asyncio.wrap_future(self._loaders.submit(self._calibrations.acquire, ref.key, load))
        with pin:
            return pin.value

    def _load_calibration(self, ref: CalibrationRef, _: str) -> tuple[Calibration | None, int]:
        try:
            found = from_bytes(self._artifacts.read(ref.digest, ref.sha256)).get(ref.name)
        except ArtifactError as error:
            raise artifact_damaged(ref.digest) from error
        return found, 0 if found is None else found.offsets.nbytes

    def _load(self, source: Source, key: str) -> tuple[Opened, int]:
        begun = perf_counter()
        forecaster = self._open(source)
        log.info("forecaster_opened", source=key, seconds=round(perf_counter() - begun, 3))
        return forecaster, _num_bytes(source, forecaster)

    def _open(self, source: Source) -> Opened:
        match source.kind:
            case SourceKind.RIVAL:
                return Forecaster.rival(source.name, period=source.period, context_length=source.context_length)
            case SourceKind.ZERO_SHOT:
                return Forecaster.zero_shot(source.name, digest=source.digest, weights_dir=self._weights_dir)
            case SourceKind.TUNED:
                return self._open_artifact(source)

    def _open_artifact(self, source: Source) -> Opened:
        """The local copy, fetched anew once if it turns out bad; bad again means the stored one is."""
        digest, files = source.digest, source.files
        assert digest is not None, "tuned sources come from a version"
        assert files is not None, "tuned sources come from a version"
        for last in (False, True):
            folder = self._artifacts.fetch(digest, files)
            try:
                return open_served(folder, digest=digest, weights_dir=self._weights_dir)
            except (ArtifactError, FileNotFoundError) as error:  # a copy may also be pruned under our hands
                self._artifacts.discard(digest)
                log.warning("artifact_copy_bad", digest=digest, error=str(error))
                if last:
                    raise artifact_damaged(digest) from error
        raise AssertionError("the loop returns or raises")

    def _preload(self, name: str) -> None:
        """Opens a backbone and runs it once, so that the first request finds it warm."""
        try:
            target = catalogue_target(name, weights_dir=self._weights_dir)
            assert target is not None, "settings know the backbones"
            with self._cache.acquire(target.source.key, partial(self._load, target.source)) as pin:
                assert isinstance(pin.value, Forecaster), "a backbone has no routes"
                frame = SeriesFrame(
                    item_ids=("warm",),
                    values=np.arange(64, dtype=np.float64),
                    offsets=np.array([0, 64], dtype=np.int64),
                    starts=np.zeros(1, dtype=np.int64),
                    freq="1",
                )
                self._batcher.submit(_Key(target.source.key, None, 1, (), None, None), _Work(pin.value, frame)).result()
        except TemperError as error:  # no weights here: a request for them will say so
            log.warning("preload_failed", backbone=name, error=error.message)

    def _compute(self, key: _Key | _Alone, works: Sequence[_Work | _Chunk]) -> Sequence[Forecast | None]:
        """Runs in the batcher's thread. One pass over all series, then each request gets its rows."""
        if isinstance(key, _Alone):
            for chunk in works:
                assert isinstance(chunk, _Chunk), "the key is of its own work"
                chunk.work.compute(chunk.number)
            return [None] * len(works)
        asked = [work for work in works if isinstance(work, _Work)]
        whole = _predict(asked[0], joined([work.frame for work in asked]), key)
        ends = np.cumsum([len(work.frame) for work in asked]).tolist()
        return [_rows(whole, end - len(work.frame), end) for work, end in zip(asked, ends, strict=True)]


def _predict(work: _Work, frame: SeriesFrame, key: _Key) -> Forecast:
    forecaster = work.forecaster
    if not key.levels or key.history_length is None:
        return forecaster.predict(frame, key.prediction_length, key.levels, calibration=work.calibration)
    whole = forecaster.predict(frame, key.prediction_length)
    quantiles = context_quantiles(
        lambda past: forecaster.predict(past, key.prediction_length).point,
        frame,
        whole.point,
        key.levels,
        keep=key.history_length,
    )
    return replace(
        whole,
        quantiles=quantiles,
        quantile_levels=key.levels,
        uncalibrated_levels=key.levels,
        notes=(*whole.notes, CONFORMAL_NOTE),
    )


def _key(
    source: Source,
    forecaster: Forecaster,
    frame: SeriesFrame,
    prediction_length: int,
    levels: tuple[float, ...],
    calibration: Calibration | None,
) -> _Key:
    """`calibration` is what a job stored for a source that others use, too; a tuned one's lies in its forecaster."""
    knows = native_quantiles(source) or calibration is not None or forecaster.calibration is not None
    return _Key(
        source=source.key,
        freq=frame.freq if source.kind is SourceKind.RIVAL else None,
        prediction_length=prediction_length,
        levels=levels,
        history_length=None if knows else forecaster.source_for(frame)[1],
        calibration=None if calibration is None or source.calibration is None else source.calibration.key,
    )


def _joined(parts: Sequence[Forecast]) -> Forecast:
    """The pieces of one request, in order."""
    if len(parts) == 1:
        return parts[0]
    quantiles = [part.quantiles for part in parts if part.quantiles is not None]
    return replace(
        parts[0],
        item_ids=tuple(item_id for part in parts for item_id in part.item_ids),
        point=np.concatenate([part.point for part in parts]),
        quantiles=np.concatenate(quantiles) if quantiles else None,
        calibrated=all(part.calibrated for part in parts),
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
    )


def _rows(whole: Forecast, begin: int, end: int) -> Forecast:
    quantiles = None if whole.quantiles is None else whole.quantiles[begin:end]
    return replace(whole, item_ids=whole.item_ids[begin:end], point=whole.point[begin:end], quantiles=quantiles)


def _num_bytes(source: Source, opened: Opened) -> int:
    """Memory of what was opened: float32 parameters of every network in it."""
    if source.kind is SourceKind.RIVAL:
        return 0
    names = opened.forecasters if isinstance(opened, RoutedForecaster) else (source.name,)
    networks = sum(name not in catalog.RIVALS for name in names)
    return 4 * networks * catalog.backbone(source.name).num_parameters


def _release(future: "Future[Pin[Opened]]") -> None:
    if not future.cancelled() and future.exception() is None:
        future.result().release()
