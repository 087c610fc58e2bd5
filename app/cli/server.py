"""The command `temper serve`; what it starts stands in `app/cli/serve.py`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from app.cli.output import print_json, say


def serve(
    home: Annotated[
        Path, typer.Option("--home", envvar="TEMPER_HOME", help="All state lives here; made when absent.")
    ] = Path(".temper"),
    host: Annotated[
        str, typer.Option("--host", envvar="TEMPER_HOST", help="Address to listen on; only this machine by default.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", envvar="TEMPER_PORT", min=0, max=65535, help="Port; 0 takes a free one.")
    ] = 8000,
    as_json: Annotated[bool, typer.Option("--json", help="Announce the service as one line of JSON.")] = False,
) -> None:
    """Start the whole service: broker, gateway and worker. Ctrl-C stops it."""
    from app.cli.serve import service  # the settings and the broker are needed by this command alone

    with service(home=home, host=host, port=port, say=say) as (running, supervisor):
        if as_json:
            key_file = str(running.key_file) if running.key_file else None
            print_json({"url": running.url, "home": str(running.home), "key_file": key_file}, indent=None)
        else:
            key = f"$(cat '{_shown(running.key_file)}')" if running.key_file else "$TEMPER_API_KEY"
            say(f"Temper is ready at {running.url}   (logs: {_shown(running.home / 'logs')})")
            say(f"The key is {announced_key(running.key_file)}")
            say("\nA first request:\n")
            say(f'  curl -H "Authorization: Bearer {key}" {running.url}/v1/backbones\n')
            say("Ctrl-C stops everything.")
        supervisor.run()
        if not as_json:
            say("Stopping …")


def announced_key(key_file: Path | None) -> str:
    """Where the key stands; the key itself only on a terminal, so that no log of what is said ever holds it."""
    if key_file is None:
        return "the one in TEMPER_API_KEY."
    if sys.stderr.isatty():
        return f"{key_file.read_text(encoding='utf-8').strip()}   (kept in {_shown(key_file)})"
    return f"in {_shown(key_file)}"


def _shown(path: Path | None) -> str:
    """Relative to here where it lies below, as one would type it."""
    assert path is not None
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
