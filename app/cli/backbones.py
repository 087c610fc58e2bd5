"""`temper backbones`: the pretrained networks this service can tune, and their weights on this machine.

`list` asks the service; `show`, `pull` and `add` look at the weights folder itself (TEMPER_WEIGHTS_DIR, else that of
--home), with or without a service: it needs no restart.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.options import DEFAULT_HOME, Home, Json, Url, connect
from app.cli.output import print_json, print_table, row, say, table

if TYPE_CHECKING:
    from app.cli.shelf import Shelf

app = typer.Typer(help="Pretrained networks, and their weights on this machine.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="The backbone, as `temper backbones list` names it.")]
Accept = Annotated[bool, typer.Option("--accept-license", help="Accept a licence that forbids commercial use.")]


@app.command("list")
def backbones(url: Url = None, home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """The pretrained networks, their limits, licences and methods, as the service has them."""
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


@app.command("show")
def show(name: Name, home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """One of them, and its weights in this machine's folder; asks no service."""
    found = _shelf(home).show(name)
    if as_json:
        print_json(found)
        return
    _print_one(found)


@app.command("pull")
def pull(
    name: Name,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of the repository; default: the catalogue's.")
    ] = None,
    accept_license: Accept = False,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Fetch the weights from their hub into this machine's folder: resumable, verified, pinned. Asks no service."""
    _placed(_shelf(home).pull(name, revision=revision, accept_license=accept_license), as_json)


@app.command("add")
def add(
    name: Name,
    path: Annotated[
        Path, typer.Option("--path", exists=True, help="Folder with the published files, or the weights file.")
    ],
    accept_license: Accept = False,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Copy published files into this machine's folder, check and pin them; a pickled checkpoint is converted."""
    _placed(_shelf(home).add(name, path, accept_license=accept_license), as_json)


def _shelf(home: Path) -> "Shelf":
    from app.cli.shelf import Shelf  # settings and catalogue are needed by these commands alone

    return Shelf(home)


def _placed(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    say(f"{found['id']} lies in {found['weights']['folder']} ({found['digest']}).")
    say(f"Licence: {found['licence']}" + (", not for commercial use." if found["non_commercial"] else "."))


def _print_one(found: dict[str, Any]) -> None:
    limits, weights = found["limits"], found["weights"]
    shown = table("", "")
    row(shown, "backbone", found["id"])
    row(shown, "what", found["summary"])
    row(shown, "licence", found["licence"] + (", not for commercial use" if found["non_commercial"] else ""))
    row(shown, "parameters", f"{found['num_parameters']:,}")
    row(
        shown,
        "limits",
        f"context {limits['context_length']}, horizon {limits['prediction_length']}, by recursion "
        f"{limits['max_prediction_length']}",
    )
    row(shown, "methods", ", ".join(method["name"] for method in found["methods"] if method["supported"]))
    for method in (one for one in found["methods"] if not one["supported"]):
        row(shown, f"not {method['name']}", method["reason"])
    row(shown, "weights", f"in {weights['folder']}" if found["weights_available"] else found["weights_command"])
    row(shown, "digest", found["digest"])
    for fact, value in (weights["lock"] or {}).items():
        if fact not in {"format", "backbone", "sha256", "licence"}:
            row(shown, fact, value)
    print_table(shown, fold=True)
