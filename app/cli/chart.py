"""The demo's picture: what the models would have said about the last hours, and the forecast beyond them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREY, TRUTH, TUNED = "0.55", "black", "#d1495b"
OTHERS = ("#2e86ab", "#8fb339")


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One series. Bands are (lower, upper), each as long as the values they surround."""

    item_id: str
    history: Sequence[float]
    truth: Sequence[float]
    tuned: Sequence[float]
    band: tuple[Sequence[float], Sequence[float]] | None
    others: Mapping[str, Sequence[float]]
    ahead: Sequence[float]
    ahead_band: tuple[Sequence[float], Sequence[float]] | None


def draw(panels: Sequence[Panel], path: Path, *, prediction_length: int) -> None:
    """Writes one PNG, a row per series. Time 0 is the end of the file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second to import, for one command
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.2 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axis, panel in zip(axes, panels, strict=True):
        _draw_one(axis, panel, prediction_length)
    axes[-1].set_xlabel("hours from the end of the file")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(path, dpi=120)


def _draw_one(axis: "Axes", panel: Panel, prediction_length: int) -> None:
    held_out = range(-prediction_length, 0)
    before = range(-prediction_length - len(panel.history), -prediction_length)
    beyond = range(len(panel.ahead))
    axis.plot(before, panel.history, color=GREY, linewidth=1, label="history")
    axis.plot(held_out, panel.truth, color=TRUTH, linewidth=1.6, label="held-out truth")
    for (name, values), color in zip(panel.others.items(), OTHERS, strict=True):
        axis.plot(held_out, values, color=color, linewidth=1, linestyle="--", label=name)
    axis.plot(held_out, panel.tuned, color=TUNED, linewidth=1.6, label="tuned")
    if panel.band is not None:
        axis.fill_between(held_out, *panel.band, color=TUNED, alpha=0.18, linewidth=0, label="tuned, 80 % interval")
    axis.plot(beyond, panel.ahead, color="#7b2d8b", linewidth=1.6, label="forecast")
    if panel.ahead_band is not None:
        axis.fill_between(beyond, *panel.ahead_band, color="#7b2d8b", alpha=0.15, linewidth=0)
    for border in (-prediction_length, 0):
        axis.axvline(border, color="0.8", linewidth=0.8, zorder=0)
    axis.set_title(panel.item_id, loc="left", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
