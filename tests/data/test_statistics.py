"""The check of a data set counts pixels per class and lists every problem at once."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from segtune.checks.audit import audit
from segtune.config.data_config import DataConfig


def test_pixels_and_images_are_counted_per_label(voc_config: DataConfig) -> None:
    content = audit(voc_config)
    assert content.problems == []
    assert content.train.num_images == 2
    assert content.train.pixels[[0, 1, 20, 255]].tolist() == [90, 2, 2, 2]  # of 2 x 48
    assert content.train.images[[0, 1, 2, 255]].tolist() == [2, 2, 0, 2]
    assert content.val.num_images == 1
    assert content.val.pixel_share(1) == pytest.approx(1 / 48)


def test_every_problem_is_listed(voc_config: DataConfig, voc_root: Path) -> None:
    masks = voc_root / "SegmentationClass"
    cv2.imwrite(str(masks / "a.png"), np.full((6, 8), 99, np.uint8))
    cv2.imwrite(str(masks / "b.png"), np.full((6, 8), 255, np.uint8))
    content = audit(voc_config)
    assert content.train.num_images == 2
    assert content.train.pixels.sum() == 48
    bad_labels, all_ignored, too_few, untrained = content.problems
    assert bad_labels.startswith(f"{masks}/a.png: labels [99] are outside the 21 classes")
    assert all_ignored == f"{masks}/b.png: every pixel is ignored"
    assert untrained.startswith(
        "3 classes are in the validation images and in no training image: 'background' (label 0), "
        "'aeroplane' (label 1), 'tvmonitor' (label 20); "
    )
    assert too_few.endswith(
        "the value 255 is 100 % of all pixels and is ignored (data.ignore_index); if it is a "
        "class, --set 'data.label_map={255: LABEL}'"
    )
