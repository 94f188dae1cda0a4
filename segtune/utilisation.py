"""Where the workers' time went: what each trial did when, how long it took to its first step, and what share was training.

Everything is read from the run's files, so that it can be asked of any run, and needs no Ray.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

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
    tail: float  # share of it that places stood empty because no trial was left to start
    worker_seconds: float
    first_launch: float | None  # in processes that had to start and import everything
    later_launch: float | None  # the median of the others
    worst_launch: float | None

    @property
    def words(self) -> str:
        """Returns the numbers in one line."""
        told = f"busy {100 * self.busy:.0f} % of {self.worker_seconds / 60:.1f} worker-minutes (training and validation), {self.rest}"
        return f"{told}; {self.launches}" if self.launches else told

    @property
    def rest(self) -> str:
        """Returns how much of the time places were empty at the end."""
        return f"{100 * self.tail:.0f} % empty at the end, when no trial was left to start"

    @property
    def launches(self) -> str:
        """Returns how long trials took to their first step, empty where none was seen."""
        first = "" if self.first_launch is None else f"first step after {self.first_launch:.1f} s"
        return first + ("" if self.later_launch is None else f", in later trials after {self.later_launch:.1f} s")


@dataclass(frozen=True)
class Span:
    """What a trial did without a break, on one of the places for trials that run at the same time (from 1).

    Times are seconds of search: the sessions of a run one after another, without what lies between them.
    """

    trial: str
    place: int
    doing: Literal["starting", "training"]  # from its draw to its first step; epochs with their validations
    began: float
    ended: float


# Epochs that lie closer together are drawn as one stretch: in between, a trial logs and writes its checkpoint.
BREAK_S = 1.0


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
        busy=busy / there,
        tail=sum(_tail_s(_places(run, session), session) * session.workers for session in sessions) / there,
        worker_seconds=there,
        first_launch=statistics.median(first) if first else None,
        later_launch=statistics.median(later) if later else None,
        worst_launch=max(later, default=None),
    )


def timeline(run: RunDir) -> list[Span]:
    """Returns what each trial did, by session and place; nothing before the end of a run's first session."""
    found, offset = [], 0.0
    for session in sessions_of(run):
        shift = offset - session.began
        found += [replace(span, began=span.began + shift, ended=span.ended + shift) for span in _places(run, session)]
        offset += session.ended - session.began
    return found


def _places(run: RunDir, session: Session) -> list[Span]:
    """Returns what each trial did in a session, by place, in seconds since 1970."""
    found: list[Span] = []
    free: list[float] = []  # from when on each place is free
    stretches = filter(None, (_stretches(trial, session) for trial in run.trial_dirs()))
    for spans in sorted(stretches, key=lambda spans: spans[0].began):
        # A trial is drawn as soon as another one has ended, so it has the place of the one that ended last. The two may be told
        # by clocks of different nodes.
        place = max((n for n, since in enumerate(free) if spans[0].began >= since - 0.1), key=free.__getitem__, default=len(free))
        free[place : place + 1] = [spans[-1].ended]
        found += [replace(span, place=place + 1) for span in spans]
    return found


def _tail_s(spans: Sequence[Span], session: Session) -> float:
    """Returns the seconds that places were empty after the last trial of a session had started."""
    starts = {span.trial: span.began for span in reversed(spans)}
    last = max(starts.values(), default=session.ended)
    used = sum(max(0.0, span.ended - max(span.began, last)) for span in spans)
    return max(0.0, session.concurrent * (session.ended - last) - used)


def _stretches(trial: TrialDir, session: Session) -> list[Span]:
    """Returns what a trial did in a session, in seconds since 1970, its place still open."""
    rows, drawn = trial.read_epochs(), _drawn(trial)
    spans: list[Span] = []
    for row, seconds in zip(rows, _epoch_seconds(rows), strict=True):
        if not session.began <= row["ended"] <= session.ended:
            continue
        began = max(row["ended"] - seconds, session.began)
        if spans and began - spans[-1].ended < BREAK_S:
            began = spans.pop().began
        spans.append(Span(trial.id, 0, "training", began, row["ended"]))
    if spans and session.began <= drawn <= session.ended and _launch_s(trial, rows) is not None:
        spans.insert(0, Span(trial.id, 0, "starting", min(drawn, spans[0].began), spans[0].began))
    return spans


def _epoch_seconds(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """Returns how long each epoch took, with its validation."""
    befores = [0.0, *(row["seconds"] for row in rows)]
    return [row["seconds"] - before for row, before in zip(rows, befores, strict=False)]


def _busy_s(rows: Sequence[Mapping[str, Any]], session: Session) -> float:
    """Returns the seconds of a trial's epochs, with their validations, that ended in a session."""
    told = zip(rows, _epoch_seconds(rows), strict=True)
    return sum(seconds for row, seconds in told if session.began <= row["ended"] <= session.ended)


def _drawn(trial: TrialDir) -> float:
    return trial.params.stat().st_mtime if trial.params.exists() else 0.0


def _launch_s(trial: TrialDir, rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Returns the seconds from the draw of a trial to its first step, None where it has no epoch or was started again."""
    return rows[0]["ended"] - rows[0]["seconds"] - _drawn(trial) if rows and trial.attempts_begun() <= 1 else None
