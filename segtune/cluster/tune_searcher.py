"""Optuna's ask and tell as a Tune searcher that knows verdicts.

The run folder is the truth: Optuna's journal is rebuilt from it at a resume, so neither a torn journal nor a crash
between two writes can make them disagree.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from typing import Any

from ray.tune.search import Searcher

from segtune.cluster.messages import DrawnTrial
from segtune.errors import ConfigError
from segtune.runs.atomic import write_atomic
from segtune.runs.results import miou_by_epoch, validated_epochs
from segtune.runs.rundir import SearchDir, TrialDir
from segtune.runs.verdict import Verdict
from segtune.tuning import warm_start
from segtune.tuning.optuna_study import (
    OptunaStudyLog,
    open_study,
    restore_sampler_state,
    sampler_state_of,
    to_frozen_trial,
)
from segtune.tuning.samplers import make_sampler, random_sampler
from segtune.tuning.study import Study
from segtune.tuning.trial_history import history_for

log = logging.getLogger(__name__)

# How often a point that the config refuses is drawn again, at random.
REDRAWS = 100


def is_unfinished(trial: TrialDir) -> bool:
    """Whether a resumed search goes on with this trial."""
    verdict = trial.read_verdict()
    return verdict is None or not verdict.is_final


class StudySearcher(Searcher):
    """Draws trials for Tune and tells Optuna how they ended."""

    def __init__(self, study: Study, run: SearchDir) -> None:
        """Opens the study in the run folder; trials that are there already are told to Optuna anew."""
        super().__init__(metric="miou", mode="max")
        self.study, self.run = study, run
        self.stopping = False
        self.numbers: dict[str, int] = {}  # Tune's trial id -> our number
        self.started = 0  # trials that have a number
        self.unfinished: list[int] = []
        self.lost: Counter[int] = Counter()  # machine faults of each trial in this session
        self.record = OptunaStudyLog(open_study(run, study.search.storage), study.space)
        self.history = history_for(study.search.sampler, study.space)
        known = warm_start.read(run)
        self.points = [*study.points(), *known.points]
        for trial in known.trials:
            self.record.study.add_trial(to_frozen_trial(trial, study.space))
        if self.history:
            self.history.add(known.trials)
        self._replay()

    @property
    def remaining(self) -> int:
        """Trials that this session has yet to start."""
        return self.study.num_trials - self.started + len(self.unfinished)

    def suggest(self, trial_id: str) -> Any:
        """Returns {number, params, attempt} of the next trial, None while there may be another one later, or FINISHED."""
        if self.stopping or (self.remaining <= 0 and not self.numbers):
            return Searcher.FINISHED
        if self.remaining <= 0:
            return None  # one that runs may yet be lost, and has to be started again
        if self.unfinished:
            number = self.unfinished.pop(0)
            params = json.loads(self.run.trial(number).params.read_text())
        else:
            number = self.started
            params = self._ask(self.points[number] if number < len(self.points) else None)
            # Written before anybody acts on it: a crash from here on finds the trial again.
            if notes := sampler_state_of(self.record.asked[number]):
                write_atomic(self.run.trial(number).sampler_state, json.dumps(notes) + "\n")
            write_atomic(self.run.trial(number).params, json.dumps(params, indent=1) + "\n")
        self.numbers[trial_id] = number
        attempt = self.run.trial(number).begin_attempt()
        return DrawnTrial(number, params, attempt).to_config()

    def on_trial_result(self, trial_id: str, result: dict) -> None:
        """Tells Optuna an intermediate value at its epoch."""
        for book in self._books:
            book.report(self.numbers[trial_id], result["epoch"], result["miou"])

    def on_trial_complete(
        self, trial_id: str, result: dict | None = None, error: bool = False
    ) -> None:
        """Settles how the trial ended: by its own verdict, or by what Tune has done to it."""
        number = self.numbers.pop(trial_id)
        trial = self.run.trial(number)
        verdict = trial.read_verdict()
        if verdict is None:
            verdict = self._verdict(trial, result, error)
            trial.write_verdict(verdict)
        if (
            verdict.is_machine_fault
            and self.lost[number] < self.study.search.retries
            and not self.stopping
        ):
            self.lost[number] += 1
            self.unfinished.append(number)
            log.info(
                "trial %s: %s; it is started again from its last checkpoint",
                trial.id,
                verdict.evidence,
            )
        else:
            self._tell(number, verdict)

    def settle(self) -> None:
        """Leaves to a resume the trials that have had no end: everything was stopped, or the search broke off."""
        self.stopping = True
        for trial_id in list(self.numbers):
            self.on_trial_complete(trial_id)

    def _verdict(self, trial: TrialDir, result: dict | None, error: bool) -> Verdict:
        epoch, step = trial.progress(result["epoch"] if result and not error else math.inf)
        if error:
            evidence = "the trial's process died, as it does when it is killed, runs out of memory or loses its node"
            return Verdict(state="failed", kind="lost", epoch=epoch, step=step, evidence=evidence)
        return Verdict(state="interrupted" if self.stopping else "pruned", epoch=epoch, step=step)

    @property
    def _books(self) -> list[OptunaStudyLog]:
        return [self.record, *([self.history.book] if self.history else [])]

    def _ask(self, given: dict[str, Any] | None) -> dict[str, Any]:
        """Opens the next trial with values that are given, or that the sampler draws."""
        number = self.started
        self.started += 1
        sampler = make_sampler(self.study.search, self.study.space, number)
        drawn = self.history or self.record
        params = drawn.ask(number, sampler, given)
        for attempt in range(REDRAWS if given is None else 0):
            if self._is_possible(params):
                break
            drawn.withdraw(number)
            params = drawn.ask(number, random_sampler(self.study.search, number, attempt))
        return self.record.ask(number, sampler, params) if self.history else params

    def _is_possible(self, params: dict[str, Any]) -> bool:
        """Whether the config takes these values together, as it does each of them: a corner may have no loss term at all."""
        try:
            self.study.trial_config(params)
        except ConfigError:
            return False
        return True

    def _tell(self, number: int, verdict: Verdict) -> None:
        """Tells Optuna the end of a trial."""
        trial = self.run.trial(number)
        mious = miou_by_epoch(validated_epochs(trial, trial.read_verdict()))
        for one in (self.record, self.history):
            if one:
                one.tell(number, verdict, mious)

    def _replay(self) -> None:
        """Tells Optuna every trial of the run folder, in the order of their numbers."""
        trials = [trial for trial in self.run.trial_dirs() if trial.params.exists()]
        for number, trial in enumerate(trials):
            assert trial.id == self.run.trial(number).id, (
                f"trial {number} is missing in {self.run.trials}"
            )
            self._ask(json.loads(trial.params.read_text()))
            if trial.sampler_state.exists():
                restore_sampler_state(
                    self.record.asked[number], json.loads(trial.sampler_state.read_text())
                )
            verdict = trial.read_verdict()
            if verdict and verdict.is_final:
                self._tell(number, verdict)
            else:
                self.unfinished.append(number)

    def save(self, checkpoint_path: str) -> None:
        """Saves nothing: the run folder is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Restores nothing: the run folder is the state."""
