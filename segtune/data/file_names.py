"""Which files in a folder are images and masks, by their names alone."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

# Pillow decodes all of these.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"),
    *(".pbm", ".pgm", ".ppm", ".pnm", ".tga", ".jp2"),
)
# Formats that hold labels exactly. A WebP file may be lossy: masks.py decides by its content.
MASK_SUFFIXES = (
    *(".png", ".bmp", ".tif", ".tiff", ".gif", ".pbm", ".pgm", ".ppm", ".pnm", ".tga", ".webp"),
)
# Formats that change labels at every edge; listed only with data.allow_lossy_masks.
LOSSY_MASK_SUFFIXES = (".jpg", ".jpeg", ".jfif")

# Files and folders that operating systems, network drives and archives leave in a folder.
STRAY_NAMES = frozenset(
    {"thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "__macosx", "$recycle.bin", "lost+found"}
)


def is_stray(name: str) -> bool:
    """Return whether a file or folder of this name was left by a tool and is no data of the user.

    These are hidden names (`._a.png` of macOS, `.DS_Store`, `.a.png.swp`, `.ipynb_checkpoints`),
    backups and locks of editors (`a.png~`, `#a.png#`, `~$a.png`), and STRAY_NAMES in any case.
    """
    return (
        name.startswith((".", "~$"))
        or name.endswith("~")
        or (name.startswith("#") and name.endswith("#"))
        or name.lower() in STRAY_NAMES
    )


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or a link to one. A link to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


@dataclass(frozen=True)
class Suffix:
    """The end of all file names of one kind: a text, then one of some extensions."""

    text: str  # for example `_mask`; may be empty
    extensions: frozenset[str]  # lower case, with the dot

    @classmethod
    def parse(cls, setting: str, extensions: Sequence[str]) -> Suffix:
        """Read a setting such as `_mask`, `_mask.png` or `.png`.

        A known extension at its end is the only one that is accepted. Without it, all of
        `extensions` are.
        """
        setting = setting.lstrip("*")  # users write patterns, such as *_mask.png
        text, dot, last = setting.rpartition(".")
        extension = f"{dot}{last}".lower()
        if extension in (*IMAGE_SUFFIXES, *MASK_SUFFIXES):
            return cls(normal(text), frozenset({extension}))
        return cls(normal(setting), frozenset(extensions))

    def name_of(self, file: str) -> str | None:
        """Return what a file name has before the suffix; None if it does not end in it."""
        stem, dot, last = file.rpartition(".")
        if not dot or f".{last}".lower() not in self.extensions:
            return None
        stem = normal(stem)
        if not stem.endswith(self.text) or len(stem) == len(self.text):
            return None
        return stem[: len(stem) - len(self.text)]


def normal(name: str) -> str:
    """Return a name in Unicode's form NFC. macOS writes names in NFD, most other tools in NFC."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)
