"""The range of values that becomes black to white, for images with more than 8 bits per channel."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from segtune.config.data_config import DataConfig
from segtune.data.image_files import deep_values, open_header, open_image
from segtune.data.images import valid_values
from segtune.data.layouts import open_split
from segtune.data.pairs import Pair

log = logging.getLogger(__name__)

# Training images that are looked at, evenly spaced over the whole list.
NUM_SAMPLED = 64
# Values taken from each of them.
VALUES_PER_IMAGE = 10_000
# Shares of the values, in per cent, that become black and white: a few hot pixels, or the border of
# a satellite image, would otherwise leave all others in a few steps of grey.
PERCENTILES = (0.1, 99.9)


def find_value_range(config: DataConfig) -> tuple[float, float] | None:
    """Return `data.value_range`, or the range of the training images if they have more than 8 bits.

    The range depends on the training list only, not on `num_images` nor on the number of ranks.
    Returns None if no sampled image has more than 8 bits. Raises DataError if the split or a
    sampled image cannot be opened.
    """
    if config.value_range is not None:
        return config.value_range
    pairs = open_split(config.override({"num_images": None}), "train")
    sampled = pairs[:: max(1, len(pairs) // NUM_SAMPLED)][:NUM_SAMPLED]
    values = [_sample(pair, config) for pair in sampled if _is_deep(pair, config)]
    value_range = _range_of(values)
    if value_range:
        log.info(
            "data.value_range: %d of %d sampled training images have more than 8 bits; values from "
            "%g to %g become black to white",
            *(len(values), len(sampled), *value_range),
        )
    return value_range


def _is_deep(pair: Pair, config: DataConfig) -> bool:
    return open_header(pair.image, config.max_megapixels).bits > 8


def _sample(pair: Pair, config: DataConfig) -> np.ndarray:
    stored = open_image(pair.image, config.max_megapixels)
    valid = valid_values(deep_values(stored), stored.nodata)
    return valid[:: max(1, len(valid) // VALUES_PER_IMAGE)].astype(np.float64)


def _range_of(values: Sequence[np.ndarray]) -> tuple[float, float] | None:
    """Return the range that PERCENTILES of the values span; None if they span none."""
    joined = np.concatenate(values) if values else np.empty(0)
    if not joined.size:
        return None
    low, high = (float(value) for value in np.percentile(joined, PERCENTILES, method="nearest"))
    if low == high:
        low, high = float(joined.min()), float(joined.max())
    return (low, high) if low < high else None
