"""What a search method does for the benchmark: it gives jobs, hears scores, and decides."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, Protocol, runtime_checkable

REDUCTION = 3  # of every method that halves

End = Literal["completed", "pruned", "unhealthy"]


class Decision(Enum):
    """What follows after an epoch of a trial."""

    CONTINUE = "continue"
    STOP = "stop"  # for good
    PAUSE = "pause"  # the method may name the trial again in `next_job`


@dataclass(frozen=True)
class Job:
    """What a free worker does next: begin a new trial, or go on with a paused one."""

    number: int  # of the trial, from 0 without gaps; a new one has the next number
    params: dict[str, Any] = field(default_factory=dict)  # of a new trial


class SearchMethod(Protocol):
    """A search in progress. Trial 0 is the config itself."""

    def next_job(self) -> Job | None:
        """Return what a free worker does; None: it waits for the next report."""
        ...

    def began(self, number: int, params: dict[str, Any]) -> None:
        """Learn which config a new trial trains.

        A table has recorded configs only, so it may not be the one that the method asked for.
        """
        ...

    def report(self, number: int, epoch: int, score: float) -> Decision:
        """Hear the score of an epoch, in 0..1, and say what follows."""
        ...

    def end(self, number: int, state: End) -> None:
        """Hear that a trial has ended. A trial at its last epoch has reported it before."""
        ...

    def close(self) -> None:
        """Remove what the method has put on the disk."""
        ...


@runtime_checkable
class RunsElsewhere(Protocol):
    """A search method that decides in another process."""

    seconds_elsewhere: float  # CPU time that its decisions have taken there
