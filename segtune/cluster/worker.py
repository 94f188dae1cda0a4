"""One rank of a trial: drives the trainer and tells each validated epoch. Runs in a trial's process or in a Train worker."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from segtune.config import ExperimentConfig
from segtune.rundir import TrialDir

Row = dict[str, float]


def train_rank(task: dict[str, Any], tell: Callable[[Row], None]) -> None:
    """Trains one rank of the task (see `trial.task_of`) and calls `tell` with the numbers of each validated epoch.

    Every rank tells the same numbers the same number of times, as `ray.train.report` asks for.
    """
    os.environ["SEGTUNE_CPUS_PER_RANK"] = str(task["cpus"])
    import torch

    from segtune.distributed import Ranks
    from segtune.trainer import Trainer

    # Ray gives a process a share of the cores, torch would take them all.
    torch.set_num_threads(max(1, int(task["cpus"])))
    init_from = Path(task["init_from"]) if task["init_from"] else None
    out = TrialDir(Path(task["out"]), task["attempt"])
    trainer = Trainer(ExperimentConfig.parse(task["config"]), out, Ranks.join(), resume=task["resume"], init_from=init_from)
    for report in trainer.epochs():
        if report.miou is not None:
            # Tune counts calls; after a resume the only clock that goes on is the epoch.
            tell({"epoch": report.epoch, "training_iteration": report.epoch, "miou": report.miou, "loss": report.row["loss"]})


def train_worker(task: dict[str, Any]) -> None:
    """The function of a Ray Train worker."""
    import ray.train

    train_rank(task, ray.train.report)
