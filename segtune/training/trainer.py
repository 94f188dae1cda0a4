"""Trains one config, epoch by epoch: `for record in trainer.epochs()`. Knows no Ray.

All random numbers of an epoch follow from (seed, epoch, rank). A training run that stops at the end
of an epoch and resumes therefore equals one that never stopped.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from segtune.config.schema import ExperimentConfig
from segtune.data.loader import Batch, TrainLoader, ValLoader
from segtune.data.statistics import check_at_the_start
from segtune.losses.segmentation import build_loss
from segtune.models.build import head_parameters
from segtune.runs.atomic import write_atomic
from segtune.runs.records import EpochRecord, ValidationScores
from segtune.runs.rundir import TrialDir
from segtune.runs.verdict import Verdict
from segtune.training.checkpoint import Manifest
from segtune.training.completed_config import completed
from segtune.training.distributed import Ranks
from segtune.training.evaluation import evaluate, validation_scores
from segtune.training.health import out_of_memory
from segtune.training.heartbeat import Heartbeat
from segtune.training.initial_weights import load_initial_weights
from segtune.training.listener import Listeners, TrainingListener, TrainingRun
from segtune.training.loss_balance import balance_factors, balanced_loss, term_losses
from segtune.training.memory import OutOfMemoryError
from segtune.training.network import build_network, seeded
from segtune.training.optimizer import build_optimizer, set_learning_rate
from segtune.training.precision import dtype_name
from segtune.training.probes import weight_norm
from segtune.training.replay_bundle import BundleWriter
from segtune.training.schedule import lr_factor, plan_in_words
from segtune.training.step_summary import summary_of_steps
from segtune.training.train_step import OutOfMemory, PendingStep, StepResult, TrainStep, with_lag
from segtune.training.training_state import TrainingState
from segtune.training.weight_average import WeightAverage

log = logging.getLogger(__name__)

# Called before each step: whether this rank asks to end the training run. None: it never asks.
ShouldStop = Callable[[], bool] | None


class TrialCancelled(Exception):
    """Raised on all ranks after the same step: one of them has asked to end the training run."""


class Trainer(TrainingState):
    """Trains one config on this process's rank, and keeps the files of the training run current.

    Make one with `start` or `resume`. `verdict` is set once `epochs` has ended.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        out: TrialDir,
        ranks: Ranks,
        *,
        cpus: float | None = None,
        full_checkpoints: Container[int] = (),
        listeners: Sequence[TrainingListener] = (),
    ) -> None:
        """Build data loaders, model and optimiser. Reads and writes nothing in `out`.

        `cpus` is this rank's share of the cores; default: all cores of the process. A full
        checkpoint is written after the epochs `full_checkpoints`, besides each `checkpoint.every`
        epochs. The `listeners` follow `epochs` on rank 0. Raises SegtuneError if data or pretrained
        weights do not fit the config.
        """
        super().__init__(config, out, ranks, full_checkpoints)
        self.verdict: Verdict | None = None
        self.listeners = Listeners(listeners if ranks.is_first else ())
        self.heartbeat = Heartbeat(out if ranks.is_first else None, config.health)
        self.train_data = TrainLoader(config, ranks.rank, ranks.world_size, cpus=cpus)
        self.val_data = ValLoader(config, ranks.rank, ranks.world_size, cpus=cpus)
        self.loss = build_loss(config.loss, len(self.classes), config.data.ignore_index)
        self.bundle = BundleWriter(config, out, ranks, self.train_data, self.classes)
        self._check_data()
        with seeded(config.seed, ranks.device):
            # Without DDP; `model` is the network in DDP.
            self.network = build_network(config, len(self.classes), ranks)
        self.first_weight_norm = weight_norm(self.network)
        self.optimizer = build_optimizer(self.network, config.optim, head_parameters(self.network))

    @classmethod
    def start(
        cls,
        config: ExperimentConfig,
        out: TrialDir,
        ranks: Ranks,
        *,
        init_from: Path | None = None,
        overwrite: bool = False,
        cpus: float | None = None,
        full_checkpoints: Container[int] = (),
        listeners: Sequence[TrainingListener] = (),
    ) -> Trainer:
        """Start a training run in `out`.

        With `init_from`, start from the weights of a checkpoint, or of the best checkpoint in the
        folder of a training run or a search run. Raises RunError if `out` holds a training run,
        unless `overwrite` is set, which deletes that training run. Raises SegtuneError if data,
        weights or checkpoint do not fit the config.
        """
        if not overwrite:
            out.check_unused()
        config = completed(config, is_quiet=not ranks.is_first)
        trainer = cls(
            config,
            out,
            ranks,
            cpus=cpus,
            full_checkpoints=full_checkpoints,
            listeners=listeners,
        )
        trainer._set_up(init_from)
        return trainer

    @classmethod
    def resume(
        cls,
        config: ExperimentConfig,
        out: TrialDir,
        ranks: Ranks,
        *,
        epoch: int | None = None,
        init_from: Path | None = None,
        cpus: float | None = None,
        full_checkpoints: Container[int] = (),
        listeners: Sequence[TrainingListener] = (),
    ) -> Trainer:
        """Continue the training run in `out` from its last good checkpoint.

        With `epoch`, from the last one up to that epoch, if there is one. Epochs after the
        checkpoint are discarded. Without a checkpoint, start from the beginning, as `start` does.
        Raises CheckpointError if the config differs from that of the checkpoint.
        """
        config = completed(config, is_quiet=not ranks.is_first)
        trainer = cls(
            config,
            out,
            ranks,
            cpus=cpus,
            full_checkpoints=full_checkpoints,
            listeners=listeners,
        )
        trainer._set_up(None if trainer.load_checkpoint(epoch) else init_from)
        return trainer

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole training run."""
        return self.config.schedule.total_steps(self.train_data.steps_per_epoch)

    def epochs(self, should_stop: ShouldStop = None) -> Iterator[EpochRecord]:
        """Train, and yield one record per epoch, after its files have been written.

        Sets `verdict` at the end. Raises TrialCancelled, on all ranks after the same step, once
        `should_stop` has returned True on one of them. Raises OutOfMemoryError if a step does not
        fit into the memory of one of several ranks; a single rank ends with a verdict instead.
        """
        try:
            self.listeners.on_start(self._as_run())
            self.verdict = yield from self._epochs(should_stop)
            if self.ranks.is_first:
                # Before the listeners end: a tracker may take a minute to send the rest.
                self.out.write_verdict(self.verdict)
        finally:  # also if the caller stops iterating before the last epoch
            self.listeners.on_end(self.verdict)
        # No rank may read the files of the training run before they are complete.
        self.ranks.barrier()

    def _as_run(self) -> TrainingRun:
        names = [pair.name for pair in self.val_data.pairs[:: self.ranks.world_size]]
        return TrainingRun(
            self.config,
            self.out,
            self.classes,
            self.ranks.device,
            self.epoch,
            self.step,
            self.train_data.steps_per_epoch,
            tuple(names),
        )

    def _epochs(self, should_stop: ShouldStop) -> Generator[EpochRecord, None, Verdict]:
        """Train the remaining epochs; return how the training run ended."""
        schedule = self.config.schedule
        # Fine-tuning can lose what the initial weights had learnt; `health` compares the two.
        init_miou = self._validate().miou if self.is_fine_tuning else None
        for epoch in range(self.epoch + 1, schedule.epochs + 1):
            start = time.monotonic()
            trained = self._train_epoch(epoch, should_stop)
            if isinstance(trained, Verdict):
                return trained
            scores = self._validate() if schedule.validates(epoch) else None
            self.epoch = epoch
            self.seconds += time.monotonic() - start
            record = replace(
                trained,
                step=self.step,
                lr=self.lr,
                seconds=round(self.seconds, 3),
                ended=round(time.time(), 3),
                init_miou=init_miou,
                validation=scores,
            )
            self.save(record)
            self.listeners.on_epoch(record)
            verdict = self.health.validation(record)
            if verdict:
                verdict = self.bundle.write(verdict, self.train_step, self.loss_factors)
            if verdict and self.ranks.is_first:
                # Before the caller sees the epoch: a scheduler that stops the trial for its score
                # would hide why the score is bad.
                self.out.write_verdict(verdict)
            yield record
            if verdict:
                return verdict
        return Verdict(state="completed", epoch=self.epoch, step=self.step)

    def _train_epoch(self, epoch: int, should_stop: ShouldStop) -> EpochRecord | Verdict:
        """Train one epoch; return its record, still without validation, or an unhealthy verdict."""
        batches = self.train_data.epoch(epoch)
        results: list[StepResult] = []
        first_step = self.step
        self.listeners.on_epoch_start(epoch, first_step)
        self.model.train()
        seed = np.random.SeedSequence((self.config.seed, epoch, self.ranks.rank))
        with seeded(int(seed.generate_state(1)[0]), self.ranks.device):
            for outcome in with_lag(self._steps(epoch, batches, should_stop)):
                if isinstance(outcome, OutOfMemory):
                    return self.out_of_memory(outcome)
                result = outcome.read()
                if result.cancelled:
                    raise TrialCancelled
                self.listeners.on_step(epoch, result)
                if verdict := self.judge(result):
                    return self.bundle.write(verdict, self.train_step, self.loss_factors)
                results.append(result)
        record = self._summary(epoch, results)
        if record is None or self.precision.must_redo(epoch, results):
            self.step = first_step
            self.precision.redo_after(first_step, self.train_step)
            return self._train_epoch(epoch, should_stop)
        return record

    def _summary(self, epoch: int, results: Sequence[StepResult]) -> EpochRecord | None:
        """Return the record of an epoch, or None if no step of it has a finite loss.

        Leave float16 if the scaler has skipped too many of the steps.
        """
        finite = [result for result in results if math.isfinite(result.losses["loss"])]
        if not finite:  # the loss is the reason why float16 was left
            return None
        growth = weight_norm(self.network) / self.first_weight_norm
        record = summary_of_steps(epoch, finite, growth, self.precision.scaler)
        if self.precision.leave_if_it_skips(self.train_step, record, self.step, len(finite)):
            self.health.forget_skipped()
        return record

    def _steps(
        self, epoch: int, batches: Iterable[Batch], should_stop: ShouldStop
    ) -> Iterator[PendingStep | OutOfMemory]:
        """Do the optimiser steps of an epoch; the last outcome may be OutOfMemory."""
        last_step = min(self.total_steps, self.train_data.steps_per_epoch * epoch)
        micro_batches: list[Batch] = []
        for batch in self.heartbeat.wrap(batches):
            micro_batches.append(batch)
            if len(micro_batches) < self.config.schedule.accumulate:
                continue
            self._set_learning_rate()
            self.bundle.before_step(self.step + 1)
            outcome = self.train_step.run(
                micro_batches,
                step=self.step + 1,
                lr=self.lr,
                cancel=should_stop is not None and should_stop(),
                probe=self.step + 1 == last_step,
            )
            micro_batches = []
            if isinstance(outcome, PendingStep):
                self.step += 1
            yield outcome
            if isinstance(outcome, OutOfMemory):
                return

    def judge(self, result: StepResult) -> Verdict | None:
        """Return an unhealthy verdict if the numbers of a step are not finite or diverge.

        Instead of a non-finite verdict, leave float16 if the config allows it.
        """
        precision = self.precision
        if precision.switch and result.step <= precision.switch.step and not result.finite:
            return None  # it was under way in float16
        verdict = self.health.step(
            epoch=self.epoch,
            step=result.step,
            loss=result.losses["loss"],
            grad_norm=result.grad_norm,
            lr=result.lr,
            scaled=precision.scaler.is_enabled(),
        )
        if not (verdict and verdict.kind == "non-finite" and precision.may_leave_float16):
            return verdict
        precision.leave_float16(self.train_step, self.epoch + 1, self.step, verdict.evidence)
        self.health.forget_skipped()
        return None

    def out_of_memory(self, outcome: OutOfMemory) -> Verdict:
        """Return the verdict of a single rank.

        If there are other ranks, they now wait for this one. So write the verdict, and raise
        OutOfMemoryError, which ends all of them.
        """
        verdict = out_of_memory(
            self.config,
            epoch=self.epoch,
            step=self.step,
            num_images=outcome.num_images,
            num_fitting=outcome.num_fitting,
            message=outcome.message,
        )
        if self.ranks.world_size > 1:
            self.out.write_verdict(verdict)
            raise OutOfMemoryError(verdict.reason)
        return verdict

    def _set_learning_rate(self) -> None:
        factor = lr_factor(self.config, self.step, self.train_data.steps_per_epoch)
        set_learning_rate(self.optimizer, factor)
        self.lr = self.config.optim.lr * factor

    def _validate(self) -> ValidationScores:
        # The batch norms of each rank have averaged other images. All ranks score the model that is
        # saved, which is that of rank 0.
        self.ranks.broadcast(self.network.buffers())
        with self.averaged():
            matrix = evaluate(
                self.network,
                self.heartbeat.wrap(self.val_data),
                self.ranks,
                self.config,
                len(self.classes),
                self.precision.validation_dtype,
                on_batch=self.listeners.on_validation_batch,
            )
        return validation_scores(matrix, self.classes)

    def _check_data(self) -> None:
        """Check the masks on all ranks; log the warnings on rank 0."""
        config = self.config
        weights = config.loss.untrained_if_0
        train, val = self.train_data.pairs, self.val_data.pairs
        warnings = check_at_the_start(config.data, self.classes, train, val, weights)
        for warning in [*warnings, *config.notes()] if self.ranks.is_first else ():
            log.warning("%s", warning)

    def _set_up(self, init_from: Path | None) -> None:
        """Set up the folder, the health monitor and the training step.

        The network has the weights of the checkpoint, or takes those of `init_from` here.
        """
        if init_from:
            # With random rows in the classifier, the mIoU before training says nothing.
            self.is_fine_tuning = load_initial_weights(
                self.network, init_from, self.config, self.classes
            )
            self.first_weight_norm = weight_norm(self.network)
        # Rank 0 changes the folder after all ranks have read their checkpoint from it. The ranks
        # read the epochs after rank 0 has removed those that are not in the checkpoint.
        self.ranks.barrier()
        if self.ranks.is_first:
            self.prepare_folder()
        self.ranks.barrier()
        self.health.replay(self.out.read_epochs(self.epoch))
        if self.config.optim.ema and not self.average:
            self.average = WeightAverage(self.network, self.config.optim.ema)
        self.model = self.ranks.wrap(self.network)
        self.train_step = TrainStep(
            self.config.optim,
            self.model,
            self.loss,
            self.optimizer,
            self.precision.scaler,
            self.precision.dtype,
            self.ranks,
            self.average,
        )
        self._balance_loss()
        if init_from and self.ranks.is_first:
            # A resume before the first epoch has ended must not start from other weights.
            manifest = Manifest(0, 0, 0.0, None, self.config.dump(), classes=self.classes)
            self.save_checkpoint("last", self.state(), manifest)
        self._log_plan()

    def _balance_loss(self) -> None:
        """Scale the terms of the loss if the config asks for it; a resume keeps the factors."""
        if self.config.loss.balance == "none":
            return
        if not self.loss_factors:
            with seeded(self.config.seed, self.ranks.device):
                batch = next(self.train_data.epoch(1))
                norms = self.train_step.term_norms(batch, term_losses(self.config, self.classes))
                self.loss_factors = balance_factors(norms)
        loss = balanced_loss(self.config, self.classes, self.loss_factors)
        self.train_step.loss = loss.to(self.ranks.device)
        if self.ranks.is_first:
            write_atomic(self.out.loss_factors, json.dumps(self.loss_factors, indent=1) + "\n")
            factors = ", ".join(f"{name} x {f:.3g}" for name, f in self.loss_factors.items())
            log.info("loss.balance: %s (as strong as cross-entropy at the start)", factors)

    def _log_plan(self) -> None:
        if self.ranks.is_first:
            data, dtype = self.train_data, dtype_name(self.precision.dtype)
            plan = plan_in_words(
                self.config.schedule, data.num_images, self.ranks.world_size, data.steps_per_epoch
            )
            log.info("%s; %s on %s", plan, dtype, self.ranks.device)
