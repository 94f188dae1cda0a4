"""How likely a trial passes each decision of the stopping rule. Learns during the search.

If the scores of the trials came in random order, the formula of the rule would say how many pass.
In a real search more of them pass, because the sampler improves, or fewer. Therefore the formula is
multiplied by observed / expected passes, each plus a constant: a standardised ratio with a gamma
prior (Clayton & Kaldor 1987). The product over the decisions is the survival curve, as in Kaplan &
Meier 1958.

A trial that is paused has not passed, until it goes on. The formula holds if trials pause, too:
each trial that reaches a rung lets 1/reduction of a trial go on, itself or one that waits there.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from segtune.tuning.chosen_rule import stopping_rule
from segtune.tuning.search_config import MedianConfig
from segtune.tuning.stopping import HyperbandBrackets, PausingRule, StoppingRule
from segtune.tuning.study import Study

# How many expected passes the formula of the rule weighs against those that were observed.
PRIOR_PASSES = 4.0
# Before any trial has ended, one trial in 20 is expected to end unhealthy or failed.
PRIOR_BAD_ENDS = 0.5
PRIOR_ENDS = 10.0


class _Decision(NamedTuple):
    """The trials that have come to one decision of the rule."""

    arrivals: int = 0
    passed: int = 0  # of the trials that can be stopped ...
    expected: float = 0.0  # ... and how many of them pass by the formula of the rule


class Survival:
    """The decisions of a study's stopping rule, and how likely a trial passes each of them."""

    def __init__(self, study: Study) -> None:
        self._num_epochs = study.epochs
        scheduler = study.search.scheduler
        self._chosen = None if scheduler == "none" else scheduler.chosen
        rule = stopping_rule(study)
        self._brackets = rule if isinstance(rule, HyperbandBrackets) else None
        self._epochs = _decision_epochs(study, rule)
        self._decisions: dict[tuple[int, int], _Decision] = {}  # by bracket and epoch
        self.num_ended = 0
        self.num_bad = 0
        self.num_untrained = 0

    def copy(self) -> Survival:
        """Return a copy that learns on its own."""
        other = object.__new__(Survival)
        other.__dict__.update(self.__dict__)
        other._decisions = dict(self._decisions)
        return other

    def decision_epochs(self, number: int) -> list[int]:
        """Return the epochs at which the rule may stop trial `number`, in ascending order."""
        return self._epochs[self._bracket(number)]

    def pass_probability(self, number: int, epoch: int) -> float:
        """Return how likely trial `number` continues after the decision at `epoch`."""
        if number == 0:  # the scheduler never stops the config itself
            return 1.0
        decision = self._at(number, epoch)
        ratio = (PRIOR_PASSES + decision.passed) / (PRIOR_PASSES + decision.expected)
        return min(1.0, ratio * self._share(decision.arrivals))

    def record(self, number: int, epoch: int, *, passed: bool) -> None:
        """Count a trial that has come to the decision at `epoch`."""
        decision = self._at(number, epoch)
        expected = self._share(decision.arrivals) if number else 0.0
        self._decisions[self._bracket(number), epoch] = _Decision(
            arrivals=decision.arrivals + 1,
            passed=decision.passed + (passed and number > 0),
            expected=decision.expected + expected,
        )

    def record_end(self, *, is_bad: bool = False, is_untrained: bool = False) -> None:
        """Count a trial that has ended.

        `is_bad`: unhealthy or failed. `is_untrained`: before its first epoch, because its network
        breaks a guard.
        """
        self.num_ended += 1
        self.num_bad += is_bad
        self.num_untrained += is_untrained

    @property
    def bad_end_probability(self) -> float:
        """How likely a trial ends unhealthy or failed."""
        return (PRIOR_BAD_ENDS + self.num_bad) / (PRIOR_ENDS + self.num_ended)

    def untrained_probability(self, number: int) -> float:
        """How likely trial `number` is not trained; 0 until a trial of the search was not."""
        if number == 0:  # no guard ends the config itself
            return 0.0
        return self.num_untrained / (PRIOR_ENDS + self.num_ended)

    def draw_end(self, number: int, done: int, rng: random.Random) -> int:
        """Draw the epoch at which trial `number` ends, which has `done` epochs; learn from it.

        What was drawn counts like an observation for the next draws (a Pólya urn). Therefore the
        draws of many copies vary as much as the rates are uncertain.
        """
        if done >= self._num_epochs:  # its verdict is not written yet
            return self._num_epochs
        untrained = self.untrained_probability(number) if done == 0 else 0.0
        if untrained and rng.random() < untrained:
            self.record_end(is_untrained=True)
            return 0
        is_bad = rng.random() < self.bad_end_probability
        # Nothing is known about the epoch at which a trial goes wrong.
        last = rng.randint(done + 1, self._num_epochs) if is_bad else self._num_epochs
        for epoch in self.decision_epochs(number):
            if done < epoch < last:
                passed = rng.random() < self.pass_probability(number, epoch)
                self.record(number, epoch, passed=passed)
                if not passed:
                    self.record_end()
                    return epoch
        self.record_end(is_bad=is_bad)
        return last

    def _at(self, number: int, epoch: int) -> _Decision:
        return self._decisions.get((self._bracket(number), epoch), _Decision())

    def _bracket(self, number: int) -> int:
        return self._brackets.bracket(number) if self._brackets else 0

    def _share(self, num_before: int) -> float:
        """Return how likely the next trial passes a decision to which `num_before` have come.

        This is the formula of the rule for scores that come in random order.
        """
        if self._chosen is None:
            return 1.0
        if isinstance(self._chosen, MedianConfig):
            return 1.0 if num_before < self._chosen.min_trials else 0.5
        num_trials = num_before + 1
        return max(1, num_trials // self._chosen.reduction) / num_trials


def _decision_epochs(study: Study, rule: StoppingRule) -> list[list[int]]:
    """Return the epochs of the decisions in each bracket."""
    if isinstance(rule, HyperbandBrackets):
        return [list(halving.recorded) for halving in rule.halvings]
    if isinstance(rule, PausingRule):
        return [list(rule.pause_epochs)]
    if study.search.scheduler == "none":
        return [[]]
    schedule = study.trial_config({}).schedule
    epochs = range(study.grace_epochs, study.epochs)
    return [[epoch for epoch in epochs if schedule.validates(epoch)]]
