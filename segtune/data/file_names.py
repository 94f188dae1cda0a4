"""Which files in a folder are images and masks, by their names alone."""

from __future__ import annotations

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
