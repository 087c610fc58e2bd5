"""Whole jobs on the toy: what is judged is what is served, what decides knows nothing of later blocks, incumbents."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tsfm.test_finetune import altered
from tsfm import finetune
from tsfm.artifact import open_artifact
from tsfm.errors import ConfigError
from tsfm.finetune import FinetuneResult
from tsfm.incumbent import Incumbent, first_unseen
from tsfm.request import FinetuneRequest
from tsfm.series.frame import SeriesFrame
from tsfm.series.split import Block, split
from tsfm.series.windows import cut
from tsfm.tasks.forecast import Forecaster
from tsfm.tasks.routed import RoutedForecaster, open_routed, open_served

HORIZON = 4
FAST = {"learning_rate": 1e-2, "max_epochs": 3, "batch_size": 32, "patience": 100}
LENGTH = 300


def job(
    weights_dir: Path, out: Path, frame: SeriesFrame, *, more: dict[str, Any] | None = None, **asked: Any
) -> FinetuneResult:
    request = {"backbone": "toy", "method": "full", "prediction_length": HORIZON, "hyperparameters": FAST, **asked}
    return finetune.run(
        FinetuneRequest.from_mapping(request),
        frame,
        weights_dir=weights_dir,
        state_dir=out / "state",
        out_dir=out / "artifact",
        report=lambda _: None,
        should_stop=lambda: None,
        **(more or {}),
    )


def frame_of(*rows: np.ndarray, starts: int = 0) -> SeriesFrame:
    return SeriesFrame(
        item_ids=tuple(f"s{i}" for i in range(len(rows))),
        values=np.concatenate(rows),
        offsets=np.concatenate([[0], np.cumsum([len(r) for r in rows])]).astype(np.int64),
        starts=np.full(len(rows), starts * 3_600_000_000, dtype=np.int64),
        freq="h",
    )


def sine(seed: int, length: int = LENGTH, *, noise: float = 0.1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.sin(2 * np.pi * np.arange(length) / 10 + seed) + noise * rng.standard_normal(length)


def walk(seed: int, length: int = LENGTH) -> np.ndarray:
    return np.cumsum(np.random.default_rng(100 + seed).standard_normal(length))


@pytest.fixture(scope="session")
def half(toy_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[SeriesFrame, FinetuneResult]:
    """Half of the series are learnable, half are random walks, whose last value the toy cannot beat."""
    frame = frame_of(*(sine(i) for i in range(5)), *(walk(i) for i in range(5)))
    return frame, job(toy_weights, tmp_path_factory.mktemp("half"), frame)


class TestPlanted:
    """Six small ones; benchmarks/gate.py has twenty of each kind on temper-tiny."""

    def test_what_can_be_learnt_is_accepted(self, toy_weights: Path, tmp_path: Path) -> None:
        result = job(toy_weights, tmp_path, frame_of(sine(0), sine(3)))
        assert result.gate is not None
        assert result.gate["passed"], result.gate["sentence"]
        assert result.verdict["promoted"]
        assert result.verdict["fallback"] is None

    @pytest.mark.parametrize("seed", [0, 1])
    def test_noise_is_refused(self, toy_weights: Path, tmp_path: Path, seed: int) -> None:
        values = np.random.default_rng(seed).standard_normal(LENGTH)
        result = job(toy_weights, tmp_path, frame_of(values))
        assert result.gate is not None
        assert not result.gate["passed"], result.gate["sentence"]

    def test_a_regime_change_after_the_cut_is_refused(self, toy_weights: Path, tmp_path: Path) -> None:
        values = sine(0)
        values[int(0.8 * LENGTH) :] = walk(0)[: LENGTH - int(0.8 * LENGTH)]
        result = job(toy_weights, tmp_path, frame_of(values))
        assert result.gate is not None
        assert not result.gate["passed"], result.gate["sentence"]
        assert result.verdict["fallback"] in ("zero_shot", "naive", "seasonal_naive", "window_mean")

    def test_half_helped_is_routed_and_beats_both(self, half: tuple[SeriesFrame, FinetuneResult]) -> None:
        _, result = half
        test = {c["name"]: c["test"]["mase"] for c in result.candidates}
        assert test["routed"] < min(test["tuned"], test["zero_shot"])
        assert result.gate is not None
        assert result.gate["winner"] == "routed"

    def test_a_test_block_without_a_value_judges_nothing(self, toy_weights: Path, tmp_path: Path) -> None:
        values = sine(0)
        values[int(0.8 * LENGTH) :] = np.nan
        result = job(toy_weights, tmp_path, frame_of(values))
        assert result.gate is not None
        assert (result.gate["reason"], result.gate["gain"], result.gate["windows"]) == (
            "insufficient_evidence",
            None,
            0,
        )
        assert (result.verdict["fallback"], result.verdict["winner"]) == ("zero_shot", None)
        json.dumps(result.to_mapping(), allow_nan=False)

    def test_too_little_test_is_said(self, toy_weights: Path, tmp_path: Path) -> None:
        result = job(toy_weights, tmp_path, frame_of(sine(0, 80)), prediction_length=6)
        assert result.gate is not None
        assert (result.gate["passed"], result.gate["reason"]) == (False, "insufficient_evidence")
        assert result.verdict["fallback"] == "zero_shot"


class TestRouted:
    def test_the_manifest_and_the_result_hold_the_routes(self, half: tuple[SeriesFrame, FinetuneResult]) -> None:
        frame, result = half
        assert result.routes is not None
        assert result.manifest["routes"] == result.routes
        assert {result.routes["items"].get(f"s{i}", result.routes["default"]) for i in range(5)} == {"tuned"}
        elsewhere = [result.routes["items"].get(f"s{i}", result.routes["default"]) for i in range(5, 10)]
        assert sum(source != "tuned" for source in elsewhere) >= 3, elsewhere
        assert result.gate is not None
        assert result.gate["routes"]["served"]
        assert sum(result.gate["routes"]["sources"].values()) == len(frame)

    def test_what_is_served_is_what_was_judged(
        self, toy_weights: Path, half: tuple[SeriesFrame, FinetuneResult]
    ) -> None:
        """The version's own forecasts at the test origins have the error that the gate saw."""
        frame, result = half
        opened = open_served(result.out_dir, digest=result.digest, weights_dir=toy_weights)
        assert isinstance(opened, RoutedForecaster)
        context = int(result.resolved["context_length"])
        blocks = split(frame, context_length=context, prediction_length=HORIZON, patch_length=4)
        windows = cut(frame, blocks, Block.TEST, context_length=context, prediction_length=HORIZON)
        first, end = blocks.block(Block.TRAIN)
        by_series: dict[int, list[float]] = {}
        for i in range(len(windows)):
            series, origin = int(windows.series[i]), int(windows.origin[i])
            past = frame.take([series])
            past = dataclasses.replace(past, values=past.values[:origin], offsets=np.array([0, origin]))
            error = np.abs(opened.predict(past, HORIZON).point[0] - frame.series(series)[origin : origin + HORIZON])
            train = frame.series(series)[first[series] : end[series]]
            by_series.setdefault(series, []).append(float(error.mean() / np.abs(train[24:] - train[:-24]).mean()))
        served = float(np.mean([np.mean(errors) for errors in by_series.values()]))
        judged = next(c["test"]["mase"] for c in result.candidates if c["name"] == "routed")
        assert served == pytest.approx(judged, rel=1e-6)

    def test_rows_come_back_in_order_and_the_unknown_go_to_the_default(
        self, toy_weights: Path, half: tuple[SeriesFrame, FinetuneResult]
    ) -> None:
        frame, result = half
        opened = open_routed(result.out_dir, digest=result.digest, weights_dir=toy_weights)
        mixed = frame.take([7, 0, 9, 3])
        found = opened.predict(mixed, HORIZON)
        for row, item in enumerate(mixed.item_ids):
            alone = opened.forecasters[opened.routes.of(item)].predict(mixed.take([row]), HORIZON)
            assert found.point[row] == pytest.approx(alone.point[0], abs=1e-5)
        unknown = dataclasses.replace(mixed, item_ids=("a", "b", "c", "d"))
        default = opened.forecasters[opened.routes.default].predict(unknown, HORIZON)
        assert np.array_equal(opened.predict(unknown, HORIZON).point, default.point)

    def test_a_version_without_routes_is_a_plain_forecaster(self, toy_weights: Path, tmp_path: Path) -> None:
        result = job(toy_weights, tmp_path, frame_of(sine(0)))
        assert result.routes is None
        assert isinstance(open_served(result.out_dir, weights_dir=toy_weights), Forecaster)


