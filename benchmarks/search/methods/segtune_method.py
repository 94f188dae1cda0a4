"""segtune's searcher and scheduler with a run folder, connected as in segtune/cluster/run.py."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import TrialScheduler

from benchmarks.search.methods.method import REDUCTION, Decision, End, Job
from benchmarks.search.tasks import Task
from segtune.cluster.tune_scheduler import StoppingRuleScheduler
from segtune.cluster.tune_searcher import StudySearcher
from segtune.runs.atomic import write_atomic
from segtune.runs.records import EpochRecord, ValidationScores
from segtune.runs.rundir import SearchDir
from segtune.runs.verdict import Verdict
from segtune.tuning.chosen_rule import stopping_rule
from segtune.tuning.search_config import SearchConfig
from segtune.tuning.space import Space
from segtune.tuning.study import Study

# More trials than any search starts: the budget of epochs ends a search.
MAX_TRIALS = 1_000_000


class SegtuneMethod:
    """A search of segtune without Ray and without training."""

    def __init__(
        self, task: Task, seed: int, changes: Mapping[str, Any], space: Space | None = None
    ) -> None:
        """`changes` are settings of the search block; `space` replaces that of the task.

        Of the changes, `asha` adds to the settings of the scheduler.
        """
        base = task.study if space is None else replace(task.study, space=space)
        schedule = {"schedule.epochs": task.epochs, "schedule.val_every": 1}
        of_search = dict(changes)
        asha = {"grace_epochs": task.grace, "reduction": REDUCTION, "pause": False}
        asha |= of_search.pop("asha", {})
        search = {"trials": MAX_TRIALS, "seed": seed, "scheduler": {"asha": asha}, **of_search}
        study = Study(base.config.override(schedule), base.space, SearchConfig.parse(search))
        # In memory: syncing the files to a disk would take most of the time.
        self.folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.run = SearchDir(self.folder / "run")
        rule = stopping_rule(study)
        self.searcher = StudySearcher.from_run(study, self.run, rule)
        self.scheduler = StoppingRuleScheduler(rule)
        self.drawn: dict[int, dict[str, Any]] = {}
        self.names: dict[int, str] = {}  # of the last start of each trial
        self.num_starts = 0

    def next_job(self) -> Job:
        name = str(self.num_starts)
        self.num_starts += 1
        drawn = self.searcher.suggest(name)
        number = drawn["number"]
        self.names[number] = name
        self.drawn[number] = drawn
        return Job(number, drawn["params"])

    def began(self, number: int, params: dict[str, Any]) -> None:
        """Put the values that are trained in the place of the drawn ones."""
        if number and self.drawn[number]["params"] != params:
            self.drawn[number]["params"] = params
            for study_log in self.searcher._logs_of(number):
                study_log.withdraw(number)
                study_log.begin(number, params)
            if self.searcher.rule:
                self.searcher.rule.begin(number, params)
                # What a paused trial is read from when it goes on.
                write_atomic(self.run.trial(number).params, json.dumps(params))

    def report(self, number: int, epoch: int, score: float) -> Decision:
        scores = ValidationScores(miou=score, constant_miou=0.0)
        record = EpochRecord(epoch=epoch, step=epoch, seconds=float(epoch), validation=scores)
        self.run.trial(number).append_epoch(record)
        result = {"epoch": epoch, "miou": score}
        self.searcher.on_trial_result(self.names[number], result)
        trial: Any = SimpleNamespace(config=self.drawn[number])
        decision = self.scheduler.on_trial_result(None, trial, result)
        if decision != TrialScheduler.STOP:
            return Decision.CONTINUE
        if self.searcher.rule is None:
            return Decision.STOP
        # The searcher itself writes the verdict.
        self.searcher.on_trial_complete(self.names[number], {"epoch": epoch})
        return Decision.PAUSE

    def end(self, number: int, state: End) -> None:
        trial = self.run.trial(number)
        epoch, _ = trial.progress()
        # The searcher itself writes the verdict of a pruned trial.
        if state != "pruned":
            kind = "diverged" if state == "unhealthy" else ""
            trial.write_verdict(Verdict(state=state, kind=kind, epoch=epoch))
        self.searcher.on_trial_complete(self.names[number], {"epoch": epoch})

    def close(self) -> None:
        """Remove the run folder."""
        shutil.rmtree(self.folder)
