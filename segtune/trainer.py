"""One config, epoch by epoch: `for report in trainer.epochs()`. A generator without callbacks, and without Ray.

Every random number of an epoch follows from (seed, epoch, rank), so a run that stops at an epoch's end and goes on
equals one that never stopped.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segtune import checkpoint
from segtune.checkpoint import Manifest
from segtune.config import ExperimentConfig
from segtune.data.layouts import class_names
from segtune.data.loader import Batch, TrainLoader, ValLoader, normalize
from segtune.distributed import Ranks, unwrap
from segtune.health import HealthMonitor
from segtune.inference import evaluate, precision_of
from segtune.losses import build_loss
from segtune.models import AUXILIARY_WEIGHT, build_model, check_batch, head_parameters
from segtune.optim import build_optimizer, learning_rate_factor, set_learning_rate
from segtune.pulse import Pulse
from segtune.rundir import TrialDir, write_atomic
from segtune.scalars import ScalarLog
from segtune.settings import write_yaml
from segtune.verdict import Verdict

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
        self, config: ExperimentConfig, out: TrialDir, ranks: Ranks, *, resume: bool = False, init_from: Path | None = None
    ) -> None:
        """Builds everything; nothing is trained yet.

        `resume` continues from the last good checkpoint in `out`, if there is one; `init_from` takes only the weights
        of a checkpoint. Raises SegtuneError for data, weights and checkpoints that do not fit the config.
        """
        self.config, self.out, self.ranks = config, out, ranks
        self.verdict: Verdict | None = None
        self.health = HealthMonitor(config)
        self.pulse = Pulse(out if ranks.is_first else None, config.health)
        self.classes = class_names(config.data)
        self.train_data = TrainLoader(config, ranks.rank, ranks.world_size)
        self.val_data = ValLoader(config, ranks.rank, ranks.world_size)
        check_batch(config.model, config.schedule.batch_size // (ranks.world_size * config.schedule.accumulate))
        torch.manual_seed(config.seed)
        model = build_model(config.model, len(self.classes)).to(ranks.device)
        self.loss = build_loss(config.loss, len(self.classes), config.data.ignore_index).to(ranks.device)
        self.optimizer = build_optimizer(model, config.optim, head_parameters(model))
        self.precision = precision_of(config.optim.precision, ranks.device)
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=self.precision == torch.float16)
        self.finished, self.step, self.best_miou, self.lr, self.seconds = 0, 0, -1.0, 0.0, 0.0
        if init_from:
            self._init_from(model, init_from)
        elif resume:
            self._resume(model)
        self._prepare_folder()
        self.health.replay(row for row in out.read_epochs() if row["epoch"] <= self.finished)
        # Every rank reads the folder above before the first one may write to it.
        ranks.wait()
        self.model = ranks.wrap(model)
        self._say_plan()

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.train_data.steps_per_epoch * self.config.schedule.epochs

    def epochs(self) -> Iterator[EpochReport]:
        """Trains and yields one report per epoch; files are written before the report is out. Ends with `verdict` set."""
        schedule = self.config.schedule
        for epoch in range(self.finished + 1, schedule.epochs + 1):
            start = time.monotonic()
            row = self._train_epoch(epoch)
            if row is None:
                break
            if schedule.validates(epoch):
                row |= self._validate()
            self.finished = epoch
            self.seconds += time.monotonic() - start
            row = {"epoch": epoch, "step": self.step, "seconds": round(self.seconds, 3), **row}
            self._write(epoch, row)
            self.verdict = self.health.validation(row)
            if self.verdict and self.ranks.is_first:
                # Before the report: a scheduler that stops the trial for it would hide why it was bad.
                self.out.write_verdict(self.verdict)
            yield EpochReport(epoch, self.step, row)
            if self.verdict:
                break
        if self.verdict is None:
            self.verdict = Verdict(state="completed", epoch=self.finished, step=self.step)
        if self.ranks.is_first:
            self.scalars.close()
            self.out.write_verdict(self.verdict)
        # No rank goes on to read the run's files before they are complete.
        self.ranks.wait()

    def _train_epoch(self, epoch: int) -> dict[str, float] | None:
        """Returns the epoch's mean losses, or None with `verdict` set where the run has to end."""
        batches = self.train_data.epoch(epoch)
        # After the iterator: a DataLoader draws from this generator when it starts, but not as often with processes as without.
        torch.manual_seed(int(np.random.SeedSequence((self.config.seed, epoch, self.ranks.rank)).generate_state(1)[0]))
        self.model.train()
        sums: dict[str, float] = {}
        micro: list[Batch] = []
        norms: list[float] = []
        for batch in self.pulse.along(batches):
            micro.append(batch)
            if len(micro) < self.config.schedule.accumulate:
                continue
            terms, norm = self._backward(micro)
            micro = []
            self.verdict = self.health.step(
                epoch=self.finished, step=self.step + 1, loss=terms["loss"], grad_norm=norm, lr=self.lr, scaled=self.scaler.is_enabled()
            )
            if self.verdict:
                return None
            # The scaler leaves the weights alone where a gradient overflowed, and takes a smaller scale for the next step.
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.step += 1
            norms += [norm] if math.isfinite(norm) else []
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value
        row = {name: value / self.train_data.steps_per_epoch for name, value in sums.items()}
        return {**row, "grad_norm": float(np.median(norms)) if norms else 0.0, "lr": self.lr}

    def _backward(self, micro: list[Batch]) -> tuple[dict[str, float], float]:
        """Runs forward and backward of one optimiser step; returns the mean losses of all ranks and the gradient norm."""
        self._set_learning_rate()
        self.optimizer.zero_grad(set_to_none=True)
        parts: list[dict[str, Tensor]] = []
        for number, batch in enumerate(micro, 1):
            # DDP sends gradients once per optimiser step, with the last micro-batch.
            silent = getattr(self.model, "no_sync", contextlib.nullcontext) if number < len(micro) else contextlib.nullcontext
            with silent():
                terms = self._forward(batch)
                self.scaler.scale(terms["loss"] / len(micro)).backward()
            parts.append(terms)
        self.scaler.unscale_(self.optimizer)
        norm = self._gradient_norm()
        names = list(parts[0])
        # One sum carries the numbers for the log and, because NaN spreads, the agreement that a loss is not finite.
        shared = torch.stack([torch.stack([part[name].detach() for part in parts]).mean() for name in names])
        values = (self.ranks.sum(shared) / self.ranks.world_size).tolist()
        return dict(zip(names, values, strict=True)), float(norm)

    def _gradient_norm(self) -> Tensor:
        """Returns the norm over all gradients before clipping, and clips them where the config asks for it."""
        parameters = list(self.model.parameters())
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.config.optim.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.config.optim.clip_norm, norm)
        return norm

    def _forward(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the loss to minimise under `loss`, and each term of the main head unweighted."""
        device = self.ranks.device
        images = normalize(batch.images.to(device, non_blocking=True))
        masks = batch.masks.to(device, non_blocking=True)
        with self._autocast():
            logits, auxiliary = self.model(images, with_auxiliary=True)
        terms = dict(self.loss(logits, masks))
        total = terms.pop("total")
        if auxiliary is not None:
            total = total + AUXILIARY_WEIGHT * self.loss(auxiliary, masks)["total"]
        return {"loss": total, **terms}

    def _set_learning_rate(self) -> None:
        schedule, optim = self.config.schedule, self.config.optim
        warmup = round(schedule.warmup_epochs * self.train_data.steps_per_epoch)
        share = schedule.eta_min / optim.lr
        factor = learning_rate_factor(self.step, self.total_steps, warmup, schedule.warmup_start, schedule.poly_power, share)
        set_learning_rate(self.optimizer, factor)
        self.lr = optim.lr * factor

    def _validate(self) -> dict[str, Any]:
        images = self.pulse.along(self.val_data)
        matrix = evaluate(unwrap(self.model), images, self.ranks, self.config, len(self.classes), self.precision)
        summary = matrix.summary()
        # JSON has no NaN: a class that is neither present nor predicted has no IoU.
        ious = [None if math.isnan(iou) else round(float(iou), 6) for iou in summary["iou"]]
        scores = {"miou": float(summary["mIoU"]), "aacc": float(summary["aAcc"]), "macc": float(summary["mAcc"])}
        return {**scores, "constant_miou": matrix.constant_miou(), "class_iou": ious}

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.ranks.device.type, dtype=self.precision, enabled=self.precision is not torch.float32)

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
            checkpoint.save(self.out.checkpoints, "last", model.state_dict(), self._state(), manifest)
        self.out.append_epoch(row)
        self.scalars.add(row)

    def _state(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "best_miou": self.best_miou,
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
        self.best_miou, self.seconds = state["best_miou"], state["seconds"]
        self.finished, self.step, self.lr = manifest.epoch, manifest.step, manifest.lr
        log.info("resumed from %s: epoch %d, step %d", path, self.finished, self.step)

    def _init_from(self, model: torch.nn.Module, given: Path) -> None:
        path = checkpoint.find(given)
        manifest = checkpoint.verify(path)
        checkpoint.load_into(model, path)
        if manifest.lr and self.config.optim.lr > 10 * manifest.lr:
            log.warning(
                "optim.lr %.3g is %.0f times the rate at which %s ended (%.3g): a large rate on a converged model can take mIoU to 0",
                self.config.optim.lr, self.config.optim.lr / manifest.lr, path, manifest.lr,
            )  # fmt: skip

    def _prepare_folder(self) -> None:
        if not self.ranks.is_first:
            return
        self.out.check_current()
        checkpoint.sweep(self.out.checkpoints)
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
