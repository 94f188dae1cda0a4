"""Whether a search has reached a limit that ends it before its last trial: its budget.

Reads the files of a search run, and writes RUN/end.json. The supervisor ends the search.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, fields

from segtune.errors import RunError
from segtune.runs.atomic import write_atomic
from segtune.runs.rundir import SearchDir
from segtune.runs.timeline import searched_s
from segtune.tuning.study import Study

# Wait at least 20 times as long as the last look at the trials took.
PAUSE_PER_LOOK = 20


@dataclass(frozen=True)
class SearchEnd:
    """Which limit has ended a search before its last trial."""

    setting: str  # of the search block
    limit: float  # a whole number for epochs
    value: float  # that was reached
    num_ended: int  # trials
    num_trials: int  # that the search would have had
    written: float = 0.0  # Unix time

    @property
    def sentence(self) -> str:
        """Why the search has ended."""
        used = {
            "budget.hours": f"the search has run for {self.value:.3g} hours",
            "budget.epochs": f"its trials have trained {self.value} epochs",
        }[self.setting]
        return (
            f"search.{self.setting} {self.limit} is used up: {used}; {self.num_ended} of "
            f"{self.num_trials} trials have ended"
        )

    @property
    def option(self) -> str:
        """The option of `segtune search` that changes the limit."""
        return f"--{self.setting.replace('.', '-')}"

    @property
    def larger(self) -> float:
        """A limit with which the search can go on, in the unit of the setting."""
        return 2 * max(self.limit, self.value)


def write_end(run: SearchDir, end: SearchEnd) -> None:
    """Record why the search has ended."""
    write_atomic(run.end, json.dumps(asdict(end), indent=1) + "\n")


def read_end(run: SearchDir) -> SearchEnd | None:
    """Return which limit has ended the search; None if none has, or if it goes on since.

    The record is a comment on the search: a damaged one counts as none.
    """
    try:
        row = json.loads(run.end.read_text())
        return SearchEnd(**{field.name: row[field.name] for field in fields(SearchEnd)})
    except (OSError, ValueError, KeyError, TypeError):
        return None


class SearchLimits:
    """Looks after the budget of a search while it runs, or before it goes on."""

    def __init__(self, study: Study, run: SearchDir) -> None:
        self._study = study
        self._run = run
        self._budget = study.search.budget
        self._began = time.time()
        self._before_s = searched_s(run) if self._budget.hours else 0.0
        self._epochs_of_ended: dict[str, int] = {}  # by trial id
        self._next_look = 0.0  # on the monotonic clock

    def reached(self) -> SearchEnd | None:
        """Return the limit that the search has reached, or None.

        None, too, if it is too soon after the last look at the trials, or if all trials have ended.
        """
        start = time.monotonic()
        if not (self._budget.hours or self._budget.epochs) or start < self._next_look:
            return None
        num_epochs = self._num_epochs()
        self._next_look = start + PAUSE_PER_LOOK * (time.monotonic() - start)
        if len(self._epochs_of_ended) >= self._study.num_trials:
            return None
        hours = (self._before_s + time.time() - self._began) / 3600
        return self._end("budget.epochs", num_epochs) or self._end("budget.hours", hours)

    def _end(self, setting: str, value: float) -> SearchEnd | None:
        limit = self._study.search.get(setting)
        if limit is None or value < limit:
            return None
        num_ended, num_trials = len(self._epochs_of_ended), self._study.num_trials
        return SearchEnd(setting, limit, value, num_ended, num_trials, round(time.time(), 3))

    def _num_epochs(self) -> int:
        """Return how many epochs all trials have trained."""
        num_running = 0
        for trial in self._run.trial_dirs():
            if trial.id in self._epochs_of_ended:
                continue
            verdict, num_epochs = trial.read_verdict(), len(trial.read_epochs())
            if verdict is not None and verdict.is_final:
                self._epochs_of_ended[trial.id] = num_epochs
            else:
                num_running += num_epochs
        return num_running + sum(self._epochs_of_ended.values())


def refuse_reached_limit(study: Study, run: SearchDir) -> None:
    """Raise RunError with the way out if a resumed search has no budget left."""
    if end := SearchLimits(study, run).reached():
        raise RunError(
            f"{run.path}: {end.sentence}; to go on, resume it with a larger budget, for example "
            f"--resume {end.option} {end.larger:.10g}, or change search.{end.setting} in the study"
        )


def limit_words(study: Study, run: SearchDir) -> dict[str, str]:
    """Return {label: words} of why a search has ended, or of how much of its budget is used up.

    Empty without a budget.
    """
    if end := read_end(run):
        return {"ended": end.sentence}
    budget = study.search.budget
    parts = []
    if budget.hours:
        parts.append(f"{searched_s(run) / 3600:.3g} of {budget.hours:g} hours")
    if budget.epochs:
        num_epochs = sum(len(trial.read_epochs()) for trial in run.trial_dirs())
        parts.append(f"{num_epochs} of {budget.epochs} epochs")
    return {"budget": ", ".join(parts)} if parts else {}
