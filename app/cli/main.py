"""The `temper` command: the service's HTTP API from a terminal, and `serve` to start one."""

import sys
from typing import Any

import typer

from app.cli import backbones, demo, files, finetune, forecast, jobs, keys, models, server
from app.cli.client import CommandError
from app.cli.output import print_failure, print_json, say

EXIT_INTERRUPTED = 130

HELP = """Fine-tune time series models on your own series, and serve what measured better.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no service answers, 4 the job failed or was cancelled,
130 interrupted."""

app = typer.Typer(name="temper", help=HELP, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
app.command("serve")(server.serve)
app.command("demo")(demo.demo)
app.command("finetune")(finetune.finetune)
app.command("forecast")(forecast.forecast)
app.add_typer(jobs.app, name="jobs")
app.add_typer(models.app, name="models")
app.command("backbones")(backbones.backbones)
app.add_typer(files.app, name="files")
app.add_typer(keys.app, name="keys")


def main(arguments: list[str] | None = None) -> None:
    """Runs one command; a `CommandError` is printed (as JSON with --json, on stderr) and becomes the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        result: Any = app(args=words, standalone_mode=True, prog_name="temper")
        sys.exit(result or 0)
    except CommandError as failure:
        if "--json" in words:
            print_json(failure.to_mapping(), to_stderr=True)
        else:
            print_failure(failure)
        sys.exit(failure.exit_code)
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader of our output (head, less) has closed it
        sys.stderr.close()
        sys.exit(0)


if __name__ == "__main__":
    main()
