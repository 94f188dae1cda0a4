"""Opening of image files: headers, decoded images, and one message for each bad file.

Knows neither which files are masks nor how pixels are scaled.
"""

from __future__ import annotations

import contextlib
import math
import os
import stat
import struct
import threading
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from segtune.data.file_errors import first_bytes, not_readable
from segtune.errors import DataError

# Tags of EXIF and TIFF.
WIDTH, HEIGHT, BITS_PER_SAMPLE, ORIENTATION, SAMPLE_FORMAT = 256, 257, 258, 274, 339
UNSIGNED, SIGNED = 1, 2  # values of SAMPLE_FORMAT
COMPRESSION, PHOTOMETRIC, SAMPLES_PER_PIXEL, PLANAR = 259, 262, 277, 284
LOSSY_COMPRESSIONS = (6, 7, 34712, 50001)  # JPEG, old and new, JPEG 2000, WebP
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2  # values of PHOTOMETRIC
CHANNELS_APART = 2  # a value of PLANAR
GDAL_NODATA = 42113
# NewSubfileType, and its bits for a smaller copy of the image and for a transparency mask.
SUBFILE_TYPE = 254
REDUCED_OR_MASK = 0b101

# The EXIF orientations of an image on its side.
SWAPS_SIDES = (5, 6, 7, 8)
# The orientation that undoes another one. Each of the others undoes itself.
INVERSE = {6: 8, 8: 6}
# Modes of one channel with more than 8 bits.
DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# The markers SOC and SIZ of JPEG 2000, and the offset of the bits of the first channel, less 1
# (ITU-T T.800, A.5.1).
JP2_SIZE_MARKERS = b"\xff\x4f\xff\x51"
JP2_BITS = 42
# Pillow and zlib raise these for damaged content; found by changing bytes of files at random.
DAMAGE = (
    *(OSError, SyntaxError, ValueError, OverflowError, EOFError, IndexError, KeyError, TypeError),
    *(struct.error, zlib.error, RuntimeError),
)

_pillow_limit_lock = threading.Lock()


@dataclass(frozen=True)
class ImageHeader:
    """The header of an image file. Pillow forgets parts of it when it decodes the pixels."""

    path: str
    format: str  # Pillow's name of the format
    mode: str  # Pillow's mode; empty for a TIFF of a kind that Pillow does not know
    size: tuple[int, int]  # width and height of the pixels that Pillow decodes
    raw_mode: str  # Pillow's name of the layout in the file, such as `L;2` or `RGB;16B`
    orientation: int  # EXIF orientation, 1 to 8, that is left to apply to Pillow's pixels
    turned: int  # the orientation that Pillow has applied; 1 except for TIFF
    tiff_tags: Mapping[int, Any]  # empty for other formats

    def tag(self, number: int, default: Any) -> Any:
        """Return a tag of a TIFF, the first value if it is a list; `default` if it is absent."""
        value = self.tiff_tags.get(number, default)
        return value[0] if isinstance(value, tuple) and value else value

    @property
    def bits(self) -> int:
        """The largest number of bits per channel."""
        bits = self.tiff_tags.get(BITS_PER_SAMPLE)
        if isinstance(bits, tuple) and bits:
            return max(bits)
        if self.mode in DEEP_MODES:
            return 16 if self.mode.startswith("I;16") else 32
        digits = "".join(c for c in self.raw_mode.partition(";")[2] if c.isdigit())
        return int(digits) if digits else 8

    @property
    def is_signed(self) -> bool:
        """Whether the values are whole numbers that may be negative."""
        return self.tag(SAMPLE_FORMAT, UNSIGNED) == SIGNED

    @property
    def is_deep(self) -> bool:
        """Whether the values have another range than 0..255, and need a value range."""
        return self.bits > 8 or self.is_signed

    @property
    def is_inverted(self) -> bool:
        """Whether small values are white, as in some scans and radiographs in TIFF."""
        return self.tag(PHOTOMETRIC, BLACK_IS_ZERO) == WHITE_IS_ZERO

    @property
    def is_uint32(self) -> bool:
        """Whether the values are unsigned and of 32 bits; Pillow reads these as signed."""
        is_unsigned = self.tag(SAMPLE_FORMAT, UNSIGNED) == UNSIGNED
        return self.format == "TIFF" and self.mode == "I" and self.bits == 32 and is_unsigned

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
        return _swapped(self.size, self.orientation)

    @property
    def stored_size(self) -> tuple[int, int]:
        """Width and height of the image as it is stored."""
        return _swapped(self.size, self.turned)

    @property
    def exif_orientation(self) -> int:
        """The orientation in the file, 1 to 8."""
        return self.turned if self.turned != 1 else self.orientation

    @property
    def is_lossy(self) -> bool:
        """Whether the file's compression changes pixel values."""
        if self.format == "WEBP":
            return b"VP8L" not in first_bytes(self.path, 1 << 16)
        in_tiff = self.tag(COMPRESSION, 1) in LOSSY_COMPRESSIONS
        return in_tiff or self.format in ("JPEG", "MPO", "JPEG2000", "AVIF")


