"""The answer of a backtest, written by orjson straight from plain numbers."""

from typing import Any

import numpy as np
import orjson

from app.backtests.service import BacktestResult, Tested
from tsfm.backtest import Plan


def to_json(found: BacktestResult) -> bytes:
    plan = found.plan
    cutoffs = [plan.cutoff(window) for window in range(len(plan))]
    answer = {
        "object": "backtest",
        "model": found.target.model,
        "prediction_length": plan.prediction_length,
        "num_windows": len(plan),
        "stride": plan.stride,
        "season": plan.scales.season,
        "results": [_result(one, plan, cutoffs) for one in found.tested],
        "skipped": [plan.frame.item_ids[i] for i in plan.skipped],
        "notes": found.notes,
        "timing_ms": found.timing_ms,
    }
    return orjson.dumps(answer)


def _result(tested: Tested, plan: Plan, cutoffs: list[str | int]) -> dict[str, Any]:
    target, result = tested.target, tested.result
    windows = [{"cutoff": cutoff, **row} for cutoff, row in zip(cutoffs, result.by_window(), strict=True)]
    first = np.searchsorted(plan.series, np.arange(len(plan.frame) + 1)).tolist()
    series = [
        {"item_id": plan.frame.item_ids[i], **row, "windows": windows[first[i] : first[i + 1]]}
        for i, row in enumerate(result.by_series())
        if first[i + 1] > first[i]
    ]
    return {
        "model": target.model,
        "version": target.source.version,
        "digest": target.source.digest,
        "fallback": target.fallback,
        "calibrated": tested.calibrated,
        "metrics": result.whole(),
        "series": series,
    }
