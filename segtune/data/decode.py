"""An image file together with its mask file: their pixels, their size, and their orientation."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from segtune.config.data_config import DataConfig
from segtune.data.image_files import SWAPS_SIDES, open_header, turn_upright
from segtune.data.images import read_as_stored
from segtune.data.masks import read_mask
from segtune.data.pairs import Pair
from segtune.data.refused import RefusedPair


class DecodedPair(NamedTuple):
    """A decoded pair."""

    image: np.ndarray  # uint8 [H, W, 3]
    labels: np.ndarray  # [H, W]; see `read_mask`
    is_as_stored: bool  # not turned upright: only the stored image fits the mask


class PairSize(NamedTuple):
    """The size of a pair, from the headers of its files."""

    width: int
    height: int
    is_as_stored: bool  # as in DecodedPair


def decode_pair(pair: Pair, config: DataConfig, num_classes: int) -> DecodedPair:
    """Read the image and the mask of a pair.

    The image is upright. If only the stored image has the size of the mask, it stays as stored.
    Raises DataError that names the file if one of the two cannot be read or their sizes differ.
    """
    return decode_oriented(pair, config, num_classes)[0]


def decode_oriented(pair: Pair, config: DataConfig, num_classes: int) -> tuple[DecodedPair, int]:
    """Return what `decode_pair` returns, and the EXIF orientation of the image file, 1 to 8."""
    stored, orientation = read_as_stored(pair.image, config)
    image = turn_upright(stored, orientation)
    labels = read_mask(pair.mask, config, num_classes)
    if image.shape[:2] == labels.shape:
        return DecodedPair(image, labels, is_as_stored=False), orientation
    if orientation in SWAPS_SIDES and stored.shape[:2] == labels.shape:
        return DecodedPair(stored, labels, is_as_stored=True), orientation
    raise RefusedPair(_sizes_differ(pair, image, labels, orientation), "size")


def _sizes_differ(pair: Pair, image: np.ndarray, labels: np.ndarray, orientation: int) -> str:
    height, width = labels.shape
    turned = ""
    if orientation != 1:
        turned = f" after it is turned upright (its EXIF orientation is {orientation})"
    hint = ""
    if image.shape[:2] == (width, height):
        hint = ": the sides are swapped, so turn or transpose the mask"
    elif image.shape[0] * width == image.shape[1] * height:
        hint = f": resize the mask to {image.shape[1]}x{image.shape[0]} without interpolation"
        hint += " (nearest neighbour)"
    return (
        f"{pair.mask}: is {width}x{height} pixels, but {pair.image} is "
        f"{image.shape[1]}x{image.shape[0]}{turned}; sizes must agree{hint}"
    )


def pair_size(pair: Pair, config: DataConfig) -> PairSize:
    """Return the size that `decode_pair` gives; opens the headers of the files only.

    Raises DataError if one of them cannot be opened.
    """
    header = open_header(pair.image, config.max_megapixels)
    upright, stored = header.upright_size, header.stored_size
    if upright != stored:
        mask_size = open_header(pair.mask, config.max_megapixels).upright_size
        if mask_size == stored:
            return PairSize(*stored, is_as_stored=True)
    return PairSize(*upright, is_as_stored=False)


def as_stored_note(split: str, first: str, count: int | None = None) -> str:
    """Return a sentence about the images of a split that are used as stored.

    `first` is one of them. `count` is None if others may follow.
    """
    images = "some images are" if count is None else f"{count} images are"
    return (
        f"data.{split}: {'1 image is' if count == 1 else images} used as stored, without the "
        f"EXIF orientation, because only then the size is that of the mask; the first is {first}"
    )
