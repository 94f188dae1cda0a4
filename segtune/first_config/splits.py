"""The lists of a first config: a split of a data set that has none, and lists without odd files."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from segtune.data.labelme import split_names
from segtune.data.pairs import Pair
from segtune.errors import DataError
from segtune.first_config.layout import FoundLayout


@dataclass(frozen=True)
class Split:
    """The pairs of train and val, and whether lists of them have to be written."""

    train: Sequence[Pair]
    val: Sequence[Pair]
    needs_lists: bool


def make_split(found: FoundLayout, odd: Collection[str], val_share: float, seed: int) -> Split:
    """Return the usable pairs of both splits; `odd` are images that are left out.

    A single set is split by the hashes of names and seed. Raises DataError if a split is empty.
    """
    train = [pair for pair in found.train if pair.image not in odd]
    val = [pair for pair in found.val if pair.image not in odd]
    if not found.val:
        by_image = {pair.image: pair for pair in train}
        names = split_names(list(by_image), val_share, seed)
        train, val = ([by_image[name] for name in of_split] for of_split in names)
    for name, pairs in (("training", train), ("validation", val)):
        if not pairs:
            num_odd = f" ({len(odd)} cannot be used)" if odd else ""
            raise DataError(
                f"{found.settings['root']}: no {name} image is left{num_odd}; at least two images "
                "with masks are needed, one for each split"
            )
    return Split(train, val, needs_lists=not found.val or bool(odd))


def list_text(pairs: Sequence[Pair], root: Path) -> str:
    """Return a list of pairs: image and mask, relative to the root, separated by a tab."""
    # A name without a folder would be looked for in the folder of the images only.
    rows = ((os.path.relpath(path, root) for path in (pair.image, pair.mask)) for pair in pairs)
    return "".join("\t".join(p if "/" in p else f"./{p}" for p in row) + "\n" for row in rows)
