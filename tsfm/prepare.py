"""A frame cut into what trains, what decides, what calibrates and what judges."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tsfm import catalog, judge, refit
from tsfm.configs import TrainConfig
from tsfm.errors import DataError
from tsfm.metrics import Scales, default_metric, scales_of, zero_share
from tsfm.mixing import best_guess
from tsfm.series import freq as frequencies
from tsfm.series.frame import SeriesFrame
from tsfm.series.split import Block, Split, split
from tsfm.series.windows import Windows, cut
from tsfm.setting import Setting, longest_gap, side_length

LONGER = 4
"""Times the tuned length: missing runs that touch are one gap, and such gaps are asked for, too."""
_LISTED = 20
"""Item ids a report spells out before it only counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """A frame cut into what trains, what decides and what judges."""

    frame: SeriesFrame
    split: Split
    train: Windows
    validation: Windows
    longer: Windows | None
    """Of the validation block too: longer gaps than are tuned, where gaps are filled and there is room for any."""
    calibration: Windows
    test: Windows | None
    scales: Scales
    metric: str
    guess: int
    """Period of the first guess that networks are shown of what else is missing around a gap."""
    blocks: judge.Blocks
    """What the candidates are measured on."""
    report: dict[str, Any]


def prepare(frame: SeriesFrame, resolved: dict[str, Any], spec: catalog.BackboneSpec) -> Data:
    """Splits, cuts windows and measures scales; `DataError` when nothing is left to train on."""
    context_length, horizon = int(resolved["context_length"]), int(resolved["prediction_length"])
    blocks = split(
        frame,
        context_length=context_length,
        prediction_length=horizon,
        patch_length=spec.patch_length,
        with_test=resolved["with_test"],
    )
    setting, frequency = Setting.of(resolved), frequencies.parse(frame.freq)
    guess = frequency.season
    caps = {**dataclasses.asdict(TrainConfig()), **resolved["hyperparameters"]}

    def windows(block: Block, length: int, cap: str) -> Windows:
        most = int(caps[cap])
        return cut(
            frame,
            blocks,
            block,
            context_length=context_length,
            prediction_length=length,
            max_windows=most,
            around=setting.around(guess),
        )

    # A horizon beyond one pass is forecast by recursion: what is trained is the pass that recursion repeats.
    tuned_length = horizon if setting.reconstructs(spec) else spec.tuned_length(horizon)
    train = windows(Block.TRAIN, tuned_length, "max_windows_per_epoch")
    if setting.task == "imputation" and len(train) and (guess := best_guess(train, guess)) != frequency.season:
        train = windows(Block.TRAIN, tuned_length, "max_windows_per_epoch")
    validation = windows(Block.VALIDATION, horizon, "max_validation_windows")
    longer = _longer(setting, spec, lambda length: windows(Block.VALIDATION, length, "max_validation_windows"))
    calibrating = windows(Block.CALIBRATION, horizon, "max_calibration_windows")
    test = windows(Block.TEST, horizon, "max_test_windows") if resolved["with_test"] else None
    if not len(train) and catalog.method(resolved["method"]).trains:
        raise DataError(
            "No window of the train block holds an observed target after an observed context: nothing can be learnt. "
            "Give series with fewer missing values.",
            code="no_training_windows",
        )
    share = zero_share(frame, blocks)
    scales = scales_of(frame, blocks, season=frequency.season)
    metric = resolved["metric"] or default_metric(share)
    cuts = {"train": train, "validation": validation, "calibration": calibrating, "test": test}
    report = _report(frame, blocks, cuts, scales, share, metric)
    return Data(
        frame=frame,
        split=blocks,
        train=train,
        validation=validation,
        longer=longer,
        calibration=calibrating,
        test=test,
        scales=scales,
        metric=metric,
        guess=guess,
        blocks=judge.Blocks(
            setting=setting,
            frame=frame,
            split=blocks,
            validation=validation,
            test=test,
            scales=scales,
            metric=metric,
            min_gain=float(resolved["min_gain"]),
            periods=frequency.periods,
        ),
        report=report,
    )


def _longer(setting: Setting, spec: catalog.BackboneSpec, windows: Callable[[int], Windows]) -> Windows | None:
    """Gaps of up to `LONGER` times the tuned length, half of them whole: else few would reach the middle."""
    length = min(LONGER * setting.prediction_length, longest_gap(spec))
    if setting.task != "imputation" or length <= setting.prediction_length:
        return None
    found = windows(length)
    if not len(found) or found.around is None:
        return None
    shown = min(setting.context_length, side_length(spec, length) if spec.reconstructs else spec.context_length)
    return dataclasses.replace(found, around=dataclasses.replace(found.around, whole=0.5)).showing(shown)


def _report(
    frame: SeriesFrame, blocks: Split, cuts: Mapping[str, Windows | None], scales: Scales, share: float, metric: str
) -> dict[str, Any]:
    """The job's `data_report`."""
    return {
        "freq": frame.freq,
        "season": scales.season,
        "num_series": len(frame),
        "num_points": len(frame.values),
        "num_missing": int((frame.values != frame.values).sum()),
        "share_of_zeros": share,
        "metric": metric,
        "split": dict(blocks.report()),
        "windows": {
            name: {"num_windows": len(w), "stride": w.stride, "num_dropped": w.num_dropped}
            for name, w in cuts.items()
            if w is not None
        },
        "scale_fallbacks": scales.num_fallbacks,
        "unused_items": [frame.item_ids[i] for i in blocks.unused[:_LISTED]],
        "unjudged_items": [frame.item_ids[i] for i in blocks.unjudged[:_LISTED]],
    }


def all_history(data: Data, resolved: dict[str, Any]) -> Data:
    """The same series with every window to be trained on; the other blocks are those of the job."""
    split = refit.whole(data.split)
    most = int(resolved["hyperparameters"]["max_windows_per_epoch"])
    train = refit.windows_of(data.frame, split, data.train, max_windows=most)
    shown = {"train": {"num_windows": len(train), "stride": train.stride, "num_dropped": train.num_dropped}}
    report = {**data.report, "split": dict(split.report()), "windows": shown}
    return dataclasses.replace(data, split=split, train=train, report=report)
