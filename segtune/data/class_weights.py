"""Class weights from the frequencies of the classes in the training masks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segtune.config.data_config import DataConfig
from segtune.config.schema import ExperimentConfig
from segtune.data.layouts import class_names, open_split
from segtune.data.masks import read_mask
from segtune.data.pairs import Pair
from segtune.errors import first_of

log = logging.getLogger(__name__)

# Significant digits of a weight: a config with more is hard to read.
DIGITS = 6
# At most this many class names in one message.
MAX_NAMES = 10


@dataclass(frozen=True)
class ClassPixels:
    """The valid pixels of a split, int64 [C] each.

    `pixels` are those of each class, `around` all valid pixels of the images in which it occurs.
    """

    pixels: np.ndarray
    around: np.ndarray


def with_class_weights(config: ExperimentConfig, *, is_quiet: bool = False) -> ExperimentConfig:
    """Return the config with numbers for `loss.class_weights: balanced`, for its record.

    Reads every mask of the training list, also those that `data.num_images` leaves out, so the
    weights depend on the list only. Each rank reads all of them and gets the same numbers. Logs
    them, unless `is_quiet`. Raises DataError if a mask cannot be read.
    """
    if config.loss.class_weights != "balanced":
        return config
    classes = class_names(config.data)
    pairs = open_split(config.data.override({"num_images": None}), "train")
    counts = count_class_pixels(pairs, config.data, len(classes))
    weights = median_frequency_weights(counts)
    if not is_quiet:
        _log_weights(weights, classes, counts, len(pairs))
    return config.override({"loss.class_weights": weights})


def count_class_pixels(pairs: Sequence[Pair], config: DataConfig, num_classes: int) -> ClassPixels:
    """Return the pixels of each class in the masks of `pairs`; reads all of them."""
    num_labels = max(num_classes, config.ignore_index + 1)
    pixels, around = np.zeros((2, num_classes), np.int64)
    for pair in pairs:
        labels = read_mask(pair.mask, config, num_classes)
        counts = np.bincount(labels.ravel(), minlength=num_labels)
        counts[config.ignore_index] = 0
        counts = counts[:num_classes]
        pixels += counts
        around += np.where(counts > 0, counts.sum(), 0)
    return ClassPixels(pixels, around)


def median_frequency_weights(counts: ClassPixels) -> list[float]:
    """Return the weight of each class: the median frequency divided by that of the class.

    The frequency of a class is the number of its pixels, divided by all valid pixels of the images
    in which it occurs. The median is over the classes that occur. A class that never occurs has the
    weight 1, that of the median: no pixel has its label, but in sigmoid focal loss the weight also
    applies to its output in the pixels of other classes.
    Source: Eigen and Fergus 2015 (Predicting Depth, Surface Normals and Semantic Labels), section
    6.3.2.
    """
    occurs = counts.pixels > 0
    frequencies = counts.pixels[occurs] / counts.around[occurs]
    weights = np.ones(len(counts.pixels))
    if occurs.any():
        weights[occurs] = np.median(frequencies) / frequencies
    return [float(f"{weight:.{DIGITS}g}") for weight in weights]


def _log_weights(
    weights: Sequence[float], classes: Sequence[str], counts: ClassPixels, num_masks: int
) -> None:
    named = [f"{name} {weight:g}" for name, weight in zip(classes, weights, strict=True)]
    log.info(
        "loss.class_weights: balanced over %d training masks: %s",
        num_masks,
        first_of(named, MAX_NAMES),
    )
    absent = [repr(name) for name, pixels in zip(classes, counts.pixels, strict=True) if not pixels]
    if absent:
        log.warning(
            "loss.class_weights: no pixel of the training masks has class %s: its weight is 1",
            first_of(absent, MAX_NAMES),
        )
