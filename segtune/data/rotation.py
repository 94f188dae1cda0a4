"""Random rotation of a crop about its centre, with the meaning of mmsegmentation's RandomRotate."""

from __future__ import annotations

import cv2
import numpy as np

from segtune.config.augment_config import RotateConfig
from segtune.data.photometric import MEAN_COLOUR


def draw_angle(rotate: RotateConfig, rng: np.random.Generator) -> float:
    """Return a random angle in degrees, 0 if the crop is not rotated."""
    if rng.random() >= rotate.prob:
        return 0.0
    return float(rng.uniform(*rotate.degree))


def rotated(
    image: np.ndarray, mask: np.ndarray, angle: float, ignore_index: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return image uint8 [h, w, 3] and mask [h, w], turned clockwise by `angle` degrees.

    They keep their size. Colours are interpolated, labels are those of the nearest pixel. Pixels
    from outside get the mean colour and `ignore_index`.
    """
    if not angle:
        return image, mask
    height, width = mask.shape
    centre = ((width - 1) / 2, (height - 1) / 2)
    matrix = cv2.getRotationMatrix2D(centre, -angle, 1.0)
    size = (width, height)
    turned = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderValue=MEAN_COLOUR)
    labels = cv2.warpAffine(
        mask, matrix, size, flags=cv2.INTER_NEAREST, borderValue=(ignore_index,)
    )
    return turned, labels
