"""The picture of a measured landscape. matplotlib is imported where it is drawn: only a run that was asked needs it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"pretrained": "#2e86ab", "smoothed": "#8fb339", "tuned": "#d1495b", "random": "0.55"}


def draw(found: Mapping[str, Any], path: Path) -> None:
    """One PNG from what `tsfm.landscape.measure` answers: paths, sharpness, and the surfaces where there are any."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    surface = found["surface"]
    points = found["points"]
    figure = Figure(figsize=(11, 7.4 if surface else 3.9), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2 if surface else 1, 6)
    for column, name in enumerate(found["interpolation"]):
        _path(figure.add_subplot(grid[0, 2 * column : 2 * column + 2]), name, found["interpolation"][name])
    _sharpness(figure.add_subplot(grid[0, 4:6]), points)
    if surface:
        width = 6 // len(points)
        levels = _levels(surface["loss"])
        for column, name in enumerate(points):
            axis = figure.add_subplot(grid[1, width * column : width * (column + 1)])
            _surface(axis, name, surface["at"], surface["loss"][name], levels)
    figure.suptitle(f"{found['loss']}; {found['windows']} train windows")
    figure.savefig(path, dpi=110)


def _path(axis: "Axes", name: str, path: Mapping[str, Any]) -> None:
    axis.set_title(f"pretrained → {name}")
    axis.set_xlabel("share of the way")
    if "omitted" in path:
        axis.text(0.5, 0.5, "other parameters:\nno line between", ha="center", va="center", transform=axis.transAxes)
        return
    losses = [np.nan if loss is None else loss for loss in path["loss"]]
    axis.plot(path["share"], losses, color=COLOURS[name], marker="o", markersize=3)
    axis.set_ylabel("loss")


def _sharpness(axis: "Axes", points: Mapping[str, Any]) -> None:
    """Bars of λ_max, with the ratio that papers.md §2.3 calls smoothness written on them."""
    axis.set_title("λ max of the Hessian  (Tr ÷ ‖H‖)")
    for at, (name, point) in enumerate(points.items()):
        if "omitted" in point:
            axis.text(at, 0, "not finite", ha="center", va="bottom")
            continue
        axis.bar(at, point["lambda_max"], yerr=point["lambda_max_residual"], color=COLOURS[name], width=0.6)
        ratio = point["trace_over_frobenius"]["value"]
        label = f"{point['lambda_max']:.3g}\n({ratio:.2g})"
        axis.text(at, max(point["lambda_max"], 0), label, ha="center", va="bottom", fontsize=9)
    axis.set_xticks(range(len(points)), list(points))
    axis.margins(y=0.25)


def _levels(surfaces: Mapping[str, Any]) -> "np.ndarray[Any, Any] | None":
    """The same contours for all networks: twelve, evenly spaced in the logarithm. None where there is no spread."""
    values = np.array([v for rows in surfaces.values() for row in rows for v in row if v is not None and v > 0])
    if not len(values) or values.max() <= values.min():
        return None
    return np.geomspace(values.min(), values.max(), 12)


def _surface(axis: "Axes", name: str, at: Any, rows: Any, levels: "np.ndarray[Any, Any] | None") -> None:
    axis.set_title(f"around {name}")
    axis.set_aspect("equal")
    if levels is None:
        return
    heights = np.array([[np.nan if v is None else v for v in row] for row in rows])
    lines = axis.contour(at, at, heights.T, levels=levels, cmap="viridis", linewidths=1)
    axis.clabel(lines, fontsize=7, fmt="%.2g")
