"""Mixing of two training samples of the same size."""

from __future__ import annotations

import numpy as np


def cutmix(
    image: np.ndarray,
    mask: np.ndarray,
    other: tuple[np.ndarray, np.ndarray],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Return image and mask with a rectangle of `other`, an image and mask of the same size.

    The rectangle's share of the area is uniform in 0..1. The arguments are not changed. Source:
    Yun et al. 2019; for dense labels French et al. 2020.
    """
    height, width = mask.shape
    side_share = np.sqrt(rng.uniform())
    h = max(1, int(height * side_share))
    w = max(1, int(width * side_share))
    top = int(rng.integers(0, height - h + 1))
    left = int(rng.integers(0, width - w + 1))
    rectangle = (slice(top, top + h), slice(left, left + w))
    image, mask = image.copy(), mask.copy()
    image[rectangle] = other[0][rectangle]
    mask[rectangle] = other[1][rectangle]
    return image, mask
