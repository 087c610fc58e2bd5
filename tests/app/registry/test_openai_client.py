"""The official `openai` client, unchanged, on the registry and on forecasts."""

import pytest
from openai import NotFoundError, OpenAI

from tests.app.registry.conftest import Register


def test_models_are_listed_read_asked_and_deleted(openai: OpenAI, registered: Register) -> None:
    name = registered().name
    listed = [model.id for model in openai.models.list()]
    assert listed[0] == name
    assert "naive" in listed
    model = openai.models.retrieve(name)
    assert (model.id, model.object, model.owned_by) == (name, "model", "local")
    answer = openai.post("/forecast", cast_to=object, body={"model": name, "series": [{"target": [1, 2, 3]}]})
    assert isinstance(answer, dict)
    assert answer["model"] == name
    deleted = openai.models.delete(name)
    assert deleted.deleted
    with pytest.raises(NotFoundError) as caught:
        openai.models.retrieve(name)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "name")
    assert caught.value.request_id
