"""Translate the values of a mask file to training labels, and describe wrong values."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from segtune.config.data_config import IGNORE_INDEX, DataConfig
from segtune.errors import ConfigError, setting

# Labels have at most 16 bits, and one of the 65,536 values is ignore_index.
MAX_CLASSES = 65_534
# The values of a mask are looked up in a table if they lie within this span, otherwise searched.
MAX_TABLE = 1 << 20
MAX_SHOWN = 8
# Instance masks hold label * 256 + instance (KITTI) or label * 1000 + instance (Cityscapes).
INSTANCE_FACTORS = (256, 1000)
# Masks of Cellpose and others have 0 for the background and number the objects from 1.
OBJECT_AND_REST = 2  # classes


def check_label_settings(config: DataConfig, num_classes: int) -> None:
    """Raise ConfigError if the settings of the labels do not fit the number of classes."""
    problems = []
    if num_classes > MAX_CLASSES:
        problems.append(f"data.classes: {num_classes} classes; at most {MAX_CLASSES} are possible")
    elif num_classes > IGNORE_INDEX == config.ignore_index:
        problems.append(
            f"data.ignore_index: {IGNORE_INDEX} is also the label of one of the {num_classes} "
            "classes; --set data.ignore_index=65535"
        )
    for value, label in (config.label_map or {}).items():
        if label >= num_classes and label != config.ignore_index:
            problems.append(
                f"data.label_map: {value} -> {label}: no such label; allowed are "
                f"0..{num_classes - 1} and {config.ignore_index} (data.ignore_index)"
            )
    if problems:
        raise ConfigError(problems)


def label_dtype(config: DataConfig, num_classes: int) -> type[np.uint8] | type[np.uint16]:
    """Return uint8 if all labels and ignore_index fit into it, otherwise uint16."""
    return np.uint16 if num_classes > 255 or config.ignore_index > 255 else np.uint8


def labels_of_values(values: np.ndarray, config: DataConfig) -> np.ndarray:
    """Return the training label, int64, of each value in a mask file."""
    labels = values.astype(np.int64)
    if config.reduces_zero_label:
        ignored = max(IGNORE_INDEX, config.ignore_index)  # 255 is a label of 16-bit masks
        return np.where((labels == 0) | (labels == ignored), config.ignore_index, labels - 1)
    for value, label in (config.label_map or {}).items():
        labels[values == value] = label
    return labels


def is_invalid(labels: np.ndarray, config: DataConfig, num_classes: int) -> np.ndarray:
    """Return, for each label, whether it is neither a class nor ignore_index."""
    return ((labels >= num_classes) | (labels < 0)) & (labels != config.ignore_index)


def occurs(wanted: np.ndarray, values: np.ndarray) -> bool:
    """Return whether one of `values`, uint8 [H, W], is true in the table `wanted`, bool [256]."""
    numbers = np.flatnonzero(wanted)
    if not numbers.size:
        return False
    first, last = int(numbers[0]), int(numbers[-1])
    if numbers.size == last - first + 1:  # two comparisons take a third of the time of a table
        return bool(cv2.countNonZero(cv2.inRange(values, first, last)))
    return bool(cv2.countNonZero(cv2.LUT(values, wanted.astype(np.uint8))))


def index_values(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (distinct, index) with `values == distinct[index]`, of integers of any size.

    `distinct` may hold values that do not occur.
    """
    low, high = int(values.min()), int(values.max())
    if high - low < MAX_TABLE:
        return np.arange(low, high + 1), values.astype(np.int64) - low
    distinct, index = np.unique(values, return_inverse=True)
    return distinct, index.reshape(values.shape)


def map_with(config: DataConfig, entries: Mapping[int, int | str]) -> str:
    """Return `--set 'data.label_map=…'` that adds entries to those that the config has."""
    return setting("data.label_map", {**(config.label_map or {}), **entries})


