"""Labels above 255 reach the loss and the confusion matrix exactly, or are refused at once."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from segtune.config.data_config import DataConfig
from segtune.config.schema import AugmentConfig, ExperimentConfig
from segtune.data.augment import Augmentation
from segtune.data.label_colours import voc_colours
from segtune.data.loader import TrainLoader, ValLoader
from segtune.data.masks import read_mask
from segtune.errors import ConfigError
from segtune.losses.segmentation import build_loss
from segtune.metrics import ConfusionMatrix

NUM_CLASSES = 300
CLASSES = [f"class {label}" for label in range(NUM_CLASSES)]


def write_mask(path: Path, labels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), labels)
    return path


def stripes() -> np.ndarray:
    """Return labels 43, 255, 299 and 65535 (ignored) in columns, uint16 [64, 64]."""
    return np.repeat(np.array([43, 255, 299, 65535], np.uint16), 16)[None].repeat(64, 0)


@pytest.fixture
def experiment(tmp_path: Path) -> ExperimentConfig:
    for split in ("train", "val"):
        write_mask(tmp_path / "masks" / split / "a.png", stripes())
        write_mask(tmp_path / "images" / split / "a.png", np.full((64, 64, 3), 90, np.uint8))
    data = {
        "layout": "folder",
        "root": str(tmp_path),
        "classes": CLASSES,
        "ignore_index": 65535,
        "crop": [96, 96],
        "resize": [64, 64],
        "cache": "none",
        "num_loaders": 0,
    }
    return ExperimentConfig.parse({"data": data, "schedule": {"batch_size": 1}})


def test_labels_are_uint16_only_if_they_need_it(tmp_path: Path) -> None:
    path = write_mask(tmp_path / "x.png", np.array([[0, 1, 255]], np.uint8))
    small = DataConfig.parse({"classes": ["bg", "fg"]})
    assert read_mask(path, small, 2).dtype == np.uint8
    wide = DataConfig.parse({"classes": CLASSES, "ignore_index": 65535})
    labels = read_mask(path, wide, NUM_CLASSES)
    assert labels.dtype == np.uint16
    assert labels.tolist() == [[0, 1, 255]]
    labels = read_mask(path, small.override({"ignore_index": 65535, "label_map": {255: 65535}}), 2)
    assert labels.tolist() == [[0, 1, 65535]]


def test_the_largest_label_is_exact(tmp_path: Path) -> None:
    config = DataConfig.parse({"ignore_index": 65535})
    path = write_mask(tmp_path / "x.png", np.array([[0, 65533, 65535]], np.uint16))
    assert read_mask(path, config, 65534).tolist() == [[0, 65533, 65535]]


def test_label_255_and_the_ignore_index_255_are_refused_before_a_mask_is_read(
    tmp_path: Path, experiment: ExperimentConfig
) -> None:
    absent = tmp_path / "absent.png"
    config = experiment.override({"data.ignore_index": 255})
    for read in (
        lambda: read_mask(absent, config.data, NUM_CLASSES),
        lambda: TrainLoader(config, 0, 1),
        lambda: ValLoader(config, 0, 1),
    ):
        with pytest.raises(ConfigError, match=r"255 is also the label .*data\.ignore_index=65535"):
            read()
    with pytest.raises(ConfigError, match=r"data\.classes: 65535 classes; at most 65534"):
        read_mask(absent, config.data, 65535)


def test_batches_have_the_labels_of_the_files(experiment: ExperimentConfig) -> None:
    (val,) = list(ValLoader(experiment, 0, 1))
    assert val.masks.dtype == torch.int32
    assert val.masks[0].tolist() == stripes().tolist()
    (train,) = list(TrainLoader(experiment, 0, 1).epoch(1))
    labels = set(train.masks.unique().tolist())
    assert labels <= {43, 255, 299, 65535}
    assert labels & {43, 255, 299}
    assert train.masks.shape == (1, 96, 96)


def test_cat_max_ratio_counts_labels_above_255() -> None:
    data = DataConfig.parse({"crop": [32, 32], "resize": [64, 64], "ignore_index": 65535})
    augment = AugmentConfig.parse({"cat_max_ratio": 0.75, "ratio": [1.0, 1.0], "flip": 0.0})
    mask = np.full((64, 64), 299, np.uint16)
    mask[:, :20] = 555  # crops that begin right of column 20 have one class only
    image = np.zeros((64, 64, 3), np.uint8)
    crops = [
        Augmentation(data, augment)(image, mask, np.random.default_rng(seed))[1]
        for seed in range(20)
    ]
    assert all(set(np.unique(crop)) == {299, 555} for crop in crops)


def test_holes_and_padding_have_the_large_ignore_index() -> None:
    data = DataConfig.parse({"crop": [96, 96], "resize": [64, 64], "ignore_index": 65535})
    cutout = {"prob": 1.0, "holes": [2, 2], "size": [0.1, 0.2]}
    augment = AugmentConfig.parse({"cutout": cutout, "ratio": [1.0, 1.0], "flip": 0.0})
    mask = np.full((64, 64), 299, np.uint16)
    image = np.zeros((64, 64, 3), np.uint8)
    _, crop = Augmentation(data, augment)(image, mask, np.random.default_rng(0))
    assert crop.dtype == np.uint16
    assert set(np.unique(crop)) == {299, 65535}
    assert (crop[64:] == 65535).all()
    assert (crop[:, 64:] == 65535).all()
    assert (crop[:64, :64] == 65535).any()


def test_the_loss_and_the_matrix_take_labels_above_255(experiment: ExperimentConfig) -> None:
    target = torch.tensor([[[43, 299], [255, 65535]]])
    logits = torch.zeros(1, NUM_CLASSES, 2, 2)
    logits[0, 299, 0, 1] = logits[0, 43, 0, 0] = logits[0, 255, 1, 0] = 50.0
    weights = {"ce.weight": 1.0, "dice.weight": 0.0, "focal.weight": 0.0}
    loss = build_loss(experiment.loss.override(weights), NUM_CLASSES, 65535)(logits, target)
    assert float(loss["total"]) < 1e-3
    matrix = ConfusionMatrix(NUM_CLASSES, 65535)
    matrix.update(logits.argmax(1), target)
    assert int(matrix.matrix.sum()) == 3
    assert [int(matrix.matrix[label, label]) for label in (43, 255, 299)] == [1, 1, 1]
    assert matrix.summary()["mIoU"] == 1.0


def test_every_label_has_a_colour() -> None:
    colours = voc_colours(NUM_CLASSES)
    assert colours.shape == (NUM_CLASSES, 3)
    assert len(np.unique(colours, axis=0)) == NUM_CLASSES
