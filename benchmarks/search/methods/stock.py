"""Ray's and Optuna's own parts, set up as in their documentation.

Each draws from one space and stops trials at the same rungs. Optuna's tutorial knows no unhealthy
trials; `tell_sick` says as what they are told, so that this is not taken for the sampler's merit.
"""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from benchmarks.search.methods.method import REDUCTION, Decision, End, Job
from benchmarks.search.tasks import Task
from segtune.tuning.optuna_study import open_trial


def halving(task: Task) -> BasePruner:
    """Return Optuna's successive halving with the rungs of a task."""
    return SuccessiveHalvingPruner(min_resource=task.grace, reduction_factor=REDUCTION)


class OptunaMethod:
    """Optuna's own loop of ask, report, should_prune and tell, as in its tutorial."""

    def __init__(
        self, task: Task, sampler: BaseSampler, pruner: BasePruner, *, sick_fail: bool
    ) -> None:
        """`sick_fail` tells unhealthy trials as failed, otherwise with their last score."""
        self.space = task.space
        self.sick_fail = sick_fail
        self.sampler = sampler
        self.trials: dict[int, optuna.Trial] = {}
        self.asked: optuna.Trial | None = None
        self.num_trials = 0
        self.last_scores: dict[int, float] = {}
        self.study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)

    def next_job(self) -> Job:
        self.num_trials += 1
        if self.num_trials == 1:
            return Job(0, self.space.complete({}))
        self.study.sampler = self.sampler
        self.asked = self.study.ask()
        return Job(self.num_trials - 1, self.space(self.asked))

    def began(self, number: int, params: dict[str, Any]) -> None:
        """Keep the trial, or put one with the values that are trained in its place."""
        if self.asked and self.asked.params == params:
            self.trials[number] = self.asked
            return
        if self.asked:
            self.study.tell(self.asked, state=optuna.trial.TrialState.FAIL)
        distributions: dict[str, BaseDistribution] = self.space.distributions(params)
        self.trials[number] = open_trial(self.study, params, distributions)

    def report(self, number: int, epoch: int, score: float) -> Decision:
        self.trials[number].report(score, epoch)
        self.last_scores[number] = score
        return Decision.STOP if self.trials[number].should_prune() else Decision.CONTINUE

    def end(self, number: int, state: End) -> None:
        trial = self.trials.pop(number)
        is_failed = number not in self.last_scores or (state == "unhealthy" and self.sick_fail)
        if state == "pruned":
            self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        elif is_failed:
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            self.study.tell(trial, self.last_scores[number])

    def close(self) -> None:
        """Do nothing: the study is in memory."""


class RayMethod:
    """OptunaSearch with ASHA, set up as in Ray's documentation.

    It cannot be told that another config is trained than the one that it has drawn. In a table, it
    learns the score of the nearest recorded config.
    """

    def __init__(self, task: Task, seed: int) -> None:
        self.space = task.space
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.searcher = OptunaSearch(
                space=self._define,
                metric="miou",
                mode="max",
                seed=seed,
                points_to_evaluate=[task.space.complete({})],
            )
        self.scheduler = AsyncHyperBandScheduler(
            time_attr="training_iteration",
            metric="miou",
            mode="max",
            max_t=task.epochs,
            grace_period=task.grace,
            reduction_factor=REDUCTION,
        )
        self.num_trials = 0
        self.last_results: dict[int, dict[str, Any]] = {}

    def _define(self, trial: optuna.Trial) -> None:
        self.space(trial)

    def next_job(self) -> Job:
        number = self.num_trials
        self.num_trials += 1
        params = self.searcher.suggest(str(number))
        self.scheduler.on_trial_add(None, _ray_trial(number))  # pyright: ignore[reportArgumentType]
        assert params
        return Job(number, params)

    def began(self, number: int, params: dict[str, Any]) -> None:
        """Do nothing: Ray's searcher keeps the values that it has drawn."""

    def report(self, number: int, epoch: int, score: float) -> Decision:
        result = {"training_iteration": epoch, "miou": score}
        self.last_results[number] = result
        self.searcher.on_trial_result(str(number), result)
        decision = self.scheduler.on_trial_result(None, _ray_trial(number), result)  # pyright: ignore[reportArgumentType]
        return Decision.STOP if decision == TrialScheduler.STOP else Decision.CONTINUE

    def end(self, number: int, state: End) -> None:
        result = self.last_results.get(number)
        if state != "pruned" and result is not None:
            self.scheduler.on_trial_complete(None, _ray_trial(number), result)  # pyright: ignore[reportArgumentType]
        self.searcher.on_trial_complete(str(number), result, error=result is None)

    def close(self) -> None:
        """Do nothing: the study is in memory."""


def _ray_trial(number: int) -> Any:
    """Return the part of a Tune trial that its schedulers read."""
    return SimpleNamespace(trial_id=str(number))
