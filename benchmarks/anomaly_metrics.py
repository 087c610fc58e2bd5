"""How well scores and alarms agree with labelled anomalies (evaluation.md §11).

VUS, the length of its window, range-based and affiliation F1 are TSB-AD's own code, version 1.5 (Liu & Paparrizos,
NeurIPS 2024; VUS: Paparrizos et al., VLDB 2022), which comes with the extra `benchmarks` (see `INSTALL`). The other
packages that offer a VUS compute another number: aeon 1.6 and dtaianomaly 0.5 put 0.49 where TSB-AD puts 0.60.
The rest is a few lines of numpy each and needs no extra.

Arrays are one series long, the scored rows alone: `labels` [N] bool with rows of both kinds, `scores` [N] finite
floats (higher is more anomalous), `alarms` [N] bool. A *best* F1 picks its threshold by the labels: an oracle, no
detector. Point adjustment counts an anomaly as found whole once one of its rows is; a random score does well by it, so
it stands only beside the others.
"""

import importlib
import warnings
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from anomaly_sets import events
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

INSTALL = "pip install -c constraints.txt -e '.[benchmarks]' && pip install --no-deps -c constraints.txt TSB-AD"
"""TSB-AD is installed without its requirements: they name numpy<2 and what its forty detectors need; its metrics run on
numpy 2 and need scikit-learn and statsmodels, which are the extra."""
VUS_THRESHOLDS = 250
ADJUSTED_THRESHOLDS = 100


class AbsentLibrary(Exception):
    """TSB-AD is not installed; the message says how to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """How well scores rank rows; no threshold is chosen."""

    vus_pr: float
    vus_roc: float
    auc_pr: float
    """Average precision, as in TSB-AD."""
    auc_roc: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """F1 of alarms at a line that was drawn without labels."""

    precision: float
    recall: float
    f1: float
    """Of rows."""
    range_f1: float
    affiliation_f1: float
    point_adjusted_f1: float
    """Beside the others only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """Where the anomaly stands among the segments, the highest score first."""

    rank: int
    """1 = the anomaly's segment has the highest score; among equals the last."""
    total: int

    @property
    def quantile(self) -> float:
        """The share of segments that must be looked at until the anomaly is met."""
        return self.rank / self.total


# By rank --------------------------------------------------------------------------------------------------------------


def ranking(labels: Bools, scores: Floats, *, window: int) -> Ranking:
    vus_pr, vus_roc = vus(labels, scores, window=window)
    return Ranking(vus_pr=vus_pr, vus_roc=vus_roc, auc_pr=auc_pr(labels, scores), auc_roc=auc_roc(labels, scores))


def vus(labels: Bools, scores: Floats, *, window: int) -> tuple[float, float]:
    """Volumes under the PR and the ROC surface: their areas, averaged over buffers of 0 … `window` rows at the ends of
    anomalies. 250 thresholds, at even ranks.

    TSB-AD's variant `opt_mem`: the same numbers as its `opt`, a little faster, 2 kB of memory a row. A row of a buffer
    counts as anomalous where an alarm hits it, so that noise has more than a half of the ROC volume (0.6 is usual).
    """
    _refuse(labels, scores)
    module = _library("evaluation.basic_metrics")
    *_, roc, pr = module.generate_curve(labels.astype(int), scores, window, "opt_mem", VUS_THRESHOLDS)
    return float(pr), float(roc)


def window_length(values: Floats) -> int:
    """VUS's `window` of a series, as TSB-AD picks it: the lag of the highest peak of the autocorrelation of the whole
    series (of its first 20,000 rows; lags 6 to 303), 125 where there is none."""
    module = _library("utils.slidingWindows")
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # a constant series has no autocorrelation
        return int(module.find_length_rank(values, rank=1))


def auc_pr(labels: Bools, scores: Floats) -> float:
    """Average precision: precision at each distinct score, weighted by the recall it adds."""
    _refuse(labels, scores)
    hits, alarms = _counts(labels, scores)
    gained = np.diff(hits, prepend=0) / hits[-1]
    return float((gained * hits / alarms).sum())


def auc_roc(labels: Bools, scores: Floats) -> float:
    """The chance that an anomalous row scores higher than a normal one; equals count half."""
    _refuse(labels, scores)
    hits, alarms = _counts(labels, scores)
    false = alarms - hits
    return float(np.trapezoid(np.concatenate([[0], hits]) / hits[-1], np.concatenate([[0], false]) / false[-1]))


# By the best threshold (an oracle) ------------------------------------------------------------------------------------


def best_f1(labels: Bools, scores: Floats) -> float:
    """The highest F1 of rows over every threshold."""
    _refuse(labels, scores)
    hits, alarms = _counts(labels, scores)
    return float((2 * hits / (alarms + hits[-1])).max())


