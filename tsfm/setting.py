"""How the task of a job asks its networks: for which steps, shown what. Torch-free.

A forecast sees what came before. A gap (imputation, and scoring by reconstruction) is seen from both sides: then
`context_length` steps are shown before it and as many behind.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from tsfm.errors import ConfigError, UnknownName
from tsfm.series.windows import Around
from tsfm.spec import FILL_RIVALS, RIVALS, SCORINGS, BackboneSpec, Scoring, Task

RIVAL_CONTEXT = 512
"""Steps a rival averages over when no job said otherwise; temper-tiny's context."""
UNTUNED_CONTEXT = 2_048
"""Most steps that a network is shown around or before each block where no job said otherwise."""
SHORTEST_BLOCK, LONGEST_BLOCK = 12, 96
"""Bounds of the default block of points that are scored at once, which is one season."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    task: Task
    scoring: Scoring | None
    """How points are scored; None of other tasks."""
    prediction_length: int
    """Steps of one forecast, of one scored block, or of the longest gap."""
    context_length: int

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Self:
        """Of a resolved request, or of the manifest of an artifact that it ended in."""
        return cls(
            task=facts.get("task", "forecast"),
            scoring=facts.get("scoring"),
            prediction_length=int(facts["prediction_length"]),
            context_length=int(facts.get("context_length", 0)),
        )

    @property
    def is_two_sided(self) -> bool:
        return self.task == "imputation" or self.scoring == "reconstruction"

    def around(self, season: int) -> Callable[[NDArray[np.int64]], Around] | None:
        """How windows around gaps are cut, given the ends of their block; None where nothing is shown behind a target.

        Imputation trains and calibrates gaps of every length up to `prediction_length`, other gaps around them, of
        which the network is shown a first guess.
        """
        if not self.is_two_sided:
            return None
        fills = self.task == "imputation"
        period = season if fills else None
        return lambda limits: Around(
            length=self.context_length, limits=limits, period=period, vary=fills, with_others=fills
        )

    @property
    def rivals(self) -> tuple[str, ...]:
        return FILL_RIVALS if self.is_two_sided else RIVALS

    @property
    def seasonal_rival(self) -> str:
        return "seasonal_fill" if self.is_two_sided else "seasonal_naive"

    def reconstructs(self, spec: BackboneSpec) -> bool:
        """Whether gaps are filled natively, by the published head; else by forecasts from both sides."""
        return self.is_two_sided and spec.reconstructs

    def draws_head(self, spec: BackboneSpec) -> bool:
        """Whether a forecasting head is drawn, since none was published."""
        return spec.random_head and not self.reconstructs(spec)


def side_length(spec: BackboneSpec, prediction_length: int) -> int:
    """Most steps a natively reconstructing network can be shown on each side of a gap of `prediction_length`: whole
    patches, and one at least."""
    room = (spec.context_length - prediction_length) // 2
    return max(room // spec.patch_length, 1) * spec.patch_length


def longest_gap(spec: BackboneSpec) -> int:
    """Steps of a gap that leaves a patch on each side of it; of networks that forecast from both sides, their longest
    forecast."""
    if spec.reconstructs:
        return spec.context_length - 2 * spec.patch_length
    return spec.max_prediction_length


def scoring_for(spec: BackboneSpec, prediction_length: int) -> Scoring:
    """The backbone's own way of scoring blocks of so many steps: the first that fits."""
    for scoring in spec.scorings:
        if fits(spec, scoring, prediction_length):
            return scoring
    return "forecast"


def fits(spec: BackboneSpec, scoring: Scoring, prediction_length: int) -> bool:
    """Whether blocks of `prediction_length` steps can be scored so."""
    if scoring == "every_patch":
        return prediction_length % spec.patch_length == 0
    if scoring == "reconstruction":
        return prediction_length <= longest_gap(spec)
    return prediction_length <= spec.max_prediction_length


def longest_block(setting: Setting, spec: BackboneSpec) -> int:
    """The longest `prediction_length` in this setting."""
    return longest_gap(spec) if setting.is_two_sided else spec.max_prediction_length


