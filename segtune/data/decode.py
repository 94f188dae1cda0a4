"""Images and masks from files: decoding, and labels as training sees them."""

from __future__ import annotations

import contextlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from segtune.config.schema import DataConfig
from segtune.data.layouts import Pair
from segtune.errors import DataError

JPEG_BEGIN = b"\xff\xd8"
NO_FRAMES = (0xC4, 0xC8, 0xCC)  # tables and extensions among the markers of frames


def read_image(path: str | Path) -> np.ndarray:
    """Returns an image as uint8 RGB [H, W, 3]. Raises DataError for a file that is no image."""
    found = _jpeg(path)
    return np.asarray(_open(path).convert("RGB")) if found is None else found


def _jpeg(path: str | Path) -> np.ndarray | None:
    """Returns a whole JPEG, decoded by OpenCV: a sixth faster than Pillow, by the same library and to the same pixels."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        data = file.read(2)
        data += file.read() if data == JPEG_BEGIN else b""
        # Of four inks it makes other colours than Pillow. A file that breaks off gives None, and Pillow says what is wrong with it.
        if len(data) > 2 and _components(data) < 4:
            return cv2.imdecode(
                np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
            )
    return None


def _components(jpeg: bytes) -> int:
    """Returns how many components (grey, colours, inks) a JPEG has: its frame header says (ITU-T T.81, B.2.2)."""
    place = 2
    while jpeg[place : place + 1] == b"\xff" and place + 9 < len(jpeg):
        if 0xC0 <= jpeg[place + 1] <= 0xCF and jpeg[place + 1] not in NO_FRAMES:
            return jpeg[place + 9]
        place += 2 + int.from_bytes(jpeg[place + 2 : place + 4])
    return 4


def read_mask(path: str | Path, config: DataConfig, num_classes: int) -> np.ndarray:
    """Returns labels as uint8 [H, W] in 0..C-1 or ignore_index. Raises DataError for labels outside the classes."""
    image = _open(path)
    if image.mode not in ("P", "L", "1", "I;16", "I"):
        raise DataError(
            f"{path}: a mask must have one channel of labels (palette or grey PNG), this one is {image.mode}; convert its colours to labels"
        )
    found, meaning = np.asarray(image), _labels(np.arange(256), config)
    if found.dtype != np.uint8 or cv2.countNonZero(
        cv2.LUT(found, _is_wrong(meaning, config, num_classes).astype(np.uint8))
    ):
        labels = _labels(np.unique(found).astype(np.int64), config)
        wrong = labels[_is_wrong(labels, config, num_classes)]
        if wrong.size:
            raise DataError(
                f"{path}: labels {np.unique(wrong)[:5].tolist()} are outside the {num_classes} classes (0..{num_classes - 1}, {config.ignore_index} = ignore); "
                "check data.classes, data.ignore_index and data.reduce_zero_label"
            )
    # What the file says becomes what it means in one look-up: all of it is below 256 by now.
    return cv2.LUT(found.astype(np.uint8), meaning.astype(np.uint8))


def _is_wrong(labels: np.ndarray, config: DataConfig, num_classes: int) -> np.ndarray:
    return (labels >= num_classes) & (labels != config.ignore_index) | (labels < 0)


def _labels(found: np.ndarray, config: DataConfig) -> np.ndarray:
    """Returns the labels that values in a mask file stand for."""
    reduce_zero = (
        config.reduce_zero_label
        if config.reduce_zero_label is not None
        else config.layout == "ade20k"
    )
    return (
        np.where((found == 0) | (found == 255), config.ignore_index, found - 1)
        if reduce_zero
        else found
    )


def load_pair(pair: Pair, config: DataConfig, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns image uint8 [H, W, 3] and labels uint8 [H, W]. Raises DataError that names the file."""
    image, mask = read_image(pair.image), read_mask(pair.mask, config, num_classes)
    if image.shape[:2] != mask.shape:
        raise DataError(
            f"{pair.mask}: is {mask.shape[1]}x{mask.shape[0]} pixels, but {pair.image} is {image.shape[1]}x{image.shape[0]}; sizes must agree"
        )
    return image, mask


def _open(path: str | Path) -> Image.Image:
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
    """Returns uint8 [256, 3]: VOC's colours by label, black for everything past the classes."""
    colours = np.zeros((256, 3), np.uint8)
    for label in range(min(num_classes, 256)):
        for bit in range(8):
            for channel in range(3):
                colours[label, channel] |= ((label >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours
