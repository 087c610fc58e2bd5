"""The gate: does a candidate beat what served before, zero-shot and the plain rivals, on history nothing else touched?

The rules are evaluation.md §3; docs/gate.md explains them to users and docs/decisions/0012 the choices. The unit is the
forecast origin: every window's loss is first averaged with those of the other series at the same origin, since series
move together; neighbouring origins share targets, so the interval is `tsfm.gate_interval`'s.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsfm.gate_interval import bootstrap_interval, cosine_interval, degrees_of_freedom
from tsfm.metrics import WindowErrors
from tsfm.series import freq as frequencies
from tsfm.series.frame import SeriesFrame
from tsfm.series.split import Block, Split
from tsfm.series.windows import Windows

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
INCUMBENT, ZERO_SHOT = "incumbent", "zero_shot"
MIN_HORIZON_BLOCKS = 5.0
SIGNIFICANCE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What the candidate is compared with: errors over the candidate's own windows, in the same order."""

    name: str
    errors: WindowErrors
    period: int | None = None
    """Of a seasonal naive."""
    allowed: NDArray[np.bool_] | None = None
    """[W] windows that may be compared; None = all. An incumbent is judged on what it has not seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Candidate against one reference. Gains are shares: .071 is 7.1 % less error than the reference."""

    name: str
    gain: float | None
    """None where there is nothing to compare, or the reference makes no error at all and the candidate does."""
    interval: tuple[float, float] | None
    """At the gate's level; decides against the incumbent and zero-shot."""
    ci95: tuple[float, float] | None
    bootstrap_ci95: tuple[float, float] | None
    """Moving blocks of two horizons; shown, decides nothing."""
    degrees_of_freedom: int
    windows: int
    origins: int
    horizon_blocks: float
    """Horizons of test that the compared targets cover."""
    beaten: bool
    for_information: bool = False
    """Too little is left to judge by, so that this reference is no bar."""
    period: int | None = None
    periods: dict[str, float | None] | None = None
    """Gain at every period listed for the frequency; the entry itself is the hardest of them."""

    def to_mapping(self) -> dict[str, Any]:
        """JSON-ready; what does not apply is left out."""
        facts = {k: v for k, v in dataclasses.asdict(self).items() if k != "name"}
        for key in ("interval", "ci95", "bootstrap_ci95"):
            facts[key] = None if facts[key] is None else list(facts[key])
        return {k: v for k, v in facts.items() if v is not None or k not in ("period", "periods")}


def origin_clock(windows: Windows, split: Split, block: Block) -> Ints:
    """[W] place of each window's origin on the axis that all series are laid on.

    With timestamps that is time. An integer index names no moment: there origins are counted back from the end of each
    series' block, so that series which end together meet, and more series never count as more time.
    """
    if frequencies.parse(windows.frame.freq).unit is frequencies.Unit.INTEGER:
        return windows.origin - split.block(block)[1][windows.series]
    return split.clock[windows.series] + windows.origin


