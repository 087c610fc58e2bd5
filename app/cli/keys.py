"""`temper keys`: make, list and revoke API keys (needs a key with the scope `admin`; the first one has it)."""

from typing import Annotated, Any

import typer

from app.cli.options import DEFAULT_HOME, Home, Json, Limit, Url, connect
from app.cli.output import moment, print_json, print_table, row, say, table

app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    tenant: Annotated[str | None, typer.Option(help="Whose key it is; made when new, by default your own.")] = None,
    scope: Annotated[
        list[str] | None, typer.Option(help="files, jobs, models, forecast, admin; repeatable. Default: all but admin.")
    ] = None,
    url: Url = None,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Make a key. It is shown once and stored only as a hash."""
    body: dict[str, Any] = {"name": name}
    if tenant:
        body["tenant"] = tenant
    if scope:
        body["scopes"] = scope
    with connect(url, home) as api:
        made = api.post("/v1/keys", body)
    if as_json:
        print_json(made)
        return
    say(f"{made['id']} for tenant {made['tenant']} ({', '.join(made['scopes'])}). It is shown only now:")
    typer.echo(made["key"])


@app.command("list")
def list_keys(limit: Limit = 20, url: Url = None, home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """Every key, newest first; never the secrets."""
    with connect(url, home) as api:
        found = api.pages("/v1/keys", limit=limit)
    if as_json:
        print_json(found)
        return
    shown = table("key", "name", "tenant", "scopes", "made", "revoked")
    for key in found:
        scopes = ", ".join(key["scopes"])
        row(shown, key["id"], key["name"], key["tenant"], scopes, moment(key["created_at"]), moment(key["revoked_at"]))
    print_table(shown)


@app.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(help="Id of the key, as `temper keys list` shows it.")],
    url: Url = None,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Revoke a key: it is refused from now on."""
    with connect(url, home) as api:
        revoked = api.post(f"/v1/keys/{key_id}/revoke", {})
    if as_json:
        print_json(revoked)
    else:
        say(f"{key_id} is revoked.")
