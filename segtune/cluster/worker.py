"""One rank of a trial: drives the trainer and reports each validated epoch.

Runs in a trial's process, or in a Ray Train worker.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segtune.cluster.guarded import breaks_guard
from segtune.cluster.messages import Finished, Ready, Reported, TrialReport, TrialTask
from segtune.config.schema import ExperimentConfig

if TYPE_CHECKING:
    from segtune.cluster.live_metrics import TrialMetrics
    from segtune.training.trainer import Trainer

# How often a rank looks whether its trial has a verdict: a thousand trials share one file system.
VERDICT_CHECK_S = 1.0


class WorkerMailbox:
    """Passes tasks and cancellations to the rank of this process.

    Ray Train runs the training function in one thread of a worker's process, and the functions that
    the trial sends in other threads.
    """

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[TrialTask] = queue.SimpleQueue()
        self._cancelled = ""

    def submit(self, task: TrialTask) -> None:
        """Give the rank its next task."""
        self._tasks.put(task)

    def next_task(self) -> TrialTask:
        """Wait for the next task and return it."""
        return self._tasks.get()

    def cancel(self, name: str) -> None:
        """Ask the rank to leave the task of this name at its next step."""
        self._cancelled = name

    def is_cancelled(self, name: str) -> bool:
        """Whether the task of this name is the last one that was cancelled."""
        return self._cancelled == name


# One for each process, because a process holds one rank.
MAILBOX = WorkerMailbox()


def submit(task: TrialTask) -> None:
    """Give the rank of this process its next task."""
    MAILBOX.submit(task)


def cancel(name: str) -> None:
    """Ask the rank of this process to leave the task of this name at its next step."""
    MAILBOX.cancel(name)


class ShouldCancel:
    """Whether a rank has to leave its task: the task was cancelled, or its trial has a verdict.

    Tune tells a trial that it was stopped only when another trial takes its place. At the end of a
    search no other does.
    """

    def __init__(self, task: TrialTask, check_every_s: float = VERDICT_CHECK_S) -> None:
        self._name = task.name
        self._verdict = task.trial.verdict
        self._check_every_s = check_every_s
        self._checked = time.monotonic()

    def __call__(self) -> bool:
        """Return whether to leave. Called at every step; looks at the disk once a second."""
        if MAILBOX.is_cancelled(self._name):
            return True
        if time.monotonic() - self._checked < self._check_every_s:
            return False
        self._checked = time.monotonic()
        return self._verdict.exists()


def train_rank(
    task: TrialTask,
    report: Callable[[TrialReport], None],
    *,
    should_cancel: Callable[[], bool] | None = None,
) -> None:
    """Train this process's rank, and call `report` with the scores of each validated epoch.

    All ranks report the same scores the same number of times, as `ray.train.report` requires. If
    `should_cancel` returns True on one of them, all leave the task after the same step.
    """
    import torch

    from segtune.tracking.open import recorders
    from segtune.training.distributed import Ranks
    from segtune.training.memory import keep_freed_memory
    from segtune.training.trainer import Trainer, TrialCancelled

    keep_freed_memory()
    # Ray gives a process a share of the cores. By default torch would use all of them.
    torch.set_num_threads(max(1, int(task.cpus)))
    config = ExperimentConfig.parse(task.config)
    init_from = Path(task.init_from) if task.init_from else None
    # Ray Train has opened the process group of the ranks, and closes it.
    ranks = Ranks.join()
    options: dict[str, Any] = {"init_from": init_from, "cpus": task.cpus}
    # A paused trial goes on from the epoch at which it was paused.
    options["full_checkpoints"] = task.pause_epochs
    options["listeners"] = recorders(config.log)
    if task.resume:
        trainer = Trainer.resume(config, task.trial, ranks, epoch=task.resume_epoch, **options)
    else:
        trainer = Trainer.start(config, task.trial, ranks, overwrite=task.overwrite, **options)
    with contextlib.suppress(TrialCancelled):
        if task.measurement and breaks_guard(trainer, task.trial, task.measurement):
            return
        metrics = _metrics_of(task, trainer)
        for record in trainer.epochs(should_cancel):
            if metrics:
                metrics.epoch_ended(record.step)
            if record.miou is not None:
                report(TrialReport(record.epoch, record.miou, record.losses["loss"]))


def _metrics_of(task: TrialTask, trainer: Trainer) -> TrialMetrics | None:
    """Return what exports the progress of a trial; None on other ranks and outside a search."""
    if task.attempt is None or not trainer.ranks.is_first:
        return None
    from segtune.cluster.live_metrics import TrialMetrics

    return TrialMetrics(task.trial, trainer)


def train_worker(config: dict[str, Any]) -> None:
    """The function of a Ray Train worker that trains config["task"]."""
    train_rank(config["task"], _report)


def train_cancellable_worker(config: dict[str, Any]) -> None:
    """The function of a Ray Train worker that trains config["task"] until its trial has ended."""
    task = config["task"]
    train_rank(task, _report, should_cancel=ShouldCancel(task))


def serve_tasks(_: dict[str, Any]) -> None:
    """The function of a Ray Train worker that trains one task after another until it is killed."""
    import ray.train

    ray.train.report(Ready().to_metrics())
    while True:
        task = MAILBOX.next_task()
        train_rank(task, _report, should_cancel=ShouldCancel(task))
        release_memory()
        ray.train.report(Finished(task.name).to_metrics())


def _report(report: TrialReport) -> None:
    import ray.train

    ray.train.report(Reported(report).to_metrics())


def release_memory() -> None:
    """Release what the last trial has left in this process: its model, loaders and graphs."""
    if dynamo := sys.modules.get("torch._dynamo"):
        # After a number of different sizes torch.compile gives up on a network, whether the sizes
        # were of one trial or of many.
        dynamo.reset()
    if "torch" in sys.modules:
        from segtune.training.memory import release_memory

        # A trial of one worker is a thread of its process, and each thread has a heap of its own.
        # Without this a process grew by 150 MB with every trial.
        release_memory()