def context_limit(setting: Setting, spec: BackboneSpec) -> int:
    """Most steps of history: a window around a gap, or one of patches with those that are scored, must fit whole."""
    if setting.reconstructs(spec):
        return side_length(spec, setting.prediction_length)
    if setting.scoring == "every_patch":
        return max(spec.context_length - setting.prediction_length, spec.patch_length)
    return spec.context_length


def check_scoring(scoring: str | None, task: str, spec: BackboneSpec) -> None:
    """That this way of scoring exists, belongs to the task, and is one the backbone has."""
    if scoring is None:
        return
    if task != "anomaly_detection":
        raise ConfigError(f"scoring belongs to anomaly_detection, not to {task}: leave it out.", param="scoring")
    if scoring not in SCORINGS:
        raise UnknownName("scoring", str(scoring), SCORINGS, param="scoring")
    if scoring not in spec.scorings:
        raise ConfigError(
            f"{spec.name} cannot score by {scoring!r}; it can by: {', '.join(spec.scorings)}.",
            param="scoring",
            code="unsupported_scoring",
        )


def check_block(setting: Setting, spec: BackboneSpec) -> None:
    """That blocks of `prediction_length` steps can be scored so."""
    if setting.scoring is not None and not fits(spec, setting.scoring, setting.prediction_length):
        raise ConfigError(
            f"{spec.name} scores whole patches of {spec.patch_length} steps in one pass: give a prediction_length of "
            f'{spec.patch_length} or a multiple of it, or "scoring": "forecast".',
            param="prediction_length",
        )


def tuned_setting(
    name: str, facts: Mapping[str, Any], task: Task, *, scoring: str | None = None, prediction_length: int | None = None
) -> Setting:
    """Of a manifest; `ConfigError` where it was made for another task, or another setting is asked for."""
    setting = Setting.of(facts)
    if setting.task != task:
        raise ConfigError(
            f"This model was tuned for {setting.task}, not for {task}: use one that was, or the backbone {name!r} "
            "itself.",
            param="model",
            code="wrong_task",
        )
    if scoring not in (None, setting.scoring):
        raise ConfigError(
            f"This model was tuned and calibrated to score by {setting.scoring!r}: leave scoring out.", param="scoring"
        )
    if prediction_length not in (None, setting.prediction_length):
        raise ConfigError(
            f"This model was tuned and calibrated for blocks of {setting.prediction_length} steps: leave "
            "prediction_length out.",
            param="prediction_length",
        )
    return setting


def scoring_setting(
    spec: BackboneSpec | None, season: int, *, scoring: str | None, prediction_length: int | None
) -> Setting:
    """Of what no job tuned (None: a rival): one season is scored at once where the source can."""
    wanted = prediction_length or min(max(season, SHORTEST_BLOCK), LONGEST_BLOCK)
    if spec is None:
        if scoring not in (None, "forecast"):
            message = 'A rival scores by "forecast" alone: leave scoring out.'
            raise ConfigError(message, param="scoring", code="unsupported_scoring")
        return Setting(
            task="anomaly_detection", scoring="forecast", prediction_length=wanted, context_length=RIVAL_CONTEXT
        )
    check_scoring(scoring, "anomaly_detection", spec)
    if prediction_length is None and (scoring or spec.scorings[0]) == "every_patch":
        wanted = -(-wanted // spec.patch_length) * spec.patch_length
    chosen = cast("Scoring | None", scoring) or scoring_for(spec, wanted)
    setting = Setting(task="anomaly_detection", scoring=chosen, prediction_length=wanted, context_length=0)
    longest = longest_block(setting, spec)
    if wanted > longest:
        raise ConfigError(
            f"{spec.name} scores at most {longest} steps at once, not {wanted}.", param="prediction_length"
        )
    check_block(setting, spec)
    return Setting(
        task=setting.task,
        scoring=setting.scoring,
        prediction_length=wanted,
        context_length=min(context_limit(setting, spec), UNTUNED_CONTEXT),
    )
