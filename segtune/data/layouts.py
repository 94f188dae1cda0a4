"""How data sets lie on disk: lists of (image, mask), the classes, and labels as training sees them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from segtune.config import DataConfig
from segtune.data import shapes
from segtune.errors import DataError, nearest

JPEG_BEGIN = b"\xff\xd8"
NO_FRAMES = (0xC4, 0xC8, 0xCC)  # tables and extensions among the markers of frames

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
        near = nearest(root.name, [p.name for p in root.parent.iterdir()]) if root.parent.is_dir() else ""
        raise DataError(
            f"data.root: no folder {config.root!r}{near}; set data.root to the data set, for layout {config.layout}: {_expected(config.layout)}"
        )
    lists = config.train if split == "train" else (config.val,)
    match config.layout:
        case "voc" | "shapes":
            pairs = _voc(root, config, lists)
        case "ade20k":
            pairs = _matched(
                root / "images" / ADE20K_FOLDERS.get(lists[0], lists[0]), root / "annotations" / ADE20K_FOLDERS.get(lists[0], lists[0])
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
    folder = config.masks or ("SegmentationClassAug" if any(name in AUG_LISTS for name in config.train) else "SegmentationClass")
    images, masks = _listing(root / "JPEGImages", IMAGE_SUFFIXES), _listing(root / folder, MASK_SUFFIXES)
    names: list[str] = []
    for name in lists:
        names += read_list(root / "ImageSets" / "Segmentation" / f"{name}.txt")
    return _pairs(dict.fromkeys(names), images, masks, root / "JPEGImages", root / folder)


def _folder(root: Path, lists: Sequence[str]) -> list[Pair]:
    pairs: list[Pair] = []
    for name in lists:
        if (root / f"{name}.txt").is_file():
            images, masks = _listing(root / "images", IMAGE_SUFFIXES), _listing(root / "masks", MASK_SUFFIXES)
            pairs += _pairs(read_list(root / f"{name}.txt"), images, masks, root / "images", root / "masks")
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


def _pairs(names: Iterable[str], images: Mapping[str, str], masks: Mapping[str, str], image_folder: Path, mask_folder: Path) -> list[Pair]:
    names = list(names)
    for kind, found, folder in (("image", images, image_folder), ("mask", masks, mask_folder)):
        missing = [name for name in names if name not in found]
        if missing:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise DataError(f"{folder}: no {kind} for {missing[0]!r}{more}{nearest(missing[0], list(found)[:5000])}")
    return [Pair(images[name], masks[name]) for name in names]


def _listing(folder: Path, suffixes: Sequence[str]) -> dict[str, str]:
    """Returns {name without suffix: path} of a folder, in one pass and without a stat per file."""
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        near = nearest(folder.name, [p.name for p in folder.parent.iterdir()]) if folder.parent.is_dir() else ""
        raise DataError(f"{folder}: {error.strerror or 'not readable'}{near}") from None
    split = ((*os.path.splitext(entry.name), entry.path) for entry in entries)
    return {stem: path for stem, suffix, path in split if suffix.lower() in suffixes}


def read_list(path: Path) -> list[str]:
    """Returns the names in a split list: one per line, without suffix; a BOM, CRLF and blank lines do no harm."""
    if not path.is_file():
        near = nearest(path.name, [p.name for p in path.parent.glob("*.txt")]) if path.parent.is_dir() else ""
        raise DataError(f"{path}: no such split list{near}")
    names = [line.split()[0] for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    for name in names:
        if "/" in name or "\\" in name or name.startswith(".."):
            raise DataError(f"{path}: {name!r} is a path; expected a plain name, for example 2007_000032")
    return [os.path.splitext(n)[0] if os.path.splitext(n)[1].lower() in IMAGE_SUFFIXES else n for n in names]


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
    names = tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip())
    if len(names) < 2:
        raise DataError(f"{path}: expected two or more class names, one per line, found {len(names)}")
    return names


def read_image(path: str | Path) -> np.ndarray:
    """Returns an image as uint8 RGB [H, W, 3]. Raises DataError for a file that is no image."""
    found = _jpeg(path)
    return np.asarray(_open(path).convert("RGB")) if found is None else found


def _jpeg(path: str | Path) -> np.ndarray | None:
    """Returns a whole JPEG, decoded by OpenCV: a sixth faster than Pillow, by the same library and to the same pixels."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        data = file.read(2)
        data += file.read() if data == JPEG_BEGIN else b""
        # Of four inks it makes other colours than Pillow. A file that breaks off gives None, and Pillow says what is wrong with it.
        if len(data) > 2 and _components(data) < 4:
            return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    return None


