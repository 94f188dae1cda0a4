"""Label images: the predicted label of each pixel as a PNG file, with the colours of the classes.

Such a file is a mask that other programs read: its values are the labels, as in mask files.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segtune.config.data_config import MAX_LABEL, DataConfig
from segtune.data.known_classes import class_colours
from segtune.data.label_colours import drawing_colours
from segtune.errors import ConfigError, DataError
from segtune.training.overlays import write_marked

MAX_BYTE = 255
LABEL_IMAGE = "label image"  # in messages


def label_offset(config: DataConfig, chosen: int | None) -> int:
    """Return what is added to the predicted labels: `chosen` or, if it is None, that of the masks.

    With data.reduce_zero_label, this is 1: the labels 1, 2, … of the mask files are the classes 0,
    1, … of the model. mmseg adds 1 then, too, and the benchmark of ADE20K expects it.
    """
    if chosen is not None:
        return chosen
    return 1 if config.reduces_zero_label else 0


def describe_offset(config: DataConfig, offset: int) -> str:
    """Return which value the first class has in label images, and how to change it."""
    text = f"the first class has the value {offset}"
    if not config.reduces_zero_label:
        return text
    if offset == 1:
        return f"{text}, as in the mask files; --label-offset 0 begins with 0"
    return f"{text}; in the mask files it has 1"


def label_dtype(num_classes: int, offset: int) -> type[np.uint8] | type[np.uint16]:
    """Return the type of the values of label images: 8 bits if all labels fit, otherwise 16.

    Raise ConfigError if a label would be above 65535.
    """
    largest = num_classes - 1 + offset
    if largest > MAX_LABEL:
        raise ConfigError(
            [
                f"--label-offset: {offset} makes the largest of {num_classes} labels {largest}; "
                f"the largest offset is {MAX_LABEL + 1 - num_classes}"
            ]
        )
    return np.uint8 if largest <= MAX_BYTE else np.uint16


def colours_of_classes(config: DataConfig, names: Sequence[str], num_classes: int) -> np.ndarray:
    """Return a colour for each class, uint8 [num_classes, 3].

    These are the colours of data.palette, if there is one that can be read, otherwise those of a
    known data set or of PASCAL VOC.
    """
    try:
        return drawing_colours(config, names, num_classes)
    except DataError:  # the data set is gone; its colours only make the result nicer
        return class_colours(names, num_classes)


def write_label_image(target: Path, labels: np.ndarray, colours: np.ndarray, offset: int) -> None:
    """Write labels [H, W] as PNG: a palette image of 8 bits, or a grey image for uint16.

    `labels` include `offset`, and `colours`, uint8 [C, 3], are those of the labels from there on;
    all other entries of the palette are black. Errors are those of `write_marked`.
    """
    from PIL import Image

    image = Image.fromarray(labels)
    if labels.dtype == np.uint8:
        # All 256 entries: with fewer than 17, Pillow would write 4 bits per pixel or less.
        palette = np.zeros((MAX_BYTE + 1, 3), np.uint8)
        palette[offset : offset + len(colours)] = colours
        image.putpalette(palette.tobytes())
    png = io.BytesIO()
    image.save(png, "PNG")
    write_marked(target, png.getbuffer(), LABEL_IMAGE)