@dataclass(frozen=True)
class StoredImage(ImageHeader):
    """A decoded image file."""

    image: Image.Image


def _swapped(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    width, height = size
    return (height, width) if orientation in SWAPS_SIDES else size


def open_header(path: str | Path, max_megapixels: float) -> ImageHeader:
    """Return the header of an image file; decode nothing.

    Raises DataError if the file is absent, is no image, or has more pixels than `max_megapixels`.
    """
    with opened(path, max_megapixels) as (header, _):
        return header


@contextlib.contextmanager
def opened(
    path: str | Path, max_megapixels: float
) -> Iterator[tuple[ImageHeader, Image.Image | None]]:
    """Open an image file, and close it at the end; the image is not decoded yet.

    The image is None for a TIFF that Pillow does not know. Raises DataError as `open_header` does.
    """
    with contextlib.ExitStack() as stack:
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):  # a FIFO would block
                raise DataError(f"{path}: is a folder or a device; expected an image file")
            # Not opened by its path: Pillow 13 then maps uncompressed TIFF images into memory, and
            # mixes up the pixels of those that are on their side.
            file = stack.enter_context(open(path, "rb"))
            header, image = _read_header(str(path), file)
        except DAMAGE as error:
            raise DataError(not_readable(path, error)) from None
        check_size(path, *header.size, max_megapixels)
        yield header, image


def decode(header: ImageHeader, image: Image.Image) -> None:
    """Decode an opened image. Raises DataError if it is damaged or has several pages."""
    try:
        _check_pages(header, image)
        # Of all formats, only TIFF checks the size again.
        limit = _without_pillows_limit() if header.format == "TIFF" else contextlib.nullcontext()
        with limit:
            image.load()
    except DAMAGE as error:
        raise DataError(not_readable(header.path, error)) from None


