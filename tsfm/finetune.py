"""One fine-tuning run from series to artifact: load, search, train, judge, write.

    result = run(request, frame, weights_dir=…, state_dir=…, out_dir=…, report=print, should_stop=lambda: None)

Called again with the same arguments after a kill, it continues from `state_dir`; on CPU it ends with the same weights.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tsfm import calibrate, calibration, card, catalog, judge, landscape_job, methods, normal, null, provenance
from tsfm.artifact import CARD, write_artifact
from tsfm.auto import AutoSearch
from tsfm.backbones.base import Backbone
from tsfm.backbones.start import base_of
from tsfm.backbones.weights import Base
from tsfm.device import default_device, facts
from tsfm.evaluate import TUNED, ZERO_SHOT
from tsfm.incumbent import Incumbent, judged_until
from tsfm.methods.base import Export, Method
from tsfm.mixing import best_mixture
from tsfm.prepare import Data, all_history, prepare
from tsfm.progress import Checkpoint, Checkpoints, Progress, Reporter
from tsfm.refit import Refitted, train_on_all
from tsfm.request import FinetuneRequest, landscape_config, resolve
from tsfm.results import write_results
from tsfm.search import Outcome, Search
from tsfm.series.frame import SeriesFrame
from tsfm.setting import Setting
from tsfm.severity import remembered
from tsfm.tasks.forecast import Source
from tsfm.tasks.sources import FillSource, network_source

__all__ = ["FinetuneRequest", "FinetuneResult", "Progress", "run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneResult:
    """What a run leaves behind."""

    digest: str
    out_dir: Path
    resolved: dict[str, Any]
    """The resolved request with everything the search chose filled in."""
    candidates: list[dict[str, Any]]
    verdict: dict[str, Any]
    gate: dict[str, Any] | None
    """The job's `gate` (tsfm.gate_verdict); None where the test block was given up."""
    routes: dict[str, Any] | None
    """Which source answers for which series (tsfm.routes); None where the tuned weights answer for all."""
    calibration: dict[str, Any] | None
    """How quantiles were calibrated and what they cover on test (tsfm.calibrate.report)."""
    data_report: dict[str, Any]
    search: list[dict[str, Any]]
    """Every trial there was: method, options, learning_rate, rung, steps, validation, stopped, seconds."""
    timing: dict[str, float]
    num_trainable_parameters: int
    manifest: dict[str, Any]
    result_files: dict[str, Path] = field(default_factory=dict)
    """Files for a reader, by name: step metrics, plots."""
    landscape: dict[str, Any] | None = None
    """What `tsfm.landscape` measured, where that was asked."""
    refit: Refitted | None = None
    """The same recipe trained on all history, where that was asked."""

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON, without what lies on the disk: `out_dir`, `result_files` and the refit's artifact."""
        kept = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for name in ("out_dir", "result_files", "refit"):
            del kept[name]
        return kept


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
    incumbent: Incumbent | None = None,
    prior_verdicts: Mapping[str, int] | None = None,
) -> FinetuneResult:
    """Fine-tunes, judges on history nothing else touched, and writes the artifact at `out_dir`.

    `incumbent` is the version in production, a bar beside zero-shot. `prior_verdicts` counts the verdicts given so far
    by the digest of the test rows they read (`gate["test_sha256"]`).
    `should_stop` answers a reason to stop, or None; it is asked at every step and `Cancelled` carries the reason as its
    code. Raises the errors of `tsfm.errors`; a model that loses its verdict is a result, not an error.
    """
    clock = _Stopwatch()
    reporter = Reporter(report)
    reporter.phase("loading")
    resolved = resolve(request, {"freq": frame.freq, "max_length": int(frame.lengths.max(initial=0))})
    spec = catalog.backbone(request.backbone)
    device = device or default_device()
    base = base_of(spec, resolved["initialisation"], weights_dir=weights_dir)
    job = _Job(
        resolved=resolved,
        spec=spec,
        base=base,
        data=prepare(frame, resolved, spec),
        zero_shot=base.fresh().to(device).requires_grad_(False),
        weights_dir=weights_dir,
        state_dir=state_dir,
        out_dir=out_dir,
        reporter=reporter,
        should_stop=should_stop,
        checkpoints=checkpoints,
        device=device,
        clock=clock,
    )
    clock.lap("loading_seconds")
    outcome = job.train()
    clock.lap("training_seconds")
    judged, found, fitted = job.decide(outcome, incumbent, {} if prior_verdicts is None else prior_verdicts)
    clock.lap("evaluating_seconds")
    reporter.phase("saving", share=0.9)
    made = job.write(outcome, out_dir, found, fitted=fitted)
    result_files = write_results(job.results_dir, outcome.training, made.manifest, out_dir / CARD)
    clock.lap("saving_seconds")
    landscape, pictures = job.landscape(outcome)
    again = job.refit(outcome, made)
    return FinetuneResult(
        digest=made.digest,
        out_dir=out_dir,
        resolved=made.chosen,
        candidates=judged.candidates,
        verdict=judged.verdict,
        gate=judged.gate,
        routes=found["routes"],
        calibration=found["calibration"],
        data_report=job.data.report,
        search=outcome.search,
        timing={**clock.laps, **outcome.method.laps()},
        num_trainable_parameters=outcome.num_trainable_parameters,
        manifest=made.manifest,
        result_files={**result_files, **pictures},
        landscape=landscape,
        refit=again,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What the calibration block set, by source."""

    calibrations: Mapping[str, calibration.Calibration] = field(default_factory=dict)
    nulls: Mapping[str, null.Null] = field(default_factory=dict)
    """Of anomaly detection alone."""

    def files(self) -> dict[str, bytes]:
        """Contents by file name, for the artifact."""
        made: dict[str, bytes] = {}
        if self.calibrations:
            made[calibration.FILE] = calibration.to_bytes(self.calibrations)
        if self.nulls:
            made[null.FILE] = null.to_bytes(self.nulls)
        return made


NOTHING_FITTED = Fitted()


class _Made(NamedTuple):
    chosen: dict[str, Any]
    manifest: dict[str, Any]
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What the steps of one run share; each step takes what the ones before it made."""

    resolved: dict[str, Any]
    spec: catalog.BackboneSpec
    base: Base
    data: Data
    zero_shot: Backbone
    weights_dir: Path | None
    state_dir: Path
    out_dir: Path
    reporter: Reporter
    should_stop: Callable[[], str | None]
    checkpoints: Checkpoints | None
    device: torch.device
    clock: "_Stopwatch"

    @property
    def results_dir(self) -> Path:
        return self.out_dir.with_name(f"{self.out_dir.name}-results")

    def train(self) -> Outcome:
        resolved = self.resolved
        if not catalog.method(resolved["method"]).trains:
            method: Method = methods.create(resolved["method"], _config(resolved))
            return Outcome(
                model=method.prepare(self.base.fresh()).to(self.device),
                method=method,
                method_name=resolved["method"],
                method_config=resolved["method_config"],
                hyperparameters={},
            )
        self.reporter.phase("training")
        kind = AutoSearch if resolved["method"] == catalog.AUTO else Search
        search = self._search(kind, self.data, resolved)
        search.on_kept = self._keep
        return search.run()

    def decide(
        self, outcome: Outcome, incumbent: Incumbent | None, prior_verdicts: Mapping[str, int]
    ) -> tuple[judge.Judged, dict[str, Any], Fitted]:
        """Validation decides, calibration sets intervals and nulls, test says; with what of it the manifest holds."""
        data, should_stop = self.data, self.should_stop
        self.reporter.phase("evaluating")
        setting = Setting.of(self.resolved)
        fill: dict[str, Any] = {}
        networks = {
            TUNED: tuned_source(outcome.model, self.resolved, self.spec),
            ZERO_SHOT: network_source(self.zero_shot, self.spec, setting, tuned=False),
        }
        if setting.task == "imputation":
            networks, fill = self._mixed(networks)
        contest = judge.contest(data.blocks, networks, self.base)
        choice = judge.choose(contest, should_stop=should_stop)
        sources = choice.contest.sources
        fitted = Fitted(calibrations=calibrate.fit_all(sources, data.calibration, should_stop=should_stop))
        detection: dict[str, Any] | None = None
        if self.resolved["task"] == "anomaly_detection":
            nulls = normal.fit_nulls(sources, data.calibration, should_stop=should_stop)
            fitted = dataclasses.replace(fitted, nulls=nulls)
            detection = normal.report(nulls, sources, data.test, should_stop=should_stop)
        self.reporter.phase("evaluating", share=0.3)
        judged = judge.judge(
            choice,
            calibrations=fitted.calibrations,
            false_alarms=normal.alarms_of((detection or {}).get(TUNED)),
            incumbent=incumbent,
            prior_verdicts=prior_verdicts,
            weights_dir=self.weights_dir,
            device=self.device,
            should_stop=should_stop,
            progress=lambda share: self.reporter.phase("evaluating", share=0.3 + 0.5 * share),
        )
        held = calibrate.report(
            fitted.calibrations, sources, data.calibration, data.test, data.scales, should_stop=should_stop
        )
        if held is not None and detection is not None:
            held = {**held, "detection": detection}
        return judged, {**judge.facts(choice, judged), "calibration": held, **fill}, fitted

    def _mixed(self, networks: Mapping[str, Source]) -> tuple[dict[str, Source], dict[str, Any]]:
        """The networks, each mixed with plain fills as validation has it; and the manifest's `fill`."""
        mixed: dict[str, Source] = {}
        weights: dict[str, Any] = {}
        data, season = self.data, self.data.scales.season
        for name, source in networks.items():
            assert isinstance(source, FillSource), "gaps are filled"
            mixture = best_mixture(source, data.validation, data.longer, period=season, should_stop=self.should_stop)
            weights[name] = [list(row) for row in mixture.weights]
            mixed[name] = source.mixed(mixture)
        return mixed, self._fill(weights)

    def _fill(self, weights: Mapping[str, Any]) -> dict[str, Any]:
        """The manifest's `fill`: how gaps are asked for, and the weights by network, none of a checkpoint."""
        if self.resolved["task"] != "imputation":
            return {}
        return {"fill": {"period": self.data.scales.season, "guess": self.data.guess, "weights": dict(weights)}}

    def write(
        self,
        outcome: Outcome,
        where: Path,
        found: dict[str, Any],
        *,
        data: Data | None = None,
        fitted: Fitted = NOTHING_FITTED,
    ) -> _Made:
        """The artifact of `outcome` at `where`; `data` is what it was trained on, if not the job's own blocks."""
        data = data or self.data
        chosen = {
            **self.resolved,
            "metric": data.blocks.metric,
            "method": outcome.method_name,
            "method_config": outcome.method_config,
            "hyperparameters": outcome.hyperparameters,
        }
        made = outcome.method.export(outcome.model, self.spec)
        manifest = _manifest(outcome, made, self, data, chosen, found)
        files = {**made.files, **fitted.files()}
        return _Made(chosen, manifest, write_artifact(where, files, manifest, card.render(manifest)))

    def landscape(self, outcome: Outcome) -> tuple[dict[str, Any] | None, dict[str, Path]]:
        """What was measured and the files it is in; nothing where it was not asked for. The artifact is written."""
        config = landscape_config(self.resolved["landscape"])
        if config is None:
            return None, {}
        finished = landscape_job.Finished(
            outcome=outcome, artifact=self.out_dir, train=self.data.train, clock=self.clock.laps
        )
        tick = landscape_job.watched(self.reporter, self.should_stop)
        found = landscape_job.describe(finished, self.resolved, config, self.base, self.device, tick)
        files = landscape_job.write(found, self.results_dir)
        self.clock.lap("landscape_seconds")
        return found, files

    def refit(self, outcome: Outcome, made: _Made) -> Refitted | None:
        """The recipe of `outcome` on all history, where that was asked and something was trained."""
        if not self.resolved["refit"] or not outcome.training:
            return None
        self.reporter.phase("refitting")
        history = all_history(self.data, self.resolved)
        search = self._search(Search, history, {**made.chosen, "budget_seconds": None})
        second = train_on_all(outcome, search, like=self.data.train)
        where = self.out_dir.with_name(f"{self.out_dir.name}-refit")
        kept = {name: made.manifest[name] for name in ("fill",) if name in made.manifest}
        redone = self.write(second, where, {**judge.UNJUDGED, **kept, "refit_of": made.digest}, data=history)
        self.clock.lap("refitting_seconds")
        return Refitted(digest=redone.digest, out_dir=where, manifest=redone.manifest)

    def _keep(self, outcome: Outcome) -> None:
        """The best weights so far become a checkpoint, where one is due."""
        if self.checkpoints is not None and self.clock.is_due(self.checkpoints.every_seconds):
            where = self.out_dir.with_name(f"{self.out_dir.name}-checkpoint")
            made = self.write(outcome, where, {**judge.UNJUDGED, **self._fill({})})
            self.checkpoints.take(Checkpoint(digest=made.digest, out_dir=where, at=self.reporter.now))

    def _search(self, kind: type[Search], data: Data, resolved: dict[str, Any]) -> Search:
        return kind(
            resolved=resolved,
            train=data.train,
            validation=data.validation,
            scales=data.scales,
            metric=data.metric,
            fresh=self.base.fresh,
            source=lambda model: tuned_source(model, resolved, self.spec),
            identity={"data": provenance.frame_sha256(data.frame), "backbone": self.base.digest},
            state_dir=self.state_dir,
            reporter=self.reporter,
            should_stop=self.should_stop,
            device=self.device,
        )


def _config(resolved: dict[str, Any]) -> Any:
    return catalog.method(resolved["method"]).config(**resolved["method_config"])


def tuned_source(model: Backbone, resolved: dict[str, Any], spec: catalog.BackboneSpec) -> Source:
    """A tuned network asked as its task's route will ask it: what is judged is what is served."""
    return network_source(model, spec, Setting.of(resolved), tuned=True)


def _manifest(
    outcome: Outcome,
    made: Export,
    job: _Job,
    data: Data,
    chosen: dict[str, Any],
    found: dict[str, Any],
) -> dict[str, Any]:
    """`found` is what judging found (`judge.facts`), or `judge.UNJUDGED` in a checkpoint."""
    spec = job.spec
    return {
        "task": chosen["task"],
        "scoring": chosen["scoring"],
        "prediction_length": chosen["prediction_length"],
        "context_length": chosen["context_length"],
        "backbone": {
            "name": spec.name,
            "digest": job.base.digest,
            "initialisation": chosen["initialisation"],
            "licence": spec.licence,
            "config": outcome.model.config,
        },
        "weights": {"kind": made.kind, "backbone_digest": job.base.digest, **made.facts},
        "method": {"type": chosen["method"], **chosen["method_config"]},
        "hyperparameters": chosen["hyperparameters"],
        "budget_seconds": chosen["budget_seconds"],
        "seed": chosen["seed"],
        "training": outcome.training,
        "num_trainable_parameters": outcome.num_trainable_parameters,
        "schema": {"freq": data.frame.freq, "timezone": data.frame.timezone, "num_series": len(data.frame)},
        "data": {"sha256": provenance.frame_sha256(data.frame), "report": data.report},
        "calibration": None,
        **found,
        "judged_until": judged_until(data.frame, data.split),
        "levels": remembered(data.frame, data.split) if chosen["task"] == "anomaly_detection" else None,
        "code": {"sha256": provenance.code_sha256()},
        "libraries": provenance.library_versions(),
        "device": facts(job.device),
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
