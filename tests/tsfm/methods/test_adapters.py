"""Adapters: attached without a change, exported as PEFT folders that stock peft and we open alike, resumed exactly."""

import dataclasses
import json
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save

from tests import toy
from tests.toy import CONFIG, Toy
from tests.tsfm import test_train as loop
from tests.tsfm.test_train import SETTINGS, WINDOWS, same, stage
from tsfm import catalog, methods
from tsfm.adapter_files import HEAD_WEIGHTS, open_network
from tsfm.artifact import Artifact, open_artifact, write_artifact
from tsfm.backbones import weights
from tsfm.backbones.base import Backbone, Batch
from tsfm.backbones.weights import Base, tensors_of
from tsfm.configs import AdaLoRAConfig, LoRAConfig, LPFullConfig
from tsfm.errors import ArtifactError, Cancelled, ConfigError, WeightsError
from tsfm.methods.adalora import AdaLoRA
from tsfm.methods.adapters import attach, body_targets, capped_rank, head_targets
from tsfm.methods.base import Method
from tsfm.methods.lora import LoRA
from tsfm.methods.lp_full import LPFull
from tsfm.train import Position, Stage, Validation, learning_rate_at

ADAPTERS = ["body.0", "body.3", "output"]
HEAD = {"output.weight", "output.bias"}


def pretrained() -> Toy:
    return Toy.from_config(CONFIG, seed=1)


def batch() -> Batch:
    cut = WINDOWS.batch(range(24))
    return Batch(context=torch.from_numpy(cut.context), target=torch.from_numpy(cut.target))


def measured(model: Backbone) -> Validation:
    with torch.inference_mode():
        error = float(model.loss(batch()))
    return Validation(error=error, metrics={"mase": error})


def run(the_stage: Stage, **options: Any) -> tuple[Position, dict[str, torch.Tensor]]:
    return loop.run(the_stage, **{"model": pretrained(), "validate": measured, **options})


def base() -> Base:
    """What the adapters here were trained on."""
    return Base(spec=toy.spec("0" * 64), digest="sha256:" + "0" * 64, fresh=pretrained)


def created(name: str, **options: Any) -> Method:
    return methods.create(name, catalog.method(name).config(**options))


def trained(name: str, path: Path, **options: Any) -> tuple[Method, Backbone]:
    """A method and its network after a short run."""
    method = created(name, **options)
    model = pretrained()
    run(stage(path, dataclasses.replace(SETTINGS, learning_rate=0.03)), model=model, method=method)
    return method, model


def written(method: Method, model: Backbone, path: Path) -> Artifact:
    spec = toy.spec("0" * 64)
    made = method.export(model, spec)
    assert made.kind == "adapter"
    weights = {"kind": made.kind, "backbone_digest": f"sha256:{spec.sha256}", **made.facts}
    write_artifact(path, made.files, {"weights": weights, "prediction_length": 6, "seed": 0}, "")
    return open_artifact(path)


class TestAttach:
    def test_it_changes_no_forecast_and_draws_from_its_own_seed(self) -> None:
        model, again, other = pretrained().eval(), pretrained().eval(), pretrained().eval()
        before = model.predict(batch().context, 6).point
        state = torch.get_rng_state()
        modules = attach(model, targets=body_targets(model), rank=4, alpha=8, dropout=0.1, seed=3)
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(model.predict(batch().context, 6).point, before)
        one = attach(again, targets=body_targets(again), rank=4, alpha=8, dropout=0.1, seed=3)
        two = attach(other, targets=body_targets(other), rank=4, alpha=8, dropout=0.1, seed=4)
        assert torch.equal(modules[0].lora_A.weight, one[0].lora_A.weight)
        assert not torch.equal(modules[0].lora_A.weight, two[0].lora_A.weight)

    def test_a_small_linear_gets_a_smaller_rank_and_the_same_scaling(self) -> None:
        model = pretrained()
        modules = attach(model, targets=body_targets(model) + head_targets(model), rank=8, alpha=16, dropout=0.0)
        # min(8, in*out / (2*(in+out))): 64x16, 16x16 and 16x48.
        assert [(m.name, m.rank) for m in modules] == [("body.0", 6), ("body.3", 4), ("output", 6)]
        assert {m.scaling for m in modules} == {2.0}
        assert [m.layer.scaling for m in modules] == [{"default": 2.0}] * 3
        assert sum(m.num_parameters for m in modules) == 6 * (64 + 16) + 4 * 32 + 6 * 64

    def test_a_linear_too_small_for_rank_one_is_left_and_none_at_all_is_an_error(self) -> None:
        assert capped_rank(8, torch.nn.Linear(2, 500)) == 0
        with pytest.raises(ConfigError, match="no linear"):
            attach(pretrained(), targets=[], rank=8, alpha=16, dropout=0.1)

    @pytest.mark.parametrize("name", ["lora", "adalora"])
    @pytest.mark.parametrize(
        ("head", "adapted", "whole"),
        [("keep", ADAPTERS[:2], set()), ("lora", ADAPTERS, set()), ("train", ADAPTERS[:2], HEAD)],
    )
    def test_each_head_mode_trains_what_it_says(
        self, name: str, head: Any, adapted: list[str], whole: set[str]
    ) -> None:
        method = LoRA(LoRAConfig(head=head)) if name == "lora" else AdaLoRA(AdaLoRAConfig(head=head))
        names = {n for n, _ in method.trainable_parameters(method.prepare(pretrained()))}
        parts = ("lora_A", "lora_B") if name == "lora" else ("lora_A", "lora_B", "lora_E")
        suffix = ".weight" if name == "lora" else ""
        assert names == {f"{module}.{part}.default{suffix}" for module in adapted for part in parts} | whole

    def test_the_default_trains_a_head_that_no_checkpoint_holds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        method = LoRA(LoRAConfig())
        names = {n for n, _ in method.trainable_parameters(method.prepare(pretrained()))}
        assert (method.head, names & HEAD) == ("lora", set())
        monkeypatch.setattr(Toy, "head_is_random", True)
        names = {n for n, _ in method.trainable_parameters(method.prepare(pretrained()))}
        assert (method.head, names & HEAD) == ("train", HEAD)


