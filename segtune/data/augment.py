"""Joint transforms of an image and its mask. The only importer of albumentations.

Everything random is drawn from the generator that is handed in, so that a sample depends on nothing but its seed.
"""

from __future__ import annotations

import os
from typing import Any

import cv2
import numpy as np

# Without this, albumentations asks the network for a newer version of itself at every import.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A

from segtune.config import AugmentConfig, CutoutConfig, DataConfig

# ImageNet's mean colour: what is padded or cut out is 0 after normalisation.
MEAN_COLOUR = (124, 116, 104)
CROP_TRIES = 10  # mmseg's


def fit_scale(height: int, width: int, size: tuple[int, int]) -> float:
    """Returns the factor that fits an image into (long side, short side), keeping its proportions (mmcv's `rescale`)."""
    return min(max(size) / max(height, width), min(size) / min(height, width))


def resize_to_fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns an image uint8 [H, W, 3] scaled to fit into (long side, short side)."""
    height, width = image.shape[:2]
    scale = fit_scale(height, width, size)
    if scale == 1:
        return image
    return cv2.resize(image, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_LINEAR)


class Augmentation:
    """RandomResize, RandomCrop with cat_max_ratio, flip, photometric distortion, CutOut, pad: mmseg's order and meaning."""

    def __init__(self, data: DataConfig, augment: AugmentConfig) -> None:
        self.data, self.augment = data, augment
        self.after_crop = A.Compose(_flip(augment) + _photometric(augment) + _cutout(augment.cutout, data) + [_pad(data)])

    def __call__(self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Returns image uint8 [h, w, 3] and mask uint8 [h, w] of the crop's size for any image and mask of one size."""
        height, width = mask.shape
        scale = fit_scale(height, width, self.data.resize) * rng.uniform(*self.augment.ratio)
        window = self._window(mask, scale, rng)
        image, mask = _cut(image, mask, window, scale)
        # Compose draws from streams of its own: without a seed per sample, forked loaders would all draw the same.
        self.after_crop.set_random_seed(int(rng.integers(2**31)))
        result = self.after_crop(image=image, mask=mask)
        return result["image"], result["mask"]

    def _window(self, mask: np.ndarray, scale: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Draws top, left, height and width of the crop, in pixels of the resized image."""
        window = self._draw_window(mask.shape[0], mask.shape[1], scale, rng)
        for _ in range(CROP_TRIES - 1):
            if self.augment.cat_max_ratio == 1 or self._is_varied(mask, window, scale):
                break
            window = self._draw_window(mask.shape[0], mask.shape[1], scale, rng)
        return window

    def _draw_window(self, height: int, width: int, scale: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
        full = (max(1, round(height * scale)), max(1, round(width * scale)))
        size = [min(c, f) for c, f in zip(self.data.crop, full, strict=True)]
        top, left = (int(rng.integers(0, f - s + 1)) for f, s in zip(full, size, strict=True))
        return top, left, size[0], size[1]

    def _is_varied(self, mask: np.ndarray, window: tuple[int, int, int, int], scale: float) -> bool:
        """Whether a crop has more than one class and none that covers more than cat_max_ratio, ignored pixels apart."""
        top, left, height, width = (round(v / scale) for v in window)
        counts = np.bincount(mask[top : top + max(1, height), left : left + max(1, width)].ravel(), minlength=256)
        counts[self.data.ignore_index] = 0
        return bool(np.count_nonzero(counts) > 1 and counts.max() < self.augment.cat_max_ratio * counts.sum())


def _cut(image: np.ndarray, mask: np.ndarray, window: tuple[int, int, int, int], scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the window of the resized image, by resizing only what the window shows (with a margin for the filter)."""
    top, left, height, width = window
    full = (max(1, round(mask.shape[0] * scale)), max(1, round(mask.shape[1] * scale)))
    margin = 2 + int(2 / scale)
    y0, y1 = max(0, int(top / scale) - margin), min(mask.shape[0], int((top + height) / scale) + margin + 1)
    x0, x1 = max(0, int(left / scale) - margin), min(mask.shape[1], int((left + width) / scale) + margin + 1)
    # The same mapping as cv2.resize of the whole image, moved to the window: pixel centres at (x + 0.5) * step - 0.5.
    step_y, step_x = mask.shape[0] / full[0], mask.shape[1] / full[1]
    matrix = np.array([[step_x, 0, (left + 0.5) * step_x - 0.5 - x0], [0, step_y, (top + 0.5) * step_y - 0.5 - y0]], np.float64)
    flags = cv2.WARP_INVERSE_MAP
    part = cv2.warpAffine(image[y0:y1, x0:x1], matrix, (width, height), flags=flags | cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    labels = cv2.warpAffine(mask[y0:y1, x0:x1], matrix, (width, height), flags=flags | cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    return part, labels


def _flip(augment: AugmentConfig) -> list[Any]:
    return [A.HorizontalFlip(p=augment.flip)] if augment.flip else []


class PhotometricDistortion(A.ImageOnlyTransform):
    """Brightness, contrast, saturation and hue, each with probability 0.5, contrast before or after the other two.

    Brightness +-32 of 255, contrast and saturation 0.5 to 1.5, hue +-18 degrees of 180. Source: Liu et al. 2016 (SSD), in
    mmsegmentation's order.
    """

    def apply(self, img: np.ndarray, **params: float | bool) -> np.ndarray:
        """Distorts image uint8 [H, W, 3] with what `get_params` drew."""
        # Brightness and contrast are affine in the pixel: one look-up table each, rounded and clipped as uint8 as in mmseg.
        image = _affine(img, 1.0, float(params["brightness"]))
        if params["contrast_first"]:
            image = _affine(image, float(params["contrast"]), 0.0)
        if params["saturation"] != 1 or params["hue"]:
            hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
            hue = ((np.arange(256) + int(params["hue"])) % 180).astype(np.uint8)
            saturation = (np.arange(256) * float(params["saturation"])).clip(0, 255).astype(np.uint8)
            table = np.stack([hue, saturation, np.arange(256, dtype=np.uint8)], 1)[None]
            image = cv2.cvtColor(cv2.LUT(hsv, table), cv2.COLOR_HSV2RGB)
        return image if params["contrast_first"] else _affine(image, float(params["contrast"]), 0.0)

    def get_params(self) -> dict[str, float | bool]:
        """Draws one distortion; 1, 0 and 0 degrees leave the image as it is."""
        draw = self.py_random

        def perhaps(low: float, high: float, neutral: float) -> float:
            return draw.uniform(low, high) if draw.random() < 0.5 else neutral

        return {
            "brightness": perhaps(-32, 32, 0.0),
            "contrast": perhaps(0.5, 1.5, 1.0),
            "saturation": perhaps(0.5, 1.5, 1.0),
            "hue": perhaps(-18, 18, 0.0),
            "contrast_first": draw.random() < 0.5,
        }


def _affine(image: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    if alpha == 1 and beta == 0:
        return image
    return cv2.LUT(image, (np.arange(256) * alpha + beta).clip(0, 255).astype(np.uint8))


def _photometric(augment: AugmentConfig) -> list[Any]:
    return [PhotometricDistortion(p=1.0)] if augment.photometric else []


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
    image: np.ndarray, mask: np.ndarray, other: tuple[np.ndarray, np.ndarray], rng: np.random.Generator
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
