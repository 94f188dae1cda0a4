"""Laws of the confusion matrix, on masks small enough to draw."""

import math

import pytest
import torch

from segtune.metrics import ConfusionMatrix, csv_rows, format_table

#        label        prediction
LABEL = torch.tensor([[0, 0, 1, 255]])
PREDICTED = torch.tensor([[0, 1, 1, 2]])


def matrix(classes=4):
    confusion = ConfusionMatrix(classes)
    confusion.update(PREDICTED, LABEL)
    return confusion


def test_means_are_those_counted_by_hand():
    summary = matrix().summary()
    assert summary["aAcc"] == pytest.approx(2 / 3)
    assert list(summary["iou"][:2]) == [1 / 2, 1 / 2]
    assert list(summary["acc"][:2]) == [1 / 2, 1.0]
    assert summary["mIoU"] == 1 / 2
    assert summary["mAcc"] == 3 / 4
    assert summary["mDice"] == pytest.approx(2 / 3)


def test_class_that_is_nowhere_is_left_out_and_one_that_is_only_predicted_counts():
    confusion = matrix()
    assert math.isnan(confusion.summary()["iou"][3])
    confusion.update(torch.tensor([[3]]), torch.tensor([[0]]))
    assert confusion.summary()["iou"][3] == 0
    assert confusion.summary()["mIoU"] == pytest.approx((1 / 3 + 1 / 2 + 0) / 3)


def test_ignored_pixels_do_not_count():
    assert matrix().matrix.sum() == 3


def test_parts_merge_to_the_whole():
    first, second = matrix(), matrix()
    first.merge(second)
    assert torch.equal(first.matrix, 2 * second.matrix)


def test_batches_in_any_cut_give_the_same_counts():
    generator = torch.Generator().manual_seed(0)
    prediction, target = (torch.randint(0, 4, (6, 5, 5), generator=generator) for _ in range(2))
    target[0, 0] = 255
    whole, parts = ConfusionMatrix(4), ConfusionMatrix(4)
    whole.update(prediction, target)
    for one, label in zip(prediction, target, strict=True):
        parts.update(one, label)
    assert torch.equal(whole.matrix, parts.matrix)
    assert whole.matrix.dtype == torch.int64
    assert (
        whole.matrix[1, 2] == ((prediction == 2) & (target == 1)).sum()
    )  # rows are labels, columns predictions


def test_constant_prediction_is_worth_the_share_of_its_class():
    confusion = matrix()  # labels 0, 0, 1: always saying 0 gives an IoU of 2/3 and one of 0
    assert confusion.constant_miou() == pytest.approx(1 / 3)
    always = ConfusionMatrix(4)
    always.update(torch.zeros_like(PREDICTED), LABEL)
    assert confusion.constant_miou() == pytest.approx(always.summary()["mIoU"])
    assert ConfusionMatrix(3).constant_miou() == 0.0


def test_empty_matrix_is_zero_not_nan():
    summary = ConfusionMatrix(3).summary()
    assert (summary["mIoU"], summary["aAcc"]) == (0.0, 0.0)


def test_table_has_the_classes_and_the_means():
    text = format_table(matrix().summary(), ["road", "sky", "car", "dog"])
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    assert rows[:3] == [
        ["Class", "IoU", "Acc"],
        ["road", "50.00", "50.00"],
        ["sky", "50.00", "100.00"],
    ]
    assert rows[-2:] == [["aAcc", "mIoU", "mAcc"], ["66.67", "50.00", "75.00"]]
    assert rows[3:5] == [["car", "nan", "nan"], ["dog", "nan", "nan"]]
    assert csv_rows(matrix().summary(), "abcd")[:2] == [
        ["Class", "IoU", "Acc"],
        ["a", "50.00", "50.00"],
    ]
    assert csv_rows(matrix().summary(), "abcd")[-2:] == [
        ["mean", "50.00", "75.00"],
        ["aAcc", "", "66.67"],
    ]
