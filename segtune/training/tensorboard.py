"""The numbers of a run for TensorBoard: losses, learning rate, mIoU and every class's IoU over epochs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard.writer import SummaryWriter

VALIDATED = ("miou", "aacc", "macc", "top_share")
NOT_OF_TRAINING = {
    "epoch",
    "step",
    "seconds",
    "ended",
    "constant_miou",
    "init_miou",
    "top_class",
    "class_iou",
    *VALIDATED,
}


class ScalarLog:
    """Writes one run's rows. After a resume TensorBoard hides what an earlier attempt wrote past the checkpoint."""

    def __init__(self, folder: Path, class_names: Sequence[str], finished: int) -> None:
        """`finished` epochs are already logged."""
        self.class_names = class_names
        self.writer = SummaryWriter(
            str(folder), purge_step=finished + 1 if finished else None, flush_secs=10
        )

    def add(self, row: dict[str, Any]) -> None:
        """Adds the row of one epoch."""
        epoch = row["epoch"]
        for name in VALIDATED:
            if name in row:
                self.writer.add_scalar(f"val/{name}", row[name], epoch)
        for name, iou in zip(self.class_names, row.get("class_iou", ()), strict=False):
            if iou is not None:
                self.writer.add_scalar(f"class_iou/{name}", iou, epoch)
        for name in set(row) - NOT_OF_TRAINING:
            if row[name] is not None:
                self.writer.add_scalar(f"train/{name}", row[name], epoch)
        self.writer.flush()

    def close(self) -> None:
        """Writes what is left."""
        self.writer.close()
