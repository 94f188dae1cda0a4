"""Images that a data set has more than once: in both splits, in one list, under two names.

Validation images that are also training images make mIoU too high.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from segtune.data.fingerprint import NearPair, fingerprint, near_pairs
from segtune.data.pairs import Pair


@dataclass(frozen=True)
class Content:
    """Digests of a pair's decoded pixels. The image's is None if it has a single colour."""

    pair: Pair
    image: bytes | None
    mask: bytes | None  # None if the mask is refused
    grey: np.ndarray  # of the image: see `fingerprint`

    @classmethod
    def of(cls, pair: Pair, image: np.ndarray, mask: np.ndarray | None) -> Content:
        """Return the digests of a pair; `mask` is None if it is refused."""
        # Tiles without content, such as the rim of a satellite image, are equal without being the
        # same image.
        first = image[0, 0]
        # The first row decides for most images; comparing all pixels takes as long as the digest.
        is_blank = bool((image[0] == first).all()) and bool((image == first).all())
        digest = None if is_blank else _digest(image)
        of_mask = None if mask is None else _digest(mask)
        return cls(pair, digest, of_mask, fingerprint(image))


class ContentPair(NamedTuple):
    """A validation image and the training image that it repeats."""

    val: Content
    train: Content


def masks_differ(contents: Iterable[Content]) -> bool:
    """Return whether two of the masks differ. Refused masks do not count."""
    return len({content.mask for content in contents if content.mask}) > 1


def _digest(array: np.ndarray) -> bytes:
    # The labels may be stored as uint8 or uint16. Equal pixels of another shape are other images.
    shape = repr(array.shape).encode()
    return hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16, key=shape).digest()


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


def equal_images(contents: Sequence[Content]) -> list[list[Content]]:
    """Return the groups of two or more files with equal images, in the order of the split."""
    groups: dict[bytes, dict[str, Content]] = {}
    for content in contents:
        if content.image:
            groups.setdefault(content.image, {}).setdefault(content.pair.image, content)
    return [list(group.values()) for group in groups.values() if len(group) > 1]


def equal_across(train: Sequence[Content], val: Sequence[Content]) -> list[ContentPair]:
    """Return the validation images with the pixels of a training image of another file."""
    by_digest = {content.image: content for content in reversed(train) if content.image}
    listed = {content.pair.image for content in train}
    return [
        ContentPair(content, by_digest[content.image])
        for content in val
        if content.image in by_digest and content.pair.image not in listed
    ]


def near_across(
    train: Sequence[Content], val: Sequence[Content]
) -> list[tuple[ContentPair, NearPair]]:
    """Return the validation images that nearly equal a training image, and are not equal to one."""
    trained = {content.image for content in train}
    listed = {content.pair.image for content in train}
    ours = [
        content
        for content in val
        if content.image and content.image not in trained and content.pair.image not in listed
    ]
    theirs = [content for content in train if content.image]
    pairs = near_pairs([c.grey for c in ours], [c.grey for c in theirs])
    return [(ContentPair(ours[pair.first], theirs[pair.second]), pair) for pair in pairs]
