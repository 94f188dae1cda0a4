"""The sizes of a config's data set, as far as this machine knows them. Opens no image."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from segtune.config.schema import ExperimentConfig
from segtune.data.known_classes import NAMED_CLASSES
from segtune.data.layouts import class_names, open_split
from segtune.data.shapes import ShapesSpec
from segtune.errors import DataError

USUAL_CLASSES = 21  # PASCAL VOC's

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataSizes:
    """What a rule needs of the data set; None if this machine does not have it."""

    num_images: int | None = None  # in the training split
    num_classes: int | None = None
    is_here: bool = False  # whether this machine has the data set

    def classes_of(self, config: ExperimentConfig) -> int:
        """Return the number of classes; if it is unknown, that of `loss.class_weights` or VOC."""
        weights = config.loss.class_weights
        known = len(weights) if isinstance(weights, tuple) else USUAL_CLASSES
        return self.num_classes or known

    def steps_per_epoch(self, config: ExperimentConfig) -> int | None:
        """Return the optimiser steps of an epoch, at least 1, or None if images are unknown.

        If only `data.num_images` is known, there may be fewer steps.
        """
        numbers = [n for n in (self.num_images, config.data.num_images) if n is not None]
        return max(1, min(numbers) // config.schedule.batch_size) if numbers else None


def data_sizes(config: ExperimentConfig) -> DataSizes:
    """Return the numbers of training images and classes, each None if it is unknown here.

    Reads file lists, but no image, and writes nothing.
    """
    data = config.data
    num_images = ShapesSpec().num_train if data.layout == "shapes" else None
    num_classes = None
    if isinstance(data.classes, tuple) or data.classes in NAMED_CLASSES:
        num_classes = len(class_names(data))
    if not Path(data.root).is_dir():
        return DataSizes(num_images, num_classes)
    try:
        num_images = len(open_split(data, "train"))
        return DataSizes(num_images, len(class_names(data)), is_here=True)
    except DataError as error:
        # A trial explains this in full; the rules do without the numbers.
        log.info("data set not read: %s", error)
        return DataSizes(num_images, num_classes)
