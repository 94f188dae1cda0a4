"""Plays the rest of a search many times with random ends of trials. Numbers in, numbers out.

A search ends with its last trial, or when its budget is used up.
"""

from __future__ import annotations

import heapq
import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from segtune.checks.survival import Survival

# Searches that are played: enough for a 10 % quantile. Fewer if there are many trials, whose sum
# varies less.
MAX_SEARCHES = 200
MIN_SEARCHES = 20
TRIALS_PLAYED = 10_000


@dataclass(frozen=True)
class Pace:
    """How the time of a trial grows with its epochs."""

    num_epochs: int  # of a trial of full length
    val_every: int
    val_ratio: float  # a validation relative to the training steps of an epoch

    @property
    def num_vals(self) -> int:
        """Validations of a trial of full length; the last epoch always has one."""
        return -(-self.num_epochs // self.val_every)

    def units(self, num_epochs: int) -> float:
        """Return the time of the first epochs, in units of an epoch of a full trial.

        A full trial takes as many units as it has epochs.
        """
        is_full = num_epochs == self.num_epochs
        num_vals = self.num_vals if is_full else num_epochs // self.val_every
        full = self.num_epochs + self.val_ratio * self.num_vals
        return self.num_epochs * (num_epochs + self.val_ratio * num_vals) / full


@dataclass(frozen=True)
class TrialToCome:
    """A trial that is running or has not started yet."""

    number: int
    epoch_s: float | None  # seconds of an epoch of a full trial; None: as that of any drawn trial
    done: int = 0  # epochs
    spent_s: float = 0.0  # since the end of the last of them


@dataclass(frozen=True)
class SearchToCome:
    """What is left of a search."""

    running: Sequence[TrialToCome]
    waiting: Sequence[TrialToCome]  # in the order in which they start
    drawn_epoch_s: Sequence[float]  # seconds of an epoch of drawn trials
    num_slots: int
    first_launch_s: float  # from the start of the search to the first step of a slot
    launch_s: float  # from the end of a trial to the first step of the next
    is_started: bool  # whether the processes of the slots run already
    time_spread: float  # standard deviation of the logarithm of all times
    max_seconds: float = math.inf  # that the budget leaves
    max_epochs: float = math.inf  # ... of all trials to come


@dataclass(frozen=True)
class Outcomes:
    """What came out of the searches that were played, in ascending order."""

    seconds: Sequence[float]
    mean_epochs: float  # trained by the trials to come
    cut_share: float = 0.0  # of the searches that the budget ended, in 0..1

    def quantile(self, share: float) -> float:
        """Return the seconds that a share of the searches did not exceed."""
        return self.seconds[round(share * (len(self.seconds) - 1))]


def play(search: SearchToCome, pace: Pace, survival: Survival, seed: int = 0) -> Outcomes:
    """Play the rest of a search many times; `survival` says how likely trials are stopped."""
    num_trials = len(search.running) + len(search.waiting)
    fitting = TRIALS_PLAYED // max(1, num_trials)
    rng = random.Random(seed)
    results = [
        _OneSearch(search, pace, survival.copy(), rng).play()
        for _ in range(max(MIN_SEARCHES, min(MAX_SEARCHES, fitting)))
    ]
    seconds, epochs, are_cut = zip(*results, strict=True)
    return Outcomes(sorted(seconds), statistics.mean(epochs), statistics.mean(are_cut))


@dataclass(frozen=True)
class TrialSpan:
    """When a trial trains, in seconds from now, and how many epochs."""

    began: float
    ended: float
    num_epochs: int


def end_of_budget(
    spans: Sequence[TrialSpan], max_seconds: float, max_epochs: float
) -> tuple[float, float]:
    """Return when a search with these trials ends, and how many epochs it has trained by then.

    It ends with the last trial, after `max_seconds`, or when `max_epochs` are trained.
    """
    end_s = min(max((span.ended for span in spans), default=0.0), max_seconds)
    # Where the number of trials that train changes: each adds its epochs per second from its start.
    changes: list[tuple[float, float]] = []
    num_epochs = 0.0
    for span in spans:
        if span.ended <= span.began:  # times are not known
            num_epochs += span.num_epochs
            continue
        rate = span.num_epochs / (span.ended - span.began)
        changes += [(span.began, rate), (span.ended, -rate)]
    now, rate = 0.0, 0.0
    for moment, change in [*sorted(changes), (math.inf, 0.0)]:
        until = min(moment, end_s)
        if num_epochs + rate * (until - now) >= max_epochs:
            waiting_s = (max_epochs - num_epochs) / rate if rate > 0 else 0.0
            return now + max(0.0, waiting_s), max_epochs
        num_epochs += rate * (until - now)
        if moment >= end_s:
            break
        now, rate = moment, rate + change
    return end_s, num_epochs


class _OneSearch:
    """One search with random ends of its trials."""

    def __init__(
        self, search: SearchToCome, pace: Pace, survival: Survival, rng: random.Random
    ) -> None:
        self.search = search
        self.pace = pace
        self.survival = survival
        self.rng = rng
        self.factor = math.exp(rng.gauss(0.0, search.time_spread))
        self.spans: list[TrialSpan] = []

    def play(self) -> tuple[float, float, bool]:
        """Return the seconds and the epochs that are left, and whether the budget ends the search.

        A free slot takes the next trial.
        """
        search = self.search
        begin = 0.0 if search.is_started else search.first_launch_s - search.launch_s
        num_free = search.num_slots - len(search.running)
        wave = [*search.running, *search.waiting[:num_free]]
        waves = {trial.number: begin + search.launch_s for trial in wave}
        waves |= dict.fromkeys((trial.number for trial in search.running), 0.0)
        # Trials that run at the same time come to the decisions of the rule in any order.
        free = [self._end(trial, waves[trial.number]) for trial in self._shuffled(wave)]
        heapq.heapify(free)
        for trial in search.waiting[num_free:]:
            start = heapq.heappop(free) + search.launch_s
            heapq.heappush(free, self._end(trial, start))
        return self._cut()

    def _cut(self) -> tuple[float, float, bool]:
        """Return when the budget ends the search, or its last trial."""
        search = self.search
        last_s = max((span.ended for span in self.spans), default=0.0)
        num_epochs = sum(span.num_epochs for span in self.spans)
        if last_s <= search.max_seconds and num_epochs <= search.max_epochs:
            return last_s, num_epochs, False
        return *end_of_budget(self.spans, search.max_seconds, search.max_epochs), True

    def _shuffled(self, trials: Sequence[TrialToCome]) -> Sequence[TrialToCome]:
        return self.rng.sample(trials, len(trials))

    def _end(self, trial: TrialToCome, start_s: float) -> float:
        """Draw the end of a trial that takes its first step at `start_s`, in seconds from now."""
        end = self.survival.draw_end(trial.number, trial.done, self.rng)
        epoch_s = trial.epoch_s
        if epoch_s is None:
            epoch_s = self.rng.choice(self.search.drawn_epoch_s)
        units = self.pace.units(end) - self.pace.units(trial.done)
        end_s = start_s + max(0.0, self.factor * epoch_s * units - trial.spent_s)
        self.spans.append(TrialSpan(start_s, end_s, end - trial.done))
        return end_s
