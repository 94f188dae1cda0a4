"""What trials would reach at full length, and how much a search may still gain. Fits no model."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Mapping, Sequence

from segtune.tuning.warm_start import KnownTrial

# With fewer trials that have ended with a score, nothing is expected.
MIN_TRIALS = 30
# The gain is looked at after at most so many numbers of trials.
MAX_LOOKS = 20


def expected_gain(scores: Sequence[float]) -> float | None:
    """Return how much as many trials again may raise the best score, in the unit of the scores.

    `scores` are those of all trials at full length, in the order in which they were drawn. None
    with fewer than MIN_TRIALS of them.

    The best score of a search rises about as much with every doubling of its trials, or less: with
    random draws, less than the logarithm of their number. So what comes is measured by what has
    been, in two ways, and the larger rise counts: what the later two thirds of the trials have
    gained over the first third, and what n random ones of these trials would gain over n / 2 of
    them, in the mean over all choices. The first is what the search has done; the second does not
    depend on when the best trial happened to be drawn. A search may rest for a while, therefore the
    largest of these gains over the last half of the trials is returned. Ours; benchmarks/README.md
    shows what it is worth, beside the terminators of Optuna.
    """
    number = len(scores)
    if number < MIN_TRIALS:
        return None
    first = number // 2
    looks = {number - (number - first) * look // MAX_LOOKS for look in range(MAX_LOOKS + 1)}
    return max(_gain_of(scores[:look]) for look in looks)


def _gain_of(scores: Sequence[float]) -> float:
    best = max(scores)
    of_later = best - max(scores[: len(scores) // 3])
    return max(of_later, best - mean_best(scores, len(scores) // 2))


def mean_best(scores: Sequence[float], count: int) -> float:
    """Return the best of `count` scores, in the mean over all choices of `count` from `scores`.

    1 <= count <= len(scores). Of n scores in ascending order, the i-th is the best of a choice with
    probability C(i - 1, count - 1) / C(n, count).
    """
    ordered, number = sorted(scores), len(scores)
    probability = count / number
    mean = 0.0
    for index in range(number, count - 1, -1):
        mean += probability * ordered[index - 1]
        probability *= (index - count) / max(1, index - 1)
    return mean


def expected_mious(trials: Mapping[int, KnownTrial]) -> dict[int, float]:
    """Return the best mIoU that each healthy trial has, or would have at full length, by number.

    Of a stopped trial, it is the best mIoU plus the median of what full trials gained after its
    last epoch.
    """
    full = [trial.mious for trial in trials.values() if trial.state == "completed"]
    gain_after = functools.cache(lambda epoch: _median_gain(full, epoch))
    return {
        number: max(trial.mious.values()) + gain_after(max(trial.mious))
        for number, trial in trials.items()
        if trial.mious and trial.state != "unhealthy"
    }


def _median_gain(full: Sequence[Mapping[int, float]], epoch: int) -> float:
    """Return the median rise of the best mIoU of full trials after `epoch`; 0 without any."""
    gains = [
        max(mious.values()) - max(miou for at, miou in mious.items() if at <= epoch)
        for mious in full
        if min(mious) <= epoch
    ]
    return statistics.median(gains) if gains else 0.0
