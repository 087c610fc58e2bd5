"""`temper anomalies MODEL`: which points of a series are unlikely, and how much."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.history import ask, write_csv
from app.cli.options import DEFAULT_HOME, Home, Json, Url, connect
from app.cli.output import number, print_json, print_table, row, say, table

EVENTS_SHOWN = 20


def anomalies(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Model tuned for anomaly_detection, NAME@ALIAS, backbone or rival.")
    ],
    file: Annotated[
        Path | None, typer.Option(help="CSV or Parquet with the series; default: the model's training file.")
    ] = None,
    level: Annotated[
        float, typer.Option(help="Per cent of normal points that are not called anomalies, 50 to 99.99.")
    ] = 99.0,
    detection_size: Annotated[
        int | None, typer.Option("--detection-size", min=1, help="Only the newest so many points of each series.")
    ] = None,
    prediction_length: Annotated[
        int | None, typer.Option("--prediction-length", min=1, help="Points scored at once, of what was not tuned.")
    ] = None,
    scoring: Annotated[str | None, typer.Option(help="forecast, every_patch or reconstruction, of a backbone.")] = None,
    multivariate: Annotated[
        bool, typer.Option("--multivariate", help="The series are variables of one system.")
    ] = False,
    item_id: Annotated[list[str] | None, typer.Option(help="Only these series; repeatable.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write every scored point to this CSV file.")
    ] = None,
    url: Url = None,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Score points. A score above 1 is an anomaly; neighbouring ones are shown as one event."""
    asked = {
        "model": model,
        "level": level,
        "detection_size": detection_size,
        "prediction_length": prediction_length,
        "scoring": scoring,
        "multivariate": multivariate or None,
        "item_ids": item_id or None,
    }
    with connect(url, home) as api:
        if output is not None:
            write_csv(api, "/v1/anomalies", asked, file, output)
            return
        answer = ask(api, "/v1/anomalies", asked, file).json()
    if as_json:
        print_json(answer)
        return
    _show(answer)


def _show(answer: Mapping[str, Any]) -> None:
    series, system = answer["series"], answer["system"]
    points = sum(len(one["value"]) for one in series)
    alarms = sum(one["num_anomalies"] for one in series)
    null = answer["null"]
    normal = "the model's calibration block" if null["source"] == "calibration" else "the history that was given"
    say(f"{answer['model']}: {alarms} of {points} points are anomalies at level {answer['level']:g}")
    say(f"  normal is {normal} ({null['num_scores']} scores); scored by {answer['scoring']}")
    if answer["drift"] is not None and answer["drift"]["drifted"]:
        share = 100 * answer["drift"]["share_beyond_90"]
        say(f"  what is normal has drifted: {share:.0f} % of the points lie beyond the line that 10 % should")
    for note in answer["notes"]:
        say(f"  {note}")
    events = [(one["item_id"], event) for one in series for event in one["events"]]
    if system is not None:
        events += [("(together)", event) for event in system["events"]]
    if not events:
        return
    shown = table("item_id", "start", "end", "points>", "score>", "severity>")
    events.sort(key=lambda pair: -pair[1]["peak_score"])
    for item_id, event in events[:EVENTS_SHOWN]:
        peaks = (number(event["peak_score"], 3), number(event["peak_severity"], 3))
        row(shown, item_id, event["start"], event["end"], str(event["points"]), *peaks)
    print_table(shown)
    if len(events) > EVENTS_SHOWN:
        say(f"… {len(events) - EVENTS_SHOWN} more events; -o anomalies.csv writes every point")
