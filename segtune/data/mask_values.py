"""Mask files to the whole numbers that they store, whatever their bits, channels and byte order.

Knows nothing of classes: `label_map.py` translates the numbers to labels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from segtune.data.images import open_image
from segtune.errors import DataError

# Pillow's modes for one channel: palette, grey, black and white, 16 bits, 32 bits, float.
ONE_CHANNEL = ("P", "L", "1", "I;16", "I;16B", "I;16L", "I;16N", "I", "F")
# Pillow scales grey of 1, 2 and 4 bits to 0..255 by these factors. "1" has become 0 and 1 already.
GREY_FACTORS = {2: 85, 4: 17}
# Formats of compression that may change the values. JPEG 2000 and AVIF can be lossless, but their
# files are lossy in general, and their headers do not say which.
LOSSY_FORMATS = ("JPEG", "MPO", "JPEG2000", "AVIF")
LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp")
# Tags of TIFF 6.0 and GDAL.
SUBFILE_TYPE, BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 254, 258, 262, 339
GDAL_NODATA = 42113
REDUCED_OR_MASK = 1 | 4  # in SUBFILE_TYPE: a smaller copy of another page, or its transparency
UNSIGNED, SIGNED = 1, 2  # in SAMPLE_FORMAT
PNG_HEADER_BYTES = 26
PNG_DEPTH, PNG_COLOUR_TYPE = 24, 25  # offsets in the file
BMP_BITS = 28
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def open_mask(path: str | Path) -> Image.Image:
    """Open and decode a mask file.

    Raises DataError if the file is not an image, is a numpy array, or has several pages.
    """
    if str(path).lower().endswith((".npy", ".npz")):
        raise DataError(
            f"{path}: masks have to be images; for example, save the array with "
            "Image.fromarray(numpy.load(FILE).astype('uint8')).save('NAME.png')"
        )
    try:
        image = open_image(path)
    except DataError:
        if not _is_rare_tiff(path):
            raise
        image = _open_rare_tiff(path)
    num_pages = _num_pages(image)
    if num_pages > 1:
        raise DataError(
            f"{path}: has {num_pages} pages or frames, a mask has one; save the page with the "
            "labels of all classes as a file of its own"
        )
    return image


def _is_rare_tiff(path: str | Path) -> bool:
    """Return whether a file is a TIFF of a kind that Pillow does not know; not a damaged one."""
    try:
        if _first_bytes(path, 4) not in TIFF_STARTS:
            return False
        with Image.open(path):
            return False
    except UnidentifiedImageError:
        return True
    except (OSError, Image.DecompressionBombError):
        return False


def _open_rare_tiff(path: str | Path) -> Image.Image:
    """Open a TIFF that Pillow cannot read, such as float64, with OpenCV."""
    values = _opencv_values(path)
    whole = _whole_numbers(path, values)
    limits = np.iinfo(np.int32)
    if whole.ndim > 2 or whole.min() < limits.min or whole.max() > limits.max:
        raise DataError(
            f"{path}: holds {values.dtype} in {values.shape[2:] or 'one'} channels; save the "
            "labels as one channel of 8 or 16 bits"
        )
    return Image.fromarray(whole.astype(np.int32))


def _num_pages(image: Image.Image) -> int:
    """Return the number of pages, without the smaller copies that GeoTIFF and OME-TIFF keep."""
    num_frames = int(getattr(image, "n_frames", 1))
    if num_frames == 1 or image.format != "TIFF":
        return num_frames
    num_pages = 1
    for index in range(1, num_frames):
        image.seek(index)
        num_pages += not int(tiff_tag(image, SUBFILE_TYPE, 0)) & REDUCED_OR_MASK
    image.seek(0)
    image.load()
    return num_pages


def tiff_tag(image: Image.Image, tag: int, default: Any) -> Any:
    """Return the value of a TIFF tag, the first one if it is a list; `default` if it is absent."""
    value = getattr(image, "tag_v2", {}).get(tag, default)
    return value[0] if isinstance(value, tuple) else value


def lossy_format(path: str | Path, image: Image.Image) -> str | None:
    """Return the name of the file's lossy compression; None if the compression is lossless.

    The content counts, not the suffix: a JPEG file may be named x.png.
    """
    if image.format in LOSSY_FORMATS:
        return "JPEG" if image.format == "MPO" else image.format
    if image.format == "TIFF" and image.info.get("compression") in LOSSY_TIFF:
        return "TIFF with JPEG compression"
    if image.format == "WEBP" and b"VP8L" not in _first_bytes(path, 1024):
        return "lossy WebP"
    return None


def _first_bytes(path: str | Path, count: int) -> bytes:
    with open(path, "rb") as file:
        return file.read(count)


def read_values(path: str | Path, image: Image.Image) -> np.ndarray:
    """Return the whole numbers that a mask file stores, as [H, W] of any integer type.

    Grey of 1, 2 and 4 bits has 0..1, 0..3 and 0..15. A palette image has its indices. Colours with
    three equal channels have the value of one channel. Other colours are uint8 [H, W, 3].
    Raises DataError if the file stores anything else.
    """
    if image.format == "PNG" and image.mode in ("L", "LA", "RGB", "RGBA"):
        return _read_png(path, image)
    if image.format == "BMP" and image.mode == "L" and _first_bytes(path, 30)[BMP_BITS] == 4:
        return _opencv_values(path)  # Pillow 12 reads its pixels as if they had 8 bits
    if image.format == "TIFF":
        return _read_tiff(path, image)
    return _pillow_values(path, image)


def _read_png(path: str | Path, image: Image.Image) -> np.ndarray:
    header = _first_bytes(path, PNG_HEADER_BYTES)
    depth = header[PNG_DEPTH]
    if depth == 16:  # Pillow keeps the upper 8 bits of two or more channels
        return _one_channel(path, _opencv_values(path))
    values = _pillow_values(path, image)
    if depth in GREY_FACTORS and header[PNG_COLOUR_TYPE] == 0:
        return values // GREY_FACTORS[depth]
    return values


def _read_tiff(path: str | Path, image: Image.Image) -> np.ndarray:
    bits = int(tiff_tag(image, BITS_PER_SAMPLE, 1))
    sample_format = int(tiff_tag(image, SAMPLE_FORMAT, UNSIGNED))
    if bits == 16 and image.mode in ("RGB", "RGBA"):
        return _one_channel(path, _opencv_values(path))
    values = _pillow_values(path, image)
    if image.mode in ("1", "L"):
        # Photometric 0: Pillow inverts the stored numbers, because 0 is white.
        if tiff_tag(image, PHOTOMETRIC, 1) == 0:
            values = (1 if image.mode == "1" else 255) - values
        if bits in GREY_FACTORS:
            values = values // GREY_FACTORS[bits]
        if bits == 8 and sample_format == SIGNED:
            return values.view(np.int8)
    if image.mode == "I" and bits == 32 and sample_format == UNSIGNED:
        return values.view(np.uint32)
    return values


def _pillow_values(path: str | Path, image: Image.Image) -> np.ndarray:
    values = np.asarray(image)
    if image.mode in ("L", "P"):
        return values
    if image.mode == "1":
        return values.astype(np.uint8)
    if image.mode == "F":
        return _whole_numbers(path, values)
    if image.mode in ("PA", "LA", "RGB", "RGBA"):
        return _one_channel(path, values)
    if image.mode not in ONE_CHANNEL:
        raise DataError(
            f"{path}: a mask must have one channel of labels (palette or grey PNG), this one is "
            f"{image.mode}; convert its colours to labels"
        )
    return values.astype(values.dtype.newbyteorder("="))


def _opencv_values(path: str | Path) -> np.ndarray:
    data = np.frombuffer(Path(path).read_bytes(), np.uint8)
    values = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if values is None:
        raise DataError(f"{path}: not readable as an image; save it as a grey PNG of 8 or 16 bits")
    if values.ndim == 3 and values.shape[2] in (3, 4):
        order = [2, 1, 0, 3][: values.shape[2]]  # OpenCV has blue first
        return values[:, :, order]
    return values


def _whole_numbers(path: str | Path, values: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        whole = values.astype(np.int64)
    different = whole != values
    if different.any():
        raise DataError(
            f"{path}: {np.count_nonzero(different)} of {values.size} pixels are no whole numbers, "
            f"the first is {values[different][0]:g}; a mask of floats has to hold labels"
        )
    return whole


def _one_channel(path: str | Path, values: np.ndarray) -> np.ndarray:
    """Reduce channels [H, W, C] with the same numbers to [H, W]; unequal colours to [H, W, 3].

    The last of 2 or 4 channels is alpha.
    """
    if values.ndim == 2:
        return values
    num_colours = values.shape[2] - (values.shape[2] % 2 == 0)
    first = values[:, :, 0]
    if any((first != values[:, :, channel]).any() for channel in range(1, num_colours)):
        if values.dtype != np.uint8:
            raise DataError(
                f"{path}: has colours of {8 * values.itemsize} bits per channel; a mask must have "
                "one channel of labels, or colours of 8 bits"
            )
        return np.ascontiguousarray(values[:, :, :3])
    if num_colours < values.shape[2]:
        _check_alpha(path, first, values[:, :, -1])
    return np.ascontiguousarray(first)


def _check_alpha(path: str | Path, grey: np.ndarray, alpha: np.ndarray) -> None:
    """Raise DataError if all labels are equal and the alpha channel holds a drawing instead."""
    if (alpha != alpha[0, 0]).any() and not (grey != grey[0, 0]).any():
        raise DataError(
            f"{path}: every pixel has the value {grey[0, 0]}, and the alpha channel has shapes; "
            "save the labels as grey values, without transparency"
        )
