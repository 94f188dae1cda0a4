"""Photometric distortion: random brightness, contrast, saturation and hue, as look-up tables.

Brightness +-32 of 255, contrast and saturation 0.5 to 1.5, hue +-18 of OpenCV's 180 hue values,
each with probability 0.5. Contrast comes before or after saturation and hue. Source: Liu et al.
2016 (SSD), in mmsegmentation's order and rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

# ImageNet's mean colour, so that padding and holes are 0 after normalisation.
MEAN_COLOUR = (124, 116, 104)
# The look-up table that changes nothing.
IDENTITY = np.arange(256, dtype=np.uint8)


@dataclass(frozen=True)
class PhotometricDistortion:
    """One distortion. The defaults change nothing."""

    brightness: float = 0.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: int = 0
    contrast_first: bool = True

    @classmethod
    def draw(cls, rng: np.random.Generator) -> PhotometricDistortion:
        """Draw a random distortion; each part is enabled with probability 0.5."""
        brightness, contrast, saturation, hue = rng.uniform(
            (-32, 0.5, 0.5, -18), (32, 1.5, 1.5, 18)
        )
        enabled = rng.random(5) < 0.5
        return cls(
            brightness if enabled[0] else 0.0,
            contrast if enabled[1] else 1.0,
            saturation if enabled[2] else 1.0,
            int(hue) if enabled[3] else 0,
            bool(enabled[4]),
        )

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Return the distorted image uint8 [H, W, 3]; `image` itself if nothing changes."""
        # Brightness and contrast are affine in the pixel value, so both in a row are one table.
        before = _affine_table(1.0, self.brightness)
        after = IDENTITY
        if self.contrast_first:
            before = _affine_table(self.contrast, 0.0)[before]
        else:
            after = _affine_table(self.contrast, 0.0)
        image = _look_up(image, before)
        if self.saturation != 1 or self.hue:
            image = self._change_saturation_and_hue(image)
        return _look_up(image, after)

    def _change_saturation_and_hue(self, image: np.ndarray) -> np.ndarray:
        hue = ((np.arange(256) + self.hue) % 180).astype(np.uint8)
        table = np.stack([hue, _affine_table(self.saturation, 0.0), IDENTITY], 1)[None]
        hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), table)
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _affine_table(factor: float, offset: float) -> np.ndarray:
    return (np.arange(256) * factor + offset).clip(0, 255).astype(np.uint8)


def _look_up(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    return image if np.array_equal(table, IDENTITY) else cv2.LUT(image, table)