@pytest.mark.parametrize("options", [{}, {"head": "train"}], ids=["adapted head", "trained head"])
@pytest.mark.parametrize("name", ["lora", "adalora"])
def test_we_and_stock_peft_open_the_folder_and_forecast_what_was_trained(
    tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    method, model = trained(name, tmp_path, **options)
    expected = model.predict(batch().context, 6)
    assert not torch.allclose(expected.point, pretrained().eval().predict(batch().context, 6).point, atol=1e-3)
    artifact = written(method, model, tmp_path / "a")
    ours = open_network(artifact, toy.spec("0" * 64), base).eval()
    torch.testing.assert_close(ours.predict(batch().context, 6).quantiles, expected.quantiles, rtol=1e-5, atol=1e-5)
    assert ours.again.weight is not ours.body[3].weight, (
        "the tied layer was not adapted and keeps the pretrained tensor"
    )
    assert torch.equal(ours.again.weight, pretrained().again.weight)
    assert set(dict(ours.named_modules())) == set(dict(pretrained().named_modules()))

    plain = pretrained()
    if (artifact.path / HEAD_WEIGHTS).is_file():
        plain.load_state_dict(load_file(artifact.path / HEAD_WEIGHTS), strict=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        theirs = PeftModel.from_pretrained(plain, str(artifact.path)).eval()
    torch.testing.assert_close(theirs.predict(batch().context, 6).quantiles, expected.quantiles, rtol=1e-5, atol=1e-5)
    stored = load_file(artifact.path / "adapter_model.safetensors")
    counted = sum(t.numel() for t in stored.values())
    if options:
        counted += sum(t.numel() for t in load_file(artifact.path / HEAD_WEIGHTS).values())
    assert method.num_trainable_parameters(model) == counted


class TestOpening:
    @pytest.fixture
    def artifact(self, tmp_path: Path) -> Artifact:
        method = LoRA(LoRAConfig())
        return written(method, method.prepare(pretrained()), tmp_path / "a")

    def test_missing_base_weights_are_said(self, artifact: Artifact, tmp_path: Path) -> None:
        spec = toy.spec("0" * 64)
        with pytest.raises(WeightsError, match=r"toy.*not on this machine"):
            open_network(artifact, spec, lambda: weights.pretrained(spec, weights_dir=tmp_path))

    def test_other_base_weights_are_refused(self, artifact: Artifact) -> None:
        other = dataclasses.replace(base(), digest="sha256:" + "1" * 64)
        with pytest.raises(WeightsError, match="trained on the weights") as caught:
            open_network(artifact, other.spec, lambda: other)
        assert caught.value.code == "weights_digest_mismatch"

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"body.0.lora_A": (6, 63)}, "another shape"),
            ({"body.9.lora_A": (1, 64), "body.9.lora_B": (16, 1)}, r"no linear body\.9"),
            ({"body.1.lora_A": (1, 64)}, "one half"),
        ],
    )
    def test_what_does_not_fit_is_refused(
        self, artifact: Artifact, change: dict[str, tuple[int, int]], message: str
    ) -> None:
        path = artifact.path / "adapter_model.safetensors"
        tensors = load_file(path)
        tensors |= {f"base_model.model.{name}.weight": torch.zeros(*shape) for name, shape in change.items()}
        path.write_bytes(save(tensors))
        with pytest.raises(ArtifactError, match=message):
            open_network(open_artifact(artifact.path), toy.spec("0" * 64), base)

    def test_the_config_names_exactly_the_modules_held(self, artifact: Artifact) -> None:
        config = json.loads((artifact.path / "adapter_config.json").read_bytes())
        assert config["target_modules"] == r"^(body\.0|body\.3|output)$"
        assert config["rank_pattern"] == {r"^body\.0$": 6, r"^body\.3$": 4, r"^output$": 6}
        assert config["alpha_pattern"] == {r"^body\.0$": 12, r"^body\.3$": 8, r"^output$": 12}
        assert (config["r"], config["lora_alpha"], config["task_type"], config["inference_mode"]) == (8, 16, None, True)
        assert config["base_model_name_or_path"] == "toy"


