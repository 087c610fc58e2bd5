"""Forecasts as CSV, and the demo's chart."""

from pathlib import Path

from app.cli.chart import Panel, draw
from app.cli.forecast import write_csv

ANSWER = {
    "forecasts": [
        {
            "item_id": name,
            "timestamps": ["2026-01-01T00:00:00", "2026-01-01T01:00:00"],
            "mean": [1.5, 2.5],
            "quantiles": {"0.1": [1.0, 2.0]},
            "intervals": {"80": {"lo": [1.0, 2.0], "hi": [2.0, 3.0]}},
        }
        for name in ("a", "=b")
    ]
}


def test_the_csv_has_a_row_per_series_and_step(tmp_path: Path) -> None:
    write_csv(ANSWER, tmp_path / "forecast.csv")
    assert (tmp_path / "forecast.csv").read_text().splitlines() == [
        "item_id,timestamp,mean,0.1,lo-80,hi-80",
        "a,2026-01-01T00:00:00,1.5,1.0,1.0,2.0",
        "a,2026-01-01T01:00:00,2.5,2.0,2.0,3.0",
        "'=b,2026-01-01T00:00:00,1.5,1.0,1.0,2.0",
        "'=b,2026-01-01T01:00:00,2.5,2.0,2.0,3.0",
    ]


def test_the_chart_is_a_picture(tmp_path: Path) -> None:
    panel = Panel(
        item_id="a",
        history=[1.0, 2.0, 3.0],
        truth=[4.0, 5.0],
        tuned=[4.0, 5.5],
        band=([3.0, 4.0], [5.0, 6.0]),
        others={"zero-shot": [3.0, 3.0], "seasonal naive": [2.0, 3.0]},
        ahead=[6.0, 7.0],
        ahead_band=None,
    )
    draw([panel, panel], tmp_path / "forecast.png", prediction_length=2)
    assert (tmp_path / "forecast.png").read_bytes().startswith(b"\x89PNG")
