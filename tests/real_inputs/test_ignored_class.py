"""If ignore_index is the label of a class, this class is left out of every mean."""

import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from segtune import evaluate
from segtune.config.data_config import DataConfig
from segtune.config.schema import ExperimentConfig
from segtune.metrics import ConfusionMatrix, csv_rows, format_table
from segtune.runs.records import EpochRecord, ValidationScores
from segtune.runs.rundir import TrialDir
from segtune.training.distributed import Ranks
from segtune.training.evaluation import validation_scores
from segtune.training.health import HealthMonitor
from segtune.training.trainer import Trainer


def independent_miou(target: np.ndarray, prediction: np.ndarray, ignore: int, count: int) -> float:
    """Return mIoU from sets of pixels in float64, without a confusion matrix."""
    counted = target != ignore
    ious = []
    for label in range(count):
        if label == ignore:
            continue
        is_label = (target == label) & counted
        is_predicted = (prediction == label) & counted
        union = np.count_nonzero(is_label | is_predicted)
        if union:
            ious.append(np.float64(np.count_nonzero(is_label & is_predicted)) / union)
    return float(np.mean(ious)) if ious else 0.0


@pytest.mark.parametrize("num_classes", [2, 5])
@pytest.mark.parametrize("ignore", [0, 1, 255])
def test_miou_is_that_of_an_independent_computation(ignore: int, num_classes: int) -> None:
    rng = np.random.default_rng(ignore + num_classes)
    target = rng.integers(0, num_classes, (3, 40, 50))
    other = rng.integers(0, num_classes, target.shape)
    prediction = np.where(rng.random(target.shape) < 0.6, target, other)
    confusion = ConfusionMatrix(num_classes, ignore)
    confusion.update(torch.from_numpy(prediction), torch.from_numpy(target))
    expected = independent_miou(target, prediction, ignore, num_classes)
    assert confusion.summary()["mIoU"] == pytest.approx(expected, abs=1e-12)
    assert 0 < expected < 1


def background_is_ignored() -> ConfusionMatrix:
    """Return the matrix of 17 pixels `thing`, 13 of them found, and of ignored background."""
    target = torch.tensor([1] * 17 + [0] * 30)
    confusion = ConfusionMatrix(2, ignore_index=0)
    confusion.update(torch.tensor([1] * 13 + [0] * 34), target)
    return confusion


def test_ignored_class_is_not_a_class_with_an_iou_of_0() -> None:
    summary = background_is_ignored().summary()
    assert summary["mIoU"] == summary["mAcc"] == pytest.approx(13 / 17)  # 76.47, not 38.24
    assert summary["mDice"] == pytest.approx(26 / 30)
    assert math.isnan(summary["iou"][0])


def test_tables_and_records_have_no_value_for_the_ignored_class() -> None:
    confusion = background_is_ignored()
    scores = validation_scores(confusion, ["background", "thing"])
    assert scores.class_iou == (None, pytest.approx(13 / 17, abs=1e-6))
    assert scores.miou == pytest.approx(13 / 17)
    assert csv_rows(confusion.summary(), ["background", "thing"])[1:4] == [
        ["background", "nan", "nan"],
        ["thing", "76.47", "76.47"],
        ["mean", "76.47", "76.47"],
    ]
    assert "76.47" in format_table(confusion.summary(), ["background", "thing"])


def judge(scores: ValidationScores) -> str | None:
    """Return the kind of verdict after 30 of 100 epochs with these scores."""
    config = ExperimentConfig().override({"schedule.epochs": 100, "schedule.val_every": 1})
    monitor = HealthMonitor(config)
    verdict = None
    for epoch in range(1, 100):
        record = EpochRecord(epoch, step=200 * epoch, validation=scores)
        verdict = verdict or monitor.validation(record)
    return verdict.kind if verdict else None


def test_model_that_predicts_the_only_counted_class_is_not_collapsed() -> None:
    confusion = ConfusionMatrix(2, ignore_index=0)
    confusion.update(torch.ones(9, dtype=torch.int64), torch.tensor([1] * 8 + [0]))
    assert confusion.constant_miou() == 1.0
    assert judge(validation_scores(confusion, ["background", "thing"])) is None


def test_model_that_predicts_one_of_two_counted_classes_is_collapsed() -> None:
    confusion = ConfusionMatrix(3, ignore_index=0)
    confusion.update(torch.ones(9, dtype=torch.int64), torch.tensor([1] * 6 + [2] * 2 + [0]))
    assert confusion.constant_miou() == pytest.approx(confusion.summary()["mIoU"])
    assert judge(validation_scores(confusion, ["background", "thing", "other"])) == "collapsed"


def test_evaluate_says_that_the_ignored_class_does_not_count(
    tiny_config: ExperimentConfig,
    make_data_set: Callable[..., DataConfig],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mask = np.repeat([0, 1, 1, 1], 16).astype(np.uint8)[:, None].repeat(64, 1)
    names = [f"{kind}/{split}/0.png" for kind in ("images", "masks") for split in ("train", "val")]
    write = {name: lambda path: cv2.imwrite(str(path), mask) for name in names}
    data = make_data_set(write, ignore_index=0)
    changes = {f"data.{name}": getattr(data, name) for name in ("layout", "root", "ignore_index")}
    changes |= {"data.classes": ["background", "thing"], "schedule.batch_size": 1}
    config = tiny_config.override({**changes, "schedule.epochs": 1})
    trainer = Trainer.start(config, TrialDir(tmp_path / "run"), Ranks())
    (record,) = trainer.epochs()
    assert record.validation
    assert record.validation.class_iou[0] is None
    assert evaluate.main(["--checkpoint", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert "data.ignore_index: 0 is class 'background', which is not trained" in printed
    assert f"{100 * record.validation.miou:.2f}" in printed