def adjusted_best_f1(labels: Bools, scores: Floats) -> float:
    """The highest point-adjusted F1 over 100 thresholds between the lowest and the highest score, as MOMENT and TRACE
    report it on UCR (papers.md §1.8)."""
    _refuse(labels, scores)
    lines = np.linspace(scores.min(), scores.max(), ADJUSTED_THRESHOLDS)
    return max(f1(labels, point_adjusted(labels, scores >= line)) for line in lines)


# At a given line ------------------------------------------------------------------------------------------------------


def found(labels: Bools, alarms: Bools) -> Found:
    hits = int((labels & alarms).sum())
    return Found(
        precision=hits / max(int(alarms.sum()), 1),
        recall=hits / int(labels.sum()),
        f1=f1(labels, alarms),
        range_f1=range_f1(labels, alarms),
        affiliation_f1=affiliation_f1(labels, alarms),
        point_adjusted_f1=point_adjusted_f1(labels, alarms),
    )


def f1(labels: Bools, alarms: Bools) -> float:
    """Of rows; 0 without alarms."""
    return 2 * int((labels & alarms).sum()) / (int(labels.sum()) + int(alarms.sum()))


def point_adjusted_f1(labels: Bools, alarms: Bools) -> float:
    """F1 of rows after point adjustment (Xu et al., WWW 2018); never to be shown alone."""
    return f1(labels, point_adjusted(labels, alarms))


def point_adjusted(labels: Bools, alarms: Bools) -> Bools:
    """Alarms, raised throughout every anomaly that holds one."""
    out = alarms.copy()
    for first, end in events(labels):
        out[first:end] = alarms[first:end].any()
    return out


def range_f1(labels: Bools, alarms: Bools) -> float:
    """Range-based F1 (Tatbul et al., NeurIPS 2018) with TSB-AD's choices: flat bias, an existence reward of 0.2 in the
    recall, an anomaly in pieces divided by their number. 0 without alarms."""
    if not alarms.any():
        return 0.0
    metric = _library("evaluation.basic_metrics").basic_metricor().metric_RF1
    return float(metric(labels.astype(int), None, preds=alarms.astype(int)))


def affiliation_f1(labels: Bools, alarms: Bools) -> float:
    """Affiliation F1 (Huet et al., KDD 2022): how near alarms and anomalies are, against chance. 0 without alarms.

    A lenient figure: random alarms have a precision of one half and a high recall.
    """
    if not alarms.any():
        return 0.0
    metric = _library("evaluation.basic_metrics").basic_metricor().metric_Affiliation
    return float(metric(labels.astype(int), None, preds=alarms.astype(int)))


# UCR ------------------------------------------------------------------------------------------------------------------


def first_hit(labels: Bools, scores: Floats, *, segment: int) -> Hit:
    """Timer's and SFF's measure on UCR (papers.md §2.6): rows are cut into segments of `segment` (theirs: 96) from the
    first scored row on, the last may be shorter; a segment scores the mean of its rows."""
    _refuse(labels, scores)
    starts = np.arange(0, len(scores), segment)
    means = np.add.reduceat(scores, starts) / np.diff(starts, append=len(scores))
    anomalous = np.logical_or.reduceat(labels, starts)
    before = int((means[~anomalous] >= means[anomalous].max()).sum())
    return Hit(rank=before + 1, total=len(starts))


# Within ---------------------------------------------------------------------------------------------------------------


def lowest_where_undefined(scores: Floats) -> tuple[Floats, int]:
    """Scores with each NaN as the lowest of all, and how many there were: what has no score raises no alarm. Infinite
    ones (a constant ended) stand one above the highest other."""
    missing, endless = np.isnan(scores), np.isposinf(scores)
    assert not missing.all(), "no row has a score"
    highest = float(np.max(scores, where=~missing & ~endless, initial=0.0))
    finite = np.where(endless, highest + 1.0, scores)
    return np.where(missing, np.nanmin(finite), finite), int(missing.sum())


def _counts(labels: Bools, scores: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Anomalous rows and all rows at or above each distinct score, the highest first."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last_of_equals = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(scores) - 1)
    return np.cumsum(labels[order])[last_of_equals], last_of_equals + 1


def _refuse(labels: Bools, scores: Floats) -> None:
    assert labels.shape == scores.shape == (len(labels),), f"labels {labels.shape}, scores {scores.shape}"
    assert labels.dtype == np.bool_, "labels are not boolean"
    assert labels.any(), "no row is anomalous: nothing can be ranked"
    assert not labels.all(), "every row is anomalous: nothing can be ranked"
    assert np.isfinite(scores).all(), "scores must be finite: see lowest_where_undefined"


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"TSB_AD.{name}")
    except ModuleNotFoundError as error:
        raise AbsentLibrary(f"{error.name} is not installed (extra benchmarks): {INSTALL}") from error
