"""Scores are those of sets of pixels in float64, of mmseg's formulas, and of torchmetrics."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassFBetaScore,
    MulticlassJaccardIndex,
    MulticlassPrecision,
    MulticlassRecall,
)
from torchmetrics.segmentation import DiceScore

from segtune.metrics import METRICS, ConfusionMatrix, columns_of, csv_rows, missed_classes_note

IGNORED = 255
NAMES = ("iou", "acc", "dice", "fscore", "precision", "recall")
Case = tuple[int, int, Tensor, Tensor]  # classes, ignore_index, prediction, target


def random_case(
    num_classes: int, *, pixels: int = 4000, seed: int = 0, ignored: float = 0.1, right: float = 0.5
) -> Case:
    """Return pixels of which a share is predicted right, and a share is ignored."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, num_classes, (pixels,), generator=generator)
    noise = torch.randint(0, num_classes, (pixels,), generator=generator)
    prediction = target.where(torch.rand(pixels, generator=generator) < right, noise)
    ignore_index = IGNORED if num_classes <= IGNORED else 65_535
    target[torch.rand(pixels, generator=generator) < ignored] = ignore_index
    return num_classes, ignore_index, prediction, target


def of_pixels(prediction: Sequence[int], target: Sequence[int], num_classes: int = 3) -> Case:
    return num_classes, IGNORED, torch.tensor(prediction).long(), torch.tensor(target).long()


CASES = {
    "2 classes": random_case(2),
    "21 classes": random_case(21),
    "150 classes": random_case(150, pixels=20_000),
    "300 classes": random_case(300, pixels=30_000),
    "300 classes, most of them absent": random_case(300, pixels=200),
    "nothing ignored": random_case(7, ignored=0.0),
    "always wrong": (4, IGNORED, torch.arange(400) % 4, (torch.arange(400) + 1) % 4),
    "always right": random_case(7, right=1.0),
    "1 class in the mask, predicted right": of_pixels([0, 0], [0, 0]),
    "1 class in the mask, predicted wrong": of_pixels([1, 2], [0, 0]),
    "class absent from mask and prediction": of_pixels([0, 1, 1], [0, 0, 1]),
    "class absent from the mask, but predicted": of_pixels([0, 1, 2], [0, 0, 1]),
    "class never predicted": of_pixels([0, 0, 1], [0, 2, 1]),
    "class predicted only where it is ignored": of_pixels([0, 1, 2], [0, 1, IGNORED]),
    "one pixel": of_pixels([2], [2]),
}
EMPTY = {
    "all ignored": of_pixels([0, 1, 2], [IGNORED] * 3),
    "no pixel": of_pixels([], []),
}


def confusion_of(case: Case) -> ConfusionMatrix:
    num_classes, ignore_index, prediction, target = case
    confusion = ConfusionMatrix(num_classes, ignore_index)
    confusion.update(prediction, target)
    return confusion


def ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def by_hand(case: Case, beta: float = 1.0) -> dict[str, Any]:
    """Return the scores of each class from sets of pixels, and the means without NaN."""
    num_classes, ignore_index, prediction, target = case
    pixels = [
        (predicted, label)
        for predicted, label in zip(prediction.tolist(), target.tolist(), strict=True)
        if label != ignore_index
    ]
    scores: dict[str, Any] = {name: [] for name in NAMES}
    for label in range(num_classes):
        in_mask = {i for i, (_, true) in enumerate(pixels) if true == label}
        found = {i for i, (predicted, _) in enumerate(pixels) if predicted == label}
        both = len(in_mask & found)
        precision, recall = ratio(both, len(found)), ratio(both, len(in_mask))
        scores["iou"].append(ratio(both, len(in_mask | found)))
        scores["acc"].append(recall)
        scores["dice"].append(ratio(2 * both, len(in_mask) + len(found)))
        scores["precision"].append(precision)
        scores["recall"].append(recall)
        f_score = ratio((1 + beta**2) * precision * recall, beta**2 * precision + recall)
        scores["fscore"].append(f_score)
    right = sum(predicted == label for predicted, label in pixels)
    return {**scores, "aAcc": ratio(right, len(pixels))}


def mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined)


@pytest.mark.parametrize(
    ("name", "beta"),
    [*((name, 1.0) for name in CASES), ("21 classes", 0.5), ("class never predicted", 2.0)],
)
def test_scores_are_those_of_sets_of_pixels_in_float64(name: str, beta: float) -> None:
    summary, expected = confusion_of(CASES[name]).summary(beta), by_hand(CASES[name], beta)
    for score in NAMES:
        np.testing.assert_allclose(summary[score], expected[score], rtol=1e-14, err_msg=score)
    for column in ("IoU", "Acc", "Dice", "Precision", "Recall"):
        if not np.isnan(summary[column.lower()]).all():
            assert summary[f"m{column}"] == pytest.approx(mean(expected[column.lower()]), rel=1e-13)
    assert summary["aAcc"] == pytest.approx(expected["aAcc"], rel=1e-14)


def mmseg_areas(case: Case) -> dict[str, Tensor]:
    """Return mmseg's areas of each class: intersection, union, prediction, label (float32)."""
    num_classes, ignore_index, prediction, target = case
    kept = target != ignore_index
    prediction, target = prediction[kept], target[kept]

    def histogram(labels: Tensor) -> Tensor:
        return torch.histc(labels.float(), num_classes, 0, num_classes - 1)

    both = histogram(prediction[prediction == target])
    found, labelled = histogram(prediction), histogram(target)
    return {"both": both, "union": found + labelled - both, "found": found, "labelled": labelled}


