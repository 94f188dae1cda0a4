"""What looks after a search while Tune runs it: workers that come back, trials that stand still, requests to stop."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import ray
from ray import tune
from ray.tune.progress_reporter import TrialProgressCallback

from segtune.cluster.ray_internals import release_orphans
from segtune.cluster.tune_searcher import StudySearcher
from segtune.config.yaml_io import write_yaml
from segtune.runs.atomic import write_atomic
from segtune.runs.results import TrialResult, best_trial, read_trial, read_trials
from segtune.runs.rundir import SearchDir, TrialDir
from segtune.runs.verdict import Verdict
from segtune.tuning.study import Study

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0


def write_best(study: Study, run: SearchDir, winner: TrialResult | None) -> None:
    """Writes the config of the best healthy trial to best.yaml, at its full length, where it is not that one already."""
    if winner:
        config = write_yaml(study.config.override(winner.params).dump())
        if not run.best.exists() or run.best.read_text() != config:
            write_atomic(run.best, config)


class HangDetector:
    """Tells which trials have stood still too long, by the driver's own clock: those of other nodes may differ."""

    def __init__(self) -> None:
        self.seen: dict[str, tuple[str, float]] = {}

    def of(self, trial: TrialDir) -> str:
        """Returns for how long a trial has not moved, in words, or nothing while that is within the limit it has set itself."""
        text = trial.heartbeat.read_text() if trial.heartbeat.exists() else ""
        before, since = self.seen.get(trial.id, ("", 0.0))
        if not text or text != before:
            self.seen[trial.id] = (text, time.monotonic())
            return ""
        still_s, pulse = time.monotonic() - since, json.loads(text)
        if still_s <= pulse["limit_s"]:
            return ""
        where = f"process {pulse['pid']} on {pulse['host']}"
        return f"no step for {still_s:.0f} s in {where}, where the median step takes {pulse['step_s']:.2g} s"


class Supervisor(tune.Callback):
    """Sees to it that stopped trials give their workers back, that best.yaml is current, and that a stop is heard."""

    def __init__(self, study: Study, run: SearchDir, sampler: StudySearcher) -> None:
        self.study, self.run, self.sampler = study, run, sampler
        self.stopping = False
        self.leader = best_trial(read_trials(run))
        self.stillness = HangDetector()
        self._looked = 0.0

    def stop(self, *_: Any) -> None:
        """Ends the search at the next step; running trials can be resumed."""
        self.stopping = True
        self.sampler.stop()

    def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
        """Looks about once a second for orphans, trials that hang and a stop request."""
        if time.monotonic() - self._looked > LOOK_EVERY_S:
            self._looked = time.monotonic()
            release_orphans()
            self._end_hung(trials)
            if self.run.stop_request.exists():
                self.stop()

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Keeps best.yaml current. Only the one trial is read: reading them all was most of what a search of a thousand cost."""
        ended = read_trial(self.run.trial(trial.config["number"]))
        leader = best_trial([ended, *([self.leader] if self.leader else [])])
        if leader is not self.leader:
            self.leader = leader
            write_best(self.study, self.run, leader)

    def release(self, patience_s: float) -> None:
        """Waits until the last trials have given everything back, so that the next search finds it free."""
        deadline = time.monotonic() + patience_s
        while ray.is_initialized() and release_orphans() and time.monotonic() < deadline:
            time.sleep(0.2)

    def _end_hung(self, trials: list) -> None:
        for tune_trial in trials:
            actor = tune_trial.temporary_state.ray_actor
            if actor is None or tune_trial.trial_id not in self.sampler.numbers:
                continue
            trial = self.run.trial(self.sampler.numbers[tune_trial.trial_id])
            if (evidence := self.stillness.of(trial)) and not trial.verdict.exists():
                epoch, step = trial.progress()
                trial.write_verdict(
                    Verdict(state="failed", kind="hung", epoch=epoch, step=step, evidence=evidence)
                )
                ray.kill(actor)


class QuietReporter(TrialProgressCallback):
    """Takes the place of the callback that prints each trial's end, at verbosity 0 too; the table says it better."""

    def _print(self, msg: str) -> None:
        """Prints nothing."""


class StopWhenAsked(tune.Stopper):
    """Stops every trial once the watch has heard a stop."""

    def __init__(self, watch: Supervisor) -> None:
        self.watch = watch

    def __call__(self, trial_id: str, result: dict) -> bool:
        """No trial is stopped by its results here."""
        return False

    def stop_all(self) -> bool:
        """Whether the search is to end."""
        return self.watch.stopping


@contextlib.contextmanager
def stop_signals(watch: Supervisor) -> Iterator[None]:
    """Ctrl-C and SIGTERM stop gracefully; a second Ctrl-C stops at once (nothing is lost: see rundir)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def hear(number: int, _: Any) -> None:
        if watch.stopping and number == signal.SIGINT:
            raise KeyboardInterrupt
        log.warning(
            "stopping: running trials are kept and can be resumed; press Ctrl-C again to stop at once"
        )
        watch.stop()

    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
