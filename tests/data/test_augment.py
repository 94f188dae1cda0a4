"""Image and mask are transformed together; crops equal those of the whole resized image."""

import cv2
import numpy as np
import pytest

from segtune.config.augment_config import AugmentConfig
from segtune.config.data_config import DataConfig
from segtune.data.augment import Augmentation
from segtune.data.crop import CropWindow, fit_scale, resize_and_crop, resize_to_fit
from segtune.data.mixing import cutmix
from segtune.data.photometric import PhotometricDistortion

Scene = tuple[np.ndarray, np.ndarray]
NO_DISTORTION = PhotometricDistortion()


def augmentation(crop: tuple[int, int] = (32, 32), **changes: object) -> Augmentation:
    """An augmentation of 64 x 64 images that only crops, with `changes` to its settings."""
    settings = {"ratio": [1.0, 1.0], "cat_max_ratio": 1.0, "flip": 0.0, "photometric": False}
    return Augmentation(
        DataConfig.parse({"resize": [64, 64], "crop": list(crop)}),
        AugmentConfig.parse({**settings, **changes}),
    )


@pytest.fixture
def scene() -> Scene:
    """A smooth image of 64 x 64 pixels with a box of label 1 and an ignored border on the right."""
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 255, (8, 8, 3), np.uint8), (64, 64))
    labels = np.zeros((64, 64), np.uint8)
    labels[20:40, 20:40] = 1
    labels[:, 60:] = 255
    return image, labels


def random_window(
    rng: np.random.Generator, resized: tuple[int, int], largest: int
) -> tuple[CropWindow, tuple[slice, slice]]:
    """A crop of at most `largest` pixels per side, and the slices that cut it out."""
    height, width = (min(largest, size) for size in resized)
    top = int(rng.integers(0, resized[0] - height + 1))
    left = int(rng.integers(0, resized[1] - width + 1))
    slices = slice(top, top + height), slice(left, left + width)
    return CropWindow(top, left, height, width), slices


