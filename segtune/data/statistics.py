"""Pixels and images per class of a split, and what could not be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segtune.config.schema import ExperimentConfig
from segtune.errors import DataError

if TYPE_CHECKING:
    import numpy


class SplitStatistics:
    """What a split holds: pixels and images per label, and what could not be read."""

    def __init__(
        self, counts: numpy.ndarray, images: numpy.ndarray, num_images: int, problems: list[str]
    ) -> None:
        self.counts, self.images, self.num_images, self.problems = (
            counts,
            images,
            num_images,
            problems,
        )

    def cells(self, label: int) -> tuple[str, str]:
        """Returns the share of pixels and the number of images of a label."""
        return f"{100 * self.counts[label] / max(1, self.counts.sum()):.2f} %", str(
            self.images[label]
        )


def read_split(config: ExperimentConfig, split: str, num_classes: int) -> SplitStatistics:
    """Reads every pair of a split. Raises DataError only where the split itself cannot be opened."""
    import numpy as np

    from segtune.data.decode import load_pair
    from segtune.data.layouts import open_split

    counts, images, problems = np.zeros(256, np.int64), np.zeros(256, np.int64), []
    pairs = open_split(config.data, split)
    for pair in pairs:
        try:
            _, mask = load_pair(pair, config.data, num_classes)
        except DataError as error:
            problems.append(str(error))
            continue
        found = np.bincount(mask.ravel(), minlength=256)
        counts += found
        images += found > 0
        if found[:num_classes].sum() == 0:
            problems.append(f"{pair.mask}: every pixel is ignored")
    return SplitStatistics(counts, images, len(pairs), problems)
