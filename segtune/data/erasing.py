"""RandomErasing: one rectangle of a crop is filled. Source: Zhong et al. 2020."""

from __future__ import annotations

import math

import numpy as np

from segtune.config.augment_config import EraseConfig
from segtune.data.photometric import MEAN_COLOUR

# Draws of a rectangle until one fits into the crop, as in torchvision.
TRIES = 10


def erased(
    image: np.ndarray,
    mask: np.ndarray,
    erase: EraseConfig,
    ignore_index: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Return image uint8 [h, w, 3] and mask [h, w], with probability `erase.prob` partly erased.

    The arguments are not changed.
    """
    if rng.random() >= erase.prob:
        return image, mask
    rectangle = _draw_rectangle(mask.shape[0], mask.shape[1], erase, rng)
    if rectangle is None:
        return image, mask
    image = image.copy()
    if erase.fill == "mean":
        image[rectangle] = MEAN_COLOUR
    else:
        image[rectangle] = rng.integers(0, 256, image[rectangle].shape, np.uint8)
    if erase.labels == "ignore":
        mask = mask.copy()
        mask[rectangle] = ignore_index
    return image, mask


def _draw_rectangle(
    height: int, width: int, erase: EraseConfig, rng: np.random.Generator
) -> tuple[slice, slice] | None:
    """Return the rows and columns of a rectangle; None if none of TRIES rectangles fits."""
    for _ in range(TRIES):
        area = rng.uniform(*erase.area) * height * width
        # The paper draws the aspect uniformly, so that tall rectangles are more frequent than wide
        # ones. On the logarithmic scale, as in torchvision and timm, both are equally frequent.
        aspect = math.exp(rng.uniform(math.log(erase.aspect[0]), math.log(erase.aspect[1])))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 1 <= h <= height and 1 <= w <= width:
            top = int(rng.integers(0, height - h + 1))
            left = int(rng.integers(0, width - w + 1))
            return slice(top, top + h), slice(left, left + w)
    return None
