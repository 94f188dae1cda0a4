"""Confusion matrix over valid pixels, and the scores from it: mIoU, aAcc, mAcc and mDice.

It knows nothing of ranks: the caller sums the matrices of all ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segtune.config.data_config import IGNORE_INDEX


class ConfusionMatrix:
    """Counts of (label, prediction) pairs: rows are labels, columns are predictions."""

    def __init__(self, num_classes: int, ignore_index: int = IGNORE_INDEX) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add pixels.

        Both tensors are int64 of the same shape. `prediction` is in 0..C-1, `target` in 0..C-1 or
        ignore_index.
        """
        valid = target != self.ignore_index
        pairs = target[valid] * self.num_classes + prediction[valid]
        counts = torch.bincount(pairs, minlength=self.num_classes**2)
        counts = counts.reshape(self.num_classes, self.num_classes)
        self.matrix = self.matrix.to(counts.device) + counts

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the counts of another matrix with the same classes."""
        self.matrix = self.matrix + other.matrix.to(self.matrix.device)

    def constant_miou(self) -> float:
        """Return the mIoU, in 0..1, of predicting the most frequent class in every pixel.

        A trained model has to be better than this. Without any pixel, it is 0. If only one class
        is labelled, it is 1: no model can be better.
        """
        labels = self.matrix.sum(1)
        return float(labels.max() / labels.sum() / (labels > 0).sum()) if labels.sum() else 0.0

    def most_predicted(self) -> tuple[int, float]:
        """Return the class that is predicted most often, and its share of the valid pixels."""
        predicted = self.matrix.sum(0)
        index = int(predicted.argmax())
        return index, float(predicted[index] / predicted.sum()) if predicted.sum() else 0.0

    def summary(self) -> dict[str, Any]:
        """Return aAcc, mIoU, mAcc and mDice in 0..1, and the arrays iou, acc and dice per class.

        A class that is neither present nor predicted is NaN, and left out of the means. `acc` is
        NaN for every class that is not present. If ignore_index is the label of a class, this class
        is NaN too, also if it is predicted: no pixel could count as correct.
        """
        counts = self.matrix.cpu().numpy().astype(np.float64)
        correct = counts.diagonal()
        labels = counts.sum(1)
        predicted = counts.sum(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            iou = correct / (labels + predicted - correct)
            acc = correct / labels
            dice = 2 * correct / (labels + predicted)
            all_acc = correct.sum() / counts.sum()
        if self.ignore_index < self.num_classes:
            for scores in (iou, acc, dice):
                scores[self.ignore_index] = np.nan
        return {
            "aAcc": float(np.nan_to_num(all_acc)),
            "mIoU": _mean_of_defined(iou),
            "mAcc": _mean_of_defined(acc),
            "mDice": _mean_of_defined(dice),
            "iou": iou,
            "acc": acc,
            "dice": dice,
        }


def _mean_of_defined(values: np.ndarray) -> float:
    """Return the mean of the values that are not NaN, or 0 if all are."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else 0.0


def csv_rows(summary: dict[str, Any], class_names: Sequence[str]) -> list[list[str]]:
    """Return a table of `summary` in per cent: a header, one row per class, then the means."""
    rows = [
        [name, _percent(iou), _percent(acc)]
        for name, iou, acc in zip(class_names, summary["iou"], summary["acc"], strict=True)
    ]
    return [
        ["Class", "IoU", "Acc"],
        *rows,
        ["mean", _percent(summary["mIoU"]), _percent(summary["mAcc"])],
        ["aAcc", "", _percent(summary["aAcc"])],
    ]


def format_table(summary: dict[str, Any], class_names: Sequence[str]) -> str:
    """Return the tables of `summary` in per cent, laid out as mmseg does.

    The first has a row Class | IoU | Acc for each class, the second aAcc, mIoU and mAcc.
    """
    per_class = csv_rows(summary, class_names)[: len(class_names) + 1]
    names = ["aAcc", "mIoU", "mAcc"]
    means = [names, [_percent(summary[name]) for name in names]]
    return f"per class results:\n\n{_grid(per_class)}\n\nSummary:\n\n{_grid(means)}"


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _grid(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as a table in ASCII; the first row is the header."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    bar = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    lines = [_grid_line(row, widths) for row in rows]
    return "\n".join([bar, lines[0], bar, *lines[1:], bar])


def _grid_line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [f" {cell:^{width}} " for cell, width in zip(row, widths, strict=True)]
    return "|" + "|".join(cells) + "|"
