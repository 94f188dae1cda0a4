"""Hints for an absent folder of the data set: the probable folder, and the setting for it."""

from __future__ import annotations

import os
from pathlib import Path

from segtune.data.file_names import IMAGE_SUFFIXES, is_folder, is_stray
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
# Words in the names of other folders, and words in names that are no folders of labels.
IMAGE_WORDS = ("image", "img")
MASK_WORDS = ("mask", "label", "annot", "truth", "segm")
NOT_MASK_WORDS = ("object", "instance", "visual", "colo", "human")
# Other names of the splits.
SPLIT_NAMES = {
    "train": ("train", "training", "Train", "trainval", "default"),
    "val": ("val", "valid", "validation", "Val", "test", "testing", "dev"),
}
# Usual ends of the names of masks that lie beside their images.
MASK_ENDS = ("_mask", "_masks", "-mask", "_label", "_seg", "_segmentation", "_gt", "_L", "_anno")
# At most this many folders below a root are looked at.
MAX_FOLDERS = 200
# At most this many names of masks are compared with all other names of a folder.
MAX_NAMES = 20


def folder_names(folder: Path) -> list[str]:
    """Return the names of the folders in a folder; an empty list if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if not is_stray(e.name) and is_folder(e))
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
    """Return a setting for a folder under `root` that may hold the images or masks, or "".

    `kind`: image or mask. The folder `wanted` is absent.
    """
    names = folder_names(root)
    same = [name for name in names if name.casefold() == wanted.casefold()]
    folder = same[0] if same else _usual_folder(names, kind)
    if not folder and kind == "image" and _usual_folder(names, "mask"):
        # Images in `train`, masks in `train_masks`.
        others = [name for name in names if not _has_word(name, MASK_WORDS + NOT_MASK_WORDS)]
        folder = next((name for name in others if _image_files(root / name)), "")
    return f"--set data.{kind}s={folder}" if folder else ""


def _usual_folder(names: list[str], kind: str) -> str:
    """Return the name that most likely is the folder of the images or of the masks, or ""."""
    if kind == "image":
        likely = [name for name in IMAGE_FOLDERS if name in names]
        others = [name for name in names if _has_word(name, IMAGE_WORDS) and name != "ImageSets"]
    else:
        likely = [name for name in MASK_FOLDERS if name in names]
        others = [name for name in names if _has_word(name, MASK_WORDS)]
        others = [name for name in others if not _has_word(name, NOT_MASK_WORDS)]
    return next(iter((*likely, *others)), "")


def _has_word(name: str, words: tuple[str, ...]) -> bool:
    return any(word in name.lower() for word in words)


def other_folders(root: Path, wanted: tuple[str, str]) -> str:
    """Return a hint with the settings for the folders of images and masks that are absent."""
    settings = [
        other_folder(root, kind, name)
        for kind, name in zip(("image", "mask"), wanted, strict=True)
        if not (root / name).is_dir()
    ]
    return "; there are other folders: " + " ".join(settings) if all(settings) and settings else ""


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


def list_of_images(root: Path, images: str, lists: str = "") -> str:
    """Return the command that makes train.txt and val.txt of a folder with images, or "".

    `images` and `lists` are folders under the root.
    """
    count = len(_image_files(root / images))
    if count < 2:
        return ""
    num_val = max(1, count // 5)
    prefix = f"{lists}/" if lists else ""
    make = f"mkdir -p {lists} && " if lists else ""
    return (
        f"; {root / images} has {count} images without a split. To draw a fifth of them for "
        f"validation: cd '{root}' && {make}ls {images} | sort -R > all.tmp && "
        f"head -n {num_val} all.tmp > {prefix}val.txt && "
        f"tail -n +{num_val + 1} all.tmp > {prefix}train.txt"
    )


def _image_files(folder: Path) -> list[str]:
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return [
        name
        for name in names
        if not is_stray(name) and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
    ]


def split_first(root: Path, split: str, wanted: tuple[str, str]) -> str:
    """Return a hint for a root with a folder per split, which holds the images and masks.

    They lie in two folders (`train/img`, `train/gt`) or in one (`train/a.jpg`, `train/a_mask.png`).
    """
    names = folder_names(root)[:MAX_FOLDERS]
    likely = [name for name in SPLIT_NAMES[split] if name in names]
    for name in (*likely, *(name for name in names if name not in likely)):
        folder = root / name
        value = f"[{name}]" if split == "train" else name
        below = folder_names(folder)
        images, masks = (
            usual if usual in below else _usual_folder(below, kind)
            for kind, usual in zip(("image", "mask"), wanted, strict=True)
        )
        if images:
            settings = [f"--set data.{split}={value}"]
            settings += [f"--set data.images={images}"] if images != wanted[0] else []
            settings += [f"--set data.masks={masks}"] if masks and masks != wanted[1] else []
            return f"; {folder / images} is there: {' '.join(settings)}"
        if ends := ends_of_masks(folder):
            return (
                f"; {folder} has images and masks together: --set data.{split}={value} "
                f"--set data.images=. --set data.masks=.{ends.removeprefix(':')}"
            )
    return ""


def ends_of_masks(folder: Path) -> str:
    """Return `: --set …` with the suffixes that tell masks from images in one folder, or ""."""
    files = _image_files(folder)
    extensions: dict[str, set[str]] = {}
    for file in files:
        stem, extension = os.path.splitext(file)
        extensions.setdefault(stem, set()).add(extension)
    for end in MASK_ENDS:
        if any(f"{stem}{end}" in extensions for stem in extensions):
            return f": --set data.mask_suffix={end}"
        names = [stem.removesuffix(end) for stem in extensions if stem.endswith(end)]
        others = {
            stem[len(name) :]
            for name in names[:MAX_NAMES]
            for stem in extensions
            if stem.startswith(name) and not stem[len(name) :][:1].isalnum()
        }
        if len(others) == 2:  # the end of masks, and that of images: 100_mask.png, 100_sat.jpg
            image_end = min(others - {end})
            return f": --set data.mask_suffix={end} --set data.image_suffix={image_end}"
    if any({".png", ".jpg"} <= both for both in extensions.values()):
        return ": --set data.mask_suffix=.png --set data.image_suffix=.jpg"
    return ""
