"""Joint transforms of an image and its mask. The only importer of albumentations.

Everything random is drawn from the generator that is handed in, so that a sample depends on nothing but its seed.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

# Without this, albumentations asks the network for a newer version of itself at every import.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A

from segtune.config.schema import AugmentConfig, CutoutConfig, DataConfig
from segtune.data.photometric import Colours

# ImageNet's mean colour: what is padded or cut out is 0 after normalisation.
MEAN_COLOUR = (124, 116, 104)
CROP_TRIES = 10  # mmseg's
# How far before a window a place is looked for from which it can be resized by itself, in pixels of the resized image; and by how
# much that place may lie beside a pixel of the source.
SEARCHED, MISSED = 64, 0.02


def fit_scale(height: int, width: int, size: tuple[int, int]) -> float:
    """Returns the factor that fits an image into (long side, short side), keeping its proportions (mmcv's `rescale`)."""
    return min(max(size) / max(height, width), min(size) / min(height, width))


def resize_to_fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns an image uint8 [H, W, 3] scaled to fit into (long side, short side)."""
    height, width = image.shape[:2]
    scale = fit_scale(height, width, size)
    if scale == 1:
        return image
    return cv2.resize(
        image,
        (max(1, round(width * scale)), max(1, round(height * scale))),
        interpolation=cv2.INTER_LINEAR,
    )


class Augmentation:
    """RandomResize, RandomCrop with cat_max_ratio, flip, photometric distortion, CutOut, pad: mmseg's order and meaning."""

    def __init__(self, data: DataConfig, augment: AugmentConfig) -> None:
        self.data, self.augment = data, augment
        self.after_crop = A.Compose([*_cutout(augment.cutout, data), _pad(data)])

    def __call__(
        self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns image uint8 [h, w, 3] and mask uint8 [h, w] of the crop's size for any image and mask of one size."""
        height, width = mask.shape
        scale = fit_scale(height, width, self.data.resize) * rng.uniform(*self.augment.ratio)
        window = self._window(mask, scale, rng)
        colours = Colours.draw(rng) if self.augment.photometric else Colours()
        image, mask = _cut(image, mask, window, scale, rng.random() < self.augment.flip, colours)
        if not self.augment.cutout.prob and mask.shape == self.data.crop:
            return image, mask
        # Compose draws from streams of its own: without a seed per sample, forked loaders would all draw the same.
        self.after_crop.set_random_seed(int(rng.integers(2**31)))
        result = self.after_crop(image=image, mask=mask)
        return result["image"], result["mask"]

    def _window(
        self, mask: np.ndarray, scale: float, rng: np.random.Generator
    ) -> tuple[int, int, int, int]:
        """Draws top, left, height and width of the crop, in pixels of the resized image."""
        window = self._draw_window(mask.shape[0], mask.shape[1], scale, rng)
        for _ in range(CROP_TRIES - 1):
            if self.augment.cat_max_ratio == 1 or self._is_varied(mask, window, scale):
                break
            window = self._draw_window(mask.shape[0], mask.shape[1], scale, rng)
        return window

    def _draw_window(
        self, height: int, width: int, scale: float, rng: np.random.Generator
    ) -> tuple[int, int, int, int]:
        full = (max(1, round(height * scale)), max(1, round(width * scale)))
        size = [min(c, f) for c, f in zip(self.data.crop, full, strict=True)]
        top, left = (int(rng.integers(0, f - s + 1)) for f, s in zip(full, size, strict=True))
        return top, left, size[0], size[1]

    def _is_varied(self, mask: np.ndarray, window: tuple[int, int, int, int], scale: float) -> bool:
        """Whether a crop has more than one class and none that covers more than cat_max_ratio, ignored pixels apart."""
        top, left, height, width = (round(v / scale) for v in window)
        part = mask[top : top + max(1, height), left : left + max(1, width)]
        counts = cv2.calcHist([part], [0], None, [256], [0, 256]).ravel()
        counts[self.data.ignore_index] = 0
        return bool(
            np.count_nonzero(counts) > 1
            and counts.max() < self.augment.cat_max_ratio * counts.sum()
        )


def _cut(
    image: np.ndarray,
    mask: np.ndarray,
    window: tuple[int, int, int, int],
    scale: float,
    flipped: bool,
    colours: Colours,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the window of the resized image, flipped from left to right and its colours distorted where that is asked for.

    Only what the window shows is resized. Colours change on the smaller side of the resize: before it or after it, a pixel
    comes to the same but for rounding.
    """
    rows, columns = (
        _Span.of(start, size, full / max(1, round(full * scale)), full)
        for start, size, full in zip(window[:2], window[2:], mask.shape, strict=True)
    )
    labels = mask.take(rows.nearest(), 0).take(columns.nearest(), 1)
    part = image[rows.first : rows.stop, columns.first : columns.stop]
    seen = _resize(colours.apply(part) if scale > 1 else part, rows, columns)
    seen = seen if scale > 1 else colours.apply(seen)
    return (cv2.flip(seen, 1), cv2.flip(labels, 1)) if flipped else (seen, labels)


@dataclass(frozen=True)
class _Span:
    """A window along one axis: pixel i of the resized image lies at (i + 0.5) * step - 0.5 in the source, as in cv2.resize."""

    start: int  # of the window, in pixels of the resized image
    size: int
    step: float
    full: int  # pixels of the source
    first: int  # of the source that is looked at
    stop: int
    skip: int  # pixels of the resized part before the window
    miss: (
        float  # by how much the resized part lies beside the resized image, in pixels of the source
    )

    @classmethod
    def of(cls, start: int, size: int, step: float, full: int) -> _Span:
        """Looks for a source pixel, not far before the window, at which a pixel of the resized image begins, too.

        Resized from there on, the part equals that of the whole image.
        """
        reach = max(SEARCHED, math.ceil(4 / step))
        skips = np.arange(int(2 / step) + 1, reach) if start >= reach else np.array([start])
        begins = (start - skips) * step
        best = int(np.abs(begins - begins.round()).argmin())
        first, skip = round(begins[best]), int(skips[best])
        stop = min(full, math.ceil(first + (skip + size) * step) + 2)
        return cls(start, size, step, full, first, stop, skip, float(begins[best] - first))

    def nearest(self) -> np.ndarray:
        """Returns the source pixel that each pixel of the window lies in."""
        return (
            ((self.start + np.arange(self.size) + 0.5) * self.step)
            .astype(np.intp)
            .clip(0, self.full - 1)
        )


def _resize(part: np.ndarray, rows: _Span, columns: _Span) -> np.ndarray:
    """Returns the window out of the source's part that its spans name."""
    if all(abs(span.miss) < min(MISSED, span.step / 4) for span in (rows, columns)):
        whole = cv2.resize(
            part, None, fx=1 / columns.step, fy=1 / rows.step, interpolation=cv2.INTER_LINEAR
        )
        return whole[rows.skip : rows.skip + rows.size, columns.skip : columns.skip + columns.size]
    # Any place in the source, but three times slower.
    matrix = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    for axis, span in ((0, columns), (1, rows)):
        matrix[axis, axis], matrix[axis, 2] = (
            span.step,
            (span.start + 0.5) * span.step - 0.5 - span.first,
        )
    flags = cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR
    return cv2.warpAffine(
        part, matrix, (columns.size, rows.size), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )


def _cutout(cutout: CutoutConfig, data: DataConfig) -> list[Any]:
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


def cutmix(
    image: np.ndarray,
    mask: np.ndarray,
    other: tuple[np.ndarray, np.ndarray],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns image and mask with a rectangle of another sample of the same size in it.

    The rectangle's share of the area is uniform in 0..1. Source: Yun et al. 2019; for dense labels French et al. 2020.
    """
    height, width = mask.shape
    share = np.sqrt(rng.uniform())
    h, w = max(1, int(height * share)), max(1, int(width * share))
    top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
    image, mask = image.copy(), mask.copy()
    image[top : top + h, left : left + w] = other[0][top : top + h, left : left + w]
    mask[top : top + h, left : left + w] = other[1][top : top + h, left : left + w]
    return image, mask