class TestAdaLoRA:
    def test_the_ranks_come_down_to_the_budget_and_stay(self, tmp_path: Path) -> None:
        method, model = trained("adalora", tmp_path, initial_rank=6, target_rank=4, interval_steps=2)
        facts = method.facts(model)
        assert facts["rank_total"] == sum(facts["ranks"].values()) == 4 * len(ADAPTERS)
        assert facts["peak_trainable_parameters"] > method.num_trainable_parameters(model)

    def test_only_settled_ranks_may_be_kept(self) -> None:
        method = AdaLoRA(AdaLoRAConfig(warm_up_share=0.1, final_share=0.5))
        assert method.allocation(100) == (10, 50)
        assert [method.eligible(step, 100) for step in (49, 50, 100)] == [False, True, True]
        assert method.eligible(1, 2), "a run of two steps has no time to allocate"

    @pytest.mark.parametrize("total_steps", [1, 2, 3, 4, 7])
    def test_runs_of_a_few_steps_end(self, tmp_path: Path, total_steps: int) -> None:
        method = AdaLoRA(AdaLoRAConfig())
        at, _ = run(stage(tmp_path, total_steps=total_steps), method=method)
        assert (at.stopped, at.step) == ("completed", total_steps)

    def test_orthogonality_pulls_but_is_not_reported(self) -> None:
        method = AdaLoRA(AdaLoRAConfig(orthogonality=1.0, dropout=0.0))
        model = method.prepare(Toy.from_config({**CONFIG, "dropout": 0.0}, seed=1))
        plain = Toy.from_config({**CONFIG, "dropout": 0.0}, seed=1)
        loss = method.gradients(model, batch(), weight=1.0, precision=nullcontext())
        assert float(loss) == pytest.approx(float(plain.loss(batch()).detach()), rel=1e-6)
        # E is zero, so the loss itself does not move A yet.
        assert float(dict(model.named_parameters())["body.0.lora_A.default"].grad.abs().sum()) > 0


class TestLPFull:
    def test_the_head_alone_moves_first_and_then_everything(self, tmp_path: Path) -> None:
        seen: list[dict[str, torch.Tensor]] = []

        def validate(model: Backbone) -> Validation:
            seen.append({n: t.clone() for n, t in tensors_of(model).items()})
            return measured(model)

        config = dataclasses.replace(SETTINGS, evaluations_per_epoch=7)
        the_stage = stage(tmp_path, config)
        method = LPFull(LPFullConfig(probe_share=0.5))
        at, _ = run(the_stage, method=method, validate=validate)
        total = the_stage.total_steps
        steps = [row["step"] for row in at.history]
        middle = steps.index(method.probe_steps(total))
        first, last = seen[0], seen[-1]
        changed = {name for name in first if not torch.equal(first[name], seen[middle][name])}
        assert changed == HEAD
        assert {name for name in first if not torch.equal(first[name], last[name])} > HEAD
        assert at.best_step > total // 2

    def test_each_phase_has_a_schedule_of_its_own(self) -> None:
        method = LPFull(LPFullConfig(probe_share=0.25))
        rates = []
        for step in range(40):
            place, length = method.schedule(step, 40)
            rates.append(learning_rate_at(place, config=SETTINGS, total_steps=length))
        alone = [[learning_rate_at(s, config=SETTINGS, total_steps=n) for s in range(n)] for n in (10, 30)]
        assert rates == alone[0] + alone[1]

    def test_a_new_head_is_drawn_when_asked(self) -> None:
        before = {n: t.clone() for n, t in tensors_of(pretrained()).items()}
        after = tensors_of(LPFull(LPFullConfig(reinit_head=True)).prepare(pretrained()))
        assert {name for name in before if not torch.equal(before[name], after[name])} == HEAD


@pytest.mark.parametrize(
    ("name", "options"),
    [("lora", {}), ("lora", {"head": "train"}), ("adalora", {"interval_steps": 2}), ("lp_full", {})],
    ids=["lora", "lora with a trained head", "adalora", "lp_full"],
)
def test_a_run_stopped_anywhere_continues_to_the_same_weights(
    tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    def fresh() -> Method:
        return created(name, **options)

    _, unbroken = run(stage(tmp_path / "a"), method=fresh())
    total = stage(tmp_path).total_steps
    for at_call in (2, total // 2 + 2, total):
        calls = iter(range(10_000))
        with pytest.raises(Cancelled):
            run(
                stage(tmp_path / str(at_call)),
                method=fresh(),
                should_stop=lambda calls=calls, n=at_call: "paused" if next(calls) >= n else None,
            )
        _, continued = run(stage(tmp_path / str(at_call)), method=fresh())
        assert same(unbroken, continued)
    _, other = run(stage(tmp_path / "b", dataclasses.replace(SETTINGS, seed=4)), method=fresh())
    assert not same(unbroken, other)
