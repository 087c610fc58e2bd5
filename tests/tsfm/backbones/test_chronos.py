"""Chronos: what is particular to it. The contract is in test_contract.py, equality with its package in tests/parity."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.architecture.repo import ROOT
from tsfm import catalog
from tsfm.backbones import implementation, shelf
from tsfm.backbones.base import Batch
from tsfm.backbones.chronos_2 import Chronos2
from tsfm.backbones.chronos_bolt import ChronosBolt
from tsfm.backbones.chronos_parts import Scale, empirical_quantiles
from tsfm.backbones.chronos_t5 import ChronosT5
from tsfm.backbones.shelf import Consent
from tsfm.backbones.weights import load_backbone
from tsfm.errors import ConfigError

SMALL = ChronosBolt.shrunk(ChronosBolt.configs["chronos-bolt-tiny"])
NAN = torch.nan


def bolt(**changes: object) -> ChronosBolt:
    return ChronosBolt.from_config({**SMALL, **changes}, seed=1).eval()


def rows(count: int, length: int, *, seed: int = 0) -> Tensor:
    return torch.randn(count, length, generator=torch.Generator().manual_seed(seed)).cumsum(1) / 5


class TestImport:
    def test_the_catalogue_loads_no_package_and_a_network_says_nothing(self) -> None:
        """Neither a warning nor a line of the packages' logs reaches our output."""
        script = """
import sys
from tsfm import catalog
import tsfm.backbones
import tsfm.backbones.weights
assert not {"chronos", "transformers"} & set(sys.modules)
from tsfm.backbones import build, implementation
cls = implementation(catalog.backbone("chronos-bolt-tiny"))
model = build("chronos-bolt-tiny", cls.shrunk(cls.configs["chronos-bolt-tiny"]), seed=0)
import torch
model.gradient_checkpointing = True
model.train().predict(torch.randn(2, 100), 70).point.sum().backward()
assert "peft" not in sys.modules
"""
        command = [sys.executable, "-W", "error", "-c", script]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


class TestFiles:
    @pytest.mark.parametrize("name", ["chronos-bolt-tiny", "chronos-t5-tiny"])
    def test_a_file_may_hold_the_embedding_under_each_of_its_names(self, tmp_path: Path, name: str) -> None:
        spec = catalog.backbone(name)
        cls = implementation(spec)
        model = cls.from_config(cls.shrunk(cls.configs[name]), seed=1)
        every = {key: t.contiguous().clone() for key, t in model.state_dict(keep_vars=False).items()}
        assert {"shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"} <= every.keys()
        (tmp_path / "source").mkdir()
        save_file(every, tmp_path / "source" / "model.safetensors")
        (tmp_path / "source" / "config.json").write_text(json.dumps(model.config))
        shelf.add(spec, tmp_path, tmp_path / "source", Consent(by="test"))
        opened = load_backbone(spec, weights_dir=tmp_path)
        assert torch.equal(opened.get_parameter("shared.weight"), model.get_parameter("shared.weight"))


class TestParts:
    def test_quantiles_are_torch_s(self) -> None:
        values, levels = rows(4, 810).reshape(4, 81, 10), torch.tensor([0.0, 0.1, 0.33, 0.5, 0.9, 1.0])
        expected = torch.quantile(values, levels, dim=1).transpose(0, 1)
        torch.testing.assert_close(empirical_quantiles(values, levels), expected)

    def test_scales_of_rows_without_spread_and_without_anything(self) -> None:
        scale = Scale.of(torch.tensor([[NAN, 1.0, 3.0], [2.0, 2.0, NAN], [NAN, NAN, NAN]]))
        assert scale.location.flatten().tolist() == [2.0, 2.0, 0.0]
        assert scale.scale.flatten().tolist() == pytest.approx([1.0, 1e-5, 1.0])


