"""Mixing of two training samples of the same size: cutmix pastes, mixup blends."""

from __future__ import annotations

import cv2
import numpy as np


def _draw_share(alpha: float, rng: np.random.Generator) -> float:
    """Draw from Beta(alpha, alpha), which is uniform in 0..1 for alpha 1."""
    return rng.uniform() if alpha == 1 else rng.beta(alpha, alpha)


def mixup(
    image: np.ndarray, other: np.ndarray, rng: np.random.Generator, alpha: float = 1.0
) -> tuple[np.ndarray, float]:
    """Return the blend of two images uint8 [h, w, 3], and the share of the first one.

    The share is drawn from Beta(alpha, alpha). Each value is `share * image + (1 - share) * other`,
    rounded to the nearest whole number. The arguments are not changed. Source: Zhang et al. 2018.
    """
    # As float32, because the losses get it so: the blend and its labels have the same share.
    share = float(np.float32(_draw_share(alpha, rng)))
    return blended(image, other, share), share


def blended(image: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """Return `share * image + (1 - share) * other` as uint8, rounded to the nearest number."""
    return cv2.addWeighted(image, share, other, 1 - share, 0.0)


def cutmix(
    image: np.ndarray,
    mask: np.ndarray,
    other: tuple[np.ndarray, np.ndarray],
    rng: np.random.Generator,
    alpha: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return image and mask with a rectangle of `other`, an image and mask of the same size.

    The rectangle's share of the area is drawn from Beta(alpha, alpha). The arguments are not
    changed. Source: Yun et al. 2019; for dense labels French et al. 2020.
    """
    height, width = mask.shape
    side_share = np.sqrt(_draw_share(alpha, rng))
    h = max(1, int(height * side_share))
    w = max(1, int(width * side_share))
    top = int(rng.integers(0, height - h + 1))
    left = int(rng.integers(0, width - w + 1))
    rectangle = (slice(top, top + h), slice(left, left + w))
    image, mask = image.copy(), mask.copy()
    image[rectangle] = other[0][rectangle]
    mask[rectangle] = other[1][rectangle]
    return image, mask
