"""The field's long-horizon protocol, as IBM's tables use it: standardised values, fixed borders, every test window.

Values are standardised by mean and population deviation of the whole train split and handed to the backbone as they
are; sentinels such as weather's -9999 stay in, as in every published figure. A window is one channel's context and
target; a training target lies inside the training rows with its context, a validation or test target inside its block
with a context that may reach back (evaluation.md §1, §9).
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sets import PAPERS, TABLE, SetSpec, panels
from torch.nn import functional

from tsfm.backbones.base import Backbone
from tsfm.series.windows import WindowBatch

Ints = NDArray[np.int64]
FractionMode = Literal["first", "strided"]
EVALUATED_AT_ONCE = 512
"""Windows of one forward pass; more gain nothing on a CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standardised:
    """One set: `values` [T, C] float32, and its borders in rows."""

    name: str
    values: NDArray[np.float32]
    train_end: int
    test_start: int
    test_end: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class LtsfWindows:
    """Windows named by channel and origin. An item of a batch is one window, or all channels of one origin."""

    values: NDArray[np.float32]
    channel: Ints
    """[W]"""
    origin: Ints
    """[W] row of the target's first point; origins ascend, all channels of one stand together."""
    context_length: int
    prediction_length: int
    stride: int = 1
    """Origins left out between two that are used: 1 = none."""
    windows_per_item: int = 1

    def __len__(self) -> int:
        return len(self.origin) // self.windows_per_item

    @property
    def num_windows(self) -> int:
        return len(self.origin)

    @cached_property
    def _steps(self) -> Ints:
        return np.arange(-self.context_length, self.prediction_length, dtype=np.int64)

    def batch(self, indices: ArrayLike) -> WindowBatch:
        """The items at `indices`, all their windows, in the standardised units."""
        per = self.windows_per_item
        rows = (np.asarray(indices, dtype=np.int64)[:, None] * per + np.arange(per)).ravel()
        origin, channel = self.origin[rows], self.channel[rows]
        taken = self.values[origin[:, None] + self._steps, channel[:, None]]
        return WindowBatch(
            context=np.ascontiguousarray(taken[:, : self.context_length]),
            target=np.ascontiguousarray(taken[:, self.context_length :]),
            loc=np.zeros(len(rows)),
            scale=np.ones(len(rows)),
            series=channel,
            origin=origin,
        )

    def by_origin(self) -> "LtsfWindows":
        """The same windows with all channels of an origin as one item, as IBM's batches are."""
        channels = self.values.shape[1]
        assert self.num_windows == channels * len(np.unique(self.origin)), "an origin lacks channels: mode is strided"
        return replace(self, windows_per_item=channels)

    def thinned(self, most: int) -> "LtsfWindows":
        """Every k-th origin with all its channels, the smallest k that leaves at most `most` windows."""
        channels = self.values.shape[1]
        origins = np.unique(self.origin)
        stride = -(-len(origins) // max(most // channels, 1))
        kept = np.isin(self.origin, origins[::stride])
        return replace(self, channel=self.channel[kept], origin=self.origin[kept], stride=self.stride * stride)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    train: LtsfWindows
    validation: LtsfWindows
    test: LtsfWindows


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """At most so many windows; more are thinned evenly. 0 = all. Test is never thinned."""

    train: int = 4_000
    validation: int = 1_000


def standardised(name: str, data: Path) -> Standardised:
    """The set `name` of the table or of a paper; `KeyError` for another name."""
    spec = {spec.name: spec for spec in (*TABLE, *PAPERS)}[name]
    panel = panels(without_sentinel(spec), data)[0]
    known = panel.values[: panel.train_end]
    values = ((panel.values - known.mean(0)) / known.std(0)).astype(np.float32)
    return Standardised(
        name=name,
        values=values,
        train_end=panel.train_end,
        test_start=panel.test_start,
        test_end=panel.test_end,
        sha256=hashlib.sha256(values.tobytes()).hexdigest(),
    )


def without_sentinel(spec: SetSpec) -> SetSpec:
    """Published figures count a sentinel as a value."""
    return replace(spec, sentinel=None)


def few_shot_rows(train_end: int, *, context_length: int, fraction: float) -> int:
    """IBM's "p %": the first ⌊p·(n_train − context)⌋ + context rows; all of them at 1."""
    if fraction == 1:
        return train_end
    return int(fraction * (train_end - context_length)) + context_length


def blocks(
    data: Standardised,
    *,
    context_length: int,
    prediction_length: int,
    fraction: float = 1.0,
    mode: FractionMode = "first",
    caps: Caps,
) -> Blocks:
    """`mode` "first" is IBM's few-shot split; "strided" is SFF's: every ⌊1/fraction⌋-th window of the flattened
    channel × time index. Validation and test are always whole but for the cap on validation."""

    def cut(first: int, end: int) -> LtsfWindows:
        origins = np.arange(first, end - prediction_length + 1, dtype=np.int64)
        channels = data.values.shape[1]
        return LtsfWindows(
            values=data.values,
            channel=np.tile(np.arange(channels, dtype=np.int64), len(origins)),
            origin=np.repeat(origins, channels),
            context_length=context_length,
            prediction_length=prediction_length,
        )

    if mode == "strided":
        train = _every(cut(context_length, data.train_end), int(1 // fraction))
    else:
        rows = few_shot_rows(data.train_end, context_length=context_length, fraction=fraction)
        train = cut(context_length, rows)
    validation = cut(data.train_end, data.test_start)
    return Blocks(
        train=train.thinned(caps.train) if caps.train else train,
        validation=validation.thinned(caps.validation) if caps.validation else validation,
        test=cut(data.test_start, data.test_end),
    )


def _every(windows: LtsfWindows, step: int) -> LtsfWindows:
    """Every `step`-th window, counted along the times of the first channel, then of the second, and so on."""
    order = np.lexsort((windows.origin, windows.channel))
    kept = np.sort(order[::step])
    return replace(windows, channel=windows.channel[kept], origin=windows.origin[kept])


@dataclass(frozen=True, slots=True, kw_only=True)
class Error:
    mse: float
    mae: float


@contextlib.contextmanager
def onednn_linears() -> Iterator[None]:
    """Linears of a CPU without gradients by oneDNN's float32 product: equal to 1e-6, a third off an evaluation."""
    if not torch.backends.mkldnn.is_available():
        yield
        return
    usual = functional.linear

    def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        if x.device.type != "cpu" or x.dtype != torch.float32:
            return usual(x, weight, bias)
        found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return found

    functional.linear = linear
    try:
        yield
    finally:
        functional.linear = usual


def error_of(model: Backbone, windows: LtsfWindows, *, should_stop: Callable[[], None] = lambda: None) -> Error:
    """Mean errors of the point forecast over every target value, in the standardised units; sums in float64."""
    device = next(model.parameters()).device
    per = max(EVALUATED_AT_ONCE // windows.windows_per_item, 1)
    squared, absolute, count = 0.0, 0.0, 0
    with torch.inference_mode(), onednn_linears():
        for begin in range(0, len(windows), per):
            should_stop()
            batch = windows.batch(np.arange(begin, min(begin + per, len(windows))))
            said = model.predict(torch.from_numpy(batch.context).to(device), windows.prediction_length).point
            error = said - torch.from_numpy(batch.target).to(device)
            squared += float(error.square().sum(dtype=torch.float64))
            absolute += float(error.abs().sum(dtype=torch.float64))
            count += error.numel()
    return Error(mse=squared / count, mae=absolute / count)


def described(windows: LtsfWindows) -> dict[str, Any]:
    return {"windows": windows.num_windows, "stride": windows.stride}
