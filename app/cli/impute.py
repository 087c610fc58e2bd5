"""`temper impute MODEL`: fills what is missing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.history import ask, write_csv
from app.cli.options import DEFAULT_HOME, Home, Json, Url, connect
from app.cli.output import print_json, print_table, row, say, table

GAPS_SHOWN = 20


def impute(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Model tuned for imputation, NAME@ALIAS, backbone or plain fill.")
    ],
    file: Annotated[
        Path | None, typer.Option(help="CSV or Parquet with the series; default: the model's training file.")
    ] = None,
    levels: Annotated[
        list[float] | None, typer.Option("--levels", help="Intervals in per cent, such as 80; repeatable.")
    ] = None,
    quantile_levels: Annotated[
        list[float] | None, typer.Option("--quantile-levels", help="Quantiles, such as 0.9; repeatable.")
    ] = None,
    long_gaps: Annotated[
        str, typer.Option("--long-gaps", help="refuse, or leave: gaps beyond what the model can fill.")
    ] = "refuse",
    item_id: Annotated[list[str] | None, typer.Option(help="Only these series; repeatable.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the whole series to this CSV file.")
    ] = None,
    url: Url = None,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Fill gaps from both of their sides. Observed values stay as they are."""
    asked = {
        "model": model,
        "levels": levels or None,
        "quantile_levels": quantile_levels or None,
        "long_gaps": long_gaps,
        "item_ids": item_id or None,
    }
    with connect(url, home) as api:
        if output is not None:
            write_csv(api, "/v1/imputations", asked, file, output)
            return
        answer = ask(api, "/v1/imputations", asked, file).json()
    if as_json:
        print_json(answer)
        return
    _show(answer)


def _show(answer: Mapping[str, Any]) -> None:
    gaps = [(one["item_id"], gap) for one in answer["series"] for gap in one["gaps"]]
    say(f"{answer['model']}: {answer['num_imputed']} points filled in {len(gaps)} gaps, {answer['num_left']} left")
    for note in answer["notes"]:
        say(f"  {note}")
    if not gaps:
        return
    shown = table("item_id", "start", "end", "points>", "filled", "intervals")
    gaps.sort(key=lambda pair: -pair[1]["points"])
    for item_id, gap in gaps[:GAPS_SHOWN]:
        held = "calibrated" if gap["calibrated"] else "not calibrated"
        row(shown, item_id, gap["start"], gap["end"], str(gap["points"]), "yes" if gap["filled"] else "no", held)
    print_table(shown)
    if len(gaps) > GAPS_SHOWN:
        say(f"… {len(gaps) - GAPS_SHOWN} more gaps; -o filled.csv writes the series")
