"""The content of a data set: pixels and images per class, and everything that is wrong with it.

Reads every image and mask. Prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from segtune.config.data_config import DataConfig
from segtune.data.class_coverage import (
    LabelCounts,
    check_training_masks,
    coverage_notes,
    coverage_problems,
    ignored_class_note,
)
from segtune.data.decode import as_stored_note, decode_pair
from segtune.data.layouts import class_names, open_split
from segtune.data.leaks import Content, content_problems, leak_warning, listing_problems
from segtune.data.masks import check_mask_settings
from segtune.data.pairs import Pair
from segtune.data.value_range import with_value_range
from segtune.errors import DataError

# Receives a split and its pairs, and yields each pair when it is to be read: shows progress.
Watch = Callable[[str, Sequence[Pair]], Iterable[Pair]]


@dataclass(frozen=True)
class SplitStatistics(LabelCounts):
    """The content of a split."""

    problems: Sequence[str]
    content: Sequence[Content]  # of each pair that could be read
    as_stored: Sequence[str]  # images that are not turned upright: see DecodedPair


@dataclass(frozen=True)
class DataSetStatistics:
    """The content of both splits, the problems of the data set, and notes."""

    classes: Sequence[str]
    train: SplitStatistics
    val: SplitStatistics
    problems: Sequence[str]  # each makes scores wrong or hides pixels from the training
    notes: Sequence[str]  # also true of good data sets


def check_data_set(config: DataConfig, watch: Watch | None = None) -> DataSetStatistics:
    """Read the whole data set and list its problems and notes.

    `watch` is called with each split before it is read, and yields its pairs. Raises DataError only
    if the class names, the colours of `data.palette` or a split cannot be found, and ConfigError if
    the settings of the labels contradict each other.
    """
    classes = class_names(config)
    check_mask_settings(config)
    config = with_value_range(config)
    train = read_split(config, "train", len(classes), watch)
    val = read_split(config, "val", len(classes), watch)
    leaks = content_problems(train.content, val.content)
    problems = [
        *train.problems,
        *val.problems,
        *coverage_problems(config, classes, train, val),
        *listing_problems(config),
        *leaks.problems,
    ]
    notes = [*coverage_notes(config, classes, train, val), *leaks.notes]
    for split, statistics in (("train", train), ("val", val)):
        if statistics.as_stored:
            notes.append(as_stored_note(split, statistics.as_stored[0], len(statistics.as_stored)))
    return DataSetStatistics(classes, train, val, problems, notes)


def check_at_the_start(
    config: DataConfig,
    classes: Sequence[str],
    train: Sequence[Pair],
    val: Sequence[Pair],
    class_weights: Sequence[float] | None = None,
) -> list[str]:
    """Return the warnings before a training run or a search. Reads few masks, and no image.

    Raises DataError or ConfigError as `check_training_masks` does.
    """
    check_training_masks(train, config, classes, class_weights)
    warnings = (ignored_class_note(config, classes), leak_warning(train, val))
    return [warning for warning in warnings if warning]


def read_split(
    config: DataConfig, split: str, num_classes: int, watch: Watch | None = None
) -> SplitStatistics:
    """Read every pair of a split. Raises DataError only if the split itself cannot be opened."""
    num_labels = max(256, num_classes, config.ignore_index + 1)
    pixels = np.zeros(num_labels, np.int64)
    images = np.zeros(num_labels, np.int64)
    problems: dict[str, list[str]] = {}  # the files of each kind of problem
    content = []
    as_stored = []
    pairs = open_split(config, split)
    for pair in watch(split, pairs) if watch else pairs:
        try:
            image, mask, is_as_stored = decode_pair(pair, config, num_classes)
        except DataError as error:
            _add_problem(problems, pair, str(error))
            continue
        counts = np.bincount(mask.ravel(), minlength=num_labels)
        pixels += counts
        images += counts > 0
        content.append(Content.of(pair, image, mask))
        as_stored += [pair.image] if is_as_stored else []
        if counts[:num_classes].sum() == 0:
            _add_problem(problems, pair, f"{pair.mask}: every pixel is ignored")
    grouped = [_describe(text, files) for text, files in problems.items()]
    return SplitStatistics(len(pairs), pixels, images, grouped, content, as_stored)


def _add_problem(problems: dict[str, list[str]], pair: Pair, message: str) -> None:
    """Add a problem of one file to those that have the same text after the file's name."""
    for file in (pair.mask, pair.image):
        if message.startswith(f"{file}: "):
            problems.setdefault(message.removeprefix(f"{file}: "), []).append(file)
            return
    problems.setdefault(message, []).append("")


def _describe(text: str, files: Sequence[str]) -> str:
    """Return one line for a problem of one or more files."""
    if len(files) == 1:
        return f"{files[0]}: {text}" if files[0] else text
    return f"{len(files)} files: {text}; first {min(files)}" if files[0] else text
