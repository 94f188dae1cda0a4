"""Rules that stop or pause a trial early because others are better.

A rule counts in epochs and treats a score that is not finite as the worst. The same scores in the
same order lead to the same decisions, so a resumed search rebuilds its rule from the run folder.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from segtune.runs.verdict import State

# Multiples of the golden section modulo 1 spread evenly over 0..1, whichever trials come first.
GOLDEN_SECTION = (math.sqrt(5) - 1) / 2


class StoppingRule(Protocol):
    """Decides after each validated epoch whether a trial continues."""

    def decide(self, number: int, epoch: int, score: float) -> bool:
        """Record a trial's score and return whether the trial continues.

        `score` is the best score of trial `number` up to `epoch`; higher is better.
        """
        ...


@runtime_checkable
class PausingRule(StoppingRule, Protocol):
    """Pauses trials instead of stopping them, and says which of them goes on in a free slot.

    `decide` returns False if the trial is to be paused. The other methods tell the rule what became
    of its trials: `begin`, then any number of `pause` and `resume` in turn, then `end`. A trial is
    offered by `next_paused` only between `pause` and `resume`: before, its workers may still run.

    A resumed search calls `begin` and `decide` for each trial of the run folder, and then `pause`
    or `end` if the trial has paused or ended, whatever `decide` has returned. The trials come by
    number, the running ones last. So what a rule knows may not depend on the order of the trials.
    """

    @property
    def pause_epochs(self) -> Sequence[int]:
        """The epochs at which a trial can be paused; each ends with a validation.

        Trials write a full checkpoint at these epochs.
        """
        ...

    def begin(self, number: int, params: Mapping[str, Any]) -> None:
        """Take the values of a trial that begins: {dotted name: value}, without inactive settings.

        Those of trial 0, and of trials from before an --extend, may lie outside the space. A second
        call replaces the values of the first.
        """
        ...

    def pause(self, number: int) -> None:
        """Learn that a trial waits at its last epoch, and that it runs nowhere any more."""
        ...

    def resume(self, number: int) -> None:
        """Learn that a paused trial runs again."""
        ...

    def end(self, number: int, *, is_healthy: bool) -> None:
        """Learn that a trial has ended for good; `is_healthy`: neither unhealthy nor failed."""
        ...

    def next_paused(self, *, can_draw: bool) -> int | None:
        """Return the paused trial that is to go on in a free slot; None: none of them.

        If `can_draw`, None means that a new trial is worth more. Otherwise all trials of the search
        have begun, and None means that no paused trial is worth the time: if nothing runs either,
        the search ends.
        """
        ...

    def given_up(self) -> list[int]:
        """Return the paused trials that are to be pruned now, so that few checkpoints are kept."""
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


class PausingHalving:
    """At each rung a trial waits until it is among the best 1/reduction of those that reached it.

    Source: the promotion form of ASHA (Li et al. 2018, algorithm 2). A free slot goes to the best
    waiting trial of the highest rung at which one may go on, else to a new trial. A trial that has
    ended unhealthy counts as the worst.

    Other than in algorithm 2, a rung counts how many of its trials have gone on while new ones are
    drawn. A sampler that learns draws better trials all the time, and each of them would go on in
    its turn. Once all trials have begun, the best of a rung go on whatever went on before, and at
    least one does; otherwise the best of a short search might wait for ever.
    """

    def __init__(self, rungs: Sequence[int], reduction: int, max_paused: int) -> None:
        """`rungs` are epochs in ascending order; at most `max_paused` trials wait at each.

        Trials that may go on in the next free slot, while new ones are drawn, do not count.
        """
        self.reduction = reduction
        self.max_paused = max_paused
        self.recorded: dict[int, dict[int, float]] = {rung: {} for rung in rungs}
        self.paused: set[int] = set()
        self.ended: set[int] = set()
        self.gone_on: dict[int, set[int]] = {rung: set() for rung in rungs}

    @property
    def pause_epochs(self) -> Sequence[int]:
        """The rungs."""
        return list(self.recorded)

    def begin(self, number: int, params: Mapping[str, Any]) -> None:
        """Do nothing: only scores count."""

    def decide(self, number: int, epoch: int, score: float) -> bool:
        """Decide as `StoppingRule.decide` describes; a rung decides only once about each trial."""
        rung = max((r for r in self.recorded if r <= epoch), default=None)
        if rung is None:
            return True
        # A trial beyond a rung has gone on there, also if the rule hears of it again after a kill.
        for lower, gone_on in self.gone_on.items():
            if number and lower < epoch and number in self.recorded[lower]:
                gone_on.add(number)
        if number in self.recorded[rung]:
            return True
        self.recorded[rung][number] = _finite_or_worst(score)
        continues = number in self._best(rung)
        if continues and number:
            self.gone_on[rung].add(number)
        return continues

    def pause(self, number: int) -> None:
        """Let a trial wait at the last rung that it has reached."""
        self.paused.add(number)
        if rung := self._last_rung(number):
            self.gone_on[rung].discard(number)

    def resume(self, number: int) -> None:
        """Take a trial from those that wait."""
        self.paused.discard(number)
        if rung := self._last_rung(number):
            self.gone_on[rung].add(number)

    def end(self, number: int, *, is_healthy: bool) -> None:
        """Take a trial from those that wait; one that is not healthy leaves its place to others."""
        self.paused.discard(number)
        self.ended.add(number)
        for rung, scores in self.recorded.items():
            if number in scores and not is_healthy:
                scores[number] = -math.inf
                self.gone_on[rung].discard(number)

    def next_paused(self, *, can_draw: bool) -> int | None:
        """Return the best trial that may go on, of the highest rung that has any; None: none."""
        for rung in reversed(self.recorded):
            best = self._best(rung) if can_draw else self._best_of_all(rung)
            waiting = self._waiting(rung)
            if promotable := [number for number in waiting if number in best]:
                return promotable[0]
        return None

    def given_up(self) -> list[int]:
        """Return the worst of the trials that wait at each rung, and those without a score.

        Also those that wait before the first rung, because an extended search has other rungs.
        """
        given_up = [number for number in sorted(self.paused) if not self._last_rung(number)]
        for rung, scores in self.recorded.items():
            best = self._best(rung)
            others = [number for number in self._waiting(rung) if number not in best]
            num_scored = sum(math.isfinite(scores[number]) for number in others)
            given_up += others[min(num_scored, self.max_paused) :]
        return given_up

    def _ranked(self, rung: int) -> list[int]:
        """Return the trials that have reached a rung, best first; of equal ones, the oldest."""
        scores = self.recorded[rung]
        return sorted(scores, key=lambda number: (-scores[number], number))

    def _best(self, rung: int) -> list[int]:
        """Return the trials that may go on after a rung; some of them have done so."""
        gone_on = self.gone_on[rung]
        others = [number for number in self._scored(rung) if number not in gone_on]
        num_others = len(self.recorded[rung]) // self.reduction - len(gone_on)
        return [*gone_on, *others[: max(0, num_others)]]

    def _best_of_all(self, rung: int) -> list[int]:
        """Return the trials that may go on once all trials have begun: the best by now."""
        return self._scored(rung)[: max(1, len(self.recorded[rung]) // self.reduction)]

    def _scored(self, rung: int) -> list[int]:
        """Return the healthy trials that have gone on after a rung or still may, best first.

        Trial 0, the config itself, is one of them, although it goes on in any case.
        """
        scores, gone_on = self.recorded[rung], self.gone_on[rung]
        return [
            number
            for number in self._ranked(rung)
            if math.isfinite(scores[number])
            if number == 0 or number in gone_on or number not in self.ended
        ]

    def _last_rung(self, number: int) -> int:
        """Return the last rung that a trial has reached; 0 if none."""
        return max((rung for rung, scores in self.recorded.items() if number in scores), default=0)

    def _waiting(self, rung: int) -> list[int]:
        """Return the trials that wait at a rung, best first."""
        higher = [scores for other, scores in self.recorded.items() if other > rung]
        here = [number for number in self._ranked(rung) if number in self.paused]
        return [number for number in here if not any(number in scores for scores in higher)]


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


def stopped_state(rule: StoppingRule | None) -> State:
    """Return the state of a trial that `rule` does not let continue; None: any other rule."""
    return "paused" if isinstance(rule, PausingRule) else "pruned"
