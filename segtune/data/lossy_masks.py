"""Masks with lossy compression: refused, or snapped to the values that the labels can have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from segtune.config.data_config import DataConfig
from segtune.data.image_files import StoredImage
from segtune.data.label_colours import LabelColours, pack, unpack
from segtune.data.refused import RefusedPair
from segtune.errors import DataError, setting

# Closer values cannot be distinguished after JPEG compression, which changes values by about 10
# near edges at usual qualities.
MIN_DISTANCE = 16
# A value counts as far from a known value above a quarter of the known values' distance, at most
# MAX_TOLERANCE. Edges are blurred: a few such pixels are normal.
MAX_TOLERANCE = 32
MAX_FAR_SHARE = 0.05
# Distances of this many colours are computed at once, to limit the memory.
CHUNK = 4096
MAX_GREY_DIFFERENCE = 16


def refuse_lossy(stored: StoredImage) -> DataError:
    """Return the error for a mask with lossy compression."""
    names = {"TIFF": "TIFF with JPEG compression", "WEBP": "lossy WebP", "MPO": "JPEG"}
    return RefusedPair(
        f"{stored.path}: is {names.get(stored.format, stored.format)}, which changes values near "
        "edges, so that labels become other labels; save the masks as PNG again from their source, "
        "or --set data.allow_lossy_masks=true to round every pixel to the nearest known value",
        "lossy-mask",
    )


def known_values(config: DataConfig, num_classes: int) -> np.ndarray:
    """Return the values that a mask file can hold, int64, ascending.

    They are the keys of `data.label_map`, and each label (and ignore_index) to which no key leads.
    An ignore_index next to a key is none: masks of 0, 127 and 254 have no pixels of 255.
    """
    if config.reduces_zero_label:
        return np.array([*range(num_classes + 1), 255])
    mapping = config.label_map or {}
    targets = set(mapping.values())
    labels = {*range(num_classes), config.ignore_index} - targets
    if any(0 < abs(value - config.ignore_index) < MIN_DISTANCE for value in mapping):
        labels.discard(config.ignore_index)
    return np.array(sorted({*mapping, *labels}))


def snap_values(path: str | Path, image: Image.Image, known: np.ndarray) -> np.ndarray:
    """Return the nearest value of `known` for each pixel of a grey image, int64 [H, W].

    Raises DataError if the known values are too close to each other, or too many pixels are far
    from all of them.
    """
    known = known[(known >= 0) & (known <= 255)]
    distance = int(np.diff(known).min()) if known.size > 1 else MAX_TOLERANCE
    if distance < MIN_DISTANCE:
        low = int(np.diff(known).argmin())
        raise DataError(
            f"{path}: the values {known[low]} and {known[low + 1]} of two labels are {distance} "
            f"apart, and lossy compression mixes values less than {MIN_DISTANCE} apart; name the "
            f"values in the files, for example {setting('data.label_map', {255: 1})}, set "
            "data.palette, or save the masks as PNG"
        )
    grey = _grey(path, image)
    distances = np.abs(np.arange(256)[:, None] - known)
    is_far = distances.min(1) > min(MAX_TOLERANCE, distance // 4)
    _check_share(path, is_far[grey], f"the values {known[:8].tolist()}")
    return known[distances.argmin(1)][grey]


def _grey(path: str | Path, image: Image.Image) -> np.ndarray:
    rgb = np.asarray(image.convert("RGB"))
    if int((rgb.max(2) - rgb.min(2)).max()) > MAX_GREY_DIFFERENCE:
        raise DataError(
            f"{path}: a lossy mask with colours; set data.palette to a file with the colours of "
            "the classes, or save the masks as PNG"
        )
    return np.asarray(image.convert("L"))


def snap_colours(path: str | Path, rgb: np.ndarray, known: LabelColours) -> np.ndarray:
    """Return the label of the nearest known colour for each pixel, int64 [H, W].

    Raises DataError as `snap_values` does.
    """
    colours = known.rgb.astype(np.int32)
    apart = np.sqrt(((colours[:, None] - colours) ** 2).sum(2)) + 1e9 * np.eye(len(colours))
    if apart.min() < MIN_DISTANCE:
        one, other = divmod(int(apart.argmin()), len(colours))
        raise DataError(
            f"{path}: the colours {colours[one].tolist()} and {colours[other].tolist()} in "
            f"{known.source} are {apart.min():.0f} apart, and lossy compression mixes colours less "
            f"than {MIN_DISTANCE} apart; save the masks as PNG"
        )
    packed, index = np.unique(pack(rgb), return_inverse=True)
    distinct = unpack(packed).astype(np.int32)
    chunks = [distinct[i : i + CHUNK, None] - colours for i in range(0, len(distinct), CHUNK)]
    squares = np.concatenate([(chunk**2).sum(2) for chunk in chunks])
    tolerance = min(MAX_TOLERANCE, apart.min() / 4)
    is_far = squares.min(1) > tolerance**2
    _check_share(path, is_far[index], f"the colours in {known.source}")
    return known.labels[squares.argmin(1)][index].reshape(rgb.shape[:2])


def _check_share(path: str | Path, is_far: np.ndarray, known: str) -> None:
    share = float(is_far.mean())
    if share > MAX_FAR_SHARE:
        raise DataError(
            f"{path}: {100 * share:.1f} % of the pixels are far from {known}, so that this lossy "
            f"mask cannot be read (at most {100 * MAX_FAR_SHARE:g} %); check data.label_map and "
            "data.palette, or save the masks as PNG"
        )
