"""Reading of image files."""

from __future__ import annotations

import contextlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from segtune.errors import DataError

JPEG_START = b"\xff\xd8"  # the marker SOI
# Frame headers have the markers 0xC0..0xCF, except these three: DHT, JPG and DAC (ITU-T T.81, B.1).
FRAME_MARKERS = range(0xC0, 0xD0)
NOT_FRAME_MARKERS = (0xC4, 0xC8, 0xCC)


def read_image(path: str | Path) -> np.ndarray:
    """Return an image as uint8 RGB [H, W, 3]. Raises DataError if the file is not an image."""
    image = _read_jpeg(path)
    return np.asarray(open_image(path).convert("RGB")) if image is None else image


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


def open_image(path: str | Path) -> Image.Image:
    """Open and decode an image file. Raises DataError if Pillow cannot read it."""
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
