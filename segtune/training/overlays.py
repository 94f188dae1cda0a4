"""The files of `predict`: which images a user's paths stand for, and where their overlays go.

Two images never share an overlay, and an overlay never replaces a file that segtune has not
written. The same holds for label images, which have the names of the overlays in another folder.
Predicts nothing and decodes no image.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import struct
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from segtune.data.file_names import IMAGE_SUFFIXES, is_folder, is_stray
from segtune.errors import DataError, nearest, place_problem
from segtune.runs.atomic import naming, temporary_beside

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)

# A PNG file begins with 8 bytes and the chunk IHDR of 25 bytes (PNG specification, 5.2 and 11.2.2).
# The chunk that marks an overlay follows them.
MARK_OFFSET = 33
MARK = b"Software\0segtune predict"

# Errors of one file name. All others, such as a full disk, would stop the next overlay too.
ERRORS_OF_A_NAME = (errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EILSEQ)


@dataclass(frozen=True)
class InputImage:
    """An image file, and the path of its overlay under the folder of all overlays."""

    path: Path
    overlay: str


@dataclass(frozen=True)
class Inputs:
    """The images that a user's paths stand for, and a message for each path without an image."""

    images: list[InputImage]
    refused: list[str]


@dataclass(frozen=True)
class _Found:
    """An image file: the folder that the user named, and the path from there."""

    base: str
    relative: str

    @property
    def path(self) -> str:
        return os.path.join(self.base, self.relative)


def find_inputs(paths: Iterable[str | Path]) -> Inputs:
    """Return the images among files and folders, each once.

    A folder stands for its images by suffix, also those in its subfolders. Overlays of segtune and
    stray files are left out. Raise DataError if there is no image at all.
    """
    found: dict[str, _Found] = {}
    refused: list[str] = []
    num_overlays = 0
    for path in map(str, paths):
        problems: list[str] = []
        files = list(_files_of(path, problems))
        refused += problems if files or problems else [_why_no_image(Path(path))]
        for file in files:
            if is_overlay(Path(file.path)):
                num_overlays += 1
            else:
                found.setdefault(os.path.abspath(file.path), file)
    if num_overlays:
        log.warning("%d overlays of segtune are left out of the images", num_overlays)
    if not found:
        raise DataError("\n".join(refused) or "no image: all files are overlays of segtune")
    files = list(found.values())
    names = overlay_names([(file.base, file.relative) for file in files])
    images = [InputImage(Path(file.path), name) for file, name in zip(files, names, strict=True)]
    return Inputs(images, refused)


def named_images(paths: Iterable[str]) -> list[InputImage]:
    """Return image files, each once, with the names of their overlays."""
    files = list(dict.fromkeys(paths))
    names = overlay_names([os.path.split(file) for file in files])
    return [InputImage(Path(file), name) for file, name in zip(files, names, strict=True)]


def _files_of(path: str, problems: list[str]) -> Iterator[_Found]:
    if os.path.isdir(path):
        for file in sorted(_walk(path, set(), problems)):
            yield _Found(path, os.path.relpath(file, path))
    elif os.path.isfile(path):
        yield _Found(*os.path.split(path))


def _walk(folder: str, visited: set[str], problems: list[str]) -> Iterator[str]:
    """Yield the image files in a folder and its subfolders. Follow each symbolic link once.

    Add a message to `problems` for each folder that cannot be read.
    """
    real = os.path.realpath(folder)
    if real in visited:
        return
    visited.add(real)
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        problems.append(f"{folder}: the folder cannot be read: {error.strerror}")
        return
    for entry in entries:
        if is_stray(entry.name):
            continue
        if is_folder(entry):
            yield from _walk(entry.path, visited, problems)
        elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
            yield entry.path


