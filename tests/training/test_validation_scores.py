"""The scores of a validation that a training run keeps."""

import pytest
import torch

from segtune.metrics import ConfusionMatrix
from segtune.training.evaluation import validation_scores


def test_scores_are_those_of_the_matrix_and_none_for_absent_classes() -> None:
    confusion = ConfusionMatrix(4)
    # Road is labelled twice and found once; sky is labelled once and predicted twice.
    confusion.update(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]))
    scores = validation_scores(confusion, ["road", "sky", "car", "dog"])
    assert scores.miou == 1 / 2
    assert scores.aacc == pytest.approx(2 / 3)
    assert scores.macc == 3 / 4
    assert scores.mdice == pytest.approx(2 / 3)
    assert (scores.top_class, scores.top_share) == ("sky", pytest.approx(2 / 3))
    assert scores.class_iou == (0.5, 0.5, None, None)
    assert scores.constant_miou == pytest.approx(2 / 3 / 2)
