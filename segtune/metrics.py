"""Confusion matrix over valid pixels, and the scores from it: IoU, accuracy, Dice, F-score.

docs/metrics.md has the formulas. It knows nothing of ranks: the caller sums the matrices of all
ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segtune.config.data_config import IGNORE_INDEX

# What `segtune evaluate --metrics` can print, and the columns of each in mmseg's table.
METRICS = {
    "iou": ("IoU", "Acc"),
    "dice": ("Dice", "Acc"),
    "fscore": ("Fscore", "Precision", "Recall"),
}
# The name of the mean of each score.
MEANS = {column.lower(): f"m{column}" for columns in METRICS.values() for column in columns}


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

    def summary(self, beta: float = 1.0) -> dict[str, Any]:
        """Return scores in 0..1: arrays per class, and their means.

        `aAcc` is the fraction of correct pixels. For each of iou, acc, dice, fscore, precision and
        recall there is an array, and a mean over its classes that are not NaN (mIoU, …, mRecall).
        A class that is neither present nor predicted is NaN. `acc` and `recall` are NaN for every
        class that is not present, and `precision` for every class that is not predicted. `fscore`
        is NaN if one of these two is, or if both are 0, as in mmseg; `beta` is the weight of recall
        in it. If ignore_index is the label of a class, this class is NaN too, also if it is
        predicted: no pixel could count as correct.
        """
        counts = self.matrix.cpu().numpy().astype(np.float64)
        correct = counts.diagonal()
        labels = counts.sum(1)
        predicted = counts.sum(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            recall = correct / labels
            precision = correct / predicted
            scores = {
                "iou": correct / (labels + predicted - correct),
                "acc": recall.copy(),
                "dice": 2 * correct / (labels + predicted),
                "fscore": _f_score(precision, recall, beta),
                "precision": precision,
                "recall": recall,
            }
            all_acc = correct.sum() / counts.sum()
        if self.ignore_index < self.num_classes:
            for values in scores.values():
                values[self.ignore_index] = np.nan
        means = {MEANS[name]: _mean_of_defined(values) for name, values in scores.items()}
        return {"aAcc": float(np.nan_to_num(all_acc)), **means, **scores}


def _f_score(precision: np.ndarray, recall: np.ndarray, beta: float) -> np.ndarray:
    """Return (1 + beta^2) P R / (beta^2 P + R) (van Rijsbergen 1979)."""
    return (1 + beta**2) * precision * recall / (beta**2 * precision + recall)


def _mean_of_defined(values: np.ndarray) -> float:
    """Return the mean of the values that are not NaN, or 0 if all are."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else 0.0


def columns_of(metrics: Sequence[str]) -> list[str]:
    """Return the columns of some of METRICS, each once: as mmseg's table has them."""
    return list(dict.fromkeys(column for metric in metrics for column in METRICS[metric]))


def csv_rows(
    summary: dict[str, Any], class_names: Sequence[str], metrics: Sequence[str] = ("iou",)
) -> list[list[str]]:
    """Return a table of `summary` in per cent: a header, one row per class, then the means.

    `metrics` are some of METRICS.
    """
    columns = columns_of(metrics)
    values = [summary[column.lower()] for column in columns]
    rows = [
        [name, *map(_percent, scores)] for name, *scores in zip(class_names, *values, strict=True)
    ]
    place = columns.index("Acc") if "Acc" in columns else 0
    all_acc = [_percent(summary["aAcc"]) if i == place else "" for i in range(len(columns))]
    return [
        ["Class", *columns],
        *rows,
        ["mean", *(_percent(summary[f"m{column}"]) for column in columns)],
        ["aAcc", *all_acc],
    ]


def format_table(
    summary: dict[str, Any], class_names: Sequence[str], metrics: Sequence[str] = ("iou",)
) -> str:
    """Return the tables of `summary` in per cent, laid out as mmseg does.

    The first has a row for each class, and the columns of `metrics`, which are some of METRICS. The
    second has aAcc and the mean of each column.
    """
    per_class = csv_rows(summary, class_names, metrics)[: len(class_names) + 1]
    names = ["aAcc", *(f"m{column}" for column in columns_of(metrics))]
    means = [names, [_percent(summary[name]) for name in names]]
    return f"per class results:\n\n{_grid(per_class)}\n\nSummary:\n\n{_grid(means)}"


def missed_classes_note(summary: dict[str, Any]) -> str:
    """Return a line on the classes that mmseg's mean F-score leaves out, or "" if there is none.

    These are present or predicted, but no pixel of them is right, so that their F-score is NaN. The
    usual definition, 2 TP / (2 TP + FN + FP), is 0 for them.
    """
    missed = ~np.isnan(summary["iou"]) & np.isnan(summary["fscore"])
    if not missed.any():
        return ""
    with_zeros = _mean_of_defined(np.where(missed, 0.0, summary["fscore"]))
    return (
        f"mFscore leaves out {missed.sum()} of {len(missed)} classes, which have no correct pixel, "
        f"as mmseg does; it is {_percent(with_zeros)} if they count as 0"
    )


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
