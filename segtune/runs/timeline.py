"""When each trial ran, how long trials took to start, and how busy the workers were.

Everything is computed from the times written in the files of a search run, never from the
modification times of those files. Needs no Ray.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

from segtune.runs.atomic import write_atomic
from segtune.runs.rundir import SearchDir, TrialDir

Span = tuple[float, float]  # start and end in seconds


@dataclass(frozen=True)
class Session:
    """One execution of `segtune search` on a search run: a first start or a resume."""

    began: float  # Unix time
    ended: float
    concurrent: int  # slots: trials at the same time, at most
    workers: int  # per trial

    @property
    def seconds(self) -> float:
        """How long the session lasted."""
        return self.ended - self.began

    def contains(self, moment: float) -> bool:
        """Whether a Unix time lies in the session."""
        return self.began <= moment <= self.ended


@dataclass(frozen=True)
class Utilisation:
    """How the workers' time was spent, over all sessions of a search run.

    A launch lasts from the draw of a trial to its first step; None if no launch was recorded.
    """

    busy_share: float  # of the worker time that went into training and validation, in 0..1
    tail_share: float  # of the worker time that slots sat idle after their last trial, in 0..1
    worker_seconds: float  # slots x workers x duration
    first_launch_s: float | None  # median of the first trial of each slot: its process starts too
    later_launch_s: float | None  # median of the other launches
    worst_launch_s: float | None  # maximum of the other launches

    @property
    def summary(self) -> str:
        """The numbers in one line."""
        return f"busy {100 * self.busy_share:.0f} % of {self.breakdown}"

    @property
    def breakdown(self) -> str:
        """The worker time that `busy_share` is a fraction of, and how the rest was spent."""
        parts = [
            f"{self.worker_seconds / 60:.1f} worker-minutes (training and validation)",
            f"{100 * self.tail_share:.0f} % idle at the end, after the last trial of each slot",
        ]
        if self.first_launch_s is not None:
            parts.append(f"first trials started in {self.first_launch_s:.1f} s")
        if self.later_launch_s is not None:
            parts.append(f"later trials in {self.later_launch_s:.1f} s")
        return "; ".join(parts)


@dataclass(frozen=True)
class TrialInterval:
    """A time in one session in which a trial held its slot, from its draw or restart to its end.

    A pause ends an interval, too. If the trial did not end in the session, its last interval ends
    with the session.
    """

    trial: str
    slot: int  # from 1; a slot runs one trial at a time
    began: float  # seconds
    ended: float
    epochs: tuple[Span, ...]  # when it trained and validated

    @property
    def busy_s(self) -> float:
        """Seconds of training and validation."""
        return sum(ended - began for began, ended in self.epochs)


@dataclass(frozen=True)
class Timeline:
    """The sessions of a search run one after another, without the time between them."""

    seconds: float
    num_slots: int
    intervals: tuple[TrialInterval, ...]  # in seconds since the start of the search


@contextmanager
def recorded(run: SearchDir, num_slots: Callable[[], int], workers: int) -> Iterator[None]:
    """Record the block as a session of the search run, even if the block raises.

    `num_slots` is called at its end, because a cluster may grow. The most slots count, so the
    busy share of a session on a cluster that has grown is a lower bound.
    """
    began = time.time()
    try:
        yield
    finally:
        sessions = [*read_sessions(run), Session(began, time.time(), num_slots(), workers)]
        write_atomic(run.sessions, "".join(json.dumps(asdict(s)) + "\n" for s in sessions))


def read_sessions(run: SearchDir) -> list[Session]:
    """Return the sessions that have ended, oldest first."""
    if not run.sessions.exists():
        return []
    return [Session(**json.loads(line)) for line in run.sessions.read_text().splitlines()]


def searched_s(run: SearchDir) -> float:
    """Return how many seconds a search has run, over all its sessions.

    A session that was killed has left no record. Of it, and of a session that is running, the time
    counts in which any trial started, trained or validated an epoch that it has finished.
    """
    spans = [(session.began, session.ended) for session in read_sessions(run)]
    for trial in run.trial_dirs():
        spans += _TrialTimes.read(trial).spans()
    total, end = 0.0, 0.0
    for began, ended in sorted(spans):
        total += max(0.0, ended - max(began, end))
        end = max(end, ended)
    return total


def utilisation(run: SearchDir) -> Utilisation | None:
    """Return how the workers' time was spent; None before the end of the first session."""
    sessions = read_sessions(run)
    if not sessions:
        return None
    trials = [_TrialTimes.read(trial) for trial in run.trial_dirs()]
    busy_s = tail_s = 0.0
    first: list[float] = []
    later: list[float] = []
    for session in sessions:
        intervals = _intervals(trials, session)
        busy_s += session.workers * sum(interval.busy_s for interval in intervals)
        tail_s += session.workers * _tail_s(intervals, session)
        drawn = [t for t in trials if t.drawn is not None and session.contains(t.drawn)]
        launches = [trial.launch_s for trial in drawn]
        # The first trial of a slot waits for its process to start and to import torch.
        first += [s for s in launches[: session.concurrent] if s is not None]
        later += [s for s in launches[session.concurrent :] if s is not None]
    worker_s = sum(s.workers * s.concurrent * s.seconds for s in sessions)
    return Utilisation(
        busy_share=busy_s / worker_s,
        tail_share=tail_s / worker_s,
        worker_seconds=worker_s,
        first_launch_s=statistics.median(first) if first else None,
        later_launch_s=statistics.median(later) if later else None,
        worst_launch_s=max(later, default=None),
    )


