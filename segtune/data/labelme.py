"""LabelMe's JSON files as a data set in VOC layout: images, masks, class names and lists."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import os
import shutil
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from segtune.config.data_config import IGNORE_INDEX, DataConfig
from segtune.data.class_lists import LABELME_IGNORED
from segtune.data.file_names import IMAGE_SUFFIXES, is_stray
from segtune.data.image_files import open_header, orientation_of
from segtune.data.known_classes import voc_colours
from segtune.data.labelme_shapes import Shape, ShapeError, draw, parse_shapes
from segtune.data.layout_hints import nearest_sibling
from segtune.data.text_files import read_lines, read_text
from segtune.errors import DataError, first_of, nearest

BACKGROUND = "_background_"
MAX_CLASSES = 255  # a mask has 8 bits, and 255 is ignored
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "BMP": ".bmp", "TIFF": ".tif", "WEBP": ".webp"}
SWAPS_SIDES = (5, 6, 7, 8)  # EXIF orientations that turn an image by 90 degrees


@dataclass(frozen=True)
class Classes:
    """The names of the classes in the order of their labels; the first is `_background_`."""

    names: tuple[str, ...]
    source: str  # for messages

    @property
    def values(self) -> dict[str, int]:
        """The value of each name in a mask; `__ignore__` is 255."""
        labels = {name: label for label, name in enumerate(self.names)}
        return {**labels, LABELME_IGNORED: IGNORE_INDEX}


@dataclass(frozen=True)
class Annotation:
    """One JSON file: its shapes, and its image as a file or as bytes."""

    shapes: list[Shape]
    size: tuple[int, int]  # width and height of the mask
    image: Path | bytes
    suffix: str  # of the image


def find_json(folder: Path) -> dict[str, Path]:
    """Return the JSON files in a folder and its subfolders, by their paths without suffix.

    Raises DataError if there is none, or no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"--input: no folder {folder}{nearest_sibling(folder, '*/')}")
    found = {}
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_stray(name))
        for file in sorted(files):
            if file.lower().endswith(".json") and not is_stray(file):
                path = Path(parent, file)
                found[path.relative_to(folder).with_suffix("").as_posix()] = path
    if not found:
        raise DataError(
            f"--input: no JSON files in {folder}; expected the folder where LabelMe saves its "
            "annotations"
        )
    return found


def read_classes(labels: str) -> Classes:
    """Read LabelMe's labels.txt, or names separated by commas.

    `__ignore__` is no class, and `_background_` becomes the first one, also if it is absent.
    """
    path = Path(labels)
    if path.is_file():
        names = [line.text for line in read_lines(path)]
    elif "," in labels:
        names = [name.strip() for name in labels.split(",") if name.strip()]
    else:
        raise DataError(f"--labels: no file {path}{nearest_sibling(path, '*.txt')}")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DataError(f"--labels: {twice[0]!r} occurs twice; each class needs a name of its own")
    return _classes(names, labels)


def _classes(names: Sequence[str], source: str) -> Classes:
    others = [name for name in names if name not in (LABELME_IGNORED, BACKGROUND)]
    if not others:
        raise DataError(f"{source}: has no class besides {BACKGROUND} and {LABELME_IGNORED}")
    if len(others) >= MAX_CLASSES:
        raise DataError(f"{source}: has {len(others)} classes; a mask of LabelMe has up to 254")
    return Classes((BACKGROUND, *others), source)


class Conversion:
    """The JSON files of a folder: checked first, then written."""

    def __init__(self, files: dict[str, Path], classes: Classes | None) -> None:
        """Take the files by name. Without `classes`, every label in the files is a class."""
        self.files = files
        self._listed = classes
        self.num_empty = 0  # images without a shape
        self._labels: set[str] = set()  # in the files

    @property
    def classes(self) -> Classes:
        """The classes. Raises DataError if no file has a shape. Known after `check`."""
        return self._listed or _classes(sorted(self._labels), "the JSON files")

    def check(self) -> Iterator[str]:
        """Read all files, and only the headers of images. Leave out the files that are refused.

        Yields an empty text for each file, or why it is refused.
        """
        for name, path in list(self.files.items()):
            try:
                shapes = read_annotation(path).shapes
                if self._listed and (problem := unlisted(path, shapes, self._listed)):
                    raise DataError(problem)
            except DataError as error:
                del self.files[name]
                yield str(error)
                continue
            self.num_empty += not shapes
            self._labels |= {shape.label for shape in shapes}
            yield ""

    def write(self, root: Path) -> Iterator[str]:
        """Write images and masks under `root`. Yields as `check` does."""
        classes = self.classes
        for name, path in list(self.files.items()):
            try:
                write_pair(root, name, read_annotation(path), classes)
            except DataError as error:  # the file has changed since the check
                del self.files[name]
                yield str(error)
                continue
            yield ""


