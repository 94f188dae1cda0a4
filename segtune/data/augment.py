"""Joint transforms of an image and its mask.

All random numbers come from the generator that the caller passes, so that a sample depends on
nothing but its seed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

# Otherwise each import of albumentations asks the network for a newer version of albumentations.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A

from segtune.config.augment_config import AugmentConfig, CutoutConfig
from segtune.config.data_config import DataConfig
from segtune.config.transforms import build_transform, misfit
from segtune.data.crop import CropWindow, fit_scale, resize_and_crop, resized_shape
from segtune.data.erasing import erased
from segtune.data.photometric import MEAN_COLOUR, PhotometricDistortion
from segtune.data.rotation import draw_angle, rotated
from segtune.errors import ConfigError

CROP_TRIES = 10  # mmsegmentation's


class Augmentation:
    """The random changes of one training sample; `mixing.py` mixes two of them.

    Order and meaning are mmsegmentation's: RandomResize or RandomChoiceResize, RandomCrop with
    cat_max_ratio, RandomFlip, PhotoMetricDistortion, RandomRotate, RandomCutOut, pad; RandomErasing
    follows the holes, and the user's transforms of albumentations come last.
    """

    def __init__(self, data: DataConfig, augment: AugmentConfig) -> None:
        """Raise ConfigError if a transform in `augment.extra` does not fit the crop's size."""
        self.data = data
        self.augment = augment
        self.cutout = _cutout(augment.cutout, data) if augment.cutout.prob else None
        self.extra = _extra(augment.extra, data) if augment.extra else None

    def __call__(
        self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return image uint8 [h, w, 3] and mask [h, w], both of the crop's size.

        `image` uint8 [H, W, 3] and `mask` uint8 or uint16 [H, W] may have any size, but
        the same one.
        """
        height, width = mask.shape
        scale = fit_scale(height, width, self.data.resize) * self._draw_factor(rng)
        window = self._choose_window(mask, scale, rng)
        distortion = PhotometricDistortion()
        if self.augment.photometric:
            distortion = PhotometricDistortion.draw(rng)
        flip = rng.random() < self.augment.flip
        image, mask = resize_and_crop(image, mask, window, scale, flip=flip, distortion=distortion)
        image, mask = self._cover_and_pad(image, mask, rng)
        if self.extra is None:
            return image, mask
        return _apply(self.extra, image, mask, rng)

    def _draw_factor(self, rng: np.random.Generator) -> float:
        if self.augment.scales is None:
            return rng.uniform(*self.augment.ratio)
        return self.augment.scales[rng.integers(len(self.augment.scales))]

    def _cover_and_pad(
        self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rotate, cut holes, erase a rectangle, and pad to the size of the crop."""
        if self.augment.rotate.prob:
            angle = draw_angle(self.augment.rotate, rng)
            image, mask = rotated(image, mask, angle, self.data.ignore_index)
        if self.cutout is not None:
            image, mask = _apply(self.cutout, image, mask, rng)
        if self.augment.erase.prob:
            image, mask = erased(image, mask, self.augment.erase, self.data.ignore_index, rng)
        if mask.shape != self.data.crop:
            image, mask = padded(image, mask, self.data)
        return image, mask

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


def _cutout(cutout: CutoutConfig, data: DataConfig) -> A.Compose:
    holes = A.CoarseDropout(
        num_holes_range=cutout.holes,
        hole_height_range=cutout.size,
        hole_width_range=cutout.size,
        fill=MEAN_COLOUR,
        fill_mask=data.ignore_index,
        p=cutout.prob,
    )
    return A.Compose([holes])


def _extra(specs: Sequence[Mapping[str, Any]], data: DataConfig) -> A.Compose:
    """Return the user's transforms. Raise ConfigError for those that change the crop's size."""
    transforms = [build_transform(spec, MEAN_COLOUR, data.ignore_index) for spec in specs]
    problems = []
    for index, (transform, spec) in enumerate(zip(transforms, specs, strict=True)):
        if problem := misfit(transform, spec, data.crop, data.ignore_index):
            problems.append(f"augment.extra.{index}.name: {problem}")
    if problems:
        raise ConfigError(problems)
    return A.Compose([*transforms])


def _apply(
    transforms: A.Compose, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    # Compose has random streams of its own. Without a seed per sample, forked loader processes
    # would all draw the same numbers.
    transforms.set_random_seed(int(rng.integers(2**31)))
    result = transforms(image=image, mask=mask)
    return result["image"], result["mask"]


def padded(image: np.ndarray, mask: np.ndarray, data: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return image and mask of the size `data.crop`, padded on the right and at the bottom.

    The padding has the mean colour and ignore_index.
    """
    bottom, right = data.crop[0] - mask.shape[0], data.crop[1] - mask.shape[1]
    sides = (0, bottom, 0, right, cv2.BORDER_CONSTANT)
    return (
        cv2.copyMakeBorder(image, *sides, value=MEAN_COLOUR),
        cv2.copyMakeBorder(mask, *sides, value=(data.ignore_index,)),
    )
