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

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from segtune import warm_start
from segtune.cluster.storage import UNHEALTHY, known_trial, notes_of, open_study, restore_notes, sampler_of
from segtune.rundir import RunDir, TrialDir, write_atomic
from segtune.study import Study
from segtune.verdict import Verdict

log = logging.getLogger(__name__)


def is_unfinished(trial: TrialDir) -> bool:
    """Whether a resumed search goes on with this trial."""
    verdict = trial.read_verdict()
    return verdict is None or verdict.state == "interrupted" or verdict.is_machine_fault


def scored_rows(trial: TrialDir) -> list[dict[str, Any]]:
    """Returns the validated epochs that Tune has seen: the workers of a stopped group may have gone on for a moment."""
    verdict = trial.read_verdict()
    last = verdict.epoch if verdict and verdict.state == "pruned" else math.inf
    return [row for row in trial.read_epochs() if row.get("miou") is not None and row["epoch"] <= last]


class StudySampler(Searcher):
    """Draws trials for Tune and tells Optuna how they ended."""

    def __init__(self, study: Study, run: RunDir, concurrent: int) -> None:
        """Opens the study in the run folder; trials that are there already are told to Optuna anew."""
        super().__init__(metric="miou", mode="max")
        self.study, self.run, self.concurrent = study, run, concurrent
        self.stopping = False
        self.numbers: dict[str, int] = {}  # Tune's trial id -> our number
        self.asked: dict[int, optuna.Trial] = {}
        self.reported: dict[int, set[int]] = {}
        self.unfinished: list[int] = []
        self.lost: Counter[int] = Counter()  # machine faults of each trial in this session
        self.optuna = open_study(run, study.search.storage)
        self.known = warm_start.read(run)
        for known in self.known.trials:
            self.optuna.add_trial(known_trial(known, study.space))
        self._replay()

    @property
    def remaining(self) -> int:
        """Trials that this session has yet to start."""
        return self.study.num_trials - len(self.asked) + len(self.unfinished)

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
            number, params = self._ask(sampler_of(self.study.search, len(self.asked), self.concurrent))
            # Written before anybody acts on it: a crash from here on finds the trial again.
            if notes := notes_of(self.asked[number]):
                write_atomic(self.run.trial(number).notes, json.dumps(notes) + "\n")
            write_atomic(self.run.trial(number).params, json.dumps(params, indent=1) + "\n")
        self.numbers[trial_id] = number
        return {"number": number, "params": params, "attempt": self.run.trial(number).begin_attempt()}

    def on_trial_result(self, trial_id: str, result: dict) -> None:
        """Tells Optuna an intermediate value at its epoch."""
        self._report(self.numbers[trial_id], result["epoch"], result["miou"])

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Settles how the trial ended: by its own verdict, or by what Tune has done to it."""
        number = self.numbers.pop(trial_id)
        trial = self.run.trial(number)
        verdict = trial.read_verdict()
        if verdict is None:
            verdict = self._verdict(trial, result, error)
            trial.write_verdict(verdict)
        if verdict.is_machine_fault and self.lost[number] < self.study.search.retries and not self.stopping:
            self.lost[number] += 1
            self.unfinished.append(number)
            log.info("trial %s: %s; it is started again from its last checkpoint", trial.id, verdict.evidence)
        else:
            self._tell(number, verdict)

    def settle(self) -> None:
        """Leaves to a resume the trials that have had no end: everything was stopped, or the search broke off."""
        self.stopping = True
        for trial_id in list(self.numbers):
            self.on_trial_complete(trial_id)

    def _verdict(self, trial: TrialDir, result: dict | None, error: bool) -> Verdict:
        last = result["epoch"] if result and not error else math.inf
        rows = [row for row in trial.read_epochs() if row["epoch"] <= last]
        epoch, step = (rows[-1]["epoch"], rows[-1]["step"]) if rows else (0, 0)
        if error:
            evidence = "the trial's process died, as it does when it is killed, runs out of memory or loses its node"
            return Verdict(state="failed", kind="lost", epoch=epoch, step=step, evidence=evidence)
        return Verdict(state="interrupted" if self.stopping else "pruned", epoch=epoch, step=step)

    def _ask(self, sampler: optuna.samplers.BaseSampler) -> tuple[int, dict[str, Any]]:
        number = len(self.asked)
        self.optuna.sampler = sampler
        trial = self.optuna.ask()
        assert trial.number == number + len(self.known.trials)
        params = self.study.space(trial)
        self.asked[number] = trial
        return number, params

    def _report(self, number: int, epoch: int, miou: float) -> None:
        told = self.reported.setdefault(number, set())
        if epoch not in told:
            told.add(epoch)
            self.asked[number].report(miou, epoch)

    def _tell(self, number: int, verdict: Verdict) -> None:
        """Tells Optuna the end of a trial: full length COMPLETE, stopped PRUNED, unhealthy also infeasible, fault FAIL."""
        trial = self.asked[number]
        rows = scored_rows(self.run.trial(number))
        for row in rows:
            self._report(number, row["epoch"], row["miou"])
        match verdict.state:
            case "completed" if rows:
                self.optuna.tell(trial, max(row["miou"] for row in rows))
            case "unhealthy":
                # TPE keeps away from what is infeasible; the best value of the study stays clean.
                trial.set_constraint(UNHEALTHY, 1.0)
                trial.set_user_attr("reason", verdict.reason)
                self.optuna.tell(trial, state=TrialState.PRUNED)
            case "pruned":
                self.optuna.tell(trial, state=TrialState.PRUNED)
            case "interrupted":
                pass  # goes on at a resume
            case _:
                trial.set_user_attr("reason", verdict.reason)
                self.optuna.tell(trial, state=TrialState.FAIL)

    def _replay(self) -> None:
        """Tells Optuna every trial of the run folder, in the order of their numbers, then queues the first points."""
        trials = [trial for trial in self.run.trial_dirs() if trial.params.exists()]
        all_given = optuna.samplers.RandomSampler(seed=0)  # no model need be fitted to draw what is known
        for number, trial in enumerate(trials):
            assert trial.id == self.run.trial(number).id, f"trial {number} is missing in {self.run.trials}"
            # A space that was widened since may have settings that the trial had not: they had the config's own value.
            self.optuna.enqueue_trial(self.study.space.complete(json.loads(trial.params.read_text())))
            self._ask(all_given)
            if trial.notes.exists():
                restore_notes(self.asked[number], json.loads(trial.notes.read_text()))
            verdict = trial.read_verdict()
            if verdict is None or is_unfinished(trial):
                self.unfinished.append(number)
            else:
                self._tell(number, verdict)
        for point in [*self.study.points(), *self.known.points][len(trials) :]:
            self.optuna.enqueue_trial(point)

    def save(self, checkpoint_path: str) -> None:
        """Saves nothing: the run folder is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Restores nothing: the run folder is the state."""
