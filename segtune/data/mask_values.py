"""Mask files to the whole numbers that they store, whatever their bits, channels and byte order.

Knows nothing of classes: `label_map.py` translates the numbers to labels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from segtune.data.deep_values import decode_with_opencv
from segtune.data.file_errors import first_bytes
from segtune.data.image_files import StoredImage, decode, opened
from segtune.errors import DataError

# Pillow's modes for one channel: palette, grey, black and white, 16 bits, 32 bits, float.
ONE_CHANNEL = ("P", "L", "1", "I;16", "I;16B", "I;16L", "I;16N", "I", "F")
# Pillow scales grey of 2 and 4 bits to 0..255 by these factors. "1" has become 0 and 1 already.
GREY_FACTORS = {2: 85, 4: 17}
PNG_HEADER_BYTES = 26
PNG_DEPTH, PNG_COLOUR_TYPE = 24, 25  # offsets in the file
BMP_BITS = 28


def open_mask(path: str | Path, max_megapixels: float) -> StoredImage:
    """Open and decode a mask file.

    Raises DataError if the file is not an image, is a numpy array, or has several pages.
    """
    if str(path).lower().endswith((".npy", ".npz")):
        raise DataError(
            f"{path}: masks have to be images; for example, save the array with "
            "Image.fromarray(numpy.load(FILE).astype('uint8')).save('NAME.png')"
        )
    with opened(path, max_megapixels) as (header, image):
        if image is None:
            image = _open_rare_tiff(path)
        else:
            decode(header, image)
        num_frames = int(getattr(image, "n_frames", 1))
        if num_frames > 1 and header.format not in ("TIFF", "MPO"):
            raise DataError(
                f"{path}: has {num_frames} frames, a mask has one; save the frame with the labels "
                "of all classes as a file of its own"
            )
        return StoredImage(**vars(header), image=image)


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


def read_values(stored: StoredImage) -> np.ndarray:
    """Return the whole numbers that a mask file stores, as [H, W] of any integer type.

    Grey of 1, 2 and 4 bits has 0..1, 0..3 and 0..15. A palette image has its indices. Colours with
    three equal channels have the value of one channel. Other colours are uint8 [H, W, 3].
    Raises DataError if the file stores anything else.
    """
    mode = stored.image.mode
    if stored.format == "PNG" and mode in ("L", "LA", "RGB", "RGBA"):
        return _read_png(stored)
    if stored.format == "BMP" and mode == "L" and first_bytes(stored.path, 30)[BMP_BITS] == 4:
        return _opencv_values(stored.path)  # Pillow 12 reads its pixels as if they had 8 bits
    if stored.format == "TIFF":
        return _read_tiff(stored)
    return _pillow_values(stored.path, stored.image)


def _read_png(stored: StoredImage) -> np.ndarray:
    header = first_bytes(stored.path, PNG_HEADER_BYTES)
    depth = header[PNG_DEPTH]
    if depth == 16:  # Pillow keeps the upper 8 bits of two or more channels
        return _one_channel(stored.path, _opencv_values(stored.path))
    values = _pillow_values(stored.path, stored.image)
    if depth in GREY_FACTORS and header[PNG_COLOUR_TYPE] == 0:
        return values // GREY_FACTORS[depth]
    return values


def _read_tiff(stored: StoredImage) -> np.ndarray:
    mode, bits = stored.image.mode, stored.bits
    if bits == 16 and mode in ("RGB", "RGBA"):
        return _one_channel(stored.path, _opencv_values(stored.path))
    values = _pillow_values(stored.path, stored.image)
    if mode in ("1", "L"):
        # Pillow inverts the stored numbers if 0 is white.
        if stored.is_inverted:
            values = (1 if mode == "1" else 255) - values
        if bits in GREY_FACTORS:
            values = values // GREY_FACTORS[bits]
        if bits == 8 and stored.is_signed:
            return values.view(np.int8)
    if stored.is_uint32:
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
    values = decode_with_opencv(Path(path).read_bytes())
    if values is None:
        raise DataError(f"{path}: not readable as an image; save it as a grey PNG of 8 or 16 bits")
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
