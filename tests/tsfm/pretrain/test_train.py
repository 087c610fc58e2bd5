"""The pretraining run: the schedule, the masks, exact resumption, and what it leaves behind."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tsfm.backbones.tiny import Tiny
from tsfm.errors import ConfigError
from tsfm.pretrain import train
from tsfm.pretrain.train import Plan

TINY = Plan(steps=6, batch_size=4, d_model=32, num_layers=1, num_heads=2, warmup_steps=2)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 64 series instead of 1024, so that the run crosses none and a test takes a second."""
    monkeypatch.setattr(train, "BLOCK_ROWS", 64)


class TestPlan:
    def test_rate_warms_up_stays_and_falls_to_zero(self) -> None:
        plan = Plan(steps=1000, warmup_steps=100, decay_fraction=0.3, learning_rate=1.0)
        assert plan.rate(0) == pytest.approx(0.01)
        assert plan.rate(99) == plan.rate(500) == plan.rate(699) == 1
        assert plan.rate(850) == pytest.approx(0.5)
        assert plan.rate(1000) == 0

    def test_rate_before_the_decay_does_not_depend_on_the_steps(self) -> None:
        assert [Plan(steps=s).rate(700) for s in (2000, 60_000)] == [2e-3, 2e-3]


class TestCut:
    def test_windows_are_whole_patches_within_the_declared_limits(self) -> None:
        series = np.arange(640, dtype=np.float32)[None].repeat(3, 0)
        tails: list[int] = []
        for seed in range(200):
            values, hidden = train.cut(np.random.default_rng(seed), series)
            assert values.shape == hidden.shape
            assert values.shape[1] % train.PATCH == 0
            visible = (~hidden).any(0).nonzero()
            assert int(visible.max()) < 512
            tails.append(values.shape[1] - 1 - int(visible.max()))
        assert max(tails) >= 128
        assert np.mean(np.array(tails) >= 16) > 0.85

    def test_the_generator_decides(self) -> None:
        series = np.random.default_rng(0).standard_normal((2, 640)).astype(np.float32)
        one, two = (train.cut(np.random.default_rng(9), series) for _ in range(2))
        assert torch.equal(one[0], two[0])
        assert torch.equal(one[1], two[1])


class TestRun:
    def test_interrupted_run_ends_with_the_same_weights(self, tmp_path: Path) -> None:
        whole = train.run(TINY, tmp_path / "whole", every=3)
        with pytest.raises(KeyboardInterrupt):
            train.run(TINY, tmp_path / "parts", every=3, report=_stop)
        assert json.loads((tmp_path / "parts" / "state.json").read_text())["step"] == 3
        resumed = train.run(TINY, tmp_path / "parts", every=3)
        for name, weight in whole.model.state_dict().items():
            assert torch.equal(weight, resumed.model.state_dict()[name]), name
            assert torch.equal(whole.ema[name], resumed.ema[name]), name

    def test_published_folder_loads_strictly_and_tells_its_story(self, tmp_path: Path) -> None:
        train.run(replace(TINY, steps=3), tmp_path, every=3)
        config = json.loads((tmp_path / "config.json").read_text())
        model = Tiny.from_config(config, seed=1)
        weights = load_file(tmp_path / "model.safetensors")
        assert {t.dtype for t in weights.values()} == {torch.float16}
        model.load_state_dict(weights, strict=True)
        story = json.loads((tmp_path / "metrics.json").read_text())
        assert story["series_seen"] == 12
        assert story["log"][-1]["step"] == 3

    def test_steps_may_change_before_the_decay_and_nothing_else(self, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            train.run(TINY, tmp_path, every=3, report=_stop)
        assert train.resume(replace(TINY, steps=60), tmp_path).step == 3
        with pytest.raises(ConfigError, match="learning_rate"):
            train.resume(replace(TINY, learning_rate=1e-4), tmp_path)

    def test_global_settings_are_put_back(self, tmp_path: Path) -> None:
        threads = torch.get_num_threads()
        train.run(replace(TINY, steps=1), tmp_path)
        assert torch.get_num_threads() == threads


def _stop(entry: dict[str, object]) -> None:
    raise KeyboardInterrupt
