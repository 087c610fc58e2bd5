"""Chronos against its own package: golden numbers, published names, and the package's classes beside ours."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chronos.chronos import ChronosConfig
from chronos.chronos2 import Chronos2Model, Chronos2Pipeline
from chronos.chronos_bolt import ChronosBoltModelForForecasting, ChronosBoltPipeline
from peft import PeftModel
from torch import Tensor
from torch.nn import functional as F
from transformers import T5ForConditionalGeneration

from tests.parity.golden import GoldenSet, assert_equal, golden_sets
from tests.parity.manifests import assert_published, manifest
from tsfm import catalog, methods
from tsfm.adapter_files import fold
from tsfm.artifact import Artifact, open_artifact, write_artifact
from tsfm.backbones.base import Backbone, Batch
from tsfm.backbones.chronos_2 import Chronos2, Chronos2Config, _alone
from tsfm.backbones.chronos_bolt import BoltConfig, ChronosBolt
from tsfm.backbones.chronos_t5 import ChronosT5
from tsfm.backbones.layers import pinball
from tsfm.backbones.weights import load_tensors, tensors_of
from tsfm.errors import WeightsError

TOLERANCE = {"rtol": 1e-5, "atol": 5e-4}
"""The sets' READMEs: five to ten times the float32 rounding of the reference on values of size 50."""
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
HIDDEN = {"rtol": 1e-5, "atol": 1e-4}
SMALL = ChronosBolt.shrunk(ChronosBolt.configs["chronos-bolt-tiny"])
BOLT, TWO = golden_sets("chronos_bolt"), golden_sets("chronos_2")
ABSENT = "reference numbers are absent (set TEMPER_GOLDEN)"
needs_bolt = pytest.mark.skipif(not BOLT, reason=ABSENT)
needs_two = pytest.mark.skipif(not TWO, reason=ABSENT)


def small() -> ChronosBolt:
    return ChronosBolt.from_config(SMALL, seed=3).eval()


