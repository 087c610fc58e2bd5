"""What a job may ask for, and what is said when it asks for something else."""

import subprocess
import sys
from typing import Any

import pytest

from tsfm import configs
from tsfm.errors import ConfigError, SeriesTooShort, UnknownName
from tsfm.request import HYPERPARAMETERS, FinetuneRequest, method_config, resolve, train_config

READING = {"freq": "h", "max_length": 5000}


def request(**changes: Any) -> FinetuneRequest:
    base = {"backbone": "temper-tiny", "method": "full", "prediction_length": 24}
    return FinetuneRequest.from_mapping({**base, **changes})


class TestFromMapping:
    def test_method_is_a_name_or_an_object(self) -> None:
        assert request(method="sff").method_config == {}
        assert request(method={"type": "sff", "alpha": 0.7}).method_config == {"alpha": 0.7}

    def test_mapping_and_back_is_the_same_request(self) -> None:
        asked = request(method={"type": "sff", "alpha": 0.7}, hyperparameters={"max_epochs": 2}, seed=7)
        assert FinetuneRequest.from_mapping(asked.to_mapping()) == asked

    @pytest.mark.parametrize(
        ("changes", "param", "known"),
        [
            ({"backbone": "timer-xxl"}, "model", "temper-tiny"),
            ({"method": "sgd"}, "method", "linear_probe"),
            ({"method": {"type": "sff", "beta": 1}}, "method.beta", "alpha"),
            ({"hyperparameters": {"lr": 1e-3}}, "hyperparameters.lr", "learning_rate"),
            ({"epochs": 3}, "epochs", "hyperparameters"),
            ({"task": "clustering"}, "task", "forecast"),
        ],
    )
    def test_unknown_names_list_the_known(self, changes: dict[str, Any], param: str, known: str) -> None:
        with pytest.raises(UnknownName) as caught:
            request(**changes)
        assert caught.value.param == param
        assert known in caught.value.details["known"]
        assert known in caught.value.message

    @pytest.mark.parametrize(
        ("changes", "param"),
        [
            ({"prediction_length": 0}, "prediction_length"),
            ({"prediction_length": 100_000}, "prediction_length"),
            ({"prediction_length": "24"}, "prediction_length"),
            ({"prediction_length": True}, "prediction_length"),
            ({"prediction_length": None}, "prediction_length"),
            ({"context_length": 3}, "context_length"),
            ({"context_length": 100_000}, "context_length"),
            ({"seed": -1}, "seed"),
            ({"with_test": "no"}, "with_test"),
            ({"budget_seconds": 0}, "budget.seconds"),
            ({"budget_seconds": float("nan")}, "budget.seconds"),
            ({"method": 3}, "method"),
            ({"method": {"alpha": 0.5}}, "method"),
            ({"method": {"type": "sff", "alpha": 1.5}}, "method.alpha"),
            ({"method": {"type": "sff", "alpha": "most"}}, "method.alpha"),
            ({"method": {"type": "sff", "alpha": True}}, "method.alpha"),
            ({"method": {"type": "sff", "exclude": "head"}}, "method.exclude"),
            ({"method": {"type": "sff", "initialisation": "xavier"}}, "method.initialisation"),
            ({"method": {"type": "full", "alpha": 0.5}}, "method.alpha"),
            ({"method": {"type": "linear_probe", "reinit_head": "yes"}}, "method.reinit_head"),
            ({"hyperparameters": {"batch_size": 2.5}}, "hyperparameters.batch_size"),
            ({"hyperparameters": {"max_epochs": 0}}, "hyperparameters.max_epochs"),
            ({"hyperparameters": {"learning_rate": 2}}, "hyperparameters.learning_rate"),
            ({"hyperparameters": {"learning_rate": [1e-3, 0]}}, "hyperparameters.learning_rate"),
            ({"hyperparameters": {"learning_rate": []}}, "hyperparameters.learning_rate"),
            ({"hyperparameters": {"early_stopping": 1}}, "hyperparameters.early_stopping"),
            ({"hyperparameters": [1]}, "hyperparameters"),
            ({"method": "zero_shot", "hyperparameters": {"max_epochs": 3}}, "hyperparameters"),
            ({"method": "trace", "hyperparameters": {"warmup_fraction": 0.2}}, "method.first_round"),
            ({"method": "auto", "hyperparameters": {"warmup_fraction": 0.2}}, "hyperparameters.warmup_fraction"),
        ],
    )
    def test_wrong_values_name_the_field(self, changes: dict[str, Any], param: str) -> None:
        with pytest.raises(ConfigError) as caught:
            request(**changes)
        assert caught.value.param == param

    def test_auto_without_trace_may_warm_up_as_long_as_it_likes(self) -> None:
        request(method={"type": "auto", "methods": ["full"]}, hyperparameters={"warmup_fraction": 0.2})

    def test_a_task_the_backbone_lacks_says_which_it_has(self, toy_weights: object) -> None:
        with pytest.raises(ConfigError, match="it does: forecast") as caught:
            request(backbone="toy", prediction_length=4, task="imputation")
        assert caught.value.code == "unsupported_task"

    def test_a_method_the_backbone_lacks_says_why(self, toy_weights: object, monkeypatch: pytest.MonkeyPatch) -> None:
        import dataclasses

        from tsfm import catalog

        narrow = dataclasses.replace(
            catalog.BACKBONES["toy"], methods=("full",), unsupported_methods={"sff": "its weights are quantised"}
        )
        monkeypatch.setitem(catalog.BACKBONES, "toy", narrow)
        with pytest.raises(ConfigError, match="its weights are quantised") as caught:
            request(backbone="toy", prediction_length=4, method="sff")
        assert caught.value.code == "unsupported_method"


