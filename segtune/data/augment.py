"""Joint transforms of an image and its mask. The only importer of albumentations.

All random numbers come from the generator that the caller passes, so that a sample depends on
nothing but its seed.
"""

from __future__ import annotations

import os

import cv2
import numpy as np

# Otherwise each import of albumentations asks the network for a newer version of albumentations.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A

from segtune.config.augment_config import AugmentConfig, CutoutConfig
from segtune.config.data_config import DataConfig
from segtune.data.crop import CropWindow, fit_scale, resize_and_crop, resized_shape
from segtune.data.photometric import PhotometricDistortion

# ImageNet's mean colour, so that padding and holes are 0 after normalisation.
MEAN_COLOUR = (124, 116, 104)
CROP_TRIES = 10  # mmsegmentation's


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
        resized_height, resized_width = resized_shape(height, width, scale)
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
