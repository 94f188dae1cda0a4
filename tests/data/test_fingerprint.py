"""Copies of an image have nearly its fingerprint; other images of the same kind have not."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from segtune.data.fingerprint import MAX_BITS, fingerprint, near_pairs


def photo(seed: int) -> np.ndarray:
    """Return an image of smooth blobs with a little noise, uint8 [240, 320, 3]."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (12, 16, 3)).astype(np.uint8)
    smooth = cv2.resize(coarse, (320, 240), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)


def compressed(image: np.ndarray, quality: int) -> np.ndarray:
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))


COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "compressed": lambda image: compressed(image, 30),
    "half": lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "squeezed": lambda image: compressed(cv2.resize(image, (224, 224)), 75),
    "brighter": lambda image: np.clip(image * 1.2, 0, 255).astype(np.uint8),
}


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_is_near_its_image_and_to_no_other(name: str) -> None:
    images = [photo(seed) for seed in range(12)]
    copies = [COPIES[name](image) for image in images[:4]]
    pairs = near_pairs([fingerprint(copy) for copy in copies], [*map(fingerprint, images)])
    assert [(pair.first, pair.second) for pair in pairs] == [(i, i) for i in range(4)]
    assert all(pair.bits <= MAX_BITS / 2 and not pair.is_mirrored for pair in pairs)


def test_a_mirrored_copy_is_near_and_said_to_be_mirrored() -> None:
    images = [*map(fingerprint, (photo(1), photo(2)))]
    (pair,) = near_pairs([fingerprint(photo(2)[:, ::-1])], images)
    assert (pair.second, pair.is_mirrored) == (1, True)


def test_black_images_with_one_object_are_near_only_if_it_is_the_same() -> None:
    def with_disc(x: int) -> np.ndarray:
        return cv2.circle(np.zeros((240, 320, 3), np.uint8), (x, 120), 20, (200, 200, 200), -1)

    discs = [fingerprint(with_disc(x)) for x in (60, 120, 200)]
    assert near_pairs(discs[:1], discs[1:]) == []
    assert [pair.second for pair in near_pairs(discs[:1], discs)] == [0]


def test_images_of_one_grey_level_are_near_none() -> None:
    blank = fingerprint(np.full((40, 40, 3), 7, np.uint8))
    assert near_pairs([blank], [blank]) == []
    assert near_pairs([], [blank]) == []
