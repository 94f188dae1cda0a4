"""Resize an image and its mask, and crop them: only the part that the crop shows is resized."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from segtune.data.photometric import PhotometricDistortion

# A part of the source image can be resized alone if it begins at a source pixel that coincides with
# a pixel of the resized image. Such a pixel is searched at most this far before the crop (in pixels
# of the resized image), and may be misaligned by at most this much (in source pixels).
ALIGNMENT_REACH = 64
ALIGNMENT_TOLERANCE = 0.02


class CropWindow(NamedTuple):
    """A crop, in pixels of the resized image."""

    top: int
    left: int
    height: int
    width: int


def fit_scale(height: int, width: int, size: tuple[int, int]) -> float:
    """Return the largest factor at which an image fits into `size` (long side, short side).

    This is mmcv's `rescale_size`: it keeps the proportions.
    """
    return min(max(size) / max(height, width), min(size) / min(height, width))


def resize_to_fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return an image uint8 [H, W, 3], resized to fit into `size` (long side, short side)."""
    height, width = image.shape[:2]
    scale = fit_scale(height, width, size)
    if scale == 1:
        return image
    return cv2.resize(
        image, resized_shape(height, width, scale)[::-1], interpolation=cv2.INTER_LINEAR
    )


def resized_shape(height: int, width: int, scale: float) -> tuple[int, int]:
    """Return height and width of an image of `height` x `width` pixels, resized by `scale`."""
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize_and_crop(
    image: np.ndarray,
    mask: np.ndarray,
    window: CropWindow,
    scale: float,
    *,
    flip: bool,
    distortion: PhotometricDistortion,
) -> tuple[np.ndarray, np.ndarray]:
    """Resize image and mask by `scale`, crop them to `window`, distort the colours, and flip.

    Equals resizing the whole image first, but resizes only the part that the crop shows. Colours
    are distorted on the smaller side of the resize: before it if it enlarges, otherwise after it.
    A pixel has the same value both ways, except for rounding.
    """
    rows = _CropAxis.of(window.top, window.height, mask.shape[0], scale)
    columns = _CropAxis.of(window.left, window.width, mask.shape[1], scale)
    labels = mask.take(rows.nearest(), 0).take(columns.nearest(), 1)
    part = image[rows.part_start : rows.part_stop, columns.part_start : columns.part_stop]
    if scale > 1:
        crop = _resize(distortion.apply(part), rows, columns)
    else:
        crop = distortion.apply(_resize(part, rows, columns))
    return (cv2.flip(crop, 1), cv2.flip(labels, 1)) if flip else (crop, labels)


@dataclass(frozen=True)
class _CropAxis:
    """A crop along one axis, and the part of the source image that it is resized from.

    The centre of pixel i of the resized image lies at (i + 0.5) * step - 0.5 in the source image,
    as in cv2.resize.
    """

    start: int  # of the crop, in pixels of the resized image
    size: int  # of the crop, in pixels of the resized image
    step: float  # source pixels per pixel of the resized image
    source_size: int
    part_start: int  # the part of the source image that is resized
    part_stop: int
    margin: int  # pixels of the resized part before the crop
    misalignment: float  # of the resized part against the whole resized image, in source pixels

    @classmethod
    def of(cls, start: int, size: int, source_size: int, scale: float) -> _CropAxis:
        """Find the source pixel, a little before the crop, from which the part is resized.

        It is the source pixel whose edge is closest to an edge of a pixel of the resized image. If
        the two edges coincide, the resized part equals that of the whole resized image.
        """
        step = source_size / max(1, round(source_size * scale))
        reach = max(ALIGNMENT_REACH, math.ceil(4 / step))
        # At least two source pixels before the crop: the interpolation reads the neighbours.
        margins = np.arange(int(2 / step) + 1, reach) if start >= reach else np.array([start])
        edges = (start - margins) * step
        best = int(np.abs(edges - edges.round()).argmin())
        part_start = round(edges[best])
        margin = int(margins[best])
        part_stop = min(source_size, math.ceil(part_start + (margin + size) * step) + 2)
        misalignment = float(edges[best] - part_start)
        return cls(start, size, step, source_size, part_start, part_stop, margin, misalignment)

    def nearest(self) -> np.ndarray:
        """Return the index of the source pixel that contains each pixel of the crop."""
        centres = (self.start + np.arange(self.size) + 0.5) * self.step
        return centres.astype(np.intp).clip(0, self.source_size - 1)

    @property
    def is_aligned(self) -> bool:
        """Whether the part can be resized alone."""
        return abs(self.misalignment) < min(ALIGNMENT_TOLERANCE, self.step / 4)


def _resize(part: np.ndarray, rows: _CropAxis, columns: _CropAxis) -> np.ndarray:
    """Return the crop, resized from its part of the source image."""
    if rows.is_aligned and columns.is_aligned:
        resized = cv2.resize(
            part, None, fx=1 / columns.step, fy=1 / rows.step, interpolation=cv2.INTER_LINEAR
        )
        return resized[
            rows.margin : rows.margin + rows.size,
            columns.margin : columns.margin + columns.size,
        ]
    # warpAffine can begin anywhere in the source image, but takes three times as long.
    matrix = np.array(
        [
            [columns.step, 0.0, (columns.start + 0.5) * columns.step - 0.5 - columns.part_start],
            [0.0, rows.step, (rows.start + 0.5) * rows.step - 0.5 - rows.part_start],
        ]
    )
    flags = cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR
    return cv2.warpAffine(
        part, matrix, (columns.size, rows.size), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
