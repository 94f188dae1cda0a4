"""Which classes occur in the masks, and whether a training run can learn them.

A class without a pixel in the training masks is never learnt. The usual reason is a mask file with
values other than labels: 0 and 255 for two classes, of which 255 is ignored by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segtune.config.data_config import DataConfig
from segtune.data.label_map import map_with
from segtune.data.masks import read_mask
from segtune.data.pairs import Pair
from segtune.errors import ConfigError, DataError, first_of

# A training run needs two classes to tell apart.
MIN_CLASSES = 2
# At most this many class names in one message.
MAX_NAMES = 10


@dataclass(frozen=True)
class LabelCounts:
    """How often each label from 0 occurs in a split."""

    num_images: int
    pixels: np.ndarray  # pixels of each label, int64 [max(256, classes, ignore_index + 1)]
    images: np.ndarray  # images with at least one pixel of each label, int64, as long

    def pixel_share(self, label: int) -> float:
        """Return the fraction of all pixels that have this label, in 0..1."""
        return float(self.pixels[label] / max(1, self.pixels.sum()))

    def absent(self, num_classes: int) -> list[int]:
        """Return the labels of the classes without a pixel."""
        return np.flatnonzero(self.pixels[:num_classes] == 0).tolist()


def check_training_masks(
    pairs: Sequence[Pair],
    config: DataConfig,
    classes: Sequence[str],
    class_weights: Sequence[float] | None = None,
) -> None:
    """Raise DataError if fewer than two classes occur in the training masks.

    Raise ConfigError if all classes that occur have the weight 0 in `class_weights`.

    Reads masks in an order that depends on their number only, until it is known: one mask of most
    data sets, and every mask once if the answer is no. The order is random, because lists are often
    sorted, and masks without an object may come first.
    """
    num_labels = max(len(classes), config.ignore_index + 1)
    pixels = np.zeros(num_labels, np.int64)
    occurring: list[int] = []
    for index in np.random.default_rng(0).permutation(len(pairs)):
        labels = read_mask(pairs[index].mask, config, len(classes))
        pixels += np.bincount(labels.ravel(), minlength=num_labels)
        occurring = np.flatnonzero(pixels[: len(classes)]).tolist()
        if len(occurring) >= MIN_CLASSES and _has_weight(occurring, config, class_weights):
            return
    if len(occurring) < MIN_CLASSES:
        counts = LabelCounts(len(pairs), pixels, np.minimum(pixels, 1))
        raise DataError(too_few_classes(config, classes, counts))
    names = first_of([repr(classes[label]) for label in occurring], MAX_NAMES)
    raise ConfigError(
        [
            f"loss.class_weights: the weight of every class in the training masks is 0 ({names}), "
            "so none of them is trained; give one of them a weight above 0"
        ]
    )


def _has_weight(
    occurring: Sequence[int], config: DataConfig, class_weights: Sequence[float] | None
) -> bool:
    if class_weights is None:
        return True
    return any(class_weights[label] for label in occurring if label != config.ignore_index)


def too_few_classes(config: DataConfig, classes: Sequence[str], train: LabelCounts) -> str:
    """Return the message for training masks with fewer than two classes."""
    absent = [repr(classes[label]) for label in train.absent(len(classes))]
    noun, verb = ("class", "has") if len(absent) == 1 else (f"{len(absent)} classes", "have")
    text = (
        f"data.train: {noun} {first_of(absent, MAX_NAMES)} {verb} no pixel in "
        f"the {train.num_images} training masks of {config.root}, and training needs two classes"
    )
    hint = ignored_hint(config, classes, train)
    return text + (hint or "; check data.classes and the values of the masks")


def ignored_hint(config: DataConfig, classes: Sequence[str], train: LabelCounts) -> str:
    """Return how many pixels are ignored and which setting changes it, or "" if none are."""
    value = config.ignore_index
    absent = train.absent(len(classes))
    if not train.pixels[value] or not absent or value < len(classes):
        return ""
    share = percent(train.pixel_share(value))
    if config.reduces_zero_label:
        return (
            f"; {share} of all pixels have the value 0 or 255 and are ignored, and all other "
            "values are lowered by 1 (data.reduce_zero_label); if 0 is a class, "
            "--set data.reduce_zero_label=false"
        )
    if config.palette:
        return (
            f"; {share} of all pixels are ignored: their colours are in no class (data.palette, "
            "data.classes)"
        )
    if value in (config.label_map or {}).values():
        return f"; {share} of all pixels are ignored: data.label_map gives them {value}"
    text = f"; the value {value} is {share} of all pixels and is ignored (data.ignore_index); "
    if len(absent) > 1 and len(classes) > MIN_CLASSES:
        return text + f"if it is a class, {map_with(config, {value: 'LABEL'})}"
    label = absent[-1]
    return text + f"if it means {classes[label]!r}, {map_with(config, {value: label})}"


def ignored_class_note(config: DataConfig, classes: Sequence[str]) -> str:
    """Return a note if data.ignore_index is the label of a class, otherwise ""."""
    if config.ignore_index >= len(classes):
        return ""
    return (
        f"data.ignore_index: {config.ignore_index} is class "
        f"{classes[config.ignore_index]!r}, which is not trained and does not count in mIoU"
    )


def percent(share: float) -> str:
    """Return a fraction as text in per cent, with three digits."""
    return f"{100 * share:.3g} %"
