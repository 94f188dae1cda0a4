"""Balanced class weights: median frequency, from all training masks, recorded in the config."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtune.config.data_config import DataConfig
from segtune.config.loss_config import LossConfig
from segtune.config.schema import ExperimentConfig, load_config
from segtune.data.class_weights import (
    ClassPixels,
    count_class_pixels,
    median_frequency_weights,
    with_class_weights,
)
from segtune.data.layouts import open_split
from segtune.errors import ConfigError
from segtune.losses.segmentation import build_loss
from segtune.runs.rundir import TrialDir
from segtune.training.distributed import Ranks
from segtune.training.trainer import Trainer

IGNORE = 255
CLASSES = ["road", "car", "sign", "boat"]
# Of the 16 pixels, class 0 has 12 and class 1 has 4; then 8, 4 and 1, and 3 are ignored.
FIRST = [0] * 12 + [1] * 4
SECOND = [0] * 8 + [1] * 4 + [2] + [IGNORE] * 3


@pytest.fixture
def config(tmp_path: Path) -> ExperimentConfig:
    """Two training masks of 4 x 4 pixels, with balanced class weights."""
    write_masks(tmp_path / "data", "train", [FIRST, SECOND])
    write_masks(tmp_path / "data", "val", [FIRST])
    data = {"layout": "folder", "root": str(tmp_path / "data"), "classes": CLASSES, "cache": "none"}
    return ExperimentConfig.parse({"data": data, "loss": {"class_weights": "balanced"}})


def write_masks(root: Path, split: str, masks: Sequence[Sequence[int]]) -> None:
    for number, mask in enumerate(masks):
        for folder in ("images", "masks"):
            (root / folder / split).mkdir(parents=True, exist_ok=True)
        labels = np.array(mask, np.uint8).reshape(4, 4)
        Image.fromarray(labels).save(root / "masks" / split / f"{number}.png")
        Image.new("RGB", (4, 4)).save(root / "images" / split / f"{number}.png")


def counts_of(data: DataConfig) -> ClassPixels:
    return count_class_pixels(open_split(data, "train"), data, len(CLASSES))


def test_pixels_are_counted_with_the_valid_ones_of_the_images_of_a_class(
    config: ExperimentConfig,
) -> None:
    counts = counts_of(config.data)
    assert counts.pixels.tolist() == [20, 8, 1, 0]
    assert counts.around.tolist() == [16 + 13, 16 + 13, 13, 0]


def test_a_class_that_is_ignored_does_not_count(config: ExperimentConfig) -> None:
    counts = counts_of(config.data.override({"ignore_index": 0, "label_map": {255: 3}}))
    assert counts.pixels.tolist() == [0, 8, 1, 3]
    assert counts.around.tolist() == [0, 4 + 8, 8, 8]


def test_a_weight_is_the_median_frequency_by_that_of_the_class(config: ExperimentConfig) -> None:
    weights = with_class_weights(config).loss.class_weights
    frequencies = [20 / 29, 8 / 29, 1 / 13]
    expected = [8 / 29 / frequency for frequency in frequencies]
    assert weights == pytest.approx([*expected, 1.0], rel=1e-5)
    assert weights == (0.4, 1.0, 3.58621, 1.0)


def test_without_a_valid_pixel_all_weights_are_1() -> None:
    nothing = ClassPixels(np.zeros(3, np.int64), np.zeros(3, np.int64))
    assert median_frequency_weights(nothing) == [1.0, 1.0, 1.0]


def test_weights_do_not_depend_on_the_number_of_images_in_use(config: ExperimentConfig) -> None:
    one = config.override({"data.num_images": 1})
    assert with_class_weights(one).loss == with_class_weights(config).loss


def test_weights_of_a_class_that_never_occurs_are_reported(
    config: ExperimentConfig, caplog: pytest.LogCaptureFixture
) -> None:
    with_class_weights(config, is_quiet=True)
    assert not caplog.messages
    with_class_weights(config)
    assert "has class 'boat': its weight is 1" in caplog.messages[-1]


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 3.0, 0.0]])
def test_other_weights_stay_and_no_mask_is_read(
    config: ExperimentConfig, tmp_path: Path, weights: list[float] | None
) -> None:
    plain = config.override({"loss.class_weights": weights, "data.root": str(tmp_path / "none")})
    assert with_class_weights(plain) is plain


def test_a_loss_without_numbers_is_refused() -> None:
    with pytest.raises(ConfigError, match="'balanced' is computed from the training masks"):
        build_loss(LossConfig(class_weights="balanced"), 4)


def test_a_training_run_records_the_weights_and_can_be_resumed(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    config = tiny_config.override({"loss.class_weights": "balanced", "schedule.epochs": 1})
    out = TrialDir(tmp_path / "run")
    trainer = Trainer.start(config, out, Ranks.join())
    (record,) = trainer.epochs()
    recorded = load_config(out.config)
    assert recorded == with_class_weights(config)
    assert trainer.loss.class_weights.tolist() == pytest.approx(recorded.loss.class_weights)
    Trainer.resume(config, out, Ranks.join())
    repeated = Trainer.start(recorded, TrialDir(tmp_path / "again"), Ranks.join())
    (again,) = repeated.epochs()
    assert again.losses == record.losses
