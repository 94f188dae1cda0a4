"""What a search tells its user: notices, and the share of unhealthy trials that calls for one."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from segtune.runs.results import BAD_ENDS, RUNNING, best_trial, read_trials
from segtune.runs.rundir import SearchDir
from segtune.tuning.notify_config import NoticeEvent

FORMAT = 1  # of the JSON
MIN_ENDED = 5  # trials before a share of them means anything


@dataclass(frozen=True)
class Notice:
    """One event of a search, in a sentence."""

    event: NoticeEvent
    sentence: str


Tell = Callable[[Notice], None]


def tell_nobody(notice: Notice) -> None:
    """Do nothing with a notice."""


def notice_tree(notice: Notice, run: SearchDir, num_trials: int) -> dict[str, Any]:
    """Return a notice with the state of the search as plain JSON values.

    `text` is a sentence, under the name that chat services read.
    """
    trials = read_trials(run)
    best = best_trial(trials)
    ended = [trial for trial in trials if trial.state != RUNNING]
    return {
        "format": FORMAT,
        "event": notice.event,
        "text": f"segtune: {run.path.name}: {notice.sentence}",
        "run": str(run.path),
        "name": run.path.name,
        "host": socket.gethostname(),
        "time": round(time.time(), 3),
        "trials": num_trials,
        "ended": len(ended),
        "unhealthy": sum(trial.state in BAD_ENDS for trial in ended),
        "best_trial": best.id if best else None,
        "best_miou": best.miou if best else None,
    }


class UnhealthyShare:
    """Counts how trials end in one session, and says once if too many of them end badly."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._ends: dict[int, bool] = {}  # {number of a trial: whether it has ended badly}
        self._is_told = False

    def ended(self, number: int, state: str) -> Notice | None:
        """Take the end of a trial; return a notice if the share is reached for the first time."""
        if state == "interrupted":
            return None
        self._ends[number] = state in BAD_ENDS
        bad, count = sum(self._ends.values()), len(self._ends)
        if self._is_told or count < MIN_ENDED or bad < self._share * count:
            return None
        self._is_told = True
        sentence = f"{bad} of {count} trials have ended unhealthy or failed; the search goes on"
        return Notice("unhealthy", sentence)
