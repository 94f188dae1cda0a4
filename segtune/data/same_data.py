"""Whether two machines see the same data set: the names of all pairs, the sizes of some files.

Reads folder listings and lists, and the sizes of a few files. Opens no image.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from segtune.config.data_config import DataConfig
from segtune.data.layouts import open_split
from segtune.data.pairs import Pair

# Evenly spaced pairs of a split whose files are measured. On a network file system a `stat` takes
# up to a millisecond.
NUM_SIZED_PAIRS = 32


@dataclass(frozen=True)
class SplitContent:
    """What a machine sees of one split."""

    num_pairs: int
    names: str  # a digest of the names of all images and masks, in their order
    sizes: Mapping[str, int]  # of some files, in bytes, by their path under `data.root`


@dataclass(frozen=True)
class DataContent:
    """What a machine sees of a data set."""

    train: SplitContent
    val: SplitContent

    def differences(self, other: DataContent, machine: str) -> Iterator[str]:
        """Yield in words how `other`, seen from `machine`, differs from this one."""
        for split in ("train", "val"):
            here, there = getattr(self, split), getattr(other, split)
            if difference := _difference(here, there, machine):
                yield f"data.{split}: {difference}"


def data_content(config: DataConfig) -> DataContent:
    """Return what this machine sees of the data set. Raise DataError if it is not usable."""
    train, val = (_split_content(config, open_split(config, split)) for split in ("train", "val"))
    return DataContent(train, val)


def _split_content(config: DataConfig, pairs: Sequence[Pair]) -> SplitContent:
    def relative(path: str) -> str:
        return os.path.relpath(path, config.root)

    names = hashlib.sha256()
    for pair in pairs:
        names.update(f"{relative(pair.image)}\0{relative(pair.mask)}\0".encode(errors="replace"))
    step = max(1, -(-len(pairs) // NUM_SIZED_PAIRS))
    files = [path for pair in pairs[::step] for path in (pair.image, pair.mask)]
    sizes = {relative(path): os.stat(path).st_size for path in files}
    return SplitContent(len(pairs), names.hexdigest(), sizes)


def _difference(here: SplitContent, there: SplitContent, machine: str) -> str:
    if there.num_pairs != here.num_pairs:
        return f"{here.num_pairs} images, {there.num_pairs} on {machine}"
    if there.names != here.names:
        other = next((name for name in here.sizes if name not in there.sizes), "")
        example = f", for example {other}" if other else ""
        return f"other files than on {machine}{example}"
    for name, size in here.sizes.items():
        if there.sizes[name] != size:
            return f"{name} has {size} bytes, {there.sizes[name]} on {machine}"
    return ""