def read_annotation(path: Path) -> Annotation:
    """Read a JSON file of LabelMe and find its image. Raises DataError that names the file."""
    tree = read_json(path)
    try:
        shapes = parse_shapes(tree["shapes"])
    except ShapeError as error:
        raise DataError(f"{path}: {error}") from None
    image, suffix, sizes = _image(path, tree)
    written = (tree.get("imageWidth"), tree.get("imageHeight"))
    if written == (None, None):
        return Annotation(shapes, sizes[0], image, suffix)
    for size in sizes:
        if size == written:
            return Annotation(shapes, size, image, suffix)
    raise DataError(
        f"{path}: was made for an image of {written[0]} x {written[1]} pixels, and its image has "
        f"{sizes[0][0]} x {sizes[0][1]}; use the image that was annotated"
    )


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file of LabelMe. Raises DataError if it is none."""
    text = read_text(path)
    if not text.strip():
        raise DataError(f"{path}: the file is empty")
    try:
        tree = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not readable as JSON: {error.msg}") from None
    except RecursionError:
        raise DataError(f"{path}: nested too deeply for a file of LabelMe") from None
    if not isinstance(tree, dict) or "shapes" not in tree:
        coco = isinstance(tree, dict) and {"images", "annotations"} <= set(tree)
        what = "is a file of COCO" if coco else "has no `shapes`"
        raise DataError(f"{path}: {what}; expected a JSON file that LabelMe has saved")
    return tree


Sizes = list[tuple[int, int]]


def _image(path: Path, tree: dict[str, Any]) -> tuple[Path | bytes, str, Sizes]:
    """Return the image, its suffix, and the sizes (W, H) that its mask may have.

    As LabelMe, take the embedded image first. An image with an EXIF orientation may have been
    annotated upright (as LabelMe shows it), or as it is stored.
    """
    if tree.get("imageData"):
        return _embedded(path, tree["imageData"])
    file = _image_file(path, tree.get("imagePath"))
    header = open_header(file, DataConfig().max_megapixels)
    return file, file.suffix.lower(), [header.upright_size, header.stored_size]


def _embedded(path: Path, data: Any) -> tuple[bytes, str, Sizes]:
    try:
        content = base64.b64decode(data, validate=False)
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            size = image.size
            upright = (size[1], size[0]) if orientation_of(image) in SWAPS_SIDES else size
            return content, SUFFIXES.get(image.format or "", ".png"), [upright, size]
    except (
        *(TypeError, ValueError, binascii.Error, OSError, SyntaxError),
        *(UnidentifiedImageError, Image.DecompressionBombError),
    ):
        raise DataError(
            f"{path}: imageData is no image in base64; remove it, and keep the image beside the "
            "JSON file"
        ) from None


def _image_file(path: Path, name: Any) -> Path:
    """Return the image file of a JSON file: by imagePath, or beside it."""
    candidates = []
    if isinstance(name, str) and name:
        # Paths of Windows have backslashes; absolute ones are of another computer.
        slashed = PureWindowsPath(name)
        candidates += [path.parent / slashed.as_posix(), path.parent / slashed.name]
    candidates += [path.with_suffix(suffix) for suffix in IMAGE_SUFFIXES]
    candidates += [path.with_suffix(suffix.upper()) for suffix in IMAGE_SUFFIXES]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    near = nearest_sibling(path.parent / PureWindowsPath(str(name or path.stem)).name)
    raise DataError(
        f"{path}: no image: imagePath is {name!r}, and there is no {path.stem}.jpg or .png beside "
        f"the JSON file{near}"
    )


def unlisted(path: Path, shapes: Sequence[Shape], classes: Classes) -> str:
    """Return a message if a shape has a label that is no class, otherwise an empty text."""
    values = classes.values
    others = list(dict.fromkeys(shape.label for shape in shapes if shape.label not in values))
    if not others:
        return ""
    near = nearest(others[0], values)
    return f"{path}: {first_of([repr(name) for name in others], 3)} not in {classes.source}{near}"


def split_names(names: Sequence[str], val_share: float, seed: int) -> tuple[list[str], list[str]]:
    """Return the names of train and val, each sorted.

    The order of the hashes of seed and name decides. So it does not depend on the order of the
    files, and a new file moves at most one other file to the other list.
    """
    by_hash = sorted(names, key=lambda name: _hash(name, seed))
    num_val = round(val_share * len(names))
    if val_share > 0 and len(names) > 1:
        num_val = min(max(num_val, 1), len(names) - 1)
    return sorted(by_hash[num_val:]), sorted(by_hash[:num_val])


def _hash(name: str, seed: int) -> str:
    # macOS stores names in another form of Unicode.
    text = f"{seed}/{unicodedata.normalize('NFC', name)}"
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def write_pair(root: Path, name: str, annotation: Annotation, classes: Classes) -> None:
    """Write an image as it is, and its mask with VOC's palette."""
    image = root / "JPEGImages" / f"{name}{annotation.suffix}"
    mask = root / "SegmentationClass" / f"{name}.png"
    for target in (image, mask):
        target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(annotation.image, bytes):
        image.write_bytes(annotation.image)
    else:
        shutil.copyfile(annotation.image, image)
    labels = draw(annotation.shapes, annotation.size, classes.values)
    write_mask(mask, labels)


def write_mask(path: Path, labels: np.ndarray) -> None:
    """Write labels uint8 [H, W] as a PNG with VOC's palette."""
    image = Image.fromarray(labels, mode="P")
    image.putpalette(voc_colours(256).ravel().tolist())
    image.save(path)


def write_lists(root: Path, classes: Classes, train: Sequence[str], val: Sequence[str]) -> None:
    """Write labels.txt in LabelMe's form, class_names.txt, and the lists of the splits."""
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    _write_lines(root / "labels.txt", [LABELME_IGNORED, *classes.names])
    _write_lines(root / "class_names.txt", classes.names)
    _write_lines(lists / "train.txt", train)
    if val:
        _write_lines(lists / "val.txt", val)


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
