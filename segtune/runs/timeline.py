"""Where the workers' time went: what each trial did when, how long it took to its first step, and what share was training.

Everything is read from the run's files, so that it can be asked of any run, and needs no Ray.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from segtune.runs.atomic import write_atomic
from segtune.runs.rundir import SearchDir, TrialDir


@dataclass(frozen=True)
class Session:
    """One run of the search over a run folder: from when to when in seconds since 1970, and with how many workers."""

    began: float
    ended: float
    concurrent: int  # trials at the same time
    workers: int  # of one trial

    def holds(self, when: float) -> bool:
        """Whether a moment lies in the session."""
        return self.began <= when <= self.ended


@dataclass(frozen=True)
class Utilisation:
    """Of all sessions of a run. Launches are seconds from the draw of a trial to its first step, None where none was seen."""

    busy: float  # share in 0..1 of the workers' time
    tail: float  # share of it that places were there for after their last trial
    worker_seconds: float
    first_launch: float | None  # in processes that had to start and import everything
    later_launch: float | None  # the median of the others
    worst_launch: float | None

    @property
    def words(self) -> str:
        """Returns the numbers in one line."""
        return f"busy {100 * self.busy:.0f} % of {self.rest}"

    @property
    def rest(self) -> str:
        """Returns of what the busy share is one, and where the others went."""
        told = [
            f"{self.worker_seconds / 60:.1f} worker-minutes (training and validation), {100 * self.tail:.0f} % on places after their last trial",
            *(
                [f"first step after {self.first_launch:.1f} s"]
                if self.first_launch is not None
                else []
            ),
            *(
                [f"in later trials after {self.later_launch:.1f} s"]
                if self.later_launch is not None
                else []
            ),
        ]
        return "; ".join(told)


@dataclass(frozen=True)
class TrialInterval:
    """A trial on its place in one session, from its draw or new start to its end or that of the session.

    Places are those for trials that run at the same time, from 1. Times are seconds.
    """

    trial: str
    place: int
    began: float
    ended: float
    epochs: tuple[tuple[float, float], ...]  # from when to when it trained and validated


@dataclass(frozen=True)
class Timeline:
    """What ran when, in seconds of search: the sessions of a run one after another, without what lies between them."""

    seconds: float
    places: int
    stays: tuple[TrialInterval, ...]


@contextmanager
def recorded(run: SearchDir, concurrent: int, workers: int) -> Iterator[None]:
    """Adds the time in the block to the run's sessions, whatever ends it."""
    began = time.time()
    try:
        yield
    finally:
        told = [*sessions_of(run), Session(began, time.time(), concurrent, workers)]
        write_atomic(run.sessions, "".join(json.dumps(asdict(session)) + "\n" for session in told))


def sessions_of(run: SearchDir) -> list[Session]:
    """Returns the sessions of a run that have ended, oldest first."""
    return (
        [Session(**json.loads(line)) for line in run.sessions.read_text().splitlines()]
        if run.sessions.exists()
        else []
    )


def utilisation(run: SearchDir) -> Utilisation | None:
    """Returns where the workers' time of a run went; None before the end of its first session."""
    sessions, trials = _told(run)
    if not sessions:
        return None
    busy = tail = there = 0.0
    first, later = [], []
    for session in sessions:
        stays = _stays(trials, session)
        busy += session.workers * sum(
            ended - began for stay in stays for began, ended in stay.epochs
        )
        tail += session.workers * _tail_s(stays, session)
        there += session.workers * session.concurrent * (session.ended - session.began)
        launches = [clock.launch_s for clock in trials if session.holds(clock.drawn)]
        first += [seconds for seconds in launches[: session.concurrent] if seconds is not None]
        later += [seconds for seconds in launches[session.concurrent :] if seconds is not None]
    return Utilisation(
        busy=busy / there,
        tail=tail / there,
        worker_seconds=there,
        first_launch=statistics.median(first) if first else None,
        later_launch=statistics.median(later) if later else None,
        worst_launch=max(later, default=None),
    )


