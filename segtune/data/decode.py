"""An image file together with its mask file: their pixels, their size, and their orientation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segtune.config.data_config import DataConfig
from segtune.data.image_files import SWAPS_SIDES, open_header
from segtune.data.images import read_image
from segtune.data.masks import read_mask
from segtune.data.pairs import Pair
from segtune.errors import DataError


def load_pair(pair: Pair, config: DataConfig, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the image uint8 [H, W, 3] and the labels [H, W] of a pair; see `read_mask`.

    The image is upright, or as it is stored if only so it has the size of the mask. Raises
    DataError that names the file if one of the two cannot be read or their sizes differ.
    """
    image = read_image(pair.image, config)
    labels = read_mask(pair.mask, config, num_classes)
    if image.shape[:2] == labels.shape:
        return image, labels
    height, width = labels.shape
    header = open_header(pair.image, config.max_megapixels)
    if header.orientation in SWAPS_SIDES and header.image.size == (width, height):
        return read_image(pair.image, config, upright=False), labels
    turned = ""
    if header.orientation != 1:
        turned = f" after it is turned upright (its EXIF orientation is {header.orientation})"
    raise DataError(
        f"{pair.mask}: is {width}x{height} pixels, but {pair.image} is "
        f"{image.shape[1]}x{image.shape[0]}{turned}; sizes must agree"
    )


@dataclass(frozen=True)
class PairSize:
    """The size of a pair, from the headers of its files."""

    width: int
    height: int
    is_as_stored: bool  # the mask fits only the image as it is stored, not upright


def pair_size(pair: Pair, config: DataConfig) -> PairSize:
    """Return the size that `load_pair` gives; opens the headers of the files only.

    Raises DataError if one of them cannot be opened.
    """
    header = open_header(pair.image, config.max_megapixels)
    upright, stored = header.upright_size, header.image.size
    if upright != stored:
        mask_size = open_header(pair.mask, config.max_megapixels).upright_size
        if mask_size == stored:
            return PairSize(*stored, is_as_stored=True)
    return PairSize(*upright, is_as_stored=False)
