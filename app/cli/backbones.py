"""`temper backbones`: the pretrained networks this service can tune."""

from app.cli.options import DEFAULT_HOME, Home, Json, Url, connect
from app.cli.output import print_json, print_table, row, table


def backbones(url: Url = None, home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """List the pretrained networks, their limits, licences and methods."""
    with connect(url, home) as api:
        answer = api.get("/v1/backbones")
    if as_json:
        print_json(answer)
        return
    shown = table("backbone", "parameters>", "context>", "horizon>", "weights", "methods", "licence")
    for one in answer["data"]:
        row(
            shown,
            one["id"],
            f"{one['num_parameters']:,}",
            one["limits"]["context_length"],
            one["limits"]["max_prediction_length"],
            "here" if one["weights_available"] else "absent",
            ", ".join(method["name"] for method in one["methods"] if method["supported"]),
            one["licence"],
        )
    print_table(shown)
