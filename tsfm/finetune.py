"""One fine-tuning run from series to artifact: load, search, train, judge, write.

    result = run(request, frame, weights_dir=…, state_dir=…, out_dir=…, report=print, should_stop=lambda: None)

Called again with the same arguments after a kill, it continues from `state_dir`; on CPU it ends with the same weights.
"""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tsfm import card, catalog, evaluate, methods, provenance
from tsfm.artifact import write_artifact
from tsfm.backbones.base import Backbone
from tsfm.backbones.weights import load_backbone
from tsfm.configs import TrainConfig
from tsfm.device import default_device, facts
from tsfm.errors import DataError
from tsfm.methods.base import Export, Method
from tsfm.metrics import Scales, default_metric, scales_of, zero_share
from tsfm.progress import Checkpoint, Checkpoints, Progress, Reporter
from tsfm.request import FinetuneRequest, resolve
from tsfm.search import Outcome, Search
from tsfm.series import freq as frequencies
from tsfm.series.frame import SeriesFrame
from tsfm.series.split import Block, Split, split
from tsfm.series.windows import Windows, cut
from tsfm.tasks.forecast import BackboneSource

__all__ = ["FinetuneRequest", "FinetuneResult", "Progress", "run"]

_LISTED = 20
"""Item ids a report spells out before it only counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneResult:
    """What a run leaves behind; all of it plain JSON but `out_dir`."""

    digest: str
    out_dir: Path
    resolved: dict[str, Any]
    """The resolved request with everything the search chose filled in."""
    candidates: list[dict[str, Any]]
    verdict: dict[str, Any]
    data_report: dict[str, Any]
    search: list[dict[str, Any]]
    """Every trial there was: method, options, learning_rate, rung, steps, validation, stopped, seconds."""
    timing: dict[str, float]
    num_trainable_parameters: int
    manifest: dict[str, Any]

    def to_mapping(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "out_dir": str(self.out_dir)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """A frame cut into what trains, what decides and what judges."""

    frame: SeriesFrame
    split: Split
    train: Windows
    validation: Windows
    test: Windows | None
    scales: Scales
    metric: str
    periods: tuple[int, ...]
    report: dict[str, Any]


def run(
    request: FinetuneRequest,
    frame: SeriesFrame,
    *,
    weights_dir: Path | None,
    state_dir: Path,
    out_dir: Path,
    report: Callable[[Progress], None],
    should_stop: Callable[[], str | None],
    checkpoints: Checkpoints | None = None,
    device: torch.device | None = None,
) -> FinetuneResult:
    """Fine-tunes, judges on history nothing else touched, and writes the artifact at `out_dir`.

    `should_stop` answers a reason to stop, or None; it is asked at every step and `Cancelled` carries the reason as its
    code. Raises the errors of `tsfm.errors`; a model that loses its verdict is a result, not an error.
    """
    clock = _Stopwatch()
    reporter = Reporter(report)
    reporter.phase("loading")
    longest = int(frame.lengths.max(initial=0))
    resolved = resolve(request, {"freq": frame.freq, "max_length": longest})
    spec = catalog.backbone(request.backbone)
    device = device or default_device()
    data = prepare(frame, resolved, spec)
    zero_shot = load_backbone(spec, weights_dir=weights_dir).to(device).requires_grad_(False)
    clock.lap("loading_seconds")

    def write(outcome: Outcome, where: Path, candidates: list[dict[str, Any]], verdict: dict[str, Any] | None) -> _Made:
        chosen = {
            **resolved,
            "method": outcome.method_name,
            "method_config": outcome.method_config,
            "hyperparameters": outcome.hyperparameters,
        }
        made = outcome.method.export(outcome.model, spec)
        manifest = _manifest(outcome, made, zero_shot, data, chosen, spec, candidates, verdict, device)
        return _Made(chosen, manifest, write_artifact(where, made.files, manifest, card.render(manifest)))

    def kept(outcome: Outcome) -> None:
        if checkpoints is not None and clock.is_due(checkpoints.every_seconds):
            where = out_dir.with_name(f"{out_dir.name}-checkpoint")
            made = write(outcome, where, [], None)
            checkpoints.take(Checkpoint(digest=made.digest, out_dir=where, at=reporter.now))

    outcome = _train(data, resolved, spec, weights_dir, state_dir, reporter, should_stop, device, kept)
    clock.lap("training_seconds")

    reporter.phase("evaluating")
    candidates = _candidates(outcome.model, zero_shot, data, resolved, spec, reporter, should_stop)
    verdict = evaluate.verdict(candidates, metric=data.metric, method=request.method)
    clock.lap("evaluating_seconds")

    reporter.phase("saving", share=0.9)
    made = write(outcome, out_dir, candidates, verdict)
    clock.lap("saving_seconds")
    return FinetuneResult(
        digest=made.digest,
        out_dir=out_dir,
        resolved=made.chosen,
        candidates=candidates,
        verdict=verdict,
        data_report=data.report,
        search=outcome.search,
        timing=clock.laps,
        num_trainable_parameters=outcome.num_trainable_parameters,
        manifest=made.manifest,
    )


class _Made(NamedTuple):
    chosen: dict[str, Any]
    manifest: dict[str, Any]
    digest: str


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
    caps = {**dataclasses.asdict(TrainConfig()), **resolved["hyperparameters"]}

    def windows(block: Block, length: int, cap: str) -> Windows:
        most = int(caps[cap])
        return cut(frame, blocks, block, context_length=context_length, prediction_length=length, max_windows=most)

    # A horizon beyond one pass is forecast by recursion: what is trained is the pass that recursion repeats.
    train = windows(Block.TRAIN, min(horizon, spec.prediction_length), "max_windows_per_epoch")
    validation = windows(Block.VALIDATION, horizon, "max_validation_windows")
    test = windows(Block.TEST, horizon, "max_test_windows") if resolved["with_test"] else None
    if not len(train) and catalog.method(resolved["method"]).trains:
        raise DataError(
            "No window of the train block holds an observed target after an observed context: nothing can be learnt. "
            "Give series with fewer missing values.",
            code="no_training_windows",
        )
    frequency = frequencies.parse(frame.freq)
    share = zero_share(frame, blocks)
    scales = scales_of(frame, blocks, season=frequency.season)
    metric = default_metric(share)
    report = {
        "freq": frame.freq,
        "season": frequency.season,
        "num_series": len(frame),
        "num_points": len(frame.values),
        "num_missing": int((frame.values != frame.values).sum()),
        "share_of_zeros": share,
        "metric": metric,
        "split": dict(blocks.report()),
        "windows": {
            name: {"num_windows": len(w), "stride": w.stride, "num_dropped": w.num_dropped}
            for name, w in (("train", train), ("validation", validation), ("test", test))
            if w is not None
        },
        "scale_fallbacks": scales.num_fallbacks,
        "unused_items": [frame.item_ids[i] for i in blocks.unused[:_LISTED]],
        "unjudged_items": [frame.item_ids[i] for i in blocks.unjudged[:_LISTED]],
    }
    return Data(
        frame=frame,
        split=blocks,
        train=train,
        validation=validation,
        test=test,
        scales=scales,
        metric=metric,
        periods=frequency.periods,
        report=report,
    )


def _train(
    data: Data,
    resolved: dict[str, Any],
    spec: catalog.BackboneSpec,
    weights_dir: Path | None,
    state_dir: Path,
    reporter: Reporter,
    should_stop: Callable[[], str | None],
    device: torch.device,
    on_kept: Callable[[Outcome], None],
) -> Outcome:
    def fresh() -> Backbone:
        return load_backbone(spec, weights_dir=weights_dir)

    def source(model: Backbone) -> BackboneSource:
        return tuned_source(model, resolved, spec)

    if not catalog.method(resolved["method"]).trains:
        method: Method = methods.create(resolved["method"], _config(resolved))
        model = method.prepare(fresh()).to(device)
        return Outcome(
            model=model,
            method=method,
            method_name=resolved["method"],
            method_config=resolved["method_config"],
            hyperparameters={},
        )
    reporter.phase("training")
    search = Search(
        resolved=resolved,
        train=data.train,
        validation=data.validation,
        scales=data.scales,
        metric=data.metric,
        fresh=fresh,
        source=source,
        identity={"data": provenance.frame_sha256(data.frame), "backbone": spec.sha256},
        state_dir=state_dir,
        reporter=reporter,
        should_stop=should_stop,
        device=device,
        on_kept=on_kept,
    )
    return search.run()


def _config(resolved: dict[str, Any]) -> Any:
    return catalog.method(resolved["method"]).config(**resolved["method_config"])


def tuned_source(model: Backbone, resolved: dict[str, Any], spec: catalog.BackboneSpec) -> BackboneSource:
    """A tuned network asked as `Forecaster.open` will ask it: what is judged is what is served."""
    return BackboneSource(
        model,
        block_length=min(int(resolved["prediction_length"]), spec.prediction_length),
        context_length=int(resolved["context_length"]),
        cut_from_block=True,
    )


def _candidates(
    model: Backbone,
    zero_shot: Backbone,
    data: Data,
    resolved: dict[str, Any],
    spec: catalog.BackboneSpec,
    reporter: Reporter,
    should_stop: Callable[[], str | None],
) -> list[dict[str, Any]]:
    """Tuned, zero-shot (with the context `/forecast` gives it) and the rivals, on validation and test."""
    whole = BackboneSource(
        zero_shot, block_length=spec.prediction_length, context_length=spec.context_length, cut_from_block=False
    )
    asked = (
        (evaluate.TUNED, tuned_source(model, resolved, spec), int(resolved["context_length"])),
        (evaluate.ZERO_SHOT, whole, spec.context_length),
    )
    candidates: list[dict[str, Any]] = []
    for i, (name, source, context_length) in enumerate(asked):
        scored: dict[str, Any] = {"name": name}
        for block, windows in (("validation", data.validation), ("test", data.test)):
            shown = None if windows is None else dataclasses.replace(windows, context_length=context_length)
            scored[block] = None
            if shown is not None:
                scored[block] = evaluate.score(source, shown, data.scales, should_stop=should_stop)
        candidates.append(scored)
        reporter.phase("evaluating", share=0.3 * (i + 1))
    rivals = evaluate.judge_rivals(data.validation, data.test, data.scales, metric=data.metric, periods=data.periods)
    return candidates + rivals


def _manifest(
    outcome: Outcome,
    made: Export,
    zero_shot: Backbone,
    data: Data,
    chosen: dict[str, Any],
    spec: catalog.BackboneSpec,
    candidates: list[dict[str, Any]],
    verdict: dict[str, Any] | None,
    device: torch.device,
) -> dict[str, Any]:
    """`candidates` is empty and `verdict` None in a checkpoint, which nobody judged."""
    judged = {c["name"]: c for c in candidates}
    return {
        "task": chosen["task"],
        "prediction_length": chosen["prediction_length"],
        "context_length": chosen["context_length"],
        "backbone": {
            "name": spec.name,
            "digest": f"sha256:{spec.sha256}",
            "licence": spec.licence,
            "config": zero_shot.config,
        },
        "weights": {"kind": made.kind, "backbone_digest": f"sha256:{spec.sha256}", **made.facts},
        "method": {"type": chosen["method"], **chosen["method_config"]},
        "hyperparameters": chosen["hyperparameters"],
        "budget_seconds": chosen["budget_seconds"],
        "seed": chosen["seed"],
        "training": outcome.training,
        "num_trainable_parameters": outcome.num_trainable_parameters,
        "schema": {"freq": data.frame.freq, "timezone": data.frame.timezone, "num_series": len(data.frame)},
        "data": {"sha256": provenance.frame_sha256(data.frame), "report": data.report},
        "candidates": candidates,
        "verdict": verdict,
        "rivals": {name: {"period": judged[name]["period"]} for name in ("seasonal_naive",) if judged},
        "calibration": None,
        "code": {"sha256": provenance.code_sha256()},
        "libraries": provenance.library_versions(),
        "device": facts(device),
    }


class _Stopwatch:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._at = time.monotonic()
        self._taken_at = float("-inf")

    def is_due(self, every_seconds: float) -> bool:
        """True at the first call, then once in `every_seconds` at most."""
        now = time.monotonic()
        due = now - self._taken_at >= every_seconds
        if due:
            self._taken_at = now
        return due

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = round(now - self._at, 3)
        self._at = now
