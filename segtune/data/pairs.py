"""Which image belongs to which mask: by equal names in two folders, or by a split list.

Reads folder listings and lists, never an image. Knows no layout.
"""

from __future__ import annotations

import csv
import logging
import posixpath
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from segtune.data.file_names import normal
from segtune.data.listing import FileTree, Found
from segtune.data.near_misses import no_image, no_mask
from segtune.data.text_files import Line, numbered_lines
from segtune.errors import DataError

log = logging.getLogger(__name__)

SEPARATOR = re.compile(r"[\t ,;]")
INTEGER = re.compile(r"[-+]?\d+$")
# Names of columns, in the first line of a table.
COLUMN_NAMES = frozenset(
    (
        *("image", "images", "img", "image_id", "image_path", "mask", "masks", "label", "labels"),
        *("mask_path", "annotation", "filename", "file_name", "file", "name", "id", "path"),
    )
)


class Pair(NamedTuple):
    """One image file and its mask file."""

    image: str
    mask: str
    relative: str | None = None  # name of the image in its folder, without suffix

    @property
    def name(self) -> str:
        """The image file without suffix: its path under the folder of images, as far as known."""
        return self.relative or Path(self.image).stem


def folder_pairs(
    images: FileTree, masks: FileTree, unpaired: list[str] | None = None
) -> list[Pair]:
    """Pair every image of a folder with the mask of the same name.

    If less than half of the images have no mask, their paths are added to `unpaired`. Raises
    DataError if more have none, or if there is no such list.
    """
    return _with_masks(list(images.walk()), images, masks, unpaired)


def _with_masks(
    found: Sequence[Found],
    images: FileTree,
    masks: FileTree,
    unpaired: list[str] | None = None,
) -> list[Pair]:
    plain = masks.plain_names()
    pairs = [
        Pair(image, mask, name)
        for name, image in found
        if (mask := plain.get(name) or masks.named(name)) is not None
    ]
    if len(pairs) < len(found):
        missing = {name: image for name, image in found if masks.named(name) is None}
        if unpaired is None or len(missing) * 2 >= len(found):
            raise no_mask([name for name, _ in found], list(missing), images, masks)
        unpaired += missing.values()
    return pairs


def list_pairs(
    path: Path, images: FileTree, masks: FileTree, unpaired: list[str] | None = None
) -> list[Pair]:
    """Return the pairs of a split list, in its order. `unpaired` is as in `folder_pairs`.

    A line is the name of an image, or its path under the root; or an image and its mask, separated
    by a tab, a comma, a semicolon or a blank. Lines that begin with # are comments unless an image
    has that name. Raises DataError that names the line.
    """
    return _SplitList(path, images, masks).pairs(unpaired)


