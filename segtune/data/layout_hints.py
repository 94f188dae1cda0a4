"""What a message says if a folder of the data set is absent: where it may be, and the setting."""

from __future__ import annotations

import os
from pathlib import Path

from segtune.data.file_names import IMAGE_SUFFIXES, is_stray
from segtune.errors import nearest

IMAGE_FOLDERS = (
    *("images", "JPEGImages", "image", "img", "imgs", "img_dir", "leftImg8bit", "imagesTr"),
    *("rgb", "train_images", "images_png", "Images", "jpg"),
)
MASK_FOLDERS = (
    *("masks", "SegmentationClassPNG", "SegmentationClass", "annotations", "labels", "ann_dir"),
    *("gtFine", "mask", "label", "masks_machine", "annotation", "gt", "GT", "ground_truth"),
    *(
        "groundtruth",
        "labelsTr",
        "masks_png",
        "segmentations",
        "segmentation",
        "targets",
        "trimaps",
    ),
)
# Other names of the splits.
SPLIT_NAMES = {
    "train": ("train", "training", "Train", "trainval", "default"),
    "val": ("val", "valid", "validation", "Val", "test", "testing", "dev"),
}
# At most this many folders below a root are looked at.
MAX_FOLDERS = 200


def folder_names(folder: Path) -> list[str]:
    """Return the names of the folders in a folder; an empty list if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if not is_stray(e.name) and e.is_dir())
    except OSError:
        return []


def nearest_sibling(path: Path, pattern: str = "*") -> str:
    """Return `; did you mean 'x'?` for the entry beside an absent `path` with the closest name.

    Returns an empty string if no entry has a similar name.
    """
    siblings = [sibling.name for sibling in path.parent.glob(pattern)]
    for sibling in siblings:
        if sibling.casefold() == path.name.casefold() and sibling != path.name:
            return f"; did you mean '{sibling}'? (upper and lower case differ)"
    return nearest(path.name, siblings)


def other_root(root: Path, wanted: tuple[str, str]) -> str:
    """Return a hint if the folders `wanted` (images, masks) lie below `root` or beside it."""
    children = folder_names(root)[:MAX_FOLDERS]
    below = [root / name for name in children]
    for child in tuple(below):
        below += [child / name for name in folder_names(child)[:MAX_FOLDERS]]
    for candidate in (*sorted(below, key=lambda path: (len(path.parts), path)), root.parent):
        if all((candidate / name).is_dir() for name in wanted):
            return f"; {candidate} has {wanted[0]}/ and {wanted[1]}/: --set data.root={candidate}"
    return ""


def other_folder(root: Path, kind: str, wanted: str) -> str:
    """Return a hint that names folders under `root` which may hold the images or the masks."""
    names = folder_names(root)
    same = [name for name in names if name.casefold() == wanted.casefold()]
    usual = IMAGE_FOLDERS if kind == "image" else MASK_FOLDERS
    candidates = same or [name for name in usual if name in names]
    if not candidates:
        return ""
    setting = f"--set data.{kind}s={candidates[0]}"
    others = f" (or {', '.join(candidates[1:3])})" if len(candidates) > 1 else ""
    return f"; {root} has {candidates[0]}/{others}: {setting}"


def other_layout(root: Path, layout: str) -> str:
    """Return a hint if the folders fit another layout."""
    names = set(folder_names(root))
    if layout != "voc" and {"JPEGImages", "ImageSets"} <= names:
        return "; this looks like --set data.layout=voc"
    if layout == "voc" and "images" in names and names & {"masks", "annotations", "labels"}:
        parts = set(folder_names(root / "images"))
        ade20k = "annotations" in names and "training" in parts
        return f"; this looks like --set data.layout={'ade20k' if ade20k else 'folder'}"
    return ""


def other_split(split: str, name: str, available: list[str]) -> str:
    """Return a hint for a split that is absent. `split`: train or val."""
    if not available:
        return ""
    listed = f"; there are {', '.join(available[:6])}"
    for other in SPLIT_NAMES[split]:
        if other in available and other != name:
            value = f"[{other}]" if split == "train" else other
            return f"{listed}: --set data.{split}={value}"
    return listed + nearest(name, available)


def list_of_images(root: Path, images: Path) -> str:
    """Return the command that makes train.txt and val.txt of a folder with images, or ""."""
    try:
        files = sum(
            not is_stray(name) and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
            for name in os.listdir(images)
        )
    except OSError:
        return ""
    if files < 2:
        return ""
    num_val = max(1, files // 5)
    return (
        f"; {images} has {files} images without a split. To draw a fifth of them for validation: "
        f"cd '{root}' && ls {images.relative_to(root)} | sort -R > all.txt && "
        f"head -n {num_val} all.txt > val.txt && tail -n +{num_val + 1} all.txt > train.txt"
    )


def split_folders(root: Path) -> list[str]:
    """Return the folders of a root that have folders of images, such as `train/images`."""
    return [
        name
        for name in folder_names(root)[:MAX_FOLDERS]
        if set(folder_names(root / name)) & set(IMAGE_FOLDERS)
    ]
