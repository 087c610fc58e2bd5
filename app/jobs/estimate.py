"""What a job will cost, from the catalogue and the reading alone (`basis: "table"`). Nothing is run for it."""

import math
from collections.abc import Mapping
from typing import Any

from app.jobs.schemas import Estimate
from tsfm import catalog, halving
from tsfm.configs import PRETRAINED
from tsfm.request import random_start
from tsfm.series import freq as frequencies
from tsfm.series import split

TRAIN_SHARE_WITH_TEST = 0.6
TRAIN_SHARE_WITHOUT_TEST = 0.8
TRAIN_FLOP_PER_PARAMETER_AND_TOKEN = 6
"""Two for the forward pass, four for the backward one."""
CPU_FLOP_PER_SECOND = 2e10
"""What one training process reaches on two ordinary cores in float32, measured with temper-tiny; GPUs are faster."""
TRAIN_EVERYTHING = ("full", "scratch", "sff")
"""Of other methods no table knows the number of trained parameters: a measurement says it, and the run."""
FIXED_SECONDS = 6.0
"""Start of the run's process, loading, judging and saving."""
LANDSCAPE_SHARE = 0.1
"""design.md §5: the most of the time that a landscape may take; short runs take longer (docs/methods.md)."""
FLOAT_BYTES = 4
COPIES_OF_ALL = 6
"""Weights, gradients, two moments of the optimizer, best weights, and the network it started from, which is judged."""
COPIES_OF_FROZEN = 2
"""Of weights that are not trained: the network, and the one it started from. What adapters add is small."""
FROZEN = ("linear_probe", "lora", "adalora", "trace")
ACTIVATION_FLOATS = 30
"""Kept for the backward pass by one token of one layer, per unit of width: as transformers do it in float32."""
ACTIVATION_SHARES = {"linear_probe": 0.1, "gradient_checkpointing": 0.25}
"""What is left of them where nothing below the head needs a gradient, and where blocks are computed twice."""
TINY_PARAMETERS = 50_000
"""Of `initialisation: {"size": "tiny"}`, at most."""
PROCESS_BYTES = 400 << 20
"""An interpreter with torch loaded."""


def estimate(resolved: Mapping[str, Any], reading: Mapping[str, Any]) -> Estimate:
    """The figures for a resolved request (`tsfm.request.resolve`) on a file of this reading."""
    spec = catalog.backbone(resolved["backbone"])
    method = catalog.method(resolved["method"])
    share = TRAIN_SHARE_WITH_TEST if resolved["with_test"] else TRAIN_SHARE_WITHOUT_TEST
    windows = _num_windows(resolved, reading, spec, share=share)
    start = random_start(resolved.get("initialisation", PRETRAINED))
    is_tiny = start is not None and start.size == "tiny"
    num_parameters = TINY_PARAMETERS if is_tiny else spec.num_parameters
    if not method.trains:
        return Estimate(
            seconds=FIXED_SECONDS,
            memory_bytes=PROCESS_BYTES + FLOAT_BYTES * COPIES_OF_FROZEN * num_parameters,
            windows=windows,
            steps=0,
            trainable_parameters=0,
            basis="table",
        )
    settings = resolved["hyperparameters"]
    windows = min(windows, int(settings["max_windows_per_epoch"]))
    rows = int(settings["batch_size"]) * int(settings["gradient_accumulation"])
    schedules = halving.schedules(resolved, math.ceil(windows / rows) * int(settings["max_epochs"]))
    steps, again = sum(schedules), 0
    if resolved["refit"]:
        everything = min(_num_windows(resolved, reading, spec, share=1.0), int(settings["max_windows_per_epoch"]))
        again = math.ceil(schedules[-1] * everything / windows)
    tokens = math.ceil((int(resolved["context_length"]) + int(resolved["prediction_length"])) / spec.patch_length)
    flop = TRAIN_FLOP_PER_PARAMETER_AND_TOKEN * num_parameters * tokens * min(rows, windows)
    seconds = steps * flop / CPU_FLOP_PER_SECOND
    if resolved["budget_seconds"] is not None:
        seconds = min(seconds, float(resolved["budget_seconds"]))
    if resolved.get("landscape"):
        seconds *= 1.0 + LANDSCAPE_SHARE
    seconds += FIXED_SECONDS + again * flop / CPU_FLOP_PER_SECOND  # the budget is the run's, not the refit's
    return Estimate(
        seconds=round(seconds, 1),
        memory_bytes=_memory_bytes(resolved, num_parameters, tokens=tokens, rows=min(rows, windows)),
        windows=windows,
        steps=steps + again,
        trainable_parameters=num_parameters if method.name in TRAIN_EVERYTHING and not is_tiny else None,
        basis="table",
    )


def _memory_bytes(resolved: Mapping[str, Any], num_parameters: int, *, tokens: int, rows: int) -> int:
    """Most that training holds. No table has depth and width; their product is close to the root of the number of
    parameters from UniTS to TimesFM, and with it the activations of a window."""
    settings, method = resolved["hyperparameters"], resolved["method"]
    floats = ACTIVATION_FLOATS * tokens * math.sqrt(num_parameters) * min(rows, int(settings["batch_size"]))
    floats *= ACTIVATION_SHARES.get(method, 1.0)
    if settings.get("gradient_checkpointing"):
        floats *= ACTIVATION_SHARES["gradient_checkpointing"]
    copies = COPIES_OF_FROZEN if method in FROZEN else COPIES_OF_ALL
    return PROCESS_BYTES + int(FLOAT_BYTES * (copies * num_parameters + floats))


def _num_windows(
    resolved: Mapping[str, Any], reading: Mapping[str, Any], spec: catalog.BackboneSpec, *, share: float
) -> int:
    """Training windows of one epoch before the cap, as if every series had the mean length."""
    season = frequencies.parse(str(reading["freq"])).season
    context = split.min_context(int(resolved["context_length"]), patch_length=spec.patch_length, season=season)
    horizon = spec.tuned_length(int(resolved["prediction_length"]))
    per_series = share * int(reading["num_points"]) / int(reading["num_series"]) - context - horizon + 1
    return max(1, int(per_series * int(reading["num_series"])))
