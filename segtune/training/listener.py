"""What follows a training run: the events of the trainer, as an interface.

A listener is called on rank 0 only, in the thread that trains. So it has to be quick, and it must
not wait for the device: a result is passed on once the trainer has read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from segtune.config.schema import ExperimentConfig
from segtune.data.loader import ValBatch
from segtune.runs.records import EpochRecord
from segtune.runs.rundir import TrialDir
from segtune.runs.verdict import Verdict
from segtune.training.train_step import StepResult


@dataclass(frozen=True)
class TrainingRun:
    """A training run as it begins or goes on."""

    config: ExperimentConfig
    out: TrialDir
    classes: tuple[str, ...]
    device: torch.device
    epoch: int  # the last finished one; 0 for a new training run
    step: int  # optimiser steps so far
    steps_per_epoch: int
    val_names: tuple[str, ...]  # of the validation images of rank 0

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole training run."""
        return self.config.schedule.total_steps(self.steps_per_epoch)


class TrainingListener(Protocol):
    """What a caller can follow while a trainer trains.

    The methods here do nothing. A subclass overrides those that it needs.
    """

    def on_start(self, run: TrainingRun) -> None:
        """Receive the training run before its first step or validation."""

    def on_epoch_start(self, epoch: int, step: int) -> None:
        """Receive the number of an epoch, from 1, and of the optimiser steps before it.

        An epoch that is trained again, because float16 overflowed in it, is received twice.
        """

    def on_step(self, epoch: int, result: StepResult) -> None:
        """Receive the numbers of a step, up to LAG steps after it was started."""

    def on_validation_batch(self, batch: ValBatch, labels: Tensor) -> None:
        """Receive a batch of the validation and its predicted labels, int64 [B, H, W].

        The labels may still be computed; reading them makes the host wait for the device.
        """

    def on_epoch(self, record: EpochRecord) -> None:
        """Receive a finished epoch, after its files have been written."""

    def on_end(self, verdict: Verdict | None) -> None:
        """Receive how the training run ended; None: it was interrupted, or an error ended it.

        Called once, also if `on_start` has failed.
        """


class Listeners(TrainingListener):
    """Passes each event on to several listeners, in their order."""

    def __init__(self, listeners: Sequence[TrainingListener]) -> None:
        self._listeners = tuple(listeners)

    def on_start(self, run: TrainingRun) -> None:
        """Pass it on."""
        for listener in self._listeners:
            listener.on_start(run)

    def on_epoch_start(self, epoch: int, step: int) -> None:
        """Pass it on."""
        for listener in self._listeners:
            listener.on_epoch_start(epoch, step)

    def on_step(self, epoch: int, result: StepResult) -> None:
        """Pass it on."""
        for listener in self._listeners:
            listener.on_step(epoch, result)

    def on_validation_batch(self, batch: ValBatch, labels: Tensor) -> None:
        """Pass it on."""
        for listener in self._listeners:
            listener.on_validation_batch(batch, labels)

    def on_epoch(self, record: EpochRecord) -> None:
        """Pass it on."""
        for listener in self._listeners:
            listener.on_epoch(record)

    def on_end(self, verdict: Verdict | None) -> None:
        """Pass it on to all of them, also if one raises an error."""
        with ExitStack() as stack:
            for listener in self._listeners:
                stack.callback(listener.on_end, verdict)
