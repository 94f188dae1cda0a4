"""The content of a data set: pixels and images per class, and everything that is wrong with it.

Reads every image and mask. Prints nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segtune.config.data_config import DataConfig
from segtune.data.decode import load_pair
from segtune.data.layouts import class_names, open_split
from segtune.data.value_range import with_value_range
from segtune.errors import DataError


@dataclass(frozen=True)
class SplitStatistics:
    """The content of a split, by label 0..255."""

    num_images: int
    pixels: np.ndarray  # pixels of each label, int64 [256]
    images: np.ndarray  # images with at least one pixel of each label, int64 [256]
    problems: Sequence[str]

    def pixel_share(self, label: int) -> float:
        """Return the fraction of all pixels that have this label, in 0..1."""
        return float(self.pixels[label] / max(1, self.pixels.sum()))


@dataclass(frozen=True)
class DataSetStatistics:
    """The content of both splits, and the problems of the data set."""

    classes: Sequence[str]
    train: SplitStatistics
    val: SplitStatistics
    problems: Sequence[str]


def check_data_set(config: DataConfig) -> DataSetStatistics:
    """Read the whole data set and list its problems.

    Raises DataError only if the class names or a split cannot be found.
    """
    classes = class_names(config)
    config = with_value_range(config)
    train = read_split(config, "train", len(classes))
    val = read_split(config, "val", len(classes))
    problems = [*train.problems, *val.problems, *_untrained_classes(classes, train, val)]
    return DataSetStatistics(classes, train, val, problems)


def read_split(config: DataConfig, split: str, num_classes: int) -> SplitStatistics:
    """Read every pair of a split. Raises DataError only if the split itself cannot be opened."""
    pixels = np.zeros(256, np.int64)
    images = np.zeros(256, np.int64)
    problems = []
    pairs = open_split(config, split)
    for pair in pairs:
        try:
            _, mask = load_pair(pair, config, num_classes)
        except DataError as error:
            problems.append(str(error))
            continue
        counts = np.bincount(mask.ravel(), minlength=256)
        pixels += counts
        images += counts > 0
        if counts[:num_classes].sum() == 0:
            problems.append(f"{pair.mask}: every pixel is ignored")
    return SplitStatistics(len(pairs), pixels, images, problems)


def _untrained_classes(
    classes: Sequence[str], train: SplitStatistics, val: SplitStatistics
) -> list[str]:
    return [
        f"class {name!r} (label {label}) is in the validation images and in no training image"
        for label, name in enumerate(classes)
        if val.images[label] and not train.images[label]
    ]
