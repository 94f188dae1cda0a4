"""How the files of an unknown data set lie on disk: the settings that open it.

Starts from the names of the folders and follows the settings that messages of `data` propose, as a
user would. Opens no image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segtune.config.data_config import DataConfig
from segtune.config.yaml_io import parse_assignments
from segtune.data.layout_hints import ends_of_masks, folder_names, usual_folder
from segtune.data.layouts import complete_pairs
from segtune.data.pairs import Pair
from segtune.errors import ConfigError, DataError, settings_in

# More settings than a data set can need: a chain of messages that is longer goes in circles.
MAX_ROUNDS = 8
# What a message may propose about files and names. Others, such as data.allow_lossy_masks, trade
# something for something else, and the user decides.
FOLLOWED = (
    *("layout", "root", "images", "masks", "image_suffix", "mask_suffix", "train", "val"),
    *("classes", "label_map"),
)
# The folder layout reads images/./x.png as the split `.`: everything that the folders have.
EVERYTHING = {"train": ["."], "val": "."}

Split = tuple[list[Pair], list[str]]  # the pairs, and the images without a mask


@dataclass(frozen=True)
class FoundLayout:
    """Settings that open a data set, and what they open."""

    settings: Mapping[str, Any]  # of `data`
    train: Sequence[Pair]  # of all images, if there is only one set
    val: Sequence[Pair]  # empty if there is only one set
    unpaired: Sequence[str] = field(default=())  # images without a mask

    @property
    def pairs(self) -> list[Pair]:
        """The pairs of both splits."""
        return [*self.train, *self.val]


def find_layout(root: Path, known: Mapping[str, Any]) -> FoundLayout:
    """Return how the data set in a folder is read; `known` are settings of `data` that stand.

    Raises DataError with what is missing if no settings open it.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give the folder that has images and masks")
    start = {"root": str(root.absolute()), **_start(root), **known}
    try:
        settings, train = _followed(start, "train", known)
    except DataError as error:
        return _single_set(root, start, known, error)
    try:
        settings, val = _followed(settings, "val", known)
    except DataError:
        if "val" in known:
            raise
        return FoundLayout(settings, train[0], [], train[1])
    if {pair.image for pair in train[0]} == {pair.image for pair in val[0]}:
        return FoundLayout(settings, train[0], [], train[1])
    return FoundLayout(settings, train[0], val[0], [*train[1], *val[1]])


def _start(root: Path) -> dict[str, Any]:
    """Return the settings of the layout that the folders look like."""
    names = folder_names(root)
    if "JPEGImages" in names and "ImageSets" in names:
        return {"layout": "voc"}
    if "annotations" in names and "training" in folder_names(root / "images"):
        return {"layout": "ade20k", "classes": "ade20k"}
    return {"layout": "folder"}


def _single_set(
    root: Path, start: Mapping[str, Any], known: Mapping[str, Any], error: DataError
) -> FoundLayout:
    """Return the data set as one set of images without splits; otherwise raise `error`."""
    if "train" in known:
        raise error
    folders = folder_names(root)
    if len(folders) == 1 and not usual_folder(folders, "image"):  # an archive with one folder
        return find_layout(root / folders[0], known)
    images = usual_folder(folders, "image")
    masks = usual_folder([name for name in folders if name != images], "mask")
    place = {"layout": "folder", "images": images or ".", "masks": masks or "."}
    if not (images or masks):  # images and masks together in the root
        place |= _settings_of(ends_of_masks(root))
    try:
        settings, (pairs, unpaired) = _followed(
            {**start, **place, **EVERYTHING, **known}, "train", known
        )
    except DataError as second:
        # The message of the first try is about splits, which the user need not have.
        raise (second if images and masks else error) from None
    return FoundLayout(settings, pairs, [], unpaired)


def _followed(
    settings: Mapping[str, Any], split: str, known: Mapping[str, Any]
) -> tuple[dict[str, Any], Split]:
    """Open a split; while this fails, add what the message proposes. Raises the last DataError."""
    settings = dict(settings)
    for _ in range(MAX_ROUNDS):
        try:
            return settings, complete_pairs(DataConfig.parse(settings), split)
        except DataError as error:
            proposed = {k: v for k, v in _settings_of(str(error)).items() if k not in known}
            if all(settings.get(name) == value for name, value in proposed.items()):
                raise
            settings |= proposed
    return settings, complete_pairs(DataConfig.parse(settings), split)


def _settings_of(message: str) -> dict[str, Any]:
    """Return the settings of `data` about files that a message proposes."""
    try:
        changes, _ = parse_assignments(settings_in(message))
    except ConfigError:
        return {}
    settings = {name.removeprefix("data."): value for name, value in changes.items()}
    return {name: value for name, value in settings.items() if name in FOLLOWED}