def timeline(run: SearchDir) -> Timeline | None:
    """Return when each trial ran and in which slot; None before the end of the first session."""
    sessions = read_sessions(run)
    if not sessions:
        return None
    trials = [_TrialTimes.read(trial) for trial in run.trial_dirs()]
    moved: list[TrialInterval] = []
    elapsed = 0.0
    for session in sessions:
        moved += [_moved(i, elapsed - session.began) for i in _intervals(trials, session)]
        elapsed += session.seconds
    return Timeline(elapsed, max(session.concurrent for session in sessions), tuple(moved))


def _moved(interval: TrialInterval, by_s: float) -> TrialInterval:
    """Return the interval with all its times moved by `by_s` seconds."""
    return replace(
        interval,
        began=interval.began + by_s,
        ended=interval.ended + by_s,
        epochs=tuple((began + by_s, ended + by_s) for began, ended in interval.epochs),
    )


@dataclass(frozen=True)
class _TrialTimes:
    """The times in a trial's files, in Unix time."""

    trial: str
    starts: tuple[float | None, ...]  # of each attempt; None: written by an early version
    pauses: tuple[Span, ...]  # the times at which it was paused and resumed
    ended: float | None  # None while the trial has no verdict
    epochs: tuple[Span, ...]

    @classmethod
    def read(cls, trial: TrialDir) -> _TrialTimes:
        records = trial.read_epochs()
        verdict = trial.read_verdict()
        seconds_before = [0.0, *(record.seconds for record in records)]
        epochs = tuple(
            (record.ended - (record.seconds - before), record.ended)
            for record, before in zip(records, seconds_before, strict=False)
            if record.ended
        )
        # Early versions wrote no `ended` in a verdict: the end of the last epoch is used.
        last = epochs[-1][1] if epochs else None
        attempts = trial.read_attempts()
        return cls(
            trial=trial.id,
            starts=tuple(attempt.started for attempt in attempts),
            pauses=tuple((a.paused, a.started) for a in attempts if a.paused and a.started),
            ended=(verdict.ended or last) if verdict else None,
            epochs=epochs,
        )

    @property
    def drawn(self) -> float | None:
        """The start of the first attempt, if it is known."""
        return self.starts[0] if self.starts else None

    @property
    def launch_s(self) -> float | None:
        """Seconds from the draw to the first step; None without an epoch or after a restart."""
        if self.drawn is None or len(self.starts) > 1 or not self.epochs:
            return None
        return self.epochs[0][0] - self.drawn

    def spans(self) -> list[Span]:
        """Return from when to when the trial started, trained and validated."""
        starts = [start for start in self.starts if start is not None]
        launches: list[Span] = []
        for start, following in zip(starts, [*starts[1:], math.inf], strict=False):
            steps = [began for began, _ in self.epochs if start <= began < following]
            launches += [(start, min(steps))] if steps else []
        return [*launches, *self.epochs]

    def intervals(self, session: Session) -> list[TrialInterval]:
        """Return when the trial ran in a session, with slot 0; empty if it did not run in it."""
        resumed = [0.0, *(resumed for _, resumed in self.pauses), math.inf]
        ends = [*(paused for paused, _ in self.pauses), self.ended]
        parts = zip(pairwise(resumed), ends, strict=True)
        intervals = (self._interval(session, between, ended) for between, ended in parts)
        return [interval for interval in intervals if interval]

    def _interval(
        self, session: Session, between: Span, ended: float | None
    ) -> TrialInterval | None:
        """Return when the trial ran in a session, from one resume to the next.

        `ended` is when it was paused or ended; None: not yet.
        """
        first, last = between
        epochs = tuple(e for e in self.epochs if session.contains(e[1]) and first < e[1] <= last)
        starts = [start for start in self.starts if start is not None and first <= start < last]
        starts = [*filter(session.contains, starts), *(began for began, _ in epochs)]
        if not starts:
            return None
        ends = [finished for _, finished in epochs]
        # A trial that did not end in the session was interrupted by the end of the session.
        is_inside = ended is not None and session.contains(ended)
        ends.append(ended if ended is not None and is_inside else session.ended)
        return TrialInterval(self.trial, 0, min(starts), max(ends), epochs)


def _intervals(trials: Sequence[_TrialTimes], session: Session) -> list[TrialInterval]:
    """Return the intervals of a session with their slots, in Unix time."""
    intervals = [interval for trial in trials for interval in trial.intervals(session)]
    assigned: list[TrialInterval] = []
    free_since = [session.began] * session.concurrent
    for interval in sorted(intervals, key=lambda i: i.began):
        # The search draws a trial as soon as another trial ends, so the new trial gets the slot
        # that became free last. If no slot is free, the clocks of two nodes disagree; then it gets
        # the slot that becomes free first.
        free = [slot for slot, since in enumerate(free_since) if since <= interval.began]
        if free:
            slot = max(free, key=free_since.__getitem__)
        else:
            slot = min(range(len(free_since)), key=free_since.__getitem__)
        free_since[slot] = max(free_since[slot], interval.ended)
        assigned.append(replace(interval, slot=slot + 1))
    return assigned


def _tail_s(intervals: Sequence[TrialInterval], session: Session) -> float:
    """Return the seconds that slots sat idle after their last trial, summed over the slots."""
    last_end = dict.fromkeys(range(1, session.concurrent + 1), session.began)
    for interval in intervals:
        last_end[interval.slot] = max(last_end[interval.slot], interval.ended)
    return sum(max(0.0, session.ended - ended) for ended in last_end.values())
