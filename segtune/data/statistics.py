"""The content of a split: pixels and images per class, refused files, digests and fingerprints.

Reads every image and mask, one after the other. `segtune.checks.audit` judges what it finds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from segtune.config.data_config import DataConfig
from segtune.data.class_coverage import LabelCounts, check_training_masks, ignored_class_note
from segtune.data.decode import DecodedPair, decode_oriented
from segtune.data.edge_fit import EdgeFit, fits_better
from segtune.data.image_files import INVERSE, SWAPS_SIDES, turn_upright
from segtune.data.images import read_image
from segtune.data.layouts import open_split
from segtune.data.leaks import Content, leak_warning
from segtune.data.masks import read_mask
from segtune.data.pairs import Pair
from segtune.data.refused import RefusedFiles, RefusedPair
from segtune.errors import DataError

# Receives a split and its pairs, and yields each pair when it is to be read: shows progress.
Watch = Callable[[str, Sequence[Pair]], Iterable[Pair]]

# The refused files of each kind of problem.
Refused = dict[tuple[str, str], RefusedFiles]

# Evenly spaced pairs of a split of which the edges are compared: all masks of a data set come from
# one tool, so that few show whether they are turned. A pair takes as long as reading it.
NUM_EDGE_PAIRS = 16
# Images with an EXIF orientation of which the edges are compared.
MAX_TURNED = 64


@dataclass
class TurnedImages:
    """Images with an EXIF orientation, if the size of the mask fits with and without it."""

    count: int = 0
    files: list[str] = field(default_factory=list)  # the first of them
    compared: int = 0
    fit_as_stored: int = 0  # of `compared`: the edges of the mask fit the image as stored

    def add(self, pair: Pair, decoded: DecodedPair, orientation: int) -> None:
        """Count an image if only its edges can say how the mask was drawn."""
        is_square = decoded.labels.shape[0] == decoded.labels.shape[1]
        if orientation == 1 or decoded.is_as_stored:
            return
        if orientation in SWAPS_SIDES and not is_square:
            return
        self.count += 1
        if self.count > MAX_TURNED:
            return
        self.files.append(pair.image)
        stored = turn_upright(decoded.image, INVERSE.get(orientation, orientation))
        as_stored = fits_better(decoded.labels, stored, decoded.image)
        if as_stored is not None:
            self.compared += 1
            self.fit_as_stored += as_stored


@dataclass(frozen=True)
class SplitStatistics(LabelCounts):
    """The content of a split."""

    refused: Sequence[RefusedFiles]  # in the order of the first file of each
    content: Sequence[Content]  # of each image that could be read
    as_stored: Sequence[str]  # images that are not turned upright: see DecodedPair
    turned: TurnedImages
    edges: EdgeFit  # of NUM_EDGE_PAIRS pairs


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
    refused: Refused = {}
    content: list[Content] = []
    as_stored: list[str] = []
    turned, edges = TurnedImages(), EdgeFit()
    pairs = open_split(config, split)
    compared = set(np.linspace(0, len(pairs) - 1, NUM_EDGE_PAIRS).round().astype(int).tolist())
    for index, pair in enumerate(watch(split, pairs) if watch else pairs):
        try:
            decoded, orientation = decode_oriented(pair, config, num_classes)
        except DataError as error:
            _refuse(refused, pair, error)
            content += _image_alone(pair, config)
            continue
        counts = count_labels(decoded.labels, num_labels)
        pixels += counts
        images += counts > 0
        content.append(Content.of(pair, decoded.image, decoded.labels))
        as_stored += [pair.image] if decoded.is_as_stored else []
        turned.add(pair, decoded, orientation)
        if index in compared and orientation == 1:
            edges.add(decoded.image, decoded.labels)
        if counts[:num_classes].sum() == 0:
            text = f"{pair.mask}: every pixel is ignored"
            _refuse(refused, pair, RefusedPair(text, "all-ignored"))
    groups = list(refused.values())
    return SplitStatistics(len(pairs), pixels, images, groups, content, as_stored, turned, edges)


def count_masks(config: DataConfig, split: str, num_classes: int) -> LabelCounts:
    """Return how often each label occurs in a split; reads its masks, not its images.

    Raises DataError if the split or one of its masks cannot be read.
    """
    num_labels = max(256, num_classes, config.ignore_index + 1)
    pixels, images = np.zeros(num_labels, np.int64), np.zeros(num_labels, np.int64)
    pairs = open_split(config, split)
    for pair in pairs:
        counts = count_labels(read_mask(pair.mask, config, num_classes), num_labels)
        pixels += counts
        images += counts > 0
    return LabelCounts(len(pairs), pixels, images)


def _image_alone(pair: Pair, config: DataConfig) -> list[Content]:
    """Return the content of a pair with a refused mask; nothing if the image cannot be read."""
    try:
        return [Content.of(pair, read_image(pair.image, config), None)]
    except DataError:
        return []


def count_labels(labels: np.ndarray, num_labels: int) -> np.ndarray:
    """Return the number of pixels of each label, int64 [num_labels]."""
    # OpenCV takes a quarter of the time, and returns float32, which is exact up to 2^24.
    if labels.dtype == np.uint8 and labels.size <= 1 << 24:
        counts = np.zeros(num_labels, np.int64)
        counts[:256] = cv2.calcHist([labels], [0], None, [256], [0, 256]).ravel()
        return counts
    return np.bincount(labels.ravel(), minlength=num_labels)


def _refuse(refused: Refused, pair: Pair, error: DataError) -> None:
    """Add a refused file to those of the same kind.

    Of one kind are texts that begin equally up to the first number and have the same way out.
    """
    message = str(error)
    file = next((file for file in (pair.mask, pair.image) if message.startswith(f"{file}: ")), "")
    text = message.removeprefix(f"{file}: ") if file else message
    key = (re.split(r"\d", text)[0], text.rpartition("; ")[2]) if file else (text, "")
    known = error if isinstance(error, RefusedPair) else None
    group = refused.setdefault(key, RefusedFiles(known.kind if known else "unreadable", text))
    group.add(file, text, known)
