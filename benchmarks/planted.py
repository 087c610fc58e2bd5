"""Series whose right answer is known: what a gate must accept, and what it must refuse.

`echo` is a pattern that no pretraining has shown: a spike at a random moment is followed, always after the same delay,
by a dip. Nothing repeats, so that neither a seasonal rival nor a pretrained forecaster knows of the dip; a few hundred
steps of tuning learn it. The spikes themselves cannot be foreseen.
"""

import numpy as np
from numpy.typing import NDArray

from tsfm.series.frame import SeriesFrame

Floats = NDArray[np.float64]
FREQ = "h"
SPIKE, DIP, SPIKES_PER_STEP, NOISE = 8.0, -4.0, 1 / 20, 0.2
DELAY, WIDTH = 7, 6
"""Steps from a spike to its dip, and how long that lasts; a horizon below the delay sees only dips it could foresee."""
HORIZON = 6
CONTEXT = 32


def echo(length: int, *, seed: int, changed_from: int | None = None) -> Floats:
    """[length] spikes with dips; from `changed_from` on the dips are bumps: what was learnt before is now wrong."""
    rng = np.random.default_rng((3, seed))
    values = NOISE * rng.normal(size=length + DELAY + WIDTH)
    for at in np.flatnonzero(rng.random(length) < SPIKES_PER_STEP):
        values[at] += SPIKE
        changed = changed_from is not None and at + DELAY >= changed_from
        values[at + DELAY : at + DELAY + WIDTH] += -DIP if changed else DIP
    return values[:length]


def noise(length: int, *, seed: int) -> Floats:
    """[length] independent normal values: nothing can be learnt beyond their mean."""
    return np.random.default_rng((2, seed)).normal(size=length)


def frame(*rows: Floats) -> SeriesFrame:
    """Hourly series on one clock."""
    return SeriesFrame(
        item_ids=tuple(f"s{i:02d}" for i in range(len(rows))),
        values=np.concatenate(rows),
        offsets=np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64),
        starts=np.zeros(len(rows), dtype=np.int64),
        freq=FREQ,
    )


def seasonal(length: int, *, seed: int) -> Floats:
    """[length] a jagged shape that repeats after 40 to 60 steps: plain in a long context, not in one of `CONTEXT`."""
    rng = np.random.default_rng((4, seed))
    period = int(rng.integers(40, 61))
    return np.resize(rng.normal(size=period), length) + NOISE * rng.normal(size=length)


def half_helped(length: int, *, seed: int, num_series: int) -> SeriesFrame:
    """Half of the series echo, which only the tuned model knows; half repeat what only zero-shot looks back far enough
    to see."""
    each = num_series // 2
    seeds = [1_000 * seed + i for i in range(each)]
    return frame(*(echo(length, seed=s) for s in seeds), *(seasonal(length, seed=s) for s in seeds))