@pytest.mark.parametrize("beta", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_scores_are_those_of_mmseg(name: str, beta: int) -> None:
    area = mmseg_areas(CASES[name])
    precision, recall = area["both"] / area["found"], area["both"] / area["labelled"]
    expected = {
        "IoU": area["both"] / area["union"],
        "Acc": area["both"] / area["labelled"],
        "Dice": 2 * area["both"] / (area["found"] + area["labelled"]),
        "Fscore": (1 + beta**2) * (precision * recall) / (beta**2 * precision + recall),
        "Precision": precision,
        "Recall": recall,
    }
    summary = confusion_of(CASES[name]).summary(beta)
    for column, values in expected.items():
        # Also NaN in the same classes, so mIoU of a class that is absent but predicted agrees.
        np.testing.assert_allclose(summary[column.lower()], values, rtol=1e-5, err_msg=column)
        if not values.isnan().all():
            assert summary[f"m{column}"] == pytest.approx(float(values.nanmean()), rel=1e-5)
    all_acc = float(area["both"].sum() / area["labelled"].sum())
    assert summary["aAcc"] == pytest.approx(all_acc, rel=1e-5)


def test_class_that_is_absent_but_predicted_counts_as_0_in_miou_and_not_in_macc() -> None:
    # Class 2 is predicted once and never labelled. mmseg: intersection 0, union 1, label 0.
    summary = confusion_of(CASES["class absent from the mask, but predicted"]).summary()
    assert list(summary["iou"]) == [1 / 2, 0, 0]
    assert summary["mIoU"] == pytest.approx(1 / 6)
    assert math.isnan(summary["acc"][2])
    assert summary["mAcc"] == pytest.approx((1 / 2 + 0) / 2)


@pytest.mark.parametrize("name", CASES)
def test_scores_are_those_of_torchmetrics(name: str) -> None:
    num_classes, ignore_index, prediction, target = CASES[name]
    summary = confusion_of(CASES[name]).summary(beta=1.0)
    doubled = confusion_of(CASES[name]).summary(beta=2.0)
    # torchmetrics has 0 in place of NaN, for a single class and in means over given classes.
    options: Any = {
        "num_classes": num_classes,
        "ignore_index": ignore_index,
        "average": None,
        "zero_division": 0,
    }
    metrics = {
        "iou": MulticlassJaccardIndex(**options),
        "acc": MulticlassAccuracy(num_classes=num_classes, ignore_index=ignore_index, average=None),
        "dice": MulticlassF1Score(**options),
        "precision": MulticlassPrecision(**options),
        "recall": MulticlassRecall(**options),
        "fscore": MulticlassF1Score(**options),
    }
    for score, metric in metrics.items():
        expected = metric(prediction, target).double().numpy()
        np.testing.assert_allclose(
            np.nan_to_num(summary[score]), expected, rtol=1e-5, atol=1e-7, err_msg=score
        )
    f2 = MulticlassFBetaScore(beta=2.0, **options)(prediction, target).double().numpy()
    np.testing.assert_allclose(np.nan_to_num(doubled["fscore"]), f2, rtol=1e-5, atol=1e-7)
    micro: Any = {"num_classes": num_classes, "ignore_index": ignore_index, "average": "micro"}
    assert summary["aAcc"] == pytest.approx(float(MulticlassAccuracy(**micro)(prediction, target)))


@pytest.mark.parametrize("name", ["2 classes", "21 classes", "nothing ignored", "always right"])
def test_means_are_those_of_torchmetrics_if_every_class_is_present(name: str) -> None:
    num_classes, ignore_index, prediction, target = CASES[name]
    summary = confusion_of(CASES[name]).summary()
    options: Any = {"num_classes": num_classes, "ignore_index": ignore_index, "average": "macro"}
    for mean_name, metric in (
        ("mIoU", MulticlassJaccardIndex(**options)),
        ("mAcc", MulticlassAccuracy(**options)),
        ("mDice", MulticlassF1Score(**options)),
        ("mFscore", MulticlassF1Score(**options)),
        ("mPrecision", MulticlassPrecision(**options)),
        ("mRecall", MulticlassRecall(**options)),
    ):
        expected = float(metric(prediction, target))
        assert summary[mean_name] == pytest.approx(expected, rel=1e-5), mean_name


def test_dice_is_that_of_torchmetrics_segmentation() -> None:
    num_classes, _, prediction, target = CASES["nothing ignored"]
    dice = DiceScore(num_classes, average=None, input_format="index")
    expected = dice(prediction[None], target[None]).double().numpy()
    summary = confusion_of(CASES["nothing ignored"]).summary()
    np.testing.assert_allclose(summary["dice"], expected.reshape(-1), rtol=1e-5)


@pytest.mark.parametrize("name", EMPTY)
def test_without_a_valid_pixel_all_classes_are_nan_and_all_means_0(name: str) -> None:
    summary = confusion_of(EMPTY[name]).summary()
    for score in NAMES:
        assert np.isnan(summary[score]).all()
    means = [summary[mean_name] for mean_name in ("aAcc", "mIoU", "mAcc", "mDice", "mFscore")]
    assert means == [0.0] * 5
    assert missed_classes_note(summary) == ""


def test_a_single_class_is_always_right() -> None:
    confusion = ConfusionMatrix(1)
    confusion.update(torch.zeros(3).long(), torch.tensor([0, IGNORED, 0]))
    summary = confusion.summary()
    assert {name: float(summary[name][0]) for name in NAMES} == dict.fromkeys(NAMES, 1.0)


@pytest.mark.parametrize("num_classes", [7, 300])
def test_sums_of_batches_and_of_ranks_give_the_scores_of_all_pixels(num_classes: int) -> None:
    case = random_case(num_classes, pixels=9000)
    ranks = [ConfusionMatrix(num_classes, case[1]) for _ in range(2)]
    for i, part in enumerate(torch.arange(9000).split(1100)):
        ranks[i % 2].update(case[2][part], case[3][part])
    total = ConfusionMatrix(num_classes, case[1])
    for confusion in ranks:
        total.merge(confusion)
    assert torch.equal(total.matrix, confusion_of(case).matrix)
    np.testing.assert_array_equal(total.summary()["iou"], confusion_of(case).summary()["iou"])


def test_counts_of_more_pixels_than_float32_holds_are_exact() -> None:
    confusion = ConfusionMatrix(2)
    confusion.matrix = torch.tensor([[2**40 + 1, 1], [0, 3]])
    summary = confusion.summary()
    assert summary["iou"][1] == 3 / 4
    assert summary["precision"][1] == 3 / 4
    assert summary["iou"][0] == (2**40 + 1) / (2**40 + 2)


@pytest.mark.slow
def test_two_ranks_sum_to_the_matrix_of_both(run_on_two_ranks: Any) -> None:
    script = """
import sys
import torch
from segtune.metrics import ConfusionMatrix
from segtune.training.distributed import Ranks
ranks = Ranks.join("cpu")
confusion = ConfusionMatrix(3)
confusion.update(torch.tensor([0, ranks.rank + 1]), torch.tensor([0, 1]))
ranks.sum(confusion.matrix)
sys.stdout.write(f"{confusion.matrix.tolist()} {confusion.summary()['mIoU']:.6f}\\n")
ranks.close()
"""
    matrix = [[2, 0, 0], [0, 1, 1], [0, 0, 0]]
    assert run_on_two_ranks(script) == [f"{matrix} 0.500000"] * 2


def test_mean_f_score_leaves_out_missed_classes_and_a_note_says_what_it_would_be() -> None:
    # Class 0: 1 right of 1 predicted and 1 labelled. Class 1 is missed. Class 2 is absent.
    summary = confusion_of(of_pixels([0, 0], [0, 1])).summary()
    assert summary["mFscore"] == pytest.approx(2 / 3)
    assert summary["mDice"] == pytest.approx((2 / 3 + 0) / 2)
    assert missed_classes_note(summary) == (
        "mFscore leaves out 1 of 3 classes, which have no correct pixel, as mmseg does; it is "
        "33.33 if they count as 0"
    )
    assert missed_classes_note(confusion_of(CASES["always right"]).summary()) == ""


def test_beta_above_1_weighs_recall_more() -> None:
    # Class 0: precision 1, recall 1/2.
    confusion = confusion_of(of_pixels([0, 1, 1], [0, 0, 1], num_classes=2))
    assert confusion.summary(beta=1)["fscore"][0] == pytest.approx(2 / 3)
    assert confusion.summary(beta=2)["fscore"][0] == pytest.approx(5 * 0.5 / 4.5)
    assert confusion.summary(beta=0.5)["fscore"][0] == pytest.approx(1.25 * 0.5 / 0.75)


@pytest.mark.parametrize(
    ("metrics", "columns"),
    [
        (["iou"], ["IoU", "Acc"]),
        (["dice"], ["Dice", "Acc"]),
        (["fscore"], ["Fscore", "Precision", "Recall"]),
        (["iou", "dice", "fscore"], ["IoU", "Acc", "Dice", "Fscore", "Precision", "Recall"]),
        (["fscore", "iou", "iou"], ["Fscore", "Precision", "Recall", "IoU", "Acc"]),
    ],
)
def test_columns_are_those_of_mmseg_in_its_order(metrics: list[str], columns: list[str]) -> None:
    assert columns_of(metrics) == columns
    rows = csv_rows(confusion_of(CASES["2 classes"]).summary(), ["a", "b"], metrics)
    assert [row[0] for row in rows] == ["Class", "a", "b", "mean", "aAcc"]
    assert {len(row) for row in rows} == {len(columns) + 1}
    assert rows[0][1:] == columns
    overall = [column for column, cell in zip(columns, rows[-1][1:], strict=True) if cell]
    assert overall == ["Acc" if "Acc" in columns else columns[0]]


def test_metrics_of_the_command_are_those_of_the_tables() -> None:
    from segtune import evaluate

    assert tuple(METRICS) == evaluate.METRICS
