"""The candidates as methods of the benchmark."""

from __future__ import annotations

from typing import Any

from benchmarks.search.candidates.sampler import CurveSampler
from benchmarks.search.candidates.thaw import Thaw
from benchmarks.search.methods.method import REDUCTION, Decision, End, Job
from benchmarks.search.methods.stock import OptunaMethod, halving
from benchmarks.search.tasks import Task

STARTUP_TRIALS = 10  # are drawn at random, as by the other samplers


def epochs_to_read(task: Task) -> list[int]:
    """Return the epochs at which curves are read: the rungs and the full length."""
    epochs = [task.grace]
    while epochs[-1] * REDUCTION < task.epochs:
        epochs.append(epochs[-1] * REDUCTION)
    return [*epochs, task.epochs]


def curves_with_halving(task: Task, seed: int) -> OptunaMethod:
    """Return a search that draws by the model of curves and stops by successive halving."""
    sampler = CurveSampler(task.space, epochs_to_read(task), seed, STARTUP_TRIALS)
    return OptunaMethod(task, sampler, halving(task), sick_fail=True)


class ThawMethod:
    """A search that draws by the model of curves, pauses trials and goes on with them."""

    def __init__(self, task: Task, seed: int) -> None:
        self.task = task
        self.thaw = Thaw(task.space, epochs_to_read(task), seed, STARTUP_TRIALS)
        self.num_trials = 0

    def next_job(self) -> Job:
        paused = self.thaw.next_paused()
        if paused is not None:
            self.thaw.paused.discard(paused)
            return Job(paused)
        number = self.num_trials
        self.num_trials += 1
        return Job(number, self.thaw.draw() if number else self.task.space.complete({}))

    def began(self, number: int, params: dict[str, Any]) -> None:
        self.thaw.began(number, params)

    def report(self, number: int, epoch: int, score: float) -> Decision:
        self.thaw.report(number, epoch, score)
        if epoch == self.task.epochs or self.thaw.goes_on(number, epoch):
            return Decision.CONTINUE
        return Decision.PAUSE

    def end(self, number: int, state: End) -> None:
        self.thaw.ended(number, is_healthy=state != "unhealthy")

    def close(self) -> None:
        """Do nothing: all is in memory."""
