"""What the client asks for in OpenAI's words is what is asked for in ours."""

from typing import Any

import orjson
import pytest

from app.errors import ApiError
from app.faces.openai.request import read_job
from app.jobs.schemas import JobCreate
from tsfm.errors import ConfigError, UnknownName

ASKED = {"model": "temper-tiny", "training_file": "file-1", "prediction_length": 12}


def spec_of(**more: Any) -> JobCreate:
    return read_job(orjson.dumps({**ASKED, **more})).spec


def refusal(**more: Any) -> tuple[int, str, str | None]:
    with pytest.raises(ApiError) as caught:
        spec_of(**more)
    return caught.value.status_code, caught.value.code, caught.value.param


@pytest.mark.parametrize(
    "method",
    [
        {"type": "sff", "sff": {"hyperparameters": {"n_epochs": 3, "batch_size": 8}}},
        {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3, "batch_size": 8}}},
        {"type": "sff", "sff": {"hyperparameters": {"max_epochs": 3, "batch_size": 8, "learning_rate": "auto"}}},
    ],
)
def test_hyperparameters_of_the_method(method: dict[str, Any]) -> None:
    spec = spec_of(method=method)
    assert (spec.method, spec.hyperparameters) == ("sff", {"max_epochs": 3, "batch_size": 8})


def test_the_old_place_of_hyperparameters_and_both_together() -> None:
    old = spec_of(hyperparameters={"n_epochs": 3, "batch_size": "auto", "learning_rate_multiplier": "auto"})
    assert (old.method, old.hyperparameters) == ("sff", {"max_epochs": 3})
    method = {"type": "lora", "lora": {"rank": 4, "hyperparameters": {"n_epochs": 3}}}
    both = spec_of(method=method, hyperparameters={"batch_size": 8, "n_epochs": "auto"})
    assert (both.method, both.hyperparameters) == ({"type": "lora", "rank": 4}, {"batch_size": 8, "max_epochs": 3})


@pytest.mark.parametrize(
    ("method", "rate"), [("sff", 6e-4), ("lora", 2e-3), ({"type": "supervised"}, 6e-4), ({"type": "adalora"}, 6e-3)]
)
def test_the_multiplier_is_of_the_default_of_the_method(method: Any, rate: float) -> None:
    spec = spec_of(method=method, hyperparameters={"learning_rate_multiplier": 2})
    assert spec.hyperparameters == {"learning_rate": rate}


def test_null_is_not_given_where_the_client_sends_it() -> None:
    nothing = dict.fromkeys(
        ("suffix", "seed", "metadata", "method", "hyperparameters", "validation_file", "integrations")
    )
    assert spec_of(**nothing, gate=None) == spec_of(gate=None, integrations=[])


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({"validation_file": "file-2"}, ("unsupported_parameter", "validation_file")),
        ({"integrations": [{"type": "wandb"}]}, ("unsupported_parameter", "integrations")),
        ({"method": {"type": "dpo", "dpo": {}}}, ("unsupported_method", "method")),
        ({"method": "reinforcement"}, ("unsupported_method", "method")),
        ({"method": {"type": "sff", "sff": [1]}}, ("invalid_request", "method.sff")),
        ({"method": {"type": "sff", "alpha": 1, "sff": {"alpha": 1}}}, ("invalid_request", "method.sff.alpha")),
        ({"hyperparameters": [1]}, ("invalid_request", "hyperparameters")),
        ({"hyperparameters": {"n_epochs": 1, "max_epochs": 1}}, ("invalid_request", "hyperparameters.max_epochs")),
        ({"prediction_length": None}, ("missing_field", "prediction_length")),
        *(
            (
                {"hyperparameters": {"learning_rate_multiplier": value}},
                ("invalid_request", "hyperparameters.learning_rate_multiplier"),
            )
            for value in (0, -1, True, "much", [2], 1e9)
        ),
        (
            {"hyperparameters": {"learning_rate_multiplier": 9000}},
            ("invalid_config", "hyperparameters.learning_rate_multiplier"),
        ),
        *(
            (
                {"method": {"type": name, name: {"hyperparameters": {"learning_rate_multiplier": 2}}}},
                ("invalid_config", f"method.{name}.hyperparameters.learning_rate_multiplier"),
            )
            for name in ("auto", "zero_shot")
        ),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_name(fields: dict[str, Any], refused: tuple[str, str]) -> None:
    assert refusal(**fields) == (422, *refused)


def test_a_multiplier_needs_a_method_and_a_backbone_that_exist() -> None:
    twice = {"hyperparameters": {"learning_rate_multiplier": 2}}
    for fields in ({"method": {"alpha": 1}}, {"method": "magic"}, {"model": "gpt"}):
        with pytest.raises(UnknownName):
            spec_of(**{**twice, **fields})


def test_an_error_names_what_the_caller_wrote() -> None:
    asked = read_job(orjson.dumps({**ASKED, "hyperparameters": {"n_epochs": 0}}))
    with pytest.raises(ApiError) as caught, asked.in_its_words():
        raise ConfigError("max_epochs must be between 1 and 1000.", param="hyperparameters.max_epochs")
    assert caught.value.param == "hyperparameters.n_epochs"
    assert caught.value.message == "n_epochs must be between 1 and 1000."
    with pytest.raises(ConfigError), asked.in_its_words():
        raise ConfigError("no", param="hyperparameters.batch_size")
