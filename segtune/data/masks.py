"""Mask files to training labels."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from segtune.config.data_config import DataConfig
from segtune.data.image_files import StoredImage, turn_upright
from segtune.data.known_releases import CITYSCAPES_IDS, cityscapes_label_map
from segtune.data.label_colours import (
    describe_colours,
    labels_of_colours,
    palette_file,
    read_label_colours,
)
from segtune.data.label_map import (
    check_label_settings,
    describe_invalid,
    index_values,
    is_invalid,
    label_dtype,
    labels_of_values,
    occurs,
)
from segtune.data.layouts import class_names
from segtune.data.lossy_masks import known_values, refuse_lossy, snap_colours, snap_values
from segtune.data.mask_values import open_mask, read_values
from segtune.data.refused import RefusedPair, value_counts
from segtune.errors import DataError, setting


def read_mask(path: str | Path, config: DataConfig, num_classes: int) -> np.ndarray:
    """Return the labels of a mask file as [H, W], in 0..num_classes-1 or ignore_index.

    They are uint8, or uint16 if there are more than 255 classes or ignore_index is above 255.
    Raises DataError if the file does not hold labels exactly, or has labels outside the classes;
    ConfigError if the settings of the labels contradict each other.
    """
    check_label_settings(config, num_classes)
    stored = open_mask(path, config.max_megapixels)
    if stored.is_lossy and not config.allow_lossy_masks:
        raise refuse_lossy(stored)
    if config.palette:
        labels = _read_colours(stored, config, num_classes)
    else:
        labels = _read_labels(stored, config, num_classes)
    return turn_upright(labels, stored.orientation)


def _read_labels(stored: StoredImage, config: DataConfig, num_classes: int) -> np.ndarray:
    if stored.is_lossy:
        values = snap_values(stored.path, stored.image, known_values(config, num_classes))
    else:
        values = read_values(stored)
    if values.ndim == 3:
        text = describe_colours(stored.path, values, config)
        raise RefusedPair(f"{stored.path}: {text}", "colour-mask")
    return _translate(stored.path, values, config, num_classes, stored.nodata)


def _read_colours(stored: StoredImage, config: DataConfig, num_classes: int) -> np.ndarray:
    path, image = stored.path, stored.image
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        raise DataError(
            f"{path}: data.palette needs masks with colours of 8 bits, this one is {image.mode}; "
            "--set data.palette=null if its values are the labels"
        )
    known = read_label_colours(config, num_classes)
    rgb = np.asarray(image.convert("RGB"))
    if stored.is_lossy:
        labels = snap_colours(path, rgb, known)
    else:
        labels = labels_of_colours(path, rgb, known)
    return labels.astype(label_dtype(config, num_classes))


def _translate(
    path: str | Path, values: np.ndarray, config: DataConfig, num_classes: int, nodata: float | None
) -> np.ndarray:
    dtype = label_dtype(config, num_classes)
    if values.dtype == np.uint8:
        # One table look-up translates all values.
        labels = labels_of_values(np.arange(256), config)
        if not occurs(is_invalid(labels, config, num_classes), values):
            return cv2.LUT(values, labels.astype(dtype))
    else:
        distinct, index = index_values(values)
        labels = labels_of_values(distinct, config)
        if not is_invalid(labels, config, num_classes)[index].any():
            return labels.astype(dtype)[index]
    text = describe_invalid(values, config, num_classes, nodata)
    counts = value_counts(values)
    distinct = np.array(list(counts))
    wrong = distinct[is_invalid(labels_of_values(distinct, config), config, num_classes)]
    raise RefusedPair(
        f"{path}: {text}{_cityscapes_hint(path, config, num_classes)}",
        *("label-values", counts, frozenset(wrong.tolist())),
    )


def _cityscapes_hint(path: str | Path, config: DataConfig, num_classes: int) -> str:
    """Return the way from Cityscapes' 34 ids to its 19 training labels, or ""."""
    if "labelIds" not in str(path) or num_classes != len(CITYSCAPES_IDS):
        return ""
    if Path(str(path).replace("labelIds", "labelTrainIds")).is_file():
        suffix = config.mask_suffix.replace("labelIds", "labelTrainIds")
        return f"; *_labelTrainIds.png have 19 classes: {setting('data.mask_suffix', suffix)}"
    mapping = setting("data.label_map", cityscapes_label_map())
    return f"; for Cityscapes' {num_classes} classes, {mapping}"


def check_mask_settings(config: DataConfig) -> None:
    """Check the settings of the masks against the classes, before any mask is read.

    Raises ConfigError for labels that do not fit the classes; DataError if the file `data.palette`
    is absent or has no colour for a class.
    """
    num_classes = len(class_names(config))
    check_label_settings(config, num_classes)
    if config.palette:
        read_label_colours(config, num_classes)


def palette_content(config: DataConfig) -> bytes:
    """Return the colours of `data.palette` and the order of the classes.

    It is a part of keys for caches: both decide which label a colour has.
    """
    if not config.palette or config.palette == "voc":
        return b""
    names = repr(class_names(config)).encode()
    if not isinstance(config.palette, str):
        return names + repr(config.palette).encode()
    return names + palette_file(config).read_bytes()
