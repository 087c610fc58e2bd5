"""Detectors without a model, which a tuned model has to beat: seasonal z-score, sub-PCA, left matrix profile.

Each is `score(values, train_end, period)` → [N] raw scores, higher = more anomalous, NaN where undefined. `values` [N]
is one whole series without gaps; only rows before `train_end` are fitted to, labels are never seen. `period` is the
season in rows, 1 for none (`period_of`). Nothing here was chosen by a labelled score.

What looks at windows gives a row the mean over the windows that hold it, as the field does: its score of a row depends
on up to `width − 1` rows after it, and is smooth. A forecaster's score is neither, and where labels are long that alone
is worth much: on NAB the z-score rises from a mean VUS-PR of 0.23 to 0.45 once `smoothed` alike, which is sub-PCA's.
"sub-PCA (causal)" gives a row the score of the window that ends with it. Compare like with like.
"""

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Score = Callable[[Floats, int, int], Floats]

MIN_PERIOD = 3
MIN_AUTOCORRELATION, NEARLY = 0.2, 0.9
USUAL_WIDTH, MIN_WIDTH = 125, 4
"""Rows of a window where there is no season (TSB-AD's usual length), and the least of any."""
EXPLAINED = 0.9
"""Share of the variance of train windows that sub-PCA's components keep."""
FLAT = 1e-7
"""A window whose deviation is below this share of the series' is flat: it has no shape to compare."""


def period_of(train: Floats) -> int:
    """The season of a train part in rows: the lag, at most half of it, of the highest peak of its autocorrelation.

    Only lags beyond the first at which the autocorrelation is not positive count (before it lies what any smooth series
    has), and only a peak of 0.2 or more. Multiples of a season peak as high: of peaks within a tenth of the highest the
    shortest lag is taken. 1 where there is none.
    """
    longest = len(train) // 2
    centred = train - train.mean()
    size = 2 ** int(np.ceil(np.log2(2 * len(train))))
    power = np.abs(np.fft.rfft(centred, size)) ** 2
    correlation = np.fft.irfft(power, size)[: longest + 1]
    if correlation[0] <= len(train) * (FLAT * float(np.abs(train).max())) ** 2:
        return 1  # constant
    correlation = correlation / correlation[0] * len(train) / (len(train) - np.arange(longest + 1))
    negative = np.flatnonzero(correlation <= 0)
    if not len(negative):
        return 1
    lags = np.arange(max(int(negative[0]), MIN_PERIOD), longest)
    peaks = lags[(correlation[lags] > correlation[lags - 1]) & (correlation[lags] >= correlation[lags + 1])]
    if not len(peaks) or (highest := float(correlation[peaks].max())) < MIN_AUTOCORRELATION:
        return 1
    return int(peaks[correlation[peaks] >= NEARLY * highest][0])


def seasonal_z_score(values: Floats, train_end: int, period: int) -> Floats:
    """|value − train's mean at its place in the season| ÷ deviation of train around those means.

    Its score of a row depends on train and that row alone.
    """
    place = np.arange(len(values)) % period
    known = place[:train_end]
    means = np.bincount(known, values[:train_end], period) / np.bincount(known, minlength=period)
    away = np.abs(values - means[place])
    deviation = float(np.sqrt(np.mean(away[:train_end] ** 2)))
    # A train part that repeats exactly has no deviation: any finite unit keeps the order of what departs from it.
    return away / (max(deviation, FLAT * float(np.abs(values[:train_end]).max())) or 1.0)


def sub_pca(values: Floats, train_end: int, period: int) -> Floats:
    """Mean squared error of windows projected on the components that keep 90 % of the variance of train's windows."""
    width = width_of(train_end, period)
    return over_rows(_projection_errors(values, train_end, width), width)


def sub_pca_causal(values: Floats, train_end: int, period: int) -> Floats:
    """The same of the window that ends with the row; the first `width − 1` rows are NaN."""
    width = width_of(train_end, period)
    return np.concatenate([np.full(width - 1, np.nan), _projection_errors(values, train_end, width)])


def _projection_errors(values: Floats, train_end: int, width: int) -> Floats:
    """[N − width + 1]"""
    windows = sliding_window_view(values, width)
    known = windows[: train_end - width + 1]
    mean = known.mean(axis=0)
    variances, components = np.linalg.eigh((known - mean).T @ (known - mean))
    variances, components = variances[::-1].clip(0), components[:, ::-1]
    total = float(variances.sum())
    count = int(np.searchsorted(np.cumsum(variances), EXPLAINED * total)) + 1 if total > 0 else 0
    kept = components[:, :count]
    centred = windows - mean
    errors: Floats = np.mean((centred - centred @ kept @ kept.T) ** 2, axis=1)
    return errors


def left_matrix_profile(values: Floats, train_end: int, period: int) -> Floats:
    """Distance of each window to the most like one that ended before it began, both with mean 0 and deviation 1.

    A window's candidates are all earlier ones, those after `train_end` too: nothing is fitted, but a second anomaly of
    one kind is no longer new (Yeh et al., ICDM 2016; computed by STOMP's recurrence, Zhu et al., ICDM 2016). Rows that
    only the first windows hold, which have no candidates, are NaN.
    """
    width = width_of(train_end, period)
    scale = float(values.std()) or 1.0
    x = (values - values.mean()) / scale
    windows = sliding_window_view(x, width)
    means, deviations = windows.mean(axis=1), windows.std(axis=1)
    flat = deviations < FLAT
    safe = np.where(flat, 1.0, deviations)
    nearest = np.full(len(windows), np.nan)
    products = windows @ x[:width]
    first_column = products.copy()  # of window 0 with each
    for i in range(1, len(windows)):
        # [i, i + width) with each j: one step along the diagonal from [i − 1, …) with j − 1
        products[1:] = products[:-1] - x[: len(windows) - 1] * x[i - 1] + x[width:] * x[i + width - 1]
        products[0] = first_column[i]
        if (earlier := i - width + 1) <= 0:
            continue
        alike = (products[:earlier] / width - means[:earlier] * means[i]) / (safe[:earlier] * safe[i])
        # A flat window is as any other flat one, and half way from every other (distance √width).
        alike = np.where(flat[:earlier], 1.0 if flat[i] else 0.5, 0.5 if flat[i] else alike)
        nearest[i] = np.sqrt(2 * width * max(0.0, 1 - float(alike.max())))
    return over_rows(nearest, width)


def width_of(train_end: int, period: int) -> int:
    """Rows of a window: a season (125 without one), but at most a quarter of train, so that it holds several."""
    return max(min(period if period >= MIN_WIDTH else USUAL_WIDTH, train_end // 4), MIN_WIDTH)


def over_rows(of_windows: Floats, width: int) -> Floats:
    """[N] mean over the windows that hold a row, of [N − width + 1] figures; those that are NaN do not count."""
    known = np.isfinite(of_windows)
    sums = np.convolve(np.where(known, of_windows, 0.0), np.ones(width))
    counts = np.convolve(known.astype(np.float64), np.ones(width))
    return np.where(counts > 0.5, sums / np.maximum(counts, 1.0), np.nan)


def smoothed(scores: Floats, width: int) -> Floats:
    """[N] a score by rows, spread as those of windows are: the mean over the windows that hold a row of their means."""
    return over_rows(sliding_window_view(scores, width).mean(axis=1), width)


BASELINES: dict[str, Score] = {
    "seasonal z-score": seasonal_z_score,
    "sub-PCA": sub_pca,
    "sub-PCA (causal)": sub_pca_causal,
    "left matrix profile": left_matrix_profile,
}
