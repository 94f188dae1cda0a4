"""Reading of image files as RGB: upright, and scaled to 8 bits."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from segtune.config.data_config import DataConfig
from segtune.data.deep_values import read_values, scale_to_8_bits, valid_values
from segtune.data.image_files import (
    INVERSE,
    ImageHeader,
    check_size,
    decode,
    opened,
    orientation_in,
    turn_upright,
)
from segtune.errors import DataError

JPEG_START = b"\xff\xd8"  # the marker SOI
# Frame headers have the markers 0xC0..0xCF, except these three: DHT, JPG and DAC (ITU-T T.81, B.1).
FRAME_MARKERS = range(0xC0, 0xD0)
NOT_FRAME_MARKERS = (0xC4, 0xC8, 0xCC)
APP1 = 0xE1  # the marker of a segment with EXIF
EXIF_START = b"Exif\0\0"


def read_image(path: str | Path, config: DataConfig, *, upright: bool = True) -> np.ndarray:
    """Return an image as uint8 RGB [H, W, 3].

    The image is turned upright by its EXIF orientation, unless `upright` is False. Transparency is
    dropped. Values of more than 8 bits are scaled by `data.value_range`. Raises DataError if the
    file is not an image, is too large, or has more than 8 bits and there is no value range.
    """
    pixels, orientation = read_as_stored(path, config)
    return turn_upright(pixels, orientation) if upright else pixels


def read_as_stored(path: str | Path, config: DataConfig) -> tuple[np.ndarray, int]:
    """Return an image as stored, uint8 RGB [H, W, 3], and its EXIF orientation, 1 to 8.

    Raises DataError as `read_image` does.
    """
    jpeg = _read_jpeg(path, config.max_megapixels)
    if jpeg:
        return jpeg
    with opened(path, config.max_megapixels) as (header, image):
        if image is None or header.is_deep:
            pixels = _from_values(header, read_values(header, image), config)
        else:
            pixels = _to_rgb(header, image)
    # Pillow has turned the pixels of a TIFF already.
    stored = turn_upright(pixels, INVERSE.get(header.turned, header.turned))
    return stored, header.exif_orientation


def _to_rgb(header: ImageHeader, image: Image.Image) -> np.ndarray:
    decode(header, image)
    try:
        # `convert` copies an image that is RGB already, 4 bytes per pixel.
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except ValueError as error:
        raise DataError(
            f"{header.path}: colours of mode {image.mode} cannot be converted to RGB: {error}"
        ) from None


def _from_values(header: ImageHeader, values: np.ndarray, config: DataConfig) -> np.ndarray:
    if values.dtype == np.uint8:
        pixels = values
    elif config.value_range is None:
        raise DataError(_needs_range(header, values))
    else:
        pixels = scale_to_8_bits(values, config.value_range, header.nodata)
        if header.is_inverted:
            pixels = cv2.bitwise_not(pixels)
    return pixels if pixels.ndim == 3 else cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)


def _needs_range(header: ImageHeader, values: np.ndarray) -> str:
    valid = valid_values(values, header.nodata)
    low, high = (valid.min().item(), valid.max().item()) if valid.size else (0, 1)
    kind = ", floats" if values.dtype.kind == "f" else ""
    return (
        f"{header.path}: has {header.bits} bits per channel{kind} (Pillow's mode "
        f"{header.mode or 'none'}), with values from {low} to {high}. The values that become black "
        "and white have to be the same for all images, so set them, for example "
        f"--set 'data.value_range=[{low}, {high if high > low else low + 1}]'"
    )


def _read_jpeg(path: str | Path, max_megapixels: float) -> tuple[np.ndarray, int] | None:
    """Decode a JPEG with OpenCV; return its pixels as stored and its EXIF orientation.

    Returns None if Pillow has to read the file instead. OpenCV is a sixth faster than Pillow. Both
    use the same library, so the pixels are the same.
    """
    if not os.path.isfile(path):  # opening a FIFO would block
        return None
    with contextlib.suppress(OSError), open(path, "rb") as file:
        data = file.read(2)
        data += file.read() if data == JPEG_START else b""
        frame = _frame_header(data)
        # OpenCV and Pillow convert CMYK (four components) to different colours.
        if frame and frame.num_components < 4:
            check_size(path, frame.width, frame.height, max_megapixels)
            pixels = _decode_jpeg(data)
            # OpenCV returns None for a truncated file; Pillow then says what is wrong with it.
            if pixels is not None:
                return pixels, orientation_in(frame.exif) if frame.exif else 1
    return None


def _decode_jpeg(data: bytes) -> np.ndarray | None:
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # more than 2^30 pixels, which Pillow reads
        return None


class _FrameHeader(NamedTuple):
    height: int
    width: int
    num_components: int  # 1 (grey), 3 (colours) or 4 (inks)
    exif: bytes  # empty if there is none


def _frame_header(jpeg: bytes) -> _FrameHeader | None:
    """Return the frame header of a JPEG (ITU-T T.81, B.2.2); None if there is none."""
    offset = 2
    exif = b""
    while jpeg[offset : offset + 1] == b"\xff" and offset + 9 < len(jpeg):
        marker = jpeg[offset + 1]
        if marker in FRAME_MARKERS and marker not in NOT_FRAME_MARKERS:
            height, width = (int.from_bytes(jpeg[offset + i : offset + i + 2]) for i in (5, 7))
            return _FrameHeader(height, width, jpeg[offset + 9], exif)
        end = offset + 2 + int.from_bytes(jpeg[offset + 2 : offset + 4])
        if marker == APP1 and jpeg.startswith(EXIF_START, offset + 4):
            exif += jpeg[offset + 4 : end] if not exif else jpeg[offset + 4 + len(EXIF_START) : end]
        offset = end
    return None