@pytest.mark.parametrize("seed", range(60))
def test_resizing_only_the_crop_equals_resizing_the_whole_image(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scale = float(rng.choice([0.5, 1.0, 2.0, rng.uniform(0.5, 3.0)]))
    image = cv2.resize(rng.integers(0, 255, (20, 26, 3), np.uint8), (260, 200))
    labels = cv2.resize(
        rng.integers(0, 9, (20, 26), np.uint8), (260, 200), interpolation=cv2.INTER_NEAREST
    )
    resized = (round(200 * scale), round(260 * scale))
    window, slices = random_window(rng, resized, 160)
    crop, crop_labels = resize_and_crop(
        image, labels, window, scale, flip=False, distortion=NO_DISTORTION
    )
    whole = cv2.resize(image, resized[::-1], interpolation=cv2.INTER_LINEAR)
    assert np.abs(crop.astype(int) - whole[slices].astype(int)).max() <= 3
    rows = ((np.arange(resized[0]) + 0.5) * 200 / resized[0]).astype(int)
    columns = ((np.arange(resized[1]) + 0.5) * 260 / resized[1]).astype(int)
    # Not all: a pixel whose centre lies on the border of two source pixels may take either.
    assert (crop_labels == labels[rows][:, columns][slices]).mean() > 0.99


@pytest.mark.parametrize("scale", [0.06, 33.0, 64.0])
@pytest.mark.parametrize("position", [0.0, 0.37, 1.0])
def test_extreme_scales_equal_resizing_the_whole_image(scale: float, position: float) -> None:
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    resized = (round(48 * scale), round(64 * scale))
    height, width = (min(96, size) for size in resized)
    top, left = int(position * (resized[0] - height)), int(position * (resized[1] - width))
    window = CropWindow(top, left, height, width)
    crop, labels = resize_and_crop(
        image, image[..., 0].copy(), window, scale, flip=False, distortion=NO_DISTORTION
    )
    whole = cv2.resize(image, resized[::-1], interpolation=cv2.INTER_LINEAR)
    expected = whole[top : top + height, left : left + width]
    assert crop.shape == expected.shape
    assert labels.shape == expected.shape[:2]
    assert np.abs(crop.astype(int) - expected.astype(int)).mean() < 2


@pytest.mark.parametrize("scale", [1.3, 2.5])
def test_distortion_before_the_resize_equals_distortion_after_it(
    scene: Scene, scale: float
) -> None:
    distortion = PhotometricDistortion(10.0, 1.2, 0.8, 5)
    window = CropWindow(3, 5, 60, 50)
    distorted, _ = resize_and_crop(*scene, window, scale, flip=False, distortion=distortion)
    plain, _ = resize_and_crop(*scene, window, scale, flip=False, distortion=NO_DISTORTION)
    assert np.abs(distorted.astype(int) - distortion.apply(plain)).mean() < 1.5


@pytest.mark.parametrize("scale", [0.9, 1.7])
def test_a_flip_mirrors_the_crop_and_its_labels(scene: Scene, scale: float) -> None:
    window = CropWindow(3, 5, 50, 45)
    flipped = resize_and_crop(*scene, window, scale, flip=True, distortion=NO_DISTORTION)
    plain = resize_and_crop(*scene, window, scale, flip=False, distortion=NO_DISTORTION)
    assert np.array_equal(flipped[0], plain[0][:, ::-1])
    assert np.array_equal(flipped[1], plain[1][:, ::-1])


def test_crop_positions_are_uniform() -> None:
    crop = augmentation((32, 32))
    # The colour of each pixel is its own row and column, so a crop shows where it begins.
    rows, columns = np.mgrid[:64, :64].astype(np.uint8)
    image = np.stack([rows, columns, rows], -1)
    mask = np.zeros((64, 64), np.uint8)
    begins = [crop(image, mask, np.random.default_rng(i))[0][0, 0, :2] for i in range(2000)]
    counts = np.bincount(np.array(begins).ravel())
    assert len(counts) == 64 - 32 + 1
    assert counts.min() > 0.5 * counts.mean()


def test_small_images_are_padded_with_mean_colour_and_ignore(scene: Scene) -> None:
    image, labels = augmentation((96, 80))(*scene, np.random.default_rng(0))
    assert image.shape == (96, 80, 3)
    assert (labels[64:] == 255).all()
    assert (labels[:, 64:] == 255).all()
    assert image[95, 79].tolist() == [124, 116, 104]
    assert np.array_equal(image[:64, :64], scene[0])


def test_crops_of_one_class_are_drawn_again(scene: Scene) -> None:
    monotonous = {}
    for cat_max_ratio in (1.0, 0.75):
        crop = augmentation(cat_max_ratio=cat_max_ratio)
        masks = [crop(*scene, np.random.default_rng(seed))[1] for seed in range(200)]
        monotonous[cat_max_ratio] = np.mean([(mask == 0).mean() > 0.75 for mask in masks])
    assert monotonous[0.75] < 0.5 * monotonous[1.0]


def test_flip_mirrors_image_and_mask_together(scene: Scene) -> None:
    image, labels = augmentation((64, 64), flip=1.0)(*scene, np.random.default_rng(0))
    assert np.array_equal(image, scene[0][:, ::-1])
    assert np.array_equal(labels, scene[1][:, ::-1])


def test_cutout_fills_image_with_mean_and_labels_with_ignore(scene: Scene) -> None:
    cutout = augmentation((64, 64), cutout={"prob": 1.0})
    image, labels = cutout(*scene, np.random.default_rng(0))
    holes = (image == (124, 116, 104)).all(-1)
    assert 0 < holes.mean() < 0.2
    assert (labels[holes] == 255).all()
    assert np.array_equal(labels[~holes], scene[1][~holes])


def test_photometric_distortion_changes_colours_only(scene: Scene) -> None:
    image, labels = augmentation((64, 64), photometric=True)(*scene, np.random.default_rng(1))
    assert np.array_equal(labels, scene[1])
    assert image.shape == scene[0].shape
    assert image.dtype == np.uint8
    assert not np.array_equal(image, scene[0])


def test_cutmix_copies_labels_with_their_pixels() -> None:
    zeros = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)
    ones = np.ones((8, 8, 3), np.uint8), np.ones((8, 8), np.uint8)
    image, labels = cutmix(*zeros, ones, np.random.default_rng(0))
    assert 0 < labels.sum() < 64
    assert np.array_equal(image[..., 0], labels)
    assert zeros[1].sum() == 0


def test_images_fit_the_long_and_the_short_side() -> None:
    assert fit_scale(360, 480, (2048, 512)) == pytest.approx(512 / 360)
    assert fit_scale(100, 1000, (2048, 512)) == pytest.approx(2.048)
    assert resize_to_fit(np.zeros((360, 480, 3), np.uint8), (240, 240)).shape == (180, 240, 3)
