"""A version whose series are sent to different sources: tuned weights, the zero-shot backbone, plain rivals.

    forecaster = open_routed(artifact_dir, digest="sha256:…", weights_dir=…)
    forecaster.predict(frame, 48)

A version without routes opens too: all its series go to the tuned weights.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tsfm.artifact import open_artifact
from tsfm.calibration import Calibration, source_name
from tsfm.routes import Routes
from tsfm.series.frame import SeriesFrame
from tsfm.tasks.forecast import Forecast, Forecaster, Source, stored_calibrations

TUNED = "tuned"


def open_served(
    artifact_dir: Path,
    *,
    digest: str | None = None,
    weights_dir: Path | None = None,
    device: torch.device | None = None,
) -> "Forecaster | RoutedForecaster":
    """A version as it was judged: with its routes where it has some, else the tuned weights alone."""
    opened = open_routed(artifact_dir, digest=digest, weights_dir=weights_dir, device=device)
    return opened if opened.manifest.get("routes") is not None else opened.forecasters[TUNED]


def open_routed(
    artifact_dir: Path,
    *,
    digest: str | None = None,
    weights_dir: Path | None = None,
    device: torch.device | None = None,
) -> "RoutedForecaster":
    """Opens a version with everything its routes name; raises what `Forecaster.open` and `zero_shot` raise."""
    tuned = Forecaster.open(artifact_dir, digest=digest, weights_dir=weights_dir, device=device)
    assert tuned.manifest is not None, "artifacts have one"
    stored = tuned.manifest.get("routes")
    routes = Routes(default=TUNED) if stored is None else Routes.from_mapping(stored)
    calibrations = stored_calibrations(open_artifact(artifact_dir)) if stored is not None else {}
    forecasters = {TUNED: tuned}
    for name in routes.sources:
        if name == TUNED:
            continue
        beside = Forecaster.fallback(tuned.manifest, name, period=routes.period, weights_dir=weights_dir, device=device)
        forecasters[name] = beside
        beside.calibration = calibrations.get(source_name(name, routes.period))
    return RoutedForecaster(routes=routes, forecasters=forecasters)


class RoutedForecaster:
    """Asks for every series the source that was judged for it; unknown series go to the default."""

    def __init__(self, *, routes: Routes, forecasters: Mapping[str, Forecaster]) -> None:
        self.routes, self.forecasters = routes, forecasters
        tuned = forecasters[TUNED]
        assert tuned.manifest is not None, "artifacts have one"
        self.name, self.digest, self.manifest = tuned.name, tuned.digest, tuned.manifest
        self.prediction_length, self.max_prediction_length = tuned.prediction_length, tuned.max_prediction_length

    def sources_for(self, frame: SeriesFrame) -> dict[str, tuple[Source, int]]:
        """(source, steps of history it looks at) of every source in use."""
        return {name: self.forecasters[name].source_for(frame) for name in self.routes.sources}

    def sent(self, item_ids: Sequence[str]) -> list[str]:
        """The source of each series, by name."""
        return [self.routes.of(item_id) for item_id in item_ids]

    @property
    def calibration(self) -> Calibration | None:
        """The tuned weights' where every source in use has one; None where one cannot answer every level."""
        used = [self.forecasters[name].calibration for name in self.routes.sources]
        return self.forecasters[TUNED].calibration if all(one is not None for one in used) else None

    def predict(
        self,
        frame: SeriesFrame,
        prediction_length: int,
        quantile_levels: Sequence[float] = (),
        *,
        calibration: Calibration | None = None,
    ) -> Forecast:
        """As `Forecaster.predict`, series by series from their own source, in the frame's order.

        `point_kind` is that of the first series' source where they differ, and a note says so. A source that cannot
        answer the asked levels raises for its series as it does alone. Every source has its own calibration, so that
        `calibration` is only there to be called like a `Forecaster`.
        """
        assert calibration is None, "what several sources answer has no calibration of its own"
        sent = np.array(self.sent(frame.item_ids), dtype=object)
        names = [name for name in self.routes.sources if (sent == name).any()] or [self.routes.default]
        if len(names) == 1:
            return self.forecasters[names[0]].predict(frame, prediction_length, quantile_levels)
        places = [np.flatnonzero(sent == name) for name in names]
        parts = [
            self.forecasters[name].predict(frame.take(place.tolist()), prediction_length, quantile_levels)
            for name, place in zip(names, places, strict=True)
        ]
        return merged(frame, places, parts)


def merged(frame: SeriesFrame, places: Sequence[Any], parts: Sequence[Forecast]) -> Forecast:
    """Forecasts of parts of a frame, each at its series' places, in the frame's order."""
    back = np.argsort(np.concatenate(places), kind="stable")
    quantiles = [part.quantiles for part in parts if part.quantiles is not None]
    kinds = dict.fromkeys(part.point_kind for part in parts)
    notes = dict.fromkeys(note for part in parts for note in part.notes)
    left = {level for part in parts for level in part.uncalibrated_levels}
    if len(kinds) > 1:
        notes[f"Series come from different sources: the point of some is a {', of others a '.join(kinds)}."] = None
    return Forecast(
        item_ids=frame.item_ids,
        point=np.concatenate([part.point for part in parts])[back],
        point_kind=parts[0].point_kind,
        quantiles=np.concatenate(quantiles)[back] if quantiles else None,
        quantile_levels=parts[0].quantile_levels,
        calibrated=all(part.calibrated for part in parts),
        uncalibrated_levels=tuple(level for level in parts[0].quantile_levels if level in left),
        notes=tuple(notes),
    )