def decisions(result: FinetuneResult) -> dict[str, Any]:
    gate = result.gate or {}
    return {
        "weights": (result.out_dir / "model.safetensors").read_bytes(),
        "resolved": result.resolved,
        "training": result.manifest["training"],
        "routes": result.routes,
        "winner": gate["winner"],
        "period": [c.get("period") for c in result.candidates],
        "validation": [(c["name"], c["validation"]) for c in result.candidates],
    }


def test_what_comes_after_validation_decides_nothing(
    toy_weights: Path, tmp_path: Path, half: tuple[SeriesFrame, FinetuneResult]
) -> None:
    frame, result = half
    other = job(toy_weights, tmp_path, altered(frame, Block.VALIDATION, prediction_length=HORIZON))
    assert decisions(other) == decisions(result)
    assert other.gate != result.gate


class TestSettings:
    def test_the_metric_and_the_bar_are_the_jobs(self, toy_weights: Path, tmp_path: Path) -> None:
        result = job(toy_weights, tmp_path, frame_of(sine(0), sine(3)), metric="mse", min_gain=0.99)
        assert result.gate is not None
        assert (result.gate["metric"], result.gate["min_gain"], result.verdict["metric"]) == ("mse", 0.99, "mse")
        assert result.resolved["metric"] == "mse"
        assert not result.gate["passed"]
        assert result.gate["gain"] > 0.1

    @pytest.mark.parametrize(
        ("asked", "param"), [({"metric": "mape"}, "gate.metric"), ({"min_gain": 1.0}, "gate.min_gain")]
    )
    def test_unknown_metrics_and_bars_are_refused(self, asked: dict[str, Any], param: str) -> None:
        with pytest.raises(ConfigError) as caught:
            FinetuneRequest.from_mapping({"backbone": "toy", "method": "full", "prediction_length": 4, **asked})
        assert caught.value.param == param

    def test_the_next_look_at_the_same_rows_is_counted(self, toy_weights: Path, tmp_path: Path) -> None:
        first = job(toy_weights, tmp_path / "a", frame_of(sine(0)))
        assert first.gate is not None
        assert (first.gate["verdict_number"], first.gate["level"]) == (1, 0.95)
        digest = first.gate["test_sha256"]
        again = job(toy_weights, tmp_path / "b", frame_of(sine(0)), seed=1, more={"prior_verdicts": {digest: 2}})
        assert again.gate is not None
        assert (again.gate["test_sha256"], again.gate["verdict_number"]) == (digest, 3)
        assert again.gate["level"] == pytest.approx(1 - 0.05 / 3)
        json.dumps(again.to_mapping(), allow_nan=False)


