"""A backtest from request to errors: the history and what answers, the cut-offs, then the forecasts engine."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool

from app.auth.keys import Principal
from app.backtests.parse import BacktestRequest
from app.errors import ApiError
from app.forecasts.levels import UNITS, Levels
from app.forecasts.limits import check_size
from app.forecasts.parse import ForecastRequest
from app.forecasts.ran import CallerGone, Gone
from app.forecasts.respond import Numbers
from app.forecasts.service import ForecastService, notes_on
from app.registry.directory import Source, SourceKind, Target, native_quantiles, rival_target
from app.settings import Settings
from tsfm import catalog
from tsfm.backtest import Plan, Result, Scored, plan_of
from tsfm.errors import ConfigError
from tsfm.rivals import SEASONS
from tsfm.series import freq as frequencies
from tsfm.serving.context_quantiles import MAX_ORIGINS, UNAVAILABLE

CHUNK_WINDOWS = 256
"""Windows whose histories are cut out at once; between two chunks it is seen that the caller has gone."""
RIVAL_CONTEXT = 512
IN_SAMPLE = "The model was tuned on its training history: windows inside that are no evidence of what is to come."


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """One model's errors."""

    target: Target
    result: Result
    calibrated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BacktestResult:
    target: Target
    plan: Plan
    tested: tuple[Tested, ...]
    """The model first, then the rivals."""
    notes: tuple[str, ...]
    timing_ms: dict[str, float]

    @property
    def num_values(self) -> int:
        """How many numbers the answer holds: each window's metrics, of every model."""
        return sum(len(one.result.whole()) for one in self.tested) * len(self.plan)


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowForecasts:
    """What was forecast at every cut-off: W windows, H steps, Q levels."""

    target: Target
    plan: Plan
    point: NDArray[np.float64]
    """[W, H]"""
    quantiles: NDArray[np.float64]
    """[W, Q, H] at the ascending levels of the request's `Levels.units`."""
    calibrated: bool
    notes: tuple[str, ...]

    @property
    def num_values(self) -> int:
        """How many numbers the answer holds."""
        return self.point.size + self.quantiles.size


@dataclass(slots=True)
class _Timing:
    queue: float = 0.0
    load: float = 0.0
    compute: float = 0.0


