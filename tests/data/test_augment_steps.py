"""Rotation, erasing and discrete scales: values by hand, and the settings that switch them on."""

from collections.abc import Mapping

import numpy as np
import pytest

from segtune.config.augment_config import AugmentConfig, EraseConfig, RotateConfig
from segtune.config.data_config import DataConfig
from segtune.data.augment import Augmentation, padded
from segtune.data.erasing import erased
from segtune.data.photometric import MEAN_COLOUR
from segtune.data.rotation import draw_angle, rotated

# Every pixel has a label and a colour of its own.
LABELS = np.arange(64, dtype=np.uint8).reshape(8, 8)
IMAGE = np.stack([LABELS, LABELS + 100, 255 - LABELS], -1)
PLAIN = {"ratio": [1.0, 1.0], "cat_max_ratio": 1.0, "flip": 0.0, "photometric": False}


def augmentation(changes: Mapping[str, object]) -> Augmentation:
    """An augmentation of 64 x 64 images that keeps them as they are, with `changes`."""
    return Augmentation(
        DataConfig.parse({"resize": [64, 64], "crop": [64, 64]}),
        AugmentConfig.parse({**PLAIN, **changes}),
    )


def test_a_rotation_by_90_degrees_turns_image_and_mask_clockwise() -> None:
    image, labels = rotated(IMAGE, LABELS, 90.0, 255)
    assert np.array_equal(labels, np.rot90(LABELS, -1))
    assert np.array_equal(image, np.rot90(IMAGE, -1))


def test_a_rotation_by_0_degrees_changes_nothing() -> None:
    image, labels = rotated(IMAGE, LABELS, 0.0, 255)
    assert image is IMAGE
    assert labels is LABELS


@pytest.mark.parametrize(("dtype", "ignore_index"), [(np.uint8, 255), (np.uint16, 65535)])
def test_corners_of_a_rotation_have_mean_colour_and_ignore_index(
    dtype: type, ignore_index: int
) -> None:
    image, labels = rotated(
        np.full((40, 40, 3), 200, np.uint8), np.full((40, 40), 7, dtype), 45.0, ignore_index
    )
    assert labels.dtype == dtype
    # A square that is turned by 45 degrees leaves four triangles: 4 * (1 - 1 / sqrt 2) ** 2 / 2 of
    # the area for each pair of corners, so 17 % in all.
    assert (labels == ignore_index).mean() == pytest.approx(0.1716, abs=0.02)
    assert set(np.unique(labels)) == {7, ignore_index}
    for corner in ((0, 0), (0, 39), (39, 0), (39, 39)):
        assert labels[corner] == ignore_index
        assert image[corner].tolist() == list(MEAN_COLOUR)
    assert image[20, 20].tolist() == [200, 200, 200]


def test_angles_are_uniform_and_as_frequent_as_the_probability_says() -> None:
    rotate = RotateConfig.parse({"prob": 0.25, "degree": [-20.0, 10.0]})
    rng = np.random.default_rng(0)
    angles = np.array([draw_angle(rotate, rng) for _ in range(4000)])
    turned = angles[angles != 0]
    assert len(turned) / len(angles) == pytest.approx(0.25, abs=0.03)
    assert -20 <= turned.min() < -19
    assert 9 < turned.max() <= 10
    assert turned.mean() == pytest.approx(-5, abs=1)


def test_an_erased_rectangle_has_mean_colour_and_ignored_labels() -> None:
    erase = EraseConfig.parse({"prob": 1.0, "area": [0.25, 0.25], "aspect": [1.0, 1.0]})
    image, labels = erased(IMAGE, LABELS, erase, 255, np.random.default_rng(0))
    rows, columns = np.nonzero(labels == 255)
    # A quarter of 8 x 8 pixels at aspect 1 is a square of 4 x 4.
    assert len(rows) == 16
    assert np.ptp(rows) == np.ptp(columns) == 3
    assert (image[rows, columns] == MEAN_COLOUR).all()
    kept = labels != 255
    assert np.array_equal(labels[kept], LABELS[kept])
    assert np.array_equal(image[kept], IMAGE[kept])
    assert LABELS.max() == 63  # the arguments stay as they are


