"""The generated data set `shapes`: small scenes in VOC layout, for tests and first searches.

Scenes are mostly background, with thin, small and large objects, some of them rare, with texture
and uneven light. Each class has a hue of its own, so a small network can learn all of them within
500 steps. Whether it does depends on the loss, focal gamma and learning rate.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from segtune.config.data_config import IGNORE_INDEX
from segtune.errors import DataError, place_problem, shown_path
from segtune.runs.atomic import naming, temporary_beside

CLASSES = ("background", "disc", "box", "triangle", "line", "dot", "ring")
# A scene gets up to MAX_OBJECTS objects of a class, each with probability FREQUENCY / 1.5. Rings
# are rare, and dots are small: a pixel of either is one of several hundred.
FREQUENCY = {"disc": 0.45, "box": 0.5, "triangle": 0.4, "line": 0.45, "dot": 0.5, "ring": 0.25}
MAX_OBJECTS = 3
# Objects of more pixels get an ignored border, one pixel wide. VOC has such borders, too.
MIN_PIXELS_FOR_BORDER = 120
# Holds the spec that a folder was generated from.
SPEC_FILE = "shapes.json"
# The setting, and the option, that name the folder.
ROOT_NAMES = "data.root (--out of `segtune data shapes`)"
# Left in any folder by file browsers.
STRAY = re.compile(r"\._.*|\.DS_Store|Thumbs\.db|desktop\.ini")


@dataclass(frozen=True)
class ShapesSpec:
    """What the files depend on: the same spec gives the same files, byte for byte."""

    seed: int = 0
    num_train: int = 160
    num_val: int = 40
    size: int = 64  # pixels
    version: int = 2  # increased when the drawing code changes


def generate_if_needed(root: Path, spec: ShapesSpec | None = None) -> None:
    """Generate the data set under `root`, unless it is there and current.

    Without a `spec`, any data set of the current version is current. An older data set is replaced.
    Several processes may call this at the same time: each writes to a folder of its own, and the
    first one to finish renames its folder to `root`.

    Raise DataError if `root` holds files that are not of this data set, which are left as they are,
    or if the operating system refuses the folder.
    """
    wanted = json.dumps(asdict(spec or ShapesSpec()))
    try:
        if _is_current(root / SPEC_FILE, wanted, any_spec=spec is None):
            return
        _check_only_shapes(root)
        staging = temporary_beside(root)
        try:
            with naming(root):
                _write(staging, spec or ShapesSpec())
                (staging / SPEC_FILE).write_text(wanted)
                _replace(staging, root, wanted)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        problem = place_problem(error)
        if problem is None:
            raise
        raise DataError(f"{ROOT_NAMES}: not usable for the shapes: {problem}") from error


def _is_current(spec_file: Path, wanted: str, *, any_spec: bool) -> bool:
    if not spec_file.is_file():
        return False
    text = spec_file.read_text()
    if any_spec and _version(text) == ShapesSpec().version:
        return True
    return text == wanted


def _version(text: str) -> int | None:
    try:
        return json.loads(text)["version"]
    except (ValueError, KeyError, TypeError):  # not written by segtune
        return None


def _check_only_shapes(root: Path) -> None:
    """Raise DataError if `root` has an entry that this module has not written.

    To generate the data set replaces the whole folder.
    """
    foreign = None
    with suppress(FileNotFoundError):  # also if another process replaces the folder now
        foreign = next(_foreign_entries(root), None)
    if foreign:
        raise DataError(
            f"{ROOT_NAMES}: {shown_path(root)} holds files that are not of the shapes data set "
            f"({shown_path(foreign.relative_to(root))}), and they would be lost; choose a new or "
            "an empty folder, or move them away"
        )


def _foreign_entries(root: Path) -> Iterator[Path]:
    of_folder = {
        "": rf"JPEGImages|SegmentationClass|ImageSets|{re.escape(SPEC_FILE)}",
        "JPEGImages": r"(train|val)_\d{5,}\.jpg",
        "SegmentationClass": r"(train|val)_\d{5,}\.png",
        "ImageSets": "Segmentation",
        "ImageSets/Segmentation": r"(train|val)\.txt",
    }
    # Without the spec file it is another data set, perhaps in VOC layout.
    has_spec = (root / SPEC_FILE).is_file()
    for folder, pattern in of_folder.items():
        if not (root / folder).is_dir():
            continue
        for entry in sorted((root / folder).iterdir()):
            is_ours = has_spec and re.fullmatch(pattern, entry.name)
            if not is_ours and not STRAY.fullmatch(entry.name):
                yield entry


def _replace(staging: Path, root: Path, wanted: str) -> None:
    """Rename `staging` to `root`, and remove an older data set there."""
    if _is_current(root / SPEC_FILE, wanted, any_spec=False):
        return  # another process was faster, and may be reading its files
    old = staging.with_suffix(".old")
    with suppress(FileNotFoundError):  # another process has moved it
        if (root / SPEC_FILE).is_file():
            root.rename(old)
        elif root.is_dir() and not any(root.iterdir()):
            root.rmdir()
    try:
        os.rename(staging, root)
    except OSError:
        # Another process was faster. It wrote the same files.
        if not (root / SPEC_FILE).is_file():
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _write(root: Path, spec: ShapesSpec) -> None:
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for split, count in (("train", spec.num_train), ("val", spec.num_val)):
        names = [f"{split}_{i:05d}" for i in range(count)]
        for index, name in enumerate(names):
            rng = np.random.default_rng((spec.seed, split == "val", index))
            image, mask = draw_scene(rng, spec.size)
            _, jpeg = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
            # Not imwrite, which only returns False if the disk is full.
            (root / "JPEGImages" / f"{name}.jpg").write_bytes(jpeg.tobytes())
            Image.fromarray(mask, mode="L").save(root / "SegmentationClass" / f"{name}.png")
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names) + "\n")


def draw_scene(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an image uint8 [size, size, 3] and its mask uint8 [size, size].

    Large objects have a border of ignored pixels.
    """
    grey = rng.integers(70, 170) + rng.integers(-12, 13, 3)
    image = _texture(rng, size, grey, 14)
    mask = np.zeros((size, size), np.uint8)
    for label, name in enumerate(CLASSES[1:], 1):
        for _ in range(MAX_OBJECTS):
            if rng.random() < FREQUENCY[name] / 1.5:
                _paint(image, mask, label, _outline(rng, name, size), rng)
    light = np.linspace(rng.uniform(0.6, 1.1), rng.uniform(0.7, 1.3), size)
    image = image * (light[None, :, None] if rng.random() < 0.5 else light[:, None, None])
    image = image + rng.normal(0, rng.uniform(4, 10), image.shape)
    return image.clip(0, 255).astype(np.uint8), mask


