"""Data set layouts on disk: the (image, mask) files of a split, and the names of the classes.

Reads folder listings and text files only, never an image.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segtune.config.data_config import DataConfig
from segtune.data import shapes
from segtune.data.file_names import IMAGE_SUFFIXES, MASK_SUFFIXES
from segtune.errors import DataError, nearest

VOC_CLASSES = (
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
)
# The names of ADE20K's 150 classes differ between its releases; their numbers do not.
ADE20K_CLASSES = tuple(f"class_{i}" for i in range(1, 151))
NAMED_CLASSES = {"voc": VOC_CLASSES, "ade20k": ADE20K_CLASSES, "shapes": shapes.CLASSES}
ADE20K_FOLDERS = {"train": "training", "val": "validation"}
# Usual names of the training list of VOC plus SBD, 10,582 images.
AUG_LISTS = ("aug", "trainaug", "train_aug")
# At most this many names are searched for one that is similar to a missing name.
MAX_COMPARED_NAMES = 5000
# What `data.root` has to contain, by layout.
EXPECTED_CONTENT = {
    "voc": "JPEGImages/, SegmentationClass/, ImageSets/Segmentation/train.txt",
    "ade20k": "images/training/, annotations/training/",
    "folder": "images/, masks/, labels.txt",
}


@dataclass(frozen=True)
class Pair:
    """One image file and its mask file."""

    image: str
    mask: str

    @property
    def name(self) -> str:
        """The name of the image file without folder and suffix."""
        return Path(self.image).stem


def root_folder(config: DataConfig) -> Path:
    """Return the root folder of the data set; generate the data set there first if it is `shapes`.

    Raises DataError that names the absent folder, the folder beside it with the closest name, and
    what the layout expects.
    """
    root = Path(config.root)
    if config.layout == "shapes":
        shapes.generate_if_needed(root)
        return root
    if not root.is_dir():
        raise DataError(
            f"data.root: no folder {config.root!r}; expected the data set, for layout "
            f"{config.layout} with {EXPECTED_CONTENT[config.layout]}"
            f"{_nearest_sibling(root, '*/')}"
        )
    return root


def open_split(config: DataConfig, split: str) -> list[Pair]:
    """Return the pairs of split `train` (all its lists joined) or `val`, in the order of the lists.

    Raises DataError that names what is missing and what was expected.
    """
    root = root_folder(config)
    lists = config.train if split == "train" else (config.val,)
    match config.layout:
        case "voc" | "shapes":
            pairs = _voc(root, config, lists)
        case "ade20k":
            part = ADE20K_FOLDERS.get(lists[0], lists[0])
            pairs = _match_folders(root / "images" / part, root / "annotations" / part)
        case "folder":
            pairs = _folder(root, lists)
    if not pairs:
        raise DataError(f"data.{split}: the split {', '.join(lists)} of {config.root} is empty")
    return pairs[: config.num_images] if split == "train" else pairs


def _voc(root: Path, config: DataConfig, lists: Sequence[str]) -> list[Pair]:
    # SegmentationClassAug holds the masks of VOC and of SBD. So validation uses this folder, too,
    # if the training uses it.
    uses_aug = any(name in AUG_LISTS for name in config.train)
    mask_folder = config.masks or ("SegmentationClassAug" if uses_aug else "SegmentationClass")
    images, masks = _listings(root / "JPEGImages", root / mask_folder)
    names: list[str] = []
    for list_name in lists:
        names += read_list(root / "ImageSets" / "Segmentation" / f"{list_name}.txt")
    return _pair_up(dict.fromkeys(names), images, masks)  # without duplicates, in order


def _folder(root: Path, lists: Sequence[str]) -> list[Pair]:
    pairs: list[Pair] = []
    listings: tuple[_Listing, _Listing] | None = None
    for name in lists:
        if (root / f"{name}.txt").is_file():
            listings = listings or _listings(root / "images", root / "masks")
            pairs += _pair_up(read_list(root / f"{name}.txt"), *listings)
        elif (root / "images" / name).is_dir():
            pairs += _match_folders(root / "images" / name, root / "masks" / name)
        else:
            raise DataError(
                f"data: no split {name!r} in {root}; expected {name}.txt with one image per line, "
                f"or images/{name}/ and masks/{name}/"
            )
    return pairs


def _match_folders(image_folder: Path, mask_folder: Path) -> list[Pair]:
    """Pair every image of a folder with the mask of the same name in another folder."""
    images, masks = _listings(image_folder, mask_folder)
    return _pair_up(sorted(images.paths), images, masks)


@dataclass(frozen=True)
class _Listing:
    """The files of a folder: {name without suffix: path}."""

    folder: Path
    paths: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path, suffixes: Sequence[str]) -> _Listing:
        """List the files with these suffixes, in one pass and without one `stat` per file."""
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            raise DataError(
                f"{folder}: {error.strerror or 'not readable'}{_nearest_sibling(folder)}"
            ) from None
        paths = {}
        for entry in entries:
            stem, suffix = os.path.splitext(entry.name)
            if suffix.lower() in suffixes:
                paths[stem] = entry.path
        return cls(folder, paths)


def _listings(image_folder: Path, mask_folder: Path) -> tuple[_Listing, _Listing]:
    images = _Listing.read(image_folder, IMAGE_SUFFIXES)
    return images, _Listing.read(mask_folder, MASK_SUFFIXES)


def _pair_up(names: Iterable[str], images: _Listing, masks: _Listing) -> list[Pair]:
    names = list(names)
    for kind, listing in (("image", images), ("mask", masks)):
        missing = [name for name in names if name not in listing.paths]
        if missing:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            similar = nearest(missing[0], list(listing.paths)[:MAX_COMPARED_NAMES])
            raise DataError(f"{listing.folder}: no {kind} for {missing[0]!r}{more}{similar}")
    return [Pair(images.paths[name], masks.paths[name]) for name in names]


def read_list(path: Path) -> list[str]:
    """Return the image names in a split list, without suffixes.

    The list has one name per line. A byte order mark, CRLF line ends and blank lines are accepted.
    Raises DataError if there is no such file, or if a line is a path.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such split list{_nearest_sibling(path, '*.txt')}")
    return [_image_name(line.split()[0], path) for line in _lines(path)]


