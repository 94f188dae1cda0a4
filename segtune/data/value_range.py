"""The range of values that becomes black to white, for images with more than 8 bits per channel."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from segtune.config.data_config import DataConfig
from segtune.data.deep_values import read_values, valid_values
from segtune.data.image_files import opened
from segtune.data.layouts import open_split
from segtune.data.pairs import Pair
from segtune.errors import DataError

log = logging.getLogger(__name__)

# Training images that are looked at, evenly spaced over the whole list.
NUM_SAMPLED = 64
# Values taken from each of them.
VALUES_PER_IMAGE = 10_000
# Shares of the values, in per cent, that become black and white: a few hot pixels would otherwise
# leave all others in a few steps of grey.
PERCENTILES = (0.1, 99.9)
# A value that this share of the pixels has, farther from all others than they are from each other,
# stands for pixels without data: the -9999 or 0 beside a satellite image, or saturated pixels.
FILL_SHARE = 0.001


def with_value_range(config: DataConfig) -> DataConfig:
    """Return the config with the value range that `find_value_range` finds."""
    value_range = find_value_range(config)
    if value_range == config.value_range:
        return config
    return config.override({"value_range": value_range})


def find_value_range(config: DataConfig, *, is_quiet: bool = False) -> tuple[float, float] | None:
    """Return `data.value_range`, or the range of the training images if they have more than 8 bits.

    The range depends on the training list only, not on `num_images` nor on the number of ranks.
    Returns None if no sampled image has more than 8 bits. Images that cannot be read are left out:
    they are reported when they are decoded. Logs the range, unless `is_quiet`. Raises
    DataError if the split cannot be opened.
    """
    if config.value_range is not None:
        return config.value_range
    pairs = open_split(config.override({"num_images": None}), "train")
    indices = np.unique(np.linspace(0, len(pairs) - 1, NUM_SAMPLED).round().astype(int))
    samples = [_sample(pairs[index], config) for index in indices]
    deep = [values for values in samples if values.size]
    if not deep:
        return None
    value_range = _range_of(_without_fill(np.concatenate(deep), is_quiet))
    if value_range and not is_quiet:
        log.info(
            "data.value_range: %d of %d sampled training images have more than 8 bits; values from "
            "%g to %g become black to white",
            *(len(deep), len(samples), *value_range),
        )
    return value_range


def _sample(pair: Pair, config: DataConfig) -> np.ndarray:
    """Return some values of an image, float64; none if it has 8 bits or cannot be read."""
    try:
        with opened(pair.image, config.max_megapixels) as (header, image):
            if not header.is_deep:
                return np.empty(0)
            valid = valid_values(read_values(header, image), header.nodata)
    except DataError:
        return np.empty(0)
    if len(valid) <= VALUES_PER_IMAGE:
        return valid.astype(np.float64)
    # At random places: evenly spaced ones could all lie in one column.
    places = np.random.default_rng(0).integers(0, len(valid), VALUES_PER_IMAGE)
    return valid[places].astype(np.float64)


def _without_fill(values: np.ndarray, is_quiet: bool) -> np.ndarray:
    """Return the values without the smallest and the largest one if these stand for no data."""
    for fill in (values.min(), values.max()):
        others = values[values != fill]
        share = 1 - len(others) / len(values)
        if _is_fill(fill, others, share):
            values = others
            if not is_quiet:
                log.warning(
                    "data.value_range: %.0f %% of the sampled pixels have the value %g, far from "
                    "all others: they count as pixels without data; set data.value_range if they "
                    "are data",
                    *(100 * share, fill),
                )
    return values


def _range_of(values: np.ndarray) -> tuple[float, float] | None:
    """Return the range that PERCENTILES of the values span; None if all values are equal."""
    low, high = _percentiles(values)
    if low == high:
        low, high = float(values.min()), float(values.max())
    return (low, high) if low < high else None


def _is_fill(fill: float, others: np.ndarray, share: float) -> bool:
    if share < FILL_SHARE or not others.size:
        return False
    low, high = _percentiles(others)
    distance = min(abs(fill - others.min()), abs(fill - others.max()))
    return low < high and distance > high - low


def _percentiles(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, PERCENTILES, method="nearest")
    return float(low), float(high)
