"""The generated data set: small scenes in VOC layout on which loss weights, gamma and learning rate matter.

Mostly background, thin and small and large objects, some of them rare, with texture and uneven light.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

CLASSES = ("background", "disc", "box", "triangle", "line", "dot", "ring")
IGNORE = 255
# Chance that a scene holds one more object of the class, drawn up to three times: dots and rings are rare.
FREQUENCY = {"disc": 0.45, "box": 0.5, "triangle": 0.3, "line": 0.35, "dot": 0.25, "ring": 0.12}
STAMP = "shapes.json"


@dataclass(frozen=True)
class ShapesSpec:
    """What decides the images: the same spec gives the same files, byte for byte."""

    seed: int = 0
    num_train: int = 160
    num_val: int = 40
    size: int = 96  # pixels
    version: int = 1  # raised when the drawing changes


def ensure(root: Path, spec: ShapesSpec | None = None) -> None:
    """Generates the data set under `root` where it is absent or stale. Safe when several processes do so at once."""
    wanted = json.dumps(asdict(spec or ShapesSpec()))
    stamp = root / STAMP
    if stamp.is_file() and (
        (spec is None and json.loads(stamp.read_text())["version"] == ShapesSpec().version)
        or stamp.read_text() == wanted
    ):
        return
    aside = root.with_name(f".{root.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        _write(aside, spec or ShapesSpec())
        (aside / STAMP).write_text(wanted)
        _replace(aside, root)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _replace(aside: Path, root: Path) -> None:
    old = aside.with_suffix(".old")
    if (root / STAMP).is_file():
        root.rename(old)
    elif root.is_dir() and not any(root.iterdir()):
        root.rmdir()
    try:
        os.rename(aside, root)
    except OSError:
        # Another process was faster; what it wrote is the same.
        if not (root / STAMP).is_file():
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _write(root: Path, spec: ShapesSpec) -> None:
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for split, count in (("train", spec.num_train), ("val", spec.num_val)):
        names = [f"{split}_{i:05d}" for i in range(count)]
        for index, name in enumerate(names):
            image, mask = draw_scene(
                np.random.default_rng((spec.seed, split == "val", index)), spec.size
            )
            cv2.imwrite(
                str(root / "JPEGImages" / f"{name}.jpg"),
                image[:, :, ::-1],
                [cv2.IMWRITE_JPEG_QUALITY, 92],
            )
            Image.fromarray(mask, mode="L").save(root / "SegmentationClass" / f"{name}.png")
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names) + "\n")


def draw_scene(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns image uint8 [size, size, 3] and mask uint8 [size, size] with ignored borders around large objects."""
    image = _texture(rng, size, rng.integers(70, 170, 3), 22)
    mask = np.zeros((size, size), np.uint8)
    for label, name in enumerate(CLASSES[1:], 1):
        for _ in range(3):
            if rng.random() < FREQUENCY[name] / 1.5:
                _add(image, mask, label, _outline(rng, name, size), rng)
    light = np.linspace(rng.uniform(0.6, 1.1), rng.uniform(0.7, 1.3), size)
    image = image * (light[None, :, None] if rng.random() < 0.5 else light[:, None, None])
    image = image + rng.normal(0, rng.uniform(4, 14), image.shape)
    return image.clip(0, 255).astype(np.uint8), mask


def _texture(
    rng: np.random.Generator, size: int, colour: np.ndarray, strength: float
) -> np.ndarray:
    coarse = rng.normal(0, strength, (size // 8, size // 8, 3)).astype(np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC) + colour.astype(
        np.float32
    )


def _outline(rng: np.random.Generator, name: str, size: int) -> np.ndarray:
    """Returns one object's pixels as uint8 [size, size] of 0 and 1."""
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
            cv2.line(canvas, (x, y), (int(end[0]), int(end[1])), 1, int(rng.integers(1, 3)))
        case "dot":
            cv2.circle(canvas, (x, y), int(rng.integers(2, 4)), 1, -1)
        case "ring":
            cv2.circle(
                canvas, (x, y), int(rng.integers(size // 12, size // 6)), 1, int(rng.integers(2, 5))
            )
    return canvas


def _add(
    image: np.ndarray, mask: np.ndarray, label: int, pixels: np.ndarray, rng: np.random.Generator
) -> None:
    # A class has a typical colour, but with so much spread that colour alone does not tell it.
    hue = np.array(
        [[[(label * 37 + rng.normal(0, 9)) % 180, rng.uniform(60, 200), rng.uniform(110, 240)]]],
        np.float32,
    ).astype(np.uint8)
    colour = cv2.cvtColor(hue, cv2.COLOR_HSV2RGB)[0, 0]
    inside = pixels.astype(bool)
    image[inside] = _texture(rng, image.shape[0], colour, 14)[inside]
    if pixels.sum() > 120:
        border = cv2.dilate(pixels, np.ones((3, 3), np.uint8)) - pixels
        mask[border.astype(bool)] = IGNORE
    mask[inside] = label