def reference() -> ChronosBoltModelForForecasting:
    """The package's class with the weights of `small`."""
    theirs = ChronosBoltModelForForecasting(BoltConfig.parse(SMALL).package()).eval()
    missing = theirs.load_state_dict(tensors_of(small()), strict=False)
    assert set(missing.missing_keys) == {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    assert not missing.unexpected_keys
    return theirs


def rows(count: int, length: int, *, seed: int = 0) -> Tensor:
    return torch.randn(count, length, generator=torch.Generator().manual_seed(seed)).cumsum(1) / 5


def tuned(method: str, model: Backbone, folder: Path) -> Artifact:
    """An adapter after some large steps."""
    tuner = methods.create(method, catalog.method(method).config())
    network = tuner.prepare(model)
    batch = Batch(context=rows(8, 100), target=rows(8, 64, seed=1))
    tuner.bind(network, [batch], [batch])
    optimizer = torch.optim.AdamW([p for _, p in tuner.trainable_parameters(network)], lr=3e-2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for step in range(1, 5):
            network.train().loss(batch).backward()
            optimizer.step()
            tuner.after_step(network, step=step, total_steps=4)
            optimizer.zero_grad(set_to_none=True)
    made = tuner.export(network.eval(), catalog.backbone("chronos-bolt-tiny"))
    write_artifact(folder, made.files, {"weights": {"kind": made.kind, **made.facts}}, "")
    return open_artifact(folder)


def network(cls: type[Backbone], config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Any:
    model = cls.from_config(config, seed=0).eval()
    load_tensors(model, cls.published_tensors(weights))
    return model.requires_grad_(False)


def arrays(golden: GoldenSet) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in golden.arrays().items()}


@needs_bolt
@pytest.mark.parametrize("golden", BOLT, ids=lambda golden: golden.folder.name)
class TestBolt:
    def model(self, golden: GoldenSet) -> ChronosBolt:
        found = network(ChronosBolt, golden.constructor("weights"), golden.weights("weights"))
        assert isinstance(found, ChronosBolt)
        return found

    @pytest.mark.parametrize("suffix", ["", "_nan"])
    def test_quantiles(self, golden: GoldenSet, suffix: str) -> None:
        """The protocol sorts what the network says."""
        model, x, expected = self.model(golden), arrays(golden), golden.arrays()
        raw = model._quantiles(x[f"x{suffix}"])
        assert_equal(raw, expected[f"quantiles{suffix}"], **TOLERANCE)
        said = model.predict(x[f"x{suffix}"], raw.shape[2])
        assert said.quantiles is not None
        assert torch.equal(said.quantiles, raw.sort(dim=1).values)
        assert said.levels == tuple(golden.constructor("weights")["chronos_config"]["quantiles"])

    def test_what_the_encoder_sees_and_says(self, golden: GoldenSet) -> None:
        model, x, expected = self.model(golden), arrays(golden), golden.arrays()
        found = model.encode(x["x_nan"])
        assert_equal(found.scale.location, expected["loc"], rtol=1e-5, atol=1e-6)
        assert_equal(found.scale.scale, expected["scale"], rtol=1e-5, atol=1e-6)
        assert_equal(found.embedded, expected["input_embeds"], **HIDDEN)
        assert_equal(found.seen.float(), expected["attention_mask"], rtol=0, atol=0)
        assert_equal(found.hidden, expected["encoder_out"], **HIDDEN)

    @pytest.mark.parametrize("suffix", ["", "_nan"])
    def test_the_loss_is_the_package_s_before_its_averages(self, golden: GoldenSet, suffix: str) -> None:
        """Theirs sums over steps and averages over rows; ours averages over observed steps."""
        model, x, expected = self.model(golden), arrays(golden), golden.arrays()
        target = x[f"target{suffix}"]
        observed = int((~target.isnan()).sum())
        ours = model.loss(Batch(context=x["x"], target=target))
        assert_equal(ours * observed / len(target), expected[f"loss{suffix}"], **TOLERANCE)

    def test_a_horizon_beyond_one_pass(self, golden: GoldenSet) -> None:
        model, x, expected = self.model(golden), arrays(golden), golden.arrays()
        said = model.predict(x["x"], expected["long"].shape[2]).quantiles
        assert said is not None
        assert_equal(said, np.sort(expected["long"], axis=1), **TOLERANCE)
        assert torch.equal(said[..., :5], model.predict(x["x"], 5).quantiles)


@needs_two
@pytest.mark.parametrize("golden", TWO, ids=lambda golden: golden.folder.name)
class TestTwo:
    """Groups and values known in advance too, which the protocol does not ask for yet."""

    def model(self, golden: GoldenSet) -> Chronos2:
        found = network(Chronos2, golden.constructor("weights"), golden.weights("weights"))
        assert isinstance(found, Chronos2)
        return found

    def said(self, golden: GoldenSet, context: str, **options: Tensor) -> Tensor:
        """[B, Q, H] in the units of the context, not sorted."""
        model, steps = self.model(golden), golden.arrays()["quantiles_single"].shape[2]
        scale, said = model.standardised(arrays(golden)[context], steps, **options)
        return scale.out_of(said.sinh())

    def test_every_series_alone(self, golden: GoldenSet) -> None:
        x, expected = arrays(golden), golden.arrays()
        assert_equal(self.said(golden, "x"), expected["quantiles_single"], **TOLERANCE)
        found = self.model(golden).predict(x["x"], expected["quantiles_single"].shape[2]).quantiles
        assert found is not None
        assert_equal(found, np.sort(expected["quantiles_single"], axis=1), **TOLERANCE)

    def test_groups_gaps_and_known_futures(self, golden: GoldenSet) -> None:
        x, expected = arrays(golden), golden.arrays()
        ids, future = x["group_ids"], x["future_covariates"]
        assert_equal(self.said(golden, "x", group_ids=ids), expected["quantiles_grouped"], **TOLERANCE)
        assert_equal(self.said(golden, "x_nan", group_ids=ids), expected["quantiles_nan"], **TOLERANCE)
        known = self.said(golden, "x_nan", group_ids=ids, future=future)
        assert_equal(known, expected["quantiles_cov"], **TOLERANCE)
        scale, hidden = self.model(golden).encode(x["x_nan"], known.shape[2], group_ids=ids, future=future)
        assert_equal(scale.location, expected["loc"], rtol=1e-5, atol=1e-6)
        assert_equal(scale.scale, expected["scale"], rtol=1e-5, atol=1e-6)
        assert_equal(hidden, expected["encoder_out"], **HIDDEN)
        assert x["num_output_patches"] * self.model(golden).sizes.input_patch_size == known.shape[2]

    @pytest.mark.parametrize("known", [False, True])
    def test_losses(self, golden: GoldenSet, known: bool) -> None:
        """Theirs: over all steps of the last patch, summed over levels; what was known in advance does not count."""
        model, x, expected = self.model(golden), arrays(golden), golden.arrays()
        steps = int(x["num_output_patches"]) * model.sizes.input_patch_size
        target, options = x["target"], {"group_ids": x["group_ids"]}
        if known:
            options["future"] = x["future_covariates"]
            target = torch.where(x["future_covariates"].isnan(), target, torch.nan)
        context = x["x_nan" if known else "x"]
        scale, said = model.standardised(context, steps, **options)
        wanted = model.normalised(context, F.pad(target, (0, steps - target.shape[1]), value=torch.nan))
        assert_equal(scale.into(target).arcsinh(), wanted[:, : target.shape[1]].numpy(), rtol=0, atol=0)
        lost = pinball(said, wanted, model.levels).mean(dim=2).sum(dim=1).mean()
        assert_equal(lost, expected["loss_cov" if known else "loss"], **TOLERANCE)


class TestPublishedTwo:
    def test_names_shapes_and_counts(self) -> None:
        published = manifest("chronos-2")
        assert_published(published, Chronos2, Chronos2.configs["chronos-2"])
        assert Chronos2Config.parse(published.constructor).plain() == Chronos2.configs["chronos-2"]


class TestPublishedBolt:
    def test_names_shapes_and_counts(self) -> None:
        published = manifest("chronos-bolt-tiny")
        assert_published(published, ChronosBolt, ChronosBolt.configs["chronos-bolt-tiny"])
        assert BoltConfig.parse(published.constructor).plain() == ChronosBolt.configs["chronos-bolt-tiny"]

    @pytest.mark.parametrize("name", ["shared.weight", "encoder.embed_tokens.weight"])
    def test_whichever_name_of_the_tied_tensor_a_file_holds(self, name: str) -> None:
        model = small()
        tensors = tensors_of(model)
        stored = {name if key == "shared.weight" else key: t for key, t in tensors.items()}
        load_tensors(small(), ChronosBolt.published_tensors(stored))
        twice = stored | {"decoder.embed_tokens.weight": tensors["shared.weight"] + 1}
        with pytest.raises(WeightsError, match="one tensor"):
            ChronosBolt.published_tensors(twice)


class TestPackage:
    """The package's own class and pipeline with the same random weights."""

    def test_horizons_and_losses_of_long_batches(self) -> None:
        model, theirs = small(), reference()
        x = rows(5, 400)
        pipeline = ChronosBoltPipeline(theirs)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # "We recommend keeping prediction length <= 64"
            expected = pipeline.predict(x, prediction_length=150)
            said = model.predict(x, 150).quantiles
        assert said is not None
        torch.testing.assert_close(said, expected.sort(dim=1).values, **CLOSE)

    def test_gradients_of_the_loss(self) -> None:
        model, theirs = small(), reference()
        x, target = rows(3, 100), rows(3, 64, seed=1)
        model.loss(Batch(context=x, target=target)).backward()  # type: ignore[no-untyped-call]
        (theirs(context=x, target=target.clone()).loss / 64).backward()
        expected = dict(theirs.named_parameters())
        for name, parameter in model.named_parameters():
            if name in model.unused_parameters:
                assert not expected[name].grad.any(), f"{name} does something"
                continue
            torch.testing.assert_close(parameter.grad, expected[name].grad, **CLOSE)

    @pytest.mark.parametrize("method", ["lora", "trace"])
    @pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # peft asks transformers so
    def test_adapters_open_on_the_package_s_class(
        self, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """peft asks networks with tied embeddings where these are; the package's class does not say."""
        adapter = tuned(method, small(), tmp_path)
        expected = fold(small(), adapter).predict(rows(3, 100), 64).quantiles
        monkeypatch.setattr(
            ChronosBoltModelForForecasting, "get_input_embeddings", lambda self: self.shared, raising=False
        )
        opened = PeftModel.from_pretrained(reference(), str(adapter.path)).eval()
        found = opened(context=rows(3, 100)).quantile_preds.sort(dim=1).values
        torch.testing.assert_close(found, expected, **CLOSE)
        before = small().predict(rows(3, 100), 64).quantiles
        assert not torch.allclose(before, found, atol=1e-3), "the adapter changed nothing"


class TestPackageTwo:
    def small(self) -> Chronos2:
        return Chronos2.from_config(Chronos2.shrunk(Chronos2.configs["chronos-2"]), seed=3).eval()

    def reference(self) -> Chronos2Model:
        theirs = Chronos2Model(self.small().sizes.package()).eval()
        theirs.load_state_dict(tensors_of(self.small()), strict=True)
        return theirs

    def test_forecasts_of_the_package_s_pipeline(self) -> None:
        """Rows of one batch, left padding, a last patch that is not whole."""
        x = rows(3, 200)
        x[1, :70] = torch.nan
        expected = Chronos2Pipeline(self.reference()).predict([x[0], x[1, 70:], x[2]], prediction_length=41)
        said = self.small().predict(x, 41).quantiles
        assert said is not None
        torch.testing.assert_close(said, torch.cat(expected).sort(dim=1).values, **CLOSE)

    def test_gradients_of_the_loss(self) -> None:
        model, theirs = self.small(), self.reference()
        x, target = rows(3, 100), rows(3, 48, seed=1)
        model.loss(Batch(context=x, target=target)).backward()  # type: ignore[no-untyped-call]
        (theirs(context=x, future_target=target, num_output_patches=3).loss / 21).backward()
        expected = dict(theirs.named_parameters())
        for name, parameter in model.named_parameters():
            if name in model.unused_parameters:
                assert expected[name].grad.abs().max() < 1e-8, f"{name} does something"
                continue
            torch.testing.assert_close(parameter.grad, expected[name].grad, **CLOSE)

    def test_dropout_drops_as_attention_does(self) -> None:
        """A head of a token's attention to itself is dropped whole, and what stays is scaled up."""
        model = self.small().train()
        attention = model.encoder.block[0].layer[1].self_attention
        attention.o = torch.nn.Identity()
        attention.dropout = 0.5
        x = rows(4 * 50, 16).reshape(4, 50, 16)
        ratio = (_alone(attention, x) / attention.v(x)).reshape(4, 50, attention.n_heads, -1)
        torch.testing.assert_close(ratio, ratio[..., :1].expand_as(ratio), **CLOSE)
        assert set(ratio.round().flatten().tolist()) == {0.0, 2.0}

    @pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # peft asks transformers so
    def test_adapters_open_on_the_package_s_class(self, tmp_path: Path) -> None:
        adapter = tuned("lora", self.small(), tmp_path)
        expected = fold(self.small(), adapter).predict(rows(3, 100), 32).quantiles
        opened = PeftModel.from_pretrained(self.reference(), str(adapter.path)).eval()
        found = opened(context=rows(3, 100), num_output_patches=2).quantile_preds.sort(dim=1).values
        torch.testing.assert_close(found, expected, **CLOSE)
        before = self.small().predict(rows(3, 100), 32).quantiles
        assert not torch.allclose(before, found, atol=1e-3), "the adapter changed nothing"


class TestPackageT5:
    """No golden set holds the first Chronos: its package's tokens and `transformers`' network stand in."""

    def small(self) -> ChronosT5:
        return ChronosT5.from_config(ChronosT5.shrunk(ChronosT5.configs["chronos-t5-tiny"]), seed=3).eval()

    def reference(self) -> T5ForConditionalGeneration:
        theirs = T5ForConditionalGeneration(self.small().sizes.package()).eval()
        missing = theirs.load_state_dict(tensors_of(self.small()), strict=False)
        assert {name.rpartition(".")[0] for name in missing.missing_keys} == {
            "encoder.embed_tokens",
            "decoder.embed_tokens",
            "lm_head",
        }
        return theirs

    def context(self) -> Tensor:
        x = 4 * rows(5, 90)
        x[1, :30] = torch.nan
        x[2, 40:44] = torch.nan
        x[3], x[4] = 0.0, torch.nan
        return x

    def tokenised(self) -> tuple[Any, Tensor, Tensor, Tensor]:
        """The package's tokenizer, and what it makes of the context: tokens, mask, scale."""
        sizes = self.small().sizes
        config = ChronosConfig(
            tokenizer_class="MeanScaleUniformBins",
            tokenizer_kwargs={"low_limit": sizes.low_limit, "high_limit": sizes.high_limit},
            **{name: getattr(sizes, name) for name in ("context_length", "prediction_length", "n_tokens")},
            n_special_tokens=2,
            pad_token_id=0,
            eos_token_id=1,
            use_eos_token=True,
            model_type="seq2seq",
            num_samples=20,
            temperature=1.0,
            top_k=50,
            top_p=1.0,
        )
        tokenizer = config.create_tokenizer()
        return tokenizer, *tokenizer.context_input_transform(self.context())

    def test_tokens_and_values(self) -> None:
        tokenizer, tokens, _, scale = self.tokenised()
        model = self.small()
        ours = model.tokens(self.context(), scale[:, None])
        assert torch.equal(F.pad(ours, (0, 1), value=1), tokens)
        assert torch.equal(model.encode(self.context())[2][:, 0], scale)
        every = torch.arange(model.sizes.n_tokens)[None, None]
        assert torch.equal(model.values(every), tokenizer.output_transform(every, torch.ones(1)))

    def test_the_loss_of_the_network_of_transformers(self) -> None:
        tokenizer, tokens, mask, scale = self.tokenised()
        target = rows(5, 64, seed=1)
        labels, observed, _ = tokenizer._input_transform(target, scale)
        expected = self.reference()(input_ids=tokens, attention_mask=mask, labels=labels).loss
        torch.testing.assert_close(self.small().loss(Batch(context=self.context(), target=target)), expected, **CLOSE)
        target[:, 50:] = torch.nan
        labels[:, 50:] = -100
        expected = self.reference()(input_ids=tokens, attention_mask=mask, labels=labels).loss
        torch.testing.assert_close(self.small().loss(Batch(context=self.context(), target=target)), expected, **CLOSE)
        assert observed.all()

    def test_every_step_of_a_path_is_drawn_from_what_the_whole_decoder_says(self) -> None:
        _, tokens, mask, _ = self.tokenised()
        model, noise = self.small(), self.small()._noise(12)
        with torch.no_grad():
            hidden, seen, _ = model.encode(self.context())
            paths = model.draw(hidden, seen, noise)
            for path in (0, 7):
                before = F.pad(paths.tokens[:, path, :-1], (1, 0), value=0)
                said = self.reference()(input_ids=tokens, attention_mask=mask, decoder_input_ids=before).logits
                for step in range(12):
                    chosen, mean = model._choose(said[:, None, step], noise[path : path + 1, step])
                    assert torch.equal(chosen[:, 0], paths.tokens[:, path, step])
                    torch.testing.assert_close(mean[:, 0], paths.expected[:, path, step], **CLOSE)

    @pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # peft asks transformers so
    @pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings:UserWarning")  # the head alone is adapted
    def test_adapters_open_on_the_class_of_transformers(self, tmp_path: Path) -> None:
        adapter = tuned("lora", self.small(), tmp_path)
        _, tokens, mask, _ = self.tokenised()
        before = torch.randint(3, 500, (5, 6), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            served = fold(self.small(), adapter)
            assert isinstance(served, ChronosT5)
            hidden, seen, _ = served.encode(self.context())
            state = served.decoder(input_ids=before, encoder_hidden_states=hidden, encoder_attention_mask=seen)
            opened = PeftModel.from_pretrained(self.reference(), str(adapter.path)).eval()
            found = opened(input_ids=tokens, attention_mask=mask, decoder_input_ids=before).logits
            torch.testing.assert_close(found, served._logits(state.last_hidden_state), **CLOSE)
            plain = self.reference()(input_ids=tokens, attention_mask=mask, decoder_input_ids=before).logits
        assert not torch.allclose(plain, found, atol=1e-2), "the adapter changed nothing"