@pytest.fixture(scope="session")
def incumbent(toy_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Incumbent:
    """A version that was hardly trained, in production."""
    out = tmp_path_factory.mktemp("incumbent")
    made = job(toy_weights, out, frame_of(sine(0), sine(3)), hyperparameters={**FAST, "max_epochs": 1})
    return Incumbent(folder=made.out_dir, name="ft:x", version=2, digest=made.digest)


class TestIncumbent:
    def test_a_better_version_beats_it_on_what_it_has_not_seen(
        self, toy_weights: Path, tmp_path: Path, incumbent: Incumbent
    ) -> None:
        longer = frame_of(sine(0, 400), sine(3, 400))
        result = job(
            toy_weights,
            tmp_path,
            longer,
            hyperparameters={**FAST, "max_epochs": 10},
            more={"incumbent": incumbent},
        )
        gate = result.gate
        assert gate is not None
        assert gate["against"] == "incumbent"
        assert gate["passed"], gate["sentence"]
        assert "than ft:x@2" in gate["sentence"]
        candidate = next(c for c in result.candidates if c["name"] == "incumbent")
        assert (candidate["validation"], candidate["version"]) == (None, 2)

    def test_its_own_calibration_block_is_not_test(
        self, toy_weights: Path, tmp_path: Path, incumbent: Incumbent
    ) -> None:
        """History that ends before the incumbent's own test block is all seen."""
        shorter = frame_of(sine(0)[:250], sine(3)[:250])
        result = job(toy_weights, tmp_path, shorter, more={"incumbent": incumbent})
        assert result.gate is not None
        versus = result.gate["versus"]["incumbent"]
        assert versus["for_information"]
        assert versus["windows"] < result.gate["versus"]["zero_shot"]["windows"]
        assert result.gate["against"] == "zero_shot"
        assert "for information only" in result.gate["sentence"]

    def test_versions_say_until_when_they_have_seen(self, toy_weights: Path, tmp_path: Path) -> None:
        frame = frame_of(sine(0), starts=5)
        result = job(toy_weights, tmp_path, frame)
        facts = open_artifact(result.out_dir).manifest["judged_until"]
        end = split(
            frame, context_length=int(result.resolved["context_length"]), prediction_length=HORIZON, patch_length=4
        )
        assert first_unseen(facts, frame).tolist() == end.block(Block.CALIBRATION)[1].tolist()
        moved = frame_of(sine(0), starts=0)
        assert first_unseen(facts, moved).tolist() == [first_unseen(facts, frame)[0] + 5]

    def test_an_integer_index_is_seen_series_by_series(self) -> None:
        frame = dataclasses.replace(frame_of(sine(0), sine(1)), freq="1", starts=np.array([0, 100]))
        facts = {"latest": None, "items": {"s0": 50}}
        assert first_unseen(facts, frame).tolist() == [50, 0]
