"""Images that a data set has more than once: in both splits, in one list, under two names.

Validation images that are also training images make mIoU too high.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from segtune.config.data_config import DataConfig
from segtune.data.layouts import open_split, pairs_by_list
from segtune.data.pairs import Pair
from segtune.errors import first_of


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
    """Return a line for images that are listed twice, and for validation images that are trained.

    Reads lists and folders, no image.
    """
    train, val = open_split(config, "train"), open_split(config, "val")
    train_lists = dict(pairs_by_list(config, "train"))
    problems = [_listed_twice("train", name, pairs) for name, pairs in train_lists.items()]
    problems += [_listed_twice("val", *named) for named in pairs_by_list(config, "val")]
    if leaked := leaked_images(train, val):
        problems.append(
            f"data.val: {len(leaked)} of {len(val)} validation images are also training images"
            f"{_by_list(train_lists, leaked)}: {first_of([pair.name for pair in leaked], 3)}"
        )
    return [problem for problem in problems if problem]


def _listed_twice(split: str, name: str, pairs: Sequence[Pair]) -> str:
    """Return a line if a list has images more than once, otherwise ""."""
    numbers = Counter(pair.image for pair in pairs)
    twice = list(dict.fromkeys(pair.name for pair in pairs if numbers[pair.image] > 1))
    if not twice:
        return ""
    return (
        f"data.{split}: {_count(len(twice), 'name')} of the list {name} "
        f"{'is' if len(twice) == 1 else 'are'} in it more than once: {first_of(twice, 3)}"
    )


def _by_list(train_lists: Mapping[str, Sequence[Pair]], leaked: Sequence[Pair]) -> str:
    """Return how many of the leaked images each training list has, as ` (aug 904, train 1)`."""
    images = {pair.image for pair in leaked}
    numbers = [
        f"{name} {number}"
        for name, pairs in train_lists.items()
        if (number := len(images.intersection(pair.image for pair in pairs)))
    ]
    return f" (lists: {', '.join(numbers)})" if numbers else ""


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
