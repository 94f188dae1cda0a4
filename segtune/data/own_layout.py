"""A data set of the user's own: `data.layout` is the import path of a function.

The function takes `data.root` and the name of a split, and returns the pairs of its files.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import Any

from segtune.config.data_config import DataConfig
from segtune.config.import_path import load_object
from segtune.data.pairs import Pair
from segtune.errors import DataError, shown_path

log = logging.getLogger(__name__)

# Settings that say where files lie. The function says it instead.
UNUSED = ("images", "masks", "image_suffix", "mask_suffix")


def own_pairs(config: DataConfig, split: str, name: str) -> list[Pair]:
    """Return the pairs of `name`, one of the splits of `data.train` or `data.val`.

    `split`: train or val. Calls the function as `function(data.root, name)`. It returns (image,
    mask) paths; relative ones begin at `data.root`. Raises ConfigError if there is no such
    function, and DataError if it returns something else, or a file that does not exist. An
    exception in the function is raised as it is.
    """
    function = load_object(config.layout, "data.layout")
    _say_what_is_not_used(config)
    place = f"data.{split}: {config.layout}({config.root!r}, {name!r})"
    files = [
        _files(item, place, config.root) for item in _items(function(config.root, name), place)
    ]
    absent = [file for pair in files for file in pair if not os.path.isfile(file)]
    if absent:
        raise DataError(
            f"{place}: {len(absent)} of {2 * len(files)} files do not exist, the first is "
            f"{shown_path(absent[0])}; relative paths begin at data.root ({config.root})"
        )
    return [Pair(image, mask, _name(image, config.root)) for image, mask in files]


def _items(result: Any, place: str) -> list[Any]:
    if not isinstance(result, Iterable) or isinstance(result, str | bytes | dict):
        raise DataError(
            f"{place}: returned {_kind(result)}; expected a list of (image path, mask path)"
        )
    return list(result)


def _files(item: Any, place: str, root: str) -> tuple[str, str]:
    try:
        image, mask = (os.path.join(root, os.fsdecode(path)) for path in item)
    except (TypeError, ValueError):  # no pair, or no paths
        raise DataError(
            f"{place}: has {item!r} in its list; expected (image path, mask path), each a text or "
            "a pathlib.Path"
        ) from None
    return os.path.abspath(image), os.path.abspath(mask)


def _kind(result: Any) -> str:
    return "nothing (None)" if result is None else type(result).__name__


def _name(image: str, root: str) -> str:
    """Return the path of an image without suffix, from the root if it lies there."""
    stem = os.path.splitext(image)[0]
    inside = os.path.relpath(stem, os.path.abspath(root))
    return stem if inside.startswith("..") else inside


def _say_what_is_not_used(config: DataConfig) -> None:
    unused = [f"data.{name}" for name in UNUSED if getattr(config, name)]
    if unused:
        log.warning(
            "%s: not used, because data.layout %s names the files",
            *(", ".join(unused), config.layout),
        )
