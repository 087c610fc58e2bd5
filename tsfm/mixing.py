"""How much of a plain fill is mixed into a network's: measured on gaps whose truth is known.

A network and the mean of both neighbouring seasons err in different places, so that a mixture is often better than
either (docs/benchmarks.md, imputation). One share for a source, from `SHARES`, with the lowest absolute error relative
to each window's scale: in a job on validation, else on observed spans of the given series.
"""

from collections.abc import Callable

import numpy as np

from tsfm.errors import Cancelled
from tsfm.evaluate import never_stop
from tsfm.series.windows import Windows
from tsfm.tasks.forecast import BATCH_SIZE
from tsfm.tasks.sources import FillSource

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def best_share(source: FillSource, windows: Windows, *, should_stop: Callable[[], str | None] = never_stop) -> float:
    """The share of the plain fill; 0 where nothing is observed. Of equals the smallest: a tie changes nothing."""
    alone = source.mixed(0.0)
    errors = np.zeros(len(SHARES))
    for begin in range(0, len(windows), BATCH_SIZE):
        if reason := should_stop():
            raise Cancelled(f"Stopped while choosing how to fill: {reason}.", code=reason)
        indices = np.arange(begin, min(begin + BATCH_SIZE, len(windows)))
        batch, target = windows.batch(indices), windows.raw_target(indices)
        said = alone(batch, windows.prediction_length).point
        plain = source.plain(batch, windows.prediction_length)
        for i, share in enumerate(SHARES):
            off = np.abs(said + share * (plain - said) - target) / batch.scale[:, None]
            errors[i] += float(off[~np.isnan(target)].sum())
    return SHARES[int(np.argmin(errors))]