def timeline(run: SearchDir) -> Timeline | None:
    """Returns what each trial did, by place; None before the end of a run's first session."""
    sessions, trials = _told(run)
    found: list[TrialInterval] = []
    offset = 0.0
    for session in sessions:
        shift = offset - session.began
        for stay in _stays(trials, session):
            epochs = tuple((began + shift, ended + shift) for began, ended in stay.epochs)
            found.append(
                replace(stay, began=stay.began + shift, ended=stay.ended + shift, epochs=epochs)
            )
        offset += session.ended - session.began
    return (
        Timeline(offset, max(session.concurrent for session in sessions), tuple(found))
        if sessions
        else None
    )


@dataclass(frozen=True)
class _Clock:
    """What the files of a trial tell of its time, in seconds since 1970; 0 for what has not been."""

    trial: str
    drawn: float
    started: float  # its last attempt
    ended: float
    epochs: tuple[tuple[float, float], ...]
    launch_s: (
        float | None
    )  # from its draw to its first step; None where it has no epoch or was started again

    @staticmethod
    def of(trial: TrialDir) -> _Clock:
        rows, drawn = trial.read_epochs(), _written(trial.params)
        befores = [0.0, *(row["seconds"] for row in rows)]
        epochs = tuple(
            (row["ended"] - (row["seconds"] - before), row["ended"])
            for row, before in zip(rows, befores, strict=False)
        )
        launch_s = epochs[0][0] - drawn if epochs and trial.attempts_begun() <= 1 else None
        return _Clock(
            trial.id, drawn, _written(trial.attempts), _written(trial.verdict), epochs, launch_s
        )

    def stay(self, session: Session) -> TrialInterval | None:
        """Returns the trial's part of a session, its place still open; None where it was not there."""
        epochs = tuple((began, ended) for began, ended in self.epochs if session.holds(ended))
        starts = [
            when
            for when in (self.drawn, self.started, *(began for began, _ in epochs))
            if session.holds(when)
        ]
        if not starts:
            return None
        # What had not ended in a session was there until it did: then it was interrupted, and goes on in the next one.
        ended = self.ended if session.holds(self.ended) else session.ended
        return TrialInterval(
            self.trial, 0, min(starts), max([ended, *(end for _, end in epochs)]), epochs
        )


def _told(run: SearchDir) -> tuple[list[Session], list[_Clock]]:
    """Returns the sessions of a run that have ended and, where there is one, what its trials tell."""
    sessions = sessions_of(run)
    return sessions, [_Clock.of(trial) for trial in run.trial_dirs()] if sessions else []


def _written(path: Path) -> float:
    return path.stat().st_mtime if path.exists() else 0.0


def _stays(trials: Sequence[_Clock], session: Session) -> list[TrialInterval]:
    """Returns the trials of a session by place, in seconds since 1970."""
    found: list[TrialInterval] = []
    free = [session.began] * session.concurrent  # from when on each place is free
    for stay in sorted(
        filter(None, (clock.stay(session) for clock in trials)), key=lambda stay: stay.began
    ):
        # A trial is drawn as soon as another one has ended, so it has the place of the one that ended last. Where all are taken,
        # clocks of different nodes disagree, and the one that is free first will do.
        open_places = [place for place, since in enumerate(free) if since <= stay.began]
        place = (
            max(open_places, key=free.__getitem__)
            if open_places
            else min(range(len(free)), key=free.__getitem__)
        )
        free[place] = max(free[place], stay.ended)
        found.append(replace(stay, place=place + 1))
    return found


def _tail_s(stays: Sequence[TrialInterval], session: Session) -> float:
    """Returns the seconds that places were there for after their last trial."""
    last = dict.fromkeys(range(1, session.concurrent + 1), session.began)
    for stay in stays:
        last[stay.place] = max(last[stay.place], stay.ended)
    return sum(max(0.0, session.ended - ended) for ended in last.values())
