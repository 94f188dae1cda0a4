"""Decoding of image and mask files, and the translation of mask values to training labels."""

from __future__ import annotations

import contextlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from segtune.config.schema import DataConfig
from segtune.data.layouts import Pair
from segtune.errors import DataError

JPEG_START = b"\xff\xd8"  # the marker SOI
# Frame headers have the markers 0xC0..0xCF, except these three: DHT, JPG and DAC (ITU-T T.81, B.1).
FRAME_MARKERS = range(0xC0, 0xD0)
NOT_FRAME_MARKERS = (0xC4, 0xC8, 0xCC)
# Pillow's modes for one channel: palette, grey, black and white, 16 bits, 32 bits.
MASK_MODES = ("P", "L", "1", "I;16", "I")


def read_image(path: str | Path) -> np.ndarray:
    """Return an image as uint8 RGB [H, W, 3]. Raises DataError if the file is not an image."""
    image = _read_jpeg(path)
    return np.asarray(_open_image(path).convert("RGB")) if image is None else image


def _read_jpeg(path: str | Path) -> np.ndarray | None:
    """Decode a JPEG with OpenCV; return None if Pillow has to read the file instead.

    OpenCV is a sixth faster than Pillow. Both use the same library, so the pixels are the same.
    """
    with contextlib.suppress(OSError), open(path, "rb") as file:
        data = file.read(2)
        data += file.read() if data == JPEG_START else b""
        # OpenCV and Pillow convert CMYK (four components) to different colours. OpenCV returns
        # None for a truncated file, and Pillow then reports what is wrong with it.
        if len(data) > 2 and _num_components(data) < 4:
            return cv2.imdecode(
                np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
            )
    return None


def _num_components(jpeg: bytes) -> int:
    """Return the number of components of a JPEG: 1 (grey), 3 (colours) or 4 (inks).

    Reads the frame header (ITU-T T.81, B.2.2). Returns 4 if there is none.
    """
    offset = 2
    while jpeg[offset : offset + 1] == b"\xff" and offset + 9 < len(jpeg):
        marker = jpeg[offset + 1]
        if marker in FRAME_MARKERS and marker not in NOT_FRAME_MARKERS:
            return jpeg[offset + 9]
        offset += 2 + int.from_bytes(jpeg[offset + 2 : offset + 4])
    return 4


def read_mask(path: str | Path, config: DataConfig, num_classes: int) -> np.ndarray:
    """Return the labels of a mask file as uint8 [H, W], in 0..num_classes-1 or ignore_index.

    Raises DataError if the file has more than one channel, or labels outside the classes.
    """
    image = _open_image(path)
    if image.mode not in MASK_MODES:
        raise DataError(
            f"{path}: a mask must have one channel of labels (palette or grey PNG), this one is "
            f"{image.mode}; convert its colours to labels"
        )
    values = np.asarray(image)
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


def _open_image(path: str | Path) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
        return image
    except (
        OSError,
        UnidentifiedImageError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ) as error:
        raise DataError(f"{path}: not readable as an image: {error}") from None


def palette(num_classes: int) -> np.ndarray:
    """Return uint8 [256, 3]: PASCAL VOC's colour of each label, black from `num_classes` on."""
    colours = np.zeros((256, 3), np.uint8)
    for label in range(min(num_classes, 256)):
        for bit in range(8):
            for channel in range(3):
                colours[label, channel] |= ((label >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours
