"""Calibrated levels through the gateway: any level of a tuned model, its fallback by its own scores, honest flags."""

import csv
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from app.errors import ApiError
from app.registry.artifacts import LocalArtifacts
from app.storage import blob_key
from tests.app.forecasts.conftest import Gateway, ramp, series
from tests.app.tuned import Tuned, register
from tsfm import calibration
from tsfm.artifact import files_of, open_artifact, write_artifact
from tsfm.series.load import InlineSeries, frame_from_inline
from tsfm.tasks.forecast import Forecaster, stored_calibrations

ENDS = (0.025, 0.1, 0.9, 0.975)


def asked(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "series": [series(ramp())], **more}


def test_95_per_cent_of_a_tuned_model_is_answered_and_calibrated(gateway: Gateway) -> None:
    answer = gateway.ok(asked(gateway.won.name, levels=[80, 95], quantile_levels=[0.5, 0.02]))
    assert answer["calibrated"] is True
    assert answer["uncalibrated_levels"] == []
    assert answer["notes"] == []
    one = answer["forecasts"][0]
    rows = [
        one["quantiles"]["0.02"],
        one["intervals"]["95"]["lo"],
        one["intervals"]["80"]["lo"],
        one["quantiles"]["0.5"],
    ]
    rows += [one["intervals"]["80"]["hi"], one["intervals"]["95"]["hi"]]
    assert (np.diff(np.array(rows), axis=0) >= 0).all()


def test_the_numbers_are_the_stored_calibrations(gateway: Gateway, tuned: Tuned) -> None:
    answer = gateway.ok(asked(gateway.won.name, levels=[80, 95]))
    item = InlineSeries(item_id="a", target=ramp(), start="2026-01-01T00:00:00", freq="h")
    expected = Forecaster.open(tuned.folder).predict(frame_from_inline([item]), 8, ENDS)
    check(answer, expected.quantiles)


def check(answer: dict[str, Any], expected: Any) -> None:
    found = answer["forecasts"][0]["intervals"]
    rows = [found["95"]["lo"], found["80"]["lo"], found["80"]["hi"], found["95"]["hi"]]
    np.testing.assert_allclose(rows, expected[0], rtol=1e-5)


