"""Mixing of two augmented training samples: CutMix and MixUp."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from segtune.config.augment_config import MixConfig


class TrainSample(NamedTuple):
    """Image uint8 [h, w, 3] and mask [h, w]. If two images are blended, also the second's mask."""

    image: np.ndarray
    mask: np.ndarray
    second_mask: np.ndarray | None = None
    first_share: float = 1.0  # of the first image in the blend, in 0..1


def mix(
    first: TrainSample, second: TrainSample, config: MixConfig, rng: np.random.Generator
) -> TrainSample:
    """Return the sample that `config.kind`, cutmix or mixup, makes of two of the same size.

    The arguments are not changed. The share of the first image, or of the area that the second one
    covers, is drawn from Beta(alpha, alpha).
    """
    # With alpha 1 the distribution is uniform.
    share = rng.uniform() if config.alpha == 1 else rng.beta(config.alpha, config.alpha)
    if config.kind == "cutmix":
        return _cutmix(first, second, share, rng)
    return _mixup(first, second, share)


def _cutmix(
    first: TrainSample, second: TrainSample, area: float, rng: np.random.Generator
) -> TrainSample:
    """Paste a rectangle with this share of the area, with its labels.

    Source: Yun et al. 2019; for dense labels French et al. 2020.
    """
    height, width = first.mask.shape
    h = max(1, int(height * np.sqrt(area)))
    w = max(1, int(width * np.sqrt(area)))
    top = int(rng.integers(0, height - h + 1))
    left = int(rng.integers(0, width - w + 1))
    rectangle = (slice(top, top + h), slice(left, left + w))
    image, mask = first.image.copy(), first.mask.copy()
    image[rectangle] = second.image[rectangle]
    mask[rectangle] = second.mask[rectangle]
    return TrainSample(image, mask)


def _mixup(first: TrainSample, second: TrainSample, share: float) -> TrainSample:
    """Blend the images; pixel values are rounded to the nearest. Source: Zhang et al. 2018."""
    image = cv2.addWeighted(first.image, share, second.image, 1 - share, 0.0)
    return TrainSample(image, first.mask, second.mask, share)
