"""The image or the mask files of folders, by name: one pass per folder, no `stat` per file.

Reads folder listings only. Knows neither layouts nor split lists.
"""

from __future__ import annotations

import errno
import logging
import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from segtune.data.file_names import (
    IMAGE_SUFFIXES,
    LOSSY_MASK_SUFFIXES,
    MASK_SUFFIXES,
    Suffix,
    is_folder,
    is_stray,
    normal,
)
from segtune.errors import DataError, place_problem, setting

log = logging.getLogger(__name__)

# The errors of opendir(3) if there is no such folder.
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
KNOWN_SUFFIXES = frozenset((*IMAGE_SUFFIXES, *MASK_SUFFIXES, *LOSSY_MASK_SUFFIXES))


class Found(NamedTuple):
    """A file: its name without suffix, relative to the folder of its kind, and its path."""

    name: str
    path: str


@dataclass(frozen=True)
class Listing:
    """The content of one folder."""

    files: Mapping[str, str]  # {name without suffix, in NFC: path}
    clashes: Mapping[str, Sequence[str]]  # {name: all files that have it}, if several have it
    others: Sequence[str]  # files without the suffix
    folders: Sequence[str]
    num_stray: int


EMPTY = Listing({}, {}, (), (), 0)


def scan(folder: str, suffix: Suffix, excluded: Suffix | None = None) -> Listing:
    """List the regular files (and links) that end in `suffix` and do not end in `excluded`.

    Raises OSError if the folder cannot be read.
    """
    files: dict[str, str] = {}
    clashes: dict[str, list[str]] = {}
    others: list[str] = []
    folders: list[str] = []
    num_stray = 0
    plain = not suffix.text and excluded is None
    with os.scandir(folder) as entries:
        for entry in entries:
            file = entry.name
            stem, _, last = file.rpartition(".")
            # The path of most files: a plain name with a known extension.
            if plain and stem and f".{last}".lower() in suffix.extensions and file[0] not in ".~#":
                name = stem if stem.isascii() else normal(stem)
            elif is_stray(file):
                num_stray += 1
                continue
            else:
                name = None if excluded and excluded.name_of(file) else suffix.name_of(file)
            # A link is not followed: that would be a `stat` for each of them.
            if name is None or not (entry.is_file(follow_symlinks=False) or entry.is_symlink()):
                (folders if is_folder(entry) else others).append(file)
            elif name in files:
                clashes.setdefault(name, [os.path.basename(files[name])]).append(file)
            else:
                files[name] = entry.path
    return Listing(files, clashes, others, sorted(folders), num_stray)


