"""Turns the events of a training run into curves and images, and hands them to its trackers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from segtune.config.log_config import AUTO_IMAGES
from segtune.data.loader import ValBatch
from segtune.runs.records import EpochRecord, ValidationScores
from segtune.runs.results import miou_by_epoch
from segtune.runs.rundir import search_of
from segtune.runs.verdict import Verdict
from segtune.tracking.hyperparameters import group_name, hyperparameters
from segtune.tracking.panels import PanelCollector
from segtune.tracking.rate import StepRate
from segtune.tracking.tracker import TrackedRun, Tracker
from segtune.training.listener import TrainingListener, TrainingRun
from segtune.training.memory import memory_used
from segtune.training.train_step import StepResult


class Recorder(TrainingListener):
    """Records a training run in several trackers.

    A point over steps is the mean of the steps since the point before it.
    """

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = trackers
        self._begun: list[Tracker] = []
        self._waiting: list[StepResult] = []  # since the last point
        self._rate = StepRate()
        self._panels: PanelCollector | None = None
        self._best_miou: float | None = None
        self._last_step = 0

    def on_start(self, run: TrainingRun) -> None:
        """Begin in all trackers."""
        self._run = run
        self._last_step = run.step
        earlier = miou_by_epoch(run.out.read_epochs(run.epoch))
        self._best_miou = max(earlier.values(), default=None)
        num_images = num_panels(run)
        self._panels = PanelCollector(run, num_images) if num_images else None
        tracked = as_tracked(run)
        for tracker in self._trackers:
            tracker.begin(tracked)
            self._begun.append(tracker)

    def on_epoch_start(self, epoch: int, step: int) -> None:
        """Forget the steps that are made again, and what an earlier validation has drawn."""
        if step < self._last_step:
            for tracker in self._begun:
                tracker.rewind(step)
        self._last_step = step
        self._waiting = []
        self._has_point = False
        self._rate.pause()
        if self._panels:
            self._panels.take()

    def on_step(self, epoch: int, result: StepResult) -> None:
        """Add a point each `log.every_steps` steps."""
        self._rate.step()
        self._waiting.append(result)
        if result.step % self._run.config.log.every_steps == 0:
            self._add_point()

    def on_validation_batch(self, batch: ValBatch, labels: Tensor) -> None:
        """Draw the chosen images of the batch."""
        if self._panels:
            self._panels.add(batch, labels)

    def on_epoch(self, record: EpochRecord) -> None:
        """Add the numbers of the epoch, and its panels if it ended with a validation."""
        if not self._has_point:
            self._add_point()
        if record.miou is not None:
            self._best_miou = max(record.miou, self._best_miou or 0.0)
        values = epoch_values(record, self._run.classes)
        panels = self._panels.take() if self._panels else {}
        images = {f"images/{name}": panel for name, panel in panels.items()}
        for tracker in self._begun:
            tracker.add(values, "epoch", record.epoch)
            if images:
                tracker.add_images(images, record.epoch)

    def on_end(self, verdict: Verdict | None) -> None:
        """Add the steps since the last point, and the final scores, in all trackers."""
        if self._waiting:
            self._add_point()
        summary = {} if self._best_miou is None else {"final/best_miou": self._best_miou}
        for tracker in self._begun:
            tracker.end(summary, verdict)

    def _add_point(self) -> None:
        """Add the mean of the steps since the last point."""
        results, self._waiting = self._waiting, []
        if not results:
            return
        values = step_values(results)
        rate = self._rate.images_per_s(self._run.config.schedule.batch_size)
        if rate is not None:
            values["images_per_s"] = rate
        memory = memory_used(self._run.device)
        if memory is not None:
            values["memory_gb"] = memory / 1e9
        self._has_point = True
        self._last_step = results[-1].step
        for tracker in self._begun:
            tracker.add(values, "step", self._last_step)


def num_panels(run: TrainingRun) -> int:
    """Return how many validation images are recorded: by default none in the trials of a search."""
    chosen = run.config.log.images
    if chosen != "auto":
        return chosen
    search = search_of(run.out.path)
    return 0 if search and run.out.path.parent == search.trials else AUTO_IMAGES


def as_tracked(run: TrainingRun) -> TrackedRun:
    """Return the training run as trackers show it."""
    return TrackedRun(
        run.out.id,
        group_name(search_of(run.out.path)),
        run.config,
        hyperparameters(run.config, run.out.path),
        run.out,
        run.epoch,
        run.step,
    )


def step_values(results: Sequence[StepResult]) -> dict[str, float]:
    """Return the mean losses and gradient norm of some steps, and the last learning rate.

    Steps that are not finite are left out, unless all are.
    """
    names = {"loss": "total"}  # the loss that is minimised, beside its terms
    values = {
        f"loss/{names.get(name, name)}": _mean([result.losses[name] for result in results])
        for name in results[0].losses
    }
    values["grad_norm"] = _mean([result.grad_norm for result in results])
    values["lr"] = results[-1].lr
    return values


def _mean(numbers: Sequence[float]) -> float:
    finite = [number for number in numbers if math.isfinite(number)]
    return sum(finite) / len(finite) if finite else numbers[-1]


def epoch_values(record: EpochRecord, class_names: Sequence[str]) -> dict[str, float]:
    """Return the losses, the learning rate and the scores of an epoch, by curve."""
    train: Mapping[str, float | None] = {
        **record.losses,
        "grad_norm": record.grad_norm,
        "gradient_left": record.gradient_left,
        "weight_growth": record.weight_growth,
        "lr": record.lr,
        "loss_scale": record.loss_scale,
        "skipped_steps": record.skipped_steps,
    }
    values = {f"train/{name}": value for name, value in train.items()}
    if record.validation:
        values |= _score_values(record.validation, class_names)
    return {name: value for name, value in values.items() if value is not None}


def _score_values(scores: ValidationScores, class_names: Sequence[str]) -> dict[str, float | None]:
    names = ("miou", "aacc", "macc", "mdice", "top_share")
    values = {f"val/{name}": getattr(scores, name) for name in names}
    pairs = zip(class_names, scores.class_iou, strict=False)
    return values | {f"class_iou/{name}": iou for name, iou in pairs}
