"""Reading of mask files, the translation of their values to training labels, and label colours."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from segtune.config.data_config import DataConfig
from segtune.data.image_files import open_image, turn_upright
from segtune.errors import DataError

# Pillow's modes for one channel: palette, grey, black and white, 16 bits, 32 bits.
MASK_MODES = ("P", "L", "1", "I;16", "I")


def read_mask(path: str | Path, config: DataConfig, num_classes: int) -> np.ndarray:
    """Return the labels of a mask file as uint8 [H, W], in 0..num_classes-1 or ignore_index.

    Raises DataError if the file has more than one channel, or labels outside the classes.
    """
    stored = open_image(path, config.max_megapixels)
    image = stored.image
    if image.mode not in MASK_MODES:
        raise DataError(
            f"{path}: a mask must have one channel of labels (palette or grey PNG), this one is "
            f"{image.mode}; convert its colours to labels"
        )
    values = turn_upright(np.asarray(image), stored.orientation)
    label_of_value = _to_labels(np.arange(256), config)
    invalid = _is_invalid(label_of_value, config, num_classes).astype(np.uint8)
    if values.dtype != np.uint8 or cv2.countNonZero(cv2.LUT(values, invalid)):
        _check_labels(path, values, config, num_classes)
    # One table look-up translates all values. They are below 256: larger ones are invalid labels.
    return cv2.LUT(values.astype(np.uint8), label_of_value.astype(np.uint8))


def _check_labels(
    path: str | Path, values: np.ndarray, config: DataConfig, num_classes: int
) -> None:
    labels = _to_labels(np.unique(values).astype(np.int64), config)
    invalid = np.unique(labels[_is_invalid(labels, config, num_classes)])
    if invalid.size:
        raise DataError(
            f"{path}: labels {invalid[:5].tolist()} are outside the {num_classes} classes "
            f"(0..{num_classes - 1}, {config.ignore_index} = ignore); "
            "check data.classes, data.ignore_index and data.reduce_zero_label"
        )


def _is_invalid(labels: np.ndarray, config: DataConfig, num_classes: int) -> np.ndarray:
    return (labels >= num_classes) & (labels != config.ignore_index) | (labels < 0)


def _to_labels(values: np.ndarray, config: DataConfig) -> np.ndarray:
    """Return the training labels of the values in a mask file."""
    reduce_zero = config.reduce_zero_label
    if reduce_zero is None:
        reduce_zero = config.layout == "ade20k"
    if not reduce_zero:
        return values
    return np.where((values == 0) | (values == 255), config.ignore_index, values - 1)


def palette(num_classes: int) -> np.ndarray:
    """Return uint8 [256, 3]: PASCAL VOC's colour of each label, black from `num_classes` on."""
    colours = np.zeros((256, 3), np.uint8)
    for label in range(min(num_classes, 256)):
        for bit in range(8):
            for channel in range(3):
                colours[label, channel] |= ((label >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours
