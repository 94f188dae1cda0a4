"""Opening of image files: headers, pixels as stored, and one message for each bad file.

Knows neither which files are masks nor how pixels are scaled.
"""

from __future__ import annotations

import contextlib
import math
import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from segtune.errors import DataError

# Tags of EXIF and TIFF.
BITS_PER_SAMPLE = 258
ORIENTATION = 274
SAMPLE_FORMAT = 339
SIGNED_INTEGER = 2  # a value of SAMPLE_FORMAT
GDAL_NODATA = 42113
# NewSubfileType, and its bits for a smaller copy of the image and for a transparency mask.
SUBFILE_TYPE = 254
REDUCED_OR_MASK = 0b101

# The EXIF orientations of an image on its side.
SWAPS_SIDES = (5, 6, 7, 8)
# Modes of one channel with more than 8 bits.
DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
HEIC_STARTS = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1")
# What users have under the name of an image, by the first bytes.
NOT_IMAGES = {
    b"<": "it is HTML or XML, perhaps the error page of a download",
    b"version https://git-lfs": "it is a pointer of Git LFS; run: git lfs pull",
    b"\x93NUMPY": "it is a NumPy array; save the array as PNG",
}
# Pillow raises these for damaged content.
DAMAGE = (OSError, SyntaxError, ValueError, OverflowError, EOFError)

_pillow_limit_lock = threading.Lock()


@dataclass(frozen=True)
class StoredImage:
    """An opened image file, and what Pillow forgets when it decodes the pixels."""

    path: str
    image: Image.Image
    raw_mode: str  # Pillow's name of the layout in the file, such as `L;2` or `RGB;16B`
    orientation: int  # of EXIF, 1 to 8; 1 for TIFF, because Pillow turns TIFF images upright
    tiff_tags: dict[int, object]  # empty for other formats

    @property
    def bits(self) -> int:
        """The largest number of bits per channel."""
        if self.image.mode in DEEP_MODES:
            return 16 if self.image.mode.startswith("I;16") else 32
        bits = self.tiff_tags.get(BITS_PER_SAMPLE)
        if isinstance(bits, tuple) and bits:
            return max(bits)
        digits = "".join(c for c in self.raw_mode.partition(";")[2] if c.isdigit())
        return int(digits) if digits else 8

    @property
    def nodata(self) -> float | None:
        """The value of pixels without data in a GeoTIFF, or None."""
        try:
            return float(str(self.tiff_tags.get(GDAL_NODATA, "")).strip("\0 "))
        except ValueError:
            return None

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height of the image as viewers show it."""
        width, height = self.image.size
        return (height, width) if self.orientation in SWAPS_SIDES else (width, height)

    @property
    def is_lossy(self) -> bool:
        """Whether the file's compression changes pixel values."""
        if self.image.format == "WEBP":
            return b"VP8L" not in _first_bytes(self.path, 1 << 16)
        in_tiff = self.image.info.get("compression") in ("jpeg", "tiff_jpeg", "webp")
        return in_tiff or self.image.format in ("JPEG", "MPO", "JPEG2000")


def open_header(path: str | Path, max_megapixels: float) -> StoredImage:
    """Open an image file without decoding it.

    Raises DataError if the file is absent, is no image, or has more pixels than `max_megapixels`.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a FIFO would block
            raise DataError(f"{path}: is no regular file; expected an image")
        with _without_pillows_limit():
            image = Image.open(path)
    except DAMAGE as error:
        raise DataError(_not_readable(path, error)) from None
    check_size(path, image.width, image.height, max_megapixels)
    arguments = image.tile[0][3] if image.tile else ""
    raw_mode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    tags = dict(getattr(image, "tag_v2", {})) if image.format == "TIFF" else {}
    return StoredImage(str(path), image, str(raw_mode), _orientation(image), tags)


def open_image(path: str | Path, max_megapixels: float) -> StoredImage:
    """Open and decode an image file. Of an animation, the first frame is read.

    Raises DataError as `open_header` does, and if the content is damaged or has several pages.
    """
    stored = open_header(path, max_megapixels)
    try:
        _check_pages(stored)
        with _without_pillows_limit():
            stored.image.load()
    except DAMAGE as error:
        raise DataError(_not_readable(path, error)) from None
    return stored


def check_size(path: str | Path, width: int, height: int, max_megapixels: float) -> None:
    """Raise DataError if an image has more than `max_megapixels` million pixels."""
    megapixels = width * height / 1e6
    if megapixels > max_megapixels:
        raise DataError(
            f"{path}: has {width}x{height} pixels, {megapixels:.0f} million, and "
            f"data.max_megapixels is {max_megapixels:g}; cut the image into tiles, or set "
            f"data.max_megapixels={math.ceil(megapixels)}"
        )


def deep_values(stored: StoredImage) -> np.ndarray:
    """Return the values of an image with more than 8 bits, [H, W] or [H, W, 3], upright for TIFF.

    Raises DataError if neither Pillow nor OpenCV reads them.
    """
    if stored.image.mode in DEEP_MODES:
        return np.asarray(stored.image)
    # Pillow keeps only the high byte of a channel of 16 bits.
    with _without_opencvs_warnings():
        pixels = cv2.imread(stored.path, cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise DataError(
            f"{stored.path}: has {stored.bits} bits per channel in a form that is not read; "
            "convert it to PNG"
        )
    if pixels.ndim == 3:
        pixels = pixels[:, :, 2::-1] if pixels.shape[2] >= 3 else pixels[:, :, 0]
    return turn_upright(pixels, _as_orientation(stored.tiff_tags.get(ORIENTATION, 1)))


def turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return pixels [H, W] or [H, W, C] as viewers show them, contiguous in memory."""
    match orientation:
        case 2:
            pixels = pixels[:, ::-1]
        case 3:
            pixels = pixels[::-1, ::-1]
        case 4:
            pixels = pixels[::-1]
        case 5:
            pixels = pixels.swapaxes(0, 1)
        case 6:
            pixels = pixels[::-1].swapaxes(0, 1)
        case 7:
            pixels = pixels[::-1, ::-1].swapaxes(0, 1)
        case 8:
            pixels = pixels[:, ::-1].swapaxes(0, 1)
    return np.ascontiguousarray(pixels)


@contextlib.contextmanager
def _without_pillows_limit() -> Iterator[None]:
    """Lift Pillow's limit on the number of pixels; it is a variable of Pillow's module."""
    with _pillow_limit_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


@contextlib.contextmanager
def _without_opencvs_warnings() -> Iterator[None]:
    """Hide that a satellite image has more channels than colours, once per image."""
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


def _orientation(image: Image.Image) -> int:
    # Without this condition, Pillow decodes a PNG to look for EXIF behind the pixels.
    has_exif = "exif" in image.info or "Raw profile type exif" in image.info
    if image.format == "TIFF" or not has_exif:
        return 1
    try:
        return _as_orientation(image.getexif().get(ORIENTATION, 1))
    except (*DAMAGE, TypeError, KeyError):  # a damaged EXIF block; viewers ignore it, too
        return 1


def _as_orientation(value: object) -> int:
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _check_pages(stored: StoredImage) -> None:
    """Raise DataError if a TIFF has several images. Smaller copies of the first do not count."""
    image = stored.image
    if image.format != "TIFF" or not getattr(image, "is_animated", False):
        return
    num_pages = 1
    for page in range(1, getattr(image, "n_frames", 1)):
        image.seek(page)
        kind = getattr(image, "tag_v2", {}).get(SUBFILE_TYPE, 0)
        num_pages += not kind & REDUCED_OR_MASK
    image.seek(0)
    if num_pages > 1:
        raise DataError(
            f"{stored.path}: has {num_pages} pages; expected one image, so save each page as a file"
        )


def _not_readable(path: str | Path, error: Exception) -> str:
    """Say why a file is not readable: the system's reason, its first bytes, or Pillow's reason."""
    if isinstance(error, FileNotFoundError) and os.path.islink(path):
        return f"{path}: is a link to an absent file"
    if isinstance(error, OSError) and error.errno:
        return f"{path}: not readable: {error.strerror}"
    start = _first_bytes(path, 64)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    reason = str(error)
    if isinstance(error, UnidentifiedImageError):
        reason = "it has no format that segtune reads"
    if not start:
        reason = "the file is empty"
    elif isinstance(error, UnidentifiedImageError) and start.startswith(TIFF_STARTS):
        reason = "it is a TIFF of a kind that is not read, such as 64-bit floats; convert it to PNG"
    elif start[4:12] in HEIC_STARTS:
        reason = "it is HEIC; convert it to JPEG or PNG"
    for first, what in NOT_IMAGES.items():
        if text.startswith(first):
            reason = what
    return f"{path}: not readable as an image: {reason}"


def _first_bytes(path: str | Path, count: int) -> bytes:
    with open(path, "rb") as file:
        return file.read(count)
