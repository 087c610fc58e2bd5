"""Backbones published without a forecasting head: one is drawn for the horizon, trained, stored and found again."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from tests import toy
from tsfm import catalog, finetune
from tsfm.backbones import build, fitted
from tsfm.backbones.base import Backbone, Batch, Prediction
from tsfm.backbones.weights import tensors_of
from tsfm.errors import ConfigError
from tsfm.finetune import FinetuneRequest, FinetuneResult
from tsfm.measure import measure
from tsfm.methods.sff import smooth, twin_of
from tsfm.request import resolve
from tsfm.tasks.forecast import BackboneSource, Forecaster

STEPS, TOKENS, WIDTH = 32, 4, 4
HORIZON = 20
"""More than one pass of the published network (16)."""
FAST = {"learning_rate": 1e-2, "max_epochs": 1, "batch_size": 64, "evaluations_per_epoch": 1}


class Headless(Backbone):
    """The toy's body alone: the last value goes on as it is, until `fit_to` draws a linear over the hidden state."""

    lora_targets: ClassVar[str] = r"^body\.0$"
    head_name: ClassVar[str] = "output"
    head_linear: ClassVar[str | None] = "output"

    def __init__(self, horizon: int | None) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"horizon": horizon}
        self.body = nn.Sequential(nn.Linear(STEPS, TOKENS * WIDTH), nn.Tanh())
        if horizon is not None:
            self._draw(horizon)

    def _draw(self, horizon: int) -> None:
        self.output = nn.Linear(TOKENS * WIDTH, horizon)
        self.fresh_parameters = frozenset({"output.weight", "output.bias"})
        self.head_is_random = True

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, seed: int) -> Self:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config["horizon"])

    def fit_to(self, prediction_length: int, *, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._draw(prediction_length)
        self.config = {"horizon": prediction_length}

    def head_shape(self) -> tuple[int, int]:
        return TOKENS, WIDTH

    def predict(self, context: Tensor, prediction_length: int) -> Prediction:
        x = torch.nan_to_num(context[:, -STEPS:])
        x = nn.functional.pad(x, (STEPS - x.shape[1], 0))
        point = x[:, -1:].expand(-1, prediction_length)
        if self.head_is_random:
            point = point + self.output(self.body(x))[:, :prediction_length]
        return Prediction(point=point, point_kind="mean", quantiles=None, levels=())

    def loss(self, batch: Batch) -> Tensor:
        error = torch.nan_to_num(batch.target) - self.predict(batch.context, batch.target.shape[1]).point
        return (error.square() * ~batch.target.isnan()).mean()


@pytest.fixture
def weights_dir(tmp_path: Path) -> Iterator[Path]:
    """Lists "headless" in the catalogue and answers the folder that holds its weights."""
    folder = tmp_path / "weights" / "headless"
    folder.mkdir(parents=True)
    weights = save(tensors_of(Headless.from_config({"horizon": None}, seed=1)))
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text(json.dumps({"horizon": None}))
    catalog.BACKBONES["headless"] = dataclasses.replace(
        toy.spec(hashlib.sha256(weights).hexdigest()),
        name="headless",
        implementation=f"{__name__}:Headless",
        quantile_levels=(),
        replaceable_head=True,
        random_head=True,
    )
    yield folder.parent
    del catalog.BACKBONES["headless"]


def asked(method: str | dict[str, Any], **more: Any) -> FinetuneRequest:
    settings = {} if method == "zero_shot" else {"hyperparameters": FAST}
    return FinetuneRequest.from_mapping(
        {"backbone": "headless", "method": method, "prediction_length": HORIZON, "seed": 5, **settings, **more}
    )


def run(request: FinetuneRequest, weights_dir: Path, out: Path) -> FinetuneResult:
    return finetune.run(
        request,
        toy.frame(num_series=2),
        weights_dir=weights_dir,
        state_dir=out / "state",
        out_dir=out / "artifact",
        report=lambda progress: None,
        should_stop=lambda: None,
    )


@pytest.mark.parametrize(
    "method",
    ["linear_probe", "full", "lp_full", "sff", "lora", "adalora", "trace", {"type": "trace", "head": "H1"}],
    ids=str,
)
def test_what_is_opened_is_what_was_trained(
    weights_dir: Path, tmp_path: Path, method: str | dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Backbone] = []
    write = finetune._Job.write

    def watched(self: Any, outcome: Any, *args: Any, **more: Any) -> Any:
        trained.append(outcome.model)
        return write(self, outcome, *args, **more)

    monkeypatch.setattr(finetune._Job, "write", watched)
    result = run(asked(method), weights_dir, tmp_path)
    assert result.manifest["backbone"]["config"] == {"horizon": HORIZON}
    opened = Forecaster.open(result.out_dir, digest=result.digest, weights_dir=weights_dir)
    assert isinstance(opened._source, BackboneSource)
    windows = torch.randn(3, STEPS, generator=torch.Generator().manual_seed(0))
    found = opened._source.model.predict(windows, HORIZON).point
    torch.testing.assert_close(found, trained[0].eval().predict(windows, HORIZON).point, rtol=1e-5, atol=1e-5)
    assert opened._source.block_length == HORIZON, "the head has the whole horizon"
    told = f"base.fit_to({HORIZON}, seed=5)" in (result.out_dir / "README.md").read_text()
    assert told == (result.manifest["weights"]["kind"] == "adapter")
    assert opened.predict(toy.frame(), HORIZON).point.shape == (3, HORIZON)


def test_zero_shot_stays_as_it_was_published(weights_dir: Path, tmp_path: Path) -> None:
    result = run(asked("zero_shot"), weights_dir, tmp_path)
    assert result.manifest["backbone"]["config"] == {"horizon": None}
    last = Forecaster.zero_shot("headless", weights_dir=weights_dir).predict(toy.frame(), HORIZON).point
    assert (last == last[:, :1]).all()


def test_the_head_is_the_same_in_both_models_of_sff_and_drawn_by_the_job_s_seed(weights_dir: Path) -> None:
    spec = catalog.backbone("headless")

    def drawn(seed: int) -> Backbone:
        model = build(spec, {"horizon": None}, seed=1)
        return fitted(model, spec, {"prediction_length": HORIZON, "seed": seed})

    one, again, other = drawn(5), drawn(5), drawn(6)
    assert torch.equal(one.get_parameter("output.weight"), again.get_parameter("output.weight"))
    assert not torch.equal(one.get_parameter("output.weight"), other.get_parameter("output.weight"))
    assert twin_of(one, seed=3).config == {"horizon": HORIZON}
    mixed = smooth(one, alpha=0.0, twin_seed=3)
    assert torch.equal(mixed.get_parameter("output.weight"), again.get_parameter("output.weight"))
    assert not torch.equal(mixed.get_parameter("body.0.weight"), again.get_parameter("body.0.weight"))


def test_auto_measures_and_landscapes_know_the_head(weights_dir: Path, tmp_path: Path) -> None:
    request = asked({"type": "auto", "methods": ["linear_probe", "full"]}, hyperparameters={**FAST, "max_epochs": 3})
    result = run(request, weights_dir, tmp_path / "a")
    reference = next(row for row in result.search if row["method"] == "zero_shot")
    candidate = next(c for c in result.candidates if c["name"] == "zero_shot")
    assert reference["validation"] == pytest.approx(candidate["validation"]["mase"])
    traced = run(asked("trace", landscape={"windows": 8}), weights_dir, tmp_path / "b")
    assert traced.landscape is not None
    assert list(traced.landscape["points"]) == ["pretrained", "tuned"]
    found = measure(
        asked("linear_probe"),
        toy.frame(num_series=2),
        weights_dir=weights_dir,
        work_dir=tmp_path,
        should_stop=lambda: None,
    )
    assert found.trainable_parameters == HORIZON * (TOKENS * WIDTH + 1)


@pytest.mark.parametrize(
    ("name", "head", "instead"),
    [
        ("lora", "keep", '"train"'),
        ("adalora", "lora", '"train"'),
        ("trace", "keep", "H4"),
        ("trace", "lora", "H4"),
        ("trace", "svd-8", "H4"),
    ],
)
def test_keeping_a_head_that_nobody_trained_is_refused(weights_dir: Path, name: str, head: str, instead: str) -> None:
    with pytest.raises(ConfigError, match="without a forecasting head") as caught:
        asked({"type": name, "head": head})
    assert (caught.value.param, caught.value.code) == ("method.head", "unsupported_method")
    assert instead in caught.value.message
    resolved = resolve(asked(name), {"freq": "h", "max_length": 240})
    assert resolved["method_config"]["head"] == "auto"
