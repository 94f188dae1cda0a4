"""Whether a search ends before its last trial: its budget is used up, or nothing is left to gain.

Reads the files of a search run, and writes RUN/end.json. The supervisor ends the search.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, fields

from segtune.errors import RunError
from segtune.runs.atomic import write_atomic
from segtune.runs.results import miou_by_epoch, read_params, validated_epochs
from segtune.runs.rundir import SearchDir, TrialDir
from segtune.runs.timeline import searched_s
from segtune.runs.verdict import Verdict
from segtune.tuning.expected_gain import expected_gain, expected_mious
from segtune.tuning.study import Study
from segtune.tuning.warm_start import TELLING_STATES, KnownTrial

# Wait at least 20 times as long as the last look at the trials took.
PAUSE_PER_LOOK = 20
GAIN = "stop_when.regret"


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
        reason = {
            "budget.hours": f"used up: the search has run for {self.value:.3g} hours",
            "budget.epochs": f"used up: its trials have trained {self.value} epochs",
            GAIN: "reached: as many trials again would raise the best mIoU by about "
            f"{self.value:.2g}, as far as the trials show",
        }[self.setting]
        return (
            f"search.{self.setting} {self.limit} is {reason}; {self.num_ended} of "
            f"{self.num_trials} trials have ended"
        )

    @property
    def options(self) -> dict[str, str]:
        """{option of `segtune search`: value} with which the search can go on; empty if none is."""
        if self.setting == GAIN:
            return {}
        larger = 2 * max(self.limit, self.value)
        return {f"--{self.setting.replace('.', '-')}": f"{larger:.10g}"}

    @property
    def way_out(self) -> str:
        """How the search can go on."""
        if not self.options:
            return f"to go on, lower or remove search.{self.setting} in the study, and resume it"
        words = " ".join(f"{option} {value}" for option, value in self.options.items())
        return (
            f"to go on, resume it with a larger budget, for example --resume {words}, or change "
            f"search.{self.setting} in the study"
        )


@dataclass(frozen=True)
class _ReadTrial:
    """What counts of a trial that has ended, or that is paused."""

    num_epochs: int
    known: KnownTrial | None  # None if it says nothing about what the search can gain


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
    """Looks after the limits of a search while it runs, or before it goes on."""

    def __init__(self, study: Study, run: SearchDir) -> None:
        self._study = study
        self._run = run
        budget = study.search.budget
        self._gain_limit = study.search.stop_when.regret
        self._has_limits = bool(budget.hours or budget.epochs or self._gain_limit)
        self._began = time.time()
        self._before_s = searched_s(run) if budget.hours else 0.0
        self._ended: dict[int, _ReadTrial] = {}  # by number
        self._paused: dict[int, _ReadTrial] = {}  # the same of those that may go on
        self._next_look = 0.0  # on the monotonic clock

    def reached(self) -> SearchEnd | None:
        """Return the limit that the search has reached, or None.

        None, too, if it is too soon after the last look at the trials, or if all trials have ended.
        """
        start = time.monotonic()
        if not self._has_limits or start < self._next_look:
            return None
        before = (len(self._ended), self._paused)
        num_epochs = self._num_epochs()
        gain = self._gain() if before != (len(self._ended), self._paused) else None
        self._next_look = start + PAUSE_PER_LOOK * (time.monotonic() - start)
        if len(self._ended) >= self._study.num_trials:
            return None
        hours = (self._before_s + time.time() - self._began) / 3600
        used = {"budget.epochs": num_epochs, "budget.hours": hours}
        for setting, value in used.items():
            limit = self._study.search.get(setting)
            if limit is not None and value >= limit:
                return self._end(setting, limit, value)
        if self._gain_limit and gain is not None and gain < self._gain_limit:
            return self._end(GAIN, self._gain_limit, gain)
        return None

    def _end(self, setting: str, limit: float, value: float) -> SearchEnd:
        num_ended, num_trials = len(self._ended), self._study.num_trials
        return SearchEnd(setting, limit, value, num_ended, num_trials, round(time.time(), 3))

    def _num_epochs(self) -> int:
        """Return how many epochs all trials have trained. Read each trial that has ended once."""
        num_epochs = 0
        self._paused = {}
        for trial in self._run.trial_dirs():
            number = int(trial.id)
            if number not in self._ended:
                verdict, records = trial.read_verdict(), trial.read_epochs()
                num_epochs += len(records)
                if verdict is None or not verdict.is_final:
                    continue
                known = self._paused if verdict.state == "paused" else self._ended
                known[number] = _ReadTrial(len(records), _known(trial, verdict))
            else:
                num_epochs += self._ended[number].num_epochs
        return num_epochs

    def _gain(self) -> float | None:
        """Return what the search may still gain in mIoU; None if it is not known."""
        told = sorted({**self._paused, **self._ended}.items())
        known = {number: trial.known for number, trial in told if trial.known}
        return expected_gain(list(expected_mious(known).values()))


def _known(trial: TrialDir, verdict: Verdict) -> KnownTrial | None:
    """Return a trial that has ended; None if it may not win."""
    if verdict.state not in TELLING_STATES or trial.read_guards().broken:
        return None
    mious = miou_by_epoch(validated_epochs(trial, verdict))
    return KnownTrial.of(read_params(trial), verdict.state, mious)


def refuse_reached_limit(study: Study, run: SearchDir) -> None:
    """Raise RunError with the way out if a resumed search has reached a limit already."""
    if end := SearchLimits(study, run).reached():
        raise RunError(f"{run.path}: {end.sentence}; {end.way_out}")


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