def test_csv_has_them_too(gateway: Gateway) -> None:
    response = gateway.clients["local"].post(
        "/v1/forecast", json=asked(gateway.won.name, levels=[95]), headers={"accept": "text/csv"}
    )
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert all(float(row["lo-95"]) < float(row["mean"]) < float(row["hi-95"]) for row in rows)
    sent = csv_body(ramp())
    answer = gateway.clients["local"].post(
        "/v1/forecast",
        params={"model": gateway.won.name, "levels": "95"},
        content=sent,
        headers={"content-type": "text/csv"},
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["calibrated"] is True


def csv_body(values: Sequence[float]) -> bytes:
    times = np.datetime64("2026-01-01T00:00:00") + np.arange(len(values)) * np.timedelta64(1, "h")
    return ("timestamp,target\n" + "".join(f"{t},{v}\n" for t, v in zip(times, values, strict=True))).encode()


@pytest.mark.parametrize("fallback", ["seasonal_naive", "naive", "zero_shot"])
def test_a_fallback_is_calibrated_by_its_own_scores(
    gateway: Gateway, tuned: Tuned, toy_weights: Any, fallback: str
) -> None:
    """A history far too short for rolling origins: only what the job stored can answer."""
    lost = register(gateway.engine, gateway.store, tuned, suffix=f"lost-{fallback}", fallback=fallback)
    short = ramp(30)
    answer = gateway.ok({"model": lost.name, "levels": [80, 95], "series": [series(short)]})
    assert answer["forecasts"][0]["fallback"] == fallback
    assert answer["calibrated"] is True
    frame = frame_from_inline([InlineSeries(item_id="a", target=short, start="2026-01-01T00:00:00", freq="h")])
    period = tuned.result["manifest"]["rivals"]["seasonal_naive"]["period"]
    stored = stored_calibrations(open_artifact(tuned.folder))[calibration.source_name(fallback, period)]
    source = Forecaster.fallback(tuned.result["manifest"], fallback, weights_dir=toy_weights)
    check(answer, source.predict(frame, 8, ENDS, calibration=stored).quantiles)


def test_one_source_with_two_calibrations_keeps_them_apart(gateway: Gateway, tuned_pair: tuple[Tuned, Tuned]) -> None:
    """The same rival, judged by two jobs and asked bare: three different spreads around one point."""
    widths = []
    for i, one in enumerate(tuned_pair):
        lost = register(gateway.engine, gateway.store, one, suffix=f"two-{i}", fallback="window_mean")
        answer = gateway.ok(asked(lost.name, levels=[80]))
        widths.append(np.array(answer["forecasts"][0]["intervals"]["80"]["hi"]))
    bare = gateway.ok(asked("window_mean", levels=[80], prediction_length=8))
    assert bare["calibrated"] is False
    assert bare["uncalibrated_levels"] == [0.1, 0.9]
    assert np.abs(widths[0] - widths[1]).min() > 0


def test_beyond_the_tuned_horizon_nothing_is_calibrated(gateway: Gateway) -> None:
    answer = gateway.ok(asked(gateway.won.name, levels=[95], prediction_length=12))
    assert answer["calibrated"] is False
    assert answer["uncalibrated_levels"] == [0.025, 0.975]


def test_a_level_beyond_the_scores_is_answered_and_named(gateway: Gateway) -> None:
    answer = gateway.ok(asked(gateway.won.name, quantile_levels=[0.000001, 0.1]))
    assert answer["calibrated"] is False
    assert answer["uncalibrated_levels"] == [0.000001]
    lowest, low = (answer["forecasts"][0]["quantiles"][name] for name in ("0.000001", "0.1"))
    assert (np.array(lowest) < np.array(low)).all()


def test_a_backbone_nobody_calibrated_still_refuses_what_it_does_not_know(gateway: Gateway) -> None:
    status, error = gateway.refused(asked("toy", levels=[95], prediction_length=8))
    assert (status, error["param"]) == (422, "quantile_levels")
    answer = gateway.ok(asked("toy", levels=[80], prediction_length=8))
    assert (answer["calibrated"], answer["uncalibrated_levels"]) == (False, [0.1, 0.9])


def test_a_version_from_before_calibration_answers_as_it_did(gateway: Gateway, tuned: Tuned, tmp_path: Any) -> None:
    manifest = {k: v for k, v in tuned.result["manifest"].items() if k != "files"} | {"calibration": None}
    weights = {"model.safetensors": (tuned.folder / "model.safetensors").read_bytes()}
    digest = write_artifact(tmp_path / "old", weights, manifest, "")
    old = Tuned(
        folder=tmp_path / "old",
        digest=digest,
        files=files_of(tmp_path / "old"),
        result={**tuned.result, "digest": digest, "manifest": manifest},
    )
    name = register(gateway.engine, gateway.store, old, suffix="old").name
    bare = gateway.ok(asked(name, levels=[80]))
    assert bare["calibrated"] is False
    assert bare["notes"][0].startswith("Not calibrated: 0.1, 0.9 (nothing was measured for these weights")
    assert gateway.refused(asked(name, levels=[95]))[0] == 422
    lost = register(gateway.engine, gateway.store, old, suffix="old-lost", fallback="naive").name
    assert gateway.ok(asked(lost, levels=[80]))["calibrated"] is False


def test_a_damaged_calibration_is_503(gateway: Gateway, tuned: Tuned) -> None:
    artifacts: LocalArtifacts = gateway.app.state.registry.artifacts
    sha256 = tuned.files[calibration.FILE]
    key = blob_key(sha256)
    data = gateway.store.get_bytes(key)
    try:
        gateway.store.put_bytes(key, data[:-1] + b"x")
        with pytest.raises(ApiError) as damaged:
            artifacts.read(tuned.digest, sha256)
        gateway.store.delete(key)
        with pytest.raises(ApiError) as missing:
            artifacts.read(tuned.digest, sha256)
    finally:
        gateway.store.put_bytes(key, data)
    assert damaged.value.status_code == missing.value.status_code == 503
    assert artifacts.read(tuned.digest, sha256) == data


def test_another_frequency_than_the_jobs_is_said_of_the_weights_and_of_a_fallbacks_quantiles(
    gateway: Gateway, tuned_pair: tuple[Tuned, Tuned]
) -> None:
    lost = register(gateway.engine, gateway.store, tuned_pair[1], fallback="zero_shot", suffix="daily")
    daily = {"series": [series(ramp(), freq="D")], "levels": [80]}
    said = {
        gateway.won.name: "The model was tuned on series of freq 'h'; these are 'D'.",
        lost.name: "Its quantiles were calibrated on series of freq 'h'; these are 'D'.",
    }
    for name, note in said.items():
        assert gateway.ok({"model": name, **daily})["notes"] == [note]
        tested = gateway.clients["local"].post("/v1/backtests", json={"model": name, **daily, "num_windows": 1}).json()
        assert note in tested["notes"]
