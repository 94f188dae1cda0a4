"""The values of images with more than 8 bits per channel, and their scaling to 8 bits.

Pillow keeps only the high byte of colours of 16 bits, and does not know floats of three channels.
OpenCV reads these, but not each kind of TIFF exactly. What neither reads exactly is refused.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from segtune.data.image_files import (
    BLACK_IS_ZERO,
    CHANNELS_APART,
    DEEP_MODES,
    PHOTOMETRIC,
    PLANAR,
    RGB,
    SAMPLES_PER_PIXEL,
    WHITE_IS_ZERO,
    ImageHeader,
    decode,
)
from segtune.errors import DataError

# Rows that are scaled at once, so that the floats of a large image do not fill the memory.
BAND_ROWS = 256


def read_values(header: ImageHeader, image: Image.Image | None) -> np.ndarray:
    """Return the values of an opened image, [H, W] or [H, W, 3], exactly as they are stored.

    Pillow's images of TIFF are upright. Raises DataError if the file is damaged, or if neither
    Pillow nor OpenCV reads its values exactly.
    """
    if image is not None and header.mode in DEEP_MODES and not header.is_uint32:
        decode(header, image)
        return np.asarray(image)
    if header.format == "TIFF":
        _check_tiff(header)
    pixels = _read_with_opencv(header)
    num_channels = header.tag(SAMPLES_PER_PIXEL, 0)
    if pixels is None or (num_channels and num_channels != (pixels.size // _area(pixels))):
        raise _refused(header, f"has {header.bits} bits per channel in a form that is not read")
    # Transparency is dropped.
    return np.ascontiguousarray(pixels[:, :, :3]) if pixels.ndim == 3 else pixels


def valid_values(values: np.ndarray, nodata: float | None) -> np.ndarray:
    """Return the values that are finite and not `nodata`, as one dimension."""
    is_valid = np.isfinite(values)
    if nodata is not None:
        is_valid &= values != nodata
    return values[is_valid]


def scale_to_8_bits(
    values: np.ndarray, value_range: tuple[float, float], nodata: float | None = None
) -> np.ndarray:
    """Return values of any shape as uint8: linear from LOW = 0 to HIGH = 255, and clipped.

    NaN and `nodata` become 0.
    """
    if values.dtype == np.uint16:  # a look-up of all values is ten times as fast
        return _scale(np.arange(2**16, dtype=np.uint16), value_range, nodata)[values]
    pixels = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), BAND_ROWS):
        band = slice(start, start + BAND_ROWS)
        pixels[band] = _scale(values[band], value_range, nodata)
    return pixels


def _scale(
    values: np.ndarray, value_range: tuple[float, float], nodata: float | None
) -> np.ndarray:
    low, high = value_range
    scaled = (values.astype(np.float64) - low) * (255 / (high - low))
    scaled = np.nan_to_num(scaled, nan=0, posinf=255, neginf=0)
    if nodata is not None:
        scaled[values == nodata] = 0
    return np.clip(scaled.round(), 0, 255).astype(np.uint8)


def _area(pixels: np.ndarray) -> int:
    return pixels.shape[0] * pixels.shape[1]


def _check_tiff(header: ImageHeader) -> None:
    """Raise DataError for a kind of TIFF that OpenCV does not read exactly."""
    num_channels = header.tag(SAMPLES_PER_PIXEL, 1)
    photometric = header.tag(PHOTOMETRIC, BLACK_IS_ZERO)
    if num_channels not in (1, 3) and (num_channels, photometric) != (4, RGB):
        raise _refused(
            header,
            f"has {num_channels} bands; expected 1, or 3 for red, green and blue",
            "choose three bands, for example: gdal_translate -b 1 -b 2 -b 3 -co PHOTOMETRIC=RGB "
            "IN.tif OUT.tif",
        )
    if num_channels > 1 and header.tag(PLANAR, 1) == CHANNELS_APART:
        raise _refused(
            header,
            f"stores its {num_channels} channels one after the other",
            "store them together: gdal_translate -co INTERLEAVE=PIXEL IN.tif OUT.tif",
        )
    if photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB):
        raise _refused(header, f"has {header.bits} bits per channel, but neither grey nor RGB")
    if header.exif_orientation != 1:
        raise _refused(
            header,
            f"has {header.bits} bits per channel and the orientation {header.exif_orientation}",
            "turn the pixels, for example: magick IN.tif -auto-orient OUT.tif",
        )


def _refused(header: ImageHeader, reason: str, remedy: str = "convert it to PNG") -> DataError:
    return DataError(f"{header.path}: {reason}; {remedy}")


def _read_with_opencv(header: ImageHeader) -> np.ndarray | None:
    """Return the pixels as OpenCV reads them, [H, W] or [H, W, C]; None if it does not."""
    data = bytearray(Path(header.path).read_bytes())
    if header.tag(SAMPLES_PER_PIXEL, 1) == 3 and header.tag(PHOTOMETRIC, RGB) == BLACK_IS_ZERO:
        # GDAL declares three bands of 16 bits as grey; OpenCV would then read the first one only.
        _declare_rgb(data)
    return decode_with_opencv(data)


def decode_with_opencv(data: bytes | bytearray) -> np.ndarray | None:
    """Return the values of an image file, [H, W] or [H, W, C] in the order R, G, B, alpha.

    Returns None if OpenCV does not read the file.
    """
    with _quiet_opencv():
        try:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error:  # for example more than 2^30 pixels
            return None
    if pixels is not None and pixels.ndim == 3 and pixels.shape[2] in (3, 4):
        return pixels[:, :, [2, 1, 0, 3][: pixels.shape[2]]]  # OpenCV has blue first
    return pixels


def _declare_rgb(tiff: bytearray) -> None:
    """Change PHOTOMETRIC of a TIFF's first directory to RGB, in place. Leave BigTIFF as it is."""
    order = "<" if tiff[:2] == b"II" else ">"
    version, start = struct.unpack_from(f"{order}HI", tiff, 2)
    if version != 42:
        return
    (num_entries,) = struct.unpack_from(f"{order}H", tiff, start)
    for offset in range(start + 2, start + 2 + 12 * num_entries, 12):
        if struct.unpack_from(f"{order}H", tiff, offset) == (PHOTOMETRIC,):
            struct.pack_into(f"{order}H", tiff, offset + 8, RGB)


@contextlib.contextmanager
def _quiet_opencv() -> Iterator[None]:
    """Silence OpenCV, which prints a line for each tag that it does not know."""
    logging = cv2.utils.logging
    level = logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(level)