def describe_invalid(
    values: np.ndarray, config: DataConfig, num_classes: int, nodata: float | None = None
) -> str:
    """Return the message for a mask that has labels outside the classes, with a way out.

    `values` are those of the file, of which one or more are invalid. `nodata` is the value that the
    file itself declares as missing.
    """
    distinct, counts = np.unique(values, return_counts=True)
    labels = labels_of_values(distinct, config)
    invalid = is_invalid(labels, config, num_classes)
    wrong = distinct[invalid]
    shown = labels[invalid].tolist()
    more = f" and {len(shown) - MAX_SHOWN} more" if len(shown) > MAX_SHOWN else ""
    in_file = ""
    if shown != wrong.tolist():
        in_file = f" (values {wrong[:MAX_SHOWN].tolist()} in the file)"
    return (
        f"labels {shown[:MAX_SHOWN]}{more}{in_file} are outside the {num_classes} classes "
        f"(0..{num_classes - 1}, {config.ignore_index} = ignore): {counts[invalid].sum()} of "
        f"{values.size} pixels; {_way_out(distinct, wrong, config, num_classes, nodata)}"
    )


def _way_out(
    distinct: np.ndarray,
    wrong: np.ndarray,
    config: DataConfig,
    num_classes: int,
    nodata: float | None,
) -> str:
    """Return the likely cause of wrong values, with the setting that mends it."""
    known = set(distinct.tolist())
    ignore = config.ignore_index
    if nodata is not None and wrong.tolist() == [nodata]:
        return (
            f"the file declares {nodata:g} as nodata: to ignore it, "
            f"{map_with(config, {int(nodata): ignore})}"
        )
    if wrong.size == 1 and wrong[0] < 0:
        return f"to ignore these pixels, {map_with(config, {int(wrong[0]): ignore})}"
    if wrong.tolist() == [255] and not (len(known) == 2 and num_classes == 2):
        return (
            "if 255 marks pixels without a label, --set data.ignore_index=255 or "
            f"{map_with(config, {255: ignore})}"
        )
    if config.reduces_zero_label:
        return "check data.classes, data.ignore_index and data.reduce_zero_label"
    return _other_numbering(distinct, wrong, config, num_classes, nodata)


def _other_numbering(
    distinct: np.ndarray,
    wrong: np.ndarray,
    config: DataConfig,
    num_classes: int,
    nodata: float | None,
) -> str:
    """Return how the file may number its classes or objects, with the setting that reads it."""
    ignore = config.ignore_index
    if steps := _even_steps(distinct, num_classes):
        levels = {value: label for label, value in enumerate(steps) if value}
        return f"if the labels were saved as grey levels, {map_with(config, levels)}"
    if distinct.min() >= 1 and distinct[distinct != ignore].max() == num_classes:
        return "if the labels start at 1, --set data.reduce_zero_label=true"
    if nodata == 0 and wrong.tolist() == [num_classes]:
        return "the file declares 0 as nodata: to ignore it, --set data.reduce_zero_label=true"
    if factor := _instance_factor(distinct, num_classes):
        return (
            f"if this is an instance mask (label * {factor} + number), use the masks of labels "
            f"instead, or divide by {factor}"
        )
    if wrong.tolist() == [num_classes]:
        return (
            f"if 0 means no class and the classes have 1..{num_classes}, --set "
            f"data.reduce_zero_label=true; if {num_classes} is one more class, add its name to "
            f"data.classes; to ignore it, {map_with(config, {num_classes: ignore})}"
        )
    numbers = distinct[distinct != ignore]
    if num_classes == OBJECT_AND_REST and numbers.size > numbers.max() / 2 and numbers.min() >= 0:
        return (
            "if the values number the objects (an instance mask), give all objects the label 1: "
            "save the masks as (mask > 0)"
        )
    return "check data.classes, data.ignore_index, data.label_map and data.reduce_zero_label"


def _instance_factor(distinct: np.ndarray, num_classes: int) -> int:
    """Return n if the values may be label * n + instance; otherwise 0."""
    if distinct.min() < 0 or distinct.max() < 256:
        return 0
    return next((n for n in INSTANCE_FACTORS if distinct.max() < n * num_classes), 0)


def _even_steps(distinct: np.ndarray, num_classes: int) -> list[int]:
    """Return the grey levels 0, n, 2n, … of the classes, if the values are such levels."""
    values = [int(value) for value in distinct if value]
    if not values or min(values) < 0:
        return []
    if len(values) == 1:
        return [0, values[0]] if num_classes == 2 else []
    step = int(np.gcd.reduce(values))
    num_levels = max(values) // step + 1
    if step == 1 or num_levels > num_classes:
        return []
    return [step * level for level in range(num_levels)]
