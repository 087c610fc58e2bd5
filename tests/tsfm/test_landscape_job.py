"""A job that was asked for its landscape: what it answers, what it leaves, what it must not change, what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests import toy
from tsfm import finetune, landscape_job
from tsfm.errors import Cancelled, ConfigError
from tsfm.finetune import FinetuneRequest, FinetuneResult, Progress
from tsfm.request import landscape_config, resolve

FAST = {"learning_rate": 1e-2, "max_epochs": 1, "batch_size": 64}
PNG = b"\x89PNG\r\n"


def run(weights_dir: Path, out: Path, *, sent: list[Progress] | None = None, **asked: Any) -> FinetuneResult:
    heard: list[Progress] = sent if sent is not None else []
    request = {"backbone": "toy", "prediction_length": 6, "hyperparameters": FAST, "seed": 3, **asked}
    return finetune.run(
        FinetuneRequest.from_mapping(request),
        toy.frame(),
        weights_dir=weights_dir,
        state_dir=out / "state",
        out_dir=out / "artifact",
        report=heard.append,
        should_stop=lambda: "cancel" if any(p.phase == "stop here" for p in heard) else None,
    )


def test_sff_is_measured_at_three_points_and_leaves_two_files(toy_weights: Path, tmp_path: Path) -> None:
    sent: list[Progress] = []
    method = {"type": "sff", "alpha": 0.8, "twin_seed": 4}
    result = run(toy_weights, tmp_path / "a", sent=sent, method=method, landscape={"surface": True, "windows": 12})
    found = result.landscape
    assert found is not None
    assert list(found["points"]) == ["pretrained", "smoothed", "tuned"]
    assert found["windows"] == 12
    assert found["allowed_seconds"] is None
    assert found["surface"]["loss"].keys() == found["points"].keys()
    on_the_way = found["interpolation"]["random"]
    assert on_the_way["loss"][on_the_way["share"].index(0.2)] == pytest.approx(found["points"]["smoothed"]["loss"])
    assert found["points"]["tuned"]["loss"] < found["points"]["smoothed"]["loss"]
    assert json.loads(result.result_files["landscape.json"].read_text()) == found
    assert result.result_files["landscape.png"].read_bytes().startswith(PNG)
    assert result.timing["landscape_seconds"] > 0
    assert [p.phase for p in sent][-1] == "landscape"
    fractions = [p.fraction for p in sent]
    assert fractions == sorted(fractions)

    plain = run(toy_weights, tmp_path / "b", method=method)
    assert plain.landscape is None
    assert "landscape.json" not in plain.result_files
    assert plain.digest == result.digest, "looking at it changed what is served"


@pytest.mark.parametrize("method", ["full", "scratch", "linear_probe", "lora"])
def test_every_method_that_trains_has_a_landscape(toy_weights: Path, tmp_path: Path, method: str) -> None:
    result = run(toy_weights, tmp_path, method=method, landscape={"windows": 4})
    assert result.landscape is not None
    points = result.landscape["points"]
    assert list(points) == ["pretrained", "tuned"]
    assert points["tuned"]["trace"] != points["pretrained"]["trace"]
    split = method == "lora"  # the adapter on one of the toy's tied layers unties them
    assert ("omitted" in result.landscape["interpolation"]["tuned"]) == split


def test_a_tenth_of_the_budget_is_allowed() -> None:
    assert landscape_job.allowance(500.0, 3000.0) == 50.0
    assert landscape_job.allowance(None, 3000.0) == 300.0
    assert landscape_job.allowance(None, 3.0) == 60.0


def test_no_room_in_the_budget_is_said_and_leaves_no_picture(
    toy_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tsfm.landscape._seconds", lambda work, device: 8.0)
    result = run(toy_weights, tmp_path, method="full", landscape=True, budget_seconds=30.0)
    assert result.landscape is not None
    assert "longer than the 3 s allowed" in result.landscape["omitted"]
    assert "landscape.json" in result.result_files
    assert "landscape.png" not in result.result_files


def test_a_stop_is_seen_while_measuring(toy_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Progress] = []
    measure = landscape_job.landscape.measure

    def stopped(*arguments: Any, **more: Any) -> dict[str, Any]:
        sent.append(Progress(phase="stop here"))
        return measure(*arguments, **more)

    monkeypatch.setattr(landscape_job.landscape, "measure", stopped)
    with pytest.raises(Cancelled, match="landscape"):
        run(toy_weights, tmp_path, sent=sent, method="full", landscape=True)


def test_what_was_asked_is_echoed_whole(toy_weights: Path) -> None:
    asked = {"backbone": "toy", "method": "full", "prediction_length": 6}
    reading = {"freq": "h", "max_length": 240}
    default = {"surface": False, "windows": None, "probes": 16}
    assert resolve(FinetuneRequest.from_mapping(asked), reading)["landscape"] is False
    for value in (True, {}, default):
        resolved = resolve(FinetuneRequest.from_mapping({**asked, "landscape": value}), reading)
        assert resolved["landscape"] == default
    assert landscape_config(resolved["landscape"]) == landscape_config(True)


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"landscape": "yes"}, "landscape"),
        ({"landscape": {"surfaces": True}}, "landscape.surfaces"),
        ({"landscape": {"surface": 1}}, "landscape.surface"),
        ({"landscape": {"windows": 2.5}}, "landscape.windows"),
        ({"landscape": {"windows": 0}}, "landscape.windows"),
        ({"landscape": {"probes": 4}}, "landscape.probes"),
        ({"landscape": True, "method": "zero_shot"}, "landscape"),
    ],
)
def test_what_cannot_be_is_refused(toy_weights: Path, asked: dict[str, Any], param: str) -> None:
    with pytest.raises(ConfigError) as caught:
        FinetuneRequest.from_mapping({"backbone": "toy", "method": "full", "prediction_length": 6, **asked})
    assert caught.value.param == param
