"""What TRACE leaves: a folder that stock peft opens, heads folded into one linear, fewer parameters; no leaks."""

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from tests import toy
from tests.tsfm.backbones.test_ttm import rows, small
from tests.tsfm.methods.test_adapters import base, batch, pretrained, written
from tests.tsfm.methods.test_trace import Bound, trained
from tests.tsfm.test_finetune import altered, run
from tsfm import catalog
from tsfm.adapter_files import ADAPTER_WEIGHTS, HEAD_WEIGHTS, fold, open_network
from tsfm.artifact import Artifact, open_artifact, write_artifact
from tsfm.backbones import implementation
from tsfm.backbones.base import Batch
from tsfm.backbones.ttm import TTM
from tsfm.configs import TraceConfig
from tsfm.errors import ConfigError
from tsfm.methods.trace import Trace
from tsfm.request import FinetuneRequest, resolve
from tsfm.series.split import Block
from tsfm.tasks.forecast import Forecaster

PUBLISHED = {
    "context_length": 512,
    "prediction_length": 96,
    "patch_length": 64,
    "d_model": 192,
    "num_layers": 2,
    "adaptive_patching_levels": 3,
    "decoder_num_layers": 2,
    "decoder_d_model": 128,
}
"""The sizes of ttm-r2, for counting."""