def _components(jpeg: bytes) -> int:
    """Returns how many components (grey, colours, inks) a JPEG has: its frame header says (ITU-T T.81, B.2.2)."""
    place = 2
    while jpeg[place : place + 1] == b"\xff" and place + 9 < len(jpeg):
        if 0xC0 <= jpeg[place + 1] <= 0xCF and jpeg[place + 1] not in NO_FRAMES:
            return jpeg[place + 9]
        place += 2 + int.from_bytes(jpeg[place + 2 : place + 4])
    return 4


def read_mask(path: str | Path, config: DataConfig, num_classes: int) -> np.ndarray:
    """Returns labels as uint8 [H, W] in 0..C-1 or ignore_index. Raises DataError for labels outside the classes."""
    image = _open(path)
    if image.mode not in ("P", "L", "1", "I;16", "I"):
        raise DataError(
            f"{path}: a mask must have one channel of labels (palette or grey PNG), this one is {image.mode}; convert its colours to labels"
        )
    found, meaning = np.asarray(image), _labels(np.arange(256), config)
    if found.dtype != np.uint8 or cv2.countNonZero(cv2.LUT(found, _is_wrong(meaning, config, num_classes).astype(np.uint8))):
        labels = _labels(np.unique(found).astype(np.int64), config)
        wrong = labels[_is_wrong(labels, config, num_classes)]
        if wrong.size:
            raise DataError(
                f"{path}: labels {np.unique(wrong)[:5].tolist()} are outside the {num_classes} classes (0..{num_classes - 1}, {config.ignore_index} = ignore); "
                "check data.classes, data.ignore_index and data.reduce_zero_label"
            )
    # What the file says becomes what it means in one look-up: all of it is below 256 by now.
    return cv2.LUT(found.astype(np.uint8), meaning.astype(np.uint8))


def _is_wrong(labels: np.ndarray, config: DataConfig, num_classes: int) -> np.ndarray:
    return (labels >= num_classes) & (labels != config.ignore_index) | (labels < 0)


def _labels(found: np.ndarray, config: DataConfig) -> np.ndarray:
    """Returns the labels that values in a mask file stand for."""
    reduce_zero = config.reduce_zero_label if config.reduce_zero_label is not None else config.layout == "ade20k"
    return np.where((found == 0) | (found == 255), config.ignore_index, found - 1) if reduce_zero else found


def load_pair(pair: Pair, config: DataConfig, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns image uint8 [H, W, 3] and labels uint8 [H, W]. Raises DataError that names the file."""
    image, mask = read_image(pair.image), read_mask(pair.mask, config, num_classes)
    if image.shape[:2] != mask.shape:
        raise DataError(
            f"{pair.mask}: is {mask.shape[1]}x{mask.shape[0]} pixels, but {pair.image} is {image.shape[1]}x{image.shape[0]}; sizes must agree"
        )
    return image, mask


def _open(path: str | Path) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
        return image
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not readable as an image: {error}") from None


def palette(num_classes: int) -> np.ndarray:
    """Returns uint8 [256, 3]: VOC's colours by label, black for everything past the classes."""
    colours = np.zeros((256, 3), np.uint8)
    for label in range(min(num_classes, 256)):
        for bit in range(8):
            for channel in range(3):
                colours[label, channel] |= ((label >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours
