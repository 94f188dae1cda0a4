"""Times a few real optimiser steps and a part of a validation of a config, in this process.

Leaves nothing behind: the files of the training run are in a temporary folder.
"""

from __future__ import annotations

import itertools
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from segtune.config.schema import ExperimentConfig
from segtune.runs.rundir import TrialDir
from segtune.training.distributed import Ranks
from segtune.training.evaluation import evaluate
from segtune.training.train_step import PendingStep
from segtune.training.trainer import Trainer

# Batches of a validation that are timed.
NUM_VAL_BATCHES = 2


def measure(
    config: ExperimentConfig, name: str, params: Mapping[str, Any], num_steps: int = 4
) -> dict[str, Any]:
    """Return the fields of `checks.step_costs.StepCosts` for `config`, as plain values.

    `params` are the searched values in which the config differs from the study's own. The first
    step is not timed: it fills caches and may compile.
    """
    rss = _peak_rss()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        trainer = Trainer.start(config, TrialDir(Path(folder) / "run"), Ranks.join())
        start_s = time.perf_counter() - start
        steps = list(_step_seconds(trainer, num_steps + 1))
        val_image_s = _val_image_s(trainer)
        trainer.scalars.close()
        tensors = [*trainer.network.state_dict().values(), *_tensors(trainer.optimizer)]
    is_gpu = trainer.ranks.device.type == "cuda"
    return {
        "name": name,
        "params": dict(params),
        "start_s": start_s,
        "step_s": statistics.median(steps[1:] or steps),
        "steps_per_epoch": trainer.train_data.steps_per_epoch,
        "val_image_s": val_image_s,
        "num_val_images": trainer.val_data.num_images,
        "peak_bytes": torch.cuda.max_memory_allocated() if is_gpu else _peak_rss() - rss,
        "checkpoint_bytes": sum(tensor.nbytes for tensor in tensors),
    }


def _step_seconds(trainer: Trainer, num_steps: int) -> Iterator[float]:
    batches = trainer.train_data.epoch(1)
    trainer.model.train()
    for step in range(1, num_steps + 1):
        start = time.perf_counter()
        micro = list(itertools.islice(batches, trainer.config.schedule.accumulate))
        if not micro:
            return
        outcome = trainer.train_step.run(micro, step=step, lr=trainer.config.optim.lr)
        if isinstance(outcome, PendingStep):
            outcome.read()
        yield time.perf_counter() - start


def _val_image_s(trainer: Trainer) -> float | None:
    batches = list(itertools.islice(iter(trainer.val_data), NUM_VAL_BATCHES))
    num_images = sum(len(batch.images) for batch in batches)
    if not num_images:
        return None
    start = time.perf_counter()
    evaluate(
        trainer.network,
        batches,
        trainer.ranks,
        trainer.config,
        len(trainer.classes),
        trainer.precision,
    )
    return (time.perf_counter() - start) / num_images


def _tensors(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, torch.Tensor))


def _peak_rss() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
