"""How data sets lie on disk: lists of (image, mask), the classes, and labels as training sees them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segtune.config.schema import DataConfig
from segtune.data import shapes
from segtune.errors import DataError, nearest

VOC = [
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
]
# ADE20K's 150 names differ between releases; numbers do not.
ADE20K = [f"class_{i}" for i in range(1, 151)]
ADE20K_FOLDERS = {"train": "training", "val": "validation"}
AUG_LISTS = ("aug", "trainaug", "train_aug")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Pair:
    """One image file and its mask file."""

    image: str
    mask: str

    @property
    def name(self) -> str:
        """The image's name without folder and suffix."""
        return Path(self.image).stem


def open_split(config: DataConfig, split: str) -> list[Pair]:
    """Returns the pairs of `train` (all its lists joined) or `val`, in the order of the lists.

    Reads folder listings only, not one image. Raises DataError that names what is missing and what was expected.
    """
    if config.layout == "shapes":
        shapes.ensure(Path(config.root))
    root = Path(config.root)
    if not root.is_dir():
        near = (
            nearest(root.name, [p.name for p in root.parent.iterdir()])
            if root.parent.is_dir()
            else ""
        )
        raise DataError(
            f"data.root: no folder {config.root!r}{near}; set data.root to the data set, for layout {config.layout}: {_expected(config.layout)}"
        )
    lists = config.train if split == "train" else (config.val,)
    match config.layout:
        case "voc" | "shapes":
            pairs = _voc(root, config, lists)
        case "ade20k":
            pairs = _matched(
                root / "images" / ADE20K_FOLDERS.get(lists[0], lists[0]),
                root / "annotations" / ADE20K_FOLDERS.get(lists[0], lists[0]),
            )
        case "folder":
            pairs = _folder(root, lists)
    if not pairs:
        raise DataError(f"data.{split}: the split {', '.join(lists)} of {config.root} is empty")
    return pairs[: config.num_images] if split == "train" else pairs


def _expected(layout: str) -> str:
    return {
        "voc": "JPEGImages/, SegmentationClass/, ImageSets/Segmentation/train.txt",
        "ade20k": "images/training/, annotations/training/",
        "folder": "images/, masks/, labels.txt",
        "shapes": "any folder that can be written",
    }[layout]


def _voc(root: Path, config: DataConfig, lists: Sequence[str]) -> list[Pair]:
    # SegmentationClassAug holds the masks of VOC and of SBD, so the validation reads it too where it is trained on.
    folder = config.masks or (
        "SegmentationClassAug"
        if any(name in AUG_LISTS for name in config.train)
        else "SegmentationClass"
    )
    images, masks = (
        _listing(root / "JPEGImages", IMAGE_SUFFIXES),
        _listing(root / folder, MASK_SUFFIXES),
    )
    names: list[str] = []
    for name in lists:
        names += read_list(root / "ImageSets" / "Segmentation" / f"{name}.txt")
    return _pairs(dict.fromkeys(names), images, masks, root / "JPEGImages", root / folder)


def _folder(root: Path, lists: Sequence[str]) -> list[Pair]:
    pairs: list[Pair] = []
    for name in lists:
        if (root / f"{name}.txt").is_file():
            images, masks = (
                _listing(root / "images", IMAGE_SUFFIXES),
                _listing(root / "masks", MASK_SUFFIXES),
            )
            pairs += _pairs(
                read_list(root / f"{name}.txt"), images, masks, root / "images", root / "masks"
            )
        elif (root / "images" / name).is_dir():
            pairs += _matched(root / "images" / name, root / "masks" / name)
        else:
            raise DataError(
                f"data: no split {name!r} in {root}; expected {name}.txt with one image per line, or images/{name}/ and masks/{name}/"
            )
    return pairs


def _matched(images: Path, masks: Path) -> list[Pair]:
    """Pairs every image of a folder with the mask of the same name in another."""
    found = _listing(images, IMAGE_SUFFIXES)
    return _pairs(sorted(found), found, _listing(masks, MASK_SUFFIXES), images, masks)


def _pairs(
    names: Iterable[str],
    images: Mapping[str, str],
    masks: Mapping[str, str],
    image_folder: Path,
    mask_folder: Path,
) -> list[Pair]:
    names = list(names)
    for kind, found, folder in (("image", images, image_folder), ("mask", masks, mask_folder)):
        missing = [name for name in names if name not in found]
        if missing:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise DataError(
                f"{folder}: no {kind} for {missing[0]!r}{more}{nearest(missing[0], list(found)[:5000])}"
            )
    return [Pair(images[name], masks[name]) for name in names]


def _listing(folder: Path, suffixes: Sequence[str]) -> dict[str, str]:
    """Returns {name without suffix: path} of a folder, in one pass and without a stat per file."""
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        near = (
            nearest(folder.name, [p.name for p in folder.parent.iterdir()])
            if folder.parent.is_dir()
            else ""
        )
        raise DataError(f"{folder}: {error.strerror or 'not readable'}{near}") from None
    split = ((*os.path.splitext(entry.name), entry.path) for entry in entries)
    return {stem: path for stem, suffix, path in split if suffix.lower() in suffixes}


def read_list(path: Path) -> list[str]:
    """Returns the names in a split list: one per line, without suffix; a BOM, CRLF and blank lines do no harm."""
    if not path.is_file():
        near = (
            nearest(path.name, [p.name for p in path.parent.glob("*.txt")])
            if path.parent.is_dir()
            else ""
        )
        raise DataError(f"{path}: no such split list{near}")
    names = [
        line.split()[0]
        for line in path.read_text(encoding="utf-8-sig").splitlines()
        if line.strip()
    ]
    for name in names:
        if "/" in name or "\\" in name or name.startswith(".."):
            raise DataError(
                f"{path}: {name!r} is a path; expected a plain name, for example 2007_000032"
            )
    return [
        os.path.splitext(n)[0] if os.path.splitext(n)[1].lower() in IMAGE_SUFFIXES else n
        for n in names
    ]


def class_names(config: DataConfig) -> tuple[str, ...]:
    """Returns the names of the classes, in the order of their labels. Raises DataError for an absent or empty list."""
    if not isinstance(config.classes, str):
        return config.classes
    known = {"voc": VOC, "ade20k": ADE20K, "shapes": list(shapes.CLASSES)}
    if config.classes in known:
        return tuple(known[config.classes])
    path = Path(config.root) / config.classes
    if not path.is_file():
        raise DataError(
            f"data.classes: no file {path}{nearest(config.classes, known)}; allowed are {', '.join(known)}, a text file in data.root, or a list of names"
        )
    names = tuple(
        line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()
    )
    if len(names) < 2:
        raise DataError(
            f"{path}: expected two or more class names, one per line, found {len(names)}"
        )
    return names
