"""Syne Tune 0.13.0: HyperTune, MOBSTER, BOHB and ASHA. Later versions have only a part of them.

Imported by peer_server.py in an interpreter with Syne Tune, which needs NumPy below 2.

Options:
- All but "ASHA stopping" pause trials at the rungs and promote them (`type="promotion"`), as Syne
  Tune's authors run them. The rungs are grace, 3 grace, 9 grace...; scores between them are not
  used for the model (`searcher_data="rungs"`, the default).
- All have one bracket, the default. With all brackets, HyperTune was worse on three of four tasks
  of LCBench at a budget of ten full training runs (three seeds each).
- BOHB takes `num_min_data_points` = settings + 1, as in its paper. With seven settings its model
  begins at 16 scores at one rung. With Syne Tune's default, the number of settings, it would begin
  at 54, and nearly all of a search would be random.
- Ranges on a logarithmic scale are given as uniform ranges of the logarithm, because BOHB's
  densities know no logarithmic scale. For the others it is the same.
- All else is the default. Nothing is slowed down or left out: the Gaussian processes are fitted
  again for each new trial.

A sick trial is told as failed. If a table trains another config than the one that was drawn, Syne
Tune learns the values that are trained.
"""

from __future__ import annotations

import logging
import math
from datetime import datetime
from typing import Any

from syne_tune.backend.trial_status import Trial  # pyright: ignore[reportMissingImports]
from syne_tune.config_space import (  # pyright: ignore[reportMissingImports]
    choice,
    randint,
    uniform,
)
from syne_tune.optimizer.baselines import (  # pyright: ignore[reportMissingImports]
    ASHA,
    BOHB,
    MOBSTER,
    HyperTune,
)

from benchmarks.search.methods.method import REDUCTION, Decision, End, Job
from benchmarks.search.methods.peer_task import Axis, PeerTask, Point

EPOCHS = "epochs"  # of the config: the epoch at which a trial pauses

# Of each method: the class, and options that are not Syne Tune's defaults.
SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "HyperTune": (HyperTune, {"type": "promotion"}),
    "MOBSTER": (MOBSTER, {"type": "promotion"}),
    "BOHB": (BOHB, {"type": "promotion"}),
    "ASHA promotion": (ASHA, {"type": "promotion"}),
    "ASHA stopping": (ASHA, {"type": "stopping"}),
}


def _domain(axis: Axis) -> Any:
    match axis.kind:
        case "choice":
            return choice(list(axis.labels))
        case "int":
            return randint(int(axis.low), int(axis.high))
        case "loguniform":
            return uniform(math.log(axis.low), math.log(axis.high))
        case _:
            return uniform(axis.low, axis.high)


def _decoded_value(axis: Axis, value: Any) -> Any:
    if not axis.is_log:
        return value
    return min(max(math.exp(value), axis.low), axis.high)


def make(task: PeerTask) -> SyneTuneMethod:
    """Return a new search."""
    logging.disable(logging.WARNING)
    return SyneTuneMethod(task)


class SyneTuneMethod:
    """A scheduler of Syne Tune, driven as its `Tuner` does it."""

    def __init__(self, task: PeerTask) -> None:
        self.task = task
        self.first = self._encoded(task.first)
        make_scheduler, options = SCHEDULERS[task.method]
        search_options: dict[str, Any] = {"debug_log": False}
        if task.method == "BOHB":
            search_options["num_min_data_points"] = len(task.axes) + 1
        space = {axis.name: _domain(axis) for axis in task.axes}
        self.scheduler = make_scheduler(
            {**space, EPOCHS: task.epochs},
            metric="score",
            mode="max",
            resource_attr="epoch",
            max_resource_attr=EPOCHS,
            grace_period=task.grace,
            reduction_factor=REDUCTION,
            random_seed=task.seed,
            points_to_evaluate=[self.first],
            search_options=search_options,
            **options,
        )
        self.trials: dict[int, Trial] = {}
        self.points: dict[int, Point] = {}  # as drawn
        self.results: dict[int, dict[str, Any]] = {}
        self.decided: set[int] = set()  # trials that Syne Tune itself has stopped

    def next_job(self) -> Job | None:
        number = len(self.trials)
        suggestion = self.scheduler.suggest(number)
        if suggestion is None:
            return None
        if not suggestion.spawn_new_trial_id:
            return Job(suggestion.checkpoint_trial_id)
        self.trials[number] = Trial(number, suggestion.config, datetime.now())
        self.points[number] = self._decoded(suggestion.config)
        return Job(number, self.points[number])

    def began(self, number: int, params: Point) -> None:
        """Put the values that are trained in the place of the drawn ones."""
        trial = self.trials[number]
        if self.points[number] != params:
            encoded = self._encoded(params)
            trial.config = {**trial.config, **encoded}
            self.scheduler._active_trials[str(number)].config.update(encoded)
            # Only the searchers with a Gaussian process keep the config before a score.
            transformer = getattr(self.scheduler.searcher, "state_transformer", None)
            if transformer is not None:
                transformer.state.config_for_trial[str(number)].update(encoded)
        self.scheduler.on_trial_add(trial)

    def report(self, number: int, epoch: int, score: float) -> Decision:
        trial = self.trials[number]
        self.results[number] = {"score": score, "epoch": epoch}
        decision = Decision(self.scheduler.on_trial_result(trial, self.results[number]).lower())
        if decision is not Decision.CONTINUE:
            self.scheduler.on_trial_remove(trial)
        if decision is Decision.STOP:
            self.decided.add(number)
        return decision

    def end(self, number: int, state: End) -> None:
        trial = self.trials[number]
        if state == "unhealthy":
            self.scheduler.on_trial_error(trial)
        elif number not in self.decided:
            self.scheduler.on_trial_complete(trial, self.results[number])

    def _encoded(self, point: Point) -> Point:
        """Return a point with logarithms in the place of values on a logarithmic scale."""
        return {
            axis.name: math.log(point[axis.name]) if axis.is_log else point[axis.name]
            for axis in self.task.axes
        }

    def _decoded(self, config: dict[str, Any]) -> Point:
        encoded = self.task.cast(config)
        # The logarithm and back would change the last digit.
        if encoded == self.first:
            return self.task.first
        return {axis.name: _decoded_value(axis, encoded[axis.name]) for axis in self.task.axes}

    def close(self) -> None:
        """Do nothing: all is in memory."""
