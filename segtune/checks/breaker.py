"""Pauses a search in which trial after trial ends for one cause."""

from __future__ import annotations

from collections import Counter, deque
from typing import NamedTuple

from segtune.runs.results import BAD_ENDS, TrialResult
from segtune.tuning.search_config import BreakerConfig


class Break(NamedTuple):
    """Why a search pauses."""

    cause: str  # the kind of the verdicts, such as diverged
    num_unhealthy: int  # trials that ended for this cause ...
    num_ended: int  # ... of so many
    where: str  # first or last

    def __str__(self) -> str:
        number = str(self.num_unhealthy) if self.num_unhealthy < self.num_ended else "all"
        return f"{number} of the {self.where} {self.num_ended} trials have ended as {self.cause}"


class Breaker:
    """Counts the ends of trials in one session of a search."""

    def __init__(self, config: BreakerConfig, *, is_new: bool) -> None:
        """`is_new`: the session begins with the first trial of the search run."""
        self._config = config
        self._first: list[str] | None = [] if is_new and config.first else None
        self._recent: deque[str] = deque(maxlen=config.recent or 1)
        self._paused: set[int] = set()  # numbers of trials that have paused

    def ended(self, trial: TrialResult) -> Break | None:
        """Take the result of a trial that has ended; return why the search must pause, or None.

        An interrupted trial does not count: it goes on at a resume. A trial that pauses counts as
        healthy, and counts again only if it ends badly.
        """
        if trial.state == "interrupted" or (
            trial.number in self._paused and trial.state not in BAD_ENDS
        ):
            return None
        if trial.state == "paused":
            self._paused.add(trial.number)
        cause = trial.kind if trial.state in BAD_ENDS else ""
        self._recent.append(cause)
        return self._check_first(cause) or self._check_recent()

    def _check_first(self, cause: str) -> Break | None:
        if self._first is None:
            return None
        self._first.append(cause)
        number = len(self._first)
        if not cause or len(set(self._first)) > 1:
            self._first = None  # one of the first trials ended otherwise
        elif number == self._config.first:
            return Break(cause, number, number, "first")
        return None

    def _check_recent(self) -> Break | None:
        recent = self._config.recent
        causes = Counter(filter(None, self._recent)).most_common(1)
        if recent is None or len(self._recent) < recent or not causes:
            return None
        ((cause, number),) = causes
        if number < self._config.share * recent:
            return None
        self._recent.clear()
        return Break(cause, number, recent, "last")
