"""The numbers of a training run for TensorBoard, over epochs. Reads nothing back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch.utils.tensorboard.writer import SummaryWriter

from segtune.runs.records import EpochRecord, ValidationScores


class ScalarLog:
    """Writes the losses, the learning rate, mIoU and the IoU of each class of one training run.

    TensorBoard hides later epochs that were in the folder before: those after the checkpoint of a
    resume, and those of a training run that was replaced.
    """

    def __init__(self, folder: Path, class_names: Sequence[str], last_epoch: int) -> None:
        """Epochs up to `last_epoch` are in the log already."""
        self.class_names = class_names
        self.writer = SummaryWriter(str(folder), purge_step=last_epoch + 1, flush_secs=10)

    def add(self, record: EpochRecord) -> None:
        """Add one epoch."""
        scalars = {
            **record.losses,
            "grad_norm": record.grad_norm,
            "gradient_left": record.gradient_left,
            "weight_growth": record.weight_growth,
            "lr": record.lr,
            "loss_scale": record.loss_scale,
            "skipped_steps": record.skipped_steps,
        }
        for name, value in scalars.items():
            if value is not None:
                self.writer.add_scalar(f"train/{name}", value, record.epoch)
        if record.validation:
            self._add_validation(record.validation, record.epoch)
        self.writer.flush()

    def _add_validation(self, scores: ValidationScores, epoch: int) -> None:
        for name in ("miou", "aacc", "macc", "mdice", "top_share"):
            value = getattr(scores, name)
            if value is not None:
                self.writer.add_scalar(f"val/{name}", value, epoch)
        for name, iou in zip(self.class_names, scores.class_iou, strict=False):
            if iou is not None:
                self.writer.add_scalar(f"class_iou/{name}", iou, epoch)

    def close(self) -> None:
        """Write what is left, and close the file."""
        self.writer.close()
