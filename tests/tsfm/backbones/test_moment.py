"""MOMENT: what is particular to it. The contract: test_contract*.py; equality with its authors': tests/parity."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save
from torch import Tensor

from tests import toy
from tsfm import catalog, finetune
from tsfm.adapter_files import HEAD_WEIGHTS
from tsfm.backbones.base import Batch
from tsfm.backbones.moment import MOMENT, position_buckets, sines
from tsfm.backbones.weights import load_backbone, tensors_of
from tsfm.errors import ConfigError
from tsfm.finetune import FinetuneRequest, FinetuneResult
from tsfm.tasks.forecast import BackboneSource, Forecaster

TINY = MOMENT.shrunk(MOMENT.configs["moment-small"])
HORIZON = 24


def network(*, horizon: int | None = None, seed: int = 1) -> MOMENT:
    model = MOMENT.from_config(TINY, seed=seed)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model.patch_embedding.mask_embedding.normal_()
    if horizon is not None:
        model.fit_to(horizon, seed=seed)
    return model.eval().requires_grad_(False)


def rows(count: int = 2, length: int = 512) -> Tensor:
    return torch.randn(count, length, generator=torch.Generator().manual_seed(0)).cumsum(1) / 5


class TestAsPublished:
    def test_the_forecast_is_what_stands_in_the_hidden_patches(self) -> None:
        """The oldest patches make room, and location and scale are still those of the whole window."""
        model, x = network(), rows()
        window = model._window(x)
        by_hand = dataclasses.replace(
            window,
            x=torch.cat([window.x[:, 16:], torch.full((2, 16), 9.9)], dim=1),
            visible=torch.arange(512).expand(2, -1) < 496,
        )
        torch.testing.assert_close(model.predict(x, 11).point, model.answer(by_hand)[:, 496 : 496 + 11])

    def test_a_shorter_horizon_hides_fewer_patches(self) -> None:
        model, x = network(), rows()
        assert torch.equal(model.predict(x, 9).point[:, :8], model.predict(x, 16).point[:, :8])
        assert not torch.allclose(model.predict(x, 8).point, model.predict(x, 16).point[:, :8], atol=1e-4)

    def test_beyond_24_patches_the_forecast_joins_the_context(self) -> None:
        model, x = network(), rows()
        first = model.predict(x, 192).point
        both = model.predict(x, 192 + 40).point
        assert torch.equal(both[:, :192], first)
        again = model.predict(torch.cat([x, first], dim=1), 40).point
        torch.testing.assert_close(both[:, 192:], again)

    def test_its_loss_trains_what_it_forecasts_with(self) -> None:
        model, x = network(), rows()
        said = model.predict(x, 192).point
        batch = Batch(context=x, target=torch.cat([said + 2.0, said[:, :30]], dim=1))
        assert float(model.loss(batch)) == pytest.approx(4.0, rel=1e-4)

    def test_its_head_is_no_candidate_for_a_small_one(self) -> None:
        with pytest.raises(ConfigError):
            network().head_shape()
        assert not network().head_is_random
        assert network().fresh_parameters == frozenset()


class TestFitted:
    def test_the_config_says_the_horizon_and_rebuilds_the_network(self) -> None:
        model = network(horizon=HORIZON)
        again = MOMENT.from_config(json.loads(json.dumps(model.config)), seed=9)
        assert {n: t.shape for n, t in tensors_of(again).items()} == {n: t.shape for n, t in tensors_of(model).items()}
        assert again.fresh_parameters == model.fresh_parameters == {"head.linear.weight", "head.linear.bias"}
        assert again.head_is_random
        assert again.head_parameter_names() == again.fresh_parameters

    def test_the_head_alone_is_new_and_its_seed_s_alone(self) -> None:
        published, before = network(), torch.get_rng_state()
        one, other = network(horizon=HORIZON), network(horizon=HORIZON)
        other.fit_to(HORIZON, seed=5)
        assert torch.equal(torch.get_rng_state(), before)
        assert not other.head.training, "dropout stays as it was"
        for name, t in tensors_of(one).items():
            assert torch.equal(t, tensors_of(other)[name]) == (name not in one.fresh_parameters), name
            assert name in one.fresh_parameters or torch.equal(t, tensors_of(published)[name])
        one.fit_to(7, seed=0)
        assert one.predict(rows(), 7).point.shape == (2, 7)
        assert one.config["horizon"] == 7

    def test_a_shorter_forecast_is_the_beginning_and_a_longer_one_goes_on(self) -> None:
        model, x = network(horizon=HORIZON), rows()
        whole = model.predict(x, HORIZON).point
        assert torch.equal(model.predict(x, 5).point, whole[:, :5])
        torch.testing.assert_close(
            model.predict(x, HORIZON + 3).point[:, HORIZON:],
            model.predict(torch.cat([x, whole], dim=1), 3).point,
        )


class TestMissing:
    def test_of_a_patch_mostly_missing_nothing_is_seen(self) -> None:
        model, x = network(horizon=HORIZON), rows(1)
        x[0, 80:85] = math.nan  # five of the eight points of patch 10
        window = model._window(x)
        assert window.visible[0].view(64, 8).all(1).tolist() == [patch != 10 for patch in range(64)]
        assert window.real.all()

    def test_lesser_gaps_lie_on_a_line_and_move_no_statistic(self) -> None:
        model, x = network(horizon=HORIZON), rows(1)
        line = x.clone()
        line[0, 80:84] = torch.lerp(x[0, 79], x[0, 84], torch.arange(1, 5) / 5)
        x[0, 80:84] = math.nan
        window, filled = model._window(x), model._window(line)
        assert window.visible.all()
        assert window.location[0, 0] == pytest.approx(float(x.nanmean()), rel=1e-5)
        torch.testing.assert_close(
            window.x * window.scale + window.location, filled.x * filled.scale + filled.location, rtol=1e-5, atol=1e-5
        )

    def test_nothing_attends_to_a_patch_with_padding_in_it(self) -> None:
        model, x = network(horizon=HORIZON), rows(1)
        x[0, :43] = math.nan
        window = model._window(x)
        assert window.real[0].view(64, 8).all(1).tolist() == [patch > 5 for patch in range(64)]
        states = model.states(window)
        other = model.states(dataclasses.replace(window, x=torch.where(torch.arange(512) < 48, 3.0, window.x)))
        torch.testing.assert_close(other[:, 6:], states[:, 6:])
        assert not torch.allclose(other[:, :6], states[:, :6], atol=1e-2)

    def test_of_a_window_shorter_than_a_patch_its_one_token_is_all_there_is(self) -> None:
        model = network(horizon=HORIZON)
        window = model._window(torch.tensor([[1.0, 3.0, 2.0, 5.0, 4.0]]))
        seen = window.x[:, -5:]
        other = dataclasses.replace(window, x=torch.where(window.real, window.x, 9.0))
        assert window.visible.all()
        assert torch.equal(model.states(window)[:, -1], model.states(other)[:, -1])
        assert torch.equal(window.x[:, -8:-5], seen[:, :1].expand(1, 3))


def test_positions_are_counted_singly_and_then_by_ever_wider_buckets() -> None:
    """T5's own example of 32 buckets up to 128, forward and backward."""
    buckets = position_buckets(400, num_buckets=32, max_distance=128)
    assert buckets[0, :8].tolist() == [0, 17, 18, 19, 20, 21, 22, 23]
    assert buckets[:8, 0].tolist() == list(range(8))
    assert [int(buckets[d, 0]) for d in (8, 11, 12, 16, 63, 90, 127, 128, 399)] == [8, 8, 9, 10, 13, 14, 15, 15, 15]
    assert torch.equal(buckets[0, 1:], buckets[1:, 0] + 16)
    assert buckets[200, 100:300].tolist() == buckets[150, 50:250].tolist(), "only the distance counts"


