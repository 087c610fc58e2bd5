"""The `temper` command: the service's HTTP API from a terminal, and `serve` to start one."""

import sys

import typer

from app.cli import anomalies, backbones, backtest, demo, files, finetune, forecast, impute, jobs, keys, models, server
from app.cli.client import EXIT_FAILED, CommandError
from app.cli.output import print_failure, print_json

NOUNS = frozenset({"jobs", "models", "backbones", "files", "keys"})

HELP = """Fine-tune time series models on your own series, and serve what measured better.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no service answers, 4 the job failed or was cancelled,
130 interrupted."""

app = typer.Typer(name="temper", help=HELP, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
app.command("serve")(server.serve)
app.command("demo")(demo.demo)
app.command("finetune")(finetune.finetune)
app.command("forecast")(forecast.forecast)
app.command("anomalies")(anomalies.anomalies)
app.command("impute")(impute.impute)
app.command("backtest")(backtest.backtest)
app.add_typer(jobs.app, name="jobs")
app.add_typer(models.app, name="models")
app.add_typer(backbones.app, name="backbones")
app.add_typer(files.app, name="files")
app.add_typer(keys.app, name="keys")


def with_list(words: list[str]) -> list[str]:
    """`temper jobs` alone, or with options only, means `temper jobs list`."""
    bare = len(words) == 1 or (len(words) > 1 and words[1].startswith("-") and "--help" not in words)
    return [words[0], "list", *words[1:]] if words and words[0] in NOUNS and bare else words


def main(arguments: list[str] | None = None) -> None:
    """Runs one command; a `CommandError` is printed (as JSON with --json, on stderr) and becomes the exit code.

    Wrong usage (2), Ctrl-C (130) and a closed pipe are typer's to handle.
    """
    words = with_list(sys.argv[1:] if arguments is None else arguments)
    try:
        app(args=words, prog_name="temper")
    except CommandError as failure:
        if "--json" in words:
            print_json(failure.to_mapping(), to_stderr=True)
        else:
            print_failure(failure)
        sys.exit(failure.exit_code)
    except OSError as error:
        if error.filename is None:
            raise
        print_failure(CommandError(f"{error.filename}: {error.strerror}."))
        sys.exit(EXIT_FAILED)


if __name__ == "__main__":
    main()
