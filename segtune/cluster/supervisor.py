"""Looks after a search while Tune runs it.

Releases the workers of stopped trials, detects trials that hang, keeps best.yaml and the
checkpoints current, and ends the search when it is asked to, when it has reached a limit, or when
trial after trial ends for one cause. Decides about no trial's score: the stopping rule does.
"""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial

from segtune.checks.breaker import Breaker
from segtune.checks.forecast import Slots
from segtune.checks.forecast_record import Forecaster
from segtune.checks.notices import Notice, Tell, UnhealthyShare, tell_nobody
from segtune.checks.pause import explain
from segtune.checks.search_limits import SearchLimits, write_end
from segtune.cluster.messages import DrawnTrial
from segtune.cluster.node_watch import NodeWatch
from segtune.cluster.placement import Placement
from segtune.cluster.ray_internals import kill_trial, release_orphans
from segtune.cluster.slot_tasks import costs_in_all_slots
from segtune.cluster.tune_searcher import StudySearcher, is_unfinished
from segtune.exporting.best_config import write_best, write_front
from segtune.runs.kept_checkpoints import GRACE_S, KeptCheckpoints
from segtune.runs.pareto import pareto_front
from segtune.runs.results import RUNNING, TrialResult, best_trial, read_trial, read_trials
from segtune.runs.rundir import SearchDir, TrialDir
from segtune.runs.verdict import Verdict
from segtune.tuning.study import Study

log = logging.getLogger(__name__)

# How often the supervisor looks at trials, placement groups and the stop request.
SUPERVISION_INTERVAL_S = 1.0


def front_of(study: Study, trials: Iterable[TrialResult]) -> list[TrialResult]:
    """Return the Pareto front of a study with several objectives; empty for any other."""
    return pareto_front(trials, study.search.objectives) if study.search.has_front else []


class HangDetector:
    """Finds trials whose heartbeat has not changed for too long.

    Time is measured by the driver's own clock, because the clocks of other nodes may differ.
    """

    def __init__(self) -> None:
        # By trial id: the last heartbeat, and when the driver first read it.
        self._heartbeats: dict[str, tuple[str, float]] = {}

    def evidence(self, trial: TrialDir) -> str:
        """Return in words for how long a trial has hung; empty if it does not hang.

        A trial hangs if it has made no step for longer than the limit in its heartbeat.
        """
        text = trial.heartbeat.read_text() if trial.heartbeat.exists() else ""
        last, since = self._heartbeats.get(trial.id, ("", 0.0))
        if not text or text != last:
            self._heartbeats[trial.id] = (text, time.monotonic())
            return ""
        silent_s = time.monotonic() - since
        heartbeat = json.loads(text)
        if silent_s <= heartbeat["limit_s"]:
            return ""
        process = f"process {heartbeat['pid']} on {heartbeat['host']}"
        median = f"{heartbeat['step_s']:.2g} s"
        return f"no step for {silent_s:.0f} s in {process}, where the median step takes {median}"