def _texture(
    rng: np.random.Generator, size: int, colour: np.ndarray, strength: float
) -> np.ndarray:
    coarse = rng.normal(0, strength, (size // 8, size // 8, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return smooth + colour.astype(np.float32)


def _outline(rng: np.random.Generator, name: str, size: int) -> np.ndarray:
    """Return the pixels of one object of class `name` as uint8 [size, size] of 0 and 1."""
    canvas = np.zeros((size, size), np.uint8)
    x, y = (int(v) for v in rng.integers(size // 10, size - size // 10, 2))
    match name:
        case "disc":
            cv2.circle(canvas, (x, y), int(rng.integers(size // 12, size // 5)), 1, -1)
        case "box":
            half = rng.uniform(size / 14, size / 4, 2)
            corners = cv2.boxPoints(((x, y), (2 * half[0], 2 * half[1]), float(rng.uniform(0, 90))))
            cv2.fillPoly(canvas, [corners.astype(np.int32)], 1)
        case "triangle":
            angles = rng.uniform(0, 2 * np.pi) + np.array([0, 2.1, 4.2])
            radius = rng.uniform(size / 10, size / 5)
            corners = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], 1)
            cv2.fillPoly(canvas, [corners.astype(np.int32)], 1)
        case "line":
            end = rng.integers(0, size, 2)
            cv2.line(canvas, (x, y), (int(end[0]), int(end[1])), 1, int(rng.integers(2, 4)))
        case "dot":
            cv2.circle(canvas, (x, y), int(rng.integers(3, 5)), 1, -1)
        case "ring":
            cv2.circle(
                canvas, (x, y), int(rng.integers(size // 12, size // 6)), 1, int(rng.integers(3, 5))
            )
    return canvas


def _paint(
    image: np.ndarray, mask: np.ndarray, label: int, pixels: np.ndarray, rng: np.random.Generator
) -> None:
    """Paint an object into the image and its label into the mask, in place."""
    # The hues of the six classes are evenly spaced (OpenCV: 0 to 180) and vary little.
    hue = (label * 30 + rng.normal(0, 4)) % 180
    hsv = np.array([[[hue, rng.uniform(120, 230), rng.uniform(110, 240)]]], np.float32)
    colour = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)[0, 0]
    inside = pixels.astype(bool)
    image[inside] = _texture(rng, image.shape[0], colour, 14)[inside]
    if pixels.sum() > MIN_PIXELS_FOR_BORDER:
        border = cv2.dilate(pixels, np.ones((3, 3), np.uint8)) - pixels
        mask[border.astype(bool)] = IGNORE_INDEX
    mask[inside] = label
