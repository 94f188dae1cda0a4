"""The finished trials that a sampler draws from: a bounded part of the record of a search.

The record itself, which users open with optuna-dashboard, is an `OptunaStudyLog` of its own. A
history is kept in memory and rebuilt at a resume.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import optuna

from segtune.runs.pareto import MIOU, as_costs, by_front
from segtune.runs.verdict import Verdict
from segtune.tuning.expected_gain import expected_mious
from segtune.tuning.measured import NOTHING, Measured
from segtune.tuning.optuna_study import ONLY_MIOU, OptunaStudyLog, new_study, to_frozen_trial
from segtune.tuning.search_config import SearchConfig
from segtune.tuning.space import Space
from segtune.tuning.warm_start import TELLING_STATES, KnownTrial


class BoundedHistory:
    """All trials of a short search; the best, the unhealthy and the latest trials of a long one.

    TPE fits its densities to all trials anew at every draw, which takes 700 ms at the
    ten-thousandth trial. It needs the few best trials (at most 25 make the good density, Bergstra
    et al. 2011) and a sample of the rest. Which trials are kept depends only on numbers and scores,
    so that a resumed search keeps the same ones.

    Trials begin and end with the same methods as in an `OptunaStudyLog`. A paused trial is told as
    such, counts as a pruned one while it waits, and begins again with `resume`.
    """

    LIMIT = 120  # how many finished trials are kept
    BLOCK = 40  # trials are dropped once in so many trials
    REBUILD_AT_EVERY_DRAW = False  # whether the end of one trial changes how others are shown

    def __init__(
        self, space: Space, objectives: Sequence[str] = ONLY_MIOU, *, pauses: bool = False
    ) -> None:
        """`pauses`: trials may be paused, and then end in another order than that of numbers."""
        self.space = space
        self.objectives = objectives
        self.pauses = pauses
        self.ended: dict[int, KnownTrial] = {}  # trials of earlier runs have negative numbers
        self.running: dict[int, dict[str, Any]] = {}
        self.reported: dict[int, dict[int, float]] = {}  # mIoUs of running trials by epoch
        self.block_start = 0  # number of the first trial of the current block
        self.study_log = self._rebuilt()

    def add_known(self, trials: Iterable[KnownTrial]) -> None:
        """Add finished trials of earlier runs."""
        self.ended |= {-1 - i: known for i, known in enumerate(trials)}
        self.study_log = self._rebuilt()

    def ask(self, number: int, sampler: optuna.samplers.BaseSampler) -> dict[str, Any]:
        """Begin a trial and return its values, drawn by `sampler`."""
        if self._drop_old_trials(number) or self.REBUILD_AT_EVERY_DRAW or self.pauses:
            self.study_log = self._rebuilt()
        self.running[number] = self.study_log.ask(number, sampler)
        return self.running[number]

    def begin(self, number: int, params: dict[str, Any]) -> None:
        """Begin a trial with known values."""
        if self._drop_old_trials(number):
            self.study_log = self._rebuilt()
        self.study_log.begin(number, params)
        self.running[number] = params

    def resume(self, number: int, params: dict[str, Any]) -> None:
        """Begin a paused trial again."""
        paused = self.ended.pop(number, None)
        self.running[number] = params
        self.reported[number] = dict(paused.mious) if paused else {}
        self.study_log = self._rebuilt()

    def withdraw(self, number: int) -> None:
        """End a trial that does not take place."""
        self.study_log.withdraw(number)
        del self.running[number]

    def report(self, number: int, epoch: int, miou: float) -> None:
        """Record the mIoU at an epoch, in 0..1."""
        self.reported.setdefault(number, {})[epoch] = miou
        self.study_log.report(number, epoch, miou)

    def tell(
        self,
        number: int,
        verdict: Verdict,
        mious: Mapping[int, float],
        measured: Measured = NOTHING,
    ) -> None:
        """End a trial according to its verdict, as `OptunaStudyLog.tell` does."""
        self.study_log.tell(number, verdict, mious, measured)
        if verdict.state == "interrupted":
            return
        params = self.running.pop(number)
        self.reported.pop(number, None)
        if verdict.state in TELLING_STATES:
            self.ended[number] = KnownTrial.of(params, verdict.state, mious, measured)

    def judge_again(self, measured: Mapping[int, Measured]) -> None:
        """Replace the numbers of ended trials: trial 0 has ended, and guards compare with it."""
        for number in measured.keys() & self.ended.keys():
            changes = {"constraints": dict(measured[number].constraints)}
            self.ended[number] = self.ended[number].override(changes)
        self.study_log = self._rebuilt()

    def _drop_old_trials(self, number: int) -> bool:
        """Drop old trials if trial `number` begins a new block and there are more than LIMIT.

        Return whether that was the case. The trials of the current block stay. Of the older ones
        LIMIT stay: the best (one fifth), the latest infeasible (one fifth) and the latest others.
        """
        block_start = number // self.BLOCK * self.BLOCK
        is_short = len(self.ended) <= self.LIMIT
        # A paused trial may become one of the best later, so `_rebuilt` chooses anew each time.
        if block_start == self.block_start or (is_short and not self.pauses):
            return False
        self.block_start = block_start
        if not self.pauses:
            self.ended = self._without_old_trials()
        return True

    def _without_old_trials(self) -> dict[int, KnownTrial]:
        """Return the trials that `_drop_old_trials` keeps."""
        old = {n: trial for n, trial in self.ended.items() if n < self.block_start}
        best = _best(old, self.LIMIT // 5, self.objectives)
        chosen = {*best, *_infeasible(old)[-self.LIMIT // 5 :]}
        others = [n for n in sorted(old) if n not in chosen]
        chosen |= set(others[-(self.LIMIT - len(chosen)) :])
        kept = [n for n in sorted(self.ended) if n >= self.block_start or n in chosen]
        return {n: self.ended[n] for n in kept}

    def _rebuilt(self) -> OptunaStudyLog:
        """Return a new study that holds the trials of this history.

        If trials pause, it follows from their numbers and scores alone, not from the order in which
        they have ended.
        """
        study = new_study(self.objectives)
        trials = self.ended
        if self.pauses:
            trials = self._without_old_trials() if len(trials) > self.LIMIT else trials
            # Trials of earlier runs first, in their order.
            trials = {n: trials[n] for n in sorted(trials, key=lambda n: (n >= 0, abs(n)))}
        shown = self._as_shown(trials)
        study.add_trials([to_frozen_trial(t, self.space, self.objectives) for t in shown])
        study_log = OptunaStudyLog(study, self.space, self.objectives)
        for number, params in sorted(self.running.items()):
            study_log.begin(number, params)
            for epoch, miou in self.reported.get(number, {}).items():
                study_log.report(number, epoch, miou)
        return study_log

    def _as_shown(self, trials: Mapping[int, KnownTrial]) -> list[KnownTrial]:
        """Return finished trials as the sampler is to see them."""
        return list(trials.values())


class ExtrapolatedHistory(BoundedHistory):
    """A history for samplers that learn only from trials of full length.

    Every other trial is shown as if it had full length. A stopped trial gets its best mIoU plus the
    median of what full trials gained after that epoch; an unhealthy one gets the lowest value of
    the healthy, and the worst of each other objective. Otherwise a Gaussian process would learn
    nothing from the two thirds of the trials that successive halving stops early.
    """

    LIMIT = 200  # the time of a draw grows with the cube of the number of trials
    BLOCK = 20
    REBUILD_AT_EVERY_DRAW = True  # every full trial changes what the others are shown at

    def _as_shown(self, trials: Mapping[int, KnownTrial]) -> list[KnownTrial]:
        expected = expected_mious(trials)
        worst, worst_costs = min(expected.values(), default=0.0), self._worst_costs(trials)
        return [
            KnownTrial.of(
                trial.params,
                "completed",
                {1: expected.get(number, worst)},
                Measured(trial.constraints, worst_costs | _costs_of_healthy(trial)),
            )
            for number, trial in trials.items()
        ]

    def _worst_costs(self, trials: Mapping[int, KnownTrial]) -> dict[str, float]:
        """Return the highest value of each objective besides mIoU; 0 before the first."""
        names = [name for name in self.objectives if name != MIOU]
        known = [trial.costs for trial in trials.values()]
        return {n: max((costs[n] for costs in known if n in costs), default=0.0) for n in names}


def history_for(search: SearchConfig, space: Space) -> BoundedHistory | None:
    """Return the history that a sampler draws from.

    None for samplers that draw from the record itself: CMA-ES and NSGA-II keep their state there,
    random and grid learn nothing.
    """
    match search.chosen_sampler:
        case "tpe" | "curves":
            return BoundedHistory(space, search.objectives, pauses=search.pauses)
        case "gp":
            return ExtrapolatedHistory(space, search.objectives, pauses=search.pauses)
        case _:
            return None


def _costs_of_healthy(trial: KnownTrial) -> dict[str, float]:
    """Return the objectives besides mIoU; empty for an unhealthy trial, which is worst in all."""
    return {} if trial.state == "unhealthy" else trial.costs


def _best(
    trials: Mapping[int, KnownTrial], count: int, objectives: Sequence[str] = ONLY_MIOU
) -> list[int]:
    """Return the numbers of the best trials that are feasible, in the order that TPE uses.

    Full trials come first: by their best mIoU or, with several objectives, by Pareto front. Stopped
    ones follow, by their last epoch and then by their mIoU there.
    """

    def rank_of_stopped(number: int) -> tuple[float, float]:
        mious = trials[number].mious
        last = max(mious, default=0)
        return -last, -mious.get(last, 0.0)

    full: dict[int, tuple[float, ...]] = {}
    stopped: list[int] = []
    for number, trial in trials.items():
        if trial.is_infeasible:
            continue
        if values := trial.objective_values(objectives):
            full[number] = as_costs(objectives, values)
        else:
            stopped.append(number)
    numbers = sorted(full, key=full.__getitem__)
    by_rank = [numbers[index] for index in by_front([full[number] for number in numbers])]
    return [*by_rank, *sorted(stopped, key=rank_of_stopped)][:count]


def _infeasible(trials: Mapping[int, KnownTrial]) -> list[int]:
    return [number for number in sorted(trials) if trials[number].is_infeasible]
