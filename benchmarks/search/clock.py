"""A search on a virtual clock: trials report at the pace of their epochs, and nothing is trained.

An epoch takes about one unit of time, a little more or less for each trial, so that trials do not
report in step. A worker that becomes free asks the method for a job: a new trial, or a trial that
was paused. Pausing and going on costs nothing here; in segtune it costs the time to read a
checkpoint.
"""

from __future__ import annotations

import heapq
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.search.methods.method import Decision, RunsElsewhere, SearchMethod
from benchmarks.search.tasks import Config, Curve, Task, seed_of

# An epoch of a trial takes a time in this range; every trial draws its own.
PACE = (0.8, 1.25)


@dataclass
class VirtualTrial:
    """A trial on the virtual clock."""

    config: Config
    curve: Curve
    truth: float
    pace: float  # time of an epoch
    epoch: int = 0  # epochs that it has trained
    best: float = 0.0  # its best reported score


@dataclass(frozen=True)
class Step:
    """What a search would announce, from a moment on."""

    epochs: int  # that the search had spent by then
    truth: float  # of the config that it announces
    drawn: float  # the best truth of the configs that it had drawn


@dataclass
class Outcome:
    """What one search did."""

    steps: list[Step] = field(default_factory=list)
    num_trials: int = 0
    busy: float = 0.0  # share of the workers' time in which they trained
    seconds: float = 0.0  # CPU time of all of the method's decisions

    def to_row(self) -> dict[str, Any]:
        """Return the outcome as plain JSON values."""
        steps = [[s.epochs, round(s.truth, 5), round(s.drawn, 5)] for s in self.steps]
        return {
            "steps": steps,
            "trials": self.num_trials,
            "busy": round(self.busy, 4),
            "seconds": round(self.seconds, 2),
        }


class VirtualSearch:
    """One search on the virtual clock."""

    def __init__(self, task: Task, method: SearchMethod, seed: int, workers: int) -> None:
        """`seed` decides the paces, and the noise of each training run."""
        self.task = task
        self.method = method
        self.seed = seed
        self.workers = workers
        self.random = np.random.default_rng(seed)
        self.trials: list[VirtualTrial] = []
        self.used: set[int] = set()  # rows of the table
        self.reports: list[tuple[float, int]] = []  # a heap of (time of the next report, trial)
        self.now = 0.0
        self.spent = 0  # epochs
        self.drawn = 0.0  # the best truth of a config that was drawn
        self.outcome = Outcome()

    def run(self, budget: int) -> Outcome:
        """Search until `budget` epochs are spent."""
        start = time.process_time()
        trained = 0.0
        while self.spent < budget:
            self._give_jobs()
            if not self.reports:
                break  # the method has nothing left to do
            self.now, number = heapq.heappop(self.reports)
            trained += self.trials[number].pace
            self._report(number)
            self._note()
        self.outcome.num_trials = len(self.trials)
        self.outcome.busy = trained / (self.workers * self.now) if self.now else 0.0
        self.outcome.seconds = time.process_time() - start
        if isinstance(self.method, RunsElsewhere):
            self.outcome.seconds += self.method.seconds_elsewhere
        return self.outcome

    def _give_jobs(self) -> None:
        while len(self.reports) < self.workers:
            job = self.method.next_job()
            if job is None:
                return
            if job.number == len(self.trials):
                self._begin(job.params)
            self._schedule(job.number)

    def _begin(self, params: dict[str, Any]) -> None:
        number = len(self.trials)
        # All rows of a small table may be in use.
        config = self.task.nearest(params, self.used)
        if config.row is not None:
            self.used.add(config.row)
        self.method.began(number, config.params)
        curve = self.task.curve(config, seed_of(self.seed, number))
        pace = self.random.uniform(*PACE)
        self.trials.append(VirtualTrial(config, curve, self.task.truth(config), pace))
        self.drawn = max(self.drawn, self.trials[-1].truth)

    def _schedule(self, number: int) -> None:
        heapq.heappush(self.reports, (self.now + self.trials[number].pace, number))

    def _report(self, number: int) -> None:
        """Train one epoch of a trial, and ask the method what follows."""
        trial = self.trials[number]
        trial.epoch += 1
        self.spent += 1
        score = trial.curve.scores[trial.epoch - 1]
        is_over = trial.epoch == trial.curve.epochs
        if is_over and trial.curve.end:
            self.method.end(number, "unhealthy")
            return
        trial.best = max(trial.best, score)
        decision = self.method.report(number, trial.epoch, score)
        if is_over:
            self.method.end(number, "completed")
        elif decision is Decision.CONTINUE:
            self._schedule(number)
        elif decision is Decision.STOP:
            self.method.end(number, "pruned")

    def _note(self) -> None:
        """Note what the method would announce now."""
        healthy = [trial for trial in self.trials if trial.epoch and not trial.curve.end]
        if not healthy:
            return
        announced = max(healthy, key=lambda trial: trial.best)
        last = self.outcome.steps[-1] if self.outcome.steps else None
        if last is None or (last.truth, last.drawn) != (announced.truth, self.drawn):
            self.outcome.steps.append(Step(self.spent, announced.truth, self.drawn))