class TestBolt:
    @pytest.mark.parametrize(
        "change",
        [{"feed_forward_proj": "gated-gelu"}, {"input_patch_stride": 8}, {"quantiles": [0.1, 0.9]}],
    )
    def test_variants_that_were_never_published_are_refused(self, change: dict[str, object]) -> None:
        with pytest.raises(ConfigError):
            bolt(**change)

    def test_the_embedding_is_one_tensor_under_three_names(self) -> None:
        model = bolt()
        names = {name for name, p in model.named_parameters(remove_duplicate=False) if p is model.shared.weight}
        assert names == {"shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}

    def test_bands_keep_widening_beyond_one_pass(self) -> None:
        """The next block holds the deciles of nine paths, not of the median's continuation."""
        model = bolt(quantiles=[0.1, 0.5, 0.9])
        x = rows(2, 200)
        said = model.predict(x, 128)
        assert said.quantiles is not None
        assert torch.equal(said.quantiles[..., :64], model.predict(x, 64).quantiles)
        alone = model.predict(torch.cat([x, said.point[:, :64]], dim=1), 64).quantiles
        assert alone is not None
        width = said.quantiles[:, 2, 64:] - said.quantiles[:, 0, 64:]
        assert (width.mean() > (alone[:, 2] - alone[:, 0]).mean()).item()

    def test_many_rows_beyond_one_pass_go_through_in_portions(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model, x = bolt(), rows(5, 60)
        whole = model.predict(x, 100).quantiles
        monkeypatch.setattr("tsfm.backbones.chronos_bolt._ROWS", 7)
        torch.testing.assert_close(model.predict(x, 100).quantiles, whole, rtol=1e-5, atol=1e-5)

    def test_training_makes_no_keys_and_says_the_same(self) -> None:
        """In training the decoder's one token looks at the context in another order of sums (`_to_context`)."""
        model, x, target = bolt(dropout_rate=0.0, num_heads=4), rows(3, 100), rows(3, 64, seed=1)
        x[0, :40] = NAN
        found = {}
        for training in (False, True):
            model.zero_grad()
            loss = model.train(training).loss(Batch(context=x, target=target))
            loss.backward()  # type: ignore[no-untyped-call]
            found[training] = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
            found[training]["loss"] = loss.detach()
        assert found[True].keys() == found[False].keys()
        for name, gradient in found[True].items():
            torch.testing.assert_close(gradient, found[False][name], rtol=1e-4, atol=1e-5, msg=name)

    def test_the_loss_of_a_longer_target_is_that_of_its_first_pass(self) -> None:
        model, x, target = bolt(), rows(3, 100), rows(3, 90, seed=1)
        longer = model.loss(Batch(context=x, target=target))
        assert torch.equal(longer, model.loss(Batch(context=x, target=target[:, :64])))

    def test_lora_targets_are_the_published_size_s(self) -> None:
        """Encoder 4 × 6, decoder 4 × (v and o of itself, four to the encoder, two of the MLP)."""
        with torch.device("meta"):
            model = ChronosBolt.from_config(ChronosBolt.configs["chronos-bolt-tiny"], seed=0)
        found = [name for name, _ in model.named_modules() if re.fullmatch(ChronosBolt.lora_targets, name)]
        assert len(found) == 4 * 6 + 4 * 8

    def test_its_learning_rates_are_its_authors(self) -> None:
        spec = catalog.backbone("chronos-bolt-tiny")
        assert catalog.learning_rate(catalog.method("full"), spec) == 1e-5
        assert catalog.learning_rate(catalog.method("lora"), spec) == pytest.approx(1e-4)


class TestTwo:
    @pytest.mark.parametrize(
        "change",
        [
            {"feed_forward_proj": "gated-gelu"},
            {"output_patch_size": 32},
            {"use_reg_token": False},
            {"quantiles": [0.1, 0.9]},
        ],
    )
    def test_variants_that_were_never_published_are_refused(self, change: dict[str, object]) -> None:
        with pytest.raises(ConfigError):
            Chronos2.from_config({**Chronos2.configs["chronos-2"], **change}, seed=0)

    def test_a_horizon_beyond_one_pass_is_refused(self) -> None:
        model = Chronos2.from_config(Chronos2.shrunk(Chronos2.configs["chronos-2"]), seed=1).eval()
        with pytest.raises(ConfigError, match="between 1 and 1024"):
            model.predict(rows(1, 50), 1025)

    def test_a_group_sees_its_members_and_nobody_else(self) -> None:
        model, x = Chronos2.from_config(Chronos2.shrunk(Chronos2.configs["chronos-2"]), seed=1).eval(), rows(4, 80)
        with torch.no_grad():
            alone = model.standardised(x, 16)[1]
            grouped = model.standardised(x, 16, group_ids=torch.tensor([7, 7, 1, 2]))[1]
        torch.testing.assert_close(grouped[2:], alone[2:], rtol=1e-5, atol=1e-5)
        assert not torch.allclose(grouped[:2], alone[:2], rtol=1e-3)


def t5() -> ChronosT5:
    return ChronosT5.from_config(ChronosT5.shrunk(ChronosT5.configs["chronos-t5-tiny"]), seed=1).eval()


class TestT5:
    @pytest.mark.parametrize(
        "change",
        [
            {"tie_word_embeddings": False},
            {"chronos_config": {"model_type": "causal"}},
            {"chronos_config": {"use_eos_token": False}},
            {"chronos_config": {"top_p": 0.9}},
        ],
    )
    def test_variants_that_were_never_published_are_refused(self, change: dict[str, object]) -> None:
        with pytest.raises(ConfigError):
            ChronosT5.from_config({**ChronosT5.configs["chronos-t5-tiny"], **change}, seed=0)

    def test_a_published_config_is_read_as_it_lies_there(self) -> None:
        sizes = ChronosT5.configs["chronos-t5-tiny"]
        limits = {name: sizes[name] for name in ("low_limit", "high_limit")}
        inner = ("n_tokens", "context_length", "prediction_length", "num_samples", "temperature", "top_k")
        outer = {name: value for name, value in sizes.items() if name not in (*limits, *inner)}
        chronos = {name: sizes[name] for name in inner} | {"tokenizer_kwargs": limits, "model_type": "seq2seq"}
        with torch.device("meta"):
            model = ChronosT5.from_config({**outer, "model_type": "t5", "chronos_config": chronos}, seed=0)
        assert model.config == sizes

    def test_the_head_is_the_embedding(self) -> None:
        model = t5()
        names = {name for name, p in model.named_parameters(remove_duplicate=False) if p is model.shared.weight}
        modules = ("shared", "encoder.embed_tokens", "decoder.embed_tokens", "lm_head")
        assert names == {f"{module}.weight" for module in modules}
        assert model.head_parameter_names() == {"shared.weight"}

    def test_tokens_are_drawn_by_their_probabilities(self) -> None:
        """Among the likeliest alone, special tokens never, and even noise gives even shares."""
        model = t5()
        logits = torch.full((1, 40, 512), -9.0)
        logits[..., 0], logits[..., 1] = 99.0, 99.0
        logits[..., 100], logits[..., 200], logits[..., 300] = 5.0, 5.0 + torch.log(torch.tensor(2.0)), 5.0
        chosen, mean = model._choose(logits, (torch.arange(40) + 0.5) / 40)
        counts = torch.bincount(chosen[0], minlength=512)
        assert [int(counts[token]) for token in (100, 200, 300)] == [10, 20, 10]
        value = model.values(torch.tensor([100, 200, 300]))
        torch.testing.assert_close(mean[0, 0], (value * torch.tensor([0.25, 0.5, 0.25])).sum(), rtol=1e-2, atol=1e-2)

    def test_noise_is_even_at_every_step_and_its_own_for_every_path(self) -> None:
        noise = t5()._noise(30)
        assert torch.equal((noise * 20).floor().sort(dim=0).values, torch.arange(20.0)[:, None].expand(20, 30))
        assert torch.equal(noise, t5()._noise(30))
        assert noise.T.corrcoef().triu(1).abs().max() < 0.8

    def test_the_mean_has_gradients_though_tokens_have_none(self) -> None:
        model = t5()
        model.predict(rows(2, 40), 3).point.square().sum().backward()  # type: ignore[no-untyped-call]
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())

    def test_windows_beyond_one_portion(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model, x = t5(), rows(5, 30)
        whole = model.predict(x, 3)
        monkeypatch.setattr("tsfm.backbones.chronos_t5._WINDOWS", 2)
        torch.testing.assert_close(model.predict(x, 3).quantiles, whole.quantiles, rtol=1e-5, atol=1e-5)
