"""What a training run has reached: saved after an epoch, restored at a resume.

Trains nothing: `trainer.py` does.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Container
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.data.layouts import class_names
from segtune.models.segmentation_model import SegmentationModel
from segtune.runs.atomic import write_atomic
from segtune.runs.records import EpochRecord
from segtune.runs.rundir import TrialDir
from segtune.training import checkpoint
from segtune.training.checkpoint import Manifest
from segtune.training.distributed import Ranks
from segtune.training.health import HealthMonitor
from segtune.training.precision import TrainingPrecision
from segtune.training.weight_average import WeightAverage

log = logging.getLogger(__name__)


class TrainingState:
    """The state of one training run on this process's rank; the trainer advances it."""

    network: SegmentationModel  # without DDP
    optimizer: torch.optim.Optimizer
    first_weight_norm: float

    def __init__(
        self,
        config: ExperimentConfig,
        out: TrialDir,
        ranks: Ranks,
        full_checkpoints: Container[int] = (),
    ) -> None:
        """Begin at epoch 0; the trainer builds network and optimiser.

        A full checkpoint is written after the epochs `full_checkpoints`, besides each
        `checkpoint.every` epochs.
        """
        self.config = config
        self.out = out
        self.ranks = ranks
        self.full_checkpoints = full_checkpoints
        self.epoch = 0  # the last finished epoch
        self.step = 0  # optimiser steps so far
        self.lr = 0.0  # the encoder's learning rate at the last step
        self.seconds = 0.0  # of training and validation
        self.best_miou = -1.0
        self.average: WeightAverage | None = None  # set before the first step if the config asks
        self.loss_factors: dict[str, float] = {}  # of the terms, with loss.balance
        self.is_fine_tuning = False  # whether it starts from a model that knows all its classes
        self.health = HealthMonitor(config)
        self.classes = class_names(config.data)
        self.precision = TrainingPrecision(config, out, ranks)

    def state(self) -> dict[str, Any]:
        """Return what a resume needs besides the weights and the manifest."""
        trained = {name: p.detach() for name, p in self.network.named_parameters()}
        return {
            # The file of weights then holds their average.
            "weights": trained if self.average else None,
            "optimizer": self.optimizer.state_dict(),
            **self.precision.state(),
            "best_miou": self.best_miou,
            "is_fine_tuning": self.is_fine_tuning,
            "loss_factors": self.loss_factors,
            "first_weight_norm": self.first_weight_norm,
            "first_loss": self.health.first_loss,
            "first_norm": self.health.first_norm,
            "seconds": self.seconds,
        }

    def load_checkpoint(self, epoch: int | None = None) -> bool:
        """Load the last good checkpoint of the training run; return whether there is one.

        With `epoch`, take the last one up to that epoch, if there is one. Raises CheckpointError
        if the config differs from that of the checkpoint.
        """
        latest = checkpoint.last_good(self.out.checkpoints, epoch)
        if latest is None:
            log.info("no checkpoint in %s yet: starting from the beginning", self.out.path)
            return False
        path, manifest = latest
        checkpoint.check_same_run(path, manifest, self.config, self.classes)
        checkpoint.load_into(self.network, path)
        state = checkpoint.load_state(path)
        if self.config.optim.ema:
            self.average = WeightAverage(self.network, self.config.optim.ema)
            self.network.load_state_dict(state["weights"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        self.precision.load_state(state)
        self.best_miou = state["best_miou"]
        # The initial weights are validated once, before the first epoch.
        self.is_fine_tuning = manifest.epoch == 0 and state["is_fine_tuning"]
        self.loss_factors = state.get("loss_factors", {})  # absent before loss.balance
        self.first_weight_norm = state["first_weight_norm"]
        self.seconds = state["seconds"]
        self.health.first_loss = state["first_loss"]
        self.health.first_norm = state["first_norm"]
        self.epoch = manifest.epoch
        self.step = manifest.step
        self.lr = manifest.lr
        log.info("resumed from %s: epoch %d, step %d", path, self.epoch, self.step)
        return True

    def prepare_folder(self) -> None:
        """Remove epochs and checkpoints after the last finished epoch, and write the config."""
        self.out.check_current()
        checkpoint.remove_incomplete(self.out.checkpoints)
        checkpoint.remove_after(self.out.checkpoints, self.epoch)
        self.out.cut_epochs(self.epoch)
        self.out.verdict.unlink(missing_ok=True)
        checkpoint.remove_incomplete(self.out.path)
        shutil.rmtree(self.out.replay, ignore_errors=True)
        self.precision.write()
        write_atomic(self.out.config, write_yaml(self.config.dump()))

    def save(self, record: EpochRecord) -> None:
        """Write an epoch, on rank 0: checkpoints first, so no record is ahead of its weights."""
        improved = record.miou is not None and record.miou > self.best_miou
        if record.miou is not None:
            self.best_miou = max(self.best_miou, record.miou)
        if not self.ranks.is_first:
            return
        self.out.check_current()
        manifest = Manifest(
            record.epoch,
            self.step,
            self.lr,
            record.miou,
            self.config.dump(),
            classes=self.classes,
        )
        if improved:
            self.save_checkpoint("best", None, manifest)
        epoch, config = record.epoch, self.config
        is_due = epoch % config.checkpoint.every == 0 or epoch in self.full_checkpoints
        if is_due or epoch == config.schedule.epochs:
            self.save_checkpoint("last", self.state(), manifest)
        self.out.append_epoch(record)

    def save_checkpoint(
        self, kind: checkpoint.Kind, state: dict[str, Any] | None, manifest: Manifest
    ) -> None:
        """Write a checkpoint; with `state`, one from which a training run can resume."""
        with self.averaged():
            weights = self.network.state_dict()
            checkpoint.save(self.out.checkpoints, kind, weights, state, manifest)

    def averaged(self) -> AbstractContextManager[None]:
        """Return a context in which the network has the averaged weights, if there are any."""
        return self.average.applied() if self.average else nullcontext()
