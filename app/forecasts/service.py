"""A forecast from request to numbers: what the name means, the history, the limits, then the engine."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from anyio import CapacityLimiter
from starlette.concurrency import run_in_threadpool

from app.auth.keys import Principal
from app.errors import ApiError
from app.forecasts.history import Given, HistoryReader, check_num_points, selected
from app.forecasts.levels import NO_LEVELS, Levels
from app.forecasts.limits import (
    check_calendar,
    check_covariates,
    check_observed,
    check_size,
    check_steps,
    check_task,
    resolve_prediction_length,
)
from app.forecasts.parse import (
    Ask,
    BodyHistory,
    FileHistory,
    ForecastRequest,
    InlineHistory,
    TrainingHistory,
    check_num_series,
)
from app.forecasts.ran import Noted, Ran, Whole
from app.forecasts.respond import ForecastResult, Numbers
from app.registry.directory import Source, SourceKind, Target
from app.registry.state import RegistryState
from app.services import Services
from app.settings import Settings
from tsfm import catalog
from tsfm.errors import ConfigError
from tsfm.series.frame import SeriesFrame
from tsfm.serving.batcher import BatcherConfig, OverloadedError
from tsfm.serving.context_quantiles import UNAVAILABLE

if TYPE_CHECKING:
    from app.forecasts.engine import Engine

T = TypeVar("T")
N = TypeVar("N", bound=Noted)
MAX_NAMED = 5
"""Series that a note names."""
UNKNOWN = "No value of the history is known: {}. Such a forecast knows nothing of its series."


class ForecastService:
    """Lives on one event loop, from `start` to `close`."""

    def __init__(self, services: Services, registry: RegistryState) -> None:
        self._settings = services.settings
        self._registry = registry
        self._parse_slots: CapacityLimiter = services.parse_slots
        self._history = HistoryReader(settings=services.settings, engine=services.engine, store=services.store)
        self._opening: asyncio.Task[Engine] | None = None

    def start(self) -> None:
        """Opens what is to be warm before the first request; nothing is loaded when nothing is named."""
        if self._settings.preload:
            self._engine()

    def _engine(self) -> "asyncio.Task[Engine]":
        """Opened by the first that needs it, so that a gateway that only takes files never holds torch."""
        if self._opening is None:
            self._opening = asyncio.create_task(run_in_threadpool(_open_engine, self._settings, self._registry))
        return self._opening

    async def close(self) -> None:
        if self._opening is not None:
            engine = await self._opening
            await run_in_threadpool(engine.close)

    async def forecast(self, principal: Principal, request: ForecastRequest) -> ForecastResult:
        """Raises `ApiError` or a core error; see the statuses of the route."""
        target, prediction_length, given = await self.read(principal, request)
        frame = given.frame
        check_size(len(frame), prediction_length, request.levels)
        check_calendar(frame, prediction_length)
        levels, numbers = await self._compute(target, frame, prediction_length, request.levels)
        numbers = replace(numbers, notes=(*numbers.notes, *notes_on(target, given)))
        return ForecastResult(target=target, frame=frame, levels=levels, numbers=numbers)

    async def read(self, principal: Principal, request: ForecastRequest) -> tuple[Target, int, Given]:
        """What answers, for how many steps, and the history; raises as `forecast` does."""
        target = await self.target(principal, request, "forecast")
        prediction_length = resolve_prediction_length(target, request, self._settings.max_prediction_length)
        return target, prediction_length, await self.history(principal, request, target)

    async def target(self, principal: Principal, ask: Ask, task: catalog.Task) -> Target:
        """What answers; 404 for an unknown name, 422 where it is for another task or covariates were given."""
        target = await self._registry.directory.target(principal.tenant_id, ask.model)
        check_task(target, task)
        check_covariates(target, ask)
        return target

    async def history(self, principal: Principal, ask: Ask, target: Target, *, whole: bool = False) -> Given:
        """The series; with `whole` every point of a file, else of a large one as much as any model looks at."""
        given = await self._given(principal, ask, target, whole=whole)
        frame = selected(given.frame, ask.item_ids)
        check_num_series(len(frame), self._settings.max_forecast_series)
        return replace(given, frame=frame)

    async def whole(
        self,
        principal: Principal,
        ask: Ask,
        task: catalog.Task,
        run: Callable[["Engine", Source, SeriesFrame], Awaitable[Ran[N]]],
        *,
        steps: int | None = None,
        levels: Levels = NO_LEVELS,
    ) -> Whole[N]:
        """What the engine makes by `run` of every point of the series; `steps` are a caller's `prediction_length`, and
        the answer has a number of each of the `levels` for every point.

        Raises as `target` and `history` do, 422 for more steps, points or numbers than are taken at once and where no
        value is known, 429 when the engine is full, and whatever `run` raises.
        """
        target = await self.target(principal, ask, task)
        check_steps(target, steps or 1, self._settings.max_prediction_length, does="looks at")
        given = await self.history(principal, ask, target, whole=True)
        frame = given.frame
        check_num_points(len(frame.values), self._settings.max_scored_points, param="series")
        check_size(len(frame.values), 1, levels)
        check_observed(frame)
        check_calendar(frame, 0)
        engine = await asyncio.shield(self._engine())
        with _refused_when_full():
            ran = await run(engine, target.source, frame)
        notes = (*ran.value.notes, *notes_on(target, given, unknown="No value of these series is known: {}."))
        return Whole(target=target, frame=frame, ran=ran, notes=notes)

    async def numbers(
        self, source: Source, frame: SeriesFrame, prediction_length: int, levels: tuple[float, ...]
    ) -> Numbers:
        """From the engine, which is opened first if need be; 429 when it is full."""
        engine = await asyncio.shield(self._engine())
        with _refused_when_full():
            return await engine.forecast(source, frame, prediction_length, levels)

    async def _given(self, principal: Principal, request: Ask, target: Target, *, whole: bool) -> Given:
        match request.history:
            case InlineHistory(frame=frame):
                return Given(frame=frame)
            case BodyHistory() as body:
                return await self._in_slot(lambda: self._history.from_body(body))
            case FileHistory(file_id=file_id):
                read = partial(self._history.from_file, principal.tenant_id, file_id, whole=whole)
                return Given(frame=await self._in_slot(read))
            case TrainingHistory():
                read = partial(self._history.from_file, principal.tenant_id, _training_file(target), whole=whole)
                return Given(frame=await self._in_slot(partial(read, training=True)))

    async def _in_slot(self, read: Callable[[], T]) -> T:
        async with self._parse_slots:
            return await run_in_threadpool(read)

    async def _compute(
        self, target: Target, frame: SeriesFrame, prediction_length: int, levels: Levels
    ) -> tuple[Levels, Numbers]:
        try:
            return levels, await self.numbers(target.source, frame, prediction_length, levels.floats)
        except ConfigError as error:
            if levels.asked or error.code != UNAVAILABLE:
                raise
        numbers = await self.numbers(target.source, frame, prediction_length, ())
        note = f"No quantiles: the history is too short for {target.source.name} to have any."
        return NO_LEVELS, replace(numbers, notes=(*numbers.notes, note))


def _open_engine(settings: Settings, registry: RegistryState) -> "Engine":
    module = import_module("app.forecasts.engine")
    engine: Engine = module.Engine(
        artifacts=registry.artifacts,
        weights_dir=settings.weights_path,
        config=module.EngineConfig(
            num_threads=settings.forecast_threads,
            memory_bytes=settings.forecaster_memory_bytes,
            batcher=BatcherConfig(max_pending_weight=settings.max_pending_series),
        ),
    )
    engine.start(settings.preload)
    return engine


def _training_file(target: Target) -> str:
    if target.training_file is None:
        message = f"{target.model} has no training file to continue: send the history as `series` or `file`."
        raise ApiError(422, "missing_history", message, param="series")
    return target.training_file


def notes_on(target: Target, given: Given, *, unknown: str = UNKNOWN) -> tuple[str, ...]:
    """What the numbers alone do not say: that the model was tuned (or what answers for it was calibrated) on series of
    another frequency, that it was not beaten, how a file was read, that there is nothing to go on from (`unknown`)."""
    notes = [*target.notes, *given.notes]
    source, frame = target.source, given.frame
    of_a_job = source.kind is SourceKind.TUNED or source.calibration is not None
    if of_a_job and target.freq not in (None, frame.freq):
        done = "The model was tuned" if source.kind is SourceKind.TUNED else "Its quantiles were calibrated"
        notes.append(f"{done} on series of freq {target.freq!r}; these are {frame.freq!r}.")
    if names := _unobserved(frame):
        more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
        notes.append(unknown.format(", ".join(names[:MAX_NAMED]) + more))
    return tuple(notes)


def _unobserved(frame: SeriesFrame) -> list[str]:
    """Ids of series whose every value is missing."""
    missing = np.isnan(frame.values)
    if not missing.any():  # nearly always, and the cheapest question
        return []
    empty = np.logical_and.reduceat(missing, frame.offsets[:-1])
    return [frame.item_ids[i] for i in np.flatnonzero(empty).tolist()]


@contextmanager
def _refused_when_full() -> Iterator[None]:
    try:
        yield
    except OverloadedError as error:
        raise _overloaded(error) from error


def _overloaded(error: OverloadedError) -> ApiError:
    milliseconds = math.ceil(error.retry_after_seconds * 1e3)
    headers = {"retry-after": str(math.ceil(milliseconds / 1e3)), "retry-after-ms": str(milliseconds)}
    return ApiError(429, "overloaded", "Too many forecasts are waiting: try again shortly.", headers=headers)