class TestResolve:
    def test_every_default_is_filled_in(self) -> None:
        resolved = resolve(request(method="sff"), READING)
        assert set(resolved["hyperparameters"]) == set(HYPERPARAMETERS)
        assert resolved["method_config"] == {
            "alpha": 0.9,
            "twin_seed": 0,
            "initialisation": "backbone",
            "exclude": (),
        }
        assert resolved["context_length"] == 512
        assert resolved["freq"] == "h"
        assert None not in resolved["hyperparameters"].values()

    def test_auto_learning_rate_is_three_multiples_of_the_default(self) -> None:
        for asked in ({}, {"learning_rate": "auto", "batch_size": "auto"}):
            found = resolve(request(hyperparameters=asked), READING)["hyperparameters"]
            assert found["learning_rate"] == [1e-4, 3e-4, 9e-4]
            assert found["batch_size"] == configs.TrainConfig().batch_size

    def test_asked_values_are_kept(self) -> None:
        found = resolve(request(hyperparameters={"learning_rate": 0.01, "max_epochs": 3}), READING)["hyperparameters"]
        assert (found["learning_rate"], found["max_epochs"]) == (0.01, 3)
        assert resolve(request(hyperparameters={"learning_rate": [0.01]}), READING)["hyperparameters"][
            "learning_rate"
        ] == (0.01)

    def test_a_resolved_mapping_is_a_request_that_resolves_to_itself(self) -> None:
        once = resolve(request(method="sff", budget_seconds=60), READING)
        again = resolve(FinetuneRequest.from_mapping(once), READING)
        assert again == once
        assert train_config(once, learning_rate=1e-3).learning_rate == 1e-3

    def test_context_shrinks_to_short_histories(self) -> None:
        assert resolve(request(prediction_length=12), {"freq": "MS", "max_length": 144})["context_length"] < 144

    def test_too_short_says_have_and_need(self) -> None:
        with pytest.raises(SeriesTooShort) as caught:
            resolve(request(), {"freq": "h", "max_length": 100})
        assert caught.value.details["have"] == 100
        assert caught.value.details["need"] > 100

    def test_giving_up_the_test_block_needs_less(self) -> None:
        reading = {"freq": "h", "max_length": 150}
        with pytest.raises(SeriesTooShort, match='or give up the test block by "gate": null, which needs'):
            resolve(request(), reading)
        with pytest.raises(SeriesTooShort, match=r"or give more history\.$"):
            resolve(request(), {"freq": "h", "max_length": 60})
        assert resolve(request(with_test=False), reading)["with_test"] is False


def test_method_config_builds_the_frozen_dataclass() -> None:
    assert method_config("sff", {"alpha": "search"}) == configs.SFFConfig(alpha="search")
    assert method_config("sff", {"exclude": ["output"]}).exclude == ("output",)


def test_importing_request_does_not_load_torch() -> None:
    code = "import sys, tsfm.request, tsfm.artifact, tsfm.progress; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