class Supervisor(tune.Callback):
    """Looks after a search while Tune runs it. Tune calls it after every step of its own loop."""

    def __init__(
        self,
        study: Study,
        run: SearchDir,
        searcher: StudySearcher,
        tell: Tell = tell_nobody,
        nodes: NodeWatch | None = None,
    ) -> None:
        """`nodes` watches the nodes of a cluster; None if the only node is this machine."""
        self.study = study
        self.nodes = nodes
        self.run = run
        self.searcher = searcher
        self.stopping = False
        self.limits = SearchLimits(study, run)
        self.at_limit = False  # whether a limit has ended the search, and not the user
        self.hang_detector = HangDetector()
        trials = read_trials(run)
        self.best = best_trial(trials)
        self._front_trials = self._of_front(trials)
        self._kept = self._kept_checkpoints(trials)
        is_new = not any(trial.state != RUNNING for trial in trials)
        self._breaker = Breaker(study.search.breaker, is_new=is_new)
        self._tell = tell
        self._unhealthy = UnhealthyShare(study.search.notify.unhealthy_share)
        self._forecaster: Forecaster | None = None
        self._last_check = 0.0

    def begin_forecast(self, placement: Placement) -> None:
        """Forecast the search, before its first trial; raise RunError if the disk is too small."""
        slots = Slots(placement.concurrent, placement.workers, placement.gpus)
        checks = self.study.search.corner_steps > 0
        is_new = checks and not (self.run.forecast.exists() or self.run.trial_dirs())
        costs = costs_in_all_slots(self.study, placement) if is_new else []
        self._forecaster = Forecaster(self.study, self.run, slots, costs)
        self._forecaster.begin(may_refuse=checks)

    def end_forecast(self) -> None:
        """Write the last forecast of this session, which a resume begins with."""
        if self._forecaster:
            self._forecaster.update()

    def stop(self) -> None:
        """End the search at Tune's next step. Running trials can be resumed."""
        self.stopping = True
        self.searcher.stop()

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Check about once a second for all that Tune does not look after."""
        if time.monotonic() - self._last_check <= SUPERVISION_INTERVAL_S:
            return
        self._last_check = time.monotonic()
        release_orphans()
        if self.nodes:
            self.nodes.update(len(self.searcher.numbers) + self.searcher.remaining)
            self.searcher.room = self.nodes.room
        self._sweep()
        for tune_trial in trials:
            if tune_trial.status == Trial.RUNNING and tune_trial.trial_id in self.searcher.numbers:
                self._end_if_hung(tune_trial)
        if self._forecaster:
            self._forecaster.update_if_due()
        if self.run.stop_request.exists() or self.searcher.disk_problem:
            self.stop()
        self._end_at_limit()

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Keep best.yaml current, and the checkpoints of the best trials; perhaps pause.

        Reads only the trial that has ended. Reading all of them was most of what a search of a
        thousand trials cost the driver.
        """
        ended = read_trial(self.run.trial(DrawnTrial.from_config(trial.config).number))
        if ended.number == 0 and self.study.search.guards.class_iou_drop is not None:
            self._judge_again()
        best = best_trial([ended, *([self.best] if self.best else [])])
        if best is not self.best:
            self.best = best
            write_best(self.study, self.run, best)
        self._front_trials |= self._of_front([ended])
        write_front(self.study, self.run, front_of(self.study, self._front_trials.values()))
        self._kept.ended(ended)
        reason = None if self.stopping else self._breaker.ended(ended)
        if notice := self._unhealthy.ended(ended.number, ended.state):
            self._tell(notice)
        if reason:
            self._tell(Notice("pause", f"the search pauses: {reason}"))
            for line in explain(self.study, self.run, read_trials(self.run), reason):
                log.warning("%s", line)
            self.stop()

    def _end_at_limit(self) -> None:
        """End the search if its budget is used up or nothing is left to gain, unless it ends."""
        if not self.stopping and (end := self.limits.reached()):
            write_end(self.run, end)
            self.at_limit = True
            self.stop()

    def _judge_again(self) -> None:
        """Choose among all trials again: trial 0 has ended, and guards compare with it."""
        trials = read_trials(self.run)
        self.best = best_trial(trials)
        self._front_trials = self._of_front(trials)
        write_best(self.study, self.run, self.best)
        self._kept = self._kept_checkpoints(trials)

    def _of_front(self, trials: Iterable[TrialResult]) -> dict[int, TrialResult]:
        """Return the trials by number; none in a study with one objective, which has no front."""
        return {trial.number: trial for trial in trials} if self.study.search.has_front else {}

    def _kept_checkpoints(self, trials: Sequence[TrialResult]) -> KeptCheckpoints:
        keep = self.study.config.checkpoint.keep_trials
        return KeptCheckpoints(self.run, keep, trials, self.study.search.objectives)

    def wait_until_released(self, timeout_s: float) -> None:
        """Wait until the last trials have released their resources, for the next search.

        Then no worker writes any more, and the checkpoints that are not kept can go.
        """
        if self.nodes:
            self.nodes.close()
        deadline = time.monotonic() + timeout_s
        while ray.is_initialized() and release_orphans() and time.monotonic() < deadline:
            time.sleep(0.2)
        self._sweep(grace_s=0.0)

    def _sweep(self, grace_s: float = GRACE_S) -> None:
        """Delete the checkpoints that are not kept.

        Not before trial 0 has ended if the others are compared with it: those that are kept now
        may then break the guard.
        """
        is_compared = self.study.search.guards.class_iou_drop is not None
        if not (is_compared and is_unfinished(self.run.trial(0))):
            self._kept.sweep(grace_s)

    def _end_if_hung(self, tune_trial: Trial) -> None:
        trial = self.run.trial(self.searcher.numbers[tune_trial.trial_id])
        evidence = self.hang_detector.evidence(trial)
        if not evidence or trial.verdict.exists():
            return
        epoch, step = trial.progress()
        verdict = Verdict(state="failed", kind="hung", epoch=epoch, step=step, evidence=evidence)
        # Another verdict may have been written since: then the trial has ended by itself.
        if trial.write_verdict(verdict) and not kill_trial(tune_trial):
            log.warning("trial %s hangs and cannot be killed: %s", trial.id, evidence)


class StopWhenAsked(tune.Stopper):
    """Stops all trials once the supervisor was asked to stop the search."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return False: results stop a trial only through the stopping rule."""
        return False

    def stop_all(self) -> bool:
        """Whether the search has to end."""
        return self.supervisor.stopping


@contextlib.contextmanager
def stop_on_signals(supervisor: Supervisor) -> Iterator[None]:
    """While the block runs, Ctrl-C and SIGTERM stop the search gracefully.

    A second Ctrl-C raises KeyboardInterrupt. Nothing is lost then either, because records are
    written before anything acts on them. Does nothing outside the main thread, which alone may
    handle signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _: Any) -> None:
        if supervisor.stopping and number == signal.SIGINT:
            raise KeyboardInterrupt
        log.warning(
            "stopping: running trials are kept and can be resumed; "
            "press Ctrl-C again to stop at once"
        )
        supervisor.stop()

    earlier = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