def rows_sha256(frame: SeriesFrame, split: Split) -> str:
    """Digest of the test block's rows (item, time, value): verdicts on the same rows are counted."""
    begin, end = split.block(Block.TEST)
    digest = hashlib.sha256(f"{frame.freq} {frame.timezone}".encode())
    for i in sorted(range(len(frame)), key=lambda i: frame.item_ids[i]):
        rows = np.ascontiguousarray(frame.series(i)[begin[i] : end[i]], dtype="<f8")
        start = int(
            frequencies.parse(frame.freq).timestamps(int(frame.starts[i]), 1, frame.timezone, first=int(begin[i]))[0]
        )
        digest.update(f"\n{len(frame.item_ids[i])} {frame.item_ids[i]} {start} {len(rows)} ".encode())
        digest.update(rows.tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """How candidates are compared on the test windows of one job."""

    metric: str
    prediction_length: int
    clock: Ints
    """[W] `origin_clock` of the test windows."""
    min_gain: float = 0.0
    verdict_number: int = 1
    """How many verdicts, this one included, were given on these test rows."""

    @property
    def level(self) -> float:
        """1 − .05 ÷ k: the k-th look at the same rows has to clear a wider interval."""
        return 1.0 - SIGNIFICANCE / self.verdict_number

    def compare(self, candidate: WindowErrors, reference: Reference) -> Comparison:
        """The paired gain and its intervals; `beaten` needs the lower end above `min_gain`, a rival only a gain."""
        clock, tuned, other = self.clock, candidate, reference.errors
        if reference.allowed is not None:
            kept = reference.allowed
            clock, tuned, other = clock[kept], candidate.where(kept), other.where(kept)
        origins = np.unique(clock)
        blocks = _covered(origins, self.prediction_length) / self.prediction_length
        d, gain = self._differences(clock, tuned, other)
        for_information = reference.name == INCUMBENT and blocks < MIN_HORIZON_BLOCKS
        at_once = horizon_origins(clock, self.prediction_length)
        degrees = degrees_of_freedom(len(origins), at_once) if len(origins) > 1 else 0
        interval = ci95 = bootstrap = None
        if d is not None and degrees and blocks >= MIN_HORIZON_BLOCKS:
            interval, ci95 = (self._shifted(d, degrees, level) for level in (self.level, 1.0 - SIGNIFICANCE))
            drawn = bootstrap_interval(d, block=int(np.ceil(2 * at_once)), level=1.0 - SIGNIFICANCE)
            bootstrap = None if drawn is None else (drawn[0] + self.min_gain, drawn[1] + self.min_gain)
        strict = reference.name in (INCUMBENT, ZERO_SHOT)
        beaten = interval is not None and interval[0] > self.min_gain if strict else gain is not None and gain > 0
        return Comparison(
            name=reference.name,
            gain=gain,
            interval=interval,
            ci95=ci95,
            bootstrap_ci95=bootstrap,
            degrees_of_freedom=degrees,
            windows=len(tuned),
            origins=len(origins),
            horizon_blocks=round(blocks, 2),
            beaten=beaten and not for_information,
            for_information=for_information,
            period=reference.period,
        )

    def _differences(self, clock: Ints, tuned: WindowErrors, other: WindowErrors) -> tuple[Floats | None, float | None]:
        """([n] linearised differences by origin, gain). d_t = (L_ref·(1 − g) − L_tuned) ÷ mean L_ref.

        The mean of d is the gain minus g, with every series weighing the same however many windows it has; a window's
        part in its origin is its deviation from that mean, so that an origin with few series is no outlier.
        """
        weight = tuned.weights()
        total = weight.sum()  # the number of series with a window
        if not total:
            return None, None
        weight = weight / total
        loss, bar = tuned.losses(self.metric), other.losses(self.metric)
        mean_loss, mean_bar = float(weight @ loss), float(weight @ bar)
        if mean_bar <= 0.0:
            return None, 0.0 if mean_loss <= 0.0 else None
        x = (bar * (1.0 - self.min_gain) - loss) / mean_bar
        mean = float(weight @ x)
        origins, place = np.unique(clock, return_inverse=True)
        parts = np.bincount(place, weights=weight * (x - mean)).astype(np.float64)
        d: Floats = mean + len(origins) * parts
        return d, 1.0 - mean_loss / mean_bar

    def _shifted(self, d: Floats, degrees: int, level: float) -> tuple[float, float]:
        low, high = cosine_interval(d, degrees=degrees, level=level)
        return float(low) + self.min_gain, float(high) + self.min_gain


def horizon_origins(clock: Ints, prediction_length: int) -> float:
    """H in origins: H ÷ the usual distance of neighbours, at least 1; strided windows overlap less."""
    origins = np.unique(clock)
    step = float(np.median(np.diff(origins))) if len(origins) > 1 else float(prediction_length)
    return max(1.0, prediction_length / step)


def _covered(origins: Ints, prediction_length: int) -> int:
    """Steps of time that the targets of these (sorted) origins cover."""
    if not len(origins):
        return 0
    return int(np.minimum(np.diff(origins), prediction_length).sum()) + prediction_length


def hardest(comparisons: Sequence[Comparison]) -> Comparison:
    """One entry for a rival that was tried at several periods: the one with the smallest gain."""
    worst = min(comparisons, key=_gain)
    if len(comparisons) == 1:
        return worst
    return dataclasses.replace(worst, periods={str(c.period): c.gain for c in comparisons})


def _gain(comparison: Comparison) -> float:
    return -np.inf if comparison.gain is None else comparison.gain
