"""One config, epoch by epoch: `for report in trainer.epochs()`. A generator without callbacks, and without Ray.

Every random number of an epoch follows from (seed, epoch, rank), so a run that stops at an epoch's end and goes on
equals one that never stopped.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.data.layouts import class_names
from segtune.data.loader import Batch, TrainLoader, ValLoader
from segtune.losses.segmentation import build_loss
from segtune.models.build import (
    build_model,
    check_batch,
    compile_model,
    head_parameters,
    sync_norms,
)
from segtune.models.segformer import SegFormer
from segtune.models.upernet import UPerNet
from segtune.runs.atomic import write_atomic
from segtune.runs.rundir import TrialDir
from segtune.runs.verdict import Verdict
from segtune.training import checkpoint
from segtune.training.checkpoint import Manifest
from segtune.training.distributed import Ranks, unwrap
from segtune.training.evaluation import evaluate, precision_of
from segtune.training.health import HealthMonitor, out_of_memory
from segtune.training.heartbeat import Heartbeat
from segtune.training.memory import (
    OutOfMemoryError,
    is_out_of_memory,
    keep_freed_memory,
    largest_that_fits,
)
from segtune.training.optimizer import build_optimizer, learning_rate_factor, set_learning_rate
from segtune.training.probes import weight_norm
from segtune.training.tensorboard import ScalarLog
from segtune.training.train_step import PendingStep, ShouldStop, TrainStep, with_lag

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EpochReport:
    """One finished epoch: plain, finite numbers, summed over the ranks, the same on every rank."""

    epoch: int
    step: int
    row: dict[str, Any]

    @property
    def miou(self) -> float | None:
        """The validated mIoU in 0..1, or None where this epoch has no validation."""
        return self.row.get("miou")


class Trainer:
    """Trains one config on this process's rank and keeps the run's files up to date."""

    def __init__(
        self,
        config: ExperimentConfig,
        out: TrialDir,
        ranks: Ranks,
        *,
        resume: bool = False,
        init_from: Path | None = None,
    ) -> None:
        """Builds everything; nothing is trained yet.

        `resume` continues from the last good checkpoint in `out`, if there is one; `init_from` takes only the weights
        of a checkpoint. Raises SegtuneError for data, weights and checkpoints that do not fit the config.
        """
        keep_freed_memory()
        self.config, self.out, self.ranks = config, out, ranks
        self.verdict: Verdict | None = None
        self.health = HealthMonitor(config)
        self.pulse = Heartbeat(out if ranks.is_first else None, config.health)
        self.classes = class_names(config.data)
        # Set by the worker that trains the rank: Ray gives a rank only some of the machine's cores.
        limit = os.environ.get("SEGTUNE_CPUS_PER_RANK")
        cpus = float(limit) if limit else None
        self.train_data = TrainLoader(config, ranks.rank, ranks.world_size, cpus=cpus)
        self.val_data = ValLoader(config, ranks.rank, ranks.world_size, cpus=cpus)
        check_batch(
            config.model,
            config.schedule.batch_size // (ranks.world_size * config.schedule.accumulate),
        )
        torch.manual_seed(config.seed)
        model = self._build_model()
        self.optimizer = build_optimizer(model, config.optim, head_parameters(model))
        self.precision = precision_of(config.optim.precision, ranks.device)
        self.scaler = torch.amp.GradScaler(
            ranks.device.type, enabled=self.precision == torch.float16
        )
        self.finished, self.step, self.best_miou, self.lr, self.seconds = 0, 0, -1.0, 0.0, 0.0
        self.initialised = init_from is not None
        if init_from:
            checkpoint.start_from(model, init_from, config.optim.lr)
        self.first_weight_norm = weight_norm(model)
        if resume:
            self._resume(model)
        self._prepare_folder()
        self.health.replay(row for row in out.read_epochs() if row["epoch"] <= self.finished)
        # Every rank reads the folder above before the first one may write to it.
        ranks.wait()
        self.model = ranks.wrap(model)
        loss = build_loss(config.loss, len(self.classes), config.data.ignore_index)
        self.steps = TrainStep(
            config.optim, self.model, loss, self.optimizer, self.scaler, self.precision, ranks
        )
        self._say_plan()

    def _build_model(self) -> SegFormer | UPerNet:
        model = build_model(self.config.model, len(self.classes))
        if self.config.model.sync_norms and self.ranks.world_size > 1:
            if self.ranks.device.type == "cuda":
                model = sync_norms(model)
            else:
                log.warning(
                    "model.sync_norms: torch has it for GPUs only; on %s each worker's norms see its own images",
                    self.ranks.device,
                )
        if self.config.optim.compile:
            compile_model(model)
        return model.to(self.ranks.device)

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.train_data.steps_per_epoch * self.config.schedule.epochs

    def epochs(self, should_stop: ShouldStop = None) -> Iterator[EpochReport]:
        """Trains and yields one report per epoch; files are written before the report is out. Ends with `verdict` set.

        Raises Left after the same step on every rank, where `should_stop` has become true on one of them.
        """
        self.steps.should_stop = should_stop
        try:
            yield from self._epochs()
        finally:  # however the run ends, and if nobody asks for the rest of it
            if self.ranks.is_first:
                self.scalars.close()
        self.verdict = self.verdict or Verdict(
            state="completed", epoch=self.finished, step=self.step
        )
        if self.ranks.is_first:
            self.out.write_verdict(self.verdict)
        # No rank goes on to read the run's files before they are complete.
        self.ranks.wait()

    def _epochs(self) -> Iterator[EpochReport]:
        schedule = self.config.schedule
        # What a run starts from may be what it has to lose.
        known = {"init_miou": self._validate()["miou"]} if self.initialised else {}
        for epoch in range(self.finished + 1, schedule.epochs + 1):
            start = time.monotonic()
            row = self._train_epoch(epoch)
            if row is None:
                return
            if schedule.validates(epoch):
                row |= self._validate()
            self.finished = epoch
            self.seconds += time.monotonic() - start
            times = {"seconds": round(self.seconds, 3), "ended": round(time.time(), 3)}
            row = {"epoch": epoch, "step": self.step, **times, **known, **row}
            self._write(epoch, row)
            self.verdict = self.health.validation(row)
            if self.verdict and self.ranks.is_first:
                # Before the report: a scheduler that stops the trial for it would hide why it was bad.
                self.out.write_verdict(self.verdict)
            yield EpochReport(epoch, self.step, row)
            if self.verdict:
                return

    def _train_epoch(self, epoch: int) -> dict[str, float] | None:
        """Returns the epoch's mean losses, or None with `verdict` set where the run has to end."""
        batches = self.train_data.epoch(epoch)
        # After the iterator: a DataLoader draws from this generator when it starts, but not as often with processes as without.
        torch.manual_seed(
            int(
                np.random.SeedSequence((self.config.seed, epoch, self.ranks.rank)).generate_state(
                    1
                )[0]
            )
        )
        self.model.train()
        sums: dict[str, float] = {}
        norms: list[float] = []
        for told in with_lag(self._steps_of(epoch, batches)):
            terms, norm = told.read()
            numbers = {"loss": terms["loss"], "grad_norm": norm, "lr": told.lr}
            verdict = self.health.step(
                epoch=self.finished, step=told.step, scaled=self.scaler.is_enabled(), **numbers
            )
            if verdict:
                self.verdict = verdict
                break
            norms += [norm] if math.isfinite(norm) else []
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value
        if self.verdict:
            return None
        row = {name: value / self.train_data.steps_per_epoch for name, value in sums.items()}
        growth = weight_norm(unwrap(self.model)) / self.first_weight_norm
        signs = {
            "gradient_left": self.steps.gradient_left,
            "weight_growth": growth if math.isfinite(growth) else None,
        }
        return {
            **row,
            "grad_norm": float(np.median(norms)) if norms else 0.0,
            **signs,
            "lr": self.lr,
        }

    def _steps_of(self, epoch: int, batches: Iterable[Batch]) -> Iterator[PendingStep]:
        """Does the optimiser steps of an epoch; ends early, with `verdict` set, where memory runs out."""
        micro: list[Batch] = []
        for batch in self.pulse.along(batches):
            micro.append(batch)
            if len(micro) == self.config.schedule.accumulate:
                told = self._try_step(
                    micro, last=self.step + 1 == self.train_data.steps_per_epoch * epoch
                )
                if told is None:
                    return
                yield told
                micro = []

    def _try_step(self, micro: list[Batch], last: bool) -> PendingStep | None:
        """Returns what a step tells, or None with `verdict` set where memory runs out.

        Raises OutOfMemoryError instead where other ranks wait for this one.
        """
        self._set_learning_rate()
        try:
            told = self.steps.run(micro, self.step + 1, self.lr, look=last)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            words = str(error).strip().splitlines()[0]
        else:
            self.step += 1
            return told
        # Outside of the except block, which keeps every tensor of the failed step alive.
        fits = largest_that_fits(partial(self.steps.probe_memory, micro[0]), len(micro[0].images))
        self.verdict = out_of_memory(
            self.config, self.finished, self.step, len(micro[0].images), fits, words
        )
        if self.ranks.world_size > 1:
            self.out.write_verdict(self.verdict)
            raise OutOfMemoryError(self.verdict.reason)
        return None

    def _set_learning_rate(self) -> None:
        schedule, optim = self.config.schedule, self.config.optim
        warmup = round(schedule.warmup_epochs * self.train_data.steps_per_epoch)
        share = schedule.eta_min / optim.lr
        factor = learning_rate_factor(
            self.step, self.total_steps, warmup, schedule.warmup_start, schedule.poly_power, share
        )
        set_learning_rate(self.optimizer, factor)
        self.lr = optim.lr * factor

    def _validate(self) -> dict[str, Any]:
        # Batch norms have seen other images on each rank; all score the model that is saved.
        self.ranks.copy_first(unwrap(self.model).buffers())
        images = self.pulse.along(self.val_data)
        matrix = evaluate(
            unwrap(self.model), images, self.ranks, self.config, len(self.classes), self.precision
        )
        return matrix.row(self.classes)

    def _write(self, epoch: int, row: dict[str, Any]) -> None:
        """Keeps the run's files up to date, on the first rank: checkpoints first, so that no row is ahead of its weights."""
        miou = row.get("miou")
        improved = miou is not None and miou > self.best_miou
        if improved:
            self.best_miou = miou
        if not self.ranks.is_first:
            return
        self.out.check_current()
        model = unwrap(self.model)
        manifest = Manifest(epoch, self.step, self.lr, miou, self.config.dump())
        if improved:
            checkpoint.save(self.out.checkpoints, "best", model.state_dict(), None, manifest)
        if epoch % self.config.checkpoint.every == 0 or epoch == self.config.schedule.epochs:
            checkpoint.save(
                self.out.checkpoints, "last", model.state_dict(), self._state(), manifest
            )
        self.out.append_epoch(row)
        self.scalars.add(row)

    def _state(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "best_miou": self.best_miou,
            "first_weight_norm": self.first_weight_norm,
            "first_loss": self.health.first_loss,
            "first_norm": self.health.first_norm,
            "seconds": self.seconds,
        }

    def _resume(self, model: torch.nn.Module) -> None:
        found = checkpoint.last_good(self.out.checkpoints)
        if not found:
            log.info("no checkpoint in %s yet: starting from the beginning", self.out.path)
            return
        path, manifest = found
        checkpoint.check_same_run(path, manifest, self.config)
        checkpoint.load_into(model, path)
        state = checkpoint.load_state(path)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.best_miou, self.first_weight_norm, self.seconds = (
            state["best_miou"],
            state["first_weight_norm"],
            state["seconds"],
        )
        self.health.first_loss, self.health.first_norm = state["first_loss"], state["first_norm"]
        self.finished, self.step, self.lr = manifest.epoch, manifest.step, manifest.lr
        log.info("resumed from %s: epoch %d, step %d", path, self.finished, self.step)

    def _prepare_folder(self) -> None:
        if not self.ranks.is_first:
            return
        self.out.check_current()
        checkpoint.sweep(self.out.checkpoints)
        checkpoint.drop_after(self.out.checkpoints, self.finished)
        self.out.cut_epochs(self.finished)
        self.out.verdict.unlink(missing_ok=True)
        write_atomic(self.out.config, write_yaml(self.config.dump()))
        self.scalars = ScalarLog(self.out.tensorboard, self.classes, self.finished)

    def _say_plan(self) -> None:
        schedule, data = self.config.schedule, self.train_data
        if self.ranks.is_first:
            log.info(
                "steps: %d images / %d per batch (%d workers) = %d per epoch x %d epochs = %d; %s on %s",
                data.num_images, schedule.batch_size, self.ranks.world_size, data.steps_per_epoch, schedule.epochs, self.total_steps,
                str(self.precision).removeprefix("torch."), self.ranks.device,
            )  # fmt: skip
