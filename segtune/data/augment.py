"""Joint transforms of an image and its mask. The only importer of albumentations.

All random numbers come from the generator that the caller passes, so that a sample depends on
nothing but its seed.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

# Otherwise each import of albumentations asks the network for a newer version of albumentations.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A

from segtune.config.augment_config import AugmentConfig, CutoutConfig
from segtune.config.data_config import DataConfig
from segtune.data.photometric import PhotometricDistortion

# ImageNet's mean colour, so that padding and holes are 0 after normalisation.
MEAN_COLOUR = (124, 116, 104)
CROP_TRIES = 10  # mmsegmentation's
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
        image, _resized_shape(height, width, scale)[::-1], interpolation=cv2.INTER_LINEAR
    )


def _resized_shape(height: int, width: int, scale: float) -> tuple[int, int]:
    return max(1, round(height * scale)), max(1, round(width * scale))


class Augmentation:
    """Random resize, crop, flip, photometric distortion, cutout and padding of training samples.

    Order and meaning are mmsegmentation's: RandomResize, RandomCrop with cat_max_ratio, RandomFlip,
    PhotoMetricDistortion, RandomCutOut, pad.
    """

    def __init__(self, data: DataConfig, augment: AugmentConfig) -> None:
        self.data = data
        self.augment = augment
        self.after_crop = A.Compose([*_cutout(augment.cutout, data), _pad(data)])

    def __call__(
        self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return image uint8 [h, w, 3] and mask [h, w], both of the crop's size.

        `image` uint8 [H, W, 3] and `mask` uint8 or uint16 [H, W] may have any size, but
        the same one.
        """
        height, width = mask.shape
        scale = fit_scale(height, width, self.data.resize) * rng.uniform(*self.augment.ratio)
        window = self._choose_window(mask, scale, rng)
        distortion = PhotometricDistortion()
        if self.augment.photometric:
            distortion = PhotometricDistortion.draw(rng)
        flip = rng.random() < self.augment.flip
        image, mask = resize_and_crop(image, mask, window, scale, flip=flip, distortion=distortion)
        if not self.augment.cutout.prob and mask.shape == self.data.crop:
            return image, mask
        # Compose has random streams of its own. Without a seed per sample, forked loader processes
        # would all draw the same numbers.
        self.after_crop.set_random_seed(int(rng.integers(2**31)))
        result = self.after_crop(image=image, mask=mask)
        return result["image"], result["mask"]

    def _choose_window(
        self, mask: np.ndarray, scale: float, rng: np.random.Generator
    ) -> CropWindow:
        """Draw a crop; draw again, at most CROP_TRIES times, while one class covers too much."""
        window = self._draw_window(mask.shape[0], mask.shape[1], scale, rng)
        for _ in range(CROP_TRIES - 1):
            if self.augment.cat_max_ratio == 1 or self._is_varied(mask, window, scale):
                break
            window = self._draw_window(mask.shape[0], mask.shape[1], scale, rng)
        return window

    def _draw_window(
        self, height: int, width: int, scale: float, rng: np.random.Generator
    ) -> CropWindow:
        resized_height, resized_width = _resized_shape(height, width, scale)
        crop_height = min(self.data.crop[0], resized_height)
        crop_width = min(self.data.crop[1], resized_width)
        top = int(rng.integers(0, resized_height - crop_height + 1))
        left = int(rng.integers(0, resized_width - crop_width + 1))
        return CropWindow(top, left, crop_height, crop_width)

    def _is_varied(self, mask: np.ndarray, window: CropWindow, scale: float) -> bool:
        """Return whether a crop has two or more classes, none of which exceeds cat_max_ratio.

        Ignored pixels do not count.
        """
        top, left, height, width = (round(value / scale) for value in window)
        part = mask[top : top + max(1, height), left : left + max(1, width)]
        num_bins = np.iinfo(part.dtype).max + 1
        counts = cv2.calcHist([part], [0], None, [num_bins], [0, num_bins]).ravel()
        counts[self.data.ignore_index] = 0
        return bool(
            np.count_nonzero(counts) > 1
            and counts.max() < self.augment.cat_max_ratio * counts.sum()
        )


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


def _cutout(cutout: CutoutConfig, data: DataConfig) -> list[A.BasicTransform]:
    if not cutout.prob:
        return []
    return [
        A.CoarseDropout(
            num_holes_range=cutout.holes,
            hole_height_range=cutout.size,
            hole_width_range=cutout.size,
            fill=MEAN_COLOUR,
            fill_mask=data.ignore_index,
            p=cutout.prob,
        )
    ]


def _pad(data: DataConfig) -> A.BasicTransform:
    height, width = data.crop
    return A.PadIfNeeded(
        min_height=height,
        min_width=width,
        position="top_left",
        border_mode=cv2.BORDER_CONSTANT,
        fill=MEAN_COLOUR,
        fill_mask=data.ignore_index,
    )