class BacktestService:
    """Holds no state of its own: models are the forecast service's."""

    def __init__(self, forecasts: ForecastService, settings: Settings) -> None:
        self._forecasts, self._settings = forecasts, settings

    async def backtest(self, principal: Principal, request: BacktestRequest, *, gone: Gone) -> BacktestResult:
        """Raises `ApiError`, a core error, or `CallerGone` once `gone` says so; see the statuses of the route."""
        begun = perf_counter()
        target, prediction_length, given = await self._forecasts.read(principal, request.forecast)
        options = request.options
        plan = plan_of(
            given.frame,
            prediction_length=prediction_length,
            num_windows=options.num_windows,
            stride=options.stride or prediction_length,
        )
        self._check(plan, request.forecast.levels, 1 + len(options.rivals))
        in_sample = (IN_SAMPLE,) if target.source.kind is SourceKind.TUNED else ()
        timing, notes = _Timing(), dict.fromkeys((*in_sample, *notes_on(target, given)))
        tested = [await self._asked(target, plan, request, gone, timing, notes)]
        for name in (one for one in dict.fromkeys(options.rivals) if one != target.model):
            rival = rival_target(name)
            tested.append(await self._test(rival, plan, request, (), gone, timing, notes))
        if plan.num_missing:
            notes[f"{plan.num_missing} windows were left out: their series are too short for all of them."] = None
        total = perf_counter() - begun
        seconds = {"queue": timing.queue, "load": timing.load, "compute": timing.compute, "total": total}
        return BacktestResult(
            target=target,
            plan=plan,
            tested=tuple(tested),
            notes=tuple(notes),
            timing_ms={name: round(value * 1e3, 3) for name, value in seconds.items()},
        )

    async def forecasts(
        self, principal: Principal, request: ForecastRequest, *, num_windows: int, stride: int, gone: Gone
    ) -> WindowForecasts:
        """The model's own forecasts at the cut-offs, without errors and rivals. Raises as `backtest` does."""
        target, prediction_length, given = await self._forecasts.read(principal, request)
        plan = plan_of(given.frame, prediction_length=prediction_length, num_windows=num_windows, stride=stride)
        self._check(plan, request.levels, 1)
        point, quantiles, calibrated = [], [], request.levels.asked
        notes = dict.fromkeys(notes_on(target, given))
        async for _, _, numbers in self._passes(target, plan, request.levels.floats, gone):
            point.append(numbers.point)
            quantiles.append(numbers.quantiles)
            calibrated = calibrated and numbers.calibrated
            notes |= dict.fromkeys(numbers.notes)
        return WindowForecasts(
            target=target,
            plan=plan,
            point=np.concatenate(point),
            quantiles=np.concatenate(quantiles),
            calibrated=calibrated,
            notes=tuple(notes),
        )

    def _check(self, plan: Plan, levels: Levels, num_models: int) -> None:
        most = self._settings.max_forecast_series
        if len(plan) * num_models > most:
            raise ApiError(
                422,
                "backtest_too_large",
                f"{len(plan):,} windows for each of {num_models} models are more than the {most:,} forecasts of one "
                "request: use fewer windows, series or rivals.",
                param="num_windows",
                details={"windows": len(plan), "models": num_models, "max_forecasts": most},
            )
        check_size(len(plan), plan.prediction_length, levels)

    async def _asked(
        self,
        target: Target,
        plan: Plan,
        request: BacktestRequest,
        gone: Gone,
        timing: _Timing,
        notes: dict[str, None],
    ) -> Tested:
        """With quantiles where the model has some, or where they were asked."""
        levels = request.forecast.levels
        has_some = target.source.kind is SourceKind.TUNED or target.source.calibration is not None
        wanted = levels.floats if levels.asked or has_some or native_quantiles(target.source) else ()
        try:
            return await self._test(target, plan, request, wanted, gone, timing, notes)
        except ConfigError as error:
            if levels.asked or error.code != UNAVAILABLE:
                raise
        return await self._test(target, plan, request, (), gone, timing, notes)

    async def _test(
        self,
        target: Target,
        plan: Plan,
        request: BacktestRequest,
        wanted: tuple[float, ...],
        gone: Gone,
        timing: _Timing,
        notes: dict[str, None],
    ) -> Tested:
        levels = request.forecast.levels
        scored = Scored(
            plan,
            levels=sorted(unit / UNITS for _, unit in levels.quantiles),
            intervals=[(one.label, one.lo / UNITS, one.hi / UNITS) for one in levels.intervals],
        )
        calibrated = bool(wanted)
        async for begin, end, numbers in self._passes(target, plan, wanted, gone):
            scored.add(begin, end, numbers.point, numbers.quantiles if wanted else None, wanted)
            calibrated = calibrated and numbers.calibrated
            timing.queue += numbers.queue_seconds
            timing.load += numbers.load_seconds
            timing.compute += numbers.compute_seconds
            notes |= dict.fromkeys(numbers.notes)
        result = scored.result(request.options.metrics, with_coverage=bool(wanted))
        return Tested(target=target, result=result, calibrated=calibrated)

    async def _passes(
        self, target: Target, plan: Plan, wanted: tuple[float, ...], gone: Gone
    ) -> AsyncIterator[tuple[int, int, Numbers]]:
        """The forecasts of the windows [begin, end), chunk by chunk; `CallerGone` between two of them."""
        keep = history_seen(target.source, plan.frame.freq) + MAX_ORIGINS + plan.prediction_length
        for begin in range(0, len(plan), CHUNK_WINDOWS):
            if await gone():
                raise CallerGone
            end = min(begin + CHUNK_WINDOWS, len(plan))
            frame = await run_in_threadpool(plan.histories, begin, end, keep=keep)
            yield begin, end, await self._forecasts.numbers(target.source, frame, plan.prediction_length, wanted)


def history_seen(source: Source, freq: str) -> int:
    """Points of history that any part of the source looks at, its routes included, but for rolling origins."""
    context = RIVAL_CONTEXT if source.kind is SourceKind.RIVAL else catalog.backbone(source.name).context_length
    seasons = SEASONS * max(frequencies.parse(freq).periods)
    periods = SEASONS * (source.period or 1)
    return max(context, source.context_length or 0, seasons, periods)
