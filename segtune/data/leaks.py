"""Images that a data set has more than once: in both splits, in one list, under two names.

Validation images that are also training images make mIoU too high.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segtune.config.data_config import DataConfig
from segtune.data.layouts import Pair, open_split, root_folder
from segtune.data.text_files import numbered_lines
from segtune.errors import DataError


@dataclass(frozen=True)
class Content:
    """Digests of a pair's decoded pixels. The image's is None if it has a single colour."""

    pair: Pair
    image: bytes | None
    mask: bytes

    @classmethod
    def of(cls, pair: Pair, image: np.ndarray, mask: np.ndarray) -> Content:
        """Return the digests of a pair."""
        # Tiles without content, such as the rim of a satellite image, are equal without being the
        # same image.
        first = image[0, 0]
        # The first row decides for most images; comparing all pixels takes as long as the digest.
        is_blank = bool((image[0] == first).all()) and bool((image == first).all())
        return cls(pair, None if is_blank else _digest(image), _digest(mask))


def _digest(array: np.ndarray) -> bytes:
    # The labels may be stored as uint8 or uint16. Equal pixels of another shape are other images.
    shape = repr(array.shape).encode()
    return hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16, key=shape).digest()


@dataclass(frozen=True)
class Duplicates:
    """Equal images as lines of text."""

    problems: Sequence[str]
    notes: Sequence[str]


def leaked_images(train: Sequence[Pair], val: Sequence[Pair]) -> list[Pair]:
    """Return the validation pairs of which the image file is also a training image."""
    trained = {pair.image for pair in train}
    return [pair for pair in val if pair.image in trained]


def leak_warning(train: Sequence[Pair], val: Sequence[Pair]) -> str:
    """Return one line if validation images are also training images, otherwise ""."""
    leaked = leaked_images(train, val)
    if not leaked:
        return ""
    return (
        f"data.val: {len(leaked)} of {len(val)} validation images are also training images "
        f"(first {leaked[0].name}), so mIoU is too high; see segtune data check"
    )


def listing_problems(config: DataConfig) -> list[str]:
    """Return a line for validation names that a training list has too, and for names listed twice.

    Reads lists and folders, no image.
    """
    lists = [("train", name) for name in config.train] + [("val", config.val)]
    problems = []
    for split, name in dict.fromkeys(lists):
        twice = [line for line, number in Counter(_list_lines(config, name)).items() if number > 1]
        if twice:
            problems.append(
                f"data.{split}: {_count(len(twice), 'name')} of the list {name} "
                f"{'is' if len(twice) == 1 else 'are'} in it more than once: {_some(twice)}"
            )
    train, val = open_split(config, "train"), open_split(config, "val")
    leaked = leaked_images(train, val)
    if leaked:
        problems.append(
            f"data.val: {len(leaked)} of {len(val)} validation images are also training images"
            f"{_by_list(config, train, leaked)}: {_some(pair.name for pair in leaked)}"
        )
    return problems


def _by_list(config: DataConfig, train: Sequence[Pair], leaked: Sequence[Pair]) -> str:
    """Return how many of the leaked images each training list has, as ` (aug 904, train 1)`."""
    images = {pair.image for pair in leaked}
    numbers = []
    for name in config.train:
        changes: dict[str, object] = {"train": [name], "num_images": None}
        if config.layout in ("voc", "shapes"):
            # The default folder of masks depends on all lists together.
            changes["masks"] = os.path.relpath(Path(train[0].mask).parent, root_folder(config))
        try:
            listed = {pair.image for pair in open_split(config.override(changes), "train")}
        except DataError:
            continue
        if number := len(images & listed):
            numbers.append(f"{name} {number}")
    return f" (lists: {', '.join(numbers)})" if numbers else ""


def _list_lines(config: DataConfig, name: str) -> list[str]:
    """Return the lines of a split's list, or nothing if the split is a folder."""
    folder = "ImageSets/Segmentation" if config.layout in ("voc", "shapes") else "."
    path = root_folder(config) / folder / f"{name}.txt"
    if config.layout == "ade20k" or not path.is_file():
        return []
    return [text for _, text in numbered_lines(path)]


def content_problems(train: Sequence[Content], val: Sequence[Content]) -> Duplicates:
    """Return the images that are equal in every pixel although their files have other names.

    Equal images in both splits, and equal images with different masks, are problems. Equal images
    with equal masks inside one split are notes.
    """
    problems = _leaks_by_content(train, val)
    notes = []
    for split, contents in (("train", train), ("val", val)):
        groups = _equal_images(contents)
        same = [group for group in groups if len({content.mask for content in group}) == 1]
        other = [group for group in groups if len({content.mask for content in group}) > 1]
        if other:
            problems.append(
                f"data.{split}: {_count(len(other), 'image')} with several names and different "
                f"masks: {_group_text(other)}"
            )
        if same:
            notes.append(
                f"data.{split}: {_count(len(same), 'image')} with several names and equal masks: "
                f"{_group_text(same)}"
            )
    return Duplicates(problems, notes)


def _leaks_by_content(train: Sequence[Content], val: Sequence[Content]) -> list[str]:
    by_digest = {content.image: content for content in reversed(train) if content.image}
    listed = {content.pair.image for content in train}
    equal = [
        (content, by_digest[content.image])
        for content in val
        if content.image in by_digest and content.pair.image not in listed
    ]
    if not equal:
        return []
    first, other = equal[0]
    different = sum(ours.mask != theirs.mask for ours, theirs in equal)
    masks = f", {different} of them with another mask" if different else ""
    return [
        f"data.val: {len(equal)} of {len(val)} validation images have the same pixels as a "
        f"training image of another name{masks}: first {first.pair.image} and {other.pair.image}"
    ]


def _equal_images(contents: Sequence[Content]) -> list[list[Content]]:
    """Return the groups of two or more files with equal images, in the order of the split."""
    groups: dict[bytes, dict[str, Content]] = {}
    for content in contents:
        if content.image:
            groups.setdefault(content.image, {}).setdefault(content.pair.image, content)
    return [list(group.values()) for group in groups.values() if len(group) > 1]


def _group_text(groups: Sequence[Sequence[Content]]) -> str:
    first = groups[0]
    return f"first {first[0].pair.image} and {first[1].pair.image}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _some(names: Iterable[str]) -> str:
    """Return the first names and how many more there are."""
    names = list(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
