"""Rules over images that a data set has more than once: in both splits, in a list, in two files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from segtune.checks.label_findings import LabelFinding
from segtune.data.fingerprint import SIDE, NearPair
from segtune.data.leaks import (
    Content,
    ContentPair,
    equal_images,
    leaked_images,
    masks_differ,
)
from segtune.data.pairs import Pair
from segtune.errors import first_of

MAX_FILES = 5
# Names of images in one line.
MAX_NAMES = 3

TOO_HIGH = (
    "the model has learnt these images, so mIoU is too high, and a search prefers trials that "
    "learn them by heart"
)
NEARLY_TRAINED = (
    "copies of training images that were resized, compressed again or mirrored, or frames of one "
    "video, make mIoU too high"
)
TWICE = "each of them counts more than once in every epoch or in mIoU"
TWO_ANSWERS = "at most one of the masks is right, and no model can learn or predict both"
REMOVE = "list each of them in one split only"

ByList = Sequence[tuple[str, Sequence[Pair]]]  # the name and the pairs of each list


def listing_findings(train: ByList, val: ByList) -> list[LabelFinding]:
    """Return the findings on images that are listed twice, and on trained validation images."""
    findings = [
        finding
        for split, lists in (("train", train), ("val", val))
        for name, pairs in lists
        if (finding := _listed_twice(split, name, pairs))
    ]
    return findings


def leak_findings(
    train: Sequence[Pair], val: Sequence[Pair], train_lists: ByList
) -> list[LabelFinding]:
    """Return the finding that files of the validation are also training images."""
    leaked = leaked_images(train, val)
    if not leaked:
        return []
    names = first_of([pair.name for pair in leaked], MAX_NAMES)
    return [
        LabelFinding(
            *("error", "leak", "data.val"),
            f"{len(leaked)} of {len(val)} validation images are also training images"
            f"{_by_list(dict(train_lists), leaked)}: {names}",
            *(TOO_HIGH, REMOVE, len(leaked)),
            [pair.image for pair in leaked[:MAX_FILES]],
        )
    ]


def _listed_twice(split: str, name: str, pairs: Sequence[Pair]) -> LabelFinding | None:
    numbers = Counter(pair.image for pair in pairs)
    twice = {pair.name: pair.image for pair in pairs if numbers[pair.image] > 1}
    if not twice:
        return None
    return LabelFinding(
        *("error", "listed-twice", f"data.{split}"),
        f"{_count(len(twice), 'name')} of the list {name} {'is' if len(twice) == 1 else 'are'} "
        f"in it more than once: {first_of(list(twice), MAX_NAMES)}",
        "each image is used once, so the split is smaller than its list",
        "remove the repeated lines",
        len(twice),
        list(twice.values())[:MAX_FILES],
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


def equal_findings(equal: Sequence[ContentPair], num_val: int) -> list[LabelFinding]:
    """Return the finding on validation images with the pixels of a training image."""
    if not equal:
        return []
    different = sum(map(masks_differ, equal))
    masks = f", {different} of them with another mask" if different else ""
    return [
        LabelFinding(
            *("error", "leak", "data.val"),
            f"{len(equal)} of {num_val} validation images have the same pixels as a training image "
            f"of another name{masks}: first {_names(equal[0])}",
            *(TOO_HIGH, REMOVE, len(equal)),
            [pair.val.pair.image for pair in equal[:MAX_FILES]],
        )
    ]


def near_findings(near: Sequence[tuple[ContentPair, NearPair]], num_val: int) -> list[LabelFinding]:
    """Return the finding on validation images that nearly equal a training image."""
    if not near:
        return []
    closest, how = min(near, key=lambda found: (found[1].bits, found[1].distance))
    mirrored = sum(pair.is_mirrored for _, pair in near)
    text = f", {mirrored} of them mirrored" if mirrored else ""
    return [
        LabelFinding(
            *("note", "near-leak", "data.val"),
            f"{len(near)} of {num_val} validation images nearly equal a training image{text}: "
            f"closest {_names(closest)} ({how.bits} of {SIDE * SIDE} bits differ)",
            NEARLY_TRAINED,
            f"look at the pairs (--json FILE lists all); if they show one scene, {REMOVE}",
            len(near),
            [pair.val.pair.image for pair, _ in near[:MAX_FILES]],
        )
    ]


def duplicate_findings(split: str, contents: Sequence[Content]) -> Iterator[LabelFinding]:
    """Yield the findings on equal images of one split: an error only if their masks differ."""
    groups = equal_images(contents)
    same = [group for group in groups if not masks_differ(group)]
    other = [group for group in groups if masks_differ(group)]
    if other:
        yield _on_groups(split, other, "different", "keep the file with the right mask")
    if same:
        yield _on_groups(split, same, "equal", "keep one file of each, unless this is meant")


def _on_groups(
    split: str, groups: Sequence[Sequence[Content]], masks: str, way_out: str
) -> LabelFinding:
    first = groups[0]
    is_error = masks == "different"
    return LabelFinding(
        *("error" if is_error else "note", "two-masks" if is_error else "duplicate"),
        f"data.{split}",
        f"{_count(len(groups), 'image')} with several names and {masks} masks: "
        f"first {first[0].pair.image} and {first[1].pair.image}",
        *(TWO_ANSWERS if is_error else TWICE, way_out, len(groups)),
        [group[0].pair.image for group in groups[:MAX_FILES]],
    )


def _names(pair: ContentPair) -> str:
    return f"{pair.val.pair.image} and {pair.train.pair.image}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
