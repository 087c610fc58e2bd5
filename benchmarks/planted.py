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


def echo(length: int, *, seed: int, changed_from: int | None = None, then: float = -DIP) -> Floats:
    """[length] spikes with dips; from `changed_from` on the dips have the size `then`, unlike what could be learnt."""
    rng = np.random.default_rng((3, seed))
    values = NOISE * rng.normal(size=length + DELAY + WIDTH)
    for at in np.flatnonzero(rng.random(length) < SPIKES_PER_STEP):
        values[at] += SPIKE
        changed = changed_from is not None and at + DELAY >= changed_from
        values[at + DELAY : at + DELAY + WIDTH] += then if changed else DIP
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


def half_helped(length: int, *, seed: int, num_series: int) -> SeriesFrame:
    """Half of the series echo to their end; the others have no more dips from where their training ends."""
    train = int(0.6 * length)
    rows = [
        echo(length, seed=1_000 * seed + i, changed_from=None if i < num_series // 2 else train, then=0.0)
        for i in range(num_series)
    ]
    return frame(*rows)