def test_erased_labels_stay_if_the_config_says_so() -> None:
    erase = EraseConfig.parse({"prob": 1.0, "labels": "keep"})
    image, labels = erased(IMAGE, LABELS, erase, 255, np.random.default_rng(0))
    assert np.array_equal(labels, LABELS)
    assert not np.array_equal(image, IMAGE)


def test_random_fill_has_a_colour_for_each_pixel() -> None:
    erase = EraseConfig.parse({"prob": 1.0, "area": [1.0, 1.0], "aspect": [1, 1], "fill": "random"})
    image, labels = erased(
        np.zeros((64, 64, 3), np.uint8),
        np.zeros((64, 64), np.uint8),
        erase,
        255,
        np.random.default_rng(0),
    )
    assert (labels == 255).all()
    assert image.mean() == pytest.approx(127.5, abs=3)
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 4000


def test_erased_rectangles_have_the_area_and_the_aspect_of_the_config() -> None:
    erase = EraseConfig.parse({"prob": 1.0, "area": [0.05, 0.2], "aspect": [0.5, 2.0]})
    mask = np.zeros((200, 100), np.uint8)
    image = np.zeros((200, 100, 3), np.uint8)
    areas, aspects = [], []
    for seed in range(300):
        _, labels = erased(image, mask, erase, 255, np.random.default_rng(seed))
        rows, columns = np.nonzero(labels)
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert len(rows) == height * width
        areas.append(len(rows) / mask.size)
        aspects.append(height / width)
    assert 0.045 < min(areas) < 0.06
    assert 0.19 < max(areas) < 0.21
    # As many tall rectangles as wide ones.
    assert np.mean(np.array(aspects) > 1) == pytest.approx(0.5, abs=0.1)
    assert min(aspects) > 0.45
    assert max(aspects) < 2.2


def test_a_rectangle_that_never_fits_leaves_the_crop_as_it_is() -> None:
    erase = EraseConfig.parse({"prob": 1.0, "area": [1.0, 1.0], "aspect": [4.0, 4.0]})
    image, labels = erased(IMAGE, LABELS, erase, 255, np.random.default_rng(0))
    assert image is IMAGE
    assert labels is LABELS


def test_scales_are_chosen_from_the_list_and_from_nothing_else() -> None:
    # A crop that holds the whole image shows its size: the rest is padding.
    crop = Augmentation(
        DataConfig.parse({"resize": [32, 32], "crop": [64, 64]}),
        AugmentConfig.parse({**PLAIN, "ratio": [0.5, 2.0], "scales": [0.5, 1.0, 2.0]}),
    )
    image, mask = np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), np.uint8)
    sides = []
    for seed in range(300):
        _, labels = crop(image, mask, np.random.default_rng(seed))
        sides.append(int((labels[:, 0] == 0).sum()))
    assert set(sides) == {16, 32, 64}
    assert all(sides.count(side) > 70 for side in (16, 32, 64))


def test_the_augmentation_rotates_and_erases_if_their_probability_is_set() -> None:
    image = np.full((64, 64, 3), 200, np.uint8)
    mask = np.ones((64, 64), np.uint8)
    for step in ({"rotate": {"prob": 1.0}}, {"erase": {"prob": 1.0}}):
        _, labels = augmentation(step)(image, mask, np.random.default_rng(0))
        assert 0 < (labels == 255).mean() < 0.5
        assert set(np.unique(labels)) == {1, 255}
    _, labels = augmentation({})(image, mask, np.random.default_rng(0))
    assert (labels == 1).all()


def test_padding_is_on_the_right_and_at_the_bottom() -> None:
    data = DataConfig.parse({"resize": [64, 64], "crop": [32, 48]})
    image, labels = padded(IMAGE, LABELS, data)
    assert image.shape == (32, 48, 3)
    assert np.array_equal(image[:8, :8], IMAGE)
    assert np.array_equal(labels[:8, :8], LABELS)
    assert (labels[8:] == 255).all()
    assert (labels[:, 8:] == 255).all()
    assert image[31, 47].tolist() == list(MEAN_COLOUR)