def _image_name(word: str, path: Path) -> str:
    if "/" in word or "\\" in word or word.startswith(".."):
        raise DataError(
            f"{path}: {word!r} is a path; expected a plain name, for example 2007_000032"
        )
    stem, suffix = os.path.splitext(word)
    return stem if suffix.lower() in IMAGE_SUFFIXES else word


def class_names(config: DataConfig) -> tuple[str, ...]:
    """Return the names of the classes, in the order of their labels.

    Reads the data set only if `data.classes` is a file in it. Raises DataError if `data.root` or
    the file is absent, or if the file has fewer than two names.
    """
    if not isinstance(config.classes, str):
        return config.classes
    if config.classes in NAMED_CLASSES:
        return NAMED_CLASSES[config.classes]
    path = root_folder(config) / config.classes
    if not path.is_file():
        raise DataError(
            f"data.classes: no file {path}{nearest(config.classes, NAMED_CLASSES)}; allowed are "
            f"{', '.join(NAMED_CLASSES)}, a text file in data.root, or a list of names"
        )
    names = tuple(line.strip() for line in _lines(path))
    if len(names) < 2:
        raise DataError(
            f"{path}: expected two or more class names, one per line, found {len(names)}"
        )
    return names


def _lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not blank."""
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    return [line for line in lines if line.strip()]


def _nearest_sibling(path: Path, pattern: str = "*") -> str:
    """Return `; did you mean 'x'?` for the entry beside an absent `path` with the closest name.

    Returns an empty string if no entry has a similar name.
    """
    return nearest(path.name, [sibling.name for sibling in path.parent.glob(pattern)])
