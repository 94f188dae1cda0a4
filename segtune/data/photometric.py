"""Photometric distortion: brightness, contrast, saturation and hue, as look-up tables.

Brightness +-32 of 255, contrast and saturation 0.5 to 1.5, hue +-18 degrees of 180, each with probability 0.5, contrast before
or after the other two. Source: Liu et al. 2016 (SSD), in mmsegmentation's order and rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

PLAIN = np.arange(256, dtype=np.uint8)


@dataclass(frozen=True)
class Colours:
    """One distortion; as it stands it changes nothing."""

    brightness: float = 0.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: int = 0
    contrast_first: bool = True

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Colours:
        """Draws a distortion: each part is there with probability 0.5."""
        brightness, contrast, saturation, hue = rng.uniform(
            (-32, 0.5, 0.5, -18), (32, 1.5, 1.5, 18)
        )
        there = rng.random(5) < 0.5
        return cls(
            brightness if there[0] else 0.0,
            contrast if there[1] else 1.0,
            saturation if there[2] else 1.0,
            int(hue) if there[3] else 0,
            bool(there[4]),
        )

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Returns image uint8 [H, W, 3] distorted; `image` itself where nothing is to be done."""
        # Brightness and contrast are affine in the pixel, and two tables in a row are one.
        before, after = _affine(1.0, self.brightness), PLAIN
        if self.contrast_first:
            before = _affine(self.contrast, 0.0)[before]
        else:
            after = _affine(self.contrast, 0.0)
        image = _look_up(image, before)
        if self.saturation != 1 or self.hue:
            hue = ((np.arange(256) + self.hue) % 180).astype(np.uint8)
            table = np.stack([hue, _affine(self.saturation, 0.0), PLAIN], 1)[None]
            image = cv2.cvtColor(
                cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), table), cv2.COLOR_HSV2RGB
            )
        return _look_up(image, after)


def _affine(alpha: float, beta: float) -> np.ndarray:
    return (np.arange(256) * alpha + beta).clip(0, 255).astype(np.uint8)


def _look_up(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    return image if np.array_equal(table, PLAIN) else cv2.LUT(image, table)
