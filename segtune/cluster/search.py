"""The search: a fresh Tuner over what the run folder says is still to do. Tune's own recovery is never used."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import ray
from ray import tune
from ray.tune.progress_reporter import TrialProgressCallback

from segtune.cluster.sampler import StudySampler, is_unfinished, scored_rows
from segtune.cluster.scheduler import Halving, HalvingScheduler
from segtune.cluster.session import WAITING_BUNDLE, Placement, live_nodes, plan_resources, release_orphans, session
from segtune.cluster.trial import run_trial
from segtune.results import best, read_trials
from segtune.rundir import RunDir, write_atomic
from segtune.study import Study
from segtune.verdict import Verdict

log = logging.getLogger(__name__)

RELEASE_EVERY_S = 1.0


def run_search(study: Study, run: RunDir, *, address: str | None = None, started: Callable[[Placement, str], None] | None = None) -> None:
    """Runs the trials of a study that its run folder does not hold yet, and returns when all have ended.

    `started` is told the placement and the dashboard's URL. Ctrl-C, SIGTERM and the run's stop request end the search
    gracefully: running trials are left to be resumed, and KeyboardInterrupt is raised.
    """
    with run.locked(), session(address) as dashboard:
        run.stop_request.unlink(missing_ok=True)
        placement = plan_resources(study.search, live_nodes())
        if started:
            started(placement, dashboard)
        # The scheduler first: it may find that a trial had been stopped when the last session broke off.
        scheduler = replayed_scheduler(study, run)
        sampler = StudySampler(study, run, placement.concurrent)
        watch = _Watch(run, sampler)
        try:
            with _signals(watch):
                if sampler.remaining:
                    _tuner(study, run, sampler, scheduler, placement, watch).fit()
        finally:
            watch.release(patience_s=10.0)
            sampler.settle()
            write_best(run)
        if watch.stopping:
            raise KeyboardInterrupt


def _tuner(
    study: Study, run: RunDir, sampler: StudySampler, scheduler: HalvingScheduler, placement: Placement, watch: _Watch
) -> tune.Tuner:
    trainable = partial(run_trial, base=study.config.dump(), run=str(run.path), placement=placement)
    return tune.Tuner(
        tune.with_resources(trainable, _bundles(placement)),
        tune_config=tune.TuneConfig(
            metric="miou",
            mode="max",
            search_alg=sampler,
            scheduler=scheduler,
            num_samples=sampler.remaining,
            max_concurrent_trials=placement.concurrent,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=f"tune-{time.time_ns()}", storage_path=str(run.ray), verbose=0, callbacks=[watch, _Silence()], stop=_StopAll(watch)
        ),
    )


def _bundles(placement: Placement) -> tune.PlacementGroupFactory:
    if placement.workers > 1:
        return tune.PlacementGroupFactory([WAITING_BUNDLE])
    return tune.PlacementGroupFactory([{"CPU": placement.cpus} | ({"GPU": placement.gpus} if placement.gpus else {})])


def replayed_scheduler(study: Study, run: RunDir) -> HalvingScheduler:
    """Returns the scheduler with the rungs and scores of the run folder.

    Where one trial alone is unfinished, as at concurrency 1, all that its rung had seen is known: if the session broke off
    between the trial's last validation and its stop, the trial is stopped now.
    """
    settings = study.search.scheduler
    scheduler = HalvingScheduler(Halving(study.rungs(), 2 if settings == "none" else settings.asha.reduction))
    trials = run.trial_dirs()
    unfinished = [trial.id for trial in trials if is_unfinished(trial)]
    for trial in trials:
        rows = scored_rows(trial)
        if not scheduler.replay(int(trial.id), rows) and unfinished == [trial.id]:
            trial.verdict.unlink(missing_ok=True)
            trial.write_verdict(Verdict(state="pruned", epoch=rows[-1]["epoch"], step=rows[-1]["step"]))
    return scheduler


def write_best(run: RunDir) -> None:
    """Copies the config of the best healthy trial to best.yaml, where it is not that one already."""
    winner = best(read_trials(run))
    if winner:
        config = run.trial(winner.number).config.read_text()
        if not run.best.exists() or run.best.read_text() != config:
            write_atomic(run.best, config)


class _Watch(tune.Callback):
    """Sees to it that stopped trials give their workers back, that best.yaml is current, and that a stop is heard."""

    def __init__(self, run: RunDir, sampler: StudySampler) -> None:
        self.run, self.sampler = run, sampler
        self.stopping = False
        self._released = 0.0

    def stop(self, *_: Any) -> None:
        """Ends the search at the next step; running trials can be resumed."""
        self.stopping = self.sampler.stopping = True

    def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
        """Looks about once a second for orphans and a stop request."""
        if time.monotonic() - self._released > RELEASE_EVERY_S:
            self._released = time.monotonic()
            release_orphans()
            if self.run.stop_request.exists():
                self.stop()

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Keeps best.yaml current."""
        write_best(self.run)

    def release(self, patience_s: float) -> None:
        """Waits until the last trials have given everything back, so that the next search finds it free."""
        deadline = time.monotonic() + patience_s
        while ray.is_initialized() and time.monotonic() < deadline:
            release_orphans()
            if ray.available_resources().get("CPU", 0) >= ray.cluster_resources().get("CPU", 0):
                return
            time.sleep(0.2)


class _Silence(TrialProgressCallback):
    """Takes the place of the callback that prints each trial's end, at verbosity 0 too; the table says it better."""

    def _print(self, msg: str) -> None:
        """Prints nothing."""


class _StopAll(tune.Stopper):
    """Stops every trial once the watch has heard a stop."""

    def __init__(self, watch: _Watch) -> None:
        self.watch = watch

    def __call__(self, trial_id: str, result: dict) -> bool:
        """No trial is stopped by its results here."""
        return False

    def stop_all(self) -> bool:
        """Whether the search is to end."""
        return self.watch.stopping


@contextlib.contextmanager
def _signals(watch: _Watch) -> Iterator[None]:
    """Ctrl-C and SIGTERM stop gracefully; a second Ctrl-C stops at once (nothing is lost: see rundir)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def hear(number: int, _: Any) -> None:
        if watch.stopping and number == signal.SIGINT:
            raise KeyboardInterrupt
        log.warning("stopping: running trials are kept and can be resumed; press Ctrl-C again to stop at once")
        watch.stop()

    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
