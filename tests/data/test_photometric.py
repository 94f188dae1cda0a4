"""Photometric distortion equals the formula of SSD, and each part is drawn half of the time."""

import cv2
import numpy as np
import pytest

from segtune.data.photometric import PhotometricDistortion


def test_distortion_equals_the_formula() -> None:
    pixel = np.array([[[100, 60, 20]]], np.uint8)
    hsv = cv2.cvtColor(((pixel + 20) * 0.5).astype(np.uint8), cv2.COLOR_RGB2HSV).astype(float)
    hsv[..., 0] = (hsv[..., 0] + 10) % 180
    hsv[..., 1] = (hsv[..., 1] * 1.5).clip(0, 255)
    expected = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)
    distortion = PhotometricDistortion(
        brightness=20.0, contrast=0.5, saturation=1.5, hue=10, contrast_first=True
    )
    assert np.array_equal(distortion.apply(pixel), expected)


def test_contrast_comes_last_if_it_is_not_first() -> None:
    pixel = np.array([[[100, 60, 20]]], np.uint8)
    distortion = PhotometricDistortion(brightness=20.0, contrast=1.5, contrast_first=False)
    assert distortion.apply(pixel).tolist() == [[[180, 120, 60]]]


def test_default_distortion_returns_the_image_itself() -> None:
    pixel = np.array([[[100, 60, 20]]], np.uint8)
    assert PhotometricDistortion().apply(pixel) is pixel


@pytest.mark.parametrize("part", ["brightness", "contrast", "saturation", "hue", "contrast_first"])
def test_each_part_is_drawn_half_of_the_time(part: str) -> None:
    default = getattr(PhotometricDistortion(), part)
    drawn = [PhotometricDistortion.draw(np.random.default_rng(seed)) for seed in range(400)]
    unchanged = np.mean([getattr(distortion, part) == default for distortion in drawn])
    assert 0.4 < unchanged < 0.6


def test_drawn_values_reach_the_ends_of_their_ranges() -> None:
    drawn = [PhotometricDistortion.draw(np.random.default_rng(seed)) for seed in range(400)]
    assert max(abs(distortion.brightness) for distortion in drawn) == pytest.approx(32, abs=1)
    hues = [distortion.hue for distortion in drawn]
    assert (min(hues), max(hues)) == (-17, 17)
