import dataclasses

import httpx

from tsfm import backbone_table, catalog


def test_every_backbone_rival_and_method_of_the_catalogue_is_listed(client: httpx.Client) -> None:
    answer = client.get("/v1/backbones").json()
    assert [one["id"] for one in answer["data"]] == list(catalog.BACKBONES)
    assert [one["id"] for one in answer["rivals"]] == [*catalog.RIVALS, *catalog.FILL_RIVALS]
    assert [one["id"] for one in answer["methods"]] == list(catalog.METHODS)


def test_a_backbone_says_its_limits_licence_and_methods(client: httpx.Client) -> None:
    spec = catalog.backbone("temper-tiny")
    one = client.get("/v1/backbones/temper-tiny").json()
    assert one["limits"]["max_prediction_length"] == spec.max_prediction_length
    assert (one["licence"], one["digest"]) == (spec.licence, f"sha256:{spec.sha256}")
    assert one["weights_available"] is True
    assert [method["name"] for method in one["methods"]] == list(catalog.METHODS)
    for method in one["methods"]:
        assert method["supported"] == (method["name"] in spec.methods)
        assert (method["reason"] is None) == method["supported"]


def test_method_options_are_the_configs_fields_with_their_texts(client: httpx.Client) -> None:
    methods = {one["id"]: one for one in client.get("/v1/backbones").json()["methods"]}
    for name, spec in catalog.METHODS.items():
        options = methods[name]["options"]
        assert set(options["properties"]) == {field.name for field in dataclasses.fields(spec.config)}
        assert options["additionalProperties"] is False
    assert methods["sff"]["options"]["properties"]["alpha"]["default"] == 0.9
    assert "pretrained" in methods["sff"]["options"]["properties"]["alpha"]["description"]


def test_an_unknown_backbone_is_404(client: httpx.Client) -> None:
    answer = client.get("/v1/backbones/nobody")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "backbone_not_found")
    assert "timer-84m" in answer.json()["error"]["message"], "the names that there are"


def test_each_says_whether_its_weights_are_here_and_what_gets_them(client: httpx.Client) -> None:
    listed = {one["id"]: one for one in client.get("/v1/backbones").json()["data"]}
    assert listed["temper-tiny"]["weights_command"] is None
    absent = [listed[spec.name] for spec in backbone_table.SPECS if spec.name != "temper-tiny"]
    assert {one["weights_available"] for one in absent} == {False}
    for one in absent:
        spec = catalog.backbone(one["id"])
        verb = "add" if spec.pickled else "pull"
        assert one["weights_command"].startswith(f"temper backbones {verb} {spec.name}")
        assert ("--accept-license" in one["weights_command"]) == spec.non_commercial == one["non_commercial"]
        assert one["digest"] == (f"sha256:{spec.sha256}" if spec.sha256 else None)
