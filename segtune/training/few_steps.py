"""A few optimiser steps at the peak learning rate, to learn what they cost and whether they work.

Writes no file; the trainer may have written some when it started. Knows no study.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from segtune.data.loader import Batch
from segtune.runs.verdict import Verdict
from segtune.training.evaluation import evaluate
from segtune.training.network import seeded
from segtune.training.optimizer import set_learning_rate
from segtune.training.train_step import OutOfMemory
from segtune.training.trainer import Trainer

# The first batch of a validation starts the loaders and the kernels, the others are timed.
NUM_VAL_BATCHES = 3


@dataclass(frozen=True)
class FewSteps:
    """How long each step took, and how the last one ended."""

    seconds: tuple[float, ...]  # of the steps that were done; loading of the images included
    verdict: Verdict | None  # None: healthy


def few_steps(trainer: Trainer, num_steps: int) -> FewSteps:
    """Do the first steps of a new training run at the peak learning rate, without its warmup.

    Stop at the first step that is unhealthy or does not fit into memory. Do fewer steps if the
    training run has fewer. Single ranks only.
    """
    lr = trainer.config.optim.lr
    seconds: list[float] = []
    losses: list[float] = []
    trainer.model.train()
    set_learning_rate(trainer.optimizer, 1.0)
    with seeded(trainer.config.seed, trainer.ranks.device):
        start = time.monotonic()
        for step, micro_batches in zip(range(1, num_steps + 1), _steps(trainer), strict=False):
            outcome = trainer.train_step.run(micro_batches, step=step, lr=lr)
            if isinstance(outcome, OutOfMemory):
                return FewSteps(tuple(seconds), trainer.out_of_memory(outcome))
            result = outcome.read()
            seconds.append(time.monotonic() - start)
            losses.append(result.losses["loss"])
            if verdict := trainer.judge(result):
                return FewSteps(tuple(seconds), verdict)
            trainer.step = step
            start = time.monotonic()
    return FewSteps(tuple(seconds), trainer.health.first_steps(losses, lr))


def _steps(trainer: Trainer) -> Iterator[list[Batch]]:
    """Yield the micro-batches of each optimiser step, epoch after epoch."""
    accumulate = trainer.config.schedule.accumulate
    for epoch in range(1, trainer.config.schedule.epochs + 1):
        micro_batches: list[Batch] = []
        for batch in trainer.train_data.epoch(epoch):
            micro_batches.append(batch)
            if len(micro_batches) == accumulate:
                yield micro_batches
                micro_batches = []


def seconds_per_val_image(trainer: Trainer) -> float:
    """Validate a few batches of images; return the seconds for each image on this rank."""
    batches = iter(trainer.val_data)
    seconds = 0.0
    num_images = 0
    for number in range(NUM_VAL_BATCHES):
        start = time.monotonic()
        batch = next(batches, None)
        if batch is None:
            break
        confusion = evaluate(
            trainer.network,
            [batch],
            trainer.ranks,
            trainer.config,
            len(trainer.classes),
            trainer.precision.validation_dtype,
        )
        confusion.matrix.cpu()  # waits for the GPU
        if number == 1:  # a data set of a single batch has only the first
            seconds = 0.0
            num_images = 0
        seconds += time.monotonic() - start
        num_images += len(batch.images)
    return seconds / num_images


def checkpoint_bytes(trainer: Trainer) -> int:
    """Return the size of a checkpoint that a resume needs: weights, their average, optimiser."""
    tensors = [*trainer.network.state_dict().values()]
    tensors += [
        value
        for state in trainer.optimizer.state.values()
        for value in state.values()
        if hasattr(value, "nbytes")
    ]
    if trainer.average:  # the file of weights then holds the average, the state the weights
        tensors += [*trainer.network.parameters()]
    return sum(tensor.nbytes for tensor in tensors)
