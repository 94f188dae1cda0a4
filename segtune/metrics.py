"""Confusion matrix over valid pixels, and mIoU, aAcc, mAcc and mDice from it. Knows nothing of ranks; the trainer sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


class ConfusionMatrix:
    """Counts of (label, prediction) pairs: rows are labels, columns predictions."""

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Adds pixels: prediction and target are int64 of one shape, target in 0..C-1 or ignore_index."""
        valid = target != self.ignore_index
        pairs = target[valid] * self.num_classes + prediction[valid]
        counts = torch.bincount(pairs, minlength=self.num_classes**2)
        self.matrix = self.matrix.to(counts.device) + counts.reshape(
            self.num_classes, self.num_classes
        )

    def merge(self, other: ConfusionMatrix) -> None:
        """Adds the counts of another matrix of the same classes."""
        self.matrix = self.matrix + other.matrix.to(self.matrix.device)

    def constant_miou(self) -> float:
        """Returns the mIoU in 0..1 of predicting the most frequent class everywhere: what a run has to be better than."""
        labels = self.matrix.sum(1)
        return float(labels.max() / labels.sum() / (labels > 0).sum()) if labels.sum() else 0.0

    def most_predicted(self) -> tuple[int, float]:
        """Returns the class that is predicted most often, and its share of the valid pixels in 0..1."""
        predicted = self.matrix.sum(0)
        index = int(predicted.argmax())
        return index, float(predicted[index] / predicted.sum()) if predicted.sum() else 0.0

    def summary(self) -> dict[str, Any]:
        """Returns aAcc, mIoU, mAcc and mDice in 0..1, and the arrays iou, acc and dice per class.

        A class that is neither present nor predicted is nan and left out of the means; acc is nan for an absent class.
        """
        counts = self.matrix.cpu().numpy().astype(np.float64)
        hit, label, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            iou = hit / (label + predicted - hit)
            acc = hit / label
            dice = 2 * hit / (label + predicted)
            all_acc = hit.sum() / counts.sum()
        means = {
            name: _mean(values) for name, values in (("mIoU", iou), ("mAcc", acc), ("mDice", dice))
        }
        return {
            "aAcc": float(np.nan_to_num(all_acc)),
            **means,
            "iou": iou,
            "acc": acc,
            "dice": dice,
        }

    def row(self, class_names: Sequence[str]) -> dict[str, Any]:
        """Returns the scores of a validated epoch as they are written to a run's files; a class without an IoU has None."""
        summary = self.summary()
        # JSON has no NaN.
        ious = [None if np.isnan(iou) else round(float(iou), 6) for iou in summary["iou"]]
        scores = {
            "miou": float(summary["mIoU"]),
            "aacc": float(summary["aAcc"]),
            "macc": float(summary["mAcc"]),
        }
        index, share = self.most_predicted()
        one = {
            "constant_miou": self.constant_miou(),
            "top_class": class_names[index],
            "top_share": share,
        }
        return {**scores, **one, "class_iou": ious}


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else 0.0


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def csv_rows(summary: dict[str, Any], class_names: Sequence[str]) -> list[list[str]]:
    """Returns the table with a header: class, IoU, Acc in per cent, then the means."""
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
    """Returns the table that mmseg users know: Class | IoU | Acc in per cent, then aAcc, mIoU and mAcc."""
    per_class = csv_rows(summary, class_names)[: len(class_names) + 1]
    means = [
        ["aAcc", "mIoU", "mAcc"],
        [_percent(summary[name]) for name in ("aAcc", "mIoU", "mAcc")],
    ]
    return f"per class results:\n\n{_grid(per_class)}\n\nSummary:\n\n{_grid(means)}"


def _grid(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    bar = "+" + "+".join("-" * (w + 2) for w in widths) + "+"
    lines = [
        "|" + "|".join(f" {cell:^{w}} " for cell, w in zip(row, widths, strict=True)) + "|"
        for row in rows
    ]
    return "\n".join([bar, lines[0], bar, *lines[1:], bar])
