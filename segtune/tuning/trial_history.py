"""Optuna studies that know trials by our numbers: the whole record of a search, and the view of it that a sampler draws from."""

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
from segtune.tuning.warm_start import KnownTrial


class BoundedHistory:
    """What a sampler sees of a search: all of a short one; of a long one the best, the sick and the latest trials.

    TPE builds its densities anew from every trial at every draw, which takes 700 ms at the ten-thousandth. What it needs are
    the few best (at most 25 make the good density, Bergstra et al. 2011) and a picture of the rest. What is seen follows
    from the numbers alone, so that a resumed search sees the same.
    """

    LIMIT = 120  # trials that are kept in sight
    BLOCK = 40  # trials after which the choice is made again
    NEW_EACH_TIME = False  # whether the same trials are shown differently as others end

    def __init__(self, space: Space) -> None:
        self.space, self.base = space, 0
        self.ended: dict[int, KnownTrial] = {}
        self.running: dict[int, dict[str, Any]] = {}
        self.book = self._open()

    def add(self, trials: Iterable[KnownTrial]) -> None:
        """Shows trials of earlier runs."""
        self.ended |= {-1 - i: known for i, known in enumerate(trials)}
        self.book = self._open()

    def ask(
        self,
        number: int,
        sampler: optuna.samplers.BaseSampler,
        given: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Returns the values of a trial that is running from now on: those that are given, or what the sampler draws."""
        if self._forget(number) or (self.NEW_EACH_TIME and given is None):
            self.book = self._open()
        self.running[number] = self.book.ask(number, sampler, given)
        return self.running[number]

    def withdraw(self, number: int) -> None:
        """Forgets a trial that was asked for and does not take place."""
        self.book.withdraw(number)
        del self.running[number]

    def tell(self, number: int, verdict: Verdict, mious: Mapping[int, float]) -> None:
        """Ends a trial as `OptunaStudyLog.tell` does."""
        self.book.tell(number, verdict, mious)
        if verdict.state != "interrupted":
            params = self.running.pop(number)
            if verdict.state in ("completed", "pruned", "unhealthy"):
                state = "pruned" if verdict.state == "completed" and not mious else verdict.state
                self.ended[number] = KnownTrial(params=params, state=state, mious=dict(mious))  # pyright: ignore[reportArgumentType]

    def _forget(self, number: int) -> bool:
        """Puts trials out of sight for good that are neither good nor sick nor late, where it is time to; returns whether it was."""
        base = number // self.BLOCK * self.BLOCK
        if base == self.base or len(self.ended) <= self.LIMIT:
            return False
        self.base = base
        old = {n: t for n, t in self.ended.items() if n < base}
        chosen = set(_best(old, self.LIMIT // 5)) | set(_sick(old)[-self.LIMIT // 5 :])
        latest = [n for n in sorted(old) if n not in chosen][-(self.LIMIT - len(chosen)) :]
        self.ended = {
            n: t for n, t in sorted(self.ended.items()) if n >= base or n in chosen or n in latest
        }
        return True

    def _open(self) -> OptunaStudyLog:
        study = optuna.create_study(direction="maximize")
        study.add_trials([to_frozen_trial(t, self.space) for t in self._shown()])
        book = OptunaStudyLog(study, self.space)
        for number, params in self.running.items():
            book.ask(number, None, params)
        return book

    def _shown(self) -> list[KnownTrial]:
        return list(self.ended.values())


class ExtrapolatedHistory(BoundedHistory):
    """A view for samplers that learn from full trials only: the others are shown at what they would have come to.

    A stopped trial: its best mIoU and what full trials have gained after that epoch, in the median. A sick one: the worst of
    the healthy. Without them a Gaussian process knows nothing of the two thirds of a search that successive halving ends early.
    """

    LIMIT, BLOCK = 200, 20  # the time of a draw grows with the cube of what is seen
    NEW_EACH_TIME = True  # every full trial changes what is expected of the others

    def _shown(self) -> list[KnownTrial]:
        full = [t.mious for t in self.ended.values() if t.state == "completed"]
        gain = functools.cache(lambda epoch: _median_gain(full, epoch))
        expected = {
            n: max(t.mious.values()) + gain(max(t.mious))
            for n, t in self.ended.items()
            if t.mious and t.state != "unhealthy"
        }
        worst = min(expected.values(), default=0.0)
        return [
            KnownTrial(params=t.params, state="completed", mious={1: expected.get(n, worst)})
            for n, t in self.ended.items()
        ]


def _median_gain(full: Sequence[Mapping[int, float]], epoch: int) -> float:
    """Returns by how much the best mIoU of full trials has risen after an epoch; 0 without any."""
    gains = [
        max(mious.values()) - max(m for e, m in mious.items() if e <= epoch)
        for mious in full
        if min(mious) <= epoch
    ]
    return statistics.median(gains) if gains else 0.0


def history_for(sampler: str, space: Space) -> BoundedHistory | None:
    """Returns the view of a sampler, or None where it draws from the record itself: CMA-ES keeps its state there."""
    return (
        {"tpe": BoundedHistory, "gp": ExtrapolatedHistory}[sampler](space)
        if sampler in ("tpe", "gp")
        else None
    )


def _best(trials: Mapping[int, KnownTrial], count: int) -> list[int]:
    """Returns the numbers of the best healthy trials in TPE's order: those of full length first, then by epoch and value."""

    def rank(number: int) -> tuple[float, float]:
        trial = trials[number]
        if trial.state == "completed":
            return -math.inf, -max(trial.mious.values())
        last = max(trial.mious, default=0)
        return -last, -trial.mious.get(last, 0.0)

    return sorted((n for n, t in trials.items() if t.state != "unhealthy"), key=rank)[:count]


def _sick(trials: Mapping[int, KnownTrial]) -> list[int]:
    return [n for n in sorted(trials) if trials[n].state == "unhealthy"]
