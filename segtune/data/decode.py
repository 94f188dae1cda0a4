"""Decoding of an image file together with its mask file."""

from __future__ import annotations

import numpy as np

from segtune.config.data_config import DataConfig
from segtune.data.images import read_image
from segtune.data.layouts import Pair
from segtune.data.masks import read_mask
from segtune.errors import DataError


def load_pair(pair: Pair, config: DataConfig, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the image uint8 [H, W, 3] and the labels uint8 [H, W] of a pair.

    Raises DataError that names the file if one of the two cannot be read or their sizes differ.
    """
    image = read_image(pair.image)
    labels = read_mask(pair.mask, config, num_classes)
    if image.shape[:2] != labels.shape:
        raise DataError(
            f"{pair.mask}: is {labels.shape[1]}x{labels.shape[0]} pixels, but {pair.image} is "
            f"{image.shape[1]}x{image.shape[0]}; sizes must agree"
        )
    return image, labels
