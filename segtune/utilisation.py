"""Where the workers' time went: how long trials take to their first step, and what share of the time was training and validation.

Everything is read from the run's files, so that it can be asked of any run, and needs no Ray.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from segtune.rundir import RunDir, TrialDir, write_atomic


@dataclass(frozen=True)
class Session:
    """One run of the search over a run folder: from when to when in seconds since 1970, and with how many workers."""

    began: float
    ended: float
    concurrent: int  # trials at the same time
    workers: int  # of one trial


@dataclass(frozen=True)
class Utilisation:
    """Of all sessions of a run. Launches are seconds from the draw of a trial to its first step, None where none was seen."""

    busy: float  # share in 0..1 of the workers' time
    worker_seconds: float
    first_launch: float | None  # in processes that had to start and import everything
    later_launch: float | None  # the median of the others
    worst_launch: float | None

    @property
    def words(self) -> str:
        """Returns the numbers in one line."""
        told = f"busy {100 * self.busy:.0f} % of {self.worker_seconds / 60:.1f} worker-minutes (training and validation)"
        first = "" if self.first_launch is None else f"; first step after {self.first_launch:.1f} s"
        return told + first + ("" if self.later_launch is None else f", in later trials after {self.later_launch:.1f} s")


@contextmanager
def recorded(run: RunDir, concurrent: int, workers: int) -> Iterator[None]:
    """Adds the time in the block to the run's sessions, whatever ends it."""
    began = time.time()
    try:
        yield
    finally:
        told = [*sessions_of(run), Session(began, time.time(), concurrent, workers)]
        write_atomic(run.sessions, "".join(json.dumps(asdict(session)) + "\n" for session in told))


def sessions_of(run: RunDir) -> list[Session]:
    """Returns the sessions of a run that have ended, oldest first."""
    return [Session(**json.loads(line)) for line in run.sessions.read_text().splitlines()] if run.sessions.exists() else []


def utilisation(run: RunDir) -> Utilisation | None:
    """Returns where the workers' time of a run went; None before the end of its first session."""
    sessions = sessions_of(run)
    if not sessions:
        return None
    trials = [(trial, trial.read_epochs()) for trial in run.trial_dirs()]
    busy = sum(_busy_s(rows, session) * session.workers for _, rows in trials for session in sessions)
    there = sum((session.ended - session.began) * session.concurrent * session.workers for session in sessions)
    first, later = [], []
    for session in sessions:
        launches = [_launch_s(trial, rows) for trial, rows in trials if session.began <= _drawn(trial) <= session.ended]
        first += [seconds for seconds in launches[: session.concurrent] if seconds is not None]
        later += [seconds for seconds in launches[session.concurrent :] if seconds is not None]
    return Utilisation(
        busy / there,
        there,
        first_launch=statistics.median(first) if first else None,
        later_launch=statistics.median(later) if later else None,
        worst_launch=max(later, default=None),
    )


def _busy_s(rows: Sequence[Mapping[str, Any]], session: Session) -> float:
    """Returns the seconds of a trial's epochs, with their validations, that ended in a session."""
    befores = [0.0, *(row["seconds"] for row in rows)]
    pairs = zip(rows, befores, strict=False)
    return sum(row["seconds"] - before for row, before in pairs if session.began <= row["ended"] <= session.ended)


def _drawn(trial: TrialDir) -> float:
    return trial.params.stat().st_mtime if trial.params.exists() else 0.0


def _launch_s(trial: TrialDir, rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Returns the seconds from the draw of a trial to its first step, None where it has no epoch or was started again."""
    return rows[0]["ended"] - rows[0]["seconds"] - _drawn(trial) if rows and trial.attempts_begun() <= 1 else None
