"""A method that asks for the score of a config after some epochs: Hyperband, DEHB, PriorBand.

Such a library knows jobs, not trials. A job for a config that has been trained before goes on with
its trial; a job for fewer epochs than that is answered with the score of that epoch. Needs the
standard library only.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from benchmarks.search.methods.method import REDUCTION, Decision, End, Job
from benchmarks.search.methods.peer_task import PeerTask, Point


def lowest_budget(task: PeerTask) -> float:
    """Return the lowest of the budgets epochs / 3, epochs / 9...: the nearest to the grace.

    Libraries count the budgets from the longest down. They round the number of budgets down, so the
    lowest is a little less than it should be.
    """
    num_halvings = round(math.log(task.epochs / task.grace, REDUCTION))
    return 0.999 * task.epochs / REDUCTION**num_halvings


@dataclass(frozen=True)
class Request:
    """A job of a library."""

    key: Hashable  # of the config
    point: Point
    epochs: int  # after which the library wants the score
    handle: Any  # which the library wants back with the score


class BudgetMethod(ABC):
    """Trials that pause where a job ends, and go on if the library asks for more epochs."""

    def __init__(self, task: PeerTask) -> None:
        self.task = task
        self.numbers: dict[Hashable, int] = {}  # trial of a config
        self.scores: list[list[float]] = []  # of each trial, one per epoch
        self.requests: dict[int, Request] = {}  # of the trials that run
        self.failed: set[int] = set()

    @abstractmethod
    def ask(self) -> Request:
        """Return the library's next job."""

    @abstractmethod
    def tell(self, request: Request, score: float | None) -> None:
        """Tell the library the score of a job; None: the trial was sick."""

    def correct(self, request: Request, point: Point) -> None:  # noqa: B027
        """Tell the library that another point is trained. Some libraries cannot be told."""

    def next_job(self) -> Job:
        while True:
            request = self.ask()
            number = self.numbers.get(request.key)
            # A second job for a config that is being trained begins a trial of its own.
            if number is None or number in self.requests:
                number = self.numbers[request.key] = len(self.scores)
                self.scores.append([])
                self.requests[number] = request
                return Job(number, request.point)
            if number in self.failed:
                self.tell(request, None)
            elif len(self.scores[number]) >= request.epochs:
                self.tell(request, self.scores[number][request.epochs - 1])
            else:
                self.requests[number] = request
                return Job(number)

    def began(self, number: int, params: Point) -> None:
        if params != self.requests[number].point:
            self.correct(self.requests[number], params)

    def report(self, number: int, epoch: int, score: float) -> Decision:
        self.scores[number].append(score)
        assert epoch == len(self.scores[number])
        if epoch < self.requests[number].epochs:
            return Decision.CONTINUE
        self.tell(self.requests.pop(number), score)
        return Decision.STOP if epoch == self.task.epochs else Decision.PAUSE

    def end(self, number: int, state: End) -> None:
        if state == "unhealthy":
            self.failed.add(number)
            self.tell(self.requests.pop(number), None)

    def close(self) -> None:  # noqa: B027
        """Remove what the library has put on the disk."""
