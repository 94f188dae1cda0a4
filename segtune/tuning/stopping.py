"""Rules that stop a trial early because others are better.

A rule counts in epochs and treats a score that is not finite as the worst. The same scores in the
same order lead to the same decisions, so a resumed search rebuilds its rule from the run folder.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Protocol

from segtune.tuning.search_config import HyperbandConfig, MedianConfig
from segtune.tuning.study import Study

# Multiples of the golden section modulo 1 spread evenly over 0..1, whichever trials come first.
GOLDEN_SECTION = (math.sqrt(5) - 1) / 2


class StoppingRule(Protocol):
    """Decides after each validated epoch whether a trial continues."""

    def decide(self, number: int, epoch: int, score: float) -> bool:
        """Record a trial's score and return whether the trial continues.

        `score` is the best score of trial `number` up to `epoch`; higher is better.
        """
        ...


class SuccessiveHalving:
    """At each rung a trial continues if it is among the best 1/reduction of those that reached it.

    Source: the stopping form of ASHA (Li et al. 2018, "A system for massively parallel
    hyperparameter tuning"). No trial waits for others, and none is promoted later. As in Optuna, a
    rung that fewer than `reduction` trials have reached passes only the best so far; Ray lets the
    first `reduction - 1` trials pass whatever their scores.
    """

    def __init__(self, rungs: Sequence[int], reduction: int) -> None:
        """`rungs` are epochs in ascending order; without rungs no trial is ever stopped."""
        self.reduction = reduction
        self.recorded: dict[int, dict[int, float]] = {rung: {} for rung in rungs}

    def decide(self, number: int, epoch: int, score: float) -> bool:
        """Decide as `StoppingRule.decide` describes.

        The last rung up to `epoch` decides, and only once about each trial: after that the trial
        continues to the next rung.
        """
        rung = max((r for r in self.recorded if r <= epoch), default=None)
        if rung is None or number in self.recorded[rung]:
            return True
        scores = self.recorded[rung]
        scores[number] = _finite_or_worst(score)
        num_continuing = max(1, len(scores) // self.reduction)
        num_better = sum(other > scores[number] for other in scores.values())
        return num_better < num_continuing and math.isfinite(scores[number])


class HyperbandBrackets:
    """Several halvings side by side, each with its first rung one later than the one before.

    Source: Hyperband (Li et al. 2017, section 3), here without waiting. A bracket that begins later
    gets fewer trials, so that all brackets spend about the same number of epochs. A trial's bracket
    depends only on its number.
    """

    def __init__(self, rungs: Sequence[int], reduction: int, brackets: int) -> None:
        """At most len(rungs) + 1 brackets are possible; the last of these stops no trial."""
        num_brackets = min(brackets, len(rungs) + 1)
        self.halvings = [
            SuccessiveHalving(rungs[first:], reduction) for first in range(num_brackets)
        ]
        last = len(rungs)
        weights = [
            reduction ** (last - first) / (last - first + 1) for first in range(num_brackets)
        ]
        # Bracket i takes the trials whose position in 0..1 lies between ends[i - 1] and ends[i].
        self.ends = [sum(weights[: i + 1]) / sum(weights) for i in range(num_brackets)]

    def bracket(self, number: int) -> int:
        """Return the bracket of a trial; 0 is the one that stops earliest."""
        position = number * GOLDEN_SECTION % 1.0
        inside = (i for i, end in enumerate(self.ends) if position < end)
        return next(inside, len(self.ends) - 1)

    def decide(self, number: int, epoch: int, score: float) -> bool:
        """Decide as `StoppingRule.decide` describes, among the trials of the same bracket."""
        return self.halvings[self.bracket(number)].decide(number, epoch, score)


class MedianRule:
    """A trial continues unless it is worse than the median of the other trials at the same epoch.

    Source: the median stopping rule of Google Vizier (Golovin et al. 2017, section 3.2.1), here
    with the median of the best scores so far.
    """

    def __init__(self, grace_epochs: int, min_trials: int) -> None:
        """No trial is stopped before `grace_epochs`, or against fewer than `min_trials` others."""
        self.grace_epochs = grace_epochs
        self.min_trials = min_trials
        self.recorded: dict[int, dict[int, float]] = {}

    def decide(self, number: int, epoch: int, score: float) -> bool:
        """Decide as `StoppingRule.decide` describes."""
        scores = self.recorded.setdefault(epoch, {})
        scores[number] = _finite_or_worst(score)
        others = [other for trial, other in scores.items() if trial != number]
        if epoch < self.grace_epochs or len(others) < self.min_trials:
            return True
        return math.isfinite(score) and score >= statistics.median(others)


def _finite_or_worst(score: float) -> float:
    return score if math.isfinite(score) else -math.inf


def stopping_rule(study: Study) -> StoppingRule:
    """Return the rule that a study's `search.scheduler` describes."""
    scheduler = study.search.scheduler
    if scheduler == "none":
        return SuccessiveHalving(rungs=[], reduction=2)
    chosen, rungs = scheduler.chosen, study.rungs()
    if isinstance(chosen, MedianConfig):
        return MedianRule(study.grace_epochs, chosen.min_trials)
    if isinstance(chosen, HyperbandConfig):
        return HyperbandBrackets(rungs, chosen.reduction, brackets=len(rungs) + 1)
    return HyperbandBrackets(rungs, chosen.reduction, chosen.brackets)