def test_we_and_stock_peft_open_the_survivors_alone(tmp_path: Path) -> None:
    method = Bound(TraceConfig(keep_ratio=0.67))
    model, _ = trained(tmp_path, method)
    expected = model.predict(batch().context, 6).quantiles
    artifact = written(method, model, tmp_path / "a")
    stored = load_file(artifact.path / ADAPTER_WEIGHTS)
    survivors = {module.name for module, _ in method.gates.survivors()}
    assert {name.removeprefix("base_model.model.").partition(".lora_")[0] for name in stored} == survivors
    assert len(survivors) == 2
    assert sum(t.numel() for t in stored.values()) == method.num_trainable_parameters(model)
    assert any(abs(gate - 1) > 1e-4 for _, gate in method.gates.survivors()), "the gates have moved"

    ours = open_network(artifact, toy.spec("0" * 64), base).eval()
    torch.testing.assert_close(ours.predict(batch().context, 6).quantiles, expected, rtol=1e-5, atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        theirs = PeftModel.from_pretrained(pretrained(), str(artifact.path)).eval()
    torch.testing.assert_close(theirs.predict(batch().context, 6).quantiles, expected, rtol=1e-5, atol=1e-5)


def windows(count: int = 40) -> Batch:
    values = rows(count, 44)
    return Batch(context=values[:, :32], target=values[:, 32:])


def tuned(options: dict[str, Any], *, steps: int = 6) -> tuple[Trace, TTM]:
    """TRACE on the small TTM, by hand."""
    method = Trace(TraceConfig(**options))
    model = method.prepare(small())
    assert isinstance(model, TTM)
    method.bind(model, [windows()], [windows()])
    optimizer = torch.optim.AdamW([p for _, p in method.trainable_parameters(model)], lr=1e-2)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for step in range(1, steps + 1):
            model.train()
            model.loss(windows()).backward()
            optimizer.step()
            method.after_step(model, step=step, total_steps=steps)
            optimizer.zero_grad(set_to_none=True)
    return method, model.eval().requires_grad_(False)


def stored(method: Trace, model: TTM, path: Path) -> Artifact:
    made = method.export(model, catalog.backbone("ttm-r2"))
    write_artifact(path, made.files, {"weights": {"kind": made.kind, **made.facts}}, "")
    return open_artifact(path)


@pytest.mark.parametrize("head", ["lora", "keep", "svd-3", "H1", "H1b-4", "H2-2", "H3-2", "H4-4"])
def test_every_head_is_stored_as_plain_weights(tmp_path: Path, head: str) -> None:
    method, model = tuned({"head": head})
    expected = model.predict(windows().context, 12).point
    assert not torch.allclose(expected, small().predict(windows().context, 12).point, atol=1e-2), "it has learnt"
    artifact = stored(method, model, tmp_path)
    replaced = (artifact.path / HEAD_WEIGHTS).is_file()
    assert replaced == (head not in ("lora", "keep"))
    if replaced:
        shapes = {name: tuple(t.shape) for name, t in load_file(artifact.path / HEAD_WEIGHTS).items()}
        assert shapes == {"head.base_forecast_block.weight": (12, 32), "head.base_forecast_block.bias": (12,)}
    opened = fold(small(), artifact).eval()
    torch.testing.assert_close(opened.predict(windows().context, 12).point, expected, rtol=1e-5, atol=1e-5)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        theirs = PeftModel.from_pretrained(small(), str(artifact.path)).eval()
    decoded = [m.forecast_channels(windows().context.unsqueeze(2)).decoder for m in (model, theirs.base_model.model)]
    torch.testing.assert_close(decoded[0], decoded[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("head", ["svd-12", "H1-8"])
def test_a_new_head_starts_where_the_pretrained_one_was(head: str) -> None:
    """Full rank, or the full width: the forecast before training is the pretrained one."""
    before = small().predict(windows().context, 12).point
    method = Trace(TraceConfig(head=head))
    model = method.prepare(small())
    assert method.num_start_windows == 2_048
    method.bind(model, [windows()], [windows()])
    torch.testing.assert_close(model.eval().predict(windows().context, 12).point, before, rtol=1e-3, atol=1e-3)


def test_a_cheaper_head_starts_near_the_pretrained_one() -> None:
    before = small().predict(windows().context, 12).point
    method = Trace(TraceConfig(head="svd-2"))
    model = method.prepare(small())
    fresh = (model.eval().predict(windows().context, 12).point - before).square().mean()
    method.bind(model, [windows()], [windows()])
    assert (model.predict(windows().context, 12).point - before).square().mean() < 0.2 * fresh


def test_counts_on_ttm_r2() -> None:
    """evaluation.md §7: 16,896 on 48 modules and 2,240 on the head, 97.6 % fewer than full; at half of them fewer."""
    model = TTM.from_config(PUBLISHED, seed=0)
    full = sum(p.numel() for p in model.parameters())
    assert full == catalog.backbone("ttm-r2").num_parameters
    method = Trace(TraceConfig())
    method.prepare(model)
    sizes = {module.name: module.num_parameters for module in method.gates.modules}
    assert sizes.pop("head.base_forecast_block") == 2_240
    assert (len(sizes), sum(sizes.values())) == (48, 16_896)
    assert method.num_trainable_parameters(model) == 19_136 < 0.1 * full
    assert all(re.search(TTM.lora_targets, name) for name in sizes)
    wide = Trace(TraceConfig(head="svd-32"))
    assert wide.num_trainable_parameters(wide.prepare(TTM.from_config(PUBLISHED, seed=0))) < 0.1 * full


class TestRequest:
    def asked(self, method: dict[str, Any], backbone: str = "temper-tiny", **hyperparameters: Any) -> dict[str, Any]:
        request = {"backbone": backbone, "method": {"type": "trace", **method}, "prediction_length": 12}
        reading = {"freq": "h", "max_length": 2_000}
        return resolve(FinetuneRequest.from_mapping({**request, "hyperparameters": hyperparameters}), reading)

    def test_a_head_that_cannot_be_replaced_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="not one linear") as caught:
            self.asked({"head": "H4"})
        assert (caught.value.param, caught.value.code) == ("method.head", "unsupported_method")
        assert self.asked({"head": "keep"})["method_config"]["head"] == "keep"
        assert self.asked({"head": "svd-32"}, "ttm-r2")["method_config"]["head"] == "svd-32"

    def test_nothing_may_be_masked_during_the_warm_up(self) -> None:
        with pytest.raises(ConfigError, match="warm-up") as caught:
            self.asked({}, warmup_fraction=0.3)
        assert caught.value.param == "method.first_round"
        self.asked({"first_round": 0.4}, warmup_fraction=0.3)
        self.asked({"keep_ratio": 1.0}, warmup_fraction=0.3)

    @pytest.mark.parametrize("name", list(catalog.BACKBONES))
    def test_the_catalogue_knows_which_heads_can_be_replaced(self, name: str) -> None:
        spec = catalog.backbone(name)
        assert spec.replaceable_head == (implementation(spec).head_linear is not None)


class TestWholeRuns:
    FAST = {"learning_rate": 1e-2, "max_epochs": 2, "batch_size": 32}

    def adapter(self, out: Path) -> bytes:
        return (out / "artifact" / ADAPTER_WEIGHTS).read_bytes()

    def test_what_comes_after_validation_decides_no_mask(self, toy_weights: Path, tmp_path: Path) -> None:
        asked = {"method": {"type": "trace", "keep_ratio": 0.34}, "hyperparameters": self.FAST}
        one = run(toy_weights, tmp_path / "a", **asked)
        other = run(toy_weights, tmp_path / "b", frame=altered(toy.frame(), Block.VALIDATION), **asked)
        assert one.manifest["training"] == other.manifest["training"]
        assert self.adapter(tmp_path / "a") == self.adapter(tmp_path / "b")

    def test_with_a_fixed_mask_what_comes_after_train_reaches_no_weight(
        self, toy_weights: Path, tmp_path: Path
    ) -> None:
        fixed = {
            "method": {"type": "trace", "selection": "random", "keep_ratio": 0.67},
            "hyperparameters": {**self.FAST, "early_stopping": False},
        }
        one = run(toy_weights, tmp_path / "a", **fixed)
        other = run(toy_weights, tmp_path / "b", frame=altered(toy.frame(), Block.TRAIN), **fixed)
        assert self.adapter(tmp_path / "a") == self.adapter(tmp_path / "b")
        assert one.candidates != other.candidates

    def test_a_run_is_opened_counted_and_timed(self, toy_weights: Path, tmp_path: Path) -> None:
        result = run(toy_weights, tmp_path, method={"type": "trace", "keep_ratio": 0.34})
        facts = result.manifest["training"]["method"]
        assert len(facts["kept"]) == 1
        assert result.num_trainable_parameters < facts["peak_trainable_parameters"]
        assert "selection_seconds" in result.timing
        assert "seconds" not in str(facts), "a clock would change the digest"
        forecaster = Forecaster.open(result.out_dir, digest=result.digest, weights_dir=toy_weights)
        assert forecaster.predict(toy.frame(), 6).point.shape == (3, 6)
