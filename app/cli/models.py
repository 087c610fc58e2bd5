"""`temper models`: fine-tuned models, their versions, and which of them a bare name serves."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.files import save
from app.cli.options import DEFAULT_HOME, Home, Json, Limit, Url, connect
from app.cli.output import moment, print_json, print_table, row, say, table

app = typer.Typer(help="List, promote, download and delete fine-tuned models.", no_args_is_help=True)
VERSIONS_SHOWN = 100
Name = Annotated[str, typer.Argument(metavar="MODEL", help="Name of a fine-tuned model.")]
Version = Annotated[int, typer.Argument(min=1, help="Number of a version.")]
EVERY_MODEL = 10_000
"""More than the catalogue and a tenant's models together; backbones and rivals are listed after the tuned ones."""


@app.command("list")
def list_models(
    everything: Annotated[bool, typer.Option("--all", help="Backbones and rivals too: they forecast as well.")] = False,
    limit: Limit = 20,
    url: Url = None,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Fine-tuned models, newest first, and what a bare name is answered by."""
    with connect(url, home) as api:
        found = api.pages("/v1/models", limit=EVERY_MODEL if everything else limit)
    tuned = [model for model in found if model["kind"] == "fine_tuned"]
    found = tuned[:limit] + (found[len(tuned) :] if everything else [])
    if as_json:
        print_json(found)
        return
    shown = table("model", "backbone", "horizon>", "serves", "aliases", "made")
    for model in found:
        aliases = ", ".join(f"{alias} → {version}" for alias, version in model["aliases"].items())
        row(
            shown,
            model["id"],
            model["backbone"],
            model["prediction_length"],
            model["serves"],
            aliases or None,
            moment(model["created"]),
        )
    print_table(shown)


@app.command("show")
def show(name: Name, url: Url = None, home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """A model and its versions, each with its verdict."""
    with connect(url, home) as api:
        model = api.get(f"/v1/models/{name}")
        versions = (
            [] if model["kind"] != "fine_tuned" else api.pages(f"/v1/models/{name}/versions", limit=VERSIONS_SHOWN)
        )
    if as_json:
        print_json({**model, "versions": versions})
        return
    say(f"{name}: {model['backbone']}, prediction_length {model['prediction_length']}, serves {model['serves']}")
    shown = table("version>", "aliases", "fallback", "made", "digest", "verdict")
    for version in versions:
        row(
            shown,
            version["version"],
            ", ".join(version["aliases"]) or None,
            version["fallback"],
            moment(version["created_at"]),
            version["digest"][:19],
            "a refit on all history: not judged" if version["refit"] else (version["verdict"] or {}).get("reason"),
        )
    print_table(shown, fold=True)


@app.command("promote")
def promote(
    name: Name,
    version: Version,
    alias: Annotated[str, typer.Option(help="The alias to point at that version.")] = "production",
    url: Url = None,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Point an alias at a version. Rolling back is promoting an older one."""
    with connect(url, home) as api:
        answer = api.put(f"/v1/models/{name}/aliases/{alias}", {"version": version})
    if as_json:
        print_json(answer)
    else:
        say(f"{name}@{alias} is version {version} now.")


@app.command("download")
def download(
    name: Name,
    version: Version,
    output: Annotated[Path, typer.Option("--output", "-o", help="Archive to write.")],
    url: Url = None,
    home: Home = DEFAULT_HOME,
) -> None:
    """A version's safetensors checkpoint with its manifest and model card, as one archive."""
    with connect(url, home) as api:
        save(api, f"/v1/models/{name}/versions/{version}/download", output)


@app.command("delete")
def delete(name: Name, url: Url = None, home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """Delete a model with all its versions."""
    with connect(url, home) as api:
        answer = api.delete(f"/v1/models/{name}")
    if as_json:
        print_json(answer)
    else:
        say(f"{name} is deleted.")
