"""Dynamic simulation-based importance calculation (DSIC), the pure part: which modules to mask, when, and how to rank.

papers.md §1.3 and §1.10, evaluation.md §7 (which wins). A module's importance is read while other modules are masked at
random, in the proportion in which they will be masked afterwards: it is measured in the kind of company it will keep.
Nothing here knows a network; n modules are numbered, M draws mask k of them each.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One selection: after optimizer step `step`, `num_kept` modules stay on."""

    step: int
    num_kept: int


def num_kept(num_modules: int, keep_ratio: float) -> int:
    """Modules that survive: the ratio counts modules, and at least one is left."""
    return max(1, round(keep_ratio * num_modules))


def schedule(
    total_steps: int, *, num_modules: int, keep_ratio: float, rounds: int, first: float, last: float
) -> tuple[Round, ...]:
    """The rounds of a run of `total_steps`; the last one is the final freeze. Empty where nothing is to be masked.

    The rounds lie evenly between the shares `first` and `last` of the run; the number kept falls linearly and meets
    the budget exactly in the last. Where a short run makes two rounds fall on one step, the later one stands.
    """
    masked_at_last = num_modules - num_kept(num_modules, keep_ratio)
    if masked_at_last == 0:
        return ()
    found: dict[int, Round] = {}
    for i in range(1, rounds + 1):
        share = last if rounds == 1 else first + (last - first) * (i - 1) / (rounds - 1)
        # Not before a step has been made: with B at zero every importance is exactly zero.
        step = max(1, math.ceil(share * total_steps - 1e-9))
        if masked := round(masked_at_last * i / rounds):
            found[step] = Round(step=step, num_kept=num_modules - masked)
    return tuple(found[step] for step in sorted(found))


def simulated_masks(num_modules: int, num_masked: int, *, num_draws: int, rng: np.random.Generator) -> Mask:
    """[M, n] True = masked. Consecutive blocks of `num_masked` out of concatenated random permutations.

    No module stands twice in a block, and over all draws no module is masked more than once oftener than another: a
    block that goes over the end of one permutation is completed by modules that it does not hold yet.
    """
    masks = np.zeros((num_draws, num_modules), dtype=np.bool_)
    left = rng.permutation(num_modules)
    for row in masks:
        block, left = left[:num_masked], left[num_masked:]
        if len(block) < num_masked:
            others = rng.permutation(np.setdiff1d(np.arange(num_modules), block))
            wanted = num_masked - len(block)
            left = rng.permutation(np.concatenate([others[wanted:], block]))
            block = np.concatenate([block, others[:wanted]])
        row[block] = True
    return masks


def importance(measured: Scores, masks: Mask, *, all_draws: bool = False) -> Scores:
    """[n] from `measured` [M, n], each entry a mean over windows of |∂ℓ/∂ξ| in one draw.

    Averaged over the draws in which a module was on; one that never was (few draws, a small budget) is averaged over
    all, where its derivative is the one at ξ = 0. `all_draws` averages every module over all.
    """
    counted = np.ones_like(masks) if all_draws else ~masks
    counted = counted | ~counted.any(axis=0)
    answer: Scores = (measured * counted).sum(axis=0) / counted.sum(axis=0)
    return answer


def strongest(scores: Scores | Sequence[float], count: int) -> Mask:
    """[n] True for the `count` highest scores; among equals the first."""
    kept = np.zeros(len(scores), dtype=np.bool_)
    kept[np.argsort(-np.asarray(scores), kind="stable")[:count]] = True
    return kept
