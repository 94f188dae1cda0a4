"""The numbers of a running search for Prometheus, through Ray's metrics.

The driver exports what it knows of the search, and rank 0 of each trial what it trains.
deploy/grafana/segtune.json shows them. The files of the run hold the same and stay.
"""

from __future__ import annotations

import time
from collections import Counter as Counts
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ray import tune
from ray.tune.experiment import Trial
from ray.util.metrics import Counter, Gauge

from segtune.cluster.messages import DrawnTrial
from segtune.cluster.placement import Placement
from segtune.runs.results import RUNNING, read_trials
from segtune.runs.rundir import SearchDir, TrialDir
from segtune.runs.verdict import State

if TYPE_CHECKING:
    from segtune.cluster.supervisor import Supervisor
    from segtune.training.trainer import Trainer

# `study` is the name of the search run, and `run` its folder. Prometheus shows the names with the
# prefix ray_, and those of counters with the suffix _total.
TAGS = ("study", "run")
INTERVAL_S = 2.0


def tags_of(run: SearchDir) -> dict[str, str]:
    """Return the values of TAGS for a search run, or for a part of one, such as RUN/full."""
    is_part = SearchDir(run.path.parent).study.is_file()
    return {"study": run.path.parent.name if is_part else run.path.name, "run": str(run.path)}


def _gauge(name: str, description: str, tags: dict[str, str], *more: str) -> Gauge:
    gauge = Gauge(name, description, tag_keys=(*TAGS, *more))
    gauge.set_default_tags(tags)
    return gauge


def _counter(name: str, description: str, tags: dict[str, str]) -> Counter:
    counter = Counter(name, description, tag_keys=(*TAGS, "trial"))
    counter.set_default_tags(tags)
    return counter


class SearchMetrics(tune.Callback):
    """Exports the state of a search. Tune calls it after every step of its own loop."""

    def __init__(self, supervisor: Supervisor, placement: Placement) -> None:
        self._supervisor = supervisor
        self._placement = placement
        tags = tags_of(supervisor.run)
        self._best = _gauge("segtune_best_miou", "Best mIoU of the search, in 0..1", tags)
        self._trials = _gauge("segtune_trials", "Number of trials by state", tags, "state")
        self._planned = _gauge("segtune_trials_planned", "Number of trials in all", tags)
        self._workers = _gauge("segtune_workers", "Workers for which there is room now", tags)
        self._miou = _gauge("segtune_trial_miou", "Last mIoU of a trial, in 0..1", tags, "trial")
        self._epoch = _gauge("segtune_trial_epoch", "Last validated epoch", tags, "trial")
        self._states = {trial.number: trial.state for trial in read_trials(supervisor.run)}
        self._last = 0.0

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Export the scores of a validated epoch."""
        if "miou" in result:
            tags = {"trial": _id_of(trial)}
            self._miou.set(result["miou"], tags)
            self._epoch.set(result["epoch"], tags)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Remember how a trial has ended."""
        number = DrawnTrial.from_config(trial.config).number
        verdict = self._supervisor.run.trial(number).read_verdict()
        if verdict:
            self._states[number] = verdict.state

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Export the state of the search every INTERVAL_S."""
        if time.monotonic() - self._last < INTERVAL_S:
            return
        self._last = time.monotonic()
        self.export()

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """Export how the search has ended."""
        self.export()

    def export(self) -> None:
        """Export the state of the search."""
        supervisor = self._supervisor
        running = set(supervisor.searcher.numbers.values())
        counts = Counts(state for n, state in self._states.items() if n not in running)
        counts[RUNNING] = len(running)
        for state in (RUNNING, *get_args(State)):
            self._trials.set(counts[state], {"state": state})
        self._planned.set(supervisor.study.num_trials)
        slots = supervisor.nodes.room if supervisor.nodes else self._placement.concurrent
        self._workers.set(slots * self._placement.workers)
        if supervisor.best and supervisor.best.miou is not None:
            self._best.set(supervisor.best.miou)


def _id_of(trial: Trial) -> str:
    return f"{DrawnTrial.from_config(trial.config).number:04d}"


class TrialMetrics:
    """Exports what a trial trains. For rank 0 only."""

    def __init__(self, trial: TrialDir, trainer: Trainer) -> None:
        tags = tags_of(SearchDir(Path(trial.path).parents[1])) | {"trial": trial.id}
        self._epochs = _counter("segtune_epochs", "Epochs trained", tags)
        self._images = _counter("segtune_images", "Training images seen", tags)
        self._busy = _counter("segtune_busy_seconds", "Worker time in epochs, in seconds", tags)
        schedule, self._world_size = trainer.config.schedule, trainer.ranks.world_size
        self._images_per_step = schedule.batch_size * schedule.accumulate * self._world_size
        self._step = trainer.step
        self._began = time.monotonic()

    def epoch_ended(self, step: int) -> None:
        """Count an epoch that has been trained, and validated if it was due, up to `step`."""
        now = time.monotonic()
        self._epochs.inc()
        if step > self._step:
            self._images.inc((step - self._step) * self._images_per_step)
        self._busy.inc((now - self._began) * self._world_size)
        self._step, self._began = step, now