class _SplitList:
    def __init__(self, path: Path, images: FileTree, masks: FileTree) -> None:
        self.path = path
        self.images = images
        self.masks = masks
        self.numbered: list[Line] = []  # lines with numbers behind the name
        self.skipped: list[Line] = []  # comments without a blank, and names of columns

    def pairs(self, unpaired: list[str] | None) -> list[Pair]:
        """Return the pairs of all lines."""
        singles: list[Found] = []
        first_single = 0
        doubles: dict[int, Pair] = {}
        absent: list[Line] = []
        plain = self.images.plain_names()
        for number, text in numbered_lines(self.path):
            # Nearly all lines are plain names: one look-up instead of five calls for each.
            path = None if "." in text else plain.get(text)
            if found := Found(text, path) if path else self._image(text):
                singles.append(found)
                first_single = first_single or number
                continue
            line = Line(self.path, number, text)
            if pair := self._two_columns(line):
                doubles[line.number] = pair
            elif found := self._numbers_behind(line):
                singles.append(found)
            elif not self._is_comment(line):
                absent.append(line)
        if self.numbered and len(singles) + len(doubles) > len(self.numbered):
            # In a list of names, a number behind a blank is a part of the name.
            absent += self.numbered
        if absent:
            raise self._absent(sorted(absent, key=lambda line: line.number))
        if singles and doubles:
            raise DataError(
                f"{self.path}: line {min(doubles)} has an image and a mask, line {first_single} "
                "only an image; give the mask in every line, or in none"
            )
        self._say_what_is_not_used()
        return list(doubles.values()) or _with_masks(singles, self.images, self.masks, unpaired)

    def _image(self, text: str) -> Found | None:
        found = self.images.find(text)
        return self.images.find(_unquoted(text)) if not found and text[0] in "\"'" else found

    def _two_columns(self, line: Line) -> Pair | None:
        """Return the image and the mask of a line. Raises DataError if there are several ways."""
        pairs: dict[tuple[str, str], Pair] = {}
        for left, right in _columns(line.text):
            image = self.images.find(left)
            mask = self.masks.find(right) if image else None
            if image and mask:
                pairs[image.path, mask.path] = Pair(image.path, mask.path, image.name)
        if len(pairs) > 1:
            ways = " and as ".join(f"{image} with {mask}" for image, mask in pairs)
            raise DataError(
                f"{line.place}: {line.text!r} can be read as {ways}; separate image and mask by a "
                "tab"
            )
        return next(iter(pairs.values()), None)

    def _numbers_behind(self, line: Line) -> Found | None:
        """Return the image of a line such as `Abyssinian_100 1 1 1`, if the numbers are labels."""
        first, *numbers = re.split(r"[\t ,;]+", line.text)
        if not numbers or not all(map(INTEGER.match, numbers)):
            return None
        found = self.images.find(first)
        if found and numbers[-1] == "-1":
            raise DataError(
                f"{line.place}: {line.text!r}: lists with 1 and -1 behind the names (as in "
                "ImageSets/Main) say which images show a class; keep only the names of the images "
                "of the split, one per line"
            )
        if found:
            self.numbered.append(line)
        return found

    def _is_comment(self, line: Line) -> bool:
        words = {word.strip("\"'").lower() for word in re.split(r"[\t ,;]+", line.text)}
        is_header = line.number == 1 and words <= COLUMN_NAMES
        if line.text[0] != "#" and not is_header:
            return False
        if not line.text.startswith("# "):
            self.skipped.append(line)
        return True

    def _say_what_is_not_used(self) -> None:
        for lines, what in (
            (self.numbered, "the numbers behind the name are not used"),
            (self.skipped, "is read as a comment or as names of columns"),
        ):
            if lines:
                log.warning(
                    "%s: %r: %s (lines of this kind: %d)",
                    *(lines[0].place, lines[0].text, what, len(lines)),
                )

    def _absent(self, lines: Sequence[Line]) -> DataError:
        line = lines[0]
        for word in (line.text, *(word for column in _columns(line.text) for word in column)):
            if _looks_outside(word) and not self.images.find(word):
                return DataError(
                    f"{line.place}: {word!r} is outside {self.images.root}; a list names images by "
                    "their names, or by paths inside data.root"
                )
        for left, right in _columns(line.text):
            if self.images.find(left):
                return DataError(
                    f"{line.place}: {line.text!r}: {left!r} is an image, but {right!r} is no mask "
                    f"in {self.masks.folder} or under {self.masks.root}"
                )
        return no_image(line.text, len(lines) - 1, f"{self.path.name}:{line.number}", self.images)


def _columns(text: str) -> Iterator[tuple[str, str]]:
    """Yield each way to read a line as two columns."""
    if '"' in text:
        for separator in "\t,; ":
            cells = [cell.strip() for cell in next(csv.reader([text], delimiter=separator))]
            if len(cells) == 2:
                yield cells[0], cells[1]
    for match in SEPARATOR.finditer(text):
        left = _unquoted(text[: match.start()].strip())
        right = _unquoted(text[match.end() :].strip())
        if left and right:
            yield left, right


def _unquoted(text: str) -> str:
    if len(text) > 2 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    return text


def _looks_outside(text: str) -> bool:
    slashed = normal(text).replace("\\", "/")
    is_absolute = slashed.startswith(("/", "~/")) or bool(re.match(r"[A-Za-z]:/", slashed))
    return is_absolute or posixpath.normpath(slashed).startswith("..")
