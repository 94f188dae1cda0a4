"""Which trials are stopped for being worse than others. Counts in epochs, treats what is not finite as worst, can be rebuilt."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Protocol

from segtune.tuning.study import HyperbandConfig, MedianConfig, Study

# The golden section spreads consecutive numbers evenly over 0..1, whatever is counted off there.
GOLDEN = (math.sqrt(5) - 1) / 2


class StoppingRule(Protocol):
    """Says after each validated epoch whether a trial goes on; the same numbers in the same order give the same answers."""

    def decide(self, number: int, epoch: int, score: float) -> bool:
        """Records the best score of trial `number` by `epoch`, higher is better, and returns whether it goes on."""
        ...


class SuccessiveHalving:
    """At each rung a trial goes on only among the best 1/reduction of those that have come there.

    Stopping form of ASHA (Li et al. 2018): nobody waits, nobody is promoted later. Below `reduction` arrivals only the
    best so far goes on, as in Optuna; Ray lets the first `reduction - 1` pass unseen.
    """

    def __init__(self, rungs: Sequence[int], reduction: int) -> None:
        """`rungs` are epochs in ascending order; without rungs nothing is ever stopped."""
        self.reduction = reduction
        self.recorded: dict[int, dict[int, float]] = {rung: {} for rung in rungs}

    def decide(self, number: int, epoch: int, score: float) -> bool:
        """As `StoppingRule` says. What is not finite counts as worst. A rung decides once about a trial: told again, it goes on."""
        rung = max((r for r in self.recorded if r <= epoch), default=None)
        if rung is None or number in self.recorded[rung]:
            return True
        scores = self.recorded[rung]
        scores[number] = score if math.isfinite(score) else -math.inf
        places = max(1, len(scores) // self.reduction)
        better = sum(other > scores[number] for other in scores.values())
        return better < places and math.isfinite(scores[number])


class HyperbandBrackets:
    """Several halvings side by side, each beginning one rung later than the one before: Hyperband without waiting.

    A bracket that begins late takes fewer trials, so that each spends about the same number of epochs (Li et al. 2017,
    section 3). A trial's bracket follows from its number.
    """

    def __init__(self, rungs: Sequence[int], reduction: int, brackets: int) -> None:
        """The last of len(rungs) + 1 possible brackets stops nothing."""
        self.halvings = [
            SuccessiveHalving(rungs[first:], reduction)
            for first in range(min(brackets, len(rungs) + 1))
        ]
        last = len(rungs)
        weights = [
            reduction ** (last - first) / (last - first + 1) for first in range(len(self.halvings))
        ]
        self.ends = [sum(weights[: n + 1]) / sum(weights) for n in range(len(weights))]

    def bracket(self, number: int) -> int:
        """Returns the bracket of a trial, 0 for the one that stops earliest."""
        place = number * GOLDEN % 1.0
        return next((n for n, end in enumerate(self.ends) if place < end), len(self.ends) - 1)

    def decide(self, number: int, epoch: int, score: float) -> bool:
        """As `StoppingRule` says."""
        return self.halvings[self.bracket(number)].decide(number, epoch, score)


class MedianRule:
    """A trial goes on while it is not worse than the median of the others' best scores by the same epoch.

    Source: the median rule of Golovin et al. 2017 (Vizier), section 3.2.1.
    """

    def __init__(self, grace_epochs: int, min_trials: int) -> None:
        """Nobody is stopped before `grace_epochs`, or where fewer than `min_trials` others have come."""
        self.grace_epochs, self.min_trials = grace_epochs, min_trials
        self.recorded: dict[int, dict[int, float]] = {}

    def decide(self, number: int, epoch: int, score: float) -> bool:
        """As `StoppingRule` says. What is not finite is worse than any median."""
        scores = self.recorded.setdefault(epoch, {})
        scores[number] = score if math.isfinite(score) else -math.inf
        others = [other for trial, other in scores.items() if trial != number]
        if epoch < self.grace_epochs or len(others) < self.min_trials:
            return True
        return math.isfinite(score) and score >= statistics.median(others)


def stopping_rule(study: Study) -> StoppingRule:
    """Returns the rule that a study asks for."""
    match study.search.scheduler:
        case "none":
            return SuccessiveHalving([], 2)
        case scheduler:
            chosen = scheduler.chosen
    if isinstance(chosen, MedianConfig):
        return MedianRule(chosen.grace_epochs, chosen.min_trials)
    rungs = study.rungs()
    return HyperbandBrackets(
        rungs,
        chosen.reduction,
        len(rungs) + 1 if isinstance(chosen, HyperbandConfig) else chosen.brackets,
    )
