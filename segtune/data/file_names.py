"""Which files in a folder are images and masks, by their names alone."""

from __future__ import annotations

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")

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
