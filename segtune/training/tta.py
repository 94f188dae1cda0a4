"""Test-time augmentation: which windows, flips and scales of an image a model sees.

Returns logits of each copy of an image. `evaluation.predict_labels` averages them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from segtune.config.schema import ExperimentConfig
from segtune.errors import ConfigError
from segtune.training.windows import MIN_SIDE, Model, Windows, windowed_logits

# Logits of sliding windows that exist at a time: 1 GB in float32. Two classes of eight images of
# 2048 x 512 pixels are 17 million values, and 150 classes of one image are 157 million.
PIXEL_VALUES = 1 << 28


@dataclass(frozen=True)
class AugmentedInference:
    """Which copies and windows of an image a model sees; by default, the whole image once."""

    windows: Windows | None = None
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        """Raise ConfigError that lists every value that is not possible."""
        problems = [f"--scales: {scale:g} is not above 0" for scale in self.scales if not scale > 0]
        if not self.scales:
            problems.append("--scales: at least one, for example 0.75,1.0,1.25")
        if problems:
            raise ConfigError(problems)

    @classmethod
    def of(
        cls, config: ExperimentConfig, *, flip: bool = False, scales: tuple[float, ...] = (1.0,)
    ) -> AugmentedInference:
        """Return the inference with the windows that `config.val` describes."""
        return cls(Windows.of(config), flip, scales)

    def images_at_once(self, num_images: int, num_classes: int, size: tuple[int, ...]) -> int:
        """Return how many of `num_images` images of (H, W) go through `logits` at once.

        Windows have a logit for every pixel and class, so large images go one by one.
        """
        if self.windows is None or self.windows.is_coarse:
            return num_images
        copies = sum(scale**2 for scale in self.scales) * (2 if self.flip else 1)
        values = int(num_classes * size[0] * size[1] * copies)
        return max(1, min(num_images, PIXEL_VALUES // max(1, values)))

    def logits(self, model: Model, images: Tensor) -> list[Tensor]:
        """Return the logits [B, C, h, w] of each augmented copy of normalised images [B, 3, H, W].

        The logits of flipped copies are flipped back. Their sizes differ with the scales.
        """
        logits = []
        for scale in self.scales:
            size = [max(1, round(side * scale)) for side in images.shape[-2:]]
            scaled = images
            if scale != 1:
                scaled = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
            logits.append(self._padded(model, scaled))
            if self.flip:
                logits.append(self._padded(model, scaled.flip(-1)).flip(-1))
        return logits

    def _padded(self, model: Model, images: Tensor) -> Tensor:
        """Return the logits of images that may be smaller than the encoders take.

        A smaller image is padded below and to the right. Its logits then have one value per pixel,
        because the border between the image and the padding may lie inside a patch of 4x4 pixels.
        """
        height, width = images.shape[-2:]
        if min(height, width) >= MIN_SIDE:
            return self._windowed(model, images)
        # With 0, which is ImageNet's mean after normalisation: training crops are padded with it.
        missing = (0, max(0, MIN_SIDE - width), 0, max(0, MIN_SIDE - height))
        padded = F.pad(images, missing)
        logits = self._windowed(model, padded).float()
        of_pixels = F.interpolate(
            logits, size=padded.shape[-2:], mode="bilinear", align_corners=False
        )
        return of_pixels[..., :height, :width]

    def _windowed(self, model: Model, images: Tensor) -> Tensor:
        """Return the logits of whole images or, if they have windows, the average of these."""
        return windowed_logits(model, images, self.windows) if self.windows else model(images)