class FileTree:
    """The images, or the masks, under a folder. Each folder is listed once, when it is needed."""

    def __init__(
        self,
        kind: str,
        folder: str,
        root: str,
        suffix: Suffix,
        excluded: Suffix | None = None,
    ) -> None:
        """`kind`: image or mask. `root` of the data set: no file outside it is found.

        Files that end in `excluded` are no files of this kind.
        """
        self.kind = kind
        self.folder = folder
        self.root = root
        self.suffix = suffix
        self._excluded = excluded
        self._listings: dict[str, Listing] = {}

    def listing(self, folder: str) -> Listing:
        """Return the listing of a folder. Raises OSError if the folder cannot be read."""
        if folder not in self._listings:
            self._listings[folder] = scan(_on_disk(folder), self.suffix, self._excluded)
        return self._listings[folder]

    def listing_if_there(self, folder: str) -> Listing | None:
        """Return the listing of a folder, or None if there is no such folder.

        Raises DataError if the folder cannot be read.
        """
        try:
            return self.listing(folder)
        except OSError as error:
            if error.errno in ABSENT:
                return None
            raise DataError(place_problem(error) or f"{folder}: {error.strerror}") from None

    @property
    def num_stray(self) -> int:
        """How many files of tools were ignored in all folders that were listed."""
        return sum(listing.num_stray for listing in self._listings.values())

    def has_files(self) -> bool:
        """Return whether any folder that was listed has files of this kind."""
        return any(listing.files for listing in self._listings.values())

    def walk(self) -> Iterator[Found]:
        """Yield the files of the folder, sorted by name; without any, those of its subfolders.

        Raises DataError if several files have one name or a folder cannot be read.
        """
        yield from self._walk(self.folder, (os.path.realpath(self.folder),))

    def _walk(self, folder: str, parents: tuple[str, ...]) -> Iterator[Found]:
        listing = self.listing_if_there(folder) or EMPTY
        for name in listing.clashes:
            raise self._clash(listing, folder, name)
        prefix = self._relative(folder, "")
        for name in sorted(listing.files):
            yield Found(prefix + name, listing.files[name])
        if listing.files and listing.folders:
            log.warning(
                "%s: has %ss itself, so its subfolders are not read (%s)",
                *(folder, self.kind, ", ".join(listing.folders[:5])),
            )
        for subfolder in () if listing.files else listing.folders:
            path = os.path.join(folder, subfolder)
            real = os.path.realpath(path)
            if real not in parents:  # a link to a folder above would never end
                yield from self._walk(path, (*parents, real))

    def named(self, name: str) -> str | None:
        """Return the path of the file of exactly this name, or None.

        Raises DataError if several files have the name.
        """
        folder, last = self.folder, name
        if "/" in name:
            folder, last = os.path.split(os.path.join(self.folder, name))
        listing = self.listing_if_there(folder) or EMPTY
        if last in listing.clashes:
            raise self._clash(listing, folder, last)
        return listing.files.get(last)

    def plain_names(self) -> Mapping[str, str]:
        """Return {name: path} of the folder itself; empty if several files have one name.

        A name without a full stop in it is always found so.
        """
        top = self.listing_if_there(self.folder) or EMPTY
        return {} if top.clashes else top.files

    def find(self, text: str) -> Found | None:
        """Return the file that a name or a path means, with or without suffix; None if absent.

        A path is relative to the folder of this kind or to the root; absolute paths inside the root
        are accepted. Raises DataError if several files have the name.
        """
        if "/" not in text and "\\" not in text:
            return self._find_in(self.folder, text)
        for path in self._paths(text):
            if found := self._find_in(*os.path.split(path)):
                return found
        return None

    def _paths(self, text: str) -> Iterator[str]:
        """Yield the paths inside the root that a relative or absolute path may mean."""
        for slashed in dict.fromkeys((text, text.replace("\\", "/"))):
            for base in (self.folder, self.root):
                path = posixpath.normpath(os.path.join(base, slashed))
                if is_inside(path, self.root) or is_inside(path, self.folder):
                    yield path
                elif is_inside(path, real := os.path.realpath(self.root)):
                    yield os.path.join(self.root, os.path.relpath(path, real))
            # Lists of DeepLab name files from the root on: /JPEGImages/2007_000032.jpg
            path = posixpath.normpath(os.path.join(self.root, slashed.lstrip("/")))
            if slashed.startswith("/") and is_inside(path, self.root):
                yield path

    def _find_in(self, folder: str, last: str) -> Found | None:
        listing = self.listing_if_there(folder) or EMPTY
        last = normal(last)
        exact = self.suffix.name_of(last)
        if exact is not None and exact in listing.files:
            files = listing.clashes.get(exact, [os.path.basename(listing.files[exact])])
            for file in files:
                if normal(file) == last:
                    return Found(self._relative(folder, exact), os.path.join(folder, file))
        for name in self._possible_names(last):
            if name in listing.files:
                return self._found(listing, folder, name)
        return None

    def _possible_names(self, last: str) -> Iterator[str]:
        """Yield what may be the name in `last`, which may have an extension and the suffix."""
        stem, extension = os.path.splitext(last)
        for name in (last, stem) if extension.lower() in KNOWN_SUFFIXES else (last,):
            yield name
            if self.suffix.text and name.endswith(self.suffix.text):
                yield name[: -len(self.suffix.text)]

    def _found(self, listing: Listing, folder: str, name: str) -> Found:
        if name in listing.clashes:
            raise self._clash(listing, folder, name)
        return Found(self._relative(folder, name), listing.files[name])

    def _clash(self, listing: Listing, folder: str, name: str) -> DataError:
        files = sorted(listing.clashes[name])
        extension = os.path.splitext(files[0])[1]
        return DataError(
            f"{folder}: {' and '.join(files)} are {self.kind}s of one name; remove all but one of "
            "them, or choose one kind of file: "
            f"{setting(f'data.{self.kind}_suffix', self.suffix.text + extension)}"
        )

    def _relative(self, folder: str, name: str) -> str:
        if folder == self.folder:
            return name
        base = self.folder if is_inside(folder, self.folder) else self.root
        return normal(posixpath.join(os.path.relpath(folder, base), name).removeprefix("./"))


def _on_disk(folder: str) -> str:
    """Return the path of a folder as it is stored: in NFD, macOS's form, if not in NFC."""
    if folder.isascii() or os.path.isdir(folder):
        return folder
    parent, name = os.path.split(folder)
    parent = _on_disk(parent)
    stored = [other for other in os.listdir(parent) if normal(other) == normal(name)]
    return os.path.join(parent, stored[0] if stored else name)


def is_inside(path: str, folder: str) -> bool:
    """Return whether `path` lies in `folder`, by the text of both, which are normal paths."""
    return path.startswith(folder.rstrip("/") + "/")