def _why_no_image(path: Path) -> str:
    if path.is_dir():
        return f"{path}: a folder without images ({', '.join(IMAGE_SUFFIXES)})"
    if path.exists():
        return f"{path}: no such image: it is neither a file nor a folder"
    if any(letter in path.name for letter in "*?["):
        return f"{path}: no such image: no file matches this pattern"
    similar = ""
    if path.parent.is_dir():
        similar = nearest(path.name, os.listdir(path.parent))
    return f"{path}: no such image{similar}"


def overlay_names(images: Sequence[tuple[str, str]]) -> list[str]:
    """Return the path of each overlay under the folder of all overlays; no two are the same.

    `images` are pairs of a folder and a path under it, all of them different files. The overlay of
    `a/b.jpg` is `a/b.png`. If images of two folders would share a name, the names of all images
    begin with their folder, from the folder that is common to all. Images that still share a name
    keep their suffix: `b.jpg.png`.
    """
    names = [os.path.splitext(relative)[0] for _, relative in images]
    if not _shared(names):
        return [f"{name}.png" for name in names]
    bases = [os.path.abspath(base) for base, _ in images]
    common = os.path.commonpath(bases)
    full = [
        os.path.normpath(os.path.join(os.path.relpath(base, common), relative))
        for base, (_, relative) in zip(bases, images, strict=True)
    ]
    names = [os.path.splitext(path)[0] for path in full]
    # Repeated, because a name with its suffix may be the name of another image without.
    while ambiguous := _ambiguous(names, full):
        for i in ambiguous:
            names[i] = full[i]
    return [f"{name}.png" for name in names]


def _ambiguous(names: Sequence[str], full: Sequence[str]) -> list[int]:
    """Return which names are not the only ones of their kind and still lack their suffix."""
    shared = _shared(names)
    return [i for i, name in enumerate(names) if _key(name) in shared and name != full[i]]


def _shared(names: Iterable[str]) -> set[str]:
    """Return the keys that two or more names have."""
    return {key for key, count in Counter(map(_key, names)).items() if count > 1}


def _key(name: str) -> str:
    """Return a key that is equal for names that a file system may treat as the same."""
    return unicodedata.normalize("NFC", name).casefold()


def is_overlay(path: Path) -> bool:
    """Whether a file is a PNG with the mark that `write_marked` leaves."""
    if path.suffix.lower() != ".png":
        return False
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(MARK_OFFSET + 8 + len(MARK))[MARK_OFFSET + 8 :] == MARK
    return False


def check_free(target: Path, kind: str = "overlay") -> None:
    """Raise DataError if `target` exists and is no file that `write_marked` has written."""
    if os.path.lexists(target) and not is_overlay(target):
        raise DataError(
            f"its {kind} would replace {target}, which segtune has not written; "
            f"choose another folder for the {kind}s, or remove that file"
        )


def write_overlay(target: Path, bgr: np.ndarray) -> None:
    """Write uint8 [H, W, 3] as PNG, as `write_marked` does."""
    import cv2

    done, png = cv2.imencode(".png", bgr)
    assert done, "OpenCV encodes every uint8 image as PNG"
    write_marked(target, png.data)


def write_marked(target: Path, png: bytes | memoryview, kind: str = "overlay") -> None:
    """Write the bytes of a PNG file with the mark of segtune; replace an earlier marked file.

    A reader finds the old or the new file, never a part. `kind` names the file in messages. Raise
    DataError for an impossible name, and OSError that names `target` if nothing can be written
    there.
    """
    copy = temporary_beside(target)
    try:
        with naming(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            check_free(target, kind)
            with copy.open("wb") as file:
                file.write(png[:MARK_OFFSET])
                file.write(_chunk(b"tEXt", MARK))
                file.write(png[MARK_OFFSET:])
            os.replace(copy, target)
    except OSError as error:
        if error.errno not in ERRORS_OF_A_NAME:
            raise
        problem = place_problem(error)
        raise DataError(f"its {kind} cannot be written: {problem}") from None
    finally:
        with contextlib.suppress(OSError):
            copy.unlink(missing_ok=True)


def _chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG file: length, kind, content, checksum (PNG specification, 5.3)."""
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
