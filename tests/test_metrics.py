"""The confusion matrix and its scores, on masks small enough to draw."""

import math

import pytest
import torch

from segtune.metrics import ConfusionMatrix, csv_rows, format_table

LABELS = torch.tensor([[0, 0, 1, 255]])
PREDICTED = torch.tensor([[0, 1, 1, 2]])


def confusion_of_four_pixels() -> ConfusionMatrix:
    """Return the matrix of LABELS and PREDICTED, with four classes."""
    confusion = ConfusionMatrix(4)
    confusion.update(PREDICTED, LABELS)
    return confusion


def test_means_are_those_counted_by_hand() -> None:
    summary = confusion_of_four_pixels().summary()
    assert summary["aAcc"] == pytest.approx(2 / 3)
    assert list(summary["iou"][:2]) == [1 / 2, 1 / 2]
    assert list(summary["acc"][:2]) == [1 / 2, 1.0]
    assert summary["mIoU"] == 1 / 2
    assert summary["mAcc"] == 3 / 4
    assert summary["mDice"] == pytest.approx(2 / 3)


def test_absent_class_is_left_out_and_a_class_that_is_only_predicted_counts() -> None:
    confusion = confusion_of_four_pixels()
    assert math.isnan(confusion.summary()["iou"][3])
    confusion.update(torch.tensor([[3]]), torch.tensor([[0]]))
    assert confusion.summary()["iou"][3] == 0
    assert confusion.summary()["mIoU"] == pytest.approx((1 / 3 + 1 / 2 + 0) / 3)


def test_ignored_pixels_do_not_count() -> None:
    assert confusion_of_four_pixels().matrix.sum() == 3


def test_merge_adds_the_counts() -> None:
    first, second = confusion_of_four_pixels(), confusion_of_four_pixels()
    first.merge(second)
    assert torch.equal(first.matrix, 2 * second.matrix)


def test_counts_do_not_depend_on_how_pixels_are_batched() -> None:
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randint(0, 4, (6, 5, 5), generator=generator)
    target = torch.randint(0, 4, (6, 5, 5), generator=generator)
    target[0, 0] = 255
    whole = ConfusionMatrix(4)
    whole.update(prediction, target)
    by_sample = ConfusionMatrix(4)
    for i in range(6):
        by_sample.update(prediction[i], target[i])
    assert torch.equal(whole.matrix, by_sample.matrix)
    assert whole.matrix.dtype == torch.int64


def test_rows_are_labels_and_columns_are_predictions() -> None:
    assert confusion_of_four_pixels().matrix.tolist()[:2] == [[1, 1, 0, 0], [0, 1, 0, 0]]


def test_constant_miou_is_the_miou_of_predicting_the_most_frequent_class() -> None:
    confusion = confusion_of_four_pixels()  # labels 0, 0, 1: always 0 has an IoU of 2/3 and of 0
    assert confusion.constant_miou() == pytest.approx(1 / 3)
    constant = ConfusionMatrix(4)
    constant.update(torch.zeros_like(PREDICTED), LABELS)
    assert confusion.constant_miou() == pytest.approx(constant.summary()["mIoU"])
    assert ConfusionMatrix(3).constant_miou() == 0.0


def test_scores_of_an_empty_matrix_are_0_not_nan() -> None:
    summary = ConfusionMatrix(3).summary()
    assert (summary["mIoU"], summary["aAcc"]) == (0.0, 0.0)


def test_table_has_the_classes_and_the_means() -> None:
    text = format_table(confusion_of_four_pixels().summary(), ["road", "sky", "car", "dog"])
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    assert rows == [
        ["Class", "IoU", "Acc"],
        ["road", "50.00", "50.00"],
        ["sky", "50.00", "100.00"],
        ["car", "nan", "nan"],
        ["dog", "nan", "nan"],
        ["aAcc", "mIoU", "mAcc"],
        ["66.67", "50.00", "75.00"],
    ]


def test_csv_has_the_classes_and_the_means() -> None:
    rows = csv_rows(confusion_of_four_pixels().summary(), "abcd")
    assert rows[:2] == [["Class", "IoU", "Acc"], ["a", "50.00", "50.00"]]
    assert rows[-2:] == [["mean", "50.00", "75.00"], ["aAcc", "", "66.67"]]