def check_size(path: str | Path, width: int, height: int, max_megapixels: float) -> None:
    """Raise DataError if an image has more than `max_megapixels` million pixels."""
    megapixels = width * height / 1e6
    if megapixels > max_megapixels:
        raise DataError(
            f"{path}: has {width}x{height} pixels, {megapixels:.0f} million, and "
            f"data.max_megapixels is {max_megapixels:g}; cut the image into tiles, or --set "
            f"data.max_megapixels={math.ceil(megapixels)}"
        )


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


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8, that is left to apply to the pixels of an image.

    This is 1 for TIFF, because Pillow turns TIFF images upright.
    """
    if image.format == "TIFF":
        return 1
    # Not `getexif` in general: Pillow then decodes a PNG to look for EXIF behind the pixels.
    if "exif" in image.info:
        return orientation_in(image.info["exif"])
    if "Raw profile type exif" not in image.info:  # in PNG files of ImageMagick
        return 1
    try:
        return _valid_orientation(image.getexif().get(ORIENTATION, 1))
    except DAMAGE:  # viewers ignore it, too
        return 1


def orientation_in(exif: bytes) -> int:
    """Return the orientation in an EXIF block, 1 to 8; 1 if it is damaged or has none."""
    block = Image.Exif()
    try:
        block.load(exif)
        return _valid_orientation(block.get(ORIENTATION, 1))
    except DAMAGE:
        return 1


def _valid_orientation(value: object) -> int:
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _read_header(path: str, file: BinaryIO) -> tuple[ImageHeader, Image.Image | None]:
    try:
        with _without_pillows_limit():
            image = Image.open(file)
    except UnidentifiedImageError:
        file.seek(0)
        if file.read(4) not in TIFF_STARTS:
            raise
        return _unknown_tiff(path, file), None
    is_tiff = image.format == "TIFF"
    tags = dict(getattr(image, "tag_v2", {})) if is_tiff else {}
    header = ImageHeader(
        path=path,
        format=image.format or "",
        mode=image.mode,
        size=image.size,
        raw_mode=_raw_mode(image, path),
        orientation=orientation_of(image),
        turned=_valid_orientation(tags.get(ORIENTATION, 1)),
        tiff_tags=tags,
    )
    return header, image


def _raw_mode(image: Image.Image, path: str) -> str:
    """Return Pillow's name of the layout of the pixels in an opened file.

    For JPEG 2000 and PPM, Pillow has no such name, and scales colours to 8 bits.
    """
    tiles = getattr(image, "tile", [])
    arguments = tiles[0][3] if tiles else ""
    if image.format == "JPEG2000":
        start = first_bytes(path, 1 << 16)
        offset = start.find(JP2_SIZE_MARKERS)
        bits = start[offset + JP2_BITS : offset + JP2_BITS + 1] if offset >= 0 else b""
        return f"{image.mode};{(bits[0] & 0x7F) + 1}" if bits else image.mode
    if not isinstance(arguments, tuple):
        return str(arguments)
    if image.format == "PPM":
        return f"{image.mode};16" if arguments[-1] > 255 else image.mode
    return str(arguments[0]) if arguments else ""


def _unknown_tiff(path: str, file: BinaryIO) -> ImageHeader:
    """Read the header of a TIFF that Pillow does not know, for example of three floats per pixel.

    Raises one of DAMAGE if the header is damaged.
    """
    file.seek(0)
    start = file.read(8)
    start += file.read(8) if 43 in start[2:4] else b""  # BigTIFF
    directory = TiffImagePlugin.ImageFileDirectory_v2(start)
    file.seek(directory.next)
    directory.load(file)
    tags = dict(directory)
    return ImageHeader(
        path=path,
        format="TIFF",
        mode="",
        size=(int(tags[WIDTH]), int(tags[HEIGHT])),
        raw_mode="",
        orientation=_valid_orientation(tags.get(ORIENTATION, 1)),
        turned=1,
        tiff_tags=tags,
    )


@contextlib.contextmanager
def _without_pillows_limit() -> Iterator[None]:
    """Lift Pillow's limit on the number of pixels; it is a variable of Pillow's module."""
    with _pillow_limit_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _check_pages(header: ImageHeader, image: Image.Image) -> None:
    """Raise DataError if a TIFF has several images. Smaller copies of the first do not count."""
    if header.format != "TIFF" or not getattr(image, "is_animated", False):
        return
    num_pages = 1
    for page in range(1, getattr(image, "n_frames", 1)):
        image.seek(page)
        kind = getattr(image, "tag_v2", {}).get(SUBFILE_TYPE, 0)
        num_pages += not kind & REDUCED_OR_MASK
    image.seek(0)
    if num_pages > 1:
        raise DataError(
            f"{header.path}: has {num_pages} pages; expected one image, so save each page as a file"
        )
