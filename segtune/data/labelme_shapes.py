"""LabelMe's shapes as labels: what one annotation draws into a mask.

The pixels are those of LabelMe's own export (labelme/utils/shape.py), which draws with Pillow: the
outline belongs to the shape, a line is 10 pixels wide, and a point has a radius of 5 pixels. Later
shapes lie over earlier ones. So a shape `_background_` after another one cuts a hole.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, UnidentifiedImageError

from segtune.errors import nearest

LINE_WIDTH = 10  # pixels, as in LabelMe
POINT_RADIUS = 5  # pixels, as in LabelMe
# How many points a shape has: the smallest and the largest number.
NUM_POINTS = {
    "polygon": (3, math.inf),
    "oriented_rectangle": (4, 4),
    "rectangle": (2, 2),
    "circle": (2, 2),
    "line": (2, 2),
    "linestrip": (2, math.inf),
    "point": (1, 1),
    "points": (1, math.inf),
    "mask": (2, 2),
}
# Larger coordinates are a mistake. Pillow cannot draw all of them.
MAX_COORDINATE = 1e6

Points = Sequence[tuple[float, float]]


class ShapeError(ValueError):
    """A shape is not readable; the text says which one and why."""


class Shape(NamedTuple):
    """One shape of an annotation. `group_id` does not matter: a mask has classes, not objects."""

    label: str
    kind: str
    points: list[tuple[float, float]]
    mask: np.ndarray | None  # bool [h, w], only for the kind `mask`


def parse_shapes(shapes: Any) -> list[Shape]:
    """Read the list `shapes` of a LabelMe file. Raises ShapeError."""
    if not isinstance(shapes, list):
        raise ShapeError("`shapes` is no list")
    return [_parse(shape, number) for number, shape in enumerate(shapes, 1)]


def _parse(shape: Any, number: int) -> Shape:
    place = f"shape {number}"
    if not isinstance(shape, Mapping) or not isinstance(shape.get("label"), str):
        raise ShapeError(f"{place} has no label")
    place = f"shape {number} ({shape['label']!r})"
    kind = shape.get("shape_type") or "polygon"  # early versions of LabelMe had only polygons
    if kind not in NUM_POINTS:
        near = nearest(str(kind), NUM_POINTS)
        raise ShapeError(
            f"{place}: shape_type {kind!r} is not known{near}; allowed are {', '.join(NUM_POINTS)}"
        )
    points = _points(shape.get("points"), place)
    least, most = NUM_POINTS[kind]
    if not least <= len(points) <= most:
        expected = f"{least}" if least == most else f"{least} or more"
        raise ShapeError(f"{place}: a {kind} of {len(points)} points; expected {expected}")
    return Shape(shape["label"], kind, points, _mask(shape, place) if kind == "mask" else None)


def _points(points: Any, place: str) -> list[tuple[float, float]]:
    try:
        pairs = [(float(x), float(y)) for x, y in points]
    except (TypeError, ValueError):
        raise ShapeError(f"{place}: `points` is no list of [x, y]") from None
    if not all(abs(value) <= MAX_COORDINATE for pair in pairs for value in pair):
        raise ShapeError(f"{place}: a coordinate is no number, or far outside of any image")
    return pairs


def _mask(shape: Mapping[str, Any], place: str) -> np.ndarray:
    try:
        data = base64.b64decode(shape.get("mask") or "", validate=True)
        with Image.open(io.BytesIO(data)) as image:
            values = np.asarray(image)
    except (
        *(TypeError, ValueError, binascii.Error, OSError, SyntaxError),
        *(UnidentifiedImageError, Image.DecompressionBombError),
    ):
        raise ShapeError(f"{place}: `mask` is no PNG in base64") from None
    if values.ndim != 2:
        raise ShapeError(f"{place}: `mask` has {values.ndim} dimensions; expected 2")
    return values != 0


def draw(shapes: Sequence[Shape], size: tuple[int, int], values: Mapping[str, int]) -> np.ndarray:
    """Return the labels uint8 [H, W] of an image of `size` (W, H); 0 where no shape is.

    `values` are the labels by name, and have every name of `shapes`.
    """
    labels = Image.new("L", size)
    for shape in shapes:
        value = values[shape.label]
        if shape.mask is not None:
            _paste(labels, shape.mask, shape.points, value)
        else:
            _outline(ImageDraw.Draw(labels), shape.kind, shape.points, value)
    return np.array(labels)


def _outline(canvas: ImageDraw.ImageDraw, kind: str, points: Points, value: int) -> None:
    match kind:
        case "circle":
            (x, y), edge = points
            _disc(canvas, x, y, math.dist((x, y), edge), value)
        case "rectangle":
            (x0, y0), (x1, y1) = points
            corners = ((min(x0, x1), min(y0, y1)), (max(x0, x1), max(y0, y1)))
            canvas.rectangle(corners, fill=value, outline=value)
        case "line" | "linestrip":
            joint = "curve" if kind == "linestrip" else None
            canvas.line(list(points), fill=value, width=LINE_WIDTH, joint=joint)
        case "point" | "points":
            for x, y in points:
                _disc(canvas, x, y, POINT_RADIUS, value)
        case _:
            canvas.polygon(list(points), fill=value, outline=value)


def _disc(canvas: ImageDraw.ImageDraw, x: float, y: float, radius: float, value: int) -> None:
    box = ((x - radius, y - radius), (x + radius, y + radius))
    canvas.ellipse(box, fill=value, outline=value)


def _paste(labels: Image.Image, mask: np.ndarray, points: Points, value: int) -> None:
    """Set the pixels of a mask, of which the first point is the upper left corner.

    Whole coordinates bound the mask, both corners included; with others it has its own size.
    """
    (x0, y0), (x1, y1) = ((round(x), round(y)) for x, y in points)
    if all(value.is_integer() for point in points for value in point):
        mask = mask[: max(0, y1 - y0 + 1), : max(0, x1 - x0 + 1)]
    if mask.size:
        labels.paste(value, (x0, y0), Image.fromarray(mask))