def test_sines_tell_tokens_apart() -> None:
    table = sines(64, 16)
    assert torch.equal(table[0], torch.tensor([0.0, 1.0] * 8))
    assert table[5, 0] == pytest.approx(math.sin(5))
    assert table[5, 15] == pytest.approx(math.cos(5 * 10_000 ** (-14 / 16)))


@pytest.mark.parametrize(
    "change",
    [{"patch_stride_len": 4}, {"transformer_type": "encoder_decoder"}, {"t5_config": {"feed_forward_proj": "relu"}}],
    ids=str,
)
def test_what_was_never_published_is_refused(change: dict[str, Any]) -> None:
    config = {"seq_len": 512, "patch_len": 8, "patch_stride_len": 8, "transformer_type": "encoder_only"}
    with pytest.raises(ConfigError):
        MOMENT.from_config({**config, "t5_config": {"feed_forward_proj": "gated-gelu"}, **change}, seed=0)


class TestRuns:
    """Whole runs on a tiny network that lies on the disk as the published ones do."""

    FAST: dict[str, Any] = {
        "learning_rate": 3e-3,
        "max_epochs": 1,
        "max_windows_per_epoch": 64,
        "max_validation_windows": 8,
        "max_test_windows": 8,
        "max_calibration_windows": 8,
        "evaluations_per_epoch": 1,
        "batch_size": 16,
    }

    @pytest.fixture
    def weights_dir(self, tmp_path: Path) -> Iterator[Path]:
        folder = tmp_path / "weights" / "moment-tiny"
        folder.mkdir(parents=True)
        never_loaded = {
            "encoder.embed_tokens.weight": torch.zeros(4, TINY["d_model"]),
            "patch_embedding.position_embedding.pe": torch.zeros(1, 5_000, TINY["d_model"]),
        }
        weights = save({**tensors_of(network()), **never_loaded})
        (folder / "model.safetensors").write_bytes(weights)
        (folder / "config.json").write_text(json.dumps(TINY))
        catalog.BACKBONES["moment-tiny"] = dataclasses.replace(
            catalog.backbone("moment-small"), name="moment-tiny", sha256=hashlib.sha256(weights).hexdigest()
        )
        yield folder.parent
        del catalog.BACKBONES["moment-tiny"]

    def run(self, method: str | dict[str, Any], weights_dir: Path, out: Path) -> FinetuneResult:
        asked = {"backbone": "moment-tiny", "method": method, "prediction_length": HORIZON, "context_length": 128}
        return finetune.run(
            FinetuneRequest.from_mapping({**asked, "hyperparameters": self.FAST}),
            toy.frame(num_series=1, length=600),
            weights_dir=weights_dir,
            state_dir=out / "state",
            out_dir=out / "artifact",
            report=lambda progress: None,
            should_stop=lambda: None,
        )

    def test_full_opens_alone(self, weights_dir: Path, tmp_path: Path) -> None:
        result = self.run("sff", weights_dir, tmp_path)
        assert result.manifest["backbone"]["config"] == {**TINY, "horizon": HORIZON}
        opened = Forecaster.open(result.out_dir, digest=result.digest)
        assert opened.predict(toy.frame(), HORIZON).point.shape == (3, HORIZON)

    def test_trace_leaves_an_adapter_and_a_head_that_stock_peft_opens(self, weights_dir: Path, tmp_path: Path) -> None:
        """`peft` knows the adapter: hidden states agree. The card's recipe puts the head in: so do forecasts."""
        result = self.run({"type": "trace", "rounds": 2, "draws": 2}, weights_dir, tmp_path)
        assert result.manifest["weights"]["head"] == "H4"
        source = Forecaster.open(result.out_dir, digest=result.digest, weights_dir=weights_dir)._source
        assert isinstance(source, BackboneSource)
        served = source.model
        assert isinstance(served, MOMENT)
        with torch.inference_mode():
            window = served._window(rows())
            base = load_backbone(catalog.backbone("moment-tiny"), weights_dir=weights_dir)
            assert isinstance(base, MOMENT)
            before = base.states(window)
            PeftModel.from_pretrained(base, str(result.out_dir))  # puts its layers into `base`
            torch.testing.assert_close(base.eval().states(window), served.states(window), rtol=1e-5, atol=1e-5)
            assert not torch.allclose(before, served.states(window), atol=1e-3), "the adapter changed nothing"
            base.fit_to(HORIZON, seed=0)
            base.load_state_dict(load_file(result.out_dir / HEAD_WEIGHTS), strict=False)
            expected = served.predict(rows(), HORIZON).point
            torch.testing.assert_close(base.eval().predict(rows(), HORIZON).point, expected, rtol=1e-5, atol=1e-5)
