"""The finished trials that a sampler draws from: a bounded part of the record of a search.

The record itself, which users open with optuna-dashboard, is an `OptunaStudyLog` of its own. A
history is kept in memory and rebuilt at a resume.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import optuna

from segtune.runs.verdict import Verdict
from segtune.tuning.optuna_study import OptunaStudyLog, to_frozen_trial
from segtune.tuning.space import Space
from segtune.tuning.warm_start import TELLING_STATES, KnownTrial


class BoundedHistory:
    """All trials of a short search; the best, the unhealthy and the latest trials of a long one.

    TPE fits its densities to all trials anew at every draw, which takes 700 ms at the
    ten-thousandth trial. It needs the few best trials (at most 25 make the good density, Bergstra
    et al. 2011) and a sample of the rest. Which trials are kept depends only on numbers and scores,
    so that a resumed search keeps the same ones.

    Trials begin and end with the same methods as in an `OptunaStudyLog`.
    """

    LIMIT = 120  # how many finished trials are kept
    BLOCK = 40  # trials are dropped once in so many trials
    REBUILD_AT_EVERY_DRAW = False  # whether the end of one trial changes how others are shown

    def __init__(self, space: Space) -> None:
        self.space = space
        self.ended: dict[int, KnownTrial] = {}  # trials of earlier runs have negative numbers
        self.running: dict[int, dict[str, Any]] = {}
        self.block_start = 0  # number of the first trial of the current block
        self.study_log = self._rebuilt()

    def add_known(self, trials: Iterable[KnownTrial]) -> None:
        """Add finished trials of earlier runs."""
        self.ended |= {-1 - i: known for i, known in enumerate(trials)}
        self.study_log = self._rebuilt()

    def ask(self, number: int, sampler: optuna.samplers.BaseSampler) -> dict[str, Any]:
        """Begin a trial and return its values, drawn by `sampler`."""
        if self._drop_old_trials(number) or self.REBUILD_AT_EVERY_DRAW:
            self.study_log = self._rebuilt()
        self.running[number] = self.study_log.ask(number, sampler)
        return self.running[number]

    def begin(self, number: int, params: dict[str, Any]) -> None:
        """Begin a trial with known values."""
        if self._drop_old_trials(number):
            self.study_log = self._rebuilt()
        self.study_log.begin(number, params)
        self.running[number] = params

    def withdraw(self, number: int) -> None:
        """End a trial that does not take place."""
        self.study_log.withdraw(number)
        del self.running[number]

    def report(self, number: int, epoch: int, miou: float) -> None:
        """Record the mIoU at an epoch, in 0..1."""
        self.study_log.report(number, epoch, miou)

    def tell(self, number: int, verdict: Verdict, mious: Mapping[int, float]) -> None:
        """End a trial according to its verdict, as `OptunaStudyLog.tell` does."""
        self.study_log.tell(number, verdict, mious)
        if verdict.state == "interrupted":
            return
        params = self.running.pop(number)
        if verdict.state in TELLING_STATES:
            self.ended[number] = KnownTrial.of(params, verdict.state, mious)

    def _drop_old_trials(self, number: int) -> bool:
        """Drop old trials if trial `number` begins a new block and there are more than LIMIT.

        Return whether that was the case. The trials of the current block stay. Of the older ones
        LIMIT stay: the best (one fifth), the latest unhealthy (one fifth) and the latest others.
        """
        block_start = number // self.BLOCK * self.BLOCK
        if block_start == self.block_start or len(self.ended) <= self.LIMIT:
            return False
        self.block_start = block_start
        old = {n: trial for n, trial in self.ended.items() if n < block_start}
        chosen = {*_best(old, self.LIMIT // 5), *_unhealthy(old)[-self.LIMIT // 5 :]}
        others = [n for n in sorted(old) if n not in chosen]
        chosen |= set(others[-(self.LIMIT - len(chosen)) :])
        kept = [n for n in sorted(self.ended) if n >= block_start or n in chosen]
        self.ended = {n: self.ended[n] for n in kept}
        return True

    def _rebuilt(self) -> OptunaStudyLog:
        """Return a new study that holds the trials of this history."""
        study = optuna.create_study(direction="maximize")
        study.add_trials([to_frozen_trial(t, self.space) for t in self._as_shown()])
        study_log = OptunaStudyLog(study, self.space)
        for number, params in self.running.items():
            study_log.begin(number, params)
        return study_log

    def _as_shown(self) -> list[KnownTrial]:
        """Return the finished trials as the sampler is to see them."""
        return list(self.ended.values())


class ExtrapolatedHistory(BoundedHistory):
    """A history for samplers that learn only from trials of full length.

    Every other trial is shown as if it had full length. A stopped trial gets its best mIoU plus the
    median of what full trials gained after that epoch; an unhealthy one gets the lowest value of
    the healthy. Otherwise a Gaussian process would learn nothing from the two thirds of the trials
    that successive halving stops early.
    """

    LIMIT = 200  # the time of a draw grows with the cube of the number of trials
    BLOCK = 20
    REBUILD_AT_EVERY_DRAW = True  # every full trial changes what the others are shown at

    def _as_shown(self) -> list[KnownTrial]:
        full = [trial.mious for trial in self.ended.values() if trial.state == "completed"]
        gain_after = functools.cache(lambda epoch: _median_gain(full, epoch))
        expected = {
            number: max(trial.mious.values()) + gain_after(max(trial.mious))
            for number, trial in self.ended.items()
            if trial.mious and trial.state != "unhealthy"
        }
        worst = min(expected.values(), default=0.0)
        return [
            KnownTrial.of(trial.params, "completed", {1: expected.get(number, worst)})
            for number, trial in self.ended.items()
        ]


def history_for(sampler: str, space: Space) -> BoundedHistory | None:
    """Return the history that a sampler draws from.

    None for samplers that draw from the record itself: CMA-ES keeps its state there, random and
    grid learn nothing.
    """
    match sampler:
        case "tpe":
            return BoundedHistory(space)
        case "gp":
            return ExtrapolatedHistory(space)
        case _:
            return None


def _median_gain(full: Sequence[Mapping[int, float]], epoch: int) -> float:
    """Return the median rise of the best mIoU of full trials after `epoch`; 0 without any."""
    gains = [
        max(mious.values()) - max(miou for at, miou in mious.items() if at <= epoch)
        for mious in full
        if min(mious) <= epoch
    ]
    return statistics.median(gains) if gains else 0.0


def _best(trials: Mapping[int, KnownTrial], count: int) -> list[int]:
    """Return the numbers of the best trials that are not unhealthy, in the order that TPE uses.

    Full trials come first, by their best mIoU. Stopped ones follow, by their last epoch and then
    by their mIoU there.
    """

    def rank(number: int) -> tuple[float, float]:
        trial = trials[number]
        if trial.state == "completed":
            return -math.inf, -max(trial.mious.values())
        last = max(trial.mious, default=0)
        return -last, -trial.mious.get(last, 0.0)

    healthy = [number for number, trial in trials.items() if trial.state != "unhealthy"]
    return sorted(healthy, key=rank)[:count]


def _unhealthy(trials: Mapping[int, KnownTrial]) -> list[int]:
    return [number for number in sorted(trials) if trials[number].state == "unhealthy"]
