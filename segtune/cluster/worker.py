"""One rank of a trial: drives the trainer and tells each validated epoch. Runs in a trial's process or in a Train worker."""

from __future__ import annotations

import contextlib
import queue
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from segtune.config.schema import ExperimentConfig
from segtune.runs.rundir import TrialDir

Row = dict[str, float]
Task = dict[str, Any]


# What the ranks of a group say when they can be given a task; else they say the name of one that they have ended.
READY = "ready"
# A rank looks this often whether the search has ended its trial.
LOOK_EVERY_S = 1.0


class WorkerMailbox:
    """What has come for the rank of this process while it trained or waited: Ray Train runs its function and messages as threads."""

    tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
    called_back = ""  # the name of a task


def submit(task: Task) -> None:
    """Gives this process's rank its next task."""
    WorkerMailbox.tasks.put(task)


def cancel(name: str) -> None:
    """Has this process's rank leave a task at its next step."""
    WorkerMailbox.called_back = name


class ShouldCancel:
    """Whether a rank is to leave its task: it was called back, or the search has said how the trial ended.

    Tune calls back a trial only when another takes its place, and at the end of a search none does.
    """

    def __init__(self, task: Task) -> None:
        self.name, self.verdict = task_name(task), TrialDir(Path(task["out"])).verdict
        self.looked = time.monotonic()

    def __call__(self) -> bool:
        """Asked at every step: looks at the disk once a second."""
        if WorkerMailbox.called_back == self.name:
            return True
        if time.monotonic() - self.looked <= LOOK_EVERY_S:
            return False
        self.looked = time.monotonic()
        return self.verdict.exists()


def task_name(task: Task) -> str:
    """Returns what tells a task from every other, a second attempt at the same trial too."""
    return f"{task['out']}, attempt {task['attempt']}"


def train_rank(
    task: Task, tell: Callable[[Row], None], *, should_stop: Callable[[], bool] | None = None
) -> None:
    """Trains one rank of the task (see `trial.make_task`) and calls `tell` with the numbers of each validated epoch.

    Every rank tells the same numbers the same number of times, as `ray.train.report` asks for. Where `should_stop` is true on one of
    them, all leave the task after the same step.
    """
    import torch

    from segtune.training.distributed import Ranks
    from segtune.training.memory import keep_freed_memory
    from segtune.training.trainer import Trainer, TrialCancelled

    keep_freed_memory()
    # Ray gives a process a share of the cores, torch would take them all.
    torch.set_num_threads(max(1, int(task["cpus"])))
    config = ExperimentConfig.parse(task["config"])
    out = TrialDir(Path(task["out"]), task["attempt"])
    if task["resume"]:
        trainer = Trainer.resume(config, out, Ranks.join(), cpus=task["cpus"])
    else:
        init_from = Path(task["init_from"]) if task["init_from"] else None
        trainer = Trainer.start(config, out, Ranks.join(), init_from=init_from, cpus=task["cpus"])
    with contextlib.suppress(TrialCancelled):
        for report in trainer.epochs(should_stop):
            if report.miou is not None:
                # Tune counts calls; after a resume the only clock that goes on is the epoch.
                tell(
                    {
                        "epoch": report.epoch,
                        "training_iteration": report.epoch,
                        "miou": report.miou,
                        "loss": report.losses["loss"],
                    }
                )


def train_worker(task: Task) -> None:
    """The function of a Ray Train worker with one task."""
    import ray.train

    train_rank(task, ray.train.report)


def serve_tasks(_: dict[str, Any]) -> None:
    """The function of a Ray Train worker that is handed its tasks, one after the other, until it is killed."""
    import ray.train

    ray.train.report({"says": READY})
    while True:
        task = WorkerMailbox.tasks.get()
        train_rank(task, ray.train.report, should_stop=ShouldCancel(task))
        release_memory()
        ray.train.report({"says": task_name(task)})


def release_memory() -> None:
    """Leaves the process as the next trial wants to find it: without the last one's model and loaders."""
    if dynamo := sys.modules.get("torch._dynamo"):
        dynamo.reset()  # it gives up on a network after some sizes, whosever they were
    if "torch" in sys.modules:
        from segtune.training.memory import release_memory

        # A trial in the search's own process is a thread, and each has a heap of its own: 150 MB more after every trial.
        release_memory()
